"""Writing a file so that it appears whole or not at all, and only where it was asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: "str | os.PathLike[str]") -> Iterator[IO[bytes]]:
    """Write a file beside its place, and move it there at the end of the block; after an error nothing has changed.

    A link of either name is replaced, never followed: where names can be foreseen, somebody else may have put it
    there, to have another file overwritten. Files are made, not opened.

    Args:
        path: of the file, in a folder that is there. Only one process may write it at a time.

    Yields:
        The file to write to.

    Raises:
        OSError: when it cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/a.txt") as file:
        ...         _ = file.write(b"whole")
        ...     Path(folder, "a.txt").read_bytes()
        b'whole'
    """
    temporary, file = _begin(Path(path))
    try:
        with file:
            yield file
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _begin(path: Path) -> tuple[Path, IO[bytes]]:
    temporary = path.with_name(f".{path.name}.part")  # always the same, so that kills do not fill the folder
    temporary.unlink(missing_ok=True)
    return temporary, temporary.open("xb")


def check_writable(path: "str | os.PathLike[str]") -> None:
    """Find out whether `replacing` could write, before the work for it.

    Args:
        path: of the file, which stays as it is.

    Raises:
        OSError: when it cannot be written.
    """
    temporary, file = _begin(Path(path))
    file.close()
    temporary.unlink()


def write_whole(path: "str | os.PathLike[str]", content: bytes | str) -> None:
    """Write a file as `replacing` does.

    Args:
        path: of the file.
        content: what it will hold; text becomes UTF-8.

    Raises:
        OSError: when it cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_named(path: "str | os.PathLike[str]", content: str) -> None:
    """Write a file of a name that the user chose: through a link, and into a pipe or a device such as /dev/stdout.

    Args:
        path: as the user gave it.
        content: what it will hold, in UTF-8.

    Raises:
        OSError: when it cannot be written.
    """
    place = Path(os.path.realpath(path))
    if place.is_file() or not Path(path).exists():
        write_whole(place, content)
    else:
        Path(path).write_bytes(content.encode())
