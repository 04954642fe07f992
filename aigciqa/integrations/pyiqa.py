"""pyiqa: our metrics under its `create_metric`."""

import os
from typing import Any

from ..errors import InputError
from ..metric import Metric
from ..registry import list_metrics, metric_info

ARCHITECTURE = "Aigciqa"  # what pyiqa calls all of ours


def register(source: "str | os.PathLike[str] | None" = None, name: str | None = None) -> list[str]:
    """Let `pyiqa.create_metric` make our metrics, in this process.

    These have our scores, with pyiqa's ``as_loss`` and ``device``. It knows full and no reference only, so it takes
    partial reference for full reference and wants a reference for every picture. It opens files itself, without regard
    for EXIF orientation and transparency; pass tensors where there are any.

    Args:
        source: a checkpoint folder or a Hub repository; None for all of `aigciqa.list_metrics`.
        name: what pyiqa calls it; None for the name in its config.

    Returns:
        The names registered. `pyiqa.create_metric` takes with them the arguments `dimension`, `batch_size`, `token`,
        `offline` and `cache_dir` of `aigciqa.create_metric`.

    Raises:
        InputError: when pyiqa is not installed, or has another metric of that name.
        CheckpointError: when the checkpoint cannot be found.

    Examples:
        >>> register()  # doctest: +SKIP
        ['fr-aigciqa', 'nr-aigciqa', 'pr-aigciqa']
        >>> pyiqa.create_metric("nr-aigciqa")("gen.png")  # doctest: +SKIP
        tensor([...])
    """
    try:
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
        from pyiqa.utils.registry import ARCH_REGISTRY
    except ModuleNotFoundError as error:
        raise InputError(f"pyiqa needs {error.name}; pip install 'aigciqa[pyiqa]'") from None
    if source is None and name is not None:
        raise InputError("a name needs the source that it names: register(source, name)")
    found = {}
    for each in list_metrics() if source is None else [source]:
        config = metric_info(each)
        found[name or config.name] = {
            "metric_opts": {"type": ARCHITECTURE, "source": os.fspath(each)},
            "metric_mode": "NR" if config.mode == "NR" else "FR",
            "lower_better": Metric.lower_better,
            "score_range": "~{:g}, ~{:g}".format(*config.score_range),
        }
    for called in found:
        if DEFAULT_CONFIGS.get(called, found[called])["metric_opts"]["type"] != ARCHITECTURE:
            raise InputError(f"pyiqa has a metric {called!r} of its own; give another name")
        if "fid" in called:
            raise InputError(f"pyiqa would take {called!r} for FID; give a name without 'fid'")
    if ARCHITECTURE not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(_network, name=ARCHITECTURE)
    DEFAULT_CONFIGS.update(found)
    return list(found)


def _network(source: str, **arguments: Any) -> Metric:
    """pyiqa moves it to the device, and switches gradients on and off itself."""
    return Metric(source, device="cpu", as_loss=True, **arguments)
