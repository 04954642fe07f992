"""Lists of paths, on standard input or in a file."""

import codecs
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

from .errors import InputError
from .limits import MIB, NAME, TABLE
from .spelling import located
from .tabular import UTF16
from .walking import open_again, reading, shown, there


def is_list(path: Path) -> bool:
    """Whether a file is a list of paths: its ending is ``.txt``, and its content is text.

    Examples:
        >>> is_list(Path("gen.png"))
        False
    """
    if path.suffix.lower() != ".txt" or not there(path.is_file):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(1 << 12)
    except OSError:  # opening it as an image will say so
        return False
    return bool(start) and (start[:2] in UTF16 or b"\0" not in start)


def read_list(path: Path) -> Iterator[str]:
    """The paths in a file, one a line; relative to its folder, or where no such file is, to the current one.

    Raises:
        InputError: when the file cannot be read, or a path is too long.
    """
    with reading(path, "a list of paths"), open_again(path) as binary:
        for name in Listing(io.TextIOWrapper(binary), shown(str(path))):
            beside = located(path.parent, name)
            yield beside if there(Path(beside).exists) or not there(Path(name).exists) else name


class Listing:
    """Paths that come on standard input, or from a file, which can be gone through again.

    Text is UTF-8, or UTF-16 with its mark at the beginning.

    Args:
        stdin: where they come from; None for standard input.
        what: what messages call the list.
    """

    def __init__(self, stdin: IO[str] | None, what: str = "-"):
        self._stdin, self._what = stdin, what
        self._whence = "on standard input" if what == "-" else "from this list"

    @cached_property
    def _stored(self) -> tuple[IO[bytes], bytes]:
        """What came, kept in a file, and what separates its paths."""
        stdin = self._stdin or sys.stdin
        binary = getattr(stdin, "buffer", None)  # text has lost carriage returns, or refuses some bytes
        file = tempfile.SpooledTemporaryFile(16 * MIB)  # noqa: SIM115  # a folder for it may be missing
        separator, decoder = b"\n", None
        while block := binary.read(1 << 16) if binary else os.fsencode(stdin.read(1 << 16)):
            if not file.tell():
                decoder = codecs.getincrementaldecoder("utf-16")() if block[:2] in UTF16 else None
            if decoder:
                block = self._recoded(block, decoder)
            if file.tell() + len(block) > TABLE:
                raise InputError(
                    f"{self._what}: more than the limit of {TABLE / MIB:,.0f} MiB came {self._whence}; give paths, "
                    "in several runs"
                )
            file.write(block)
            if b"\0" in block:
                separator = b"\0"
        return file, separator

    def _recoded(self, block: bytes, decoder: codecs.IncrementalDecoder) -> bytes:
        try:
            return decoder.decode(block).encode()
        except UnicodeDecodeError:
            raise InputError(f"{self._what}: begins as UTF-16 and is not; write the list in UTF-8") from None

    def __iter__(self) -> Iterator[str]:
        """Each path.

        Raises:
            InputError: when one is longer than `aigciqa.limits.NAME`, or all are longer than `TABLE`.
        """
        file, separator = self._stored
        file.seek(0)
        marked = separator == b"\n" and file.read(3) == codecs.BOM_UTF8
        position, rest, block = 3 * marked, b"", b" "
        while block:
            file.seek(position)
            block = file.read(1 << 16)
            position += len(block)
            *names, rest = (rest + block).split(separator) if block else [rest, b""]
            for name in (*names, rest):
                if len(name) > NAME:
                    raise InputError(
                        f"{self._what}: a path of more than {NAME:,} bytes came {self._whence}; give one path a line, "
                        "or ended by NUL"
                    )
            for name in names:
                if separator == b"\n":
                    name = name.removesuffix(b"\r") if name.strip() else b""
                if name:
                    yield os.fsdecode(name)
