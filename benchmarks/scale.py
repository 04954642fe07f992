"""Time per picture and peak memory from 100 files to 20,000, each in a process of its own.

    python benchmarks/scale.py [--files 20000] [--repeats 3] [--metric NAME]

The network is tiny and the pictures are small, so that what the engine itself does per picture shows.
Eight pictures are scored before, so loading is not in the time. (Counted from the first row on, it would leave out
those that have been computed by then, which are many of 100.)
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides import TINY, checkpoint, pictures, ratios, row, show_machine

import aigciqa


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--metric", help="[default: a tiny network]")
    parser.add_argument("--score", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        metric, folder, count = args.score
        print(json.dumps(measure(metric, Path(folder), int(count))))
        return
    show_machine()
    print("| claim | ratio | target | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metric = args.metric or str(checkpoint(folder / "tiny", **TINY))
        pictures(folder / "pictures", args.files, 96)
        found: dict[int, list[tuple[float, float]]] = {100: [], 500: [], args.files: []}
        for _ in range(args.repeats):
            for count, results in found.items():
                command = [sys.executable, __file__, "--score", metric, str(folder / "pictures"), str(count)]
                results.append(json.loads(subprocess.check_output(command)))
    seconds, peaks = ({n: [r[i] for r in rs] for n, rs in found.items()} for i in (0, 1))
    each = ", ".join(f"{1000 * min(s):.2f} ms at {n:,}" for n, s in seconds.items())
    row(f"time per picture, {args.files:,} / 100", ratios(seconds[args.files], seconds[100]), "1.0", each)
    each = ", ".join(f"{max(p):.0f} MB at {n:,}" for n, p in peaks.items())
    row(f"peak memory, {args.files:,} / 500", ratios(peaks[args.files], peaks[500]), "at most 1.10", each)


def measure(name: str, folder: Path, count: int) -> tuple[float, float]:
    """Seconds per picture, and the peak memory in MB."""
    metric = aigciqa.create_metric(name, device="cpu")
    files = sorted(map(str, folder.iterdir()))
    list(metric.score_files(files[-8:]))  # loading and imports
    start, done = time.perf_counter(), 0
    for found in metric.score_files(files[:count]):
        assert found.error is None, found.error
        done += 1
    seconds = (time.perf_counter() - start) / done
    return seconds, peak()


def peak() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts what the parent held when it began this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # bytes, on a Mac


if __name__ == "__main__":
    main()
