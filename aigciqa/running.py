"""One run of the command line: pictures are scored into a file or to standard output, and summed up in the end."""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError
from .records import Row
from .results import Results, open_results, stream_rows
from .summary import Summary, print_table
from .transient import is_transient

if TYPE_CHECKING:
    from .config import MetricConfig
    from .engines import MapFolder, Scorer
    from .progress import Progress
    from .report import Report
    from .sources import Item

EVERY = 30.0  # seconds between lines about the progress, where there is no terminal


class Run:
    """What a command scores, and where else it goes.

    Args:
        scorer: computes.
        items: to score; gone through again for those that failed before.
        count: how many there are.
        report: the page that rows go to, if any.
        groups: what each picture belongs to on that page, where a column of a manifest says that.
        maps: where maps go, if anywhere.
    """

    def __init__(
        self,
        scorer: "Scorer",
        items: "Iterable[Item]",
        count: int,
        report: "Report | None" = None,
        groups: Mapping[str, str] | None = None,
        maps: "MapFolder | None" = None,
    ):
        self.scorer, self.items, self.count = scorer, items, count
        self.report, self.groups, self.maps = report, groups, maps
        self.summary = Summary(scorer.dimensions)
        self.seconds: float | None = None
        self._beside: Iterator[Item] = iter(())
        self._loaded = False

    def to_file(self, output: str, retry_failed: bool) -> int:
        """Score into a file, from where it stopped.

        Args:
            output: the file.
            retry_failed: score the pictures of its failed rows again, first.

        Returns:
            How many rows of the file have an error.
        """
        passing = 0
        with open_results(Path(output), self.scorer.dimensions, self.scorer.stamp) as file:
            if retry_failed:
                self._retry(file)
            remaining = self._remaining()
            for number, row in enumerate(file.rows(), 1):
                _check_same(row, next(remaining, None), number, file.holder)
                self._count_in(row, new=False)
            done, kept = self.summary.count, self.summary.failed
            for row in self._scored(remaining):
                passing += is_transient(row.error)
                file.write([row])
        self._sum_up(done, aside=False)
        if kept:
            when = "again" if retry_failed else "in an earlier run; --retry-failed scores them again"
            _echo(f"{kept:,} of the {done:,} rows already in {output} failed {when}")
        if passing:
            new = self.summary.count - done
            _echo(f"not readable now: {passing:,} of {new:,} images; put that right and add --retry-failed")
        return self.summary.failed

    def to_output(self, form: str) -> int:
        """Score to standard output.

        Args:
            form: ``table``, ``csv``, ``tsv``, ``jsonl``, or ``json`` for one document.

        Returns:
            How many pictures could not be scored.
        """
        self._load()  # before anything is printed
        rows = self._scored(self._remaining(), shown=not sys.stdout.isatty())
        if form == "json":
            _print_json(rows, self.scorer.config, self.scorer.stamp)
            return self.summary.failed
        if form == "table":
            print_table(rows, self.scorer.dimensions, _echo)
        else:
            stream_rows(rows, form, self.scorer.dimensions, self.scorer.stamp, sys.stdout.buffer)
        self._sum_up(0, aside=form != "table")  # standard output holds rows only
        return self.summary.failed

    def _retry(self, file: Results) -> None:
        """Score the pictures of the failed rows that a file has; it is rewritten in one step, in the end."""
        failed = sum(row.error is not None for row in file.rows())
        if not failed:
            return
        self._load()

        def items() -> "Iterator[Item]":
            every = self._items()
            for number, row in enumerate(file.rows(), 1):
                item = _check_same(row, next(every, None), number, file.holder)
                if row.error is not None:
                    yield item

        # not those that `_remaining` gives, of which the ones between two failed rows would be kept in memory
        again: Any = self.scorer.rows(items())
        with closing(again), _bar(failed) as bar:

            def rows() -> Iterator[Row]:
                for row in file.rows():
                    if row.error is None:
                        yield row
                    else:
                        yield next(again)
                        bar.done()

            file.rewrite(rows())

    def _items(self) -> "Iterator[Item]":
        return map(_alone, self.items) if self.scorer.config.mode == "NR" else iter(self.items)

    def _remaining(self) -> "Iterator[Item]":
        """All items; those whose rows are not yet counted stay beside them for the page and the maps."""
        items = self._items()
        if self.report or self.maps:
            items, self._beside = itertools.tee(items)
        return items

    def _load(self) -> None:
        if self._loaded:
            return
        self.scorer.load()
        if ready := click.get_current_context().obj:  # of `aigciqa.program`
            ready()
        self._loaded = True

    def _scored(self, remaining: "Iterator[Item]", shown: bool = True) -> Iterator[Row]:
        """Rows of the items that remain, counted in as they come."""
        self._load()
        done, begun = self.summary.count, time.monotonic()

        def note() -> str:
            speed = (self.summary.count - done) / (time.monotonic() - begun)
            return f"{speed:,.1f} images/s, {self.summary.failed:,} failed"

        with _bar(self.count, done, shown, note) as bar:
            for row in self.scorer.rows(remaining):
                self._count_in(row)
                bar.done()
                yield row
        self.seconds = time.monotonic() - begun if self.summary.count > done else None

    def _count_in(self, row: Row, new: bool = True) -> None:
        self.summary.add(row)
        item = next(self._beside, None)
        if self.report and item:
            self.report.add(row, item, self.groups.get(row.picture) if self.groups else None)
        if self.maps and item and row.scores is not None and (new or not self.maps.path(item).exists()):
            self.maps.add(item)

    def _sum_up(self, done: int, aside: bool) -> None:
        config = self.scorer.config
        if self.summary.count > 1:
            _echo("\n" + "\n".join(self.summary.lines(self.seconds, self.summary.count - done)), aside)
        low, high = config.score_range
        labels = config.provenance["labels"]
        _echo(f"\n{self.scorer.stamp}, scale {low:g} to {high:g}, learned from {labels}", aside)


