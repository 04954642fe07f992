"""The files of labels of a data set: one table, or one for each side of a split that the data set brings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .tables import MOS, TABLES, TEXTS, find_columns, is_bare, read_table

SIDES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip


@dataclass
class Table:
    """What the files of labels of a data set hold.

    Args:
        file: the file, or the folder of several, for messages.
        frame: the rows.
        notes: what was taken for what, a sentence each.
        factors: of dimensions whose labels are on a scale so many times that of the others.
    """

    file: Path
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)


def tables(folder: Path) -> list[Path]:
    """The tables in a folder that name pictures and have labels of them."""
    return [file for file in sorted(folder.iterdir()) if _has_labels(file)]


def _has_labels(file: Path) -> bool:
    kind = file.suffix.lower()
    if kind not in (*TABLES, *TEXTS) or not file.is_file():
        return False
    if is_bare(file):
        return True
    if kind == ".txt":
        return False
    names = find_columns(read_table(file, rows=0).columns).keys()
    return "picture" in names and bool(names & MOS.keys())


def one_split(files: Sequence[Path]) -> list[Path]:
    """Those of the files that are sides of one split by their names, such as train.txt and test.txt; else none."""
    found = [file for name in SIDES for file in files if file.stem.lower() == name]
    sides = {SIDES[file.stem.lower()] for file in found}
    alike = len({file.suffix.lower() for file in found}) == 1 and len(found) == len(sides)
    return found if alike and "train" in sides and len(sides) > 1 else []


def label_files(path: Path, none: str, fitting: Callable[[Path], bool] = lambda file: True) -> list[Path]:
    """The file of labels, or the files of its sides where a data set comes with a split.

    Args:
        path: the file, or the folder of the data set.
        none: what to say where there is none.
        fitting: which tables in the folder to look at.

    Raises:
        InputError: when there is none, or several that are not sides of one split.
    """
    if path.is_file():
        return [path]
    files = [file for file in tables(path) if fitting(file)]
    if files and len(files) in (1, len(one_split(files))):
        return one_split(files) or files
    names = ", ".join(file.name for file in files)
    raise InputError(f"{path}: several tables of labels: {names}; pass one's path" if files else none)


def joined(path: Path, files: Sequence[Path], read_one: Callable[[Path], pd.DataFrame]) -> Table:
    """The rows of one file, or those of the sides of a split with a column ``split``.

    Args:
        path: what the user gave.
        files: as `label_files` gives them.
        read_one: reads one file under our names.
    """
    if len(files) == 1:
        return Table(files[0], read_one(files[0]))
    sides = [SIDES[file.stem.lower()] for file in files]
    if "test" not in sides:  # there is nothing else to test on
        sides = ["test" if side == "val" else side for side in sides]
    parts = []
    for file, side in zip(files, sides, strict=True):
        part = read_one(file).assign(split=side)
        parts.append(part.set_axis([f"{row} of {file.name}" for row in part.index], axis=0))
    said = ", ".join(f"{file.name} ({side})" for file, side in zip(files, sides, strict=True))
    return Table(path, pd.concat(parts).fillna({"prompt": "", "reference": ""}), [f"label files: {said}"])
