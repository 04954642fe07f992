"""What a run makes of its test side in the end: figures, and the predictions that they are of."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .correlation import plcc, srcc
from .evaluation import evaluate
from .feed import Scores
from .files import write_whole
from .recipe import Recipe
from .rows import Ints, Rows
from .scale import rescaled, scale_facts, scale_said

PREDICTIONS = "predictions.csv"


def correlations(dimensions: Sequence[str], scores: Scores, labels: Scores) -> dict[str, float]:
    """``srcc_DIMENSION`` and ``plcc_DIMENSION`` (raw) of scores and labels; NaN for fewer than 3 rows with a label.

    Args:
        dimensions: D names.
        scores: (N, D).
        labels: (N, D); NaN where there is none.
    """
    found = {}
    for column, name in enumerate(dimensions):
        there = ~np.isnan(labels[:, column])
        for kind, correlation in (("srcc", srcc), ("plcc", plcc)):
            found[f"{kind}_{name}"] = correlation(scores[there, column], labels[there, column])
    return found


def best_of_each(history: Sequence[dict[str, Any]], dimensions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the code of arXiv 2311.15556 reports: the highest SRCC and the highest PLCC of all epochs on the test side.

    Args:
        history: a dict for each epoch, as in ``metrics.jsonl``.
        dimensions: of the scores.

    Returns:
        By dimension ``srcc``, ``srcc_epoch``, ``plcc`` and ``plcc_epoch``, which may be two epochs; empty when the test
        side was not looked at in every epoch.

    Examples:
        >>> epochs = [{"epoch": e + 1, "test_srcc_quality": s, "test_plcc_quality": p}
        ...           for e, (s, p) in enumerate([(0.6, 0.5), (0.5, 0.7)])]
        >>> best_of_each(epochs, ["quality"])
        {'quality': {'srcc': 0.6, 'srcc_epoch': 1, 'plcc': 0.7, 'plcc_epoch': 2}}
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dimensions:
        best: dict[str, Any] = {}
        for kind in ("srcc", "plcc"):
            key = f"test_{kind}_{name}"
            known = [epoch for epoch in history if not math.isnan(epoch.get(key, math.nan))]
            if known:
                epoch = known[int(np.argmax([one[key] for one in known]))]
                best |= {kind: epoch[key], f"{kind}_epoch": epoch["epoch"]}
        if best:
            found[name] = best
    return found


def said_of_best(best: dict[str, dict[str, Any]]) -> str:
    """`best_of_each` for people."""
    lines = ["\nbest of each over all epochs, chosen on the test side, as the papers report it (optimistic):"]
    for name, of in best.items():
        figures = (f"{k.upper()} {of[k]:.4f} (epoch {of[f'{k}_epoch']})" for k in ("srcc", "plcc") if k in of)
        lines.append(f"{name}: {', '.join(figures)}")
    return "\n".join(lines)


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


def write_predictions(path: Path, recipe: Recipe, rows: Rows, side: Ints, scores: Scores) -> None:
    """Write of every row of the test side number in its data set, picture, reference (if it is seen), score and label.

    The latter two are on the recipe's scale, which is that of the metric's scores.
    """
    starts = np.searchsorted(rows.sets, np.arange(len(rows.names)))
    table = pd.DataFrame({"set": rows.sets[side], "row": side - starts[rows.sets[side]]})
    for role, numbers in (("picture", rows.pictures[side]), ("reference", rows.references[side])):
        table[role] = ["" if number < 0 else str(rows.paths[number]) for number in numbers]
    for column, dimension in enumerate(recipe.dimensions):
        table[f"{dimension}_score"] = scores[:, column]
        table[f"{dimension}_label"] = rows.labels[side, column]
    write_whole(path, table.to_csv(index=False))
