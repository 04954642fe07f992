"""Manifests: tables that name many pictures."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeAlias

from .embedded import embedded, holds_images, is_image_struct
from .errors import InputError, Parameter
from .limits import LINE, NAME, TABLE, check_size
from .shards import Found, Sample
from .spelling import located
from .tabular import listed_names, open_text, read_delimited, read_objects
from .walking import open_again, reading, shown

MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet")
_ROWS = 1024  # that are read at a time; of images, one
_BUFFER = 1 << 20  # bytes of a column that are read at a time, where it holds images
_TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
_REMEDY = "keep names of files in a table of their own"

Cell: TypeAlias = str | Found  # the name of a file, or an image


def read_manifest(
    path: Path, picture_column: str, reference_column: str | None, wanted: Callable[[], bool]
) -> Iterator[Sample]:
    """The rows in order: the names of a picture and its reference, or the images that the table holds itself.

    Args:
        path: of the table.
        picture_column: its column of pictures.
        reference_column: its column of references, which may be absent when it is called ``reference``; None to
            read no references.
        wanted: says at each row whether to keep an image that the table holds.

    Raises:
        InputError: when the table cannot be read, or a row has no name of a picture.
    """
    columns = (picture_column,) if reference_column is None else (picture_column, reference_column)
    kind = path.suffix.lower()
    with reading(path, f"a table ({kind})"):
        rows = {".parquet": _parquet, ".jsonl": _jsonl}.get(kind, _csv)(path, columns)
        for where, *cells in rows:
            keep = wanted()
            found = [_found(path, where, cell, keep) for cell in cells]
            if found[0] is None:
                raise InputError(f"{shown(str(path))}, {where}: the picture's name is empty; fill it in")
            yield found[0], found[1]


def _found(path: Path, where: str, cell: str | Found, keep: bool) -> Found | None:
    if isinstance(cell, Found):
        return cell if keep else replace(cell, data=None)
    if len(cell) > NAME:
        raise _too_long(path, where)
    return Found(located(path.parent, cell)) if cell.strip() else None


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    with open_text(path, _REMEDY) as file:
        rows = read_delimited(file, path, _REMEDY)
        _, names = next(rows)
        places = [names.index(name) for name in _columns(path, names, columns)]
        for line, row in rows:
            yield f"line {line}", row[places[0]], row[places[1]] if len(places) > 1 else ""


def _jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    with open_text(path, _REMEDY) as file:
        for at, (line, row) in enumerate(read_objects(file, path, _REMEDY, columns[0])):
            if not at:  # the first row says whether the names are right
                _columns(path, list(row), columns)
            cells = ["" if (cell := row.get(name)) is None else cell for name in columns]
            for name, cell in zip(columns, cells, strict=True):
                if not isinstance(cell, str):
                    raise InputError(
                        f"{shown(str(path))}, line {line}: {name!r} is no text, but {type(cell).__name__}"
                    )
            yield f"line {line}", str(cells[0]), str(cells[1]) if len(cells) > 1 else ""


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Cell, Cell]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow; pip install 'aigciqa[parquet]'") from None
    row = 0
    with open_again(path) as file:
        there, images = _checked(path, file, arrow, parquet, columns)
        names = [name for name in there if name not in images]
        # a text that is there once and that a million rows name is kept once
        with parquet.ParquetFile(
            file, read_dictionary=names, pre_buffer=False, buffer_size=_BUFFER if images else 0
        ) as table:
            for batch in table.iter_batches(1 if images else _ROWS, columns=there, use_threads=False):
                found = [
                    batch.column(name).to_pylist()
                    if name in images
                    else _cells(path, row, batch.column(name), arrow)
                    for name in there
                ]
                for cells in zip(*found, strict=True):
                    row += 1
                    given: list[Cell] = [
                        embedded(path, row, name, cell, name == columns[0])
                        if name in images
                        else os.fsdecode(cell or "")
                        for name, cell in zip(there, cells, strict=True)
                    ]
                    yield f"row {row}", given[0], given[1] if len(given) > 1 else ""


def _checked(
    path: Path, file: IO[bytes], arrow: Any, parquet: Any, columns: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """The columns to read, and those that hold images, once the file says how much memory they take."""
    what = shown(str(path))
    file.seek(-8, os.SEEK_END)
    footer = file.read(8)
    if footer.endswith(b"PAR1"):
        check_size(int.from_bytes(footer[:4], "little"), LINE, f"{what}: the table's description", _REMEDY)
    file.seek(0)
    # which is not closed, as it would close the file
    table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
    there = _columns(path, table.schema_arrow.names, columns)
    types, metadata, images = arrow.types, table.metadata, []
    for name in there:
        kind = table.schema_arrow.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        fixed = types.is_fixed_size_binary(kind) and kind.byte_width <= NAME
        if not (fixed or types.is_null(kind) or str(kind) in _TEXTS or is_image_struct(kind, types)):
            raise InputError(
                f"{what}: column {name!r} holds {str(kind)[:60]}, not names or encoded images; name another column, or "
                "score the images with aigciqa.integrations.datasets.score_batch"
            )
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for size in ("total_compressed_size", "total_uncompressed_size"):
            needed = sum(getattr(leaf, size) for leaf in _leaves(group, there))
            remedy = "write the table with smaller groups of rows (row_group_size)"
            check_size(needed, TABLE, f"{what}: {' and '.join(there)} in one group of rows", remedy)
    for name in there:
        if holds_images(table, name, types):
            images.append(name)
    names = [name for name in there if name not in images]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for size in ("total_compressed_size", "total_uncompressed_size"):
            needed = sum(getattr(leaf, size) for leaf in _leaves(group, names))
            if needed > (1 + group.num_rows) * len(names) * 2 * NAME:  # twice, for what is said of them
                raise _too_long(path, "in its rows")
    return there, images


def _leaves(group: Any, names: Sequence[str]) -> Iterator[Any]:
    """What a group of rows says of the columns, of which a struct has several."""
    for leaf in map(group.column, range(group.num_columns)):
        if any(leaf.path_in_schema == name or leaf.path_in_schema.startswith(f"{name}.") for name in names):
            yield leaf


def _cells(path: Path, row: int, column: Any, arrow: Any) -> list[str | bytes | None]:
    if arrow.types.is_dictionary(column.type):
        lengths = import_module("pyarrow.compute").binary_length(column.dictionary)
        longest = import_module("pyarrow.compute").max(lengths).as_py() or 0
        if longest > NAME:
            raise _too_long(path, f"row {row + 1} or later")
        column = column.dictionary_decode()
    cells: list[str | bytes | None] = column.to_pylist()
    return cells


def _too_long(path: Path, where: str) -> InputError:
    return InputError(
        f"{shown(str(path))}, {where}: holds a name of more than {NAME:,} bytes; name the column of pictures by ",
        Parameter("picture_column"),
        ", and that of references by ",
        Parameter("reference_column"),
    )


def _columns(path: Path, names: Sequence[str], columns: tuple[str, ...]) -> list[str]:
    """Those of `columns` that the table has."""
    for name in columns:
        if names.count(name) > 1:
            raise InputError(f"{shown(str(path))}: {names.count(name)} columns are called {name!r}")
        if name not in names and (name == columns[0] or name != "reference"):
            option = "picture_column" if name == columns[0] else "reference_column"
            listed = listed_names(names)
            raise InputError(
                f"{shown(str(path))}: no column {name!r}; its columns are {listed}; name it by ",
                Parameter(option),
            )
    return [name for name in columns if name in names]
