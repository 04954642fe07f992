"""What `aigciqa evaluate` does: any metric, or somebody else's scores, against the labels of a data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import MetricConfig
from ..errors import InputError
from ..metric import Metric
from ..progress import Progress
from ..stamp import config_digest
from .comparison import compare
from .correlation import Floats
from .data import RatedSet, outside
from .evaluation import evaluate, jsonable
from .external import match_scores, read_results, read_scores
from .ladders import Ladders
from .paper import Result, paper_table, row_of
from .plots import plot_evaluation
from .scale import rescaled, scale_facts, scale_said
from .seen import HELD, LEARNED, Seen, seen
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


def open_side(
    rated: RatedSet, metric: str, split: str | None, side: str | None = None, compare_with: str | None = None
) -> tuple[RatedSet, str]:
    """The rows to evaluate on.

    Without a split these are the rows that the metric's run has not learned from: of a data set that it split, the test
    side. With another metric to compare with, rows that either of the two learned from are left out, whatever split
    and side are given; rows that chose the epoch count as learned from.

    Args:
        rated: the data set.
        metric: as for `assess`.
        split: a saved split of `rated`; None for what the metric's run saved.
        side: ``"train"`` or ``"test"``; None for the test side.
        compare_with: as for `assess`.

    Returns:
        These rows, and a few lines that say which they are, why others were left out, and what is not known.

    Raises:
        InputError: when the split is not of this data set, or no row is left.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> mos = {"quality": np.array([3.5, 4.5])}
        >>> files = [Path("gen.png"), Path("ref.png")]
        >>> rated = RatedSet("pair", files, [None, None], mos, ["a", "b"], ["", ""], None, (0, 5), ["", ""])
        >>> print(open_side(rated, "nr-aigciqa", None)[1])
        pair: all 2 rows
          nr-aigciqa has no saved splits: what it learned from is not known
    """
    mine = seen(metric, rated)
    other = seen(compare_with, rated) if compare_with else Seen("")
    learned, test = set(mine.rows(LEARNED)), mine.rows(HELD)
    if split is not None:
        rows = list(getattr(load_split(Path(split), rated), side or HELD))
        said = f"{rated.name}: the {{}} rows of the {side or HELD} side of {split}"
    elif not mine.sides:
        if side is not None:
            raise InputError(
                f"--side {side}: {metric} has saved no split of {rated.name}; pass one with --split"
            )
        rows, said = list(range(len(rated))), f"{rated.name}: all {{}} rows"
    else:
        new = [] if side else [row for row in range(len(rated)) if row not in mine.sides]
        rows = sorted(learned if side == LEARNED else {*test, *new})
        of = ", ".join(map(str, mine.files)) or metric
        said = f"{rated.name}: the {{}} rows of the {side or HELD} side of {of}"
        if new:
            said = f"{rated.name}: {{}} rows, {len(new)} of them in no split of {metric}"
            said += f" and {len(test)} of the test side of {of}" if test else ""
    wanted, left_out = len(rows), []
    for one in (mine, other) if compare_with else ():
        theirs = set(one.rows(LEARNED)).intersection(rows)
        rows = [row for row in rows if row not in theirs]
        left_out += [f"left out: {len(theirs)} rows that {one.metric} learned from"] if theirs else []
    notes = [*mine.notes, *other.notes]
    if fit := learned.intersection(rows):
        notes.append(
            f"{metric} learned from {len(fit)} of these rows, so its figures are those of its fit to them"
        )
    if not rows:
        raise InputError(
            f"{rated.name}: no row is left to evaluate on, of {len(rated)}"
            + (f" ({'; '.join(left_out)})" if left_out else f": {metric} learned from all of them")
            + "; evaluate on ratings that neither was trained on, train again with --test above 0, or give both runs "
            "the same split (--split RUN/splits)"
        )
    count = f"{len(rows)} (of {wanted})" if left_out else str(len(rows))
    lines = [said.replace("{}", count), *left_out, *notes]
    if rated.range_is_observed and (scale := mine.scale or other.scale):  # a part may not reach its ends
        rated = replace(rated, score_range=scale)
    return rated.subset(rows), "\n  ".join(dict.fromkeys(lines))


def assess(
    metric: str,
    rated: RatedSet,
    *,
    dimensions: Sequence[str] = (),
    compare_with: str | None = None,
    beside: bool = False,
    plots: str | None = None,
    device: str | None = None,
    picture_column: str | None = None,
    score_column: str | None = None,
) -> Assessment:
    """Evaluate on every labelled dimension, or on those given.

    A metric's score on a dimension that it does not predict is its first one's. A metric's scores are put on the
    scale of the labels, which is where they were seen to lie if nobody said more; figures and text say which it is.
    Scores of a file are compared as they are.

    Args:
        metric: a name, checkpoint folder or Hub repository, or a file of scores.
        rated: the data set.
        dimensions: of its labels; all when empty.
        compare_with: another metric or file of scores, to test the difference from.
        beside: add the paper's table of PKU-I2IQA, with this metric's row in it.
        plots: folder for plots, one folder in it for each dimension.
        device: for the metric.
        picture_column: of the files of scores; None to find it, as with `score_column`.
        score_column: of the files of scores.

    Raises:
        InputError: for missing labels, references or scores, and for labels outside the scale that was given.
    """
    for name in dimensions:
        if name not in rated.labels:
            raise InputError(f"{rated.name} has no labels for {name!r}; it has {', '.join(rated.labels)}")
    for name in dimensions or rated.labels:
        if not rated.range_is_observed and (wrong := outside(rated, name)):
            raise InputError(
                f"{rated.name}: {wrong}; pass the scale that the labels are on with --range LOW,HIGH"
            )
    how = (device, picture_column, score_column)
    config, scores = _scores(metric, rated, *how)
    others, other = _scores(compare_with, rated, *how) if compare_with else (None, None)
    figures: dict[str, dict[str, Any]] = {}
    text = [f"RMSE is on the labels' scale of {scale_said(rated.score_range, rated.range_is_observed)}"]
    for name in [name for name in dimensions or rated.labels if name in rated.ranges]:
        text.append(
            f"RMSE of {name} is on the scale of {scale_said(rated.range_of(name), rated.range_is_observed)}"
        )
    if config is None:
        text.append(f"RMSE compares the scores of {metric} as they are, for their scale is not known")
    for name in dimensions or rated.labels:
        mos = rated.labels[name]
        there = np.flatnonzero(~np.isnan(mos))
        mine = _on(scores, name, rated, config)[there]
        groups, generators = ([column[i] for i in there] for column in (rated.groups, rated.generators))
        found = evaluate(mine, mos[there], groups=groups, generators=generators if any(generators) else None)
        figures[name] = found.to_dict() | scale_facts(rated.range_of(name), rated.range_is_observed)
        text.append(f"\n{name}\n{found.table()}")
        if any(rated.ladders):
            ladders = Ladders.of(rated.subset(there.tolist()), mine, name)
            figures[name]["ladders"] = jsonable(ladders.to_dict())
            text.append(f"\n{ladders.table()}")
        if other is not None:
            difference = compare(mine, _on(other, name, rated, others)[there], mos[there], groups=groups)
            figures[name]["compared"] = difference.to_dict()
            text.append(f"\nagainst {compare_with}\n{difference.table()}")
        if plots:
            written = plot_evaluation(
                mine, mos[there], Path(plots) / name, generators=generators, dimension=name,
                score_range=rated.range_of(name),
            )  # fmt: skip
            text += [str(path) for path in written]
    if beside:
        text.append("\n" + paper_table([_result(metric, config, scores, figures)], rated.name))
    of: dict[str, str | None] = {"scores": metric}
    if config is not None:
        of = {"metric": config.name, "sha256": config.sha256, "revision": config.revision}
        of["config"] = config_digest(config)
    return Assessment(figures, "\n".join(text), of)


def _result(
    metric: str, config: MetricConfig | None, scores: dict[str, Floats], figures: dict[str, dict[str, Any]]
) -> Result:
    """The figures of the dimensions that a metric or a file has scores for, for the papers' table."""
    method, backbone = ("", "") if config is None else row_of(config)
    own = {d: of for d, of in figures.items() if d in scores or "" in scores}
    shown = {
        d: tuple(math.nan if of[k] is None else of[k] for k in ("srcc", "plcc")) for d, of in own.items()
    }
    name = "this run" if config is not None else Path(metric).name
    return Result(name, method, backbone, shown)  # type: ignore[arg-type]  # two numbers each


def _on(scores: dict[str, Floats], dimension: str, rated: RatedSet, config: MetricConfig | None) -> Floats:
    """Scores for a dimension; a metric's are on the scale of its labels, a file's as they are."""
    found = scores.get(dimension, next(iter(scores.values())))
    return found if config is None else rescaled(found, config.score_range, rated.range_of(dimension))


def _scores(
    source: str, rated: RatedSet, device: str | None, picture_column: str | None, score_column: str | None
) -> tuple[MetricConfig | None, dict[str, Floats]]:
    """By dimension, a score for each row."""
    if Path(source).suffix.lower() in (*TABLES, ".jsonl") and Path(source).is_file():
        named = picture_column or score_column
        if not named and (ours := read_results(Path(source))):
            return None, {name: match_scores(scores, rated.pictures) for name, scores in ours[0].items()}
        theirs = read_scores(Path(source), picture_column, score_column)
        return None, {"": match_scores(theirs, rated.pictures)}
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
    return metric.config, found
