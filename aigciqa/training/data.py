"""Data sets of rated pictures: loaded from the published layouts or a manifest, and checked."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from .. import image
from ..config import DIMENSIONS
from ..errors import InputError, Parameter
from ..progress import each
from .duplicates import without_duplicates
from .files import digest_of
from .formats import FORMATS, detect, format_names, read
from .labelfiles import SIDES
from .manifest import read_manifest
from .overall import OVERALL
from .rated import Labels
from .rated import RatedSet as RatedSet  # the name that others import from here
from .tables import ROLES

SHOWN = 5  # names in one message; the count is always of all
RESCALED = (0.0, 5.0)  # scale of AIGCIQA2023's labels as CMIM-AIGIQA gives them: the authors', divided by 20

T = TypeVar("T")


def load(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    score_range: tuple[float, float] | None = None,
    dimensions: Sequence[str] | None = None,
    header: bool | None = None,
    duplicates: str = "error",
) -> RatedSet:
    r"""Load a data set; the rows keep the order of the file.

    Groups are the image prompt's number (PKU-I2IQA), the text prompt (AGIQA, AIGIQA-20K), or the prompt's
    number: in AIGCIQA2023 the pictures are taken to be numbered by generator, then prompt, then the 4 pictures
    of a prompt. In PKU-AIGIQA-4K rows are of one group if they share the image prompt or the text prompt; a row
    with neither has the picture's name without its last ``_`` part. In a manifest it is the column ``group``, or
    where that is missing the reference, else the text prompt, else the picture itself.

    ``overall`` of PKU-I2IQA and PKU-AIGIQA-4K is the column ``MOS`` or ``overall``, else the sum of ``quality``,
    ``authenticity`` and ``correspondence``, on a scale three times theirs: 0 to 15. `RatedSet.range_of` has the
    range of each dimension.

    A folder whose files of labels are ``train`` and ``test``, ``train`` and ``val``, or all three, with one ending, is
    one data set with a split of its own. Where there is no ``test``, ``val`` is tested on.

    Args:
        path: the data set's folder, or its file of labels.
        format: ``pku-i2iqa``; ``pku-aigiqa-4k``, or of that ``pku-aigiqa-4k-i2i``, the rows with an image prompt, or
            ``pku-aigiqa-4k-t2i``, those without; ``agiqa-1k``, ``agiqa-3k``, ``aigciqa2023``, ``aigiqa-20k``; or
            ``manifest``, a CSV, TSV, XLSX or Parquet file with a row for each picture; None to find out.
        images: the folder that the names of the pictures start from; None for that of the file of labels.
        columns: for a manifest, its column for each of ours: ``picture``, ``reference``, ``group``, ``split``,
            ``generator``, ``prompt``, ``ladder`` or any dimension. Those not given are found by their obvious names.
        score_range: lowest and highest possible label; None for that of the format, or for a manifest the
            lowest and highest there are. Of ``overall`` it is the range of the three that are summed.
        dimensions: which to load, in this order; None for ``quality``, ``authenticity``, ``correspondence`` and
            ``overall`` where there are such columns, else ``mos`` as quality.
        header: whether the first row names the columns, which else are ``"0"``, ``"1"`` and so on; None to tell by its
            cells: a table of text whose first row has an image and a number has no header.
        duplicates: what becomes of further rows for one picture with one reference: ``"error"``; ``"drop"`` to keep the
            first row; ``"mean"`` to keep the first row with the mean of the labels.

    Raises:
        InputError: naming the file, and the row and column, of what is missing, doubled or not a number.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "ratings.csv"
        >>> _ = file.write_text("picture,reference,mos\ngen.png,ref.png,3.5\nref.png,ref.png,4.5\n")
        >>> rated = load(file, images=".")
        >>> rated.labels, rated.groups, rated.score_range
        ({'quality': array([3.5, 4.5])}, ['ref.png', 'ref.png'], (3.5, 4.5))
    """
    path, root = Path(path), None if images is None else Path(images)
    if not path.exists() or (root and not root.is_dir()):
        raise InputError(f"{path if not path.exists() else root}: no such file or folder")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path}: is neither a folder nor a regular file")
    if format not in (None, *format_names()):
        raise InputError(f"no format {format!r}; the formats are {', '.join(format_names())}")
    named = format or ("manifest" if columns else detect(path, root))
    if columns and named != "manifest":
        raise InputError(Parameter("columns"), f" is for manifests; those of {named} are known")
    if named == "manifest":
        table = read_manifest(path, root, columns or {}, dimensions, header)
        name = path.stem if path.is_file() else path.resolve().name
    else:
        table, name = read(named, path, root, header), named
    kept = [column for column in table.frame.columns if column not in ROLES]
    table.frame, notes = without_duplicates(table.frame, kept, duplicates, table.file)
    labels = _labels(table.file, table.frame, dimensions)
    observed = _observed(
        {key: values / table.factors.get(key, 1) for key, values in labels.items()}, table.file
    )
    whole = score_range or observed
    if named in FORMATS and score_range is None:
        whole = _range_of_format(named, observed, table.file, format is not None)
        if whole != FORMATS[named].score_range:
            notes.append("scale: 0 to 5, to which the labels of 0 to 100 seem to be divided by 20")
    rated = _rated(name, table.file, table.frame, labels, whole)
    ranges = {key: _times(whole, table.factors.get(key, 1)) for key in labels}
    if len(set(ranges.values())) == 1:  # such as overall alone
        rated = replace(rated, score_range=next(iter(ranges.values())))
    return replace(
        rated,
        range_is_observed=score_range is None and named not in FORMATS,
        ranges={key: its for key, its in ranges.items() if its != rated.score_range},
        notes=[*(note for note in table.notes if _is_of(note, labels)), *notes],
    )


def _times(score_range: tuple[float, float], factor: float) -> tuple[float, float]:
    return float(score_range[0] * factor), float(score_range[1] * factor)


def _is_of(note: str, labels: Mapping[str, Labels]) -> bool:
    """Whether a note is of no dimension, or of one that is loaded."""
    return not note.startswith(f"{OVERALL}:") or OVERALL in labels


def _range_of_format(
    name: str, observed: tuple[float, float], file: Path, is_given: bool
) -> tuple[float, float]:
    """The range of a format's labels, once those of this file are seen to lie in it."""
    low, high = FORMATS[name].score_range
    if name == "aigciqa2023" and observed[0] >= 0 and observed[1] <= RESCALED[1]:
        low, high = RESCALED
    if not is_given and not (low <= observed[0] and low + (high - low) / 5 < observed[1] <= high):
        raise InputError(
            f"{file}: looks like {name}, but its labels are {observed[0]:g} to {observed[1]:g} and not of "
            f"{low:g} to {high:g}; pass ",
            Parameter("format", "manifest", "'manifest'"),
            ", or ",
            Parameter("format", name, repr(name)),
            " if it is that",
        )
    return low, high


