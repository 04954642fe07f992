"""Files below folders, found while walking, in natural order."""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from PIL import Image

from .errors import InputError, TransientError
from .transient import transient, unreadable

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows these formats only by name
EVERYTHING = ("**", "*")

T = TypeVar("T")


@cache
def suffixes() -> frozenset[str]:
    known = Image.registered_extensions().items()
    read = Image.OPEN.keys() - STUBS | {"MPO"}  # which is opened as a JPEG
    return frozenset(suffix for suffix, kind in known if kind in read)


def pictures(folder: Path) -> Iterator[Path]:
    return (path for path in walk(folder, EVERYTHING) if path.suffix.lower() in suffixes())


def walk(root: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files below `root` that match a glob's parts, each once; hidden ones only where a part begins with a dot.

    A path is matched while walking: with each folder goes how many parts it may have used up so far.
    """
    open_folders = [(root, *_list_folder(root), _used(parts, {0}))]
    while open_folders:
        folder, _, names, used = open_folders[-1]
        name = next(names, None)
        if name is None:
            open_folders.pop()
            continue
        path = folder / name
        after = _used(parts, {n for i in used for n in _steps(parts, i, path.name)})
        if not name.endswith("/"):
            if len(parts) in after:
                yield path
        elif after - {len(parts)}:
            identity, names = _list_folder(path)
            if all(identity != above for _, above, _, _ in open_folders):  # else a link to where we are
                open_folders.append((path, identity, names, after))


def _steps(parts: tuple[str, ...], i: int, name: str) -> Iterator[int]:
    """How many parts may be used up after `name`, when it was `i`."""
    if i == len(parts) or (name.startswith(".") and not parts[i].startswith(".")):
        return
    if parts[i] == "**":
        yield i
    elif fnmatch.fnmatch(name, parts[i]):
        yield i + 1


def _used(parts: tuple[str, ...], used: set[int]) -> set[int]:
    """With those that a ``**`` of no folder at all leads to."""
    for i, part in enumerate(parts):
        if part == "**" and i in used:
            used.add(i + 1)
    return used


def _list_folder(folder: Path) -> tuple[tuple[int, int], Iterator[str]]:
    """What makes it this folder; and in natural order its folders, which end in a slash, and files.

    Pipes, sockets and devices are no pictures, and opening them could wait for ever.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            names = [entry.name + ending for entry in entries if (ending := _ending(entry)) is not None]
    except OSError as error:
        raise InputError(f"{shown(str(folder))}: cannot be listed: {error.strerror}") from None
    names.sort(key=_natural)
    return (status.st_dev, status.st_ino), iter(names)


def _ending(entry: "os.DirEntry[str]") -> str | None:
    try:
        if entry.is_dir():
            return "/"
        broken = entry.is_symlink() and not Path(entry).exists()
        return "" if entry.is_file() or broken else None
    except OSError:  # a link that cannot be followed; opening it will say so
        return ""


def _natural(name: str) -> str:
    """A text that sorts as the name should: before each number comes its length."""
    return re.sub(r"0*([0-9]+)", lambda match: f"{len(match[1]):03}{match[1]}", name) + "\0" + name


def is_magic(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def is_glob(name: str) -> bool:
    return is_magic(name) and not there(Path(name).exists)


def there(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def is_folder(path: Path) -> bool:
    """Whether a source is one; not known of one that cannot be read now, unless it is called as a picture is."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if transient(error) and path.suffix.lower() not in suffixes():
            raise TransientError(
                f"{unreadable(shown(str(path)), error)}; put that right and run the same command again"
            ) from error
        return False


def shown(name: str) -> str:
    """For messages: on one line, and of characters that can be printed."""
    return name if name.isprintable() else repr(name)


def some(found: Iterator[T], complaint: str) -> Iterator[T]:
    empty = True
    for one in found:
        empty = False
        yield one
    if empty:
        raise InputError(complaint)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # csv, pyarrow, tarfile and every compression have errors of their own
        if isinstance(cause := transient(error), OSError):
            raise TransientError(
                f"{unreadable(shown(str(path)), cause)}; put that right and run the same command again"
            ) from error
        raise InputError(
            f"{shown(str(path))}: cannot be read as {kind}, or is cut short: {error}; write it anew"
        ) from error
