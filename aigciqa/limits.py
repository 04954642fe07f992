"""How much memory one input may ask for; code that takes in data checks these limits before it allocates."""

from typing import IO

from .errors import InputError

MIB, GIB = 1 << 20, 1 << 30

IMAGE_FILE = 1 * GIB  # an encoded image that is read from a file
HELD = 256 * MIB  # an encoded image that is held in memory, such as a member of a tar shard
TABLE = 1 * GIB  # a manifest or a table of labels, uncompressed
GRAPH = 2 * GIB  # an ONNX file; its format allows no more
STRUCTURE = 4 * MIB  # an ONNX file without its weights; parsed, it takes up to 75 times as much
HEADERS = 1 * MIB  # what a tar archive may say of one member: its name, its links, its holes
ASIDE = 4 * GIB  # disk: what is kept in a temporary file because it cannot be read twice
LINE = 16 * MIB  # a row of a table of text
NAME = 64 << 10  # a path, of which no system takes more
WORK = 4 * GIB  # working memory: of a network for one image, of one map


def check_size(size: int, limit: int, what: str, remedy: str) -> None:
    """Refuse what is larger than its limit.

    Args:
        size: in bytes, as announced by a header, a directory entry or an estimate.
        limit: one of this module's.
        what: what has this size, which the message begins with.
        remedy: what to do, which the message ends with.

    Raises:
        InputError: when `size` is above `limit`.

    Examples:
        >>> check_size(3 << 30, IMAGE_FILE, "big.png", "make it smaller")
        Traceback (most recent call last):
        aigciqa.errors.InputError: big.png: needs 3,072 MiB, more than the limit of 1,024 MiB; make it smaller
    """
    if size > limit:
        raise InputError(
            f"{what}: needs {size / MIB:,.0f} MiB, more than the limit of {limit / MIB:,.0f} MiB; {remedy}"
        )


def read_within(file: IO[bytes], limit: int, what: str, remedy: str) -> bytes:
    """Read a stream to its end, or refuse it as soon as it has given more than `limit` bytes.

    Args:
        file: open for reading; its announced size is not relied on.
        limit: one of this module's.
        what: what is read, for the message.
        remedy: what to do, for the message.

    Raises:
        InputError: when there is more.

    Examples:
        >>> import io
        >>> read_within(io.BytesIO(b"abc"), HELD, "a.png", "make it smaller")
        b'abc'
    """
    parts, left = [], limit + 1
    while left and (block := file.read(min(left, 1 << 20))):
        parts.append(block)
        left -= len(block)
    if not left:
        raise InputError(f"{what}: holds more than the limit of {limit / MIB:,.0f} MiB; {remedy}")
    return b"".join(parts)