def _labels(file: Path, frame: pd.DataFrame, dimensions: Sequence[str] | None) -> dict[str, Labels]:
    if not len(frame):
        raise InputError(f"{file}: has no rows")
    there = [name for name in (*DIMENSIONS, *frame.columns) if name in frame and name not in ROLES]
    if missing := [name for name in dimensions or () if name not in there]:
        raise InputError(
            f"{file}: no labels for {', '.join(missing)}; it has {', '.join(dict.fromkeys(there))}"
        )
    return {name: frame[name].to_numpy(np.float64) for name in dimensions or dict.fromkeys(there)}


def _observed(labels: Mapping[str, Labels], file: Path) -> tuple[float, float]:
    values = np.concatenate(list(labels.values()))
    if np.isnan(values).all():
        raise InputError(f"{file}: there is not one label in {', '.join(labels)}")
    return float(np.nanmin(values)), float(np.nanmax(values))


def _rated(
    name: str, file: Path, frame: pd.DataFrame, labels: dict[str, Labels], score_range: tuple[float, float]
) -> RatedSet:
    if not score_range[0] < score_range[1]:
        raise InputError(
            f"{file}: labels from {score_range[0]:g} to {score_range[1]:g}; pass ",
            Parameter("score_range", "LOW,HIGH", "(LOW, HIGH)"),
        )

    def column(role: str) -> list[str]:
        return [str(cell) for cell in frame[role]] if role in frame else [""] * len(frame)

    pictures = [Path(os.path.normpath(path)) for path in frame["picture"]]
    references = [Path(os.path.normpath(cell)) if cell else None for cell in column("reference")]
    if not any(picture.is_file() for picture in pictures):
        raise InputError(
            f"{file}: none of its pictures is there, such as {pictures[0]}; pass ",
            Parameter("images", "FOLDER"),
        )
    sides = column("split")
    if "split" in frame and (wrong := [i for i, side in enumerate(sides) if side.lower() not in SIDES]):
        raise InputError(
            f"{file}: row {frame.index[wrong[0]]}: split {sides[wrong[0]]!r} is not train, val or test"
        )
    return RatedSet(
        name=name,
        pictures=pictures,
        references=references,
        labels=labels,
        groups=[group or str(picture) for group, picture in zip(column("group"), pictures, strict=True)],
        generators=column("generator"),
        splits=[SIDES[side.lower()] for side in sides] if "split" in frame else None,
        score_range=(float(score_range[0]), float(score_range[1])),
        prompts=column("prompt"),
        ladders=column("ladder"),
    )


