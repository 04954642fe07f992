"""Files below folders, found while walking, in natural order."""

import fnmatch
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .errors import InputError, TransientError
from .formats import LeftOut, reads
from .transient import transient, unreadable

EVERYTHING = ("**", "*")
_PIPE = "/|"  # no name holds a slash

T = TypeVar("T")


def pictures(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    for path in walk(folder, EVERYTHING, left_out):
        if reads(path.name):
            yield path
        else:
            left_out.file(path.name)


def walk(root: Path, parts: tuple[str, ...], left_out: LeftOut) -> Iterator[Path]:
    """Files below `root` that match a glob's parts, each once; hidden ones only where a part begins with a dot.

    A path is matched while walking: with each folder goes how many parts it may have used up so far.

    Links to folders are followed, but not to a folder that they lie in, and those below another link not to a
    folder that links led to before: folders that link to each other would have paths without number.
    """
    open_folders = [(root, *_list_folder(root), _used(parts, {0}), False)]
    linked_to = set()
    while open_folders:
        folder, _, names, used, linked = open_folders[-1]
        name = next(names, None)
        if name is None:
            open_folders.pop()
            continue
        path = folder / name.removesuffix(_PIPE)
        after = _used(parts, {n for i in used for n in _steps(parts, i, path.name)})
        if not name.endswith(("/", _PIPE)):
            if len(parts) in after:
                yield path
        elif name.endswith(_PIPE):
            if len(parts) in after:
                left_out.pipe()
        elif after - {len(parts)}:
            is_link = path.is_symlink()
            identity, names = _list_folder(path)
            if any(identity == above for _, above, _, _, _ in open_folders) or (
                linked and is_link and identity in linked_to
            ):
                left_out.walked()
                continue
            if linked or is_link:
                linked_to.add(identity)
            open_folders.append((path, identity, names, after, linked or is_link))
        elif after:
            left_out.folder()


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

    Pipes, sockets and devices, which are no pictures and could keep who opens them waiting for ever, end in `_PIPE`.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            names = [entry.name + _ending(entry) for entry in entries]
    except OSError as error:
        raise InputError(f"{shown(str(folder))}: cannot be listed: {error.strerror}") from None
    names.sort(key=_natural)
    return (status.st_dev, status.st_ino), iter(names)


def _ending(entry: "os.DirEntry[str]") -> str:
    try:
        if entry.is_dir():
            return "/"
        broken = entry.is_symlink() and not Path(entry).exists()
        return "" if entry.is_file() or broken else _PIPE
    except OSError:  # a link that cannot be followed; opening it will say so
        return ""


def _natural(name: str) -> str:
    """A text that sorts as the name should: before each number comes its length."""
    return re.sub(r"0*([0-9]+)", lambda match: f"{len(match[1]):03}{match[1]}", name) + "\0" + name


def is_magic(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def is_glob(name: str) -> bool:
    return is_magic(name) and not there(Path(name).exists)


def text_advice(name: str) -> str:
    """What to do where `name`, of which there is no file, reads like a text prompt, to end a message with.

    Examples:
        >>> text_advice("gen.png"), text_advice("a cat on a mat")
        ('', '; metrics here compare images with images. ...')
    """
    if " " not in name.strip() or (Path(name).suffix and " " not in Path(name).suffix):
        return ""
    return (
        "; metrics here compare images with images. If this is a text prompt, pass the image prompt instead, or use "
        "a metric that reads text, such as CLIPScore of torchmetrics or ImageReward"
    )


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
        if transient(error) and not reads(path.name):
            raise TransientError(
                f"{unreadable(shown(str(path)), error)}; put that right and run the same command again"
            ) from error
        return False


def shown(name: str) -> str:
    """For messages: on one line, and of characters that can be printed."""
    return name if name.isprintable() else repr(name)


def some(found: Iterator[T], complaint: str, left_out: LeftOut | None = None) -> Iterator[T]:
    empty = True
    for one in found:
        empty = False
        yield one
    if empty:
        raise InputError(f"{complaint}; {left_out}" if left_out else complaint)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{shown(str(path))}: there is not enough memory to read it; free some") from None
    except Exception as error:  # csv, pyarrow, tarfile and every compression have errors of their own
        if isinstance(cause := transient(error), OSError):
            raise TransientError(
                f"{unreadable(shown(str(path)), cause)}; put that right and run the same command again"
            ) from error
        raise InputError(
            f"{shown(str(path))}: cannot be read as {kind}, or is cut short: {error}; write it anew"
        ) from error


def open_again(path: Path) -> io.BufferedReader:
    """A file that names or holds pictures, for reading; it is read twice, to count and to score.

    Args:
        path: of the file; one without bytes is not opened, since files of the system's that have no size may have
            no end.

    Raises:
        InputError: when it is a pipe or a device.
        OSError: when it cannot be opened.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{shown(str(path))}: is a pipe or a device, not a file; write what comes through it to a file first"
        )
    return path.open("rb") if status.st_size else io.BufferedReader(io.BytesIO())
