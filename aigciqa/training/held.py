"""Figures of the packaged checkpoints that are asked of more than a data set's own labels."""

from pathlib import Path

import numpy as np
import pandas as pd

from .data import load
from .evaluation import evaluate
from .ladders import Ladders


def with_appeal(predicted: pd.DataFrame, ratings: Path) -> str:
    """Quality scores of the AVT pictures beside their appeal, which no checkpoint predicts.

    Args:
        predicted: of ``generated.csv``, with ``row`` and ``quality_score``.
        ratings: ``ratings.csv`` of the AVT pictures, in the same order.
    """
    rated = pd.read_csv(ratings).iloc[predicted["row"]]
    found = evaluate(
        predicted["quality_score"].to_numpy(),
        rated["appeal"].to_numpy(float),
        rated["prompt_id"].astype(str).tolist(),
        rated["generator"].tolist(),
    )
    return f"generated, quality score with appeal:\n{found.table()}"


def of_synthetic(predicted: pd.DataFrame, manifest: Path) -> str:
    """Ladders by kind of reference, and mean quality by level beside the crop itself.

    Args:
        predicted: of `manifest`, with ``row`` and ``quality_score``.
        manifest: that `aigciqa.training.synthesis.synthesize` wrote.
    """
    table = pd.read_csv(manifest, keep_default_na=False)
    scores = np.full(len(table), np.nan)
    scores[predicted["row"]] = predicted["quality_score"]
    rated = load(manifest, score_range=(0.0, 5.0))
    lines = []
    for relation, rows in table.groupby("relation").groups.items():
        ladders = Ladders.of(rated.subset(list(rows)), scores[rows], "quality")
        lines.append(
            f"reference {relation}: of {ladders.ladders} ladders monotone {ladders.monotone:.3f}, "
            f"pairwise {ladders.pairwise:.3f}"
        )
    aligned = table["relation"] == "aligned"
    levels = pd.Series(scores[aligned]).groupby(table["level"][aligned].to_numpy()).mean()
    return "\n".join([*lines, "mean quality by level: " + ", ".join(f"{level:.2f}" for level in levels)])
