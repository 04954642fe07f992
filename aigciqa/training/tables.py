"""Tables of ratings: read as text, their columns found by name, their labels checked."""

import csv
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import limits
from ..config import DIMENSIONS
from ..errors import InputError
from .bounds import CELL, COLUMNS, REMEDY, check_file, check_text, check_xlsx

TABLES = (".csv", ".tsv", ".xlsx", ".parquet")
EMPTY = ("", "nan", "na", "n/a", "none", "null")
ROLES: dict[str, tuple[str, ...]] = {  # what their columns are called, in lower case, the likeliest first
    "picture": ("picture", "generated_image", "image", "image_path", "file", "filename", "path", "name"),
    "reference": ("reference", "image_prompt", "ref", "source"),
    "group": ("group", "prompt_id"),
    "split": ("split",),
    "generator": ("generator", "model"),
    "prompt": ("prompt", "text_prompt"),
    "ladder": ("ladder",),
}
MOS: dict[str, tuple[str, ...]] = {
    "quality": ("quality", "mos_q", "mos_quality"),
    "authenticity": ("authenticity", "mos_a", "mos_authenticity"),
    "correspondence": ("correspondence", "mos_c", "mos_correspondence", "mos_align"),
    "overall": ("overall", "final", "mos_overall", "mos_final"),
}


def read_table(path: Path, header: bool = True, rows: int | None = None) -> pd.DataFrame:
    """Read a CSV, TSV, XLSX or Parquet file, every cell as text, ``""`` where it is empty.

    Args:
        path: the file; its ending says what it is, and ``.txt`` is read as tab-separated.
        header: whether the first row names the columns.
        rows: read so many at most; None for all.

    Raises:
        InputError: when it cannot be read as such a table.
    """
    kind = path.suffix.lower()
    how: dict[str, Any] = {
        "dtype": str, "keep_default_na": False, "header": 0 if header else None, "nrows": rows
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the last column
            if kind == ".parquet":
                frame = _parquet(path)
            elif kind == ".xlsx":
                check_xlsx(path)
                frame = pd.read_excel(path, **how)
            else:
                check_text(path, b",\n\r" if kind == ".csv" else b"\t\n\r")
                how |= {"index_col": False, "encoding": "utf-8-sig", "skip_blank_lines": header}
                if kind != ".csv":
                    how["sep"] = "\t"
                if not header:
                    how["quoting"] = csv.QUOTE_NONE  # quotes in a prompt are part of it
                frame = pd.read_csv(path, **how)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # the readers raise nearly anything for a file that is damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a table ({kind}): {reason}") from None
    frame = frame.map(lambda cell: str(cell).strip() if np.ndim(cell) or pd.notna(cell) else "")
    frame.columns = frame.columns.map(str)
    frame.index = pd.RangeIndex(1 + header, 1 + header + len(frame))
    return frame[(frame != "").any(axis=1)] if header else frame  # spreadsheets end in empty rows


def _parquet(path: Path) -> pd.DataFrame:
    """In small parts, since a text that stands in the file once may be the cell of a million rows."""
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    check_file(path, limits.TABLE)
    with pq.ParquetFile(path) as file:
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
        limits.check_size(
            CELL * rows * columns, limits.TABLE, f"{path} ({rows:,} rows, {columns:,} columns)", REMEDY
        )
        if columns > COLUMNS:
            raise InputError(f"{path}: has {columns:,} columns, more than {COLUMNS:,}; {REMEDY}")
        parts, size = [], 0
        for part in file.iter_batches(256):
            size += part.nbytes
            limits.check_size(size, limits.TABLE, f"{path}, unpacked", REMEDY)
            parts.append(part)
        table = pa.Table.from_batches(parts, file.schema_arrow)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def numbers(column: "pd.Series[Any]", file: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The labels in a column of text, NaN where it is empty.

    Raises:
        InputError: naming the row and column of what is not a number.
    """
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(values) & ~column.astype(str).str.lower().isin(EMPTY).to_numpy()
    if wrong.any():
        row = column.index[int(wrong.argmax())]
        raise InputError(f"{file}: row {row}, column {column.name!r}: {column[row]!r} is not a number")
    return values


def find_columns(columns: Iterable[str]) -> dict[str, str]:
    """Our name for each column that has an obvious one: ``{"picture": "Image", "quality": "MOS"}``."""
    theirs = {str(column).lower(): str(column) for column in reversed(list(columns))}
    found = {
        ours: theirs[next(name for name in names if name in theirs)]
        for ours, names in (ROLES | MOS).items()
        if any(name in theirs for name in names)
    }
    if "mos" in theirs and not found.keys() & MOS.keys():
        found["quality"] = theirs["mos"]
    return found


def select(frame: pd.DataFrame, names: Mapping[str, str], file: Path) -> pd.DataFrame:
    """The columns of `names` (ours to theirs) under our names, labels as numbers.

    Raises:
        InputError: when none holds the pictures or none holds labels, a picture's name is empty, or a label is
            not a number.
    """
    there = f"its columns are {', '.join(map(repr, frame.columns)) or 'none'}"
    if "picture" not in names:
        raise InputError(f"{file}: no column of pictures; name it: columns={{'picture': ...}}; {there}")
    if not names.keys() - ROLES.keys():
        raise InputError(
            f"{file}: no column of labels ({', '.join(DIMENSIONS)} or mos); pass dimensions=[...], or "
            f"columns={{'quality': ...}}; {there}"
        )
    labels = {ours: numbers(frame[theirs], file) for ours, theirs in names.items() if ours not in ROLES}
    frame = frame[list(names.values())].set_axis(list(names), axis=1).assign(**labels)
    if (empty := frame["picture"] == "").any():
        raise InputError(
            f"{file}: row {frame.index[int(empty.to_numpy().argmax())]}: the picture's name is empty"
        )
    return frame