def kept_in(output: str) -> str:
    """Which file keeps the rows of a run that was interrupted.

    Args:
        output: the file that the run writes to; a Parquet file is made in the end, from the rows in another.

    Examples:
        >>> kept_in("not-there.csv")
        'no row was written; start the same command again'
    """
    path = Path(output)
    if path.is_symlink():  # the rows are beside the file that the link leads to
        path = Path(os.path.realpath(path))
    unfinished = path.with_name(f"{path.name}.part")
    kept = unfinished if path.suffix.lower() == ".parquet" and unfinished.exists() else path
    if not kept.exists():
        return "no row was written; start the same command again"
    return f"{kept} keeps what is done, and the same command goes on from there"


def open_report(scorer: "Scorer", page: str | None, group_by: str | None) -> "Report | None":
    """The page of a run, where one is wanted.

    Args:
        scorer: what scores.
        page: its file; None for no page.
        group_by: what it compares, see `aigciqa.report.Report`.
    """
    if page is None:
        return None
    from .report import Report

    return Report(
        page,
        stamp=scorer.stamp,
        dimensions=scorer.dimensions,
        score_range=scorer.config.score_range,
        labels=scorer.config.provenance["labels"],
        group_by=group_by,
    )


def _bar(total: int, done: int = 0, shown: bool = True, note: Callable[[], str] = str) -> "Progress":
    from .progress import Progress

    return Progress(
        "scoring", total, begun=done, shown=shown, every=EVERY, note=note, unit="picture", delay=2
    )


def _alone(item: "Item") -> "Item":
    """Without the reference that a manifest or a shard has beside it."""
    return replace(item, reference=None, reference_data=None, reference_error=None)


def _check_same(row: Row, item: "Item | None", number: int, holder: str) -> "Item":
    """The item of a row; a file goes on only with the pictures it was begun with."""
    if item is None:
        now = "there are fewer pictures"
    elif row.picture != item.picture:
        now = f"the picture is {item.picture!r}"
    elif (row.reference or None) != (item.reference or None):
        now = f"its reference is {item.reference!r}"
    else:
        return item
    beside = f" beside {row.reference!r}" if row.reference else ""
    raise InputError(
        f"{holder}: row {number} is {row.picture!r}{beside}, but now {now}; to go on, name the same pictures, or "
        "write to another file"
    )


def _echo(text: str, aside: bool = False) -> None:
    try:
        click.echo(text, err=aside)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"output cannot be written: {error.strerror or error}") from error


def _print_json(rows: Iterator[Row], config: "MetricConfig", stamp: str) -> None:
    report = {
        "metric": config.name,
        "stamp": stamp,
        "sha256": config.sha256,
        "revision": config.revision,
        "labels": config.provenance["labels"],
        "score_range": config.score_range,
        "results": [
            {"picture": row.picture, "reference": row.reference, "scores": row.scores}
            | ({"error": row.error} if row.error else {})
            for row in rows
        ],
    }
    _echo(json.dumps(report, indent=2))
