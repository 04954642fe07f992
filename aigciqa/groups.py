"""Scores of several groups beside each other: means with intervals, and which differ."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .image import Array

BINS = 40
RESAMPLES = 1000


def describe(scores: Array, low: float, high: float) -> dict[str, Any]:
    """Statistics and a histogram over the scale, or wider where scores lie outside it."""
    if not len(scores):
        return {"statistics": {}, "low": low, "high": high, "counts": [0] * BINS}
    low, high = min(low, scores.min()), max(high, scores.max())
    counts, _ = np.histogram(scores, BINS, (low, high))
    sd = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    names = ("min", "5%", "25%", "median", "75%", "95%", "max")
    between = np.percentile(scores, (0, 5, 25, 50, 75, 95, 100)).tolist()
    statistics = {"mean": float(scores.mean()), "sd": sd, **dict(zip(names, between, strict=True))}
    return {"statistics": statistics, "low": float(low), "high": float(high), "counts": counts.tolist()}


def compare(groups: list[Array]) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Each group's numbers; and of each pair numbers of the two, difference of means, P(first > second) and p."""
    described: list[dict[str, Any]] = [
        {
            "n": len(scores),
            "mean": float(scores.mean()),
            "interval": mean_interval(scores),
            "box": np.percentile(scores, (5, 25, 50, 75, 95)).tolist(),
        }
        for scores in groups
    ]
    pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
    tests = [mann_whitney(groups[i], groups[j]) for i, j in pairs]
    corrected = holm([p for _, p in tests])
    means = [g["mean"] for g in described]
    return described, [
        [i, j, means[i] - means[j], larger, p]
        for (i, j), (larger, _), p in zip(pairs, tests, corrected, strict=True)
    ]


def mean_interval(scores: Array) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean, the same each time (Efron & Tibshirani 1993, chapter 13).

    Args:
        scores: (N,), N at least 1, drawn independently.

    Examples:
        >>> low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
        >>> 1.0 <= low < 2.5 < high <= 4.0
        True
    """
    rng = np.random.default_rng(0)
    means = [scores[rng.integers(0, len(scores), len(scores))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return low, high


def mann_whitney(first: Array, second: Array) -> tuple[float, float]:
    """The Mann-Whitney U test, two-sided, by the normal approximation corrected for ties and continuity.

    Args:
        first: (N,) scores, N at least 1.
        second: (M,) scores, M at least 1.

    Returns:
        The probability that one of the first is larger than one of the second (ties count half), and p.

    Examples:
        >>> larger, p = mann_whitney(np.arange(10.0), np.arange(10.0) + 20)
        >>> larger, round(p, 5)
        (0.0, 0.00018)
    """
    n, m = len(first), len(second)
    _, inverse, ties = np.unique(np.concatenate([first, second]), return_inverse=True, return_counts=True)
    ties = ties.astype(float)  # their cubes are large
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[inverse]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    both = n + m
    variance = n * m / 12 * (both + 1 - (ties**3 - ties).sum() / (both * (both - 1)))
    if variance <= 0:  # all scores are the same
        return 0.5, 1.0
    z = (abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return u / (n * m), min(1.0, math.erfc(z / math.sqrt(2)))


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        values: p values, in [0, 1].

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, values[i] * (len(values) - rank)))
        corrected[i] = largest
    return corrected
