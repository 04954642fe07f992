"""Every row and column of the paper's table, trained by the authors' protocol."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import DIMENSIONS
from ..errors import InputError, Parameter
from .files import write_whole
from .paper import Result, paper_results, paper_table
from .recipe import DataSource, Recipe, list_recipes, read_recipe
from .record import differences
from .rows import open_source
from .scale import Range

PROTOCOL = {"split": "paper", "select": "test", "validation": 0.0}  # arXiv 2311.15556, by its training code
OURS = "reproduced"


def paper_rows() -> list[str]:
    """The recipes of the rows of the paper's table.

    Examples:
        >>> paper_rows()[:2], len(paper_rows())
        (['nr-vgg16', 'nr-vgg19'], 10)
    """
    table = paper_results()
    return list(dict.fromkeys((table.method.str.lower() + "-" + table.backbone).tolist()))


def reproduce(
    source: DataSource,
    folder: str | Path,
    *,
    rows: Sequence[str] = (),
    dimensions: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> str:
    """Train every row and column of the paper's table, and put the figures beside the published ones.

    As in the paper, a network is trained for each row and column, and the figures are the highest SRCC and PLCC of its
    epochs on the test set. Finished runs are not repeated and interrupted ones go on, so the same call may be given
    again, also with more rows.

    Args:
        source: PKU-I2IQA.
        folder: gets a run in ``ROW/DIMENSION`` for each, and ``table.txt``.
        rows: of `paper_rows` or other recipes; all of the paper's when empty.
        dimensions: the columns; all four when empty.
        changes: fields of the recipes that are to be other ones, such as fewer epochs; None leaves a field alone.
        report: called with each line for the user.

    Returns:
        The table, with what the paper's protocol was changed in.

    Raises:
        InputError: for an unknown row or column, labels that the data set lacks, and what `train` refuses.
    """
    rows, dimensions, folder = list(rows) or paper_rows(), list(dimensions) or list(DIMENSIONS), Path(folder)
    changes = {name: value for name, value in (changes or {}).items() if value is not None}
    if unknown := [row for row in rows if row not in list_recipes()]:
        raise InputError(
            f"no row {unknown[0]!r}; pass some of ", Parameter("rows"), f": {', '.join(list_recipes())}"
        )
    if fixed := changes.keys() & {"data", "dimensions", "name", *PROTOCOL}:
        raise InputError(f"{min(fixed)} is given by the paper's protocol; leave it out, or use train")
    rated = open_source(source)
    if lacking := [name for name in dimensions if name not in rated.labels]:
        raise InputError(
            f"{rated.name} has no labels for {', '.join(lacking)}; it has {', '.join(rated.labels)}"
        )
    warned: set[str] = set()
    results = []
    for row in rows:
        figures = {}
        for dimension in dimensions:
            made = _recipe(row, dimension, source, rated.range_of(dimension), folder, changes)
            best = _best(made, folder / row / dimension, report, warned).get(dimension, {})
            figures[dimension] = (best.get("srcc", math.nan), best.get("plcc", math.nan))
            report(f"{row}, {dimension}: SRCC {figures[dimension][0]:.4f}, PLCC {figures[dimension][1]:.4f}")
        method, _, backbone = row.partition("-")
        results.append(Result(OURS, method.upper(), backbone, figures))
    shutil.rmtree(folder / "cache", ignore_errors=True)
    text = paper_table(results, rated.name)
    if changes:
        said = ", ".join(f"{name} {value}" for name, value in changes.items())
        text += f"\nNot the paper's protocol: {said}."
    write_whole(folder / "table.txt", text + "\n")
    return text


def _recipe(
    row: str, dimension: str, source: DataSource, scale: Range, folder: Path, changes: Mapping[str, Any]
) -> Recipe:
    """The recipe of one row and column; its scores are on the scale of the labels, as the authors' are."""
    own = {"name": f"{row}-{dimension}", "dimensions": (dimension,), "data": [source], "score_range": scale}
    shared = {"cache": str(folder / "cache")}  # so that pictures are decoded once for all runs
    return read_recipe(row, {**PROTOCOL, **own, **shared, **changes})


def _best(
    recipe: Recipe, folder: Path, report: Callable[[str], None], warned: set[str]
) -> dict[str, dict[str, Any]]:
    """The best of each of a run, which is trained unless it is finished; a warning is reported once for all runs."""
    from .trainer import train

    def heard(line: str) -> None:
        if line.startswith("warning: ") and line not in warned:
            warned.add(line)
            report(line)

    begun = (folder / "recipe.yaml").exists()
    if begun and (other := differences(read_recipe(folder / "recipe.yaml"), recipe)):
        raise InputError(
            f"{folder} holds a run of other {', '.join(other)}; choose another folder, ",
            Parameter("out", "DIR"),
        )
    if (folder / "evaluation.json").exists():
        return json.loads((folder / "evaluation.json").read_text())["best_of_each"]
    return train(recipe, folder, resume=begun, report=heard, bootstrap=0).best_of_each
