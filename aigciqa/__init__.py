"""How good is this AI-generated image?

    >>> import aigciqa
    >>> nr = aigciqa.create_metric("nr-aigciqa", device="cpu")
    >>> nr("gen.png")
    tensor([...])
    >>> fr = aigciqa.create_metric("fr-aigciqa", device="cpu")
    >>> fr("gen.png", "ref.png")
    tensor([...])

Importing this module imports neither torch nor anything else heavy; the names below load what they need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .config import MetricConfig, Transform, paper_config
    from .errors import AigciqaError, AigciqaWarning, CheckpointError, InputError, TransientError
    from .metric import Metric
    from .ranking import rank
    from .registry import create_metric, list_metrics, list_models, metric_info

_HOME = {
    "AigciqaError": "errors",
    "AigciqaWarning": "errors",
    "CheckpointError": "errors",
    "InputError": "errors",
    "Metric": "metric",
    "MetricConfig": "config",
    "TransientError": "errors",
    "Transform": "config",
    "create_metric": "registry",
    "list_metrics": "registry",
    "list_models": "registry",
    "metric_info": "registry",
    "paper_config": "config",
    "rank": "ranking",
}

__all__ = [
    "AigciqaError",
    "AigciqaWarning",
    "CheckpointError",
    "InputError",
    "Metric",
    "MetricConfig",
    "Transform",
    "TransientError",
    "__version__",
    "create_metric",
    "list_metrics",
    "list_models",
    "metric_info",
    "paper_config",
    "rank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aigciqa' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
