"""The data sets of a recipe as one table of rows, and the batches of an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .data import RatedSet, load
from .recipe import Recipe
from .splits import leaks, load_split, make_split, own_split, save_split, validation_part

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
    for index, (source, one) in enumerate(zip(recipe.data, rated, strict=True)):
        if not set(recipe.dimensions) & one.labels.keys():
            raise InputError(
                f"{one.name} has no labels for {', '.join(recipe.dimensions)}; it has {', '.join(one.labels)}"
            )
        without = sum(reference is None for reference in one.references)
        if recipe.reference == "full" and without:
            raise InputError(
                f"{without} of {len(one)} rows of {one.name} have no reference, which full reference needs; "
                "train with reference=partial, or leave these rows out of its manifest"
            )
        low, high = source.score_range or one.score_range
        to_low, to_high = recipe.score_range
        missing = np.full(len(one), np.nan)
        found = np.stack([one.labels.get(d, missing) for d in recipe.dimensions], 1)
        labels.append((found - low) / (high - low) * (to_high - to_low) + to_low)
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
    )


def open_data(recipe: Recipe) -> list[RatedSet]:
    """The recipe's data sets.

    Raises:
        InputError: when there is none, or one cannot be read.
    """
    if not recipe.data:
        raise InputError("no data set; name one (--data DIR)")
    return [
        load(
            Path(s.path),
            s.format,
            images=None if s.images is None else Path(s.images),
            columns=s.columns,
            score_range=s.score_range,
        )
        for s in recipe.data
    ]


def divide(recipe: Recipe, rated: Sequence[RatedSet], folder: Path) -> tuple[Ints, Ints, Ints, list[str]]:
    """Split every data set, and save the splits in ``folder/splits``.

    Returns:
        Row numbers (of `join`) to train on, to validate on and to test on, and warnings about leaks.

    Raises:
        InputError: when a split cannot be made or does not fit its data set.
    """
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    warnings = []
    start = 0
    for index, one in enumerate(rated):
        name = f"{index}-{one.name}.csv"
        given = Path(recipe.split)
        if recipe.split == "group" and not recipe.test and not recipe.folds:
            split = None
        elif recipe.split in ("group", "paper"):
            folds = recipe.folds or None
            split = make_split(
                one, recipe.split, test=recipe.test, seed=recipe.seed, k=folds, fold=recipe.fold
            )
        elif recipe.split == "own":
            split = own_split(one)
        elif given.exists():
            split = load_split(given / name if given.is_dir() else given, one)
        else:
            raise InputError(
                f"split must be group, paper, own or a saved split; there is no file {recipe.split!r}"
            )
        train: tuple[int, ...] = tuple(range(len(one)))
        test: tuple[int, ...] = ()
        if split is not None:
            train, test = split.train, split.test
            (folder / "splits").mkdir(parents=True, exist_ok=True)
            save_split(split, folder / "splits" / name, one)
            warnings += [f"{one.name}: {leak}" for leak in leaks(one, split)]
        validation: tuple[int, ...] = ()
        if recipe.validation:
            train, validation = validation_part(one.groups, train, recipe.validation, recipe.seed)
        for side, part in zip(sides, (train, validation, test), strict=True):
            side.extend(start + i for i in part)
        start += len(one)
    train_rows, validation_rows, test_rows = (np.array(sorted(side), np.int64) for side in sides)
    return train_rows, validation_rows, test_rows, warnings


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
