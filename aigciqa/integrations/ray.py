"""Many machines, by Ray: an actor per device, each of which opens the checkpoint once.

The actors run `aigciqa.scoring.score_items` on neighbouring pictures, so rows, errors and scores are those of one
machine; only they import PyTorch. `score_dataset` is a stage of a Ray Data pipeline. `score_items` goes through any
iterable in its order with actors of its own, since a Ray dataset made on this machine would have to hold all items
before the first is scored.
"""

import gc
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..config import PRECISIONS, MetricConfig
from ..errors import AigciqaError, CheckpointError, InputError
from ..program import collect
from ..records import Row
from ..registry import create_metric, metric_info
from ..sources import Item, is_missing
from ..stamp import stamp_of

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
    from ray.data import Dataset

    from ..metric import Metric

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]

FORWARDS = 8  # per call of an actor, whose network waits at the beginning of each for the first pictures
HEAVY = 32 << 20  # bytes of encoded pictures that are sent to an actor at a time
UNCHANGED = -1  # the limit of pixels, which may be None
RESTARTS = 2  # of an actor whose process or machine is lost


def score_dataset(
    dataset: "Dataset",
    metric: Source,
    *,
    picture_column: str = "picture",
    reference_column: str | None = None,
    num_actors: int | None = None,
    cpus_per_actor: int = 1,
    rows_per_call: int | None = None,
    on_error: str = "row",
    workers: int | None = None,
    compiled: bool = False,
    precision: str = "fp32",
) -> "Dataset":
    """Add scores to a Ray dataset that has a column of pictures, as a stage of its pipeline.

    Pictures are paths, which every machine must be able to read, or the bytes of encoded pictures, such as
    `ray.data.read_binary_files` gives. Rows come in Ray Data's order, which is the dataset's only if
    ``dataset.context.execution_options.preserve_order`` is set.

    Args:
        dataset: all its columns are kept.
        metric: a name, a checkpoint folder or a Hub repository; or a dictionary of `aigciqa.create_metric`'s
            arguments, such as ``{"source": "nr-aigciqa", "batch_size": 16}``.
        picture_column: paths or bytes of generated pictures.
        reference_column: paths or bytes of their references, empty or null where there is none; None for
            ``reference``, where the metric takes references.
        num_actors: how many actors; None for one per free GPU, or as many as free cores allow where there is no GPU.
        cpus_per_actor: cores of an actor that computes on a CPU.
        rows_per_call: rows that an actor gets at a time; None for as many as eight forward passes take.
        on_error: ``"row"`` to go on after a picture that cannot be scored, with a row that says why; ``"stop"``.
        workers: threads per actor that decode; None for as many as its cores, on a GPU the machine's, at most 8.
        compiled: run the network through `torch.compile`.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.

    Returns:
        The dataset with a float32 column for each of the metric's dimensions, null where it failed; ``error``, which
        says why; and ``metric``, the stamp of what scored (`aigciqa.stamp.stamp_of`).

    Raises:
        InputError: when Ray is not installed or cannot be reached, a column is missing or there already, a
            reference column is given to a no-reference metric, or an argument is wrong.
        CheckpointError: when the checkpoint cannot be opened.

    Examples:
        >>> import ray
        >>> _ = ray.init(num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
        >>> pictures = ray.data.from_items([{"picture": "gen.png", "prompt": "a corgi"}])
        >>> score_dataset(pictures, "nr-aigciqa").take_all()
        [{'picture': 'gen.png', 'prompt': 'a corgi', 'quality': ..., 'authenticity': ..., 'error': None, ...}]
        >>> ray.shutdown()
    """
    gpu = has_gpus()
    from ray.data import ActorPoolStrategy

    rows = _positive("rows_per_call", rows_per_call)
    size = _positive("num_actors", num_actors) or (_free("GPU") if gpu else None)
    how = {"on_error": on_error, "workers": workers, "compiled": compiled}
    job = _Job(metric, gpu, cpus_per_actor, precision, how, (picture_column, reference_column))
    if (names := dataset.columns(fetch_if_missing=False)) is not None:  # else the actors will see
        job.check(names)
    return dataset.map_batches(
        _Actor,
        compute=ActorPoolStrategy(size=size, min_size=None if size else 1),
        batch_size=rows or job.rows_per_call,
        batch_format="pyarrow",
        fn_constructor_args=(job,),
        **job.resources,
    )


