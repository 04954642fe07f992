"""Which pictures to train on and which to test on.

The papers' split puts pictures of one prompt on both sides, which makes the test easier than new prompts would;
`group_split` keeps all of a prompt's pictures together. `leaks` says what a split shares between its sides.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, Parameter
from ..writing import write_named
from .data import RatedSet, identical, some
from .tables import read_table

METHODS = ("group", "paper", "own")
UNUSED = "unused"  # in a saved split: the side of a picture that is on neither


@dataclass(frozen=True)
class Split:
    """Row numbers to train and to test on.

    Args:
        train: row numbers; kept in ascending order.
        test: likewise; none of them in `train`.
        method: how it was made, in words.

    Raises:
        InputError: when a row is there twice or a side is empty.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    method: str

    def __post_init__(self) -> None:
        for side in ("train", "test"):
            rows = tuple(sorted(int(row) for row in getattr(self, side)))
            if not rows:
                raise InputError(f"{self.method}: there is nothing to {side} on")
            object.__setattr__(self, side, rows)
        if double := [row for row, n in Counter(self.train + self.test).items() if n > 1]:
            raise InputError(f"{self.method}: rows {some(double)} are there more than once")


def paper_split(n: int) -> Split:
    """The papers' split, 3 to 1 in the order of the file: row i is tested on when i % 4 == 3.

    Args:
        n: number of rows.

    Raises:
        InputError: for fewer than 4 rows.

    Source: the training code of the authors of arXiv 2311.15556 and 2404.18409.

    Examples:
        >>> paper_split(8).test
        (3, 7)
    """
    test = tuple(range(3, n, 4))
    return Split(tuple(i for i in range(n) if i % 4 != 3), test, "paper: row i is tested on when i % 4 is 3")


def group_split(groups: Sequence[str], test: float = 0.25, seed: int = 1) -> Split:
    """A split that keeps whole groups on one side, as near to the wanted size as the groups allow.

    The same groups, size and seed give the same split on every machine, in whatever order the rows come.

    Args:
        groups: the group of each row.
        test: part of the rows to test on, between 0 and 1.
        seed: any integer.

    Raises:
        InputError: when there is only one group, or `test` is not between 0 and 1.

    Examples:
        >>> group_split(["a", "a", "b", "b", "c", "c", "d", "d"], test=0.25).test
        (6, 7)
    """
    if not 0 < test < 1:
        raise InputError(
            Parameter("test", f"{test:g}"), ": pass the part of the rows to test on, between 0 and 1"
        )
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise InputError(
            f"{len(sizes)} group{'s' * (len(sizes) != 1)} of pictures; a split needs two or more"
        )
    order = _shuffled(sizes, seed)
    reached_by = _reachable([sizes[group] for group in order])
    sums = np.flatnonzero(reached_by[1:-1] >= 0) + 1  # neither side empty
    left = int(sums[np.abs(sums - test * len(groups)).argmin()])
    chosen = set()
    while left:
        group = order[reached_by[left]]
        chosen.add(group)
        left -= sizes[group]
    rows = range(len(groups))
    return Split(
        tuple(i for i in rows if groups[i] not in chosen),
        tuple(i for i in rows if groups[i] in chosen),
        f"group: {len(chosen)} of {len(sizes)} groups are tested on (test {test:g}, seed {seed})",
    )


