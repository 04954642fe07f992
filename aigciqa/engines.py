"""What computes the scores that the command line asks for: PyTorch, onnxruntime or Ray."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError
from .stamp import stamp_of

if TYPE_CHECKING:
    from .config import MetricConfig
    from .metric import Metric
    from .onnx import OnnxMetric
    from .records import Row
    from .sources import Item


class Scorer:
    """A metric and how to run it, as the options say."""

    def __init__(self, name: str, dimension: str | None, **how: Any):
        self.how = how
        self.engine: str = how["engine"]
        self.onnx = ""  # SHA-256 of the ONNX file that computes, if that is what does
        if how["max_pixels"]:
            from . import image

            image.MAX_PIXELS = how["max_pixels"]
        if how["compiled"]:
            _check_compiler_can_write()
        self.metric = self._metric(name, dimension)
        self.config: MetricConfig = self.metric.config() if self.engine == "ray" else self.metric.config
        chosen = self.config.dimension(dimension)
        self.dimensions = [chosen] if dimension else list(self.config.dimensions)
        precision = how["precision"] if self.half() else "fp32"
        self.stamp = stamp_of(self.config, precision, self.onnx)

    def _metric(self, name: str, dimension: str | None) -> Any:
        from .registry import create_metric
        from .weights import parse_source

        device = self.how["devices"][0] if self.how["devices"] else None
        if self.engine == "onnx" or name.endswith(".onnx"):
            return self._onnx(name, dimension)
        self.arguments = {
            "source": name,
            "dimension": dimension,
            "batch_size": self.how["batch_size"],
            "offline": self.how["offline"],
        }
        if self.engine == "ray":  # whose processes make the metric; this one need not import PyTorch
            if device:
                raise InputError("Ray gives each of its processes a device; leave out --device")
            return parse_source(name, offline=self.how["offline"])
        return create_metric(**self.arguments, device=device)

    def _onnx(self, name: str, dimension: str | None) -> Any:
        """An exported metric; or a named one, exported for this run."""
        from .onnx import OnnxMetric

        options = {"--device": self.how["devices"], "--compile": self.how["compiled"]}
        if given := [option for option, value in options.items() if value]:
            raise InputError(f"{given[0]} is for PyTorch; onnxruntime takes the device that it has")
        if self.engine == "ray":
            raise InputError(
                "Ray computes with PyTorch; name a metric or a checkpoint instead of an .onnx file"
            )
        if name.endswith(".onnx"):
            return self._graph(OnnxMetric(name, dimension, self.how["batch_size"]))
        from .export import export_metric
        from .registry import create_metric

        metric = create_metric(name, dimension=dimension, device="cpu", offline=self.how["offline"])
        with tempfile.TemporaryDirectory() as folder:
            click.echo(
                f"exporting {name}; aigciqa export {name} FILE.onnx does that once for all runs", err=True
            )
            path = export_metric(metric, f"{folder}/metric.onnx")
            return self._graph(OnnxMetric(path, dimension, self.how["batch_size"]))

    def _graph(self, metric: "OnnxMetric") -> "OnnxMetric":
        self.onnx = metric.sha256
        return metric

    def load(self) -> None:
        """Open the checkpoint before the clock starts, where it is this process that computes."""
        if self.engine == "torch" and self.metric.device is not None:
            self.metric.load()

    def maps(self, folder: str) -> "MapFolder":
        """Where maps of the pictures go."""
        if self.engine != "torch" or self.metric.device is None:
            raise InputError(
                "maps are made with PyTorch on this machine; leave out --map, or --engine and .onnx"
            )
        return MapFolder(self.metric, folder, self.dimensions[0])

    def half(self) -> bool:
        """Whether to compute in half precision."""
        precision = self.how["precision"]
        if precision != "fp32" and self._on_cpu():
            click.echo(f"warning: {precision} is slow on most CPUs; computing in fp32", err=True)
            self.how["precision"] = "fp32"
            return False
        return bool(precision != "fp32")

    def _on_cpu(self) -> bool:
        if self.engine == "ray":
            from .integrations.ray import has_gpus

            return not has_gpus()
        return self.metric.device is None or self.metric.device.type == "cpu"

    def rows(self, items: "Iterable[Item]") -> "Iterator[Row]":
        """With the dimensions that are shown."""
        for row in self._rows(items):
            if row.scores is not None and len(row.scores) > len(self.dimensions):
                row = replace(row, scores={d: row.scores[d] for d in self.dimensions})
            yield row

    def _rows(self, items: "Iterable[Item]") -> "Iterator[Row]":
        if self.engine == "ray":
            from .integrations.ray import score_and_leave

            how = {key: self.how[key] for key in ("on_error", "workers", "compiled", "precision")}
            return score_and_leave(self.arguments, items, **how)
        from .scoring import in_precision, score_items

        in_precision(self.metric, self.how["precision"])
        return score_items(
            self.metric,
            items,
            on_error=self.how["on_error"],
            workers=self.how["workers"],
            devices=self.how["devices"] or None,
            compiled=self.how["compiled"],
        )


def _check_compiler_can_write() -> None:
    """Find out now, as PyTorch's own error is a traceback of pages."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if cache:
            Path(cache).mkdir(parents=True, exist_ok=True)
        for folder in filter(None, (cache, tempfile.gettempdir())):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"the compiler of --compile cannot write to {error.filename}: {error.strerror}; let TMPDIR, and "
            "TORCHINDUCTOR_CACHE_DIR where it is set, name folders that can be written"
        ) from None


class MapFolder:
    """Writes maps of scored pictures into one folder.

    Args:
        metric: that scored them.
        folder: made where it is missing.
        dimension: whose maps; None for the metric's own.

    Raises:
        InputError: when there can be no such folder.
    """

    def __init__(self, metric: "Metric", folder: str | os.PathLike[str], dimension: str | None = None):
        self.metric, self.folder, self.dimension = metric, Path(folder), dimension
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: is no folder for maps: {error.strerror}; name another") from None

    def path(self, item: "Item") -> Path:
        """Where an item's map is: its stem, and a digest of the whole name, so that no two are the same.

        Args:
            item: of which the map is.
        """
        whole = repr((item.picture, item.reference or None)).encode(errors="surrogateescape")
        stem = (
            re.sub(r"[^\w.-]+", "_", Path(item.picture).stem, flags=re.ASCII).strip("._-")[:80] or "picture"
        )
        return self.folder / f"{stem}-{hashlib.blake2b(whole, digest_size=6).hexdigest()}.png"

    def add(self, item: "Item") -> Path | None:
        """Write the map of an item that has scores; where none can be made, a warning says why.

        Args:
            item: the picture, and its reference.

        Returns:
            The file; None where none was made.

        Raises:
            InputError: when the map cannot be written, as later ones could not either.
        """
        picture, reference = (
            name if data is None else data
            for name, data in ((item.picture, item.data), (item.reference, item.reference_data))
        )
        try:
            found = self.metric.explain(picture, reference or None, dimension=self.dimension)
        except (InputError, MemoryError) as error:  # it has its score; a later run would end here again
            click.echo(f"warning: no map of {item.picture!r}: {error or 'not enough memory'}", err=True)
            return None
        found.save(self.path(item))
        return self.path(item)
