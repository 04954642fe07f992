"""Labels computed for degraded pictures; nobody rated them, so they are called pseudo-labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..errors import InputError
from ..writing import write_whole
from .degradations import STRUCTURAL
from .structural import Pixels

MEASURES = ("fsim", "haarpsi", "gmsd", "mdsi", "vif_p")
PRISTINE, QUALITY_SPAN = 4.5, 3.7  # on the 0-5 scale: people rarely give the extremes
CONTENT = STRUCTURAL | {"latent_swap"}  # kinds that damage the content; the last is of autoencoder.py
CORRESPONDENCE_SPAN = {True: 1.5, False: 0.5}  # whether the content is damaged
LEVEL_SHARE = {True: 0.5, False: 0.25}  # of the level in a severity; measures see less of damaged content
STEP = 0.2  # that severity rises by at least from level to level, divided by their number
UNRELATED = 0.5  # correspondence with a reference of another scene
OTHER_SHARE = 1 / 3  # of the pictures have such a reference too

Floats = np.ndarray[Any, np.dtype[np.float64]]


def require_piq() -> None:
    """Raises InputError when piq is missing."""
    if find_spec("piq") is None:
        raise InputError(
            "the measures need piq: pip install 'aigciqa[synthesize]', or pass --no-measures (measures=False) "
            "for labels that depend on the level only"
        )


def damage(pristine: Pixels, degraded: Sequence[Pixels]) -> dict[str, list[float]]:
    """How much full-reference measures find a picture damaged, at half its resolution.

    Args:
        pristine: (H, W, 3).
        degraded: pictures of the same size.

    Returns:
        By measure a value for each picture, more for worse; measures are not comparable with each other.

    Source: FSIM, HaarPSI, GMSD, MDSI and VIF as piq has them.
    """
    import piq
    import torch

    stacked = torch.from_numpy(np.stack([pristine, *degraded])).permute(0, 3, 1, 2) / 255
    halves = torch.nn.functional.avg_pool2d(stacked, 2)
    made, reference = halves[1:], halves[:1].expand(len(degraded), -1, -1, -1).contiguous()
    found = {}
    for name in MEASURES:
        measure: Callable[..., torch.Tensor] = getattr(piq, name)
        values = measure(made, reference, reduction="none").double()
        # 1 is "the same"; VIF may exceed it, for halos as for more contrast
        values = values if name in ("gmsd", "mdsi") else (1 - values).abs()
        found[name] = [float(f"{value:.6g}") for value in values.tolist()]
    return found


def severities(
    ladders: Sequence[Mapping[str, Sequence[float]]], levels: int, content: Sequence[bool]
) -> Floats:
    """How bad each picture of each ladder is, in (0, 1.2], rising in every ladder.

    A part of it is the level (`LEVEL_SHARE`), and the rest the mean over measures of the rank of the picture's damage
    among all pictures.

    Args:
        ladders: of each, what `damage` found; empty for the level only.
        levels: of every ladder.
        content: of each ladder, whether its kind damages the content.

    Returns:
        (ladders, levels).

    Examples:
        >>> severities([{"gmsd": [0.1, 0.3]}, {"gmsd": [0.2, 0.4]}], 2, [False, True])
        array([[0.3125, 0.8125],
               [0.5   , 1.    ]])
    """
    bad = np.tile(np.arange(1, levels + 1) / levels, (len(ladders), 1))
    if any(ladders):
        ranks = [
            rankdata([ladder[name] for ladder in ladders], axis=None, nan_policy="omit") / bad.size
            for name in ladders[0]
        ]
        share = np.array([[LEVEL_SHARE[damaged]] for damaged in content])
        bad = share * bad + (1 - share) * np.nanmean(ranks, axis=0).reshape(bad.shape)
    for level in range(1, levels):
        bad[:, level] = np.maximum(bad[:, level], bad[:, level - 1] + STEP / levels)
    return bad


def write_manifest(out: Path, photographs: Sequence[Mapping[str, Any]], levels: int, seed: int) -> Path:
    """Write ``manifest.csv``: a row for each picture and reference, with labels on the 0-5 scale.

    Quality is 4.5 for a pristine crop and goes down to 0.8 with its severity (see `severities`). Correspondence
    with a reference of the same scene goes from 4.5 down to 3 for kinds that damage the content, and to 4 for
    others; with a reference of another scene it is 0.5.

    Args:
        out: the data set's folder.
        photographs: what was made of each, with one crop or more.
        levels: of every ladder.
        seed: decides which third of the pictures have a reference of another photograph, and which.
    """
    ladders = [ladder for photo in photographs for crop in photo["crops"] for ladder in crop["ladders"]]
    content = [ladder["kind"] in CONTENT for ladder in ladders]
    bad = iter(severities([ladder["damage"] for ladder in ladders], levels, content))
    rows: list[dict[str, Any]] = []
    for number, photo in enumerate(photographs):
        rng = np.random.default_rng([seed, int(photo["id"], 16)])
        others = [crop["pristine"] for crop in photographs[(number + 1) % len(photographs)]["crops"]]
        for crop in photo["crops"]:
            for row, severity in _pictures(photo, crop, bad):
                references = {"aligned": crop["pristine"], "reframed": crop["reframed"]}
                wanted, which = rng.random(2)
                if wanted < OTHER_SHARE and len(photographs) > 1:
                    references["other"] = others[int(which * len(others))]
                span = CORRESPONDENCE_SPAN[row["generator"] in CONTENT]
                rows += [
                    row
                    | {"reference": reference, "relation": relation}
                    | {"quality": PRISTINE - QUALITY_SPAN * severity}
                    | {"correspondence": UNRELATED if relation == "other" else PRISTINE - span * severity}
                    for relation, reference in references.items()
                ]
    columns = [
        "picture", "reference", "group", "generator", "relation", "ladder", "level", "quality", "correspondence"
    ]  # fmt: skip
    file = out / "manifest.csv"
    write_whole(file, pd.DataFrame(rows)[columns].round(4).to_csv(index=False, lineterminator="\n"))
    return file


def _pictures(
    photo: Mapping[str, Any], crop: Mapping[str, Any], bad: Iterator[Floats]
) -> Iterator[tuple[dict[str, Any], float]]:
    """Rows of a crop's pictures without reference and labels, each with its severity."""
    known = {"group": photo["photograph"], "generator": "pristine", "ladder": "", "level": 0}
    yield known | {"picture": crop["pristine"]}, 0.0
    for ladder in crop["ladders"]:
        kind, first = ladder["kind"], Path(ladder["pictures"][0])
        id = f"{photo['id']}-{first.name[:2]}-{kind}"
        for level, (name, severity) in enumerate(zip(ladder["pictures"], next(bad), strict=True), 1):
            yield known | {"picture": name, "generator": kind, "ladder": id, "level": level}, float(severity)
