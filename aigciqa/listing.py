"""The list of paths on standard input."""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from typing import IO

from .errors import InputError
from .limits import MIB, NAME, TABLE


class Listing:
    """Paths that come on standard input, which can be gone through again.

    Args:
        stdin: where they come from; None for standard input.
    """

    def __init__(self, stdin: IO[str] | None):
        self._stdin = stdin

    @cached_property
    def _stored(self) -> tuple[IO[bytes], bytes]:
        """What came, kept in a file, and what separates its paths."""
        stdin = self._stdin or sys.stdin
        binary = getattr(stdin, "buffer", None)  # text has lost carriage returns, or refuses some bytes
        file = tempfile.SpooledTemporaryFile(16 * MIB)  # noqa: SIM115  # a folder for it may be missing
        separator = b"\n"
        while block := binary.read(1 << 16) if binary else os.fsencode(stdin.read(1 << 16)):
            if file.tell() + len(block) > TABLE:
                raise InputError(
                    f"-: more than the limit of {TABLE / MIB:,.0f} MiB came on standard input; give paths, "
                    "in several runs"
                )
            file.write(block)
            if b"\0" in block:
                separator = b"\0"
        return file, separator

    def __iter__(self) -> Iterator[str]:
        """Each path.

        Raises:
            InputError: when one is longer than `aigciqa.limits.NAME`, or all are longer than `TABLE`.
        """
        file, separator = self._stored
        position, rest, block = 0, b"", b" "
        while block:
            file.seek(position)
            block = file.read(1 << 16)
            position += len(block)
            *names, rest = (rest + block).split(separator) if block else [rest, b""]
            for name in (*names, rest):
                if len(name) > NAME:
                    raise InputError(
                        f"-: a path of more than {NAME:,} bytes came on standard input; give one path a line, or "
                        "ended by NUL"
                    )
            for name in names:
                if separator == b"\n":
                    name = name.removesuffix(b"\r") if name.strip() else b""
                if name:
                    yield os.fsdecode(name)