# -- checking


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it; printing it is readable.

    Args:
        facts: what it holds, a line each.
        problems: a sentence each; empty when all is well.
    """

    facts: list[str]
    problems: list[str]

    def __str__(self) -> str:
        count = len(self.problems)
        verdict = f"{count} problem{'s' * (count != 1)}:" if count else "no problems found"
        return "\n".join([*self.facts, verdict, *(f"- {problem}" for problem in self.problems)])


def outside(rated: RatedSet, dimension: str) -> str | None:
    """Which labels of a dimension lie outside the scale of the data set, as a sentence; None where all lie within.

    Examples:
        >>> gen, mos = Path("gen.png"), {"quality": np.array([7.0])}
        >>> outside(RatedSet("one", [gen], [None], mos, ["a"], [""], None, (0, 5), [""]), "quality")
        'quality: 1 label outside 0 to 5, such as 7 of gen.png'
    """
    (low, high), values = rated.range_of(dimension), rated.labels[dimension]
    rows = np.flatnonzero((values < low) | (values > high))
    if not len(rows):
        return None
    return (
        f"{dimension}: {len(rows)} label{'s' * (len(rows) > 1)} outside {low:g} to {high:g}, "
        f"such as {values[rows[0]]:g} of {rated.pictures[rows[0]]}"
    )


def check(rated: RatedSet) -> Report:
    """Look at every label and open every picture and reference of a data set.

    Args:
        rated: the data set.

    Examples:
        >>> import numpy as np
        >>> gen, ref = Path("gen.png"), Path("ref.png")
        >>> mos = {"quality": np.array([3.5, 7])}
        >>> print(check(RatedSet("pair", [gen, ref], [ref, ref], mos, ["a", "a"], ["", ""], None, (0, 5), ["", ""])))
        pair: 2 pictures, 2 with one of 1 references
        generators: unknown
        groups: 1, of 2 to 2 pictures
        quality: 2 labels from 3.5 to 7, mean 5.25
        1 problem:
        - quality: 1 label outside 0 to 5, such as 7 of ref.png
    """
    problems = [found for name in rated.labels if (found := outside(rated, name))]
    paths = list(dict.fromkeys([*rated.pictures, *(path for path in rated.references if path)]))
    if missing := [path for path in paths if not path.is_file()]:
        problems.append(f"{len(missing)} files are missing: {some(missing)}")
    there = [path for path in paths if path.is_file()]
    problems += [error for error in _each(_unreadable, there, "opening pictures") if error]
    problems += [f"identical files: {some(same)}" for same in identical(there)]
    return Report(_facts(rated), problems)


def _facts(rated: RatedSet) -> list[str]:
    references = [path for path in rated.references if path]
    with_references = f"{len(references)} with one of {len(set(references))} references"
    sizes = Counter(rated.groups).values()
    made = Counter(generator or "unknown" for generator in rated.generators)
    facts = [
        f"{rated.name}: {len(rated)} pictures, {with_references if references else 'no references'}",
        "generators: "
        + ("unknown" if made.keys() == {"unknown"} else ", ".join(f"{k} ({n})" for k, n in made.items())),
        f"groups: {len(sizes)}, of {min(sizes)} to {max(sizes)} pictures",
    ]
    if rated.splits is not None:
        facts.append("its own split: " + ", ".join(f"{k} ({n})" for k, n in Counter(rated.splits).items()))
    facts += rated.notes
    for name, values in rated.labels.items():
        known = values[~np.isnan(values)]
        span = f" from {known.min():.4g} to {known.max():.4g}, mean {known.mean():.4g}" if len(known) else ""
        scale = ", on a scale of {:g} to {:g}".format(*rated.ranges[name]) if name in rated.ranges else ""
        facts.append(f"{name}: {len(known)} labels{span}{scale}")
    return facts


def some(names: Sequence[object]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def identical(paths: Iterable[Path]) -> list[list[Path]]:
    """The sets of files that have the same content; only files of equal size are read.

    Raises:
        InputError: for a file that cannot be read.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    by_hash: defaultdict[str, list[Path]] = defaultdict(list)
    try:
        for path in dict.fromkeys(paths):
            by_size[path.stat().st_size].append(path)
        alike = [path for same in by_size.values() if len(same) > 1 for path in same]
        for path, digest in zip(alike, _each(digest_of, alike, "comparing files"), strict=True):
            by_hash[digest].append(path)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return [same for same in by_hash.values() if len(same) > 1]


def _unreadable(path: Path) -> str:
    try:
        for _ in image.read(path):
            pass
    except InputError as error:
        return str(error)
    return ""


def _each(function: Callable[[Path], T], paths: Sequence[Path], what: str) -> list[T]:
    """Of every path, in threads."""
    with ThreadPoolExecutor() as pool:
        return list(each(pool.map(function, paths), what, len(paths)))
