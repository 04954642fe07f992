"""Names to metrics."""

import os
from typing import TYPE_CHECKING, Any

from .config import MetricConfig
from .weights import packaged_names, parse_source

if TYPE_CHECKING:
    import torch

    from .metric import Metric


def list_metrics() -> list[str]:
    """The names that `create_metric` knows without a path or a repository.

    Examples:
        >>> import aigciqa
        >>> aigciqa.list_metrics()
        ['fr-aigciqa', 'nr-aigciqa', 'pr-aigciqa']
    """
    return packaged_names()


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
    *,
    dimension: str | None = None,
    device: "str | torch.device | None" = None,
    as_loss: bool = False,
    batch_size: int | None = None,
    token: str | None = None,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> "Metric":
    """A metric by name, folder or Hub repository. Nothing is read or downloaded until its first use.

    Args:
        source: a name of `list_metrics`, a folder that training wrote, ``org/repo`` or
            ``hf-hub:org/repo@revision``.
        dimension: which of the checkpoint's dimensions calling the metric returns; None for the first.
        device: a torch device; None for CUDA where there is one, else the CPU.
        as_loss: let gradients flow to the pictures. The value stays the score, and higher stays better, so
            minimise ``-metric(pictures).mean()``.
        batch_size: pictures per forward pass; None for 8 on a CPU (where more is slower) and 64 elsewhere.
        token: for private Hub repositories; None for what the Hub's own client is set to.
        offline: True to use only what is on this machine; None for what the client is set to.
        cache_dir: where the Hub's files are kept; None for what the client is set to.

    Returns:
        A `Metric`: call it with pictures, or with pictures and their references.

    Raises:
        CheckpointError: when `source` is no name, folder or repository.
        InputError: for a device that is not there, or a batch size below 1.

    Examples:
        >>> import aigciqa
        >>> metric = aigciqa.create_metric("fr-aigciqa", device="cpu")
        >>> metric("gen.png", "ref.png").shape
        torch.Size([1])
    """
    from .metric import Metric

    return Metric(
        source,
        dimension=dimension,
        device=device,
        as_loss=as_loss,
        batch_size=batch_size,
        token=token,
        offline=offline,
        cache_dir=cache_dir,
    )
