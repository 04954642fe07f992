"""Names to metrics."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from .config import MetricConfig
from .errors import InputError
from .weights import packaged_names, parse_source

if TYPE_CHECKING:
    import torch

    from .metric import Metric


def list_metrics(
    metric_mode: str | None = None,
    filter: str | Iterable[str] = "",
    exclude_filters: str | Iterable[str] = "",
) -> list[str]:
    """The names that `create_metric` knows without a path or a repository, in alphabetical order.

    Args:
        metric_mode: ``"NR"``, ``"FR"`` or ``"PR"``, to list only metrics of this mode; None for all.
        filter: a pattern such as ``"nr-*"``, or several, of which a name must match at least one; empty for all names.
        exclude_filters: a pattern, or several; names that match any are left out.

    Raises:
        InputError: for another mode.

    Examples:
        >>> import aigciqa
        >>> aigciqa.list_metrics()
        ['fr-aigciqa', 'nr-aigciqa', 'pr-aigciqa']
        >>> aigciqa.list_metrics(metric_mode="NR"), aigciqa.list_metrics(filter="*aigciqa", exclude_filters="?r-*")
        (['nr-aigciqa'], [])
    """
    if metric_mode not in (None, "NR", "FR", "PR"):
        raise InputError(f"metric_mode must be NR, FR or PR, not {metric_mode!r}")
    wanted, unwanted = ([p] if isinstance(p, str) else list(p) for p in (filter, exclude_filters))
    return [
        name
        for name in packaged_names()
        if (metric_mode is None or metric_info(name).mode == metric_mode)
        and (wanted in ([], [""]) or any(fnmatchcase(name, pattern) for pattern in wanted))
        and not any(fnmatchcase(name, pattern) for pattern in unwanted)
    ]


list_models = list_metrics  # the name that users of pyiqa know


def metric_info(source: str | os.PathLike[str], **hub: Any) -> MetricConfig:
    """What a metric is: kind of reference, backbone, dimensions, preprocessing, provenance.

    Args:
        source: a name, a folder or a Hub repository, as for `create_metric`. Of a Hub repository only the
            config is fetched.
        **hub: `token`, `offline` and `cache_dir`, as for `create_metric`.

    Raises:
        CheckpointError: when it cannot be found or read.

    Examples:
        >>> import aigciqa
        >>> aigciqa.metric_info("fr-aigciqa").backbone
        'tf_efficientnet_lite0'
    """
    return parse_source(source, **hub).config()


def create_metric(
    source: str | os.PathLike[str],
    as_loss: bool = False,
    device: "str | torch.device | None" = None,
    *,
    dimension: str | None = None,
    loss_reduction: str = "none",
    batch_size: int | None = None,
    token: str | None = None,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> "Metric":
    """A metric by name, folder or Hub repository. Nothing is read or downloaded until its first use.

    Args:
        source: a name of `list_metrics`, a folder that training wrote, ``org/repo`` or
            ``hf-hub:org/repo@revision``.
        as_loss: let gradients flow to the pictures. The value stays the score, and higher stays better, so
            minimise ``-metric(pictures).mean()``.
        device: a torch device; None for CUDA where there is one, else the CPU.
        dimension: which of the checkpoint's dimensions calling the metric returns; None for the first.
        loss_reduction: with `as_loss`, ``"mean"`` or ``"sum"`` to return a scalar, as pyiqa does; ``"none"`` for a
            score for each picture.
        batch_size: pictures per forward pass; None for 8 on a CPU (where more is slower) and 64 elsewhere.
        token: for private Hub repositories; None for what the Hub's own client is set to.
        offline: True to use only what is on this machine; None for what the client is set to.
        cache_dir: where the Hub's files are kept; None for what the client is set to.

    Returns:
        A `Metric`: call it with pictures, or with pictures and their references.

    Raises:
        CheckpointError: when `source` is no name, folder or repository.
        InputError: for a device that is not there, a batch size below 1, or another `loss_reduction`.

    Examples:
        >>> import aigciqa
        >>> metric = aigciqa.create_metric("fr-aigciqa", device="cpu")
        >>> metric("gen.png", "ref.png").shape
        torch.Size([1])
        >>> loss = aigciqa.create_metric("nr-aigciqa", as_loss=True, loss_reduction="mean", device="cpu")
        >>> loss(["gen.png", "ref.png"]).shape
        torch.Size([])
    """
    from .metric import Metric

    return Metric(
        source,
        dimension=dimension,
        device=device,
        as_loss=as_loss,
        loss_reduction=loss_reduction,
        batch_size=batch_size,
        token=token,
        offline=offline,
        cache_dir=cache_dir,
    )
