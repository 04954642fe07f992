"""Manifests: tables of ratings with columns of the user's own."""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..config import DIMENSIONS
from ..errors import InputError, Parameter
from .labelfiles import Table, joined, label_files
from .naming import located
from .overall import PARTS
from .tables import ROLES, find_columns, is_bare, read_table, select


def read_manifest(
    path: Path,
    root: Path | None,
    columns: Mapping[str, str],
    dimensions: Sequence[str] | None,
    header: bool | None,
) -> Table:
    """The table of a manifest under our names.

    Args:
        path: the file, or a folder with one such file or those of the sides of a split.
        root: the folder that the names of the pictures start from; None for that of the file.
        columns: ours to theirs; without a header theirs are "0", "1" and so on.
        dimensions: which to take; None for all with obvious names.
        header: whether the first row names the columns; None to tell by its cells.

    Raises:
        InputError: when there is no such file or column, or a label is not a number.
    """
    known = (*ROLES, *DIMENSIONS)
    for key in columns.keys() - {*known, *(dimensions or ())}:  # another dimension, or mistyped
        if near := difflib.get_close_matches(key, known, 1, 0.7):
            raise InputError(Parameter("columns"), f": {key!r} unknown; did you mean {near[0]!r}?")
    given = {ours: unicodedata.normalize("NFC", theirs) for ours, theirs in columns.items()}

    def read_one(file: Path) -> pd.DataFrame:
        bare = is_bare(file) if header is None else not header
        frame = read_table(file, header=not bare)
        own = {name: name for name in dimensions or () if name in frame.columns}
        names = (_by_place(frame, file, given) if bare else find_columns(frame.columns)) | own | given
        if dimensions:
            names = {ours: theirs for ours, theirs in names.items() if ours in ROLES or ours in dimensions}
        if missing := set(names.values()) - set(frame.columns):
            raise InputError(
                f"{file}: no column {', '.join(map(repr, sorted(missing)))}; it has {list(frame)}"
            )
        return select(frame, names, file)

    files = label_files(path, f"{path}: no table with pictures and labels in it")
    found = joined(path, files, read_one)
    frame, root = found.frame, root or files[0].parent
    if "group" not in frame:
        frame["group"] = ""
    for fallback in ("reference", "prompt", "picture"):
        if fallback in frame:
            frame["group"] = frame["group"].where(frame["group"] != "", frame[fallback])
    for role in ("picture", "reference"):
        if role in frame:
            frame[role] = [located(root, name) if name else "" for name in frame[role]]
    return found


def _by_place(frame: pd.DataFrame, file: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Columns without a header: pictures first, then one label or three, then perhaps the prompt."""
    if "picture" in given:
        return {}
    numeric = [pd.to_numeric(frame[name], errors="coerce").notna().any() for name in frame.columns[1:]]
    count = [*numeric, False].index(False)
    if count not in (1, len(PARTS)) or frame.shape[1] > count + 2:
        raise InputError(
            f"{file}: has no header, and its {frame.shape[1]} columns may be anything; say what they are, such as ",
            Parameter("columns", "picture=0", "{'picture': '0', 'quality': '1'}"),
        )
    names = ["picture", *PARTS[:count], "prompt"][: frame.shape[1]]
    return dict(zip(names, frame.columns, strict=True))
