"""How well scores agree with MOS: the correlations, and the share of pairs in the right order.

Scores and MOS are 1-D, of one length, finite. Rows are never dropped: what is not finite is refused.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..errors import InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def paired(scores: ArrayLike, mos: ArrayLike) -> tuple[Floats, Floats]:
    """Scores and MOS as float64, checked.

    Args:
        scores: (N,), finite.
        mos: (N,), finite, in the same order.

    Raises:
        InputError: for another shape, different lengths, or a value that is not a finite number.

    Examples:
        >>> paired([1, 2, 3], [1.5, 2.5])
        Traceback (most recent call last):
        aigciqa.errors.InputError: 3 scores but 2 MOS; pass one of each per picture, in the same order
    """
    x, y = _finite(scores, "scores"), _finite(mos, "MOS")
    if len(x) != len(y):
        raise InputError(f"{len(x)} scores but {len(y)} MOS; pass one of each per picture, in the same order")
    return x, y


def _finite(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires grad
        raise InputError(f"{name} must be numbers: {error}") from None
    if array.ndim != 1:
        raise InputError(f"{name} must be of shape (N,), not {array.shape}")
    if (bad := np.flatnonzero(~np.isfinite(array))).size:
        shown = ", ".join(f"row {i}: {array[i]}" for i in bad[:5])
        raise InputError(
            f"{bad.size} of {len(array)} {name} are not finite ({shown}); remove or repair these rows"
        )
    return array


def rows_by_label(labels: Sequence[Any] | NDArray[Any], count: int, name: str) -> dict[str, Rows]:
    """Which rows carry which label, labels in order of appearance.

    Args:
        labels: one per row: text, numbers, anything with a distinct ``str``.
        count: how many rows there are.
        name: what the labels are, for messages.

    Raises:
        InputError: when there are more or fewer labels than rows, or a label is missing.

    Examples:
        >>> rows_by_label(["SD", "MJ", "SD"], 3, "generators")
        {'SD': array([0, 2]), 'MJ': array([1])}
    """
    if len(labels) != count:
        raise InputError(f"{len(labels)} {name} but {count} rows; pass one per row, in the same order")
    codes, names = pd.factorize(np.array([str(x) if pd.notna(x) else None for x in labels], dtype=object))
    if (missing := np.flatnonzero(codes < 0)).size:
        raise InputError(f"{name} are missing in {missing.size} rows, the first of them row {missing[0]}")
    rows = np.argsort(codes, kind="stable")
    parts = np.split(rows, np.cumsum(np.bincount(codes, minlength=1))[:-1])
    return dict(zip(map(str, names), parts, strict=False))  # no label, one empty part


def _undefined(x: Floats, y: Floats) -> bool:
    return len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0


def srcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation (SRCC, SROCC), ties ranked by their mean.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.

    Returns:
        In [-1, 1]; NaN for fewer than 3 rows or where scores or MOS are constant.

    Raises:
        InputError: for different lengths or values that are not finite.

    Examples:
        >>> round(srcc([1, 2, 3, 4], [1.0, 1.5, 4.0, 2.0]), 4)
        0.8
    """
    x, y = paired(scores, mos)
    if _undefined(x, y):
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def krcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Kendall's rank correlation (KRCC), tau-b, which allows for ties.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.

    Returns:
        In [-1, 1]; NaN for fewer than 3 rows or where scores or MOS are constant.

    Raises:
        InputError: for different lengths or values that are not finite.

    Examples:
        >>> round(krcc([1, 2, 3, 4], [1.0, 1.5, 4.0, 2.0]), 4)
        0.6667
    """
    x, y = paired(scores, mos)
    if _undefined(x, y):
        return math.nan
    return float(stats.kendalltau(x, y).statistic)


def plcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's correlation (PLCC) of the scores as they are, without a fit; what arXiv 2311.15556 reports.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.

    Returns:
        In [-1, 1]; NaN for fewer than 3 rows or where scores or MOS are constant.

    Raises:
        InputError: for different lengths or values that are not finite.

    Examples:
        >>> round(plcc([1, 2, 3, 4], [1.0, 1.5, 4.0, 2.0]), 4)
        0.54
    """
    x, y = paired(scores, mos)
    if _undefined(x, y):
        return math.nan
    return float(stats.pearsonr(x, y).statistic)


def pairwise_accuracy(
    scores: ArrayLike, mos: ArrayLike, groups: Sequence[Any] | NDArray[Any] | None = None
) -> float:
    """Share of the pairs with different MOS that the scores put in the same order; ties in scores count half.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.
        groups: one label per row (the prompt, say), to compare only rows of one group; None for all pairs.

    Returns:
        In [0, 1], 0.5 for chance; NaN where no pair has different MOS.

    Raises:
        InputError: for different lengths, values that are not finite, missing labels.

    Examples:
        >>> pairwise_accuracy([1, 2, 2], [1.0, 2.0, 3.0])
        0.833...
    """
    x, y = paired(scores, mos)
    parts = [slice(None)] if groups is None else list(rows_by_label(groups, len(x), "groups").values())
    counts = [ordered_alike(x[part], y[part]) for part in parts]
    pairs = sum(differ for _, differ in counts)
    return sum(alike for alike, _ in counts) / pairs if pairs else math.nan


def ordered_alike(x: Floats, y: Floats, tau: float | None = None) -> tuple[float, int]:
    """How many pairs that differ in `y` are ordered alike in `x` (ties half), and how many differ.

    Found from Kendall's tau-b, in O(N log N): it is (alike - unlike) / sqrt(pairs differing in x * in y).

    Args:
        x: (N,), finite.
        y: (N,), finite.
        tau: tau-b of the two, where known.
    """
    differ_x, differ_y = _different_pairs(x), _different_pairs(y)
    if not differ_x or not differ_y:
        return differ_y / 2, differ_y
    if tau is None:
        tau = float(stats.kendalltau(x, y).statistic)
    balance = round(tau * math.sqrt(differ_x) * math.sqrt(differ_y))  # a whole number but for rounding
    return (differ_y + balance) / 2, differ_y


def _different_pairs(x: Floats) -> int:
    ties = np.unique(x, return_counts=True)[1].astype(np.int64)
    return int((len(x) ** 2 - (ties**2).sum()) // 2)
