"""Files that appear whole or not at all, and are written by one process at a time."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..errors import InputError
from ..writing import replacing, write_whole

__all__ = ["by_turns", "claimed", "save_whole", "write_whole"]


def save_whole(path: Path, state: Any) -> None:
    """`torch.save` as `write_whole`."""
    with replacing(path) as file:
        torch.save(state, file)


def by_turns(file: Path) -> FileLock:
    """A lock for ``with``: of the processes that would write a file, each waits for the one before it."""
    return FileLock(file.with_suffix(".lock"))


def claimed(folder: Path) -> AbstractContextManager[Any]:
    """For ``with``: no other process writes to the folder, from the call on, until this is left or the process ends.

    Raises:
        InputError: while another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder} is being written by another process; wait for it to end, or choose another folder"
        ) from None
