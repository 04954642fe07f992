"""Checkpoints of the papers' authors (FR: `backbone` and `regressor` state dicts) in this library's terms.

Their key names: torchvision's for VGG and ResNet, Cadene's for InceptionV4, and timm's under ``vit.`` for ViT;
the head's are ``fc1`` and ``fc2``. timm builds the same architectures under the same names.
"""

import hashlib
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import PAPER_BACKBONES, MetricConfig, paper_config
from ..errors import CheckpointError, Parameter
from ..model import Network
from ..weights import save_checkpoint
from .torchfile import load_tensors

# layers of the original classifiers, which neither they nor we use
CLASSIFIERS = ("classifier.", "fc.", "last_linear.", "head.", "norm.")
ACTIVATIONS = ("relu", "leaky_relu")
LABELS = "ratings, as trained by the authors' code"


def convert(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    backbone: str | None = None,
    reference: str | None = None,
    dimension: str = "quality",
    *,
    activation: str | None = None,
    name: str | None = None,
    score_range: tuple[float, float] = (0.0, 5.0),
    labels: str = LABELS,
    license: str = "unknown",
) -> MetricConfig:
    """Make a checkpoint of ``best_model.pt``, as the papers' public training code writes it.

    The file is read as tensors and numbers only; whatever else a pickle may hold is refused, not executed.

    Args:
        path: the authors' file.
        folder: where to write the checkpoint; made if missing.
        backbone: one of the papers', see `paper_config`; None to tell it from the tensors.
        reference: ``"none"``, ``"full"`` or ``"partial"``; None to tell it from the head's width. Partial reference
            has the same tensors as no reference and must be asked for.
        dimension: what it was trained to predict.
        activation: of the blocks of a ResNet18, ``"leaky_relu"`` or ``"relu"``, which no tensor tells; None for
            ``"leaky_relu"``, which the authors' code for these models has (repository AIGIQA4K). Their other code
            (PSCR) and torchvision have ReLU, as all their other backbones do.
        name: of the metric; None for one such as ``"fr-resnet50"``.
        score_range: lowest and highest of the labels.
        labels: what it learned from, in words.
        license: of the weights.

    Returns:
        The config as written.

    Raises:
        CheckpointError: for a file that cannot be read safely, or whose tensors are not those of such a model.

    Source:
        arXiv 2311.15556 (no and full reference), arXiv 2404.18409 (partial reference).

    Examples:
        >>> convert("best_model.pt", "converted", license="MIT").name  # doctest: +SKIP
        'nr-resnet50'
        >>> convert("gen.png", "converted")
        Traceback (most recent call last):
        aigciqa.errors.CheckpointError: gen.png: cannot be read as a file of torch.save: ...
    """
    path = Path(path).expanduser()
    content = _read(path)
    theirs = {key: _state(path, content, key) for key in ("backbone", "regressor")}
    backbone = backbone or _recognise(theirs["backbone"])
    reference = reference or _reference(theirs["regressor"], backbone)
    leaky = _leaky(backbone, activation)
    config = paper_config(
        backbone,
        reference,
        dimensions=(dimension,),
        score_range=score_range,
        activation="leaky_relu" if leaky else None,
        provenance={
            "labels": labels,
            "license": license,
            **_history(path, content),
            **_activation(backbone, leaky, activation),
        },
        **({"name": name} if name else {}),
    )
    # cloned, so that tensors which share memory, as a file may have them, are written one by one
    state = {key: value.clone() for key, value in convert_state(**theirs, config=config).items()}
    if wrong := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise CheckpointError(f"{path}: {len(wrong)} tensors hold NaN or infinity, such as {min(wrong)!r}")
    return save_checkpoint(folder, config, state)


def _leaky(backbone: str, activation: str | None) -> bool:
    """Whether the blocks of the network have LeakyReLU."""
    if activation not in (None, *ACTIVATIONS):
        raise CheckpointError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    if activation == "leaky_relu" and backbone != "resnet18":
        raise CheckpointError(
            f"activation leaky_relu is that of resnet18 in the authors' code; their {backbone} has none"
        )
    return backbone == "resnet18" and activation != "relu"


def _activation(backbone: str, leaky: bool, activation: str | None) -> dict[str, str]:
    if backbone != "resnet18":
        return {}
    name = "LeakyReLU with a slope of 0.01" if leaky else "ReLU"
    why = "as asked for" if activation else "as in the authors' repository AIGIQA4K; no tensor tells it"
    return {"activation": f"{name} in the blocks, {why}"}


def convert_state(
    backbone: Mapping[str, Tensor], regressor: Mapping[str, Tensor], config: MetricConfig
) -> dict[str, Tensor]:
    """The state dict of our `Network` from the two state dicts of an authors' checkpoint.

    Args:
        backbone: as it lies in ``best_model.pt`` under this key.
        regressor: likewise.
        config: what to make of it, usually `paper_config`.

    Raises:
        CheckpointError: naming the tensors that are missing, unknown or of another shape.
    """
    wanted = _wanted(config)
    state = {f"head.{key}": value for key, value in regressor.items()}
    for key, value in backbone.items():
        key = key.removeprefix("vit.")
        ours = f"backbone.net.{key}"
        if ours in wanted or not key.startswith(CLASSIFIERS):
            state[ours] = value
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    reshaped = {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}
    for keys, problem in ((missing, "lacks"), (unknown, "has unknown"), (reshaped, "has other shapes for")):
        if keys:
            raise CheckpointError(
                f"not a {config.mode} checkpoint on {config.backbone}: it {problem} {len(keys)} tensors, "
                f"such as {min(keys)!r}"
            )
    return state


