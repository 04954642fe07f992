"""Whether the peak of a quality map lies in the part of a picture that was damaged.

python benchmarks/maps.py PHOTOS... --cases 124

A random box, a quarter to a third of each side, of every photograph is degraded; kinds and levels take turns. Boxes too
flat to show damage are drawn again. Full reference has the undamaged photograph as its reference.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import aigciqa
from aigciqa.explain import METHODS
from aigciqa.training.localising import KINDS, Damaged, damaged_in, random_box, reduced
from aigciqa.training.photographs import find_photographs

SHARES = (1 / 4, 1 / 3)  # of each side of a photograph that are damaged


def hit(case: Damaged, peak: tuple[int, int]) -> bool:
    left, top, width, height = case.box
    return left <= peak[0] < left + width and top <= peak[1] < top + height


def cases(
    photos: list[Path], count: int, levels: list[int], short: int, seed: int, soft: bool
) -> Iterator[Damaged]:
    """Every kind at every level as often, on photographs in random order, over again when there are too few."""
    photos = photos.copy()
    random.Random(seed).shuffle(photos)
    plan = [(kind, level) for level in levels for kind in KINDS]
    tried = made = 0
    while made < count:
        rng = np.random.default_rng([seed, tried])
        clean = reduced(photos[tried % len(photos)], short)
        tried += 1
        if box := random_box(clean, rng, SHARES):
            yield damaged_in(clean, box, *plan[made % len(plan)], [seed, tried], soft)
            made += 1
        if tried > 20 * count + 100:
            raise SystemExit("the photographs are too flat to show damage")


def interval(hits: list[bool]) -> str:
    """Hit rate with its 95 % interval (Wilson's)."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{p:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", type=Path, help="folders, or .txt files that list photographs")
    parser.add_argument("--cases", type=int, default=124)
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 4], help="of 4")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--metrics", nargs="+", default=["nr-aigciqa", "fr-aigciqa"])
    parser.add_argument(
        "--short", type=int, default=512, help="shorter side to which photographs are reduced"
    )
    parser.add_argument("--soft", action="store_true", help="damage fades out towards the edges of its box")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, choices=[0, 1], help="only photographs of even or odd number")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    photos = [photo.path for photo in find_photographs(args.photos)[0]]
    photos = photos if args.part is None else photos[args.part :: 2]
    sides = [
        (aigciqa.create_metric(name, device="cpu"), method)
        for name in args.metrics
        for method in args.methods
    ]
    hits: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    losses: dict[str, list[list[float]]] = defaultdict(list)
    made = cases(photos, args.cases, args.levels, args.short, args.seed, args.soft)
    chance = []
    for case in tqdm(made, total=args.cases, disable=None):
        chance.append(case.box[2] * case.box[3] / (case.clean.shape[0] * case.clean.shape[1]))
        for metric, method in sides:
            reference = [] if metric.metric_mode == "NR" else [case.clean]
            found = metric.explain(case.damaged, *reference, method=method)
            found_it = hit(case, found.peak)
            for row in ("all", f"level {case.level}", case.kind):
                hits[metric.metric_name, method][row].append(found_it)
            if method == "windows" and metric.metric_mode == "NR":
                clean = metric.explain(case.clean)
                losses[metric.metric_name].append([float(one.map.max()) for one in (found, clean)])
    print(f"{len(chance)} damaged pictures of {len(photos)} photographs; by chance {np.mean(chance):.3f}\n")
    print("| damage | " + " | ".join(f"{name}, {method}" for name, method in hits) + " |")
    print("|---" * (1 + len(hits)) + "|")
    rows = next(iter(hits.values()))
    for row in sorted(rows, key=lambda name: (name in KINDS, name)):
        cells = []
        for one in hits.values():
            few = f"{sum(one[row])} of {len(one[row])}"
            cells.append(few if row in KINDS else interval(one[row]))
        print(f"| {row} | " + " | ".join(cells) + " |")
    for name, pairs in losses.items():
        damaged, clean = np.median(pairs, 0)
        print(f"\n{name}: most lost, median: {damaged:.2f} points damaged, {clean:.2f} undamaged")


if __name__ == "__main__":
    main()
