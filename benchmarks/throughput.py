"""Files to scores beside the bare network on ready tensors, decoding included, on the cores of one CPU.

    python benchmarks/throughput.py [--metric DIR_OR_NAME] [--files 48] [--repeats 5]

The bare side is the fastest of all batch sizes from 1 to 32 and of two layouts: one thread of torch's on each core,
or all of them on one batch; channels last. It is measured twice: as it was built (for the paper's model by timm; for a
metric with tiles the project's network), and made faster as the engine makes it, of which nobody has to know. The
budget is core time per picture, measured alone: where decoding and resizing take more than a tenth of it, no engine
on the same cores can have 0.90 of the latter, so the last figure is what is left of what they leave.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from sides import alternate, checkpoint, pictures, ratios, row, show_machine
from torch import Tensor, nn

import aigciqa
from aigciqa import image, scoring
from aigciqa.transform import read_views, views

KINDS = [(512, "jpg"), (512, "png"), (1024, "jpg"), (1024, "png")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metric", help="[default: both the paper's model and nr-aigciqa]")
    parser.add_argument("--files", type=int, help="[default: 48, or 16 for a metric with tiles]")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    show_machine()
    with tempfile.TemporaryDirectory() as folder:
        paper = checkpoint(Path(folder) / "paper")
        for name in [args.metric] if args.metric else [str(paper), "nr-aigciqa"]:
            compare(Path(folder), name, args.files, args.repeats)


def compare(folder: Path, name: str, count: int | None, repeats: int) -> None:
    metric = aigciqa.create_metric(name, device="cpu").load()
    t = metric.config.transform
    count = count or (16 if t.tiles else 48)
    shape = (t.views, 3, t.crop, t.crop) if t.tiles else (3, t.crop, t.crop)
    faster = scoring.ready(metric.network, metric.config, 1).features
    sides = {
        "as built": metric.network.features if t.tiles else built(metric.config.backbone),
        "faster": faster,
    }
    layouts = {}
    for side, compute in sides.items():
        layouts[side] = runners, batch = best(compute, shape)
        print(f"bare {metric.config.name}, {side}: best with {runners} runners, batch {batch}")
    batch = layouts["faster"][1]
    print(
        "| kind | engine / bare as built | target | engine / bare made faster, and ms of one core for decoding, "
        "resizing, network |\n|---|---|---|---|"
    )
    for size, form in KINDS:
        files = pictures(folder / f"{size}{form}", count, size, form)
        budget = [*decoding(files[0], metric), core_time(lambda: faster(ready(batch, shape)), 4) / batch]
        works: dict[str, Callable[[], object]] = {
            "engine": lambda files=files: list(metric.score_files(files))
        }
        for side, (runners, size_of_batch) in layouts.items():
            images = ready(size_of_batch, shape)
            works[side] = partial(bare, sides[side], images, runners, count)
        seconds = alternate(repeats, **works)
        found = ratios(seconds["faster"], seconds["engine"])
        room = budget[2] / sum(budget)
        text = ", ".join(f"{x * 1000:.1f}" for x in budget)
        rate = count / statistics.median(seconds["engine"])
        middle = statistics.median(found)
        row(
            f"{metric.config.name}, {size} x {size} {form}",
            ratios(seconds["as built"], seconds["engine"]),
            "0.90",
            f"{middle:.2f} ({min(found):.2f} to {max(found):.2f}); {text}: room for {room:.2f}, of which "
            f"{middle / room:.2f}; {rate:.1f} pictures/s",
        )


def built(backbone: str) -> Callable[[Tensor], Tensor]:
    """timm's own, as it comes."""
    import timm

    network: nn.Module = timm.create_model(backbone, num_classes=0).eval()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def ready(batch: int, shape: tuple[int, ...]) -> Tensor:
    made = torch.rand(batch, *shape)
    return made.contiguous(memory_format=torch.channels_last) if made.ndim == 4 else made


def bare(compute: Callable[[Tensor], Tensor], images: Tensor, runners: int, count: int) -> None:
    """The network alone, on at least so many pictures; one runner takes all cores, several one each."""
    cores = torch.get_num_threads()
    batches = iter(range(-(-count // len(images))))

    def work(_: int) -> None:
        torch.set_num_threads(1 if runners > 1 else cores)
        with torch.inference_mode():
            for _ in batches:
                compute(images)

    with ThreadPoolExecutor(runners) as pool:
        list(pool.map(work, range(runners)))
    torch.set_num_threads(cores)


def best(compute: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[int, int]:
    """(runners, batch) of the highest throughput, each tried for a second or one batch."""
    rates: dict[tuple[int, int], float] = {}
    most = 8 if len(shape) == 4 else 32
    for _ in range(2):
        for runners in sorted({1, torch.get_num_threads()}):
            for batch in (b for b in (1, 2, 4, 8, 16, 32) if b <= most):
                images, done = ready(batch, shape), 0
                start = time.perf_counter()
                while time.perf_counter() < start + 1:
                    bare(compute, images, runners, 2 * runners * batch)
                    done += 2 * runners * batch
                rate = done / (time.perf_counter() - start)
                rates[runners, batch] = max(rate, rates.get((runners, batch), 0))
    for (runners, batch), rate in rates.items():
        print(f"  {runners} runners, batch {batch}: {rate:.1f} pictures/s")
    return max(rates, key=lambda layout: rates[layout])


def core_time(work: Callable[[], object], repeats: int = 8) -> float:
    """Median seconds of one core, which does not count what others take of it."""

    def measure() -> float:
        found = []
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(repeats):
                start = time.thread_time()
                work()
                found.append(time.thread_time() - start)
        return statistics.median(found)

    cores = torch.get_num_threads()
    with ThreadPoolExecutor(1) as alone:
        median = alone.submit(measure).result()
    torch.set_num_threads(cores)
    return median


def decoding(name: str, metric: aigciqa.Metric) -> tuple[float, float]:
    """Seconds of one core to decode a file, and to make of it what the network sees."""
    pixels = image.read_one(name)
    both = core_time(lambda: read_views(name, metric.config.transform))
    resize = core_time(lambda: views(pixels, metric.config.transform))
    return both - resize, resize


if __name__ == "__main__":
    main()
