"""Exported metrics, run by onnxruntime.

The file may be anybody's, so `aigciqa.graph` checks what it holds; here its inputs, outputs and scores are checked, and
the memory of its tensors is limited.
"""

import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import LONGEST, MetricConfig, Transform
from .errors import CheckpointError, InputError
from .graph import first_line, installed, read_graph
from .limits import GRAPH, WORK
from .walking import shown

INSIDE = 1e-4  # of the score range: how far a bounded metric's scores may lie outside it, by rounding
OUTSIDE = (
    10  # widths of the score range, likewise of a metric without bounds; honest ones stay within one or two
)
MEMORY = GRAPH + WORK  # of all tensors of all exported metrics in a process


class OnnxNetwork:
    """An exported metric, run by onnxruntime: on CUDA where onnxruntime can, else on the CPU.

    On the CPU it uses as many threads as torch did when it was opened.

    Args:
        path: a file that `export_metric` wrote as ONNX.

    Attributes:
        config: of the metric that was exported, as the file says.
        sha256: of the file.

    Raises:
        CheckpointError: when it is not such a file, or not a whole one; when it holds anything but one graph of
            standard operators with all its weights; when its inputs or outputs are not those of its config.
        InputError: when onnx or onnxruntime is not installed.

    Examples:
        >>> import tempfile
        >>> from aigciqa import create_metric
        >>> from aigciqa.export import export_metric
        >>> from aigciqa.transform import read_views
        >>> folder = tempfile.TemporaryDirectory()
        >>> network = OnnxNetwork(export_metric(create_metric("nr-aigciqa"), f"{folder.name}/nr.onnx"))
        >>> network.config.dimensions
        ('quality', 'authenticity')
        >>> network(read_views("gen.png", network.config.transform)).shape
        torch.Size([1, 2])
    """

    def __init__(self, path: str | os.PathLike[str]):
        (runtime,) = installed("onnxruntime")
        self._name = shown(os.fspath(path))
        try:
            there = Path(path).is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise CheckpointError(
                f"{self._name} is not a file; write one with: aigciqa export NAME FILE.onnx"
            )
        try:
            graph = read_graph(Path(path))
            self.config = _config(graph.metadata)
        except CheckpointError as error:
            raise CheckpointError(f"{self._name}: {error}") from None
        self.sha256 = graph.sha256
        self.width = prod(view_shape(self.config.transform)) // 4  # of `features`, in floats
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors come as exceptions, and a GPU that is not there is no error
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        available = runtime.get_available_providers()
        providers: list[Any] = [
            ("CUDAExecutionProvider", {"gpu_mem_limit": str(MEMORY)}),
            "CPUExecutionProvider",
        ]
        providers = [p for p in providers if (p if isinstance(p, str) else p[0]) in available]
        try:
            self._session = runtime.InferenceSession(graph.content, options, providers=providers)
        except Exception as error:  # onnxruntime has a class for every status, without a common one
            raise CheckpointError(
                f"{self._name}: onnxruntime {runtime.__version__} cannot open it; it is damaged, or of a newer "
                f"operator set. Export it again, perhaps with a lower opset.\n  cause: {first_line(error)}"
            ) from error
        self._check_declared()

    def _check_declared(self) -> None:
        """See that inputs and outputs are what the config needs."""
        views = view_shape(self.config.transform)
        names = ["generated", "reference"] if self.config.reference == "full" else ["generated"]
        wanted = dict.fromkeys(names, ("tensor(uint8)", views))
        of = f"{self._name}: does not fit its config ({self.config.name}):"
        scores = {"scores": ("tensor(float)", (len(self.config.dimensions),))}
        session = self._session
        for what, found, expected in (
            ("inputs", session.get_inputs(), wanted),
            ("outputs", session.get_outputs(), scores),
        ):
            if sorted(x.name for x in found) != sorted(expected):
                listed = ", ".join(_brief(x.name) for x in found[:9]) or "none"
                raise CheckpointError(f"{of} its {what} are {listed}, not {', '.join(expected)}")
            for x in found:
                kind, shape = expected[x.name]
                free = bool(x.shape) and not isinstance(x.shape[0], int)
                if not free or x.type != kind or tuple(x.shape[1:]) != shape:
                    raise CheckpointError(
                        f"{of} {x.name} is {_brief(x.type)} of shape {_brief(x.shape)}, not {kind} of (N, "
                        f"{', '.join(map(str, shape))}) for any N"
                    )

    # as `aigciqa.scoring.Runner` calls a network; the graph is one, so what is kept of a picture is its views

    def features(self, views: Tensor) -> Tensor:
        return views

    def regress(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        return self(generated, reference)

    def __call__(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """Score pictures.

        Args:
            generated: (N, 3, crop, crop) or with tiles (N, views, 3, crop, crop), uint8, from
                `aigciqa.transform.read_views`.
            reference: likewise, as many, for full reference; None for no reference.

        Returns:
            (N, dimensions), float32, on the CPU.

        Raises:
            InputError: for other shapes or types, or a reference missing or unexpected.
            CheckpointError: when the graph cannot be run, or returns what is no score of its config.
        """
        inputs = {"generated": generated}
        if self.config.reference == "full":
            if reference is None:
                raise InputError(f"{self.config.name} compares with a reference, and none was given")
            inputs["reference"] = reference
        elif reference is not None:
            raise InputError(f"{self.config.name} judges a picture alone; pass no reference")
        shape = view_shape(self.config.transform)
        for name, tensor in inputs.items():
            if tensor.dtype != torch.uint8 or tensor.shape[1:] != shape or not len(tensor):
                raise InputError(
                    f"{name} must be uint8 (N, {', '.join(map(str, shape))}) as aigciqa.transform.read_views gives it, "
                    f"not {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
                )
            if len(tensor) != len(generated):
                raise InputError(f"{len(generated)} pictures but {len(tensor)} references; pass as many")
        arrays = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        try:
            (scores,) = self._session.run(["scores"], arrays)
        except Exception as error:
            raise CheckpointError(
                f"{self._name}: onnxruntime cannot run it on {len(generated)} images; a graph may use "
                f"{MEMORY >> 20:,} MiB\n  cause: {first_line(error)}"
            ) from error
        return torch.from_numpy(self._checked(scores, len(generated)))

    def _checked(self, scores: Any, count: int) -> Any:
        shape = (count, len(self.config.dimensions))
        if scores.shape != shape or scores.dtype != np.float32:
            raise CheckpointError(
                f"{self._name}: its scores are {scores.dtype} of shape {scores.shape}, not float32 of {shape}; not used"
            )
        low, high = self.config.score_range
        beyond = (high - low) * (INSIDE if self.config.bounded else OUTSIDE)
        wrong = scores[~((scores >= low - beyond) & (scores <= high + beyond))]  # NaN, too
        if wrong.size:
            raise CheckpointError(
                f"{self._name}: gives a score of {wrong[0]:g} on a scale of {low:g} to {high:g}"
                f"{', which its config says it keeps to' if self.config.bounded else ''}; not used"
            )
        return scores


class OnnxMetric:
    """An exported metric for `aigciqa.scoring.score_items`, which has no PyTorch network.

    Args:
        path: a file that `aigciqa.export.export_metric` wrote as ONNX.
        dimension: what to show, see `aigciqa.create_metric`.
        batch_size: pictures per run; None for 8.
    """

    device = None

    def __init__(
        self, path: str | os.PathLike[str], dimension: str | None = None, batch_size: int | None = None
    ):
        self.network = OnnxNetwork(path)
        self.config, self.sha256 = self.network.config, self.network.sha256
        self.dimension = self.config.dimension(dimension)
        self.batch_size = batch_size

    def batch(self, device: torch.device | None) -> int:
        return self.batch_size or self.config.transform.batch("cpu")


def view_shape(transform: Transform) -> tuple[int, ...]:
    """Of one picture's views."""
    tiled = (transform.views,) if transform.tiles else ()
    return (*tiled, 3, transform.crop, transform.crop)


def _config(metadata: dict[str, str]) -> MetricConfig:
    text = metadata.get("aigciqa.config")
    if text is None:
        raise CheckpointError(
            "it is not an exported metric: its metadata has no 'aigciqa.config'; write one with: aigciqa export NAME "
            "FILE.onnx"
        )
    if len(text) > LONGEST:
        raise CheckpointError(f"aigciqa.config: has more than {LONGEST:,} characters, so it is no config")
    config = MetricConfig.from_json(text, where="aigciqa.config")
    if config.reference == "partial":
        raise CheckpointError(f"aigciqa.config: {config.name} is partial reference, which no graph can be")
    return config


@cache  # once for a process: onnxruntime shares one allocator among those that ask for it
def _limit_memory() -> None:
    runtime: Any = import_module("onnxruntime")
    where = runtime.OrtMemoryInfo(
        "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # the program has registered an allocator of its own, whose limit then holds
        runtime.create_and_register_allocator(where, runtime.OrtArenaCfg({"max_mem": MEMORY}))


def _brief(value: Any) -> str:
    text = str(value)
    return shown(text if len(text) <= 60 else f"{text[:60]}...")
