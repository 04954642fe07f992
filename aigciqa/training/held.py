"""Figures of the packaged checkpoints that are asked of more than a data set's own labels."""

from pathlib import Path

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
    """Ladders by kind of reference, mean quality by level beside the crop itself, and mean correspondence by reference.

    Args:
        predicted: of `manifest`, with ``row``, ``quality_score`` and, where it is predicted, ``correspondence_score``.
        manifest: that `aigciqa.training.synthesis.synthesize` wrote.
    """
    table = pd.read_csv(manifest, keep_default_na=False).iloc[predicted["row"]].reset_index(drop=True)
    scores = predicted["quality_score"].to_numpy()
    rated = load(manifest, score_range=(0.0, 5.0)).subset(list(predicted["row"]))
    lines = []
    for relation, rows in table.groupby("relation").groups.items():
        ladders = Ladders.of(rated.subset(list(rows)), scores[rows], "quality")
        lines.append(
            f"reference {relation}: of {ladders.ladders} ladders monotone {ladders.monotone:.3f}, "
            f"pairwise {ladders.pairwise:.3f}"
        )
    aligned = table["relation"] == "aligned"
    levels = pd.Series(scores[aligned]).groupby(table["level"][aligned].to_numpy()).mean()
    lines.append("mean quality by level: " + ", ".join(f"{level:.2f}" for level in levels))
    if "correspondence_score" in predicted:
        found = table.assign(score=predicted["correspondence_score"].to_numpy())
        beside = found.pivot(index="picture", columns="relation", values="score")
        means = ", ".join(f"{relation} {mean:.2f}" for relation, mean in beside.mean().items())
        lines.append(f"mean correspondence by reference: {means}")
    return "\n".join(lines)
