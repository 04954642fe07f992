"""The layouts in which rated data sets come, each read into one table.

The table has a row for each rated picture, in the order of the file (the papers' split depends on it), and our
column names: ``picture`` and, where known, ``reference``, ``group``, ``split``, ``generator``, ``prompt``, and
one column for each dimension. Its index is the row in the file, for messages; a header is row 1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..errors import InputError
from . import naming
from .mosz import mosz_files, read_mosz
from .overall import OVERALL, PARTS, add_overall
from .tables import MOS, TABLES, TEXTS, find_columns, is_bare, read_table, select

Completion = Callable[[pd.DataFrame, Path, Path], pd.DataFrame]
PKU = frozenset({"Generated_image", "Image_prompt", "MOS_q", "MOS_a", "MOS_c"})
SIDES = ("train", "val", "test")  # names of files that are together one data set with a split of its own


@dataclass(frozen=True)
class Format:
    """One published data set.

    Args:
        complete: adds to a table of labels what the names of files and folders tell.
        columns: by which the table is known, one set for each layout; the first is that of the authors.
        bare: columns of text without a header, after that of the pictures.
        names: regular expression of its pictures' names, with folders, by which a single file is known.
        score_range: of its labels.
        ending: of the table's name by which, with its columns, a folder is known; any for ``""``.
        telling: whether no other table is likely to have these columns.
        summed: whether its overall score is the sum of the three others.
    """

    complete: Completion
    columns: tuple[frozenset[str], ...] = ()
    bare: tuple[str, ...] = ()
    names: str = ""
    score_range: tuple[float, float] = (0.0, 5.0)
    ending: str = ""
    telling: bool = False
    summed: bool = False

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a table with these columns may be of this data set."""
        return any(one <= frozenset(columns) for one in self.columns)


FORMATS = {
    "pku-i2iqa": Format(naming.pku_i2iqa, bare=PARTS, names=r"(?:.*/)?[A-Za-z]+_\d+_\d+\.\w+", summed=True),
    "pku-aigiqa-4k": Format(naming.pku_aigiqa_4k, (PKU,), telling=True, summed=True),
    "pku-aigiqa-4k-i2i": Format(naming.image_to_image, (PKU,), summed=True),
    "pku-aigiqa-4k-t2i": Format(naming.text_to_image, (PKU,), summed=True),
    "agiqa-1k": Format(
        naming.agiqa_1k,
        (frozenset({"Image", "MOS"}), frozenset({"name", "prompt", "MOS"})),
        names=r"(?:.*/)?[A-Za-z]+(?:_\d+){4}\.\w+",
        ending=".xlsx",
    ),
    "agiqa-3k": Format(
        naming.agiqa_3k,
        (frozenset({"name", "mos_quality", "mos_align"}),),
        ("quality", "correspondence"),
        r"(?:.*/)?[\w.]+_[a-z]+_\d+\.\w+",
        telling=True,
    ),
    "aigciqa2023": Format(
        naming.aigciqa2023,
        (frozenset({"model", "image_name", "mosz1"}),),
        PARTS,
        r"(?:.*/)?allimg/\d+\.\w+",
        (0.0, 100.0),
        telling=True,
    ),
    "aigiqa-20k": Format(
        naming.aigiqa_20k, (frozenset({"name", "prompt", "mos"}),), names=r"(?:.*/)?[A-Za-z].*_\d{3,}\.\w+"
    ),
}
SUBSETS = ("pku-aigiqa-4k-i2i", "pku-aigiqa-4k-t2i")  # to be asked for, never detected


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


def format_names() -> list[str]:
    """What a data set's format may be called."""
    return [*FORMATS, "manifest"]


# -- which format it is


def detect(path: Path, images: Path | None = None) -> str:
    """The format of the folder or file at `path`.

    Args:
        path: the data set's folder, or its file of labels.
        images: the folder of its pictures where it is another.

    Raises:
        InputError: when it could be none or several; lists the formats.
    """
    if path.is_file():
        return _told(path, images or path.parent, True) or "manifest"
    if (path / "Generated_image").is_dir() and (path / "Image_prompt").is_dir():
        return "pku-i2iqa"
    if mosz_files(path):
        return "aigciqa2023"
    files = tables(path)
    found = {_told(file, images or path, False) for file in files} - {None}
    if len(found) == 1:
        return str(found.pop())
    if not found and files and len(files) in (1, len(one_split(files))):
        return "manifest"
    what = f"could be {' or '.join(sorted(map(str, found)))}" if found else "is of no format that can be told"
    raise InputError(
        f"{path}: {what}; pass format= one of {', '.join(format_names())}, "
        "or for a manifest the path of the CSV, TSV, XLSX or Parquet file itself"
    )


