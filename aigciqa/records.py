"""One picture's row of results, and how rows are encoded."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError

FORMATS = ("table", "csv", "tsv", "jsonl", "parquet")
_LARGEST = float(np.finfo(np.float32).max)
LONGEST = 1 << 20  # bytes of a row; bounds what is read of a file that is not ours
# What spreadsheets take for the beginning of a formula, in full width too
_FORMULA = "[=+\\-@\t\r\n＝＋－＠]"


@dataclass(frozen=True, slots=True)
class Row:
    """One picture's scores, or why it has none.

    Args:
        picture: its name, as the item of input gives it.
        reference: likewise; None where there is none.
        scores: by dimension, finite float32 values; None where it failed.
        error: why it failed; None where it did not.

    Raises:
        InputError: when there are both scores and an error, or neither, or a score is not finite.
    """

    picture: str
    reference: str | None
    scores: dict[str, float] | None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.scores is None) == (not self.error):
            raise InputError(f"{self.picture!r}: a row has either scores or an error")
        if self.scores is not None and not all(abs(s) <= _LARGEST for s in self.scores.values()):
            raise InputError(f"{self.picture!r}: not every score is finite: {self.scores}")


class JsonLines:
    """One object per line, all ASCII, so that any name survives."""

    header = b""
    quoted = False  # whether a row may go on over several lines

    def __init__(self, dimensions: Sequence[str], stamp: str) -> None:
        self.dimensions, self.stamp = tuple(dimensions), stamp
        self.columns = ["picture", "reference", *dimensions, "error", "metric"]
        if not dimensions or len(set(self.columns)) < len(self.columns):
            raise InputError(f"columns must be different and hold a dimension, not {', '.join(self.columns)}")

    def values(self, row: Row) -> list[Any]:
        """What stands in the columns, None where nothing does."""
        if row.scores is not None and row.scores.keys() != set(self.dimensions):
            raise InputError(
                f"{row.picture!r} has scores of {', '.join(row.scores)}, not of {', '.join(self.dimensions)}"
            )
        # the shortest decimal that reads back as the same float32
        scores = [float(str(np.float32(row.scores[d]))) if row.scores else None for d in self.dimensions]
        return [row.picture, row.reference or None, *scores, row.error, self.stamp]

    def row(self, values: list[Any]) -> tuple[Row, str]:
        """A row and its stamp, from its columns; ValueError when they are not such."""
        picture, reference, *numbers, error, stamp = values
        if not all(isinstance(text, str) for text in (picture, reference or "", error or "", stamp)):
            raise ValueError("wrong types")
        given = {d: s for d, s in zip(self.dimensions, numbers, strict=True) if s is not None}
        if len(given) not in (0, len(numbers)) or not all(type(s) is float for s in given.values()):
            raise ValueError("some scores are missing, or of a wrong type")
        scores = {d: float(np.float32(s)) for d, s in given.items()}
        return Row(picture, reference, scores or None, error), stamp

    def encode(self, row: Row) -> bytes:
        record = self.record(self.values(row))
        if len(record) > LONGEST:
            raise InputError(
                f"{row.picture[:60]!r}...: its row has {len(record):,} bytes, {LONGEST:,} may be"
            )
        return record

    def record(self, values: list[Any]) -> bytes:
        return json.dumps(dict(zip(self.columns, values, strict=True))).encode() + b"\n"

    def decode(self, record: bytes) -> tuple[Row, str]:
        try:
            found = json.loads(record.decode("ascii"))
        except RecursionError:
            raise ValueError("nested") from None
        if not isinstance(found, dict) or list(found) != self.columns:
            raise ValueError("other columns")
        return self.row(list(found.values()))

    def piece(self, tail: bytes, first: bool) -> bool:
        """Whether a last row that is not complete or cannot be read may be ours, cut off."""
        start = b'{"picture": "'
        if first and tail[: len(start)] != start[: len(tail)]:
            return False
        try:
            found = json.loads(tail)  # whole, but for the end of its line
        except (ValueError, RecursionError):
            return True
        return isinstance(found, dict) and list(found) == self.columns and found["metric"] == self.stamp


class _Delimited(JsonLines):
    """CSV and TSV as RFC 4180 has them, with \\n; the csv module cannot be told to quote a lone \\r or read NUL."""

    quoted = True

    def __init__(self, dimensions: Sequence[str], stamp: str, delimiter: str) -> None:
        super().__init__(dimensions, stamp)
        self.delimiter = delimiter
        self._special = re.compile(f'[{delimiter}"\r\n]')
        self._cell = re.compile(f'("[^"]*(?:""[^"]*)*"|[^{delimiter}"\r\n]*)([{delimiter}\n])')
        self.header = f"{delimiter.join(self.columns)}\n".encode()

    def record(self, values: list[Any]) -> bytes:
        picture, reference, *scores, error, stamp = values
        names = [_guarded(picture, "./"), _guarded(reference or "", "./")]
        numbers = ["" if s is None else repr(s) for s in scores]
        cells = [*names, *numbers, _guarded(error or "", "'"), _guarded(stamp, "'")]
        line = self.delimiter.join(map(self._quoted, cells))
        try:
            # as the system's names are encoded, so that those which are not UTF-8 keep their bytes
            return f"{line}\n".encode("utf-8", sys.getfilesystemencodeerrors())
        except UnicodeEncodeError:
            raise InputError(f"{picture!r}: its row cannot be encoded; write JSON lines instead") from None

    def _quoted(self, cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if self._special.search(cell) else cell

    def decode(self, record: bytes) -> tuple[Row, str]:
        text = record.decode("utf-8", sys.getfilesystemencodeerrors())
        found = self._cell.findall(text)
        if "".join(map("".join, found)) != text or len(found) != len(self.columns):
            raise ValueError("other columns")
        cells = [c[1:-1].replace('""', '"') if c.startswith('"') else c for c, _ in found]
        picture, reference, *scores, error, stamp = cells
        names = [_unguarded(picture, "./"), _unguarded(reference, "./") or None]
        numbers = [float(s) if s else None for s in scores]
        return self.row([*names, *numbers, _unguarded(error, "'") or None, _unguarded(stamp, "'")])

    def piece(self, tail: bytes, first: bool) -> bool:
        # the header before it is ours; but a stray quote in the middle makes one row of all after it
        end = self._quoted(_guarded(self.stamp, "'"))
        return f"{self.delimiter}{end}\n".encode() not in tail[:-1]


def _guarded(text: str, guard: str) -> str:
    """With `guard` before what a spreadsheet would run; a path stays the same path with "./" before it."""
    return guard + text if re.match(f"(?:{re.escape(guard)})*{_FORMULA}", text) else text


def _unguarded(text: str, guard: str) -> str:
    """What `_guarded` was given: it also guards what begins like its own result, so this is exact."""
    return text[len(guard) :] if re.match(f"(?:{re.escape(guard)})+{_FORMULA}", text) else text


def codec_for(kind: str, dimensions: Sequence[str], stamp: str) -> JsonLines:
    if kind in ("csv", "tsv"):
        return _Delimited(dimensions, stamp, {"csv": ",", "tsv": "\t"}[kind])
    return JsonLines(dimensions, stamp)
