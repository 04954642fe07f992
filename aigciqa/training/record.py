"""What a run learns from, written down, so that it goes on only with the same data, wherever this lies by then."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, Parameter
from .data import RatedSet, some
from .files import digest_of, write_whole
from .recipe import DataSource, Recipe
from .splits import row_names

RECORD = "rows.csv"
FILES = ("picture_sha256", "reference_sha256")
COLUMNS = ("set", "row", "name", *FILES, "group", "side")  # and the labels of each dimension


def moved(
    data: Sequence[DataSource], paths: Sequence[str], given: Mapping[str, Any]
) -> tuple[DataSource, ...]:
    """The data sets of a run at new places.

    Args:
        data: of the run.
        paths: their new places, in the same order; empty where they are still there.
        given: other fields of `DataSource` that are to be replaced.

    Raises:
        InputError: when there is not a path for each.
    """
    if paths and len(paths) != len(data):
        raise InputError(
            f"this run learns from {len(data)} data sets ({', '.join(one.path for one in data)}), and {len(paths)} "
            "are named; name the place of each, in this order: ",
            Parameter("data", "PLACE"),
        )
    new = paths or [one.path for one in data]
    return tuple(replace(one, path=path, **given) for one, path in zip(data, new, strict=True))


def differences(saved: Recipe, recipe: Recipe) -> list[str]:
    """The fields that differ, but for where data sets and the cache lie, which may when a run goes on."""
    old, new = (
        replace(one, cache=None, data=tuple(replace(source, path="", images=None) for source in one.data))
        for one in (saved, recipe)
    )
    return [field.name for field in fields(Recipe) if getattr(old, field.name) != getattr(new, field.name)]


def check_places(recipe: Recipe) -> None:
    """Look whether the data sets of a run are where they were.

    Raises:
        InputError: when one is not, with how to name its new place.
    """
    for one in recipe.data:
        for place, name in ((one.path, "data"), (one.images, "images")):
            if place is not None and not Path(place).exists():
                raise InputError(
                    f"{place}, which this run learns from, is not there; if it was moved, name its new place: ",
                    Parameter(name, "NEWPLACE"),
                )


def record(recipe: Recipe, rated: Sequence[RatedSet]) -> pd.DataFrame:
    """A row for each row of the data sets: its name, the digests of its files, its group, side and labels.

    Raises:
        InputError: for a file that cannot be read.
    """
    parts = []
    for index, one in enumerate(rated):
        table = pd.DataFrame({"set": index, "row": range(len(one))})
        table["name"] = [" with ".join(name) for name in row_names(one)]
        table["picture_sha256"] = [str(path) for path in one.pictures]
        seen = recipe.reference != "none"
        table["reference_sha256"] = [str(path) if path and seen else "" for path in one.references]
        table["group"] = one.groups
        table["side"] = one.splits or [""] * len(one)
        for dimension in recipe.dimensions:
            table[f"{dimension}_label"] = one.labels.get(dimension, np.full(len(one), np.nan))
        parts.append(table)
    found = pd.concat(parts, ignore_index=True)
    paths = sorted({path for column in FILES for path in found[column] if path})
    try:
        with ThreadPoolExecutor() as pool:
            digests = dict(zip(paths, pool.map(lambda path: digest_of(Path(path)), paths), strict=True))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    for column in FILES:
        found[column] = [digests.get(path, "") for path in found[column]]
    return found


def write_record(path: Path, rows: pd.DataFrame) -> None:
    """Write what `record` gives."""
    write_whole(path, rows.to_csv(index=False))


def same_data(path: Path, recipe: Recipe, rated: Sequence[RatedSet]) -> list[RatedSet]:
    """The data sets with the groups that the run knows them by, which may have been named after their place.

    Args:
        path: what `write_record` wrote.
        recipe: of the run.
        rated: its data sets now.

    Raises:
        InputError: when they differ from what the run learned from, with what differs.
    """
    try:
        then = pd.read_csv(path, keep_default_na=False, dtype=str)
        labels = [f"{dimension}_label" for dimension in recipe.dimensions]
        if list(then.columns) != [*COLUMNS, *labels]:
            raise ValueError("its columns are other ones")
        then[labels] = then[labels].replace("", "nan").astype(float)  # as exactly as they were written
        sizes = then.groupby(then["set"].astype(int)).size()
    except ValueError as error:
        raise InputError(
            f"{path} is damaged: {str(error).splitlines()[0]}; start anew in another folder"
        ) from None
    now = record(recipe, rated)
    if said := _difference(then, now, labels):
        raise InputError(
            f"the data is not what this run learned from ({path}): {said}; go on with the same data, or start "
            "anew in another folder"
        )
    ends = np.cumsum([0, *sizes])
    groups = then["group"].tolist()
    return [
        replace(one, groups=groups[start:end])
        for one, start, end in zip(rated, ends[:-1], ends[1:], strict=True)
    ]


def _difference(then: pd.DataFrame, now: pd.DataFrame, labels: Sequence[str]) -> str | None:
    """What differs, as a sentence; None where nothing does."""
    old, new = ([tuple(row) for row in one[list(FILES)].to_numpy()] for one in (then, now))
    if old != new:
        return _other_files(then, now, old, new)
    for column in labels:
        was, its = (one[column].to_numpy(np.float64) for one in (then, now))
        if len(rows := np.flatnonzero((was != its) & ~(np.isnan(was) & np.isnan(its)))):
            at, name = rows[0], column.removesuffix("_label")
            return (
                f"other labels in {len(rows)} of {len(now)} rows, such as {name} of {now['name'][at]}: "
                f"{was[at]:g} then, {its[at]:g} now"
            )
    for column in ("set", "group", "side"):
        codes = [
            pd.factorize(one["set"].astype(str) + "/" + one[column].astype(str))[0] for one in (then, now)
        ]
        same = codes[0] == codes[1] if column != "side" else then[column] == now[column]
        if not np.all(same):
            at = int(np.argmin(same))
            return f"another {column} of {now['name'][at]}"
    return None


def _other_files(then: pd.DataFrame, now: pd.DataFrame, old: list[Any], new: list[Any]) -> str:
    names_then, names_now = then["name"].tolist(), now["name"].tolist()
    gone = [name for name in names_then if name not in set(names_now)]
    added = [name for name in names_now if name not in set(names_then)]
    said = [f"{len(now)} rows instead of {len(then)}"] if len(now) != len(then) else []
    said += [f"rows that are gone: {some(gone)}"] if gone else []
    said += [f"rows that are new: {some(added)}"] if added else []
    if not said and sorted(old) == sorted(new):
        return "the same rows in another order"
    before = dict(zip(names_then, old, strict=True))
    if other := [
        name for name, files in zip(names_now, new, strict=True) if before.get(name, files) != files
    ]:
        said.append(f"files of another content: {some(other)}")
    return "; ".join(said)
