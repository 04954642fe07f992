"""Exported metrics, run by onnxruntime."""

import os
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import MetricConfig, Transform
from .errors import CheckpointError, InputError


class OnnxNetwork:
    """An exported metric, run by onnxruntime: on CUDA where onnxruntime can, else on the CPU.

    On the CPU it uses as many threads as torch did when it was opened.

    Args:
        path: a file that `export_metric` wrote as ONNX.

    Attributes:
        config: of the metric that was exported.

    Raises:
        CheckpointError: when it is not such a file, or not a whole one.
        InputError: when onnxruntime is not installed.

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
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file; write one with: aigciqa export NAME {path}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; a GPU that is not there is no reason for warnings
        available = runtime.get_available_providers()
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has a class for every status, without a common one
            raise CheckpointError(
                f"{path}: onnxruntime {runtime.__version__} cannot open it; it is damaged, not an ONNX file, or of a "
                f"newer operator set. Export it again, perhaps with a lower opset.\n  cause: {first_line(error)}"
            ) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "aigciqa.config" not in metadata:
            raise CheckpointError(
                f"{path} is not an exported metric: its metadata has no 'aigciqa.config'; "
                f"write one with: aigciqa export NAME {path}"
            )
        self.config = MetricConfig.from_json(metadata["aigciqa.config"], where=f"{path}: aigciqa.config")
        self.width = prod(view_shape(self.config.transform)) // 4  # of `features`, in floats

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
        return torch.from_numpy(self._session.run(["scores"], arrays)[0])


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
        self.config = self.network.config
        self.dimension = self.config.dimension(dimension)
        self.batch_size = batch_size

    def batch(self, device: torch.device | None) -> int:
        return self.batch_size or self.config.transform.batch("cpu")


def installed(*modules: str) -> list[Any]:
    try:
        return [import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        raise InputError(f"this needs {error.name}; pip install 'aigciqa[export]'") from None


def view_shape(transform: Transform) -> tuple[int, ...]:
    """Of one picture's views."""
    tiled = (transform.views,) if transform.tiles else ()
    return (*tiled, 3, transform.crop, transform.crop)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
