"""Tables of text: their encoding, the sign between their cells, and their rows, whose length is limited."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import InputError
from .limits import LINE, TABLE, check_size
from .walking import open_again, shown

_SHOWN, _LONGEST = 30, 40  # names of columns in a message, and letters of each
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def encoding_of(start: bytes) -> str:
    """The encoding of a text, from its first bytes: UTF-8, or UTF-16 as Excel and PowerShell save it.

    Examples:
        >>> encoding_of(b"picture"), encoding_of("picture".encode("utf-16"))
        ('utf-8-sig', 'utf-16')
    """
    if start[:2] in UTF16:
        return "utf-16"
    if b"\0" in start[:2]:
        return "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
    return "utf-8-sig"


def separator_of(line: str, suffix: str) -> str:
    """The sign between the cells of a table.

    Args:
        line: the first of the table.
        suffix: of the file's name; only ``.csv`` leaves the choice open.

    Examples:
        >>> separator_of("picture;mos", ".csv"), separator_of("picture", ".csv"), separator_of("a,b", ".tsv")
        (';', ',', '\\t')
    """
    if suffix.lower() != ".csv":
        return "\t"
    outside = "".join(line.split('"')[::2])
    return next((sign for sign in ",;\t" if sign in outside), ",")


def listed_names(names: Sequence[str]) -> str:
    """The names of columns for a message, of which a file that is no table may have long and many.

    Examples:
        >>> listed_names(["a", "b" * 99])
        "'a', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb...'"
    """
    shortened = [repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in names[:_SHOWN]]
    more = [f"and {len(names) - _SHOWN} more"] * (len(names) > _SHOWN)
    return ", ".join(shortened + more) or "none"


@contextmanager
def open_text(path: Path, remedy: str) -> Iterator[IO[str]]:
    """A table of text for reading, once its size is known to be within the limit.

    Args:
        path: of the table.
        remedy: what to do with a larger table, for the message.

    Raises:
        InputError: when the table is too large, or a pipe or a device.
    """
    check_size(path.stat().st_size, TABLE, shown(str(path)), remedy)
    with open_again(path) as binary:
        encoding = encoding_of(binary.peek(2))
        yield io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline="")


class Lines:
    """The lines of a table, of which one row may take so many characters; `left` is how many it still may."""

    def __init__(self, file: IO[str], what: str, remedy: str):
        self.file, self.what, self.remedy, self.left = file, what, remedy, LINE

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(self.left + 1):
            self.left -= len(line)
            check_size(LINE - self.left, LINE, f"{self.what}: a row of the table", self.remedy)
            yield line


def read_delimited(file: IO[str], path: Path, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV or TSV file, each with the number of its last line; the first has the columns' names.

    Names have no blanks around them. Rows have as many cells as there are names: separators at the end of a row or of
    the header do not count. Rows without anything in them are left out.

    Args:
        file: the open table.
        path: of the table, for its ending and for messages.
        remedy: what to do with a larger row, for the message.

    Raises:
        InputError: for a row that is too long, or has too few or too many cells.
        csv.Error: for a quote without its end.
    """
    lines = Lines(file, shown(str(path)), remedy)
    lines_left = iter(lines)
    first = next(lines_left, "")
    # the limit of a cell is the process's, and anyone may have set it; `Lines` limits the whole row
    csv.field_size_limit(max(csv.field_size_limit(), LINE))

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines_left

    reader = csv.reader(all_lines(), delimiter=separator_of(first, path.suffix), strict=True)
    names = [name.strip() for name in next(reader, [])]
    named = max((at for at, name in enumerate(names, 1) if name), default=0)
    yield reader.line_num, names
    for row in reader:
        lines.left = LINE
        while len(row) > len(names) and not row[-1]:
            row.pop()
        if not any(row):
            continue
        if not named <= len(row) <= len(names):
            raise InputError(
                f"{shown(str(path))}, line {reader.line_num}: {len(row)} cells where the first line has "
                f"{len(names)}; put cells with a comma, tab or line break in double quotes"
            )
        yield reader.line_num, row + [""] * (len(names) - len(row))


def read_objects(
    file: IO[str], path: Path, remedy: str, column: str | None = None
) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a file of JSON lines, each with the number of its line; empty lines are left out.

    Args:
        file: the open table.
        path: of the table, for messages.
        remedy: what to do with a larger line, for the message.
        column: that a line which is a JSON string alone fills; None to refuse such lines.

    Raises:
        InputError: for a line that is too long, or is no object.
    """
    lines = Lines(file, shown(str(path)), remedy)
    for number, line in enumerate(lines, 1):
        lines.left = LINE
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, str) and column is not None:
            found = {column: found}
        if not isinstance(found, dict):
            raise InputError(f"{shown(str(path))}, line {number}: is no JSON object; write one object a line")
        yield number, found