def _told(file: Path, root: Path, by_names: bool) -> str | None:
    """The published data set that a table is of, by its columns and the names of its first pictures.

    Args:
        file: the table.
        root: the folder of its pictures.
        by_names: whether columns that other tables have, too, do not suffice.
    """
    bare = is_bare(file)
    start = read_table(file, header=not bare, rows=1)
    if bare:
        name = str(start.iloc[0, 0]).replace("\\", "/")
        numeric = _numeric(start)
        for key, form in FORMATS.items():
            if form.bare and len(form.bare) == numeric and pd.Series([name]).str.fullmatch(form.names)[0]:
                return key
        return None
    if set(start.columns) >= PKU:
        return _which_pku(file, root)
    names = find_columns(start.columns)
    first = start[names["picture"]].str.replace("\\", "/") if "picture" in names else start.iloc[:0, 0]
    for key, form in FORMATS.items():
        if key in SUBSETS or not form.fits(start.columns):
            continue
        ours = bool(len(first)) and bool(form.names) and bool(first.str.fullmatch(form.names).all())
        authors = not by_names and file.suffix.lower().endswith(form.ending)
        if form.telling or ours or authors:
            return key
    return None


def _numeric(start: pd.DataFrame) -> int:
    """How many of the cells after the first are numbers, up to the first that is none."""
    numbers = pd.to_numeric(start.iloc[0, 1:], errors="coerce").notna()
    return int(numbers.cumprod().sum())


def _which_pku(file: Path, root: Path) -> str:
    """PKU-I2IQA and PKU-AIGIQA-4K have the same columns; the folders tell, else rows without an image prompt."""
    if (root / "All").is_dir() or (root / "I2I").is_dir():
        return "pku-aigiqa-4k"
    if (root / "Generated_image").is_dir():
        return "pku-i2iqa"
    return "pku-aigiqa-4k" if (read_table(file)["Image_prompt"] == "").any() else "pku-i2iqa"


# -- the files of labels


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
    found = [file for side in SIDES for file in files if file.stem.lower() == side]
    names = {file.stem.lower() for file in found}
    alike = len({file.suffix.lower() for file in found}) == 1 and len(found) == len(names)
    return found if alike and "train" in names and len(names) > 1 else []


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
    sides = [file.stem.lower() for file in files]
    if "test" not in sides:  # there is nothing else to test on
        sides = ["test" if side == "val" else side for side in sides]
    parts = []
    for file, side in zip(files, sides, strict=True):
        part = read_one(file).assign(split=side)
        parts.append(part.set_axis([f"{row} of {file.name}" for row in part.index], axis=0))
    said = ", ".join(f"{file.name} ({side})" for file, side in zip(files, sides, strict=True))
    return Table(path, pd.concat(parts).fillna({"prompt": "", "reference": ""}), [f"labels: {said}"])


# -- reading


def read(name: str, path: Path, images: Path | None, header: bool | None = None) -> Table:
    """The table of a published data set.

    Args:
        name: of the format, a key of `FORMATS`.
        path: the data set's folder, or its file of labels.
        images: its folder where `path` is not; None for the folder of the file.
        header: whether the first row names the columns; None to tell by its cells.

    Raises:
        InputError: when the file is missing, ambiguous or not as the format wants it.
    """
    root, form = images or (path if path.is_dir() else path.parent), FORMATS[name]
    if name == "aigciqa2023" and path.is_dir() and (mosz_files(path) or not tables(path)):
        return Table(*read_mosz(path, root))
    none = f"{path}: no table of {name} labels ({_wanted(name)})"
    files = label_files(path, none, lambda file: not form.columns or _fits(file, form))
    theirs: list[str] = []

    def read_one(file: Path) -> pd.DataFrame:
        bare = is_bare(file) if header is None else not header
        frame = read_table(file, header=not bare)
        if bare:
            return _under(frame, form, name, file)
        if form.columns and not form.fits(frame.columns):
            missing = form.columns[0] - set(frame.columns)
            raise InputError(f"{file}: no column {', '.join(sorted(missing))}; tables of {name} have them")
        names = find_columns(frame.columns)
        if form.summed and OVERALL not in names and set(PARTS) <= names.keys():
            for column in (one for one in frame.columns if one.lower() == "mos"):
                names[OVERALL] = column
        theirs.append(names.get(OVERALL, ""))
        return select(frame, names, file)

    found = joined(path, files, read_one)
    found.frame["picture"] = found.frame["picture"].str.replace("\\", "/")
    if form.summed:
        add_overall(found.frame, next(iter(theirs), ""), form.score_range, found.notes, found.factors)
    found.frame = form.complete(found.frame, root, found.file)
    return found


def _fits(file: Path, form: Format) -> bool:
    if is_bare(file):
        return bool(form.bare)
    return form.fits(read_table(file, rows=0).columns)


def _under(frame: pd.DataFrame, form: Format, name: str, file: Path) -> pd.DataFrame:
    """A table without a header under our names."""
    count = 1 + len(form.bare)
    if not form.bare or frame.shape[1] not in (count, count + 1):
        raise InputError(f"{file}: {frame.shape[1]} columns, expected {_wanted(name)}")
    names = ["picture", *form.bare, "prompt"][: frame.shape[1]]
    return select(frame.set_axis(names, axis=1), {name: name for name in names}, file)


def _wanted(name: str) -> str:
    form = FORMATS[name]
    bare = f"path, {', '.join(form.bare)}, prompt by tabs" if form.bare else ""
    columns = " or ".join(f"columns {', '.join(sorted(one))}" for one in form.columns)
    return "; or ".join(filter(None, (bare, columns or "a table with MOS columns")))
