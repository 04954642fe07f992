"""Names to metrics."""

import os
from typing import TYPE_CHECKING, Any

from .config import MetricConfig
from .weights import packaged_names, parse_source

if TYPE_CHECKING:
    from .metric import Metric


def list_metrics() -> list[str]:
    """The names that `create_metric` knows without a path or a repository.

    Example:
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

    Example:
        >>> import aigciqa
        >>> aigciqa.metric_info("fr-aigciqa").backbone
        'tf_efficientnet_lite0'
    """
    return parse_source(source, **hub).config()


def create_metric(source: str | os.PathLike[str], **options: Any) -> "Metric":
    """A metric by name, folder or Hub repository. Nothing is read or downloaded until its first use.

    Args:
        source: a name of `list_metrics`, a folder that training wrote, ``org/repo`` or
            ``hf-hub:org/repo@revision``.
        **options: what `Metric` takes: `dimension`, `device`, `as_loss`, `batch_size`, `token`, `offline`,
            `cache_dir`.

    Returns:
        A `Metric`.

    Raises:
        CheckpointError: when `source` can be none of these.

    Example:
        >>> import aigciqa
        >>> metric = aigciqa.create_metric("fr-aigciqa", device="cpu")
        >>> metric("gen.png", "ref.png").shape
        torch.Size([1])
    """
    from .metric import Metric

    return Metric(source, **options)
