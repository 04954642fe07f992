"""Agreement with full-reference measures on pictures restored, compressed and enlarged, whatever their kinds.

python benchmarks/restored.py PHOTOS... --networks build/packaged/networks

Each photograph is shown in 23 versions, and pairs of its versions are compared. No one rated them: where MS-SSIM, FSIM,
HaarPSI, MDSI and VIF (piq's) are of one mind, people probably are too. NETWORKS is what `make checkpoints` trained and
installed. PHOTOS are folders, or .txt files that list pictures; choose ones that were not degraded in training.
"""

import argparse
import io
import random
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import piq
import torch
from PIL import Image
from tqdm import tqdm

import aigciqa
from aigciqa.training.networks import NeuralKind, neural_kinds
from aigciqa.training.photographs import find_photographs
from aigciqa.training.structural import Pixels, as_pixels

MEASURES: dict[str, Callable[..., torch.Tensor]] = {
    "ms-ssim": piq.multi_scale_ssim,
    "fsim": piq.fsim,
    "haarpsi": piq.haarpsi,
    "mdsi": lambda *pair: -piq.mdsi(*pair),
    "vif": piq.vif_p,
}
SMALLEST = 192  # pixels; MS-SSIM wants 161


def encoded(picture: Image.Image, format: str, **options: Any) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return Image.open(file).convert("RGB")


def enlarged(picture: Image.Image, factor: float, filter: Image.Resampling) -> Image.Image:
    small = [max(1, round(side / factor)) for side in picture.size]
    return picture.resize((small[0], small[1]), filter).resize(picture.size, filter)


def sharpened(picture: Image.Image) -> Image.Image:
    """Enlarged from a third, and given back more of what was lost than was there."""
    third, sixth = (np.asarray(enlarged(picture, n, Image.Resampling.LANCZOS), np.float32) for n in (3, 6))
    return Image.fromarray(as_pixels(2 * third - sixth))


def versions(picture: Image.Image, kinds: dict[str, NeuralKind], seed: int) -> dict[str, Image.Image]:
    """By name."""

    def by_network(name: str, level: int, pixels: Pixels) -> Image.Image:
        return Image.fromarray(kinds[name].degrade(pixels, level, 4, np.random.default_rng(seed)))

    found = {f"jpeg {quality}": encoded(picture, "JPEG", quality=quality) for quality in (8, 15, 30)}
    found |= {f"webp {quality}": encoded(picture, "WEBP", quality=quality) for quality in (1, 10, 35)}
    jpeg2000 = partial(encoded, picture, "JPEG2000", quality_mode="rates")
    found |= {f"jpeg2000 1:{rate}": jpeg2000(quality_layers=[rate]) for rate in (40, 100)}
    found |= {f"bicubic x{n}": enlarged(picture, n, Image.Resampling.BICUBIC) for n in (2, 3, 4)}
    found["lanczos x3, sharpened"] = sharpened(picture)
    for name, levels in {"super_resolution": (1, 2, 3), "denoised": (1, 3), "autoencoder": (1, 2, 4)}.items():
        found |= {f"{name} {level}": by_network(name, level, np.asarray(picture)) for level in levels}
    found["latent_noise 1"] = by_network("latent_noise", 1, np.asarray(picture))
    for quality, name in ((8, "super_resolution"), (15, "denoised")):
        found[f"jpeg {quality}, {name} 1"] = by_network(name, 1, np.asarray(found[f"jpeg {quality}"]))
    return found


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


def judged(
    photo: Path, kinds: dict[str, NeuralKind], metrics: list[aigciqa.Metric], folder: Path, seed: int
) -> pd.DataFrame:
    """A row for each version, with measures and scores."""
    original = Image.open(photo).convert("RGB")
    original.save(folder / "reference.png")
    rows, paths = [], []
    for number, (name, picture) in enumerate(versions(original, kinds, seed).items()):
        paths.append(folder / f"{number}.png")
        picture.save(paths[-1])
        pair = tensor(picture), tensor(original)
        rows.append({"version": name, **{key: float(measure(*pair)) for key, measure in MEASURES.items()}})
    table = pd.DataFrame(rows).assign(photo=str(photo))
    for metric in metrics:
        scored = metric.score_files(paths, folder / "reference.png" if metric.metric_mode == "FR" else None)
        table[metric.config.name] = [(row.scores or {})["quality"] for row in scored]
    return table


def agreement(table: pd.DataFrame, column: str, measures: list[str]) -> np.ndarray[Any, Any]:
    """(photographs, 2): pairs in which a column is of one mind with all measures, and pairs in which these are."""
    found = []
    for _, one in table.groupby("photo"):
        first, second = np.array(list(combinations(range(len(one)), 2))).T
        signs = np.sign(one[measures].to_numpy()[first] - one[measures].to_numpy()[second]).sum(1)
        own = np.sign(one[column].to_numpy()[first] - one[column].to_numpy()[second])
        agreed = np.abs(signs) == len(measures)
        found.append((int((own * signs > 0)[agreed].sum()), int(agreed.sum())))
    return np.array(found)


def shown(counts: np.ndarray[Any, Any]) -> str:
    """The share with its 95 % bootstrap interval over photographs."""
    draws = np.random.default_rng(1).integers(0, len(counts), (2000, len(counts)))
    low, high = np.percentile(counts[draws, 0].sum(1) / counts[draws, 1].sum(1), [2.5, 97.5])
    right, pairs = counts.sum(0)
    return f"{right / pairs:.3f} ({low:.3f} to {high:.3f}) of {pairs}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", type=Path, help="folders, or .txt files that list pictures")
    parser.add_argument("--networks", type=Path, required=True, help="folder of autoencoders and networks")
    parser.add_argument("--count", type=int, default=60, help="photographs")
    parser.add_argument("--out", type=Path, help="CSV file for all measures and scores")
    args = parser.parse_args()
    kinds = {kind.name: kind for kind in neural_kinds(args.networks)}
    found, _ = find_photographs(args.photos)
    photos = [one.path for one in found if min(Image.open(one.path).size) >= SMALLEST]
    random.Random(1).shuffle(photos)
    metrics = [aigciqa.create_metric(name) for name in ("nr-aigciqa", "fr-aigciqa")]
    with TemporaryDirectory() as folder:
        table = pd.concat(
            judged(photo, kinds, metrics, Path(folder), seed)
            for seed, photo in enumerate(tqdm(photos[: args.count]))
        )
    if args.out:
        table.to_csv(args.out, index=False)
    scores = [metric.config.name for metric in metrics]
    print(f"{table['photo'].nunique()} photographs in {table['version'].nunique()} versions")
    for column in scores:
        print(
            f"{column}: where all measures are of one mind {shown(agreement(table, column, list(MEASURES)))}"
        )
    print("all pairs, with " + ", ".join(MEASURES) + ":")
    for column in [*scores, *MEASURES]:
        each = [agreement(table, column, [measure]).sum(0) for measure in MEASURES]
        shares = " ".join(f"{right / pairs:8.3f}" for right, pairs in each)
        print(f"{column:>10} {shares}")


if __name__ == "__main__":
    main()
