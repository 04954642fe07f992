"""Figures of the packaged checkpoints that are asked of more than a data set's own labels."""

from collections.abc import Sequence
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


def of_synthetic(predicted: Sequence[tuple[pd.DataFrame, Path]]) -> str:
    """Ladders by kind of reference, mean quality by level beside the crop itself, and mean correspondence by reference.

    Args:
        predicted: of each manifest of one synthetic set, ``row``, ``quality_score`` and, where it is predicted,
            ``correspondence_score``; and the manifest, as `aigciqa.training.synthesis.synthesize` writes it.
    """
    lines, tables = [], []
    for scored, manifest in predicted:
        table = pd.read_csv(manifest, keep_default_na=False).iloc[scored["row"]].reset_index(drop=True)
        scores = scored["quality_score"].to_numpy()
        rated = load(manifest, score_range=(0.0, 5.0)).subset(list(scored["row"]))
        for relation, rows in table.groupby("relation").groups.items():
            ladders = Ladders.of(rated.subset(list(rows)), scores[rows], "quality")
            lines.append(
                f"reference {relation}: of {ladders.ladders} ladders monotone {ladders.monotone:.3f}, "
                f"pairwise {ladders.pairwise:.3f}"
            )
        aligned = table["relation"] == "aligned"
        if aligned.any():
            levels = pd.Series(scores[aligned]).groupby(table["level"][aligned].to_numpy()).mean()
            lines.append("mean quality by level: " + ", ".join(f"{level:.2f}" for level in levels))
        if "correspondence_score" in scored:
            tables.append(table.assign(score=scored["correspondence_score"].to_numpy()))
    if tables:
        beside = pd.concat(tables).pivot(index="picture", columns="relation", values="score")
        means = ", ".join(f"{relation} {mean:.2f}" for relation, mean in beside.mean().items())
        lines.append(f"mean correspondence by reference: {means}")
        if "other" in beside:
            wrong = beside["other"].dropna()
            falls = np.concatenate([beside[right][wrong.index] > wrong for right in ("aligned", "reframed")])
            lines.append(
                f"correspondence falls with a wrong reference in {falls.mean():.3f} of {len(falls)} cases"
            )
    return "\n".join(lines)
