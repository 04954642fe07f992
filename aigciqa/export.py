"""Metrics as one graph, for programs without aigciqa: ONNX, and torch.export's ``.pt2``.

What is exported is everything after `aigciqa.transform.read_views`: normalisation, backbone and head, on pictures as
8-bit views. Cutting out the views stays outside, because resizing must be the same to the bit and no graph format
promises that. How to do it stands in the file's metadata, beside the whole config.
"""

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import __version__
from .ambient import building
from .config import MetricConfig, Transform
from .errors import CheckpointError, InputError
from .graph import first_line, installed
from .metric import Metric
from .model import Network, open_network
from .onnx import OnnxNetwork, view_shape
from .transform import normalise

SUFFIXES: dict[str, Literal["onnx", "torch"]] = {".onnx": "onnx", ".pt2": "torch"}
TOLERANCE = 1e-4  # of the score range: how far an exported metric may be from the metric
MIN_OPSET = 18  # the oldest that torch writes


def export_metric(
    metric: Metric,
    path: str | os.PathLike[str],
    *,
    format: Literal["onnx", "torch"] | None = None,
    opset: int | None = None,
) -> Path:
    """Write a metric as one graph, and check that it scores as the metric does.

    The graph takes `generated`, and for full reference `reference` of the same shape: uint8 views as
    `aigciqa.transform.read_views` gives them, (N, 3, crop, crop) or with tiles (N, views, 3, crop, crop), N from 1. It
    returns `scores`, (N, dimensions), float32. Metadata, ONNX's ``metadata_props`` or the ``extra_files`` of
    `torch.export.load`: ``aigciqa.config`` (the whole config.json), ``aigciqa.preprocessing`` (in words),
    ``aigciqa.sha256`` (of the weights) and ``aigciqa.version``.

    Args:
        metric: no or full reference. Its checkpoint is exported, in float32, whatever device or precision the
            metric has been moved to.
        path: the file to write; it appears whole or not at all, replacing an older one.
        format: ``"onnx"`` or ``"torch"`` (``torch.export``); None to go by the suffix, ``.onnx`` or ``.pt2``.
        opset: ONNX operator set, from 18; None for torch's default.

    Returns:
        The path.

    Raises:
        InputError: for a partial-reference metric, a path that cannot be written, a wrong format or opset, or when
            what ``aigciqa[export]`` installs is missing.
        CheckpointError: when the checkpoint cannot be opened or its backbone cannot be exported, or when the exported
            graph's scores differ from the metric's by more than 1e-4 of the score range; nothing is written then.

    Examples:
        >>> import tempfile
        >>> from aigciqa import create_metric
        >>> folder = tempfile.TemporaryDirectory()
        >>> export_metric(create_metric("nr-aigciqa"), f"{folder.name}/nr.pt2").name
        'nr.pt2'
    """
    path = Path(path)
    kind = _format(path, format, opset)
    config = metric.config
    if config.reference == "partial":
        raise InputError(
            f"{config.name} cannot be exported: whether there is a reference is decided picture by picture, "
            "and a graph always takes the same inputs; export a no-reference or a full-reference metric"
        )
    with building():  # torch's exporters look at the default dtype, too
        return _export(metric, path, kind, opset)


def _export(metric: Metric, path: Path, kind: Literal["onnx", "torch"], opset: int | None) -> Path:
    config = metric.config
    # from the file, so that the checksum in the metadata is that of what was exported
    network = open_network(config, metric._source)
    graph = _Graph(network, config.transform).eval()
    with _beside(path) as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own doings; what matters is checked below
        temporary = Path(folder) / f"exported{path.suffix}"
        program = _program(graph, config)
        try:
            if kind == "onnx":
                _write_onnx(program, config, temporary, opset)
            else:
                buffer = (
                    io.BytesIO()
                )  # torch's own writer to a file may end the process when the disk is full
                torch.export.save(program, buffer, extra_files=_metadata(config))
                temporary.write_bytes(buffer.getbuffer())
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot write {path}: {first_line(error)}") from error
        _check(graph, temporary, kind, config)
        temporary.replace(path)
    return path


