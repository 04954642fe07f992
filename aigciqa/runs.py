"""Tables that belong to a run: the files of results that it wrote, and what manifests say of its pictures."""

import difflib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import MetricConfig
from .containers import MANIFESTS, read_manifest
from .errors import CheckpointError, InputError
from .limits import TABLE, check_size
from .records import Row
from .registry import metric_info
from .spelling import located
from .stamp import stamp_fits, stamp_of
from .tabular import listed_names, open_text, read_delimited, read_objects
from .walking import reading, shown

RESULTS = (".csv", ".tsv", ".jsonl", ".parquet")
_SPLIT = "split it into several files"


@dataclass(frozen=True)
class Run:
    """A file of results, read again.

    Args:
        path: of the file.
        stamp: what scored, as `aigciqa.stamp.stamp_of` writes it.
        dimensions: of the scores.
        rows: at least one.
    """

    path: Path
    stamp: str
    dimensions: tuple[str, ...]
    rows: list[Row]

    def config(self, metric: str | None = None) -> MetricConfig:
        """Of the metric that scored.

        Args:
            metric: a name, folder, Hub repository or ``.onnx`` file; None for the named metric that the stamp begins
                with.

        Raises:
            CheckpointError: when there is no such metric, or it is another than the one that scored.
        """
        name, onnx = self.stamp.partition("@")[0], ""
        try:
            if metric is not None and metric.endswith(".onnx"):
                from .onnx import OnnxNetwork

                exported = OnnxNetwork(metric)
                config, onnx = exported.config, exported.sha256
            else:
                config = metric_info(metric or name)
        except CheckpointError as error:
            if metric is not None:
                raise
            raise CheckpointError(
                f"{self.path} was scored by {self.stamp}; say where that checkpoint is with --metric"
            ) from error
        if not stamp_fits(self.stamp, config, onnx):
            raise CheckpointError(
                f"{self.path} was scored by {self.stamp}, not by {stamp_of(config, onnx=onnx)}; say "
                "where that is with --metric"
            )
        return config


def read_run(path: Path) -> Run:
    """Read a file that ``aigciqa-score -o`` wrote.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.

    Raises:
        InputError: when it is not such a file, has no row yet, or rows of several metrics.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "out.csv")
        >>> _ = path.write_text("picture,reference,quality,error,metric\\ngen.png,,3.25,,nr-aigciqa@v1 sha256:0\\n")
        >>> read_run(path).rows
        [Row(picture='gen.png', reference=None, scores={'quality': 3.25}, error=None)]
    """
    if path.suffix.lower() not in RESULTS:
        raise InputError(f"{shown(str(path))}: results are in {', '.join(RESULTS)} files")
    if not path.is_file():
        raise InputError(f"{shown(str(path))}: there is no such file; check its name")
    with reading(path, "results"):
        names, records = _table(path)
        if names[:2] != ["picture", "reference"] or names[-2:] != ["error", "metric"] or len(names) < 5:
            raise InputError(
                f"{shown(str(path))}: its columns are {listed_names(names)}; results of aigciqa-score -o begin with "
                "picture, reference and end with error, metric"
            )
        dimensions, stamps, rows = tuple(names[2:-2]), set(), []
        for record in records:
            stamps.add(record["metric"])
            given = {d: float(record[d]) for d in dimensions if record[d] not in (None, "")}
            scores = given if len(given) == len(dimensions) else None
            rows.append(Row(record["picture"], record["reference"] or None, scores, record["error"] or None))
    if len(stamps) != 1:
        listed = f"scores of several metrics: {'; '.join(sorted(stamps))}" if stamps else "no row"
        raise InputError(f"{shown(str(path))}: holds {listed}")
    return Run(path, stamps.pop(), dimensions, rows)


def column_groups(sources: Sequence[str], picture_column: str, column: str) -> dict[str, str]:
    """What a column of manifests says of each of their pictures, by the name that results have.

    Args:
        sources: as for `aigciqa.sources.find_items`; the manifests among them are read.
        picture_column: of the pictures' names.
        column: such as ``generator``; empty cells are no group.

    Raises:
        InputError: when no source is a manifest, one lacks the column, or a picture has two groups.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "pictures.csv")
        >>> _ = path.write_text("picture,generator\\na.png,SD\\nb.png,MJ\\n")
        >>> list(column_groups([str(path)], "picture", "generator").values())
        ['SD', 'MJ']
    """
    found: list[str] = []
    for source in sources:  # glob, as Path.glob takes no pattern from the root
        found += [source] if Path(source).exists() else glob.glob(source, recursive=True)  # noqa: PTH207
    manifests = [name for name in found if name.lower().endswith(MANIFESTS)]
    if not manifests:
        raise InputError(
            f"no manifest ({', '.join(MANIFESTS)}) with a column {column!r} to group by is among the pictures; a part "
            "of their names is written in braces: '{0}', '{parent}'"
        )
    groups: dict[str, str] = {}
    for path in map(Path, manifests):
        with reading(path, "a table"):
            for picture, cell in _named(path, picture_column, column):
                group = "" if cell is None else str(cell)
                if groups.setdefault(picture, group) != group:
                    raise InputError(
                        f"{shown(str(path))}: {shown(picture)} has two values of {column!r}, {groups[picture]!r} and "
                        f"{group!r}; name it once, or group by a part of its name"
                    )
    return groups


def _named(path: Path, picture_column: str, column: str) -> Iterator[tuple[str, Any]]:
    """The name that results have of each picture of a manifest, and its cell in a column."""
    if path.suffix.lower() != ".parquet":
        for row in _table(path, [picture_column, column])[1]:
            yield located(path.parent, row[picture_column]), row[column]
        return
    cells = _table(path, [column])[1]
    for (picture, _), row in zip(
        read_manifest(path, picture_column, None, lambda: False), cells, strict=True
    ):
        yield picture.name, row[column]


def _table(path: Path, wanted: Sequence[str] = ()) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Names of the columns, among which are those that are wanted, and the rows."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path, wanted)
    with open_text(path, _SPLIT) as file:
        if kind == ".jsonl":
            records = [record for _, record in read_objects(file, path, _SPLIT)]
            names = list(records[0]) if records else []
            _check(path, names, wanted)
            return names, iter([dict.fromkeys(wanted) | record for record in records])
        rows = read_delimited(file, path, _SPLIT)
        _, names = next(rows)
        _check(path, names, wanted)
        return names, iter([dict(zip(names, row, strict=True)) for _, row in rows])


def _parquet(path: Path, wanted: Sequence[str]) -> tuple[list[str], Iterator[dict[str, Any]]]:
    from .parquet import _pyarrow, _unescaped

    with _pyarrow()[1].ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        _check(path, names, wanted)
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        check_size(sum(group.total_byte_size for group in groups), TABLE, shown(str(path)), _SPLIT)
        records = file.read(list(wanted) or None).to_pylist()
    if not wanted:  # results, whose texts are escaped
        records = [{k: _unescaped(v) if isinstance(v, str) else v for k, v in r.items()} for r in records]
    return names, iter(records)


def _check(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in names:
            near = difflib.get_close_matches(column, names, 1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise InputError(
                f"{shown(str(path))}: no column {column!r}{hint} its columns are {listed_names(names)}"
            )
