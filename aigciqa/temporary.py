"""Commands where no temporary file can be written."""

import os


def allow_no_temporary_folder() -> None:
    """Let `tempfile.gettempdir` name a folder where none can be written, instead of raising FileNotFoundError.

    PyTorch asks for the folder when it is imported, and most commands never write to it. What does write fails then,
    with an error that names the folder.
    """
    import tempfile

    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.environ.get("TMPDIR") or "/tmp"


def temporary_folder_of(error: OSError) -> str | None:
    """The folder of temporary files, if an error is of a file in it; otherwise None.

    Args:
        error: which names a file, or not.

    Examples:
        >>> temporary_folder_of(OSError(30, "Read-only file system", "elsewhere/a.txt")) is None
        True
    """
    import tempfile

    folder = os.path.realpath(tempfile.gettempdir())
    if not isinstance(error.filename, str):
        return None
    path = os.path.realpath(error.filename)
    return folder if path == folder or os.path.dirname(path) == folder else None  # noqa: PTH120
