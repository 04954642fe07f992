"""Tables of ratings: read as text, their columns found by name, their labels checked."""

import csv
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import limits
from ..config import DIMENSIONS
from ..embedded import holds_images
from ..errors import InputError, Parameter
from ..tabular import encoding_of, separator_of
from .bounds import CELL, COLUMNS, REMEDY, check_file, check_text, check_xlsx

TABLES = (".csv", ".tsv", ".xlsx", ".parquet")
TEXTS = (".csv", ".tsv", ".txt")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
PEEK = 1 << 20  # bytes of a table of text that its encoding and separator are told from
EMPTY = ("", "nan", "na", "n/a", "none", "null")
ROLES: dict[str, tuple[str, ...]] = {  # what their columns are called, in lower case, the likeliest first
    "picture": (
        "picture",
        "generated_image",
        "image",
        "image_name",
        "image_path",
        "file",
        "filename",
        "path",
        "name",
    ),
    "reference": ("reference", "image_prompt", "ref", "source"),
    "group": ("group", "prompt_id"),
    "split": ("split",),
    "generator": ("generator", "model"),
    "prompt": ("prompt", "text_prompt"),
    "ladder": ("ladder",),
}
MOS: dict[str, tuple[str, ...]] = {
    "quality": ("quality", "mos_q", "mos_quality", "mosz1"),
    "authenticity": ("authenticity", "mos_a", "mos_authenticity", "mosz2"),
    "correspondence": ("correspondence", "mos_c", "mos_correspondence", "mos_align", "mosz3"),
    "overall": ("overall", "final", "mos_overall", "mos_final"),
}


