"""Files that one process at a time may write."""

import os
import sys
from pathlib import Path
from typing import Any

from .errors import InputError


def open_locked(path: Path, shown: Path, follow: bool = True) -> tuple[Any, bool]:
    """The file for appending and reading, which no other process has open in this way; and whether it was made now.

    Args:
        path: of the file.
        shown: how messages call it.
        follow: whether `path` may be a link. A name that somebody else can foresee may not.

    Raises:
        InputError: when another process has it open, or `path` is a link that is not to be followed.
    """
    while True:
        if not follow and path.is_symlink():
            raise InputError(f"{path} is a link, which somebody else may have put there; remove it")
        made = True
        try:
            file = open(path, "a+b", buffering=1 << 16, opener=new)  # noqa: SIM115
        except FileExistsError:
            made = False
            file = open(path, "a+b", buffering=1 << 16, opener=None if follow else unlinked)  # noqa: SIM115
        try:
            lock(file.fileno(), shown)
            # whoever held the lock before may have removed the file in between
            if is_at(file, path):
                return file, made
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def new(path: str, flags: int) -> int:
    """For `open`: a file that must not be there, nor a link in its place."""
    return os.open(path, flags | os.O_EXCL, 0o666)


def unlinked(path: str, flags: int) -> int:
    """For `open`: a file of which the name is no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def lock(descriptor: int, shown: Path) -> None:
    """Held until the file is closed or the process ends, however it ends."""
    busy = InputError(
        f"{shown} is being written by another process; wait for it to end, or write to another file"
    )
    if sys.platform == "win32":
        import msvcrt

        os.lseek(
            descriptor, 0x7FFFFFFE, os.SEEK_SET
        )  # locked bytes cannot be read: one that others hardly want
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise busy from None
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
