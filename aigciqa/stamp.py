"""The stamp in every row of results: which metric computed the score.

It covers whatever decides a score beyond its last digits: the weights, the config, an exported graph and the precision.
The device, the number of threads, `torch.compile` and the versions of PyTorch and ONNX Runtime move the last digits
only, so they are not in it.
"""

import hashlib
import json
from collections.abc import Set
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import MetricConfig

# Fields of a config that cannot change a score, or that have a place of their own in the stamp. Every other field
# is in the digest, also a field that a later release adds.
_APART = {"name", "revision", "sha256", "repo", "provenance"}


def stamp_of(config: "MetricConfig", precision: str = "fp32", onnx: str = "") -> str:
    """What computes a score, in words for a column of results.

    Args:
        config: of the metric.
        precision: ``"fp32"``, which the stamp leaves out, or another.
        onnx: SHA-256 of the ONNX file that computes the scores; empty for PyTorch.

    Returns:
        ``"name@revision sha256:… config:…"``, each digest with 12 hexadecimal digits, then ``"onnx:…"`` and the
        precision where they apply.

    Examples:
        >>> from aigciqa import paper_config
        >>> stamp_of(paper_config("vgg16", sha256="0123456789abcdef" * 4), "fp16")
        'nr-vgg16@local sha256:0123456789ab config:... fp16'
    """
    parts = [f"{config.name}@{config.revision or 'local'}", f"sha256:{config.sha256[:12]}"]
    parts.append(f"config:{config_digest(config)}")
    if onnx:
        parts.append(f"onnx:{onnx[:12]}")
    if precision != "fp32":
        parts.append(precision)
    return " ".join(parts)


def stamp_fits(stamp: str, config: "MetricConfig", onnx: str = "") -> bool:
    """Whether a stamp is of this config and its weights, in whatever precision.

    Args:
        stamp: from results.
        config: of the metric that may have computed them.
        onnx: SHA-256 of the ONNX file that may have; empty for PyTorch, or any file that says to be of this config.

    Examples:
        >>> from aigciqa import metric_info
        >>> config = metric_info("nr-aigciqa")
        >>> stamp_fits(stamp_of(config, "bf16"), config), stamp_fits(stamp_of(config) + "0", config)
        (True, False)
    """
    return f"{stamp} ".startswith(f"{stamp_of(config, onnx=onnx)} ")


def config_digest(config: "MetricConfig") -> str:
    """The first 12 hexadecimal digits of a SHA-256 of everything in a config that decides scores.

    Fields that have their default value are left out, so the digest stays the same when a later release adds a field
    whose default means what was done before. ``5`` and ``5.0`` are the same number.

    Args:
        config: of a metric.

    Examples:
        >>> from aigciqa import metric_info
        >>> config = metric_info("nr-aigciqa")
        >>> config_digest(config) == config_digest(config.with_(name="another"))
        True
        >>> config_digest(config) == config_digest(config.with_(bounded=not config.bounded))
        False
    """
    text = json.dumps(_canonical(config, _APART), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any, apart: Set[str] = frozenset()) -> Any:
    """What JSON writes the same for the same value; of a dataclass the fields that are not at their default."""
    if is_dataclass(value):
        found = {}
        for field in fields(value):
            standard = field.default_factory() if callable(field.default_factory) else field.default
            here = _canonical(getattr(value, field.name))
            if field.name not in apart and here != _canonical(standard):
                found[field.name] = here
        return found
    if isinstance(value, tuple | list):
        return [_canonical(x) for x in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) + 0.0  # -0.0 is 0.0, too
    return value