def read_table(path: Path, header: bool = True, rows: int | None = None) -> pd.DataFrame:
    """Read a CSV, TSV, XLSX or Parquet file, every cell as text without blanks around it, ``""`` where it is empty.

    Text is UTF-8, or UTF-16 as Excel saves "Unicode text". A CSV file may have semicolons between its cells, and
    numbers such as ``3,5``, as Excel saves it where the comma is the decimal sign.

    Args:
        path: the file; its ending says what it is, and ``.txt`` is read as tab-separated.
        header: whether the first row names the columns; else their names are "0", "1" and so on.
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
                frame = _text(path, how)
    except (InputError, ImportError, MemoryError):
        raise
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: cannot be read as a table ({kind}): it is neither UTF-8 nor UTF-16; save it as CSV UTF-8"
        ) from None
    except Exception as error:  # the readers raise nearly anything for a file that is damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a table ({kind}): {reason}") from None
    frame = frame.map(lambda cell: str(cell).strip() if np.ndim(cell) or pd.notna(cell) else "")
    frame.columns = frame.columns.map(lambda name: unicodedata.normalize("NFC", str(name).strip()))
    frame = _without_empty(frame, header)
    if len(double := frame.columns[frame.columns.duplicated()]):
        raise InputError(f"{path}: several columns are named {double[0]!r}; rename all but one")
    frame.index = pd.RangeIndex(1 + header, 1 + header + len(frame))
    return frame[(frame != "").any(axis=1)] if header else frame  # spreadsheets end in empty rows


def _without_empty(frame: pd.DataFrame, header: bool) -> pd.DataFrame:
    """Without the columns that only separators at the end of the lines made."""
    filled = [bool((frame.iloc[:, at] != "").any()) for at in range(frame.shape[1])]
    if not header:
        return frame.iloc[:, : len(filled) - [*reversed(filled), True].index(True)]
    named = [bool(name) and not name.startswith("Unnamed: ") for name in frame.columns]
    return frame.loc[:, [one or other for one, other in zip(named, filled, strict=True)]]


def _text(path: Path, how: dict[str, Any]) -> pd.DataFrame:
    """A table of text by pandas, whose parser has no limit to a cell."""
    check_file(path, limits.TABLE)  # before it is opened, for it may be a pipe
    encoding, separator, extra = layout_of(path)
    check_text(path, separator.encode() + b"\n\r")
    header = how["header"] == 0
    how = how | {
        "index_col": False, "encoding": encoding, "sep": separator, "skip_blank_lines": header
    }  # fmt: skip
    if not header and separator == "\t":
        how["quoting"] = csv.QUOTE_NONE  # quotes in a prompt are part of it
    if header and extra and how["nrows"] != 0:  # lines that end in separators, under a header that does not
        names = pd.read_csv(path, **(how | {"nrows": 0})).columns
        how["names"] = [*names, *(f"Unnamed: {len(names) + i}" for i in range(extra))]
    frame = pd.read_csv(path, **how)
    return frame if separator == "," else frame.apply(_decimal_points)


def layout_of(path: Path) -> tuple[str, str, int]:
    """Encoding and separator of a table of text, and how many separators end its second line without a column for each.

    Only its beginning is read.
    """
    with path.open("rb") as file:
        start = file.read(PEEK)
    encoding = encoding_of(start)
    lines = [*start.decode(encoding, errors="replace").splitlines()[:2], "", ""]
    separator = separator_of(lines[0], path.suffix)
    cells = [sum(part.count(separator) for part in line.split('"')[::2]) for line in lines[:2]]
    extra = min(cells[1] - cells[0], COLUMNS)
    return encoding, separator, extra if extra > 0 and lines[1].endswith(separator * extra) else 0


def _decimal_points(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Numbers such as 3,5 as 3.5, in a column that has nothing else."""
    there = column.astype(str).str.strip()
    numeric = there.str.fullmatch(
        r"[+-]?\d*(?:,\d+)?(?:[eE][+-]?\d+)?|" + "|".join(map(re.escape, EMPTY)), case=False
    )
    return there.str.replace(",", ".", regex=False) if len(there) and numeric.all() else column


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
        names = [name for name in file.schema_arrow.names if not holds_images(file, name, pa.types)]
        if not names:
            raise InputError(
                f"{path}: holds images and no label; write the images to files, and name these here"
            )
        parts, size = [], 0
        for part in file.iter_batches(256, columns=names):
            size += part.nbytes
            limits.check_size(size, limits.TABLE, f"{path}, unpacked", REMEDY)
            parts.append(part)
        table = pa.Table.from_batches(parts, pa.schema([file.schema_arrow.field(name) for name in names]))
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
        raise InputError(
            f"{file}: no column of pictures; name it: ",
            Parameter("columns", "picture=...", "{'picture': ...}"),
            f"; {there}",
        )
    if not names.keys() - ROLES.keys():
        raise InputError(
            f"{file}: no column of labels ({', '.join(DIMENSIONS)} or mos); name it: ",
            Parameter("columns", "quality=...", "{'quality': ...}"),
            f"; {there}",
        )
    labels = {ours: numbers(frame[theirs], file) for ours, theirs in names.items() if ours not in ROLES}
    frame = frame[list(names.values())].set_axis(list(names), axis=1).assign(**labels)
    if (empty := frame["picture"] == "").any():
        raise InputError(
            f"{file}: row {frame.index[int(empty.to_numpy().argmax())]}: the picture's name is empty"
        )
    return frame


def is_bare(path: Path) -> bool:
    """Whether a table of text has no header: its first cell is the name of an image, and another a number."""
    if path.suffix.lower() not in TEXTS or not path.is_file() or not path.stat().st_size:
        return False
    encoding, separator, _ = layout_of(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        line = file.readline(PEEK)  # not all of a file that has no lines
    cells = [cell.strip().strip('"') for cell in line.split(separator)]
    named = len(cells) > 1 and Path(cells[0].replace("\\", "/")).suffix.lower() in IMAGES
    others = pd.Series(cells[1:], dtype=str).str.replace(",", ".", regex=False)
    return named and bool(pd.to_numeric(others, errors="coerce").notna().any())
