"""The layouts in which rated data sets come, each read into one table.

The table has a row for each rated picture, in the order of the file (the papers' split depends on it), and our
column names: ``picture`` and, where known, ``reference``, ``group``, ``split``, ``generator``, ``prompt``, and
one column for each dimension. Its index is the row in the file, for messages; a header is row 1.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import limits
from ..errors import InputError
from .bounds import check_file
from .tables import MOS, TABLES, find_columns, numbers, read_table, select

AIGCIQA2023_GENERATORS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")


# -- what the names of files and folders tell


def _first_there(*paths: Path) -> str:
    return str(next((path for path in paths if path.is_file()), paths[0]))


def _in_folders(names: Iterable[str], root: Path) -> list[str]:
    """Where each picture lies: in `root` or in a folder of it."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = []
    for name in names:
        paths = [folder / name for folder in folders if (folder / name).is_file()]
        if len(paths) > 1:
            raise InputError(f"{name} lies in {paths[0].parent} and {paths[1].parent}; pass one as images=")
        found.append(str(paths[0] if paths else root / name))
    return found


def _stems(pictures: "pd.Series[Any]") -> "pd.Series[Any]":
    return pictures.map(lambda name: Path(name).stem)


def _pku_i2iqa(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    parts = _stems(frame["picture"]).str.extract(r"^([A-Za-z]+)_(\d+)_\d+$")
    if (wrong := parts[0].isna()).any():
        row = frame.index[int(wrong.to_numpy().argmax())]
        raise InputError(f"{file}: row {row}: {frame['picture'][row]!r} is not named like SD_000_00.jpg")
    folder = root / "Generated_image"
    frame["generator"], frame["group"] = parts[0], parts[1].astype(int).astype(str)
    frame["reference"] = [str(root / "Image_prompt" / f"{number}.jpg") for number in frame["group"]]
    frame["picture"] = [
        _first_there(folder / "All" / Path(name).name, root / name, folder / generator / Path(name).name)
        for name, generator in zip(frame["picture"], parts[0], strict=True)
    ]
    return frame


def _pku_aigiqa_4k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    stems = _stems(frame["picture"])
    frame["generator"] = stems.str.extract(r"^([^_]+)_", expand=False).fillna("")
    without_number = stems.str.replace(r"_[^_]*$", "", regex=True)
    known = (frame["reference"] != "") | (frame["prompt"] != "" if "prompt" in frame else False)
    keys = [frame[name] for name in ("reference", "prompt") if name in frame]
    frame["group"] = _joined(*keys, without_number.where(~known, ""))
    frame["picture"] = [str(root / "All" / name) for name in frame["picture"]]
    frame["reference"] = [
        str(root / "I2I/Image_prompt" / name) if name else "" for name in frame["reference"]
    ]
    return frame


def _joined(*columns: "pd.Series[Any]") -> list[str]:
    """One group for rows that share a value in any of the columns, directly or by way of other rows."""
    values = [[(i, cell) if cell else None for cell in column] for i, column in enumerate(columns)]
    numbered = {value: i for i, value in enumerate({v for column in values for v in column if v})}
    edges = [(r, numbered[v]) for column in values for r, v in enumerate(column) if v]
    rows, ends = np.array(edges).T
    nodes = len(columns[0]) + len(numbered)
    graph = coo_array((np.ones(len(rows)), (rows, ends + len(columns[0]))), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for column in columns:  # named by its image prompt if any of its rows has one
        for number, cell in zip(component, column, strict=False):
            if cell:
                names.setdefault(int(number), cell)
    return [names[int(number)] for number in component[: len(columns[0])]]


def _agiqa(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    frame["picture"] = _in_folders(frame["picture"], root)
    if "prompt" in frame:
        frame["group"] = frame["prompt"]
    return frame


def _agiqa_3k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    frame["generator"] = _stems(frame["picture"]).str.extract(r"^([^_]+)_", expand=False).fillna("")
    return _agiqa(frame, root, file)


def _aigiqa_20k(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    frame["generator"] = _stems(frame["picture"]).str.extract(r"^(.+)_\d+$", expand=False).fillna("")
    return _agiqa(frame, root, file)


# -- the formats


@dataclass(frozen=True)
class Format:
    """One published data set.

    Args:
        columns: by which its table of labels is known.
        complete: adds to that table what the names of files and folders tell.
        score_range: of its labels.
        ending: of its table's name; any for ``""``.
        telling: whether no other table is likely to have these columns.
    """

    columns: frozenset[str]
    complete: Callable[[pd.DataFrame, Path, Path], pd.DataFrame]
    score_range: tuple[float, float] = (0.0, 5.0)
    ending: str = ""
    telling: bool = False


FORMATS = {
    "pku-i2iqa": Format(frozenset(), _pku_i2iqa),
    "pku-aigiqa-4k": Format(
        frozenset({"Generated_image", "Image_prompt", "MOS_q", "MOS_a", "MOS_c"}),
        _pku_aigiqa_4k,
        telling=True,
    ),
    "agiqa-1k": Format(frozenset({"Image", "MOS"}), _agiqa, ending=".xlsx"),
    "agiqa-3k": Format(frozenset({"name", "mos_quality", "mos_align"}), _agiqa_3k, telling=True),
    "aigciqa2023": Format(frozenset(), _agiqa, (0.0, 100.0)),
    "aigiqa-20k": Format(frozenset({"name", "prompt", "mos"}), _aigiqa_20k),
}


def format_names() -> list[str]:
    """What a data set's format may be called."""
    return [*FORMATS, "manifest"]


def detect(path: Path) -> str:
    """The format of the folder or file at `path`.

    Raises:
        InputError: when it could be none or several; lists the formats.
    """
    if path.is_file():
        if _is_label_file(path):
            return "pku-i2iqa"
        columns = frozenset(read_table(path, rows=0).columns)
        return next((n for n, f in FORMATS.items() if f.telling and f.columns <= columns), "manifest")
    if (path / "Generated_image").is_dir() and (path / "Image_prompt").is_dir():
        return "pku-i2iqa"
    if _mosz(path, 1):
        return "aigciqa2023"
    found = {n for n, f in FORMATS.items() if f.columns and tables(path, f.columns, f.ending)}
    if len(found) == 1:
        return found.pop()
    if not found and len(tables(path)) == 1:
        return "manifest"
    what = f"could be {' or '.join(sorted(found))}" if found else "is of no format that can be told"
    raise InputError(
        f"{path}: {what}; pass format= one of {', '.join(format_names())}, "
        "or for a manifest the path of the CSV, TSV, XLSX or Parquet file itself"
    )


def read(name: str, path: Path, images: Path | None) -> tuple[Path, pd.DataFrame]:
    """The table of a published data set, and the file its labels came from.

    Args:
        name: of the format, a key of `FORMATS`.
        path: the data set's folder, or its file of labels.
        images: its folder where `path` is not; None for the folder of the file.

    Raises:
        InputError: when the file is missing, ambiguous or not as the format wants it.
    """
    root = images or (path if path.is_dir() else path.parent)
    if name == "aigciqa2023":
        return _aigciqa2023(path, root)
    form = FORMATS[name]
    if path.is_file():
        file = path
    else:
        files = tables(path, form.columns, form.ending)
        if name == "pku-i2iqa":
            files += [file for file in sorted(path.iterdir()) if file.is_file() and _is_label_file(file)]
        file = only(files, f"{path}: no table of {name} labels ({_wanted(name)})")
    if name == "pku-i2iqa" and _is_label_file(file):
        frame = read_table(file, header=False)
        if frame.shape[1] not in (4, 5):
            raise InputError(f"{file}: {frame.shape[1]} columns, expected {_wanted(name)}")
        names = ["picture", "quality", "authenticity", "correspondence", "prompt"][: frame.shape[1]]
        frame = select(frame.set_axis(names, axis=1), {name: name for name in names}, file)
    else:
        frame = read_table(file)
        if missing := form.columns - set(frame.columns):
            raise InputError(f"{file}: no column {', '.join(sorted(missing))}; tables of {name} have them")
        frame = select(frame, find_columns(frame.columns), file)
    frame["picture"] = frame["picture"].str.replace("\\", "/")
    return file, form.complete(frame, root, file)


def _wanted(name: str) -> str:
    if name == "pku-i2iqa":
        return "path, quality, authenticity, correspondence, prompt by tabs; or a table with MOS columns"
    return f"columns {', '.join(sorted(FORMATS[name].columns))}"


def only(files: Sequence[Path], none: str) -> Path:
    """The one file there is; `none` is what to say where there is none.

    Raises:
        InputError: when there is none or more than one.
    """
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files)
    raise InputError(
        f"{files[0].parent}: several tables of labels: {names}; pass one's path" if files else none
    )


def tables(folder: Path, columns: frozenset[str] = frozenset(), ending: str = "") -> list[Path]:
    """The tables in a folder that have all of `columns`, and besides pictures and labels."""
    found = []
    for file in sorted(folder.iterdir()):
        kind = file.suffix.lower()
        if kind in TABLES and kind.endswith(ending) and file.is_file() and not _is_label_file(file):
            theirs = read_table(file, rows=0).columns
            names = find_columns(theirs).keys()
            if "picture" in names and names & MOS.keys() and columns <= set(theirs):
                found.append(file)
    return found


def _is_label_file(path: Path) -> bool:
    """Whether it is tab-separated with numbers where PKU-I2IQA's three labels stand."""
    if path.suffix.lower() not in (".txt", ".tsv") or not path.is_file() or not path.stat().st_size:
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        cells = file.readline(1 << 20).split("\t")  # not all of a file that has no lines
    numeric = pd.to_numeric(pd.Series(cells[1:4], dtype=str), errors="coerce").notna()
    return len(numeric) == 3 and bool(numeric.all())


def _mosz(folder: Path, number: int) -> list[Path]:
    places = (folder, folder / "DATA/MOS", folder / "MOS", folder / "DATA")
    files = (place / f"mosz{number}{end}" for place in places for end in (".mat", ".csv", ".xlsx"))
    return [file for file in files if file.is_file()]


def _aigciqa2023(path: Path, root: Path) -> tuple[Path, pd.DataFrame]:
    if path.is_file():
        raise InputError(
            f"{path}: aigciqa2023 has a file for each dimension; pass the folder that holds them"
        )
    labels, file = {}, path
    for number, dimension in enumerate(("quality", "authenticity", "correspondence"), 1):
        if files := _mosz(path, number):
            file = only(files, "")
            labels[dimension] = _mosz_values(file)
    if not labels:
        raise InputError(
            f"{path}: no mosz1.mat, mosz2.mat or mosz3.mat (or .csv, .xlsx) in it or in DATA/MOS"
        )
    counts = {dimension: len(values) for dimension, values in labels.items()}
    n = max(counts.values())
    each = len(AIGCIQA2023_GENERATORS) * 4
    if len(set(counts.values())) > 1 or n % each or not n:
        raise InputError(
            f"{file.parent}: labels for {counts}; expected as many each, in all 6 generators x prompts x 4 "
            "pictures. For a part of the data set write a manifest"
        )
    folders = (root / "Image/allimg", root / "allimg", root / "Image", root)
    folder = next((place for place in folders if (place / "0.png").is_file()), folders[0])
    index, per_generator = np.arange(n), n // len(AIGCIQA2023_GENERATORS)
    frame = pd.DataFrame(labels, index=index)
    frame["picture"] = [str(folder / f"{i}.png") for i in index]
    frame["generator"] = [AIGCIQA2023_GENERATORS[i // per_generator] for i in index]
    frame["group"] = (index % per_generator // 4).astype(str)
    return file, frame


def _mosz_values(file: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A column of numbers in the order of the pictures' numbers."""
    if file.suffix != ".mat":
        frame = read_table(file, header=False)
        if frame.shape[1] != 1:
            raise InputError(f"{file}: {frame.shape[1]} columns; expected one, of labels by picture number")
        titled = bool(len(frame)) and pd.to_numeric(frame[frame.columns[0]][:1], errors="coerce").isna().all()
        return numbers(frame[frame.columns[0]][int(titled) :], file)
    check_file(file, limits.HELD, "a MATLAB file")
    try:
        held = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(os.fspath(file))}
        if "MOSz" in held:
            shape, kind = held["MOSz"]
            limits.check_size(
                8 * math.prod(shape), limits.HELD, f"{file}: MOSz", "it has a label for each image"
            )
            if kind not in ("double", "single", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))):
                raise ValueError(f"MOSz is no matrix of numbers, but of the class {kind}")
        content = scipy.io.loadmat(os.fspath(file), variable_names=["MOSz"])
    except InputError:
        raise
    except Exception as error:  # it raises nearly anything for a file that is damaged
        raise InputError(f"{file}: cannot be read as a MATLAB file: {error}") from None
    if "MOSz" not in content:
        raise InputError(f"{file}: no variable MOSz; it has {', '.join(held)}")
    return np.asarray(content["MOSz"], np.float64).ravel()
