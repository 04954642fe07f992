"""Encoded images in the cells of a Parquet file."""

from itertools import islice
from pathlib import Path
from typing import Any

from .limits import HELD, MIB, NAME
from .shards import Found
from .walking import shown

_BINARY = ("binary", "large_binary", "binary_view")
_PEEKED = 16  # rows that say whether a column of bytes holds names or images


def is_image_struct(kind: Any, types: Any) -> bool:
    """Whether a column's type is that of an image of Hugging Face's datasets: ``{bytes, path}``."""
    return bool(types.is_struct(kind)) and {"bytes"} <= {field.name for field in kind} <= {"bytes", "path"}


def holds_images(table: Any, name: str, types: Any) -> bool:
    """Whether a column of a Parquet file holds encoded images, as its type or its first cells say.

    No path holds a NUL, and nearly every encoded image does.
    """
    kind = table.schema_arrow.field(name).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if str(kind) not in _BINARY:
        return is_image_struct(kind, types)
    for batch in islice(table.iter_batches(1, columns=[name], use_threads=False), _PEEKED):
        cell = batch.column(name)[0].as_py() or b""
        if b"\0" in cell or len(cell) > NAME:
            return True
    return False


def embedded(path: Path, row: int, column: str, cell: Any, is_picture: bool) -> str | Found:
    """An image, or the name of its file where the cell has only that; "" for a reference that is not there.

    Args:
        path: of the Parquet file.
        row: counted from 1.
        column: of the cell, for messages.
        cell: bytes, or a dict of ``bytes`` and ``path``; None where it is empty.
        is_picture: whether it is the column of pictures, of which each row needs one.
    """
    data, inner = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    inner = inner if isinstance(inner, str) and len(inner) <= NAME else ""
    if not data and inner:
        return inner
    name = f"{path}/{inner}" if inner else f"{path}#{row}"
    if not data:
        error = f"{shown(name)}: the column {column!r} has no image in this row"
        return Found(name, None, error) if is_picture else ""
    if len(data) > HELD:
        limit = f"the limit of {HELD / MIB:,.0f} MiB"
        return Found(
            name, None, f"{shown(name)}: needs {len(data) / MIB:,.0f} MiB, more than {limit}; make it smaller"
        )
    return Found(name, data)
