"""Files that appear whole or not at all, and are written by one process at a time."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..errors import InputError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name first, so that being killed leaves the old one, or none."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def save_whole(path: Path, state: Any) -> None:
    """`torch.save` as `write_whole`."""
    temporary = path.with_name(f".{path.name}.part")
    torch.save(state, temporary)
    temporary.replace(path)


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
