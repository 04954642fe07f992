"""The best of several pictures."""

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from .errors import InputError
from .image import Pictures, is_many
from .metric import Metric

if TYPE_CHECKING:
    import torch

EQUAL = 1e-5  # of the score range; less lies between scores of one picture in different places of a batch


class Ranking(NamedTuple):
    """Pictures by their scores.

    Args:
        order: indices of the pictures, best first; those of equal scores, to 1e-5 of the score range, in the order
            they were given.
        scores: of the pictures, in the order they were given.

    Examples:
        >>> ranking = Ranking([1, 0], [2.5, 3.5])
        >>> ranking.best
        1
    """

    order: list[int]
    scores: list[float]

    @property
    def best(self) -> int:
        """Index of the best picture."""
        return self.order[0]


def rank(
    images: Pictures,
    ref: Any = None,
    *,
    metric: "str | os.PathLike[str] | Metric | None" = None,
    dimension: str | None = None,
    device: "str | torch.device | None" = None,
) -> Ranking:
    """Order pictures, such as several that a generator made from one prompt, best first.

    Args:
        images: at least one picture, in a list, a tuple or an (N, C, H, W) tensor; of whatever a metric takes.
        ref: the image prompt of all, by itself, or as many image prompts as pictures.
        metric: a name, a checkpoint folder or a Hub repository; None for ``fr-aigciqa`` where there is a `ref`, else
            ``nr-aigciqa``. To rank many times pass a `Metric`, whose weights are read once.
        dimension: which one to order by; None for the metric's own.
        device: where to compute; None for the metric's own, or CUDA where there is one, else the CPU.

    Raises:
        InputError: for a single picture that is in no list, a picture that cannot be read (nothing is ranked then),
            another dimension than the metric predicts, references missing or unexpected, or a device beside a `Metric`.
        CheckpointError: when the checkpoint cannot be opened.

    Examples:
        >>> import aigciqa
        >>> order, scores = aigciqa.rank(["gen.png", "ref.png"])
        >>> order
        [1, 0]
        >>> aigciqa.rank(["gen.png", "ref.png"], "ref.png", dimension="correspondence").best
        1
    """
    if not isinstance(images, list | tuple | Tensor) or not is_many(images):
        raise InputError("rank compares pictures; pass them in a list, or as an (N, C, H, W) tensor")
    if not len(images):
        raise InputError("no picture to rank: the list is empty")
    if not isinstance(metric, Metric):
        source = metric or ("nr-aigciqa" if ref is None else "fr-aigciqa")
        metric = Metric(source, dimension=dimension, device=device)
    elif device is not None:
        raise InputError("a Metric has its device; leave device out, or use metric.to(device)")
    dimension = metric.dimension if dimension is None else dimension
    known = metric.config.dimensions
    if dimension not in known:
        raise InputError(
            f"{metric.metric_name} predicts {', '.join(known)}, not {dimension!r}; rank by one of these"
        )
    scores = metric.predict(images, ref)[dimension].tolist()
    if bad := [index for index, score in enumerate(scores) if not math.isfinite(score)]:
        raise InputError(f"picture {bad[0]} has no finite score; compute in float32")
    low, high = metric.score_range
    return Ranking(_ordered(scores, EQUAL * (high - low)), scores)


def _ordered(scores: list[float], equal: float) -> list[int]:
    """Indices, highest first; in a run of scores each within `equal` of the next, as they came."""
    order: list[int] = []
    tied: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if tied and scores[tied[-1]] - scores[index] > equal:
            order += sorted(tied)
            tied = []
        tied.append(index)
    return order + sorted(tied)
