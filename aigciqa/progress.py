"""How far long work is: a bar on a terminal, and elsewhere, such as in a log, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY = 60.0  # seconds between lines


class Progress:
    """Counts work as it is done, on standard error.

    Args:
        what: the work is called.
        total: how much there is of it.
        begun: how much was done before.
        shown: whether to say anything.
        every: seconds between lines; None for `EVERY`.
        note: what else a line says, asked for each line.
        bar: further arguments of `tqdm.tqdm`.

    Examples:
        >>> with Progress("doubling", 2) as progress:
        ...     progress.done()
        ...     progress.count
        1
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        begun: int = 0,
        shown: bool = True,
        every: float | None = None,
        note: Callable[[], str] = str,
        **bar: Any,
    ):
        self.what, self.total, self.begun, self.count, self.shown = what, total, begun, begun, shown
        self.every, self.note = EVERY if every is None else every, note
        self.started = self.said = time.monotonic()
        # what is left is told from all that was done, not from the last burst
        self.bar: tqdm[Any] = tqdm(
            desc=what,
            total=total,
            initial=begun,
            leave=False,
            smoothing=0,
            disable=None if shown else True,
            **bar,
        )

    def done(self, count: int = 1) -> None:
        """Count so much more as done."""
        self.count += count
        self.bar.update(count)
        now = time.monotonic()
        if self.bar.disable and self.shown and now - self.said >= self.every and self.count < self.total:
            self.said = now
            self._say(now - self.started)

    def _say(self, seconds: float) -> None:
        left = seconds / (self.count - self.begun) * (self.total - self.count)
        said = [f"{self.what}: {self.count:,} of {self.total:,}", self.note()]
        line = ", ".join([*filter(None, said), f"{tqdm.format_interval(left)} left"])
        with suppress(OSError):  # a full disk or a closed pipe of the log does not end the work
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def each(work: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Go through work as it is done.

    Args:
        work: what is gone through.
        what: it is called.
        total: how much there is of it.

    Examples:
        >>> [2 * x for x in each([1, 2], "doubling", 2)]
        [2, 4]
    """
    with Progress(what, total) as progress:
        for one in work:
            yield one
            progress.done()
