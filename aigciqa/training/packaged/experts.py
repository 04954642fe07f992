"""The experts whose average a packaged checkpoint is, and the recipe that each is trained by."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..correlation import Floats
from ..data import RatedSet
from ..recipe import DataSource, Recipe
from ..rows import by_fold, open_data
from ..splits import Split
from ..tuning import tune
from .data import IMAGENET, SOURCES, source

KINDS = {"none": "nr", "full": "fr", "partial": "pr"}
DIMENSIONS = {  # beside a reference that is not unrelated, nobody said how authentic a picture is
    "none": ("quality", "authenticity"),
    "full": ("quality", "correspondence"),
    "partial": ("quality", "authenticity", "correspondence"),
}
EXTRA_ROWS = {"authentic": 32, "empty": 4, "compressed": 60, "natural": 128, "degraded": 160}  # in a batch
KEPT_OUT = 5  # of so many folds of photographs and synthetic pictures the first is kept from a tuned network
PER_BATCH = (64, 6, 160)  # rows of `SOURCES`; 160 are 32 ladders


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
        compressed: weight of synthetic pictures of `COMPRESSED` and pristine ones, by their pseudo-labels, and of rated
            photographs, as they are and degraded so.
        natural: weight of photographs and synthetic pictures by BRISQUE's pseudo-label.
        degraded: weight of rated photographs, as they are and degraded.
        statistics_only: see `Recipe`.
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
    natural: float = 0.0
    degraded: float = 0.0
    statistics_only: bool = False
    quality_as: dict[str, float] = field(default_factory=dict)


LOOKS = Expert({"authenticity": 0.5}, (0.0, 5.0, 0.0), 2, 16, per_batch=(1, 2, 1), authentic=0.03, empty=0.0)
EXPERTS = {
    "none": {
        # an expert that has hardly fitted the generated pictures ranks those of a generator, known or new, better
        "people": Expert({"quality": 0.31}, (1.0, 4.0, 0.0), 3, 48, compressed=1.0),
        "ladders": Expert(
            {"quality": 0.25},
            (1.0, 32.0, 0.1),
            4,
            48,
            {"mse": 1.0, "rank": 0.6},
            40,
            directions=1200,
            degraded=0.1,
            quality_as={"authenticity": 0.5},
        ),
        "generated": Expert({"quality": 0.24, "authenticity": 0.5}, (0.0, 32.0, 0.0), 3, 32, empty=0.0),
        "looks": LOOKS,
        # it has learned from no generated picture, so it errs no more where a generator is new
        "statistics": Expert(
            {"quality": 0.2},
            (0.0, 0.0, 0.0),
            1,
            32,
            epochs=24,
            per_batch=(1, 1, 1),
            directions=0,
            empty=0.0,  # whose statistics are so far from any other's that it would learn to tell little else
            natural=1.0,
            statistics_only=True,
            quality_as={"authenticity": 0.5},
        ),
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
        "people": Expert({"quality": 0.3, "authenticity": 0.5}, (1.0, 32.0, 0.0), 3, 32),
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
        ("authentic", f"authentic{beside}", expert.authentic, {"photographs"}),
        ("empty", f"empty{beside}", expert.empty, {"synthetic"}),
        ("compressed", "synthetic/compressed", expert.compressed, {"synthetic"}),
        ("natural", "natural", expert.natural, {"synthetic"}),
        ("degraded", "degraded/aligned", expert.degraded, {"photographs", "synthetic"}),
        ("compressed", "degraded/compressed", expert.compressed, {"photographs", "synthetic"}),
    ):
        if weight and of <= set(learn):
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
        statistics_only=expert.statistics_only,
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
