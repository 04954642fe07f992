"""PyTorch Ignite: the mean score of the pictures an engine puts out."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..metric import Metric

try:
    from ignite.exceptions import NotComputableError
    from ignite.metrics import Metric as Base
    from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
except ModuleNotFoundError as error:
    raise ImportError(f"PyTorch Ignite needs {error.name}; pip install 'aigciqa[ignite]'") from None


class AigciqaScore(Base):
    """Mean score over an epoch, of all processes.

    What `output_transform` returns is, for a no-reference metric, the pictures: a tensor, or a list of whatever a
    `Metric` takes. For the others it is ``(pictures, references)``, or a dictionary ``{"y_pred": pictures, "y":
    references}``, as for Ignite's own metrics; partial reference takes pictures alone, too.

    Args:
        metric: a name, a checkpoint folder, a Hub repository, or a `Metric`.
        dimension: which one to report; None for the metric's own; ``"all"`` for a dictionary of every dimension.
        output_transform: from the engine's output to pictures.
        device: of the sums, and of a metric that is not given as a `Metric`.
        **options: of `ignite.metrics.Metric`, such as ``metrics_result_mode``.

    Raises:
        InputError: for another dimension than the metric predicts.
        CheckpointError: when the checkpoint cannot be found.

    Examples:
        >>> from ignite.engine import Engine
        >>> evaluator = Engine(lambda engine, batch: batch)
        >>> AigciqaScore("nr-aigciqa").attach(evaluator, "nr")
        >>> evaluator.run([["gen.png"], ["ref.png"]]).metrics
        {'nr': ...}
    """

    _state_dict_all_req_keys = ("_total", "_count")

    def __init__(
        self,
        metric: "str | os.PathLike[str] | Metric" = "nr-aigciqa",
        *,
        dimension: str | None = None,
        output_transform: Callable[[Any], Any] = lambda output: output,
        device: str | torch.device = "cpu",
        **options: Any,
    ):
        self.metric = metric if isinstance(metric, Metric) else Metric(metric, device=device)
        self.dimensions = known = self.metric.config.dimensions
        self.dimension = self.metric.dimension if dimension is None else dimension
        if self.dimension not in (*known, "all"):
            raise InputError(
                f"{self.metric.metric_name} predicts {', '.join(known)} (or all), not {dimension!r}"
            )
        if self.metric.metric_mode == "NR":
            self.required_output_keys = ("y_pred",)
        # unrolled, lists of tensors would come one by one
        super().__init__(output_transform, device, skip_unrolling=True, **options)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget all pictures."""
        self._total = torch.zeros(len(self.dimensions), dtype=self._double_dtype, device=self._device)
        self._count = 0

    @reinit__is_reduced
    def update(self, output: Any) -> None:
        """Take in what one iteration put out, after `output_transform`.

        Args:
            output: pictures, or (pictures, references).

        Raises:
            InputError: as calling a `Metric`, or for references beside a no-reference metric.
        """
        scores = torch.stack(list(self.metric.predict(*self._arguments(output)).values()), 1)
        self._total = self._total + scores.detach().to(self._total).sum(
            0
        )  # inference mode may have been left
        self._count += len(scores)

    @sync_all_reduce("_total:SUM", "_count:SUM")
    def compute(self) -> "float | dict[str, float]":
        """The mean; of ``"all"`` dimensions one for each.

        Raises:
            NotComputableError: when there was no picture.
        """
        if self._count == 0:
            raise NotComputableError("AigciqaScore needs at least one picture before it is computed")
        means = dict(zip(self.dimensions, (self._total / self._count).tolist(), strict=True))
        return means if self.dimension == "all" else means[self.dimension]

    def _arguments(self, output: Any) -> tuple[Any, ...]:
        """What the metric is called with. A data loader's batch of pairs is a list of two tensors."""
        mode, name = self.metric.metric_mode, self.metric.metric_name
        batches = isinstance(output, list) and any(isinstance(o, Tensor) and o.ndim == 4 for o in output)
        if not isinstance(output, tuple) and not batches and not (mode == "FR" and isinstance(output, list)):
            return (output,)
        if len(output) > (1 if mode == "NR" else 2):
            takes = "pictures alone" if mode == "NR" else "(pictures, references)"
            raise InputError(
                f"{name} takes {takes}, and the engine put out {len(output)} things; choose with "
                f"output_transform=lambda output: {'output[0]' if mode == 'NR' else 'output[:2]'}"
            )
        return tuple(output)
