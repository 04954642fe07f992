"""How good the packaged checkpoints are: their experts, and the average, on what was held out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...model import bounded
from ..crossvalidation import held_out, judge
from ..held import of_synthetic, with_appeal
from ..recipe import DataSource
from ..rows import open_data
from ..splits import Split
from .checkpoint import MIDDLE, STRETCHED
from .data import SOURCES
from .experts import BASE, DIMENSIONS, EXPERTS, KINDS, kept_out, recipe, shares


def validate(
    kind: str,
    data: tuple[DataSource, ...],
    work: Path,
    ratings: Path,
    folds: int,
    learn: Sequence[str],
    weights: str | None,
    by_generator: bool = False,
) -> None:
    """Cross-validate the experts and their average, learning from some of the three sources.

    With `weights` that are `tuned`, figures of photographs and synthetic pictures are of those that they have not
    learned from. Generated pictures they have not seen. With `by_generator` what is held out of generated pictures is
    not prompts but whole generators, of which then nothing is learned.
    """
    experts = EXPERTS[kind]
    if "synthetic" not in learn:  # nothing that these have before the others
        experts = {who: expert for who, expert in experts.items() if who not in ("ladders", "statistics")}
    if "generated" not in learn:
        experts = {who: expert for who, expert in experts.items() if who not in ("looks", "generated")}
    if list(learn) == ["synthetic"]:
        experts = {"ladders": experts["ladders"]}
    said = "+".join(learn)
    apart = "-tuned" * (weights is not None) + "-generators" * by_generator
    folder = work / "folds" / f"{KINDS[kind]}-{said}{apart}"
    judged = len(SOURCES) + (kind != "none")  # the last is synthetic pictures beside other references
    if by_generator:
        data = (data[0], replace(data[1], columns={"group": "generator"}), *data[2:])
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
