"""`Metric`: what the user holds."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from . import ambient, image, limits
from .config import PRECISIONS, MetricConfig
from .errors import InputError
from .image import Pictures
from .model import open_network
from .stamp import stamp_of
from .transform import normalise, preprocess, read_views
from .weights import parse_source

if TYPE_CHECKING:
    from .explain import QualityMap
    from .records import Row

_LOADING = threading.Lock()
_FORKED: list[int] = []  # the thread that goes on in a forked process, until a metric is used there
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _FORKED.append(threading.get_ident()))


class Metric(nn.Module):
    """Scores generated pictures, beside their references where the metric has them. Higher is better.

    The checkpoint is opened at first use: by scoring, or by asking for its parameters or its config.
    A metric always computes in evaluation mode, whatever `train` is told. Threads may share one. In a process that
    was forked it computes with one thread of PyTorch's, as the workers of a `DataLoader` do.

    Its arguments are those of `create_metric`.

    Source:
        arXiv 2311.15556 (no and full reference), arXiv 2404.18409 (partial reference).

    Examples:
        >>> metric = Metric("nr-aigciqa", device="cpu")
        >>> metric(["gen.png", "ref.png"]).shape
        torch.Size([2])
    """

    lower_better = False

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        dimension: str | None = None,
        device: str | torch.device | None = None,
        as_loss: bool = False,
        loss_reduction: str = "none",
        batch_size: int | None = None,
        token: str | None = None,
        offline: bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        super().__init__()
        self.training = False
        self._source = parse_source(source, token=token, offline=offline, cache_dir=cache_dir)
        self._dimension = dimension
        self._device = _checked_device(device)
        if loss_reduction not in ("none", "mean", "sum"):
            raise InputError(f"loss_reduction must be none, mean or sum, not {loss_reduction!r}")
        if loss_reduction != "none" and not as_loss:
            raise InputError(f"loss_reduction={loss_reduction!r} is for as_loss=True; pass both, or neither")
        self.as_loss, self.loss_reduction = as_loss, loss_reduction
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.faster: tuple[Any, dict[torch.device, Any]] | None = None  # of `aigciqa.scoring`

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"faster": None}  # a copy makes its own

    # -- what it is

    @cached_property
    def config(self) -> MetricConfig:
        """The checkpoint's config; read, or fetched, when first asked for."""
        return self._source.config()

    @property
    def metric_name(self) -> str:
        return self.config.name

    @property
    def metric_mode(self) -> str:
        """``"NR"``, ``"FR"`` or ``"PR"``."""
        return self.config.mode

    @property
    def score_range(self) -> tuple[float, float]:
        """The labels' lowest and highest; a score may lie a little outside."""
        return self.config.score_range

    @property
    def stamp(self) -> str:
        """What the metric's scores are marked with in results: its checkpoint and precision.

        It is that of the checkpoint also when somebody else has changed the weights since.

        Examples:
            >>> metric = Metric("nr-aigciqa", device="cpu")
            >>> metric.stamp, metric.bfloat16().stamp
            ('nr-aigciqa@... sha256:... config:...', 'nr-aigciqa@... sha256:... config:... bf16')
        """
        dtype = next(self.parameters()).dtype if self.loaded else torch.float32
        name = str(dtype).removeprefix("torch.")
        return stamp_of(self.config, {long: short for short, long in PRECISIONS.items()}.get(name, name))

    @property
    def dimension(self) -> str:
        """The dimension that calling the metric returns.

        Raises:
            InputError: when the checkpoint does not predict the one asked for.
        """
        return self.config.dimension(self._dimension)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device if self.loaded else self._device

    def batch(self, device: torch.device) -> int:
        """Pictures per forward pass on a device: `batch_size`, or a size that suits it."""
        if self.batch_size:
            return self.batch_size
        within = limits.WORK // (self.network.image_bytes or 1)  # of images, in the memory that one may take
        return int(max(1, min(within, self.config.transform.batch(device.type))))

    # -- scoring

    def forward(self, images: Pictures, ref: Any = None) -> Tensor:
        """Score pictures on one dimension.

        Args:
            images: generated pictures: one or many of whatever `aigciqa.image.read` takes, of any sizes.
            ref: for full reference as many pictures, the image prompts, in the same order; or one picture by itself
                (not in a list), the prompt of all. For partial reference any may be None. A reference may differ in
                size from its picture.

        Returns:
            (N,), float32, on the metric's device; N is 1 for a single picture. With a `loss_reduction`, a scalar.

        Raises:
            InputError: for a picture that cannot be read, or references missing, unexpected or miscounted.
            CheckpointError: at first use, when the checkpoint cannot be opened.
        """
        column = self.config.dimensions.index(self.dimension)
        scores = self._scores(images, ref)[:, column]
        return scores if self.loss_reduction == "none" else getattr(scores, self.loss_reduction)()

    def predict(self, images: Pictures, ref: Any = None) -> dict[str, Tensor]:
        """Score pictures on every dimension of the checkpoint, from one pass.

        Arguments and errors are those of calling the metric.

        Returns:
            (N,) float32 by dimension, without `loss_reduction`.

        Examples:
            >>> Metric("fr-aigciqa", device="cpu").predict("gen.png", "ref.png")
            {'quality': tensor([...]), 'correspondence': tensor([...])}
        """
        return dict(zip(self.config.dimensions, self._scores(images, ref).unbind(1), strict=True))

    def score_files(
        self,
        pictures: "str | os.PathLike[str] | Iterable[Any]",
        references: "str | os.PathLike[str] | Iterable[Any] | None" = None,
        *,
        reference_pattern: str | None = None,
        on_error: str = "row",
        workers: int | None = None,
        devices: "Sequence[str | torch.device] | None" = None,
        compiled: bool = False,
    ) -> "Iterator[Row]":
        """Score any number of files on every dimension, in constant memory, decoding in threads.

        Pictures and references of the same content are computed once, as far as a bounded cache reaches.

        Args:
            pictures: a file, folder, glob, manifest (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) or tar shard, or a
                list of these, as `aigciqa.sources.find_items` takes them; or any iterable of paths or of
                `aigciqa.sources.Item`.
            references: one file for all; a folder, where a picture's reference has the same stem; or as many paths
                as there are pictures.
            reference_pattern: how a reference is named after its picture, see `aigciqa.sources.find_items`.
            on_error: ``"row"`` to go on after a picture that cannot be scored, with a row that says why; ``"stop"``.
            workers: threads that decode; None for one per core, at most 8.
            devices: where to compute, side by side, such as ``["cuda:0", "cuda:1"]``; None for the metric's own.
            compiled: run the network through `torch.compile`.

        Yields:
            A `aigciqa.records.Row` for each picture, in order, as it is done.

        Raises:
            InputError: for pictures without their reference, and with ``on_error="stop"`` for the first picture that
                cannot be scored.
            CheckpointError: when the checkpoint cannot be opened.

        Examples:
            >>> for row in Metric("nr-aigciqa", device="cpu").score_files(["gen.png", "ref.png"]):
            ...     print(row.picture, row.scores)
            gen.png {'quality': ..., 'authenticity': ...}
            ref.png {'quality': ..., 'authenticity': ...}
        """
        from .scoring import score_items
        from .sources import as_items

        items = as_items(pictures, references, reference_pattern)
        return score_items(
            self, items, on_error=on_error, workers=workers, devices=devices, compiled=compiled, keep=True
        )

    def explain(
        self, image: Any, ref: Any = None, *, method: str = "windows", dimension: str | None = None
    ) -> "QualityMap":
        """Where a picture loses its score, as a map.

        Args:
            image: one picture.
            ref: its reference, for metrics that have one.
            method: ``"windows"``, ``"occlusion"`` or ``"gradient"``, see `aigciqa.explain.explain`.
            dimension: whose score; None for `dimension`.

        Raises:
            InputError: for a picture, a reference, a method or a dimension that is none.
            CheckpointError: when the checkpoint cannot be opened.

        Examples:
            >>> found = Metric("nr-aigciqa", device="cpu").explain("gen.png")
            >>> found.map.shape, found.peak
            ((16, 16), (..., ...))
        """
        from .explain import explain

        return explain(self, image, ref, method=method, dimension=dimension)

    def _scores(self, images: Pictures, references: Any) -> Tensor:
        """(N, dimensions), float32."""
        if self.metric_mode == "NR" and references is not None:
            raise InputError(
                f"{self.metric_name} judges a picture alone; pass no reference, or use fr-aigciqa"
            )
        if self.metric_mode == "FR" and references is None:
            raise InputError(
                f"{self.metric_name} compares with a reference: metric(generated, reference); "
                "use nr-aigciqa where there is none"
            )
        network = self.network
        with (
            torch.set_grad_enabled(self.as_loss and torch.is_grad_enabled()),
            ambient.neutral(self.device) as unusual,
        ):
            call = _called
            if torch.is_grad_enabled():
                ambient.let_gradients_through(network)
                call = ambient.apart if unusual else _called
            generated = self._features(images, call)
            seen = [generated]
            if references is not None:
                seen.append(self._reference_features(references, generated, call))
            return call(network.regress, network, *seen).float()

    def _features(self, pictures: Pictures, call: "_Call") -> Tensor:
        network = self.network
        return torch.cat([call(network.features, network, batch) for batch in self._batches(pictures)])

    def _batches(self, pictures: Pictures) -> Iterator[Tensor]:
        """Preprocessed pictures, `batch_size` at a time, so that memory does not grow with their number."""
        parameter = next(self.network.parameters())
        size = self.batch(parameter.device)
        waiting: list[Tensor] = []
        transform = self.config.transform
        for picture, what in image.each(pictures):
            views: Iterable[Tensor]
            if isinstance(picture, Tensor):  # of any number, and with gradients where it has them
                parts = image.read_one(picture, what).split(size)
                views = (preprocess(part, transform) for part in parts)
            else:
                views = [normalise(read_views(picture, transform, what), transform)]
            for part in views:
                waiting.append(part.to(parameter))
                if sum(map(len, waiting)) >= size:
                    ready = torch.cat(waiting)
                    yield ready[:size]
                    waiting = [ready[size:]] if len(ready) > size else []
        if waiting:
            yield torch.cat(waiting)

    def _reference_features(self, references: Any, generated: Tensor, call: "_Call") -> Tensor:
        """(N, D), a row for each generated picture; where partial reference has none, that picture's own."""
        count = len(generated)
        if not image.is_many(references):
            return self._features(references, call).expand(count, -1)
        if isinstance(references, Tensor):
            features = self._features(references, call)
            if len(features) != count:
                raise _miscounted(count, len(features))
            return features
        if len(references) != count:
            raise _miscounted(count, len(references))
        there = [i for i, reference in enumerate(references) if reference is not None]
        if len(there) < count and self.metric_mode != "PR":
            missing = next(i for i in range(count) if references[i] is None)
            raise InputError(
                f"reference {missing} is missing (None); {self.metric_name} needs one for each picture"
            )
        if not there:
            return generated
        found = self._features([references[i] for i in there], call)
        return generated.index_copy(0, torch.tensor(there, dtype=torch.long, device=generated.device), found)

    # -- lazy loading: everything that looks at the parameters opens the checkpoint first

    @property
    def loaded(self) -> bool:
        """Whether the checkpoint's weights have been read."""
        return "network" in self._modules

    def load(self) -> "Metric":
        """Open the checkpoint now rather than at first use.

        Raises:
            CheckpointError: when it cannot be found, fetched or trusted.
        """
        if _FORKED or not self.loaded:
            # the compiler must not look into it; to say so beforehand takes a second, to import the compiler
            (torch.compiler.disable(self._open) if torch.compiler.is_compiling() else self._open)()
        return self

    def _open(self) -> None:
        if threading.get_ident() in _FORKED:
            _FORKED.clear()  # it would wait for ever for threads that were not forked with it
            torch.set_num_threads(1)
        with _LOADING, ambient.building():  # several threads may use a metric for the first time at once
            if not self.loaded:
                _ = self.dimension  # a wrong one is refused before anything large is read
                self.network = open_network(self.config, self._source).to(self._device)

    def __getattr__(self, name: str) -> Any:
        if name == "network":
            return self.load()._modules[name]
        return super().__getattr__(name)

    def train(self, mode: bool = True) -> "Metric":
        """Has no effect: batch statistics of a metric must not follow the pictures it scores."""
        return self

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        return nn.Module.named_children(self.load())

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        return nn.Module.named_modules(self.load(), *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.state_dict(self.load(), *args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.load_state_dict(self.load(), *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Metric":
        with ambient.building():  # moved in inference mode, tensors could have no gradients later
            return nn.Module._apply(self.load(), fn, recurse)

    def extra_repr(self) -> str:
        return f"{self._source.name!r}, device={str(self.device)!r}, loaded={self.loaded}"


_Call: TypeAlias = Callable[..., Tensor]


def _called(compute: Callable[..., Tensor], module: nn.Module, *tensors: Tensor) -> Tensor:
    """As `ambient.apart`, where nothing surrounds the metric."""
    return compute(*tensors)


def _checked_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(device)!r} is not available: {str(error).splitlines()[0]}") from None
    return checked


def _miscounted(pictures: int, references: int) -> InputError:
    return InputError(
        f"{pictures} pictures but {references} references; pass as many, in the same order, or one reference "
        "by itself (not in a list) for all"
    )
