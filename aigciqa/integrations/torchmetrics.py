"""torchmetrics: the mean score of all pictures an evaluation has seen, on one process or several."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ambient import neutral
from ..errors import InputError
from ..image import Pictures
from ..metric import Metric

try:
    from torchmetrics import Metric as Base
    from torchmetrics.utilities import dim_zero_cat
except ModuleNotFoundError as error:
    raise ImportError(f"torchmetrics needs {error.name}; pip install 'aigciqa[torchmetrics]'") from None

# Scores are summed in steps of 2**-24, as whole numbers: the sum is the same for whatever batches and processes, does
# not lose digits as it grows, and needs no float64, which some devices lack. It holds 10**9 pictures scored about 100.
STEPS = 2**24


class AigciqaScore(Base):
    """Mean score of generated pictures, or the score of each.

    In a `MetricCollection` every metric is updated with the same arguments, so a no-reference metric leaves references
    aside: ``collection.update(images, references)`` serves it beside full-reference metrics, ours and torchmetrics'.

    The network is kept apart from modules: it moves with `to`, but its weights are in no ``parameters`` and no
    ``state_dict`` of a model that holds this metric. Like other metrics of torchmetrics, ``half`` leaves it alone.

    Args:
        metric: a name, a checkpoint folder, a Hub repository, or a `Metric`.
        dimension: which one to report; None for the metric's own; ``"all"`` for a dictionary of every dimension.
        reduction: ``"mean"`` over pictures, whose memory does not grow; ``"none"`` for a score for each picture.
        **options: of `torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        InputError: for another dimension than the metric predicts, or another reduction.
        CheckpointError: when the checkpoint cannot be found.

    Examples:
        >>> score = AigciqaScore("fr-aigciqa", dimension="all")
        >>> score.update(["gen.png", "ref.png"], "ref.png")
        >>> score.compute()
        {'quality': tensor(...), 'correspondence': tensor(...)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor
    scores: list[Tensor]
    metric: Metric  # not a submodule

    def __init__(
        self,
        metric: "str | os.PathLike[str] | Metric" = "nr-aigciqa",
        *,
        dimension: str | None = None,
        reduction: str = "mean",
        **options: Any,
    ):
        with neutral(torch.device("cpu")):  # torchmetrics takes the default device for its own
            super().__init__(**options)
        if reduction not in ("mean", "none"):
            raise InputError(f"reduction must be mean or none, not {reduction!r}")
        self.reduction = reduction
        self.__dict__["metric"] = metric if isinstance(metric, Metric) else Metric(metric)
        self.dimensions = known = self.metric.config.dimensions
        self.dimension = self.metric.dimension if dimension is None else dimension
        if self.dimension not in (*known, "all"):
            raise InputError(
                f"{self.metric.metric_name} predicts {', '.join(known)} (or all), not {dimension!r}"
            )
        if reduction == "none":
            self.add_state("scores", [], dist_reduce_fx="cat")
        else:
            self.add_state(
                "total", torch.zeros(len(known), dtype=torch.int64, device="cpu"), dist_reduce_fx="sum"
            )
            self.add_state("count", torch.zeros((), dtype=torch.int64, device="cpu"), dist_reduce_fx="sum")
        if self.metric.device != self.device:
            self.to(self.metric.device)

    @property
    def plot_lower_bound(self) -> float:  # type: ignore[override]
        """Lowest score of the labels, where `plot` begins."""
        return self.metric.score_range[0]

    @property
    def plot_upper_bound(self) -> float:  # type: ignore[override]
        """Highest score of the labels, where `plot` ends."""
        return self.metric.score_range[1]

    def update(self, images: Pictures, references: Any = None) -> None:
        """Take in a batch.

        Args:
            images: generated pictures, of whatever calling a `Metric` takes.
            references: for full reference as many image prompts, or one by itself for all. A no-reference metric does
                not look at them.

        Raises:
            InputError: as calling a `Metric`; nothing of such a batch is counted.
        """
        beside = None if self.metric.metric_mode == "NR" else references
        scores = torch.stack(list(self.metric.predict(images, beside).values()), 1).detach()
        if not scores.isfinite().all():
            raise InputError(f"{self.metric.metric_name} gave a score that is not finite; compute in float32")
        if self.reduction == "none":
            # in one dimension, as torchmetrics' own placeholder for a process that has seen no image
            self.scores.append(scores.flatten().to(self.device))
            return
        # not in place: inference mode may have been left meanwhile
        self.total = self.total + (scores * STEPS).round().long().sum(0).to(self.device)
        self.count = self.count + len(scores)

    def compute(self) -> "Tensor | dict[str, Tensor]":
        """The mean, a scalar, or with ``reduction="none"`` (N,); of ``"all"`` dimensions one for each."""
        if self.reduction == "none":
            none = torch.zeros(0, dtype=torch.float32, device=self.device)
            kept = dim_zero_cat(self.scores) if len(self.scores) else none
            found = kept.reshape(-1, len(self.dimensions)).T
        else:
            found = self.total.to(torch.float32) / STEPS / self.count
        by_dimension = dict(zip(self.dimensions, found, strict=True))
        return by_dimension if self.dimension == "all" else by_dimension[self.dimension]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw scores between the ends of the metric's score range, with matplotlib.

        Args:
            val: what `compute` or calling the metric returned, or a list of such values, drawn as a curve; None for
                what `compute` returns now.
            ax: the axes of matplotlib to draw on; None for new ones.

        Returns:
            The figure and its axes.

        Raises:
            ModuleNotFoundError: when matplotlib is not installed.
        """
        return self._plot(val, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "AigciqaScore":
        self.metric._apply(fn)
        return super()._apply(fn, *args, **kwargs)  # type: ignore[return-value]
