"""What the benchmarks of scoring share: pictures, checkpoints, and measuring two sides in turn."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aigciqa.config import MetricConfig, Transform
from aigciqa.model import Network
from aigciqa.weights import save_checkpoint

SCORE = str(Path(sys.executable).parent / "aigciqa-score")
TINY = {"backbone": "test_efficientnet", "transform": Transform(resize=72, crop=64)}


def pictures(
    folder: Path, count: int, size: int, form: str = "jpg", shape: tuple[int, int] | None = None
) -> list[str]:
    """Different pictures with structure at several scales.

    Args:
        folder: where they are written; made if need be.
        count: how many.
        size: side in pixels.
        form: ``"jpg"`` (quality 90) or ``"png"``.
        shape: (height, width) instead of `size`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    height, width = shape or (size, size)
    rng = np.random.default_rng(size)
    pixels = np.zeros((height, width, 3), np.uint8)
    for scale in (4, 16, 64):
        coarse = rng.integers(0, 256, (height // scale + 2, width // scale + 2, 3), dtype=np.uint8)
        pixels += np.asarray(Image.fromarray(coarse).resize((width, height))) // 3
    names = []
    for number in range(count):
        turned = np.roll(pixels, (number // width, number), (0, 1)) if number else pixels
        names.append(str(folder / f"{number:05}.{form}"))
        Image.fromarray(turned).save(names[-1], quality=90)
    return names


def checkpoint(folder: Path, reference: str = "none", **changes: object) -> Path:
    """A model of the papers' kind, with random weights; `tf_efficientnet_lite0` unless `changes` say otherwise."""
    fields = {"name": f"random-{reference}", "reference": reference, "backbone": "tf_efficientnet_lite0"}
    config = MetricConfig(**(fields | changes))  # type: ignore[arg-type]
    torch.manual_seed(0)
    save_checkpoint(folder, config, Network(config).state_dict())
    return folder


def alternate(repeats: int, **sides: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each side, measured in turn; a first round, which warms up, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in seconds.items()}


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Of what was measured in the same round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def row(claim: str, found: list[float], target: str, beside: str = "") -> None:
    """A row for docs/performance.md: claim, median and range, target, what else there is to say."""
    spread = f"{statistics.median(found):.3g} ({min(found):.3g} to {max(found):.3g}, {len(found)} rounds)"
    print(f"| {claim} | {spread} | {target} | {beside} |", flush=True)


def run(*command: str) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a process of its own; its output is not shown unless it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)}: failed\n{messages}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show_machine() -> None:
    """One line on where the figures come from."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x), cpu)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{cpu}, {torch.get_num_threads()} cores, torch {torch.__version__}, load average {load}\n")