def _shuffled(groups: "Counter[str]", seed: int) -> list[str]:
    """By hash rather than by a random generator, whose sequences may differ between versions."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())


def _reachable(sizes: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """For each sum of rows, the last of the fewest leading groups that can make it; -1 if none can."""
    reached_by = np.full(sum(sizes) + 1, -1)
    reached = np.zeros(len(reached_by), dtype=bool)
    reached[0] = True
    for index, size in enumerate(sizes):
        new = np.zeros_like(reached)
        new[size:] = reached[:-size]
        new &= ~reached
        reached_by[new] = index
        reached |= new
    return reached_by


def folds(groups_or_n: Sequence[str] | int, k: int, seed: int = 1, method: str = "group") -> list[Split]:
    """Splits for k-fold cross-validation: every row is tested on in exactly one of them.

    Args:
        groups_or_n: the group of each row, or for the paper's method the number of rows.
        k: number of folds, 2 or more.
        seed: any integer; the paper's method does not use it.
        method: ``"group"``, whole groups in folds of sizes as even as they allow, or ``"paper"``: row i is in
            fold i % k.

    Raises:
        InputError: for more folds than there are groups or rows, or another method.

    Examples:
        >>> [split.test for split in folds(["a", "b", "b", "c"], k=3)]
        [(1, 2), (0,), (3,)]
    """
    if method not in ("group", "paper") or (method == "group" and isinstance(groups_or_n, int)):
        raise InputError(f"folds: method {method!r}; pass 'group' with the groups, or 'paper'")
    n = groups_or_n if isinstance(groups_or_n, int) else len(groups_or_n)
    groups = range(n) if method == "paper" or isinstance(groups_or_n, int) else groups_or_n
    sizes = Counter(str(group) for group in groups)
    if not 2 <= k <= len(sizes):
        raise InputError(
            f"{k} folds of {len(sizes)} {'rows' if method == 'paper' else 'groups'}; pass fewer, 2 at least"
        )
    filled, placed = [0] * k, {}
    for group in sizes if method == "paper" else sorted(_shuffled(sizes, seed), key=lambda g: -sizes[g]):
        placed[group] = filled.index(min(filled))  # one after another where all are of one size
        filled[placed[group]] += sizes[group]
    fold_of = [placed[str(group)] for group in groups]
    how = f"{method}: fold {{}} of {k}" + (f" (seed {seed})" if method == "group" else "")
    return [
        Split(
            tuple(row for row in range(n) if fold_of[row] != fold),
            tuple(row for row in range(n) if fold_of[row] == fold),
            how.format(fold),
        )
        for fold in range(k)
    ]


def own_split(rated: RatedSet) -> Split:
    """The split that the data set brings; what it calls val is trained on.

    Raises:
        InputError: when it brings none, or has nothing on one side.
    """
    if rated.splits is None:
        raise InputError(f"{rated.name} brings no split of its own; pass 'group' or 'paper'")
    sides: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, side in enumerate(rated.splits):
        sides[side].append(row)
    return Split(tuple(sides["train"] + sides["val"]), tuple(sides["test"]), "own: the data set's split")


def make_split(
    rated: RatedSet,
    method: str | os.PathLike[str] = "group",
    test: float = 0.25,
    seed: int = 1,
    k: int | None = None,
    fold: int = 0,
) -> Split:
    """A split of a data set by any of the methods.

    Args:
        rated: the data set.
        method: ``"group"``, ``"paper"``, ``"own"``, or the path of a saved split.
        test: part of the rows to test on, between 0 and 1; of ``"group"`` without `k`.
        seed: any integer; of ``"group"``.
        k: number of folds, to get one of `folds` instead; None for a single split.
        fold: which of them to test on, 0 to k - 1.

    Raises:
        InputError: for another method, a fold that is not there, or what the method itself refuses.
    """
    saved = method not in METHODS
    if k is None and fold:
        raise InputError(f"fold={fold} without k=; pass the number of folds too")
    if k is not None:
        if saved or method == "own":
            raise InputError(f"k={k}: {os.fspath(method)} is one split and has no folds")
        splits = folds(rated.groups, k, seed, str(method))
        if not 0 <= fold < k:
            raise InputError(f"fold={fold}: pass 0 to {k - 1}")
        return splits[fold]
    if method == "group":
        return group_split(rated.groups, test, seed)
    if method == "paper":
        return paper_split(len(rated))
    if method == "own":
        return own_split(rated)
    if not Path(method).is_file():
        raise InputError(
            f"no split {os.fspath(method)!r}: pass {', '.join(METHODS)} or the file of a saved one"
        )
    return load_split(method, rated)


# -- saved splits


def _names(files: Sequence[Path | None]) -> list[str]:
    """Paths from the folder they share, so that the data set may be moved; "" for None."""
    paths = [file and Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 (no symlinks followed)
    folder = os.path.commonpath([path.parent for path in paths if path] or [Path()])
    return [path.relative_to(folder).as_posix() if path else "" for path in paths]


def _keys(rated: RatedSet) -> dict[str, list[str]]:
    """What tells rows apart: the picture, and the reference too where a picture comes with several."""
    pictures = _names(rated.pictures)
    if len(set(pictures)) == len(pictures):
        return {"picture": pictures}
    return {"picture": pictures, "reference": _names(rated.references)}


def row_names(rated: RatedSet) -> list[tuple[str, ...]]:
    """What a saved split calls the rows of a data set."""
    return list(zip(*_keys(rated).values(), strict=True))


def saved_sides(path: Path) -> list[tuple[tuple[str, ...], str]]:
    """The rows of a saved split, by `row_names`, and their sides; it need not fit any data set.

    Raises:
        InputError: when it is not a saved split.
    """
    table = read_table(path)
    if missing := {"picture", "side"} - set(table.columns):
        raise InputError(f"{path}: not a saved split: no column {', '.join(sorted(missing))}")
    if wrong := sorted(set(table["side"]) - {"train", "test", UNUSED}):
        raise InputError(f"{path}: side {wrong[0]!r} is not train, test or {UNUSED}")
    columns = [table[name] for name in ("picture", "reference") if name in table]
    return [(tuple(map(str, name)), str(side)) for *name, side in zip(*columns, table["side"], strict=True)]


def save_split(split: Split, path: str | os.PathLike[str], rated: RatedSet) -> None:
    """Write a split as CSV: each picture's name, its side, and how the split was made.

    Args:
        split: of `rated`.
        path: the file to write.
        rated: the data set.
    """
    sides = np.full(len(rated), UNUSED, dtype=object)
    sides[list(split.train)], sides[list(split.test)] = "train", "test"
    table = pd.DataFrame({**_keys(rated), "side": sides, "method": split.method})
    write_named(path, table.to_csv(index=False, lineterminator="\n"))


def load_split(path: str | os.PathLike[str], rated: RatedSet) -> Split:
    """Read a split that `save_split` wrote, in whatever order its rows are.

    Args:
        path: the CSV file.
        rated: the data set; it must have exactly the pictures of the file.

    Raises:
        InputError: naming the pictures that are missing, unknown or doubled, or a side that is none.
    """
    path = Path(path)
    table = read_table(path)
    keys = _keys(rated)
    if missing := {*keys, "side", "method"} - set(table.columns):
        raise InputError(f"{path}: not a saved split: no column {', '.join(sorted(missing))}")
    rows = {" with ".join(key): row for row, key in enumerate(zip(*keys.values(), strict=True))}
    saved = [" with ".join(key) for key in zip(*(table[column] for column in keys), strict=True)]
    for names, what in (
        ([name for name in rows if name not in set(saved)], f"pictures of {rated.name} are not in it"),
        ([name for name in saved if name not in rows], f"of its pictures are not in {rated.name}"),
        ([name for name, n in Counter(saved).items() if n > 1], "of its pictures are there more than once"),
    ):
        if names:
            raise InputError(f"{path}: {len(names)} {what}: {some(names)}")
    sides: defaultdict[str, list[int]] = defaultdict(list)
    for index, name, side in zip(table.index, saved, table["side"], strict=True):
        if side not in ("train", "test", UNUSED):
            raise InputError(f"{path}: row {index}: side {side!r} is not train, test or {UNUSED}")
        sides[side].append(rows[name])
    return Split(tuple(sides["train"]), tuple(sides["test"]), str(table["method"].iloc[0]))


# -- leaks


def leaks(rated: RatedSet, split: Split) -> list[str]:
    """What the two sides of a split share, a sentence each; empty when they share nothing.

    Args:
        rated: the data set.
        split: of `rated`.

    Raises:
        InputError: for a file that cannot be read.
    """
    train, test = rated.subset(split.train), rated.subset(split.test)
    found = []
    if groups := sorted(set(train.groups) & set(test.groups)):
        found.append(
            f"{len(groups)} of {len(set(rated.groups))} groups (prompts) are trained and tested on: {some(groups)}"
        )
    if references := sorted({r for r in train.references if r} & {r for r in test.references if r}):
        found.append(f"{len(references)} references are on both sides: {some(references)}")
    sides = [{path for path in (*side.pictures, *side.references) if path} for side in (train, test)]
    for same in identical(sorted(sides[0] | sides[1])):
        if sides[0] & set(same) and sides[1] & set(same):
            found.append(f"identical files are on both sides: {some(same)}")
    return found