def _wanted(config: MetricConfig) -> dict[str, Tensor]:
    """Our tensors, as shapes only."""
    with torch.device("meta"):
        return Network(config).state_dict()


# -- reading their file


class _Dtype:
    """Stands for `numpy.dtype` while their file is read, so that none of NumPy's code runs on its word."""

    def __init__(self, code: str, *_: object):
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order: str = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> float:
    """Stands for NumPy's function of this name, for the numbers that `rho_best` may be."""
    return struct.unpack(dtype.order + {"f8": "d", "f4": "f"}[dtype.code], data)[0]


def _scalar_of_numpy_1(dtype: _Dtype, data: bytes) -> float:
    return _scalar(dtype, data)


# torch goes by the names in the file, which are NumPy's
for _stand_in, _module, _name in (
    (_Dtype, "numpy", "dtype"),
    (_scalar, "numpy._core.multiarray", "scalar"),
    (_scalar_of_numpy_1, "numpy.core.multiarray", "scalar"),
):
    _stand_in.__module__, _stand_in.__name__, _stand_in.__qualname__ = _module, _name, _name


def _read(path: Path) -> dict[str, Any]:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise CheckpointError(
            f"torch {torch.__version__} can be made to execute what a checkpoint holds (CVE-2025-32434); "
            "converting one needs torch 2.6 or newer"
        )
    try:
        with torch.serialization.safe_globals([_Dtype, _scalar, _scalar_of_numpy_1]):
            # mapped, so that the optimizer's part, two thirds of the file, takes no memory
            content = load_tensors(path, map=True)
    except Exception as error:  # torch raises many kinds for what is not its own
        reason = str(error)
        if found := re.search(r"GLOBAL (\S+)|function (.+)|but got (.+)", reason):
            raise CheckpointError(
                f"{path}: refused, and nothing in it was executed: it holds more than tensors and numbers "
                f"({next(filter(None, found.groups()))}). Where you trust the file, save its two state dicts alone: "
                'torch.save({"backbone": ..., "regressor": ...}, path)'
            ) from None
        reason = (reason.splitlines() or [""])[0]
        raise CheckpointError(
            f"{path}: cannot be read as a file of torch.save: {type(error).__name__}: {reason}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not the authors' dict")
    known = {"epoch", "backbone", "regressor", "optimizer", "rho_best"}
    parts = sorted(str(k) for k, v in content.items() if k not in known and isinstance(v, Mapping | Tensor))
    if parts:  # leaving a part of a model out would change its scores
        raise CheckpointError(f"{path}: holds {', '.join(parts)}, which the papers' models do not have")
    return content


def _state(path: Path, content: dict[str, Any], key: str) -> dict[str, Tensor]:
    """One of the two state dicts, without DataParallel's prefix."""
    state = content.get(key)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path}: has no state dict {key!r}; the authors' file has 'backbone' and 'regressor', "
            f"this one has {', '.join(map(repr, content)) or 'nothing'}"
        )
    for name, value in state.items():
        ours = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not ours or value.is_quantized:
            raise CheckpointError(f"{path}: {key} holds {name!r}, which is not an ordinary tensor")
    stripped = {name.removeprefix("module."): value for name, value in state.items()}
    if len(stripped) < len(state):
        raise CheckpointError(f"{path}: {key} has tensors both with and without the prefix 'module.'")
    return stripped


def _recognise(backbone: Mapping[str, Tensor]) -> str:
    """The paper's backbone that most of these tensors belong to."""
    shapes = {f"backbone.net.{key.removeprefix('vit.')}": value.shape for key, value in backbone.items()}
    found = {}
    for name in PAPER_BACKBONES:
        wanted = {k: v.shape for k, v in _wanted(paper_config(name)).items() if k.startswith("backbone.")}
        found[name] = sum(shapes.get(k) == shape for k, shape in wanted.items()) / len(wanted)
    best, second = sorted(found, key=found.__getitem__, reverse=True)[:2]
    if found[best] < 0.5 or found[best] == found[second]:
        raise CheckpointError(
            f"cannot tell the backbone: these are not the tensors of {', '.join(PAPER_BACKBONES)} "
            f"({found[best]:.0%} of those of {best} are there); give ",
            Parameter("backbone", "NAME"),
            " to see what differs",
        )
    return best


def _reference(regressor: Mapping[str, Tensor], backbone: str) -> str:
    weight = regressor.get("fc1.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError("the regressor has no matrix 'fc1.weight'")
    width = _wanted(paper_config(backbone))["head.fc1.weight"].shape[1]
    kinds = {width: "none", 2 * width: "full"}
    if weight.shape[1] not in kinds:
        raise CheckpointError(
            f"the regressor takes {weight.shape[1]} features; on {backbone} it is {width} without and "
            f"{2 * width} with full reference"
        )
    return kinds[weight.shape[1]]


def _history(path: Path, content: Mapping[str, Any]) -> dict[str, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    history = {"source": f"{path.name}, SHA-256 {digest.hexdigest()}"}
    for key, meaning in (
        ("epoch", ""),
        ("rho_best", " (best SRCC on the authors' test side, which chose the epoch)"),
    ):
        if key in content:
            try:
                history[key] = f"{float(content[key]):g}{meaning}"
            except (TypeError, ValueError, RuntimeError):
                raise CheckpointError(f"{path}: {key} is not a number: {content[key]!r}") from None
    return history
