"""Every number of one model on one dimension, with intervals, as an `Evaluation`."""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .correlation import (
    Floats,
    Rows,
    krcc,
    ordered_alike,
    paired,
    pairwise_accuracy,
    plcc,
    rows_by_label,
    srcc,
)
from .logistic import fit_logistic, rmse

Labels = Sequence[Any] | NDArray[Any]
NAMES = {
    "srcc": "SRCC",
    "krcc": "KRCC",
    "plcc": "PLCC, raw",
    "plcc4": "PLCC, 4-parameter fit",
    "plcc5": "PLCC, 5-parameter fit",
    "rmse": "RMSE, raw",
    "rmse4": "RMSE, 4-parameter fit",
    "rmse5": "RMSE, 5-parameter fit",
    "pairwise": "pairwise accuracy",
}
INTERVALS = ("srcc", "krcc", "plcc", "rmse", "pairwise")  # a fit costs too much to repeat for each resample


@dataclass(frozen=True)
class Evaluation:
    """How scores agree with MOS; what cannot be told (too few rows, constant scores, no fit) is NaN.

    Args:
        n: number of rows.
        srcc: Spearman's rank correlation.
        krcc: Kendall's tau-b.
        plcc: Pearson's correlation of the raw scores.
        plcc4: after the 4-parameter logistic.
        plcc5: after the 5-parameter logistic.
        rmse: of the raw scores, in units of MOS.
        rmse4: after the 4-parameter logistic.
        rmse5: after the 5-parameter logistic.
        pairwise: share of all pairs with different MOS that are in the right order.
        intervals: 95 % bootstrap intervals of srcc, krcc, plcc, rmse and pairwise, not of the fitted ones.
        by_generator: n, srcc, krcc, plcc, rmse, pairwise by generator, and the means of score and MOS.
        generator_srcc: mean of the generators' SRCC, of those that have one.
        by_group: ``groups``, how many there are; ``ranked``, how many have an SRCC (3 rows or more, not
            constant); ``srcc``, the mean of these; ``pairwise``, the share of pairs within groups.
    """

    n: int
    srcc: float
    krcc: float
    plcc: float
    plcc4: float
    plcc5: float
    rmse: float
    rmse4: float
    rmse5: float
    pairwise: float
    intervals: dict[str, tuple[float, float]]
    by_generator: dict[str, dict[str, float]]
    generator_srcc: float
    by_group: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them: NaN as None, intervals as lists."""
        return jsonable(asdict(self))

    def table(self) -> str:
        """The numbers as plain text, for people."""
        lines = [f"{'rows':24}{self.n:>9}", f"{'':24}{'':>9}   95 % interval"]
        for key, name in NAMES.items():
            low, high = self.intervals.get(key, (math.nan, math.nan))
            interval = "" if math.isnan(low) else f"   {low:.4f} to {high:.4f}"
            lines.append(f"{name:24}{shown(getattr(self, key))}{interval}")
        g = self.by_group
        if g and not math.isnan(g["pairwise"]):  # groups of one picture each say nothing
            lines += ["", f"within {g['groups']:.0f} groups"]
            lines.append(f"{'SRCC, mean':24}{shown(g['srcc'])}   over {g['ranked']:.0f} groups")
            lines.append(f"{'pairwise accuracy':24}{shown(g['pairwise'])}")
        if self.by_generator:
            width = max(24, *(len(name) + 2 for name in self.by_generator))
            columns = ("n", "srcc", "krcc", "plcc", "rmse", "pairwise", "score", "mos")
            heads = ("rows", "SRCC", "KRCC", "PLCC", "RMSE", "pairwise", "score", "MOS")
            lines += ["", f"{'generator':{width}}" + "".join(f"{head:>9}" for head in heads)]
            for name, row in self.by_generator.items():
                cells = (f"{row[c]:9.0f}" if c == "n" else shown(row[c]) for c in columns)
                lines.append(f"{name:{width}}" + "".join(cells))
            lines.append(f"{'SRCC, mean':{width}}{'':9}{shown(self.generator_srcc)}")
        return "\n".join(line.rstrip() for line in lines)


def evaluate(
    scores: ArrayLike,
    mos: ArrayLike,
    groups: Labels | None = None,
    generators: Labels | None = None,
    bootstrap: int = 1000,
    seed: int = 1,
) -> Evaluation:
    """Evaluate scores against MOS.

    The intervals are 95 % percentile bootstrap. Where there are groups, whole groups are drawn, since
    pictures of one prompt are not independent. Resamples in which a number is undefined are left out of
    its interval; of a single group, or a single row, there is no telling, and the intervals are NaN.

    Args:
        scores: (N,), finite, N at least 1; on MOS' scale for `rmse` to mean something.
        mos: (N,), finite.
        groups: one label per row, of what was made from one prompt.
        generators: one label per row, of the model that made the picture.
        bootstrap: number of resamples; 0 for no intervals. 1,000 of 1,600 rows take two or three seconds.
        seed: of the resamples.

    Raises:
        InputError: for no rows, different lengths, values that are not finite, missing labels.

    Examples:
        >>> result = evaluate([1, 2, 3, 4, 5, 6], [1.2, 1.1, 2.5, 3.5, 4.4, 4.0], bootstrap=100)
        >>> round(result.srcc, 4), sorted(result.intervals)
        (0.8857, ['krcc', 'pairwise', 'plcc', 'rmse', 'srcc'])
    """
    x, y = paired(scores, mos)
    if not len(x):
        raise InputError("there is nothing to evaluate: no scores were given")
    by_group = {} if groups is None else rows_by_label(groups, len(x), "groups")
    by_generator = {} if generators is None else rows_by_label(generators, len(x), "generators")
    summaries = {name: _summary(x[rows], y[rows]) for name, rows in by_generator.items()}
    fitted: dict[str, float] = {}
    for parameters in (4, 5):
        curve = fit_logistic(x, y, parameters)
        fitted[f"plcc{parameters}"] = math.nan if curve is None else plcc(curve(x), y)
        fitted[f"rmse{parameters}"] = math.nan if curve is None else rmse(curve(x), y)
    return Evaluation(
        n=len(x),
        **_raw(x, y),
        **fitted,
        intervals=_intervals(x, y, list(by_group.values()) if by_group else None, bootstrap, seed),
        by_generator=summaries,
        generator_srcc=_mean([summary["srcc"] for summary in summaries.values()]),
        by_group={} if groups is None else _within(x, y, groups, list(by_group.values())),
    )


def _raw(x: Floats, y: Floats) -> dict[str, float]:
    """What needs no fit, by the names in `INTERVALS`."""
    tau = krcc(x, y)
    alike, pairs = ordered_alike(x, y, None if math.isnan(tau) else tau)
    return {
        "srcc": srcc(x, y),
        "krcc": tau,
        "plcc": plcc(x, y),
        "rmse": rmse(x, y),
        "pairwise": alike / pairs if pairs else math.nan,
    }


def _summary(x: Floats, y: Floats) -> dict[str, float]:
    return {"n": float(len(x)), **_raw(x, y), "score": float(x.mean()), "mos": float(y.mean())}


def _within(x: Floats, y: Floats, labels: Labels, groups: list[Rows]) -> dict[str, float]:
    found = [value for rows in groups if not math.isnan(value := srcc(x[rows], y[rows]))]
    return {
        "groups": float(len(groups)),
        "ranked": float(len(found)),
        "srcc": _mean(found),
        "pairwise": pairwise_accuracy(x, y, labels),
    }


def _intervals(
    x: Floats, y: Floats, groups: list[Rows] | None, count: int, seed: int
) -> dict[str, tuple[float, float]]:
    draws = [_raw(x[rows], y[rows]) for rows in resamples(len(x), groups, count, seed)]
    if not draws:
        return {}
    if len(x if groups is None else groups) < 2:
        return dict.fromkeys(INTERVALS, (math.nan, math.nan))
    return {name: interval(np.array([draw[name] for draw in draws])) for name in INTERVALS}


def resamples(n: int, groups: list[Rows] | None, count: int, seed: int) -> Iterator[Rows]:
    """Rows drawn with replacement, `count` times; whole groups where there are groups.

    Args:
        n: number of rows.
        groups: the rows of each group, or None.
        count: number of resamples.
        seed: equal seeds draw equal rows.

    Raises:
        InputError: when `count` is not a whole number of at least 0.
    """
    try:
        count = operator.index(count)
    except TypeError:
        count = -1
    if count < 0:
        raise InputError("bootstrap must be a whole number of resamples, at least 0")
    rng = np.random.default_rng(seed)
    for _ in range(count):
        if groups is None:
            yield rng.integers(n, size=n)
        else:
            yield np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])


def interval(values: Floats) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the resamples' values, without those that are NaN."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def shown(value: float) -> str:
    return f"{'-':>9}" if math.isnan(value) else f"{value:9.4f}"


def jsonable(value: Any) -> Any:
    """`value` with NaN as None and tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