def score_items(
    metric: Source,
    items: Iterable[Item],
    *,
    num_actors: int | None = None,
    cpus_per_actor: int = 1,
    rows_per_call: int | None = None,
    on_error: str = "row",
    workers: int | None = None,
    compiled: bool = False,
    precision: str = "fp32",
) -> Iterator[Row]:
    """Score pictures as they come, in their order, as `aigciqa.scoring.score_items` does on one machine.

    Connects to the cluster that `RAY_ADDRESS` names, else to the one running here, else starts one here. Actors open
    the files that items name, so every machine must have them; tar members are sent to them.

    Args:
        metric: as for `score_dataset`, like all that is not described here.
        items: what to score; read only a few calls ahead.
        num_actors: how many actors; None for one per free GPU, or per `cpus_per_actor` free cores where there is none.
        cpus_per_actor: cores of an actor that computes on a CPU.
        rows_per_call: pictures that an actor gets at a time; fewer where they are sent and large.
        on_error: ``"row"`` or ``"stop"``.
        workers: threads per actor that decode.
        compiled: run the network through `torch.compile`.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.

    Yields:
        A row for each item.

    Raises:
        InputError: as `score_dataset`; when an actor is lost again and again; with ``on_error="stop"`` for the first
            picture that cannot be scored.
        CheckpointError: when the checkpoint cannot be opened.
    """
    gpu = has_gpus()
    how = {"on_error": on_error, "workers": workers, "compiled": compiled}
    job = _Job(metric, gpu, cpus_per_actor, precision, how)
    job.how["on_error"] = "row"  # an actor that stopped would keep the rows before from coming out
    size = _positive("rows_per_call", rows_per_call) or job.rows_per_call
    count = _positive("num_actors", num_actors) or (
        _free("GPU") if gpu else max(1, _free("CPU") // cpus_per_actor)
    )
    for rows in _in_order(_calls(items, size), count, job):
        for row in rows:
            if on_error == "stop" and row.error:
                raise InputError(row.error)
            yield row


def score_and_leave(metric: Source, items: Iterable[Item], **how: Any) -> Iterator[Row]:
    """`score_items` for a process that does nothing else with Ray: it leaves the cluster that it connected to.

    When Python ends Ray would leave it, too, and wait half a second before.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    try:
        yield from score_items(metric, items, **how)
    finally:
        if ours:
            ray.shutdown()


def _calls(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Neighbours, as many as `size` or as weigh `HEAVY`."""
    call: list[Item] = []
    weight = 0
    for item in items:
        call.append(item)
        weight += len(item.data or b"") + len(item.reference_data or b"")
        if len(call) == size or weight >= HEAVY:
            yield call
            call, weight = [], 0
    if call:
        yield call


def _in_order(calls: Iterator[list[Item]], count: int, job: "_Job") -> Iterator[list[Row]]:
    """Each call's rows. An actor has a call waiting beside the one it is at; rows wait for those before them."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util import ActorPool

    kind: Any = ray.remote(_Actor)
    kind = kind.options(max_restarts=RESTARTS, max_task_retries=RESTARTS, **job.resources)
    actors = [kind.remote(job) for _ in range(count)]
    pool: Any = ActorPool([*actors, *actors])
    done: dict[int, list[Row]] = {}
    begun = ended = 0
    try:
        while True:
            while pool.has_free() and begun - ended < 4 * count and (items := next(calls, None)):
                pool.submit(lambda actor, given: actor.score.remote(*given), (begun, items))
                begun += 1
            if begun == ended:
                return
            number, rows = pool.get_next_unordered()
            done[number] = rows
            while ended in done:
                yield done.pop(ended)
                ended += 1
    except RayTaskError as error:
        if isinstance(error.cause, AigciqaError):
            raise error.cause from None  # without the traceback of another machine
        raise
    except RayError as error:
        raise InputError(
            f"a Ray actor was lost {RESTARTS + 1} times, perhaps for want of memory; use fewer actors, or read Ray's "
            f"logs\n  cause: {_first_line(error)}"
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)


@dataclass
class _Job:
    """What an actor is told, which is checked here, where errors can be read."""

    metric: Source
    gpu: bool
    cpus: int
    precision: str
    how: dict[str, Any]  # arguments of `scoring.score_items`
    columns: tuple[str, str | None] = ("picture", None)

    def __post_init__(self) -> None:
        _positive("cpus_per_actor", self.cpus)
        if self.how["on_error"] not in ("row", "stop"):
            raise InputError(f"on_error must be row or stop, not {self.how['on_error']!r}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be {', '.join(PRECISIONS)}, not {self.precision!r}")
        arguments: dict[str, Any] = (
            dict(self.metric) if isinstance(self.metric, Mapping) else {"source": self.metric}
        )
        if "device" in arguments:
            raise InputError("Ray gives each actor its device; leave device out")
        self.arguments = arguments
        inspect.signature(create_metric).bind(**arguments)
        hub = {name: arguments.get(name) for name in ("token", "offline", "cache_dir")}
        self.config: MetricConfig = metric_info(arguments["source"], **hub)
        self.config.dimension(arguments.get("dimension"))
        self.stamp = stamp_of(self.config, self.precision)
        size = _positive("batch_size", arguments.get("batch_size"))
        self.rows_per_call = FORWARDS * (size or self.config.transform.batch("cuda" if self.gpu else "cpu"))
        if self.config.mode == "NR" and self.columns[1] is not None:
            raise InputError(
                f"{self.config.name} judges a picture alone; give no reference_column, or use fr-aigciqa"
            )
        # Ray sets as many threads of OpenMP, which are torch's, as an actor has cores
        self.resources: dict[str, Any] = {"num_gpus": 1} if self.gpu else {"num_cpus": self.cpus}
        # relative paths and the limit of pixels, where it was changed, mean there what they mean here
        self.folder = Path.cwd()
        self.max_pixels: int | None = getattr(sys.modules.get("aigciqa.image"), "MAX_PIXELS", UNCHANGED)

    def check(self, names: list[str]) -> None:
        """See that a dataset has the columns that are read, and not those that are added."""
        picture, reference = self.columns
        if self.config.mode == "FR":
            reference = reference or "reference"
        for name in (picture, reference):
            if name is not None and name not in names:
                raise InputError(
                    f"the dataset has no column {name!r}, only {', '.join(names)}; picture_column and "
                    "reference_column say which hold pictures"
                )
        if taken := [name for name in (*self.config.dimensions, "error", "metric") if name in names]:
            raise InputError(f"the dataset has columns {', '.join(taken)} already; rename or drop them first")


class _Actor:
    """A metric in a process of its own; its checkpoint is opened for the first pictures, and kept."""

    def __init__(self, job: _Job):
        try:
            os.chdir(job.folder)
        except OSError:  # another machine, on which a relative path may be another picture's
            os.chdir(os.sep)
        gc.disable()
        from .. import image, scoring

        collect()
        if job.max_pixels != UNCHANGED:
            image.MAX_PIXELS = job.max_pixels
        self.job, self.how = job, job.how
        if not job.gpu and job.how["workers"] is None:
            self.how = job.how | {"workers": min(job.cpus, scoring.THREADS)}
        self.metric: Metric | None = None

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        import torch

        from .. import scoring

        if self.metric is None:  # not in the constructor, whose errors Ray tells only as text
            metric = create_metric(**self.job.arguments)
            scoring.in_precision(metric, self.job.precision)
            if metric.stamp != self.job.stamp:  # a branch that moved on, or a folder of another machine
                raise CheckpointError(
                    f"an actor opened {metric.stamp} where this run began with {self.job.stamp}; name a revision, or "
                    "see that every machine has the same checkpoint"
                )
            # once, and not at every call
            metric.network = scoring.ready(metric.network, metric.config, torch.get_num_threads())
            self.metric = metric
        return scoring.score_items(self.metric, items, **self.how)

    def score(self, number: int, items: list[Item]) -> tuple[int, list[Row]]:
        return number, list(self.rows(items))

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """Rows of a dataset with what is added to them."""
        import pyarrow as pa

        config = self.job.config
        self.job.check(table.column_names)
        items = self._items(table)
        scored = self.rows(item for item in items if item is not None)
        column = self.job.columns[0]
        empty = Row(column, None, None, f"column {column!r} is empty here")
        rows = [empty if item is None else next(scored) for item in items]
        for dimension in config.dimensions:
            scores = [None if row.scores is None else row.scores[dimension] for row in rows]
            table = table.append_column(dimension, pa.array(scores, pa.float32()))
        table = table.append_column("error", pa.array([row.error for row in rows], pa.string()))
        return table.append_column("metric", pa.array([self.job.stamp] * len(rows), pa.string()))

    def _items(self, table: "pa.Table") -> list[Item | None]:
        """None for a row without a picture."""
        column, reference_column = self.job.columns
        pictures = _pictures(table, column)
        references: list[tuple[str | None, bytes | None]] = [(None, None)] * len(pictures)
        beside = reference_column or "reference"
        if self.job.config.mode != "NR" and beside in table.column_names:
            references = _pictures(table, beside)
        return [
            None if name is None else Item(name, reference, data, reference_data)
            for (name, data), (reference, reference_data) in zip(pictures, references, strict=True)
        ]


def _pictures(table: "pa.Table", column: str) -> list[tuple[str | None, bytes | None]]:
    """Each row's name and content: path and None, or the column's name and bytes; or twice None."""
    found: list[tuple[str | None, bytes | None]] = []
    for cell in table[column].to_pylist():
        value = None if is_missing(cell) else cell
        if not isinstance(value, str | bytes | None):
            raise InputError(
                f"column {column!r} holds {table.schema.field(column).type}, not paths or the bytes of encoded "
                "pictures; ray.data.read_binary_files reads such bytes"
            )
        found.append((column, value) if isinstance(value, bytes) and value else (value or None, None))
    return found


def has_gpus() -> bool:
    """Connect to a cluster as `score_items` does, and say whether it has GPUs.

    Raises:
        InputError: when Ray is not installed or cannot be reached.
    """
    ray = _ray()
    if not ray.is_initialized():
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)  # standard output is for rows
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster could be used: {_first_line(error)}\n  RAY_ADDRESS says which one; without it, the "
                "one that runs here is used, or one is started"
            ) from error
    return bool(ray.cluster_resources().get("GPU"))


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(f"Ray needs {error.name}; pip install 'aigciqa[ray]'") from None
    return ray


def _free(kind: str) -> int:
    """CPUs or GPUs of the cluster that nobody has reserved; at least 1."""
    import ray

    return max(1, int(ray.available_resources().get(kind, 0)))


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, not {value}")
    return value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
