"""Hugging Face `datasets`: scores as columns, by ``dataset.map``."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .. import __version__, scoring
from ..errors import CheckpointError, InputError
from ..metric import Metric
from ..records import Row
from ..registry import create_metric
from ..sources import Item, is_missing

try:
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
except ModuleNotFoundError as error:
    raise ImportError(f"Hugging Face datasets need {error.name}; pip install 'aigciqa[datasets]'") from None


def score_batch(
    metric: "str | os.PathLike[str] | Mapping[str, Any]",
    image: str = "image",
    reference: str | None = None,
    *,
    prefix: str = "",
) -> "ScoreBatch":
    """A function for ``dataset.map(..., batched=True)`` that adds a column for each dimension.

    A picture that cannot be scored gets nulls and says why in the column ``error``. The column ``metric`` is the
    `Metric.stamp` of what scored. `datasets` caches the result by these, too: another checkpoint is computed
    anew.

    Pictures are the `Image` feature, paths, or the bytes of encoded pictures; of what an earlier transform made, also
    PIL images, arrays and tensors. The files behind an `Image` feature are read as this package reads files, so its
    ``mode`` and ``decode`` do not matter. An `IterableDataset`, or ``with_format("torch")``, decodes before us and
    stops at a broken picture; there ``cast_column(image, Image(decode=False))`` first.

    Args:
        metric: a name, a checkpoint folder or a Hub repository; or a dictionary of `aigciqa.create_metric`'s
            arguments, such as ``{"source": "nr-aigciqa", "device": "cpu"}``.
        image: the column of generated pictures.
        reference: the column of their image prompts, null where there is none; None for no such column.
        prefix: put before the names of the columns that are added.

    Raises:
        InputError: for a `reference` missing or unexpected; while mapping, for a column that is missing, or one that
            is there already.
        CheckpointError: when the checkpoint cannot be found.

    Examples:
        >>> from datasets import Dataset
        >>> pairs = Dataset.from_dict({"image": ["gen.png", "none.png"]})
        >>> scored = pairs.map(score_batch("nr-aigciqa"), batched=True)
        >>> scored[1]
        {'image': 'none.png', 'quality': None, 'authenticity': None, 'error': 'none.png: cannot be opened: ...', ...}
    """
    arguments = dict(metric) if isinstance(metric, Mapping) else {"source": metric}
    return ScoreBatch(arguments, image, reference, prefix)


class ScoreBatch:
    """What `score_batch` makes. Pickled, it is its arguments and the config; each process opens the checkpoint once."""

    def __init__(self, arguments: dict[str, Any], image: str, reference: str | None, prefix: str):
        self.arguments, self.image, self.reference, self.prefix = arguments, image, reference, prefix
        config = create_metric(**arguments).config
        if config.mode == "FR" and reference is None:
            raise InputError(
                f"{config.name} compares with a reference; name its column: score_batch(..., reference=)"
            )
        if config.mode == "NR" and reference is not None:
            raise InputError(f"{config.name} judges a picture alone; leave reference out, or use fr-aigciqa")
        self.config = config
        self.version = __version__
        self.process = os.getpid()
        self.metric: Metric | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Also what `datasets` takes its fingerprint of."""
        return {**self.__dict__, "metric": None, "process": 0}

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Score a batch.

        Args:
            batch: columns by name.

        Returns:
            The columns to add.

        Raises:
            InputError: for a column that is missing, or one that is there already.
        """
        self._check(list(batch))
        pictures = _values(batch, self.image)
        references = [None] * len(pictures) if self.reference is None else _values(batch, self.reference)
        rows = list(self._rows(list(zip(pictures, references, strict=True))))
        found: dict[str, Any] = {
            dimension: _Column(
                [None if row.scores is None else row.scores[dimension] for row in rows], pa.float32()
            )
            for dimension in self.config.dimensions
        }
        found["error"] = _Column([row.error for row in rows], pa.string())
        found["metric"] = _Column([self._opened().stamp] * len(rows), pa.string())
        return {self.prefix + name: values for name, values in found.items()}

    def _check(self, names: list[str]) -> None:
        for name in (self.image, self.reference):
            if name is not None and name not in names:
                raise InputError(f"the dataset has no column {name!r}, only {', '.join(names)}")
        added = [self.prefix + name for name in (*self.config.dimensions, "error", "metric")]
        if taken := [name for name in added if name in names]:
            raise InputError(
                f"the dataset has {', '.join(taken)} already; remove these columns, or give a prefix"
            )

    def _opened(self) -> Metric:
        if self.metric is None:
            if self.process != os.getpid():  # one of several, each of which would use all cores
                torch.set_num_threads(1)
            metric = create_metric(**self.arguments)
            if metric.config.stamp != self.config.stamp:  # a branch that moved on, or a folder written anew
                raise CheckpointError(
                    f"{metric.config.name} was {self.config.stamp} when score_batch was called, and is "
                    f"{metric.config.stamp} now; name a revision, or call score_batch again"
                )
            self.metric = metric
        return self.metric

    def _rows(self, pairs: Sequence[tuple[Any, Any]]) -> Iterator[Row]:
        """Encoded pictures go through the engine, others straight to the metric."""
        metric = self._opened()
        items = [self._item(*pair) for pair in pairs]
        scored = scoring.score_items(metric, (item for item in items if isinstance(item, Item)))
        others = self._direct(metric, [pair for pair, item in zip(pairs, items, strict=True) if item is None])
        for item in items:
            yield item if isinstance(item, Row) else next(scored if item else others)

    def _item(self, picture: Any, reference: Any) -> Item | Row | None:
        """What the engine takes; a row for what nobody can score; None for decoded pictures."""
        name, data = _encoded(picture, self.image)
        if name is None:
            return Row(self.image, None, None, f"column {self.image!r} is empty here")
        beside, reference_data = _encoded(reference, self.reference or "")
        if _DECODED in (data, reference_data):
            return None
        return Item(name, beside, data, reference_data)

    def _direct(self, metric: Metric, pairs: Sequence[tuple[Any, Any]]) -> Iterator[Row]:
        size = metric.batch(metric.device)
        for start in range(0, len(pairs), size):
            some = [tuple(map(_opened, pair)) for pair in pairs[start : start + size]]
            try:
                yield from self._predicted(metric, some)
            except InputError:
                for pair in some:
                    try:
                        yield from self._predicted(metric, [pair])
                    except InputError as error:
                        yield Row(self.image, None, None, str(error))

    def _predicted(self, metric: Metric, pairs: Sequence[tuple[Any, ...]]) -> list[Row]:
        pictures, references = map(list, zip(*pairs, strict=True))
        found = metric.predict(pictures, None if metric.metric_mode == "NR" else references)
        by_picture = zip(*(scores.tolist() for scores in found.values()), strict=True)
        return [Row(self.image, None, dict(zip(found, scores, strict=True))) for scores in by_picture]


_DECODED = b"decoded"  # in the place of a file's bytes


def _encoded(value: Any, column: str) -> tuple[str | None, bytes | None]:
    """A picture's name and its bytes, None for those of a file; no name where there is no picture."""
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:  # the Image feature, not decoded
        if value.get("bytes"):
            return value.get("path") or column, value["bytes"]
        value = value.get("path")
    if is_missing(value) or (isinstance(value, bytes) and not value):
        return None, None
    if isinstance(value, str | os.PathLike):
        return os.fspath(value), None
    return column, value if isinstance(value, bytes) else _DECODED


def _opened(value: Any) -> Any:
    """What a metric takes."""
    if isinstance(value, Mapping):
        return value.get("bytes") or value.get("path")
    return (
        np.array(value) if isinstance(value, list | tuple) else value
    )  # a list is no picture, but perhaps pixels


def _values(batch: Any, column: str) -> list[Any]:
    """A column, of which encoded pictures stay so: `datasets` would stop at one that cannot be decoded."""
    table = getattr(batch, "pa_table", None)
    if table is not None and str(table.schema.field(column).type).removeprefix("large_") in _ENCODED:
        return table[column].to_pylist()
    return list(batch[column])


_ENCODED = ("string", "binary", "struct<bytes: binary, path: string>")


class _Column(list[Any]):
    """Typed even where all are null, else a first batch without an error would settle that there can be none."""

    def __init__(self, values: list[Any], kind: pa.DataType):
        super().__init__(values)
        self.kind = kind

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type or self.kind)
