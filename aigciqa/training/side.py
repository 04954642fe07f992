"""What a run makes of its test side in the end: figures, and the predictions that they are of."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .evaluation import evaluate
from .feed import Scores
from .files import write_whole
from .recipe import Recipe
from .rows import Ints, Rows
from .scale import rescaled, scale_facts, scale_said

PREDICTIONS = "predictions.csv"


def evaluate_side(
    recipe: Recipe, rows: Rows, side: Ints, scores: Scores, bootstrap: int, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Compare scores with labels, on the scale of each data set's labels.

    Args:
        recipe: of the run.
        rows: the table.
        side: (N,) rows of the test side.
        scores: (N, D), on the recipe's scale.
        bootstrap: resamples for the intervals; 0 for none.
        report: called with each table for the user.

    Returns:
        By data set and dimension, the figures of ``evaluation.json``.
    """
    labels, generators = rows.labels[side], np.array(rows.generators)[side]
    found: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(rows.names):
        for column, dimension in enumerate(recipe.dimensions):
            here = (rows.sets[side] == index) & ~np.isnan(labels[:, column])
            if not here.any():
                continue
            scale, observed = rows.scales[index][dimension], rows.observed[index]
            mine, theirs = (
                rescaled(values[here, column], recipe.score_range, scale) for values in (scores, labels)
            )
            one = evaluate(
                mine, theirs,
                groups=[str(g) for g in rows.groups[side][here]], generators=list(generators[here]),
                bootstrap=bootstrap,
            )  # fmt: skip
            found.setdefault(name, {})[dimension] = one.to_dict() | scale_facts(scale, observed)
            report(
                f"\n{name}, {dimension}, test side (select={recipe.select}), on the labels' scale of "
                f"{scale_said(scale, observed)}:\n{one.table()}"
            )
    return found


def each_epoch(side: str, dimension: str) -> tuple[str, str]:
    """The names in ``metrics.jsonl`` of an epoch's SRCC and raw PLCC on a side."""
    return f"{side}_srcc_{dimension}", f"{side}_plcc_{dimension}"


def best_of_each(
    recipe: Recipe, history: Sequence[dict[str, Any]], report: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """What the papers' authors report: the highest SRCC and the highest PLCC of any epoch on the test side.

    The two may be of different epochs, and both are chosen on the rows that they are reported on, so they are higher
    than the figures of any single checkpoint.

    Args:
        recipe: of the run.
        history: a dict for each epoch, as in ``metrics.jsonl``.
        report: called with a line for each dimension.

    Returns:
        ``{"best_of_each": {dimension: {srcc, srcc_epoch, plcc, plcc_epoch}}}``; empty unless epochs were tested
        (``select: test``).
    """
    if recipe.select != "test":
        return {}
    best: dict[str, dict[str, float]] = {}
    for dimension in recipe.dimensions:
        found: dict[str, float] = {}
        for key, name in zip(each_epoch("test", dimension), ("srcc", "plcc"), strict=True):
            if values := [(h[key], h["epoch"]) for h in history if not math.isnan(h.get(key, math.nan))]:
                found[name], found[f"{name}_epoch"] = max(values, key=lambda value: value[0])
        if len(found) == 4:
            best[dimension] = found
            each = ", ".join(
                f"{n.upper()} {found[n]:.4f} (epoch {found[f'{n}_epoch']})" for n in ("srcc", "plcc")
            )
            report(f"{dimension}, best of each as the papers report: {each}; no single epoch need reach both")
    return {"best_of_each": best}


def write_predictions(path: Path, recipe: Recipe, rows: Rows, side: Ints, scores: Scores) -> None:
    """Write of every row of the test side number in its data set, picture, reference (if it is seen), score and label.

    The latter two are on the recipe's scale, which is that of the metric's scores.
    """
    starts = np.searchsorted(rows.sets, np.arange(len(rows.names)))
    table = pd.DataFrame({"set": rows.sets[side], "row": side - starts[rows.sets[side]]})
    for name, numbers in (("picture", rows.pictures[side]), ("reference", rows.references[side])):
        table[name] = ["" if number < 0 else str(rows.paths[number]) for number in numbers]
    for column, dimension in enumerate(recipe.dimensions):
        table[f"{dimension}_score"] = scores[:, column]
        table[f"{dimension}_label"] = rows.labels[side, column]
    write_whole(path, table.to_csv(index=False))
