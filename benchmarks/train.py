"""Training throughput beside the bare network, as ratios.

    python benchmarks/train.py [--backbone tf_efficientnet_lite0] [--repeats 5]

1. NR: pictures per second of a training epoch over those of the bare forward and backward pass of the same
   backbone on a ready batch of the same size (target 0.9).
2. FR with 8 pictures per reference: pairs per second of an epoch over those of a plain loop that computes the
   reference of every pair (target 1.6).

Both sides are measured in turn in the same run; printed are the median of the ratios and their range.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from synthetic import make_pku

from aigciqa.training.recipe import DataSource, read_recipe
from aigciqa.training.trainer import _Trainer
from aigciqa.transform import normalise


def timed(work: Callable[[], int]) -> float:
    """Items per second."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def report(name: str, ratios: list[float], target: float) -> None:
    print(
        f"{name}: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} runs; "
        f"target {target})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.backbone} at {args.size}, batch {args.batch_size}, {torch.get_num_threads()} threads")

    with tempfile.TemporaryDirectory() as folder:
        data = make_pku(Path(folder) / "PKU-I2IQA", prompts=args.prompts, size=args.size + 32)

        def trainer(name: str, **changes: object) -> _Trainer:
            recipe = read_recipe(
                None,
                {"backbone": args.backbone, "resize": args.size + 32, "crop": args.size, "batch_size": args.batch_size,
                 "weights": "random", "data": [DataSource(str(data))], "validation": 0.0, "select": "last", **changes},
            )  # fmt: skip
            made = _Trainer(recipe, Path(folder) / name, lambda line: None)
            made.train_epoch()  # warm up
            return made

        def epoch(run: _Trainer) -> Callable[[], int]:
            def work() -> int:
                run.epoch += 1
                run.train_epoch()
                return len(run.train_rows)

            return work

        nr = trainer("nr")
        batch = normalise(
            nr.feed.batch(nr.train_rows[: args.batch_size], None)["images"], nr.config.transform
        )
        steps = len(nr.train_rows) // args.batch_size

        def bare() -> int:
            for _ in range(steps):
                nr.network.backbone(batch).sum().backward()
                nr.optimizer.zero_grad()
            return steps * args.batch_size

        fr = trainer("fr", reference="full", batch_by="group")
        rows = fr.train_rows[: args.batch_size]
        generated, references = (
            normalise(fr.feed.pixels.batch(numbers[rows].tolist(), None), fr.config.transform)
            for numbers in (fr.rows.pictures, fr.rows.references)
        )
        labels = torch.from_numpy(fr.rows.labels[rows]).float()

        def plain() -> int:
            for _ in range(steps):
                scores = fr.network(generated, references)
                torch.nn.functional.mse_loss(scores, labels).backward()
                fr.optimizer.step()
                fr.optimizer.zero_grad()
            return steps * args.batch_size

        nr_ratios, fr_ratios = [], []
        for _ in range(args.repeats):
            nr_ratios.append(timed(epoch(nr)) / timed(bare))
            fr_ratios.append(timed(epoch(fr)) / timed(plain))
    report("NR epoch / bare forward and backward", nr_ratios, 0.9)
    report("FR epoch, 8 per reference / plain loop", fr_ratios, 1.6)


if __name__ == "__main__":
    main()
