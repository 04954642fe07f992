"""Which rows of a data set a metric has learned from, as far as the folder of its run tells."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .data import RatedSet, identical
from .recipe import DataSource, Recipe, read_recipe
from .rows import open_source
from .scale import Range
from .side import PREDICTIONS
from .splits import UNUSED, load_split, row_names, saved_sides

LEARNED, HELD = "train", "test"  # sides of a saved split; the rows that chose the epoch are of the first

Key = tuple[str, str]  # a generated image and, where images come with several references, its reference


@dataclass
class Seen:
    """What is known of a metric and the rows of a data set.

    Args:
        metric: as the user gave it.
        sides: by row, ``"train"`` (learned from, or the epoch was chosen by it), ``"test"`` or ``"unused"``; a row that
            is in no split of the run is not there.
        files: the saved splits that have rows of the data set.
        scale: of the data set's labels, lowest and highest, as the run took it; None when it has no rows of it.
        notes: what is not known, a sentence each.
    """

    metric: str
    sides: dict[int, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    scale: Range | None = None
    notes: list[str] = field(default_factory=list)

    def rows(self, side: str) -> list[int]:
        """The rows of a side, in ascending order."""
        return sorted(row for row, its in self.sides.items() if its == side)

    def add(self, sides: dict[int, str]) -> None:
        """Take over the sides of rows; a row is learned from if any split says so."""
        for row, side in sides.items():
            if self.sides.get(row) != LEARNED:
                self.sides[row] = side


def run_folder(metric: str) -> Path | None:
    """The folder of the run that a checkpoint belongs to, which has the recipe and the splits; None for no run.

    Args:
        metric: a run's folder, the folder ``last`` or the predictions in it, or any other metric.
    """
    folder = Path(metric).expanduser().absolute()
    if folder.name == PREDICTIONS:
        folder = folder.parent
    for place in (folder, *([folder.parent] if folder.name == "last" else [])):
        if (place / "recipe.yaml").is_file() or (place / "splits").is_dir():
            return place
    return None


def seen(metric: str, rated: RatedSet) -> Seen:
    """Find out which rows of `rated` a metric has learned from.

    The rows are recognised by the files of their images: the same path, or the same content under another path.
    Where the data set of a run is no longer at its place, they are recognised by their names.

    Args:
        metric: a name, a folder, a Hub repository, or a file of scores.
        rated: the data set.

    Raises:
        InputError: when the run's recipe or splits cannot be read.
    """
    found = Seen(metric)
    _collect(metric, rated, found, set())
    return found


def _collect(metric: str, rated: RatedSet, found: Seen, done: set[Path]) -> None:
    run = run_folder(metric)
    if run is None:
        began = metric if metric == found.metric else f"{found.metric} began from {metric}, which"
        found.notes.append(f"{began} has no saved splits: what it learned from is not known")
        return
    if run in done:
        return
    done.add(run)
    files = {path.name.partition("-")[0]: path for path in sorted((run / "splits").glob("*.csv"))}
    if not (run / "recipe.yaml").is_file():
        for path in files.values():
            _add(found, rated, path, None, None)
        return
    from .initial import is_tag  # takes seconds

    recipe = read_recipe(run / "recipe.yaml")
    for index, source in enumerate(recipe.data):
        _add(found, rated, files.get(str(index)), source, recipe)
    if (
        recipe.weights not in ("random", "pretrained")
        and not Path(recipe.weights).is_file()
        and not is_tag(recipe.weights)
    ):
        _collect(recipe.weights, rated, found, done)  # what it began from has learned, too


def _add(
    found: Seen, rated: RatedSet, path: Path | None, source: DataSource | None, recipe: Recipe | None
) -> None:
    """Add the sides that one saved split, or a data set that was learned from wholly, gives to rows."""
    original = None if source is None else _original(source)
    names = [] if path is None else saved_sides(path)
    sides: dict[int, str] = {}
    if original is not None:
        sides = _by_files(rated, original, path)
    elif path is not None:
        sides = _by_names(rated, names)
        if sides and source is not None:
            found.notes.append(
                f"{source.path}, which {found.metric} learned from, is not there: its rows were told by their names"
            )
    elif source is not None:
        where = Path(source.path)
        if rated.name in (where.name, where.stem, source.format):
            sides = dict.fromkeys(range(len(rated)), LEARNED)
        else:
            found.notes.append(
                f"{found.metric} learned from all of {source.path}, which is not there: whether these rows are of "
                "it is not known"
            )
    if path is not None and not sides and path.stem.partition("-")[2] == rated.name:
        if {name[:1] for name, _ in names} == {name[:1] for name in row_names(rated)}:
            sides = _by_names(rated, names)  # the same images, written anew
        else:
            found.notes.append(f"{path} is the split of another data set of this name")
    chose = recipe is not None and recipe.validation and recipe.select == "validation"
    if source is not None and source.weight == 0 and not chose:  # then its rows are only predicted
        sides = {row: UNUSED if side == LEARNED else side for row, side in sides.items() if path}
    if sides and path is not None:
        found.files.append(path)
    if sides and source is not None and found.scale is None:
        found.scale = source.score_range or (original.score_range if original else None)
    if recipe is not None and recipe.select == "test" and HELD in sides.values():
        found.notes.append(
            f"{found.metric} chose its epoch on the test side (select=test), so it is optimistic there"
        )
    found.add(sides)


def _original(source: DataSource) -> RatedSet | None:
    """The data set that a run learned from, if it is where it was then."""
    try:
        return open_source(source)
    except (InputError, OSError):
        return None


def _by_files(rated: RatedSet, original: RatedSet, path: Path | None) -> dict[int, str]:
    """Sides of the rows whose images are files of the original data set, or have the content of such a file."""
    theirs: Sequence[str] = [LEARNED] * len(original)
    if path is not None:
        try:
            split = load_split(path, original)
        except InputError:  # its table has changed since
            return _by_names(rated, saved_sides(path))
        sides = dict.fromkeys(split.train, LEARNED) | dict.fromkeys(split.test, HELD)
        theirs = [sides.get(row, UNUSED) for row in range(len(original))]
    paired = all(len(set(one.pictures)) < len(one) for one in (rated, original))
    known = {os.path.realpath(file) for file in _files(original, paired)}
    other = [Path(real) for file in _files(rated, paired) if (real := os.path.realpath(file)) not in known]
    there = [file for file in (*map(Path, sorted(known)), *other) if file.is_file()]
    alias = {str(file): str(same[0]) for same in (identical(there) if other else []) for file in same}

    def key(one: RatedSet, row: int) -> Key:
        files = (one.pictures[row], one.references[row] if paired else None)
        real = ("" if file is None else os.path.realpath(file) for file in files)
        picture, reference = (alias.get(file, file) for file in real)
        return picture, reference

    by_key: defaultdict[Key, set[str]] = defaultdict(set)
    for row, side in enumerate(theirs):
        by_key[key(original, row)].add(side)
    return _given((row, by_key.get(key(rated, row), set())) for row in range(len(rated)))


def _files(one: RatedSet, paired: bool) -> list[Path]:
    return [*one.pictures, *([file for file in one.references if file] if paired else [])]


def _by_names(rated: RatedSet, names: list[tuple[tuple[str, ...], str]]) -> dict[int, str]:
    """Sides of the rows whose names are those of the split, or whose paths end in them."""
    exact = dict(names)
    own = row_names(rated)
    if set(own) == set(exact):
        return {row: exact[name] for row, name in enumerate(own)}
    ends: defaultdict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for name, side in names:
        parts = tuple(name[0].split("/"))
        ends[parts[-1]].append((parts, side))
    return _given(
        (row, {side for parts, side in ends[file.name] if file.absolute().parts[-len(parts) :] == parts})
        for row, file in enumerate(rated.pictures)
    )


def _given(found: Iterable[tuple[int, set[str]]]) -> dict[int, str]:
    """One side for each row that has any: learned from, if one of them says so."""
    return {
        row: next(side for side in (LEARNED, HELD, UNUSED) if side in sides) for row, sides in found if sides
    }
