"""What runs in processes of its own. A server that has imported torch once forks each, so that one begins at once."""

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "aigciqa.cli",
        "aigciqa.metric",
        "aigciqa.scoring",
        "aigciqa.report",
        "pyarrow.parquet",
        "timm",  # else the first checkpoint that names an architecture takes what importing it does
        "tqdm",
        __name__,
    ]
)
MEMORY = 1 << 30  # bytes of addresses that a process may take beyond what it begins with


class Run:
    """`aigciqa-score` with these arguments, as a process that may be killed."""

    def __init__(self, *arguments, log: Path, folder: Path | None = None, file_size: int | None = None):
        self.log = log
        self.process = CONTEXT.Process(target=_score, args=([*map(str, arguments)], log, folder, file_size))
        self.process.start()

    def send(self, signal):
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.process.pid, signal)

    def wait(self) -> int:
        """The exit code, minus the signal that ended it."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"it hangs: {self.says()}"
        return self.process.exitcode

    def says(self) -> str:
        return self.log.read_text(errors="replace")


def _score(arguments, log, folder, file_size):
    from aigciqa.cli import score

    _write_to(log)
    if folder:
        os.chdir(folder)
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    score.main(arguments)


def _write_to(log):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    import torch

    torch.set_num_threads(1)


def in_process(function, *arguments, timeout=300) -> int:
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def open_checkpoints(folders: list[str], report: Path):
    """Open each, and write down what came of it, what it took at its peak, and how long."""
    import aigciqa

    _limit_memory()
    with report.open("w") as file:
        for folder in folders:
            before, begun, found = _peak(), time.monotonic(), {"error": None, "says": ""}
            try:
                aigciqa.create_metric(folder, device="cpu").load()
            except BaseException as error:
                found = {"error": type(error).__name__, "says": str(error)}
            found |= {"bytes": _peak() - before, "seconds": time.monotonic() - begun}
            file.write(json.dumps(found) + "\n")
            file.flush()


def score_with_graphs(paths: list[str], report: Path, memory: int):
    """Open each ONNX file, score a black image, and write down what came of it and what it took at its peak."""
    import torch

    from aigciqa import onnx
    from aigciqa.transform import read_views

    onnx.MEMORY = memory
    _limit_memory()
    torch.set_num_threads(1)
    with report.open("w") as file:
        for path in paths:
            before, found = _peak(), {"error": None, "says": "", "opened": False}
            try:
                network = onnx.OnnxNetwork(path)
                found["opened"] = True
                views = read_views(torch.zeros(3, 99, 99, dtype=torch.uint8), network.config.transform)
                found["scores"] = network(views).tolist()
            except BaseException as error:
                found |= {"error": type(error).__name__, "says": str(error)}
            file.write(json.dumps(found | {"bytes": _peak() - before}) + "\n")
            file.flush()


def _limit_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def _peak() -> int:
    """Resident bytes at the peak since the last call."""
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) << 10


def trapped(work, arguments, report: Path):
    """Do `work` where whatever unpickles an object ends it, and write down that nothing did, or what."""
    import pickle

    seen = []

    def hook(event, args):
        if event == "pickle.find_class":
            seen.append(repr(args))
            raise RuntimeError(f"unpickled {args}")

    sys.addaudithook(hook)
    with contextlib.suppress(RuntimeError):
        pickle.loads(pickle.dumps(Path))  # the trap works
    assert seen
    seen.clear()
    import torch

    def refused(*_, **__):
        seen.append("torch.load")
        raise RuntimeError("torch.load was called")

    torch.load = refused
    try:
        work(*arguments)
    finally:
        report.write_text(json.dumps(seen))


def open_sources(sources: list[str], report: Path, standard_input: str | None = None):
    """Count and read what each has, decode it, and write down what came of it and what it took at its peak."""
    import io

    import pyarrow
    import pyarrow.parquet

    from aigciqa.errors import InputError
    from aigciqa.image import read_one
    from aigciqa.sources import find_items

    first = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": ["b"]}), first)
    list(
        pyarrow.parquet.ParquetFile(first, read_dictionary=["a"]).iter_batches()
    )  # reserves a gigabyte of addresses
    _limit_memory()
    with report.open("w") as file:
        for source in sources:
            _peak()
            before, errors, count, begun = _peak(), [], 0, time.monotonic()
            try:
                stdin = None
                if source == "-":
                    stdin = io.TextIOWrapper(open(standard_input, "rb"))  # noqa: PTH123, SIM115
                items = find_items([source], stdin=stdin)
                count = items.check()
                for item in items:
                    try:
                        if item.error:
                            raise InputError(item.error)
                        read_one(item.picture if item.data is None else item.data)
                    except InputError as error:
                        errors.append(str(error))
            except InputError as error:
                errors.append(f"refused: {error}")
            found = {
                "count": count,
                "failed": len(errors),
                "error": errors[0][:500],
                "bytes": _peak() - before,
            }
            found["seconds"] = time.monotonic() - begun
            file.write(json.dumps(found) + "\n")
            file.flush()
