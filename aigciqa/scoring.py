"""Many pictures to scores: decoding in threads, the network beside it, every distinct picture computed once.

Items go in, rows come out in the same order. Between them lie three bounded queues: items being opened, batches
being computed, and distinct pictures whose features are kept. So memory does not depend on how many items there are.
"""

import copy
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .ambient import building, neutral
from .config import PRECISIONS, MetricConfig
from .errors import InputError
from .folding import fingerprint, folded
from .opening import Cache, Distinct, Opened, Remaining, open_item, queued, reopened
from .records import Row
from .sources import Item
from .transform import normalise

if TYPE_CHECKING:
    from .metric import Metric
    from .onnx import OnnxMetric

_PROCESS = threading.Lock()  # held while torch's number of threads is changed

CACHE = 32 << 20  # bytes of features that are kept
KEPT = 2048  # pictures, at most; many small ones scattered over the heap keep more of it than they fill
THREADS = 8  # that decode, at most
RUNNERS = 8  # that share the cores of a CPU, at most
BATCH = 2  # views in a forward pass on one core, whose cache holds the feature maps of no more
SMALL = 64  # pixels, the side of what a faster network is tried with


class Runner:
    """A network on one device, which computes batches.

    Args:
        network: has ``features`` and ``regress``, as `aigciqa.model.Network`.
        config: its config.
        device: where it is; None for a network that takes views as they are.
        size: pictures per batch.
        compiled: run it through `torch.compile`.
        threads: of torch on a CPU; None to leave that alone.
    """

    def __init__(
        self,
        network: Any,
        config: MetricConfig,
        device: torch.device | None,
        size: int,
        compiled: bool = False,
        threads: int | None = None,
    ):
        self.network, self.config, self.device, self.size = network, config, device, size
        # The last digit depends on how many are computed together, and a run that went on must not differ from one
        # that did not stop; so batches are filled up, where that costs next to nothing.
        self.padded = compiled or (threads == 1 and size <= BATCH)
        self.threads = threads
        self.compute: Any = torch.compile(network.features) if compiled else network.features

    def run(self, new: Sequence[Distinct], rows: Sequence["Opened | Row"]) -> list[Row]:
        # for one batch, so that nothing of the process's is changed for longer
        with torch.inference_mode(), neutral(self.device or torch.device("cpu")):
            return self._run(new, rows)

    def _run(self, new: Sequence[Distinct], rows: Sequence["Opened | Row"]) -> list[Row]:
        try:
            features = self._features([d.views for d in new if d.views is not None])
        except BaseException as error:
            for distinct in new:
                distinct.features.set_exception(error)  # other runners may wait for it
            raise
        for distinct, found in zip(new, features, strict=True):
            distinct.features.set_result(found)
            distinct.views = None
        return [self._row(row) if isinstance(row, Opened) else row for row in rows]

    def _features(self, views: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        while len(found) < len(views):
            some = views[len(found) : len(found) + self.size]
            try:
                found += self._computed(some)
                continue
            except torch.cuda.OutOfMemoryError:
                if len(some) == 1:
                    raise
            self.size = len(some) // 2  # not in the handler, which holds the tensors of what failed
            torch.cuda.empty_cache()
        return found

    def _computed(self, views: list[Tensor]) -> list[Tensor]:
        batch = torch.cat(views + views[-1:] * (self.size - len(views) if self.padded else 0))
        if self.device is not None:
            batch = normalise(batch.to(self.device), self.config.transform)
            batch = batch.to(next(self.network.parameters()).dtype)
        found = self.compute(batch)[: len(views)]
        return [features.clone() for features in found]  # a part would keep the whole batch in memory

    def _row(self, opened: Opened) -> Row:
        """Regressed by itself, so that the last digit does not depend on which rows come together."""
        item = opened.item
        seen = [opened.generated]
        if self.config.mode != "NR":  # partial reference without one judges the picture beside itself
            seen.append(opened.reference or opened.generated)
        scores = self.network.regress(*(d.features.result().to(self.device)[None] for d in seen))
        try:
            found = dict(zip(self.config.dimensions, scores.float()[0].tolist(), strict=True))
            return Row(item.picture, item.reference, found)
        except InputError as error:
            return Row(item.picture, item.reference, None, str(error))


class Runners:
    """A thread for each runner; they take batches from one queue, so none waits for a slower one.

    Args:
        runners: what computes.
    """

    def __init__(self, runners: Sequence[Runner]):
        self.count, self.size = len(runners), runners[0].size
        waiting = list(runners)
        self.own = threading.local()

        def begin() -> None:
            self.own.runner = waiting.pop()
            if self.own.runner.threads is not None:
                limit_threads(self.own.runner.threads)

        self.pool = ThreadPoolExecutor(self.count, "network", begin)

    def submit(self, new: Sequence[Distinct], rows: Sequence["Opened | Row"]) -> "Future[list[Row]]":
        batch = self.pool.submit(lambda: self.own.runner.run(new, rows))

        def give_up(batch: "Future[list[Row]]") -> None:
            if batch.cancelled():
                for distinct in new:
                    distinct.features.cancel()  # other runners may wait for it

        batch.add_done_callback(give_up)
        return batch


def score_items(
    metric: "Metric | OnnxMetric",
    items: Iterable[Item],
    *,
    on_error: str = "row",
    workers: int | None = None,
    devices: Sequence[str | torch.device] | None = None,
    compiled: bool = False,
    keep: bool = False,
) -> Iterator[Row]:
    """Score pictures as they come, in their order; `Metric.score_files` says how.

    Args:
        metric: does it.
        items: what to score; read only a little ahead.
        on_error: ``"row"`` to go on after a picture that cannot be scored, with a row that says why; ``"stop"``.
        workers: threads that decode; None for one per core, at most 8.
        devices: where to compute, side by side; None for where the metric is.
        compiled: run the network through `torch.compile`.
        keep: what was made of the network to be faster, with the metric, for calls to come.

    Yields:
        A row for each item.

    Raises:
        InputError: with ``on_error="stop"``, for the first picture that cannot be scored.
    """
    if on_error not in ("row", "stop"):
        raise InputError(f"on_error must be row or stop, not {on_error!r}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    with building():
        runners = Runners(_runners(metric, devices, compiled, keep))
    with runners.pool:
        for rows in _pipeline(metric, items, runners, workers or min(THREADS, _cores())):
            for row in rows:
                if on_error == "stop" and row.error:
                    raise InputError(row.error)
                yield row


def _pipeline(
    metric: "Metric | OnnxMetric", items: Iterable[Item], runners: Runners, workers: int
) -> Iterator[list[Row]]:
    config = metric.config
    size = runners.size
    cache = Cache(max(4 * size, min(KEPT, CACHE // (4 * metric.network.width))))
    opening: deque[Future[Opened]] = deque()
    computing: deque[Future[list[Row]]] = deque()
    remaining = Remaining(items)
    with ThreadPoolExecutor(workers, "decode", lambda: limit_threads(1)) as pool:
        try:
            rows: list[Opened | Row] = []
            new: list[Distinct] = []
            while True:
                while len(new) < size and len(rows) < 4 * size:
                    while len(opening) < 2 * (size + workers) and (item := remaining.take(len(opening))):
                        opening.append(pool.submit(open_item, item, config, cache))
                    if not opening:
                        break
                    rows.append(queued(reopened(opening.popleft().result(), config, cache), new))
                # a row whose reference does not fit comes with the next batch
                later = rows[-1:] if len(new) > size else []
                if rows:
                    computing.append(runners.submit(new[:size], rows[: len(rows) - len(later)]))
                while computing and (not rows or len(computing) > 2 * runners.count):
                    yield computing.popleft().result()
                if not rows:
                    return
                rows, new = later, new[size:]
        finally:
            for future in itertools.chain[Future[Any]](opening, computing):
                future.cancel()


def _runners(
    metric: "Metric | OnnxMetric", devices: Sequence[str | torch.device] | None, compiled: bool, keep: bool
) -> list[Runner]:
    """One for each device; on a CPU alone one for each core, whose batches need not wait for each other's threads."""
    if metric.device is None:  # it knows where to compute itself
        return [Runner(metric.network, metric.config, None, metric.batch(torch.device("cpu")))]
    wanted = [torch.device(d) for d in devices or [metric.device]]
    threads = torch.get_num_threads()
    if [device.type for device in wanted] == ["cpu"]:
        wanted *= min(threads, RUNNERS)
    threads = max(1, threads // max(1, sum(device.type == "cpu" for device in wanted)))
    networks = _networks(metric, wanted, threads, keep)
    runners = []
    for device in wanted:
        size, some = metric.batch(device), None
        if device.type == "cpu":
            some = threads
            if threads == 1:
                size = metric.batch_size or min(size, max(1, BATCH // metric.config.transform.views))
        runners.append(Runner(networks[device], metric.config, device, size, compiled, some))
    return runners


def _networks(
    metric: "Metric", devices: Iterable[torch.device], threads: int, keep: bool
) -> dict[torch.device, Any]:
    """The metric's network on each device, made faster; kept with it for as long as the network stays as it is."""
    made: dict[torch.device, Any] = {}
    if keep:
        now = fingerprint(metric.network)
        if metric.faster is None or metric.faster[0] != now:
            metric.faster = now, made
        made = metric.faster[1]
    for device in set(devices) - made.keys():
        whole = metric.network if device == metric.device else copy.deepcopy(metric.network).to(device)
        made[device] = ready(whole, metric.config, threads)
    return made


def ready(network: Any, config: MetricConfig, threads: int) -> Any:
    """The network, made faster, which pays after a few pictures; one that was made so is returned as it is.

    Args:
        network: `Metric.network`.
        config: its config.
        threads: of torch, for trying it.
    """
    with building(), ThreadPoolExecutor(1, initializer=lambda: limit_threads(threads)) as alone:
        example = _example(config).to(next(network.parameters()))
        return alone.submit(folded, network, example).result()


def _example(config: MetricConfig) -> Tensor:
    """Noise like a preprocessed picture, small, so that a single picture's score does not wait for it."""
    transform = config.transform
    side = min(SMALL, transform.crop)
    shape = (transform.views,) * (transform.views > 1) + (3, side, side)
    draw = torch.Generator("cpu").manual_seed(0)
    return torch.rand(1, *shape, generator=draw, dtype=torch.float32, device="cpu")


def in_precision(metric: Any, precision: str) -> None:
    """Let a metric compute in one of `aigciqa.config.PRECISIONS`.

    Args:
        metric: a `Metric`; left as it is for ``"fp32"``.
        precision: which.
    """
    if precision != "fp32":
        metric.to(getattr(torch, PRECISIONS[precision]))


def limit_threads(count: int) -> None:
    """Let torch compute with so many threads for the calling thread.

    `torch.set_num_threads` does that, and besides sets what threads that begin later get; so one of those puts it back.
    """
    torch.get_num_threads()  # else this thread's first computation would take what is put back
    with _PROCESS, ThreadPoolExecutor(1) as later:
        others = later.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        later.submit(torch.set_num_threads, others).result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
