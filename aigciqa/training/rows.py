"""The data sets of a recipe as one table of rows, and the batches of an epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, Parameter
from .data import RatedSet, load, some
from .recipe import DataSource, Recipe
from .scale import Range, rescaled
from .splits import Split, folds, group_split, leaks, load_split, make_split, own_split, save_split

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class Rows:
    """Rows of several data sets, one after another.

    Args:
        paths: every picture and reference once; its position is its number.
        pictures: (N,) number of the generated picture.
        references: (N,) number of the reference, -1 for none.
        labels: (N, D) on the recipe's scale, NaN where there is none.
        weights: (N,) in the loss.
        sets: (N,) which data set.
        groups: (N,) which group, over all sets.
        contents: (N,) which reference in the data, seen or not; a number of its own where there is none.
        generators: (N,) names, "" where unknown.
        names: of the data sets.
        scales: of their labels by dimension, lowest and highest, before these were put on the recipe's scale.
        observed: whether nobody said so of a data set, and its labels were only seen to lie there.
    """

    paths: list[Path]
    pictures: Ints
    references: Ints
    labels: Floats
    weights: Floats
    sets: Ints
    groups: Ints
    contents: Ints
    generators: list[str]
    names: list[str]
    scales: list[dict[str, Range]]
    observed: list[bool]

    def mean_labels(self, rows: Ints) -> Floats:
        """(D,) mean label of those of `rows` that are learned from; 0 where there is none."""
        labels = self.labels[rows[self.weights[rows] > 0]]
        there = ~np.isnan(labels)
        return np.where(there, labels, 0).sum(0) / np.maximum(there.sum(0), 1)


def join(recipe: Recipe, rated: Sequence[RatedSet]) -> Rows:
    """Put data sets of different scales and dimensions together.

    Raises:
        InputError: when a set has none of the recipe's dimensions, or lacks references that it needs.
    """
    numbers: dict[Path, int] = {}
    groups: dict[tuple[int, str], int] = {}
    contents: dict[Path | int, int] = {}
    columns: dict[str, list[Any]] = {
        k: [] for k in ("pictures", "references", "weights", "sets", "groups", "contents")
    }
    labels, generators = [], []
    scales = [{d: one.range_of(d) for d in recipe.dimensions} for one in rated]
    for index, (source, one) in enumerate(zip(recipe.data, rated, strict=True)):
        if not set(recipe.dimensions) & one.labels.keys():
            raise InputError(
                f"{one.name} has no labels for {', '.join(recipe.dimensions)}; it has {', '.join(one.labels)}"
            )
        without = sum(reference is None for reference in one.references)
        if recipe.reference == "full" and without:
            raise InputError(
                f"{without} of {len(one)} rows of {one.name} have no reference, which full reference needs; "
                "train with ",
                Parameter("reference", "partial"),
                ", or leave these rows out of its manifest",
                *(
                    [", as ", Parameter("format", f"{one.name}-i2i"), " does"]
                    if one.name == "pku-aigiqa-4k"
                    else []
                ),
            )
        missing = np.full(len(one), np.nan)
        found = [
            rescaled(one.labels.get(d, missing), its, recipe.score_range) for d, its in scales[index].items()
        ]
        labels.append(np.stack(found, 1))
        for picture, reference, group in zip(one.pictures, one.references, one.groups, strict=True):
            columns["pictures"].append(numbers.setdefault(picture, len(numbers)))
            used = reference if recipe.reference != "none" else None
            columns["references"].append(-1 if used is None else numbers.setdefault(used, len(numbers)))
            columns["groups"].append(groups.setdefault((index, group), len(groups)))
            own = len(contents) if reference is None else reference
            columns["contents"].append(contents.setdefault(own, len(contents)))
        columns["weights"] += [source.weight] * len(one)
        columns["sets"] += [index] * len(one)
        generators += one.generators
    return Rows(
        paths=list(numbers),
        pictures=np.array(columns["pictures"], np.int64),
        references=np.array(columns["references"], np.int64),
        labels=np.concatenate(labels),
        weights=np.array(columns["weights"], np.float64),
        sets=np.array(columns["sets"], np.int64),
        groups=np.array(columns["groups"], np.int64),
        contents=np.array(columns["contents"], np.int64),
        generators=generators,
        names=[one.name for one in rated],
        scales=scales,
        observed=[
            one.range_is_observed and source.score_range is None
            for source, one in zip(recipe.data, rated, strict=True)
        ],
    )


def open_data(recipe: Recipe) -> list[RatedSet]:
    """The recipe's data sets.

    Raises:
        InputError: when there is none, or one cannot be read.
    """
    if not recipe.data:
        raise InputError("no data set; name one, ", Parameter("data", "PATH"))
    return [open_source(source) for source in recipe.data]


def open_source(source: DataSource) -> RatedSet:
    """One data set of a recipe.

    Raises:
        InputError: when it cannot be read.
    """
    return load(
        Path(source.path),
        source.format,
        images=None if source.images is None else Path(source.images),
        columns=source.columns,
        score_range=source.score_range,
        header=source.header,
        duplicates=source.duplicates,
    )


def linked(rated: Sequence[RatedSet]) -> list[list[int]]:
    """Numbers of the data sets, those that have a picture in common together."""
    clusters: list[tuple[set[Path], list[int]]] = []
    for index, one in enumerate(rated):
        pictures, members = set(one.pictures), [index]
        for cluster in [c for c in clusters if not c[0].isdisjoint(pictures)]:
            clusters.remove(cluster)
            pictures |= cluster[0]
            members = sorted(cluster[1] + members)
        clusters.append((pictures, members))
    return [members for _, members in clusters]


def by_group(
    rated: Sequence[RatedSet], rows: Sequence[Sequence[int]], cut: Callable[[list[str]], Split]
) -> list[Split]:
    """Cut data sets by group; those that are `linked` as one, so that a group is on one side of all of them.

    Args:
        rated: the data sets.
        rows: of each, those to cut.
        cut: given the groups of rows, their split.

    Raises:
        InputError: when one side of a data set is empty, and what `cut` raises.
    """
    found: dict[int, Split] = {}
    for cluster in linked(rated):
        places = [(index, row) for index in cluster for row in rows[index]]
        split = cut([rated[index].groups[row] for index, row in places])
        for index in cluster:
            train, test = (
                tuple(row for at in side for of, row in [places[at]] if of == index)
                for side in (split.train, split.test)
            )
            try:
                found[index] = Split(train, test, split.method)
            except InputError as error:
                raise InputError(
                    f"{rated[index].name}: ", *error.args, "; pass another seed or other folds"
                ) from None
    return [found[index] for index in range(len(rated))]


def by_fold(recipe: Recipe, rated: Sequence[RatedSet]) -> list[Split]:
    """The recipe's fold of each data set, by group.

    Raises:
        InputError: as `by_group`.
    """
    everything = [range(len(one)) for one in rated]
    return by_group(rated, everything, lambda of: folds(of, recipe.folds, recipe.seed)[recipe.fold])


def divide(recipe: Recipe, rated: Sequence[RatedSet], folder: Path) -> tuple[Ints, Ints, Ints, list[str]]:
    """Split every data set, and save the splits in ``folder/splits``.

    By group, data sets that have pictures in common are split as one.

    Returns:
        Row numbers (of `join`) to train on, to validate on and to test on, and warnings about leaks.

    Raises:
        InputError: when a split cannot be made or does not fit its data set.
    """
    everything = [range(len(one)) for one in rated]
    splits: list[Split] = []
    if recipe.split == "group" and recipe.folds:
        splits = by_fold(recipe, rated)
    elif recipe.split == "group" and recipe.test:
        splits = by_group(rated, everything, lambda of: group_split(of, recipe.test, recipe.seed))
    elif recipe.split != "group":
        splits = [_given(recipe, one, _file(index, one)) for index, one in enumerate(rated)]
    warnings = []
    for index, (one, split) in enumerate(zip(rated, splits, strict=False)):
        (folder / "splits").mkdir(parents=True, exist_ok=True)
        save_split(split, folder / "splits" / _file(index, one), one)
        warnings += [f"{one.name}: {leak}" for leak in leaks(one, split)]
        if recipe.split == "paper" and one.splits is not None:
            warnings.append(
                f"{one.name}: its files bring a split (split=own), so its rows are perhaps not in the order that the "
                "papers' split goes by"
            )
    train: list[Sequence[int]] = [split.train for split in splits] or [*everything]
    test = [split.test for split in splits] or [()] * len(rated)
    validation: list[Sequence[int]] = [()] * len(rated)
    if recipe.validation:
        parts = by_group(rated, train, lambda of: group_split(of, recipe.validation, recipe.seed))
        train, validation = [part.train for part in parts], [part.test for part in parts]
    starts = np.cumsum([0, *map(len, rated)])
    train_rows, validation_rows, test_rows = (
        np.concatenate([start + np.array(part, np.int64) for start, part in zip(starts, side, strict=False)])
        for side in (train, validation, test)
    )
    return train_rows, validation_rows, test_rows, warnings + _shared(rated, train, test)


def _file(index: int, one: RatedSet) -> str:
    return f"{index}-{one.name}.csv"


def _given(recipe: Recipe, one: RatedSet, name: str) -> Split:
    """The split of one data set, where it is not by group."""
    given = Path(recipe.split)
    if recipe.split == "paper":
        return make_split(one, "paper", seed=recipe.seed, k=recipe.folds or None, fold=recipe.fold)
    if recipe.split == "own":
        return own_split(one)
    if given.exists():
        return load_split(given / name if given.is_dir() else given, one)
    raise InputError(f"split must be group, paper, own or a saved split; there is no file {recipe.split!r}")


def _shared(
    rated: Sequence[RatedSet], train: Sequence[Sequence[int]], test: Sequence[Sequence[int]]
) -> list[str]:
    """Where a data set is trained on what another tests on, a sentence each."""
    trained, tested = (
        [{one.pictures[row] for row in rows} for one, rows in zip(rated, side, strict=True)]
        for side in (train, test)
    )
    return [
        f"{len(both)} pictures that {one.name} tests on are trained on in {other.name}: {some(sorted(both))}"
        for one, here in zip(rated, tested, strict=True)
        for other, there in zip(rated, trained, strict=True)
        if other is not one and (both := here & there)
    ]


def batches(rows: Ints, units: Ints | None, size: int, seed: Sequence[int]) -> list[Ints]:
    """The batches of an epoch, the same for the same seed.

    Args:
        rows: (N,) row numbers to go through.
        units: of every row of the table, such as its group; rows of one unit come together. None to shuffle rows.
        size: rows per batch; the last may have fewer.
        seed: any integers.

    Examples:
        >>> [len(b) for b in batches(np.arange(10), None, 4, [1, 0])]
        [4, 4, 2]
    """
    order = _shuffled(rows, units, np.random.default_rng(seed))
    return [order[i : i + size] for i in range(0, len(order), size)]


def mixed_batches(
    rows: Ints, units: Ints | None, sets: Ints, sizes: Sequence[int], seed: Sequence[int]
) -> list[Ints]:
    """Batches with the same number of rows of each data set, until all rows of the first have come.

    Args:
        rows: (N,) row numbers to go through.
        units: as for `batches`.
        sets: data set of every row of the table.
        sizes: rows per batch, by data set; of those without rows there are none.
        seed: any integers.

    Examples:
        >>> made = mixed_batches(np.arange(10), None, np.array([0] * 8 + [1] * 2), [4, 3], [1, 0])
        >>> [int((batch >= 8).sum()) for batch in made]
        [3, 3]
    """
    rng = np.random.default_rng(seed)
    parts = [(rows[sets[rows] == index], size) for index, size in enumerate(sizes)]
    parts = [(part, size) for part, size in parts if len(part)]
    if not parts:
        return []
    steps = -(-len(parts[0][0]) // parts[0][1])
    found = []
    for part, size in parts:
        turns = -(-steps * size // len(part))
        order = np.concatenate([_shuffled(part, units, rng) for _ in range(turns)])
        found.append(order[: steps * size].reshape(steps, size))
    return list(np.concatenate(found, 1))


def _shuffled(rows: Ints, units: Ints | None, rng: np.random.Generator) -> Ints:
    order = rng.permutation(rows)
    if units is None:
        return order
    rank = rng.permutation(int(units[order].max(initial=0)) + 1)
    return order[np.argsort(rank[units[order]], kind="stable")]
