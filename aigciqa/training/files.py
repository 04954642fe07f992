"""Files that appear whole or not at all, and are written by one process at a time; and what tells files apart."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import writing
from ..errors import InputError
from ..limits import IMAGE_FILE, check_size


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that being killed leaves the old one, or none.

    Raises:
        InputError: when it cannot be written; the old one is as it was.
    """
    with _explained(path):
        writing.write_whole(path, content)


def save_whole(path: Path, state: Any) -> None:
    """`torch.save` as `write_whole`."""
    with _explained(path), writing.replacing(path) as file:
        torch.save(state, file)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter from torch, for a disk that is full
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        )
        raise InputError(
            f"cannot write {path}: {reason}; what was there before is unchanged. Make room, or see to the folder, and "
            "start the same command again (training with --resume)"
        ) from None


def by_turns(file: Path) -> FileLock:
    """A lock for ``with``: of the processes that would write a file, each waits for the one before it."""
    return _lock(file.with_suffix(".lock"))


def claimed(folder: Path) -> AbstractContextManager[Any]:
    """For ``with``: no other process writes to the folder, from the call on, until this is left or the process ends.

    Raises:
        InputError: while another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _lock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder} is being written by another process; wait for it to end, or choose another folder"
        ) from None


def _lock(path: Path) -> FileLock:
    """Old versions of filelock empty the file that a link of this name leads to."""
    if path.is_symlink():
        raise InputError(f"{path} is a link in the place of a lock; remove it")
    return FileLock(path)


def digest_of(image: Path) -> str:
    """SHA-256 of an image file, which is read in parts.

    Raises:
        InputError: when the file is larger than `aigciqa.limits.IMAGE_FILE`.
        OSError: when it cannot be read.
    """
    check_size(image.stat().st_size, IMAGE_FILE, str(image), "make it smaller")
    found = hashlib.sha256()
    with image.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
