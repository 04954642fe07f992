"""The layouts in which rated data sets come, each read into one table.

The table has a row for each rated picture, in the order of the file (the papers' split depends on it), and our
column names: ``picture`` and, where known, ``reference``, ``group``, ``split``, ``generator``, ``prompt``, and
one column for each dimension. Its index is the row in the file, for messages; a header is row 1.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError, Parameter
from . import naming
from .labelfiles import Table, joined, label_files, one_split, tables
from .mosz import mosz_files, read_mosz
from .overall import OVERALL, PARTS, add_overall
from .tables import find_columns, is_bare, read_table, select

Completion = Callable[[pd.DataFrame, Path, Path], pd.DataFrame]
PKU = frozenset({"Generated_image", "Image_prompt", "MOS_q", "MOS_a", "MOS_c"})


@dataclass(frozen=True)
class Format:
    """One published data set.

    Args:
        columns: by which its table of labels is known.
        complete: adds to that table what the names of files and folders tell.
        score_range: of its labels.
        ending: of the table's name by which, with its columns, a folder is known; any for ``""``.
        telling: whether no other table is likely to have these columns.
        others: columns by which tables of other projects are known to hold its labels.
        bare: dimensions in the columns of text without a header, after that of the pictures.
        names: regular expression of its pictures' names, with folders, by which a single file is known.
        summed: whether its overall score is the sum of the three others.
    """

    columns: frozenset[str]
    complete: Completion
    score_range: tuple[float, float] = (0.0, 5.0)
    ending: str = ""
    telling: bool = False
    others: tuple[frozenset[str], ...] = ()
    bare: tuple[str, ...] = ()
    names: str = ""
    summed: bool = False

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a table with these columns may be of this data set."""
        return any(one and one <= frozenset(columns) for one in (self.columns, *self.others))


FORMATS = {
    "pku-i2iqa": Format(
        frozenset(), naming.pku_i2iqa, bare=PARTS, names=r"(?:.*/)?(?:SD|MJ)_\d+_\d+\.\w+", summed=True
    ),
    "pku-aigiqa-4k": Format(PKU, naming.pku_aigiqa_4k, telling=True, summed=True),
    "pku-aigiqa-4k-i2i": Format(PKU, naming.image_to_image, summed=True),
    "pku-aigiqa-4k-t2i": Format(PKU, naming.text_to_image, summed=True),
    "agiqa-1k": Format(
        frozenset({"Image", "MOS"}),
        naming.agiqa_1k,
        ending=".xlsx",
        others=(frozenset({"name", "prompt", "MOS"}),),
        names=r"(?i:(?:.*/)?(?:deepai|dreamstudio)(?:_\d+){4}\.\w+)",
    ),
    "agiqa-3k": Format(
        frozenset({"name", "mos_quality", "mos_align"}),
        naming.agiqa_3k,
        telling=True,
        bare=("quality", "correspondence"),
        names=r"(?:.*/)?[\w.]+_(?:normal|lowstep|lowcorr|highcorr)_\d+\.\w+",
    ),
    "aigciqa2023": Format(
        frozenset({"model", "image_name", "mosz1"}),
        naming.aigciqa2023,
        (0.0, 100.0),
        telling=True,
        bare=PARTS,
        names=r"(?:.*/)?allimg/\d+\.\w+",
    ),
    "aigiqa-20k": Format(
        frozenset({"name", "prompt", "mos"}),
        naming.aigiqa_20k,
        names=r"(?i:(?:.*/)?(?:dall|sd|ssd|lcm|mj|midj|if|pixart|pg|play|dream|stable|deep)[^/]*_\d+\.\w+)",
    ),
}
SUBSETS = {  # to be asked for, never detected
    "pku-aigiqa-4k-i2i": "the rows with an image prompt (image-to-image)",
    "pku-aigiqa-4k-t2i": "the rows without an image prompt (text-to-image)",
}


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
        f"{path}: {what}; pass ",
        Parameter("format"),
        f", one of {', '.join(format_names())}, "
        "or for a manifest the path of the CSV, TSV, XLSX or Parquet file itself",
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
            missing = form.columns - set(frame.columns)
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
    count = len(found.frame)
    found.frame = form.complete(found.frame, root, found.file)
    if name in SUBSETS:
        found.notes.insert(0, f"subset: {SUBSETS[name]}, {len(found.frame)} of {count}")
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
    columns = " or ".join(f"columns {', '.join(sorted(one))}" for one in (form.columns, *form.others) if one)
    return "; or ".join(filter(None, (bare, columns or "a table with MOS columns")))
