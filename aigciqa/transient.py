"""Errors that may pass, those of the disk, the network share, the permissions or the memory, told from other errors."""

import errno
import io
import os
import stat
from collections.abc import Callable
from typing import Any

from .errors import TransientError

# An OSError of these says that the name is wrong. Every other OSError of the system is one of the place.
_OF_THE_NAME = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ,
    errno.ENXIO,
}  # fmt: skip
# How PyTorch and Pillow's decoders say that memory was refused; both raise an error without a number.
_NO_MEMORY = ("can't allocate memory", "not enough memory: you tried", "out of memory error")

# Ends the message of every row that failed for such a reason, so that a row tells it without another column.
AGAIN = "try again, with --retry-failed where --output has this row"


def transient(error: BaseException | None) -> BaseException | None:
    """Find the error of the place that an error comes from.

    Args:
        error: any; what it was raised from, or while handling, is looked at, too.

    Returns:
        The OSError, or whatever says that there is no memory; None where the place is not to blame.

    Examples:
        >>> transient(OSError(errno.EIO, "Input/output error"))
        OSError(5, 'Input/output error')
        >>> transient(OSError("image file is truncated")), transient(FileNotFoundError(errno.ENOENT, "no"))
        (None, None)
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return error
        if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_NAME:
            return error
        if isinstance(error, OSError | RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
            return error
        error = error.__cause__ or error.__context__
    return None


def not_now(what: str, cause: BaseException) -> TransientError:
    """The error for an image that cannot be read now; raise it from its cause.

    Args:
        what: how messages call the image.
        cause: as `transient` gives it.

    Examples:
        >>> str(not_now("gen.png", OSError(errno.EIO, "Input/output error")))
        'gen.png: cannot be read now: Input/output error; try again, with --retry-failed where --output has this row'
    """
    if isinstance(cause, OSError) and cause.errno is not None:
        return TransientError(f"{unreadable(what, cause)}; {AGAIN}")
    return TransientError(
        f"{what}: there is not enough memory to decode it; free some, or refuse pictures of this size with "
        f"aigciqa.image.MAX_PIXELS (--max-pixels on the command line); {AGAIN}"
    )


def is_transient(message: str | None) -> bool:
    """Whether the error of a row is one of the place.

    Examples:
        >>> is_transient(f"gen.png: cannot be read now: Stale file handle; {AGAIN}"), is_transient("gen.png: empty")
        (True, False)
    """
    return message is not None and message.endswith(AGAIN)


def unreadable(what: str, cause: BaseException) -> str:
    """How messages begin that say of what could not be read: a file, and why."""
    return f"{what}: cannot be read now: {getattr(cause, 'strerror', None) or cause}"


class _Watched(io.FileIO):
    """Remembers that a read failed, whatever a decoder makes of the error, and notices when one came short."""

    failed: OSError | None = None

    def __init__(self, path: "str | os.PathLike[str]", opener: Any) -> None:
        super().__init__(os.fspath(path), "r", opener=opener)
        self._size = now.st_size if stat.S_ISREG((now := os.fstat(self.fileno())).st_mode) else 0

    def readinto(self, buffer: Any) -> Any:
        found = self._remembered(super().readinto, buffer)
        if not found and len(buffer):
            self._remembered(self._check_end)
        return found

    def readall(self) -> Any:
        found = self._remembered(super().readall)
        self._remembered(self._check_end)
        return found

    def _remembered(self, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except OSError as error:
            self.failed = error
            raise

    def _check_end(self) -> None:
        if self._size and (position := self.tell()) < self._size:  # such as on a share that was cut off
            raise OSError(errno.EIO, f"it ended after {position:,} of {self._size:,} bytes while it was read")


class WatchedFile(io.BufferedReader):
    """A file that is open for reading, which remembers an error of the system while it was read.

    Args:
        path: of it.
        opener: as for `open`.

    Raises:
        OSError: when it cannot be opened.

    Examples:
        >>> with WatchedFile("gen.png") as file:
        ...     file.read(4), file.failed
        (b'\x89PNG', None)
    """

    def __init__(self, path: "str | os.PathLike[str]", opener: Any = None) -> None:
        self._watched = _Watched(path, opener)
        super().__init__(self._watched)

    @property
    def failed(self) -> OSError | None:
        """What went wrong when it was read; a read that ended before the file's end counts, too."""
        return self._watched.failed

    def unmapped(self) -> io.BufferedReader:
        """The same file for a decoder, which cannot ask for its descriptor.

        With that libtiff would read by itself and lose the error's number; and it maps the file into memory, where an
        error of the disk, or a file that another process cuts short, ends the whole process.
        """
        return _Unmapped(self._watched)


class _Unmapped(io.BufferedReader):
    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")
