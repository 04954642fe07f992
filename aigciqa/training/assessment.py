"""What `aigciqa evaluate` does: any metric, or somebody else's scores, against the labels of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import PAPER_BACKBONES, MetricConfig
from ..errors import InputError
from ..metric import Metric
from ..stamp import config_digest
from .comparison import beside_paper, compare
from .correlation import Floats
from .data import RatedSet
from .evaluation import evaluate, jsonable
from .external import match_scores, read_scores
from .ladders import Ladders
from .plots import plot_evaluation
from .progress import Progress
from .splits import load_split
from .tables import TABLES


@dataclass(frozen=True)
class Assessment:
    """What came out.

    Args:
        figures: by dimension, as `Evaluation.to_dict` gives them, for JSON.
        text: the same for people.
        of: name, checksum and revision of the metric, or the file of scores.
    """

    figures: dict[str, dict[str, Any]]
    text: str
    of: dict[str, str | None]


def open_side(rated: RatedSet, metric: str, split: str | None, side: str) -> tuple[RatedSet, str]:
    """The rows to evaluate on: a side of a split, by default of the split that the metric's own run saved.

    Returns:
        These rows, and a sentence that says which they are.

    Raises:
        InputError: when the split is not of this data set.
    """
    if split is None:
        own = sorted(Path(metric).glob(f"splits/*-{rated.name}.csv"))
        if not own:
            return rated, f"{rated.name}: all {len(rated)} rows"
        split = str(own[0])
    rows = getattr(load_split(Path(split), rated), side)
    if not rows:
        raise InputError(f"{split}: the {side} side is empty")
    return rated.subset(rows), f"{rated.name}: the {len(rows)} rows of the {side} side of {split}"


def assess(
    metric: str,
    rated: RatedSet,
    *,
    dimensions: Sequence[str] = (),
    compare_with: str | None = None,
    beside: bool = False,
    plots: str | None = None,
    device: str | None = None,
) -> Assessment:
    """Evaluate on every labelled dimension, or on those given.

    A metric's score on a dimension that it does not predict is its first one's. Scores are put on the
    labels' scale where both the checkpoint and the data set declare theirs.

    Args:
        metric: a name, checkpoint folder or Hub repository, or a file of scores.
        rated: the data set.
        dimensions: of its labels; all when empty.
        compare_with: another metric or file of scores, to test the difference from.
        beside: add the papers' row; the metric must be one of the papers' models.
        plots: folder for plots, one folder in it for each dimension.
        device: for the metric.

    Raises:
        InputError: for missing labels, references or scores.
    """
    for name in dimensions:
        if name not in rated.labels:
            raise InputError(f"{rated.name} has no labels for {name!r}; it has {', '.join(rated.labels)}")
    config, scores = _scores(metric, rated, device)
    other = _scores(compare_with, rated, device)[1] if compare_with else None
    figures: dict[str, dict[str, Any]] = {}
    text = []
    for name in dimensions or rated.labels:
        mos = rated.labels[name]
        there = np.flatnonzero(~np.isnan(mos))
        mine = _on(scores, name)[there]
        groups, generators = ([column[i] for i in there] for column in (rated.groups, rated.generators))
        found = evaluate(mine, mos[there], groups=groups, generators=generators if any(generators) else None)
        figures[name] = found.to_dict()
        text.append(f"\n{name}\n{found.table()}")
        if any(rated.ladders):
            ladders = Ladders.of(rated.subset(there.tolist()), mine, name)
            figures[name]["ladders"] = jsonable(ladders.to_dict())
            text.append(f"\n{ladders.table()}")
        if other is not None:
            difference = compare(mine, _on(other, name)[there], mos[there], groups=groups)
            figures[name]["compared"] = difference.to_dict()
            text.append(f"\nagainst {compare_with}\n{difference.table()}")
        if beside:
            text.append("\n" + beside_paper(found, *_paper_row(config), name))
        if plots:
            written = plot_evaluation(
                mine, mos[there], Path(plots) / name, generators=generators, dimension=name,
                score_range=rated.score_range,
            )  # fmt: skip
            text += [str(path) for path in written]
    of: dict[str, str | None] = {"scores": metric}
    if config is not None:
        of = {"metric": config.name, "sha256": config.sha256, "revision": config.revision}
        of["config"] = config_digest(config)
    return Assessment(figures, "\n".join(text), of)


def _paper_row(config: MetricConfig | None) -> tuple[str, str]:
    for name, choice in PAPER_BACKBONES.items():
        if config is not None and choice["backbone"] == config.backbone:
            return config.mode, name
    raise InputError(
        "--compare-paper needs a checkpoint on one of the papers' backbones "
        f"({', '.join(PAPER_BACKBONES)})"
        + (f", not {config.backbone}" if config else ", not a file of scores")
    )


def _on(scores: dict[str, Floats], dimension: str) -> Floats:
    return scores.get(dimension, next(iter(scores.values())))


def _scores(
    source: str, rated: RatedSet, device: str | None
) -> tuple[MetricConfig | None, dict[str, Floats]]:
    """By dimension, a score for each row."""
    if Path(source).suffix.lower() in (*TABLES, ".jsonl") and Path(source).is_file():
        return None, {"": match_scores(read_scores(Path(source)), rated.pictures)}
    metric = Metric(source, device=device)
    without = sum(reference is None for reference in rated.references)
    if metric.metric_mode == "FR" and without:
        raise InputError(f"{source} needs references, and {without} of {len(rated)} rows have none")
    parts = []
    with Progress(metric.metric_name, len(rated)) as progress:
        for start in range(0, len(rated), 64):
            rows = slice(start, start + 64)
            references = None if metric.metric_mode == "NR" else list(rated.references[rows])
            parts.append(metric.predict(list(rated.pictures[rows]), references))
            progress.done(len(parts[-1][metric.dimension]))
    found = {name: np.concatenate([part[name].cpu().double().numpy() for part in parts]) for name in parts[0]}
    if not rated.range_is_observed:  # else RMSE would compare two scales
        (low, high), (to_low, to_high) = metric.score_range, rated.score_range
        found = {k: (v - low) / (high - low) * (to_high - to_low) + to_low for k, v in found.items()}
    return metric.config, found
