"""Scores of many pictures for people to read: a table and a summary."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, islice

from .records import Row

_WIDEST = 60  # characters of a name in the table


def print_table(rows: Iterable[Row], dimensions: Sequence[str], echo: Callable[[str], object]) -> None:
    """Print rows for people to read, as they come; the first 20 together, for they set the width.

    Args:
        rows: taken one by one.
        dimensions: of the scores, in the columns' order.
        echo: prints a line.

    Examples:
        >>> from aigciqa.records import Row
        >>> from aigciqa.summary import print_table
        >>> print_table([Row("a.png", None, {"quality": 3.25}), Row("b.png", None, None, "empty")], ["quality"], print)
        picture  quality
        a.png       3.25
        b.png          -  empty
    """
    rows = iter(rows)
    first = list(islice(rows, 20))
    width = min(_WIDEST, max([len("picture"), *(len(_printable(row.picture)) for row in first)]))
    echo("  ".join([f"{'picture':<{width}}", *(f"{d:>6}" for d in dimensions)]))
    for row in chain(first, rows):
        name = _printable(row.picture)
        if len(name) > _WIDEST:  # not width: after 1.png, 1050.png and 1051.png must not look the same
            name = f"{name[: (_WIDEST - 1) // 2]}…{name[-(_WIDEST // 2) :]}"
        scores = [f"{row.scores[d]:.2f}" if row.scores else "-" for d in dimensions]
        cells = [f"{s:>{max(6, len(d))}}" for s, d in zip(scores, dimensions, strict=True)]
        echo("  ".join([f"{name:<{width}}", *cells, *([_printable(row.error)] if row.error else [])]))


def _printable(text: str) -> str:
    """With what could move the cursor, or is no character, shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Summary:
    """Statistics of any number of rows, in memory that does not grow with them.

    Mean, standard deviation (of a sample, n - 1), lowest and highest are exact to rounding. Percentiles are
    those of numpy's default method on scores rounded to 12 significant bits: off by at most 1/4096 of the larger
    of the two scores that they lie between. What is kept is how often each rounded score came, 2,048 of them from
    one power of two to the next.

    Args:
        dimensions: of the scores.

    Examples:
        >>> from aigciqa.records import Row
        >>> from aigciqa.summary import Summary
        >>> summary = Summary(["quality"])
        >>> for score in (1.0, 2.0, 4.0):
        ...     summary.add(Row("gen.png", None, {"quality": score}))
        >>> summary.statistics("quality")["median"]
        2.0
        >>> summary.lines(seconds=0.5)[0]
        '3 pictures, 0 failed, 6.0 images/s'
    """

    def __init__(self, dimensions: Sequence[str]) -> None:
        self.count = self.failed = 0
        self._spreads = {d: _Spread() for d in dimensions}

    def add(self, row: Row) -> None:
        """Count a row."""
        self.count += 1
        if row.scores is None:
            self.failed += 1
            return
        for dimension, spread in self._spreads.items():
            spread.add(row.scores[dimension])

    def statistics(self, dimension: str) -> dict[str, float]:
        """``mean``, ``sd``, ``min``, ``5%``, ``25%``, ``median``, ``75%``, ``95%``, ``max``; empty without scores."""
        return self._spreads[dimension].statistics()

    def lines(self, seconds: float | None = None, scored: int | None = None) -> list[str]:
        """The summary for people to read.

        Args:
            seconds: how long it took; None to leave the speed out.
            scored: how many rows took that long, where some were there before; None for all.
        """
        speed = f", {(self.count if scored is None else scored) / seconds:,.1f} images/s" if seconds else ""
        lines = [f"{self.count:,} pictures, {self.failed:,} failed{speed}"]
        found = {d: s for d in self._spreads if (s := self.statistics(d))}
        width = max(map(len, self._spreads), default=0)
        if found:
            names = [f"{n:>8}" for n in next(iter(found.values())) if n not in ("mean", "sd")]
            lines.append(" ".join([f"{'':<{width}} {'mean ± sd':>17}", *names]))
        for dimension, statistics in found.items():
            mean, sd, *others = (f"{value:8.3f}" for value in statistics.values())
            spread = f"{mean} ± {sd.strip():<6}"
            lines.append(
                " ".join(
                    [f"{dimension:<{width}} {spread:>17}", *others, self._spreads[dimension].histogram()]
                )
            )
        return lines


class _Spread:
    """Of one dimension."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf
        self.rounded: Counter[float] = Counter()

    def add(self, score: float) -> None:
        self.count += 1
        offset = score - self.mean
        self.mean += offset / self.count  # Welford, Technometrics 4 (1962): stable in one pass
        self.squares += offset * (score - self.mean)
        self.low, self.high = min(self.low, score), max(self.high, score)
        mantissa, exponent = math.frexp(score)
        self.rounded[math.ldexp(round(mantissa * 4096), exponent - 12)] += 1

    def statistics(self) -> dict[str, float]:
        if not self.count:
            return {}
        scores = sorted(self.rounded)
        until = list(accumulate(self.rounded[s] for s in scores))

        def percentile(share: float) -> float:
            rank = share * (self.count - 1)
            low, high = (scores[bisect_right(until, r)] for r in (math.floor(rank), math.ceil(rank)))
            return min(max(low + (high - low) * (rank % 1), self.low), self.high)

        sd = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        shares = {"5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95}
        between = {name: percentile(share) for name, share in shares.items()}
        return {"mean": self.mean, "sd": sd, "min": self.low, **between, "max": self.high}

    def histogram(self, bins: int = 20) -> str:
        """Between lowest and highest; an empty bin is a space, and one score in a million still shows."""
        counts = [0] * bins
        for score, count in self.rounded.items():
            share = (score - self.low) / ((self.high - self.low) or 1.0)
            counts[min(bins - 1, max(0, int(share * bins)))] += count
        return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * count / max(counts))] for count in counts)