class _Graph(nn.Module):
    """What is exported: 8-bit views to scores."""

    def __init__(self, network: Network, transform: Transform):
        super().__init__()
        self.network, self.transform = network, transform

    def forward(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        pictures = generated if reference is None else torch.cat([generated, reference])
        features = self.network.features(normalise(pictures, self.transform))
        if reference is None:
            return self.network.regress(features)
        count = generated.shape[0]  # one pass for both halves the graph
        return self.network.regress(features[:count], features[count:])


def _format(
    path: Path, format: Literal["onnx", "torch"] | None, opset: int | None
) -> Literal["onnx", "torch"]:
    kind = SUFFIXES.get(path.suffix.lower()) if format is None else format
    if kind is None or kind not in SUFFIXES.values():
        raise InputError(
            f"cannot tell the format of {path}: name it .onnx or .pt2, or pass format 'onnx' or 'torch'"
        )
    if kind == "onnx":
        installed("onnx", "onnxscript", "onnxruntime")
        if opset is not None and opset < MIN_OPSET:
            raise InputError(f"opset must be at least {MIN_OPSET}, not {opset}")
    elif opset is not None:
        raise InputError("opset belongs to ONNX; leave it out for torch.export")
    return kind


def _beside(path: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder on the file system of `path`, from where a file can be renamed to it."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write")
    try:
        return tempfile.TemporaryDirectory(prefix=".aigciqa-export-", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write into {path.parent}: {error.strerror}") from None


def _program(graph: _Graph, config: MetricConfig) -> torch.export.ExportedProgram:
    """The graph traced for any number of pictures."""
    examples = tuple(  # not one tensor twice, which would be traced as one input
        torch.zeros(2, *view_shape(config.transform), dtype=torch.uint8, device="cpu")
        for _ in _inputs(config)
    )
    shapes = ({0: torch.export.Dim("N", min=1)},) * len(examples)
    try:
        program = torch.export.export(graph, examples, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the backbone's code runs into
        raise CheckpointError(
            f"torch {torch.__version__} cannot export {config.backbone}: {first_line(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _inputs(config: MetricConfig) -> list[str]:
    return ["generated", "reference"] if config.reference == "full" else ["generated"]


def _write_onnx(
    program: torch.export.ExportedProgram, config: MetricConfig, path: Path, opset: int | None
) -> None:
    (passes,) = installed("onnx_ir.passes.common")
    names = _inputs(config)
    onnx: Any = torch.onnx.export(
        program,
        input_names=names,
        output_names=["scores"],
        dynamic_shapes=({0: "N"},) * len(names),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    written = onnx.model.opset_imports[""]
    if opset not in (None, written):
        raise InputError(f"torch {torch.__version__} does not write opset {opset}; it wrote {written}")
    # early stages see the picture and its tiles, and with each use folding batch norm has copied their weights
    passes.DeduplicateInitializersPass(size_limit=1 << 40)(onnx.model)
    passes.ClearMetadataAndDocStringPass()(onnx.model)  # paths of this machine
    onnx.model.metadata_props.update(_metadata(config))
    onnx.save(path, external_data=False)


def _metadata(config: MetricConfig) -> dict[str, str]:
    return {
        "aigciqa.config": config.to_json(),
        "aigciqa.preprocessing": _preprocessing(config),
        "aigciqa.sha256": config.sha256,
        "aigciqa.version": __version__,
    }


def _preprocessing(config: MetricConfig) -> str:
    """How to make the inputs, in words."""
    t = config.transform
    names = "generated, and reference likewise," if config.reference == "full" else "generated"
    whole = (
        f"the RGB picture resized in 8 bits to a shorter side of {t.resize} pixels, antialiased bilinear, "
        f"as torchvision's Resize and Pillow do, and its centre {t.crop} x {t.crop} pixels"
    )
    tiles = (
        f"; views 1 to {t.views - 1} are {t.tiles} x {t.tiles} tiles, row by row, each the middle {t.crop} x "
        f"{t.crop} pixels of its part of the picture, not resized (a picture with a side below {t.crop} pixels is "
        "first resized to that)"
    )
    return (
        f"{names} is uint8 (N, {', '.join(map(str, view_shape(t)))}), 0 to 255, not normalised: "
        + (f"view 0 is {whole}{tiles}" if t.tiles else whole)
        + f". aigciqa.transform.read_views does this. The result is N x ({', '.join(config.dimensions)}), "
        f"on a scale of {config.score_range[0]:g} to {config.score_range[1]:g}, higher is better."
    )


def _check(graph: _Graph, path: Path, kind: Literal["onnx", "torch"], config: MetricConfig) -> None:
    exported: Any = OnnxNetwork(path) if kind == "onnx" else torch.export.load(path).module()
    pictures = _probes(config.transform)
    inputs = [pictures, pictures.roll(1, 0)] if config.reference == "full" else [pictures]
    low, high = config.score_range
    for batch in zip(*(x.split([1, 3]) for x in inputs), strict=True):
        difference = (exported(*batch) - graph(*batch)).abs().max().item() / (high - low)
        if not difference <= TOLERANCE:  # NaN neither
            raise CheckpointError(
                f"not written: exported to {kind}, {config.name} scores {len(batch[0])} pictures "
                f"{difference:.1e} of the score range away from PyTorch, more than {TOLERANCE:g}; "
                f"another torch than {torch.__version__}, or another opset, may export {config.backbone} rightly"
            )


def _probes(transform: Transform) -> Tensor:
    """Views of four pictures: white noise, two with structure at every scale as in nature, and black."""
    draw = torch.Generator("cpu").manual_seed(0)
    size = transform.crop

    def noise(pictures: int, side: int) -> Tensor:
        shape = (pictures * transform.views, 3, side, side)
        return torch.rand(shape, generator=draw, dtype=torch.float32, device="cpu")

    layers = [
        F.interpolate(noise(2, side), (size, size), mode="bilinear") / side**0.5
        for side in (2, 4, 8, 16, 32, 64, 128)
    ]
    natural = torch.stack(layers).sum(0)
    black = torch.zeros(transform.views, 3, size, size, dtype=torch.float32, device="cpu")
    pictures = torch.cat([noise(1, size), natural / natural.max(), black])
    return (pictures * 255).to(torch.uint8).view(4, *view_shape(transform))
