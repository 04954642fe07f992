"""Somebody else's scores, from a file, put in the order of our pictures."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, Parameter
from .bounds import check_text
from .correlation import Floats
from .tables import TABLES, read_table


def read_scores(
    path: str | Path, picture_column: str | None = None, score_column: str | None = None
) -> dict[str, float]:
    """Scores by picture from a CSV, TSV, Parquet or JSONL file.

    Args:
        path: the file, with a header line if it is CSV or TSV.
        picture_column: the column of file names or paths; None for the only column of text.
        score_column: the column of scores; None for the only column of numbers.

    Returns:
        Scores by picture, as the file names it, in the file's order.

    Raises:
        InputError: when the file cannot be read, the columns are not there or not clear, a score is missing
            or not a finite number, or a picture comes twice.

    Examples:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "theirs.csv"
        >>> _ = file.write_text("picture,niqe\\nSD_000_00.jpg,4.25\\nSD_000_01.jpg,3.5\\n")
        >>> read_scores(file)
        {'SD_000_00.jpg': 4.25, 'SD_000_01.jpg': 3.5}
    """
    path = Path(path)
    table = _read(path)
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in table.columns}
    numeric = [name for name in table.columns if numbers[name].notna().any()]
    text = [name for name in table.columns if name not in numeric]
    picture = _column(path, table, picture_column, text, Parameter("picture_column"))
    score = _column(path, table, score_column, numeric, Parameter("score_column"))
    if path.suffix.lower() in (".csv", ".tsv") and _is_number(score):
        raise InputError(f"{path.name} seems to have no header line; add one that names the columns")

    names = ["" if pd.isna(name) else str(name) for name in table[picture]]
    values = numbers[score].to_numpy(dtype=np.float64, na_value=np.nan)
    if bad := [f"row {i + 1} ({names[i]})" for i in np.flatnonzero(~np.isfinite(values))]:
        raise InputError(f"{path.name}: {score} is not a finite number in {_listed(bad)}")
    if empty := [f"row {i + 1}" for i, name in enumerate(names) if not name]:
        raise InputError(f"{path.name}: {picture} is empty in {_listed(empty)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path.name}: these pictures come more than once: {_listed(twice)}")
    return dict(zip(names, values.tolist(), strict=True))


def read_results(path: Path) -> tuple[dict[str, dict[str, float]], str] | None:
    """Scores by dimension and picture from a file that `aigciqa-score` or a run of training wrote, and what scored.

    Returns:
        None for another file; what scored is ``""`` where the file does not say.

    Raises:
        InputError: when the file cannot be read, has no scores, those of several metrics, or a picture twice.
    """
    table = _read(path)
    columns = list(map(str, table.columns))
    if columns[:4] == ["set", "row", "picture", "reference"]:
        dimensions = {name: name.removesuffix("_score") for name in columns[4::2]}
        stamps = [""]
    elif columns[:2] == ["picture", "reference"] and columns[-2:] == ["error", "metric"] and len(columns) > 4:
        dimensions = {name: name for name in columns[2:-2]}
        stamps = sorted(set(map(str, table["metric"])))
    else:
        return None
    if len(stamps) != 1:
        raise InputError(f"{path.name} holds scores of {len(stamps)} metrics: {_listed(stamps)}")
    if twice := [name for name, count in Counter(table["picture"]).items() if count > 1]:
        raise InputError(f"{path.name}: these pictures come more than once: {_listed(twice)}")
    found = {}
    for column, dimension in dimensions.items():
        values = pd.to_numeric(table[column], errors="coerce")
        there = np.isfinite(values.to_numpy(np.float64, na_value=np.nan))
        found[dimension] = dict(zip(table["picture"][there], values[there].astype(float), strict=True))
    return found, stamps[0]


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() in TABLES:
        return read_table(path)
    if path.suffix.lower() != ".jsonl":
        raise InputError(
            f"cannot read scores from {path.name}; its name must end in {', '.join(TABLES)}, .jsonl"
        )
    check_text(path, b",:[{\n")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("every line must be a JSON object")
        return pd.DataFrame(rows)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read scores from {path}: {str(error).splitlines()[0]}") from None


def _column(path: Path, table: pd.DataFrame, given: str | None, fitting: list[Any], option: Parameter) -> Any:
    if given is not None and given in table.columns:
        return given
    if given is None and len(fitting) == 1:
        return fitting[0]
    if given is not None:
        raise InputError(f"{path.name} has no column {given!r}; it has {', '.join(map(str, table.columns))}")
    raise InputError(
        f"{path.name} does not tell which column it is; pass ", option,
        f", one of {', '.join(map(str, table.columns))}",
    )  # fmt: skip


def _is_number(text: Any) -> bool:
    return bool(pd.notna(pd.to_numeric(str(text), errors="coerce")))


def match_scores(scores_by_name: Mapping[str, float], pictures: Sequence[str | Path]) -> Floats:
    """The scores of `pictures`, in their order.

    A name matches a picture of the same file name; of several such, the one that has the most folders in
    common, counted from the file name upwards. So paths from another machine match too.

    Args:
        scores_by_name: scores by file name or path, as from `read_scores`; there may be more than needed.
        pictures: paths, N of them.

    Returns:
        (N,).

    Raises:
        InputError: listing the pictures that have no score, several that fit equally well, or one that
            fits another picture just as well or better.

    Examples:
        >>> match_scores({"their/All/b.jpg": 2.0, "their/All/a.jpg": 1.0}, ["data/All/a.jpg"])
        array([1.])
    """
    by_file = defaultdict(list)
    for name in scores_by_name:
        by_file[_parts(name)[-1]].append(name)
    found: dict[str, str] = {}  # name by picture
    missing, ambiguous = [], []
    for picture in dict.fromkeys(map(str, pictures)):
        parts = _parts(picture)
        common = {name: _in_common(parts, _parts(name)) for name in by_file[parts[-1]]}
        best = [name for name, count in common.items() if count == max(common.values())]
        if not best:
            missing.append(picture)
        elif len(best) > 1:
            ambiguous.append(f"{picture} ({' or '.join(best[:3])})")
        else:
            found[picture] = best[0]
    users = Counter(found.values())
    ambiguous += [
        f"{picture} ({name}, which fits others)" for picture, name in found.items() if users[name] > 1
    ]
    problems = []
    if missing:
        problems.append(f"no score for {_listed(missing)}")
    if ambiguous:
        problems.append(f"not clear which score belongs to {_listed(ambiguous)}; give more of the paths")
    if problems:
        raise InputError("; ".join(problems))
    return np.array([scores_by_name[found[str(picture)]] for picture in pictures], dtype=np.float64)


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] or [""]


def _in_common(a: list[str], b: list[str]) -> int:
    """How many trailing parts are the same."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
