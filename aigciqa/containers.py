"""Manifests: tables that name many pictures."""

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from .errors import InputError, Parameter
from .limits import LINE, NAME, TABLE, check_size
from .tabular import open_text, read_delimited
from .walking import open_again, reading, shown

MANIFESTS = (".csv", ".tsv", ".parquet")
_ROWS = 1024  # that are read at a time
_TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
_REMEDY = "keep names of files in a table of their own"


def read_manifest(path: Path, picture_column: str, reference_column: str) -> Iterator[tuple[str, str | None]]:
    columns = (picture_column, reference_column)
    kind = path.suffix.lower()
    with reading(path, f"a table ({kind})"):
        rows = _parquet(path, columns) if kind == ".parquet" else _csv(path, columns)
        for where, picture, reference in rows:
            if max(len(picture), len(reference)) > NAME:
                raise _too_long(path, where)
            if not picture:
                raise InputError(f"{shown(str(path))}, {where}: the picture's name is empty; fill it in")
            yield str(path.parent / picture), str(path.parent / reference) if reference else None


def _csv(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    with open_text(path, _REMEDY) as file:
        rows = read_delimited(file, path, _REMEDY)
        _, names = next(rows)
        places = [names.index(name) for name in _columns(path, names, columns)]
        for line, row in rows:
            yield f"line {line}", row[places[0]], row[places[1]] if len(places) > 1 else ""


def _parquet(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow; pip install 'aigciqa[parquet]'") from None
    row = 0
    with open_again(path) as file:
        there = _checked(path, file, arrow, parquet, columns)
        # a text that is there once and that a million rows name is kept once
        with parquet.ParquetFile(file, read_dictionary=there, pre_buffer=False) as table:
            for batch in table.iter_batches(_ROWS, columns=there, use_threads=False):
                found = [_cells(path, row, batch.column(name), arrow) for name in there]
                for cells in zip(*found, strict=True):
                    row += 1
                    texts = [os.fsdecode(cell or "") for cell in cells]
                    yield f"row {row}", texts[0], texts[1] if len(texts) > 1 else ""


def _checked(path: Path, file: IO[bytes], arrow: Any, parquet: Any, columns: tuple[str, str]) -> list[str]:
    """The columns to read, once the file says that they hold names and how much memory they take."""
    what = shown(str(path))
    file.seek(-8, os.SEEK_END)
    footer = file.read(8)
    if footer.endswith(b"PAR1"):
        check_size(int.from_bytes(footer[:4], "little"), LINE, f"{what}: the table's description", _REMEDY)
    file.seek(0)
    table = parquet.ParquetFile(file, pre_buffer=False)  # which is not closed, as it would close the file
    there = _columns(path, table.schema_arrow.names, columns)
    types = arrow.types
    for name in there:
        kind = table.schema_arrow.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        fixed = types.is_fixed_size_binary(kind) and kind.byte_width <= NAME
        if not (fixed or types.is_null(kind) or str(kind) in _TEXTS):
            raise InputError(f"{what}: column {name!r} holds {kind}, not names")
    metadata = table.metadata
    leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in there]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for size in ("total_compressed_size", "total_uncompressed_size"):
            needed = sum(getattr(group.column(leaf), size) for leaf in leaves)
            check_size(needed, TABLE, f"{what}: {' and '.join(there)} in one group of rows", _REMEDY)
            if needed > (1 + group.num_rows) * len(leaves) * 2 * NAME:  # twice, for what is said of them
                raise _too_long(path, "in its rows")
    return there


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


def _columns(path: Path, names: Sequence[str], columns: tuple[str, str]) -> list[str]:
    """Those of `columns` that the table has."""
    for name in columns:
        if names.count(name) > 1:
            raise InputError(f"{shown(str(path))}: {names.count(name)} columns are called {name!r}")
        if name not in names and (name == columns[0] or name != "reference"):
            option = "picture_column" if name == columns[0] else "reference_column"
            listed = ", ".join(map(repr, names)) or "none"
            raise InputError(
                f"{shown(str(path))}: no column {name!r}; its columns are {listed}; name it by ",
                Parameter(option),
            )
    return [name for name in columns if name in names]
