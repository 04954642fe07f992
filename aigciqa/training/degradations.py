"""Degradations of photographs that show the failures of generative models, each at any severity."""

import difflib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy.signal import fftconvolve

from ..errors import InputError
from . import structural
from .structural import (
    LOWEST,
    Pixels,
    Rng,
    Values,
    as_pixels,
    blurred,
    fields,
    flattened,
    luma,
    moved,
    noise,
    power,
)

Degradation = Callable[[Pixels, float, Rng], Pixels]


def _scaled(pixels: Pixels) -> float:
    """By how much a length in pixels of a picture of 384 pixels is to be multiplied."""
    return min(pixels.shape[:2]) / 384


# -- patterns that networks leave


def checkerboard(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """The fine chequers of transposed convolutions, stronger in some places than in others."""
    period = int(rng.choice([3, 4, 6]))
    y, x = np.indices(pixels.shape[:2]) // (period / 2)
    wave = ((y + x) % 2 * 2 - 1).astype(np.float32)
    strength = 1 + 0.5 * np.tanh(fields(rng, pixels.shape, 4)[0])
    return as_pixels(pixels + (wave * strength * power(severity, 7, 50))[:, :, None])


def grid(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """The lattice of an upsampling layer: lines of a coloured tint at a fixed period."""
    period = int(rng.choice([2, 4, 8, 16]))
    phase = rng.integers(0, period, 2)
    wave = [
        np.cos(2 * np.pi * (np.arange(n) - p) / period) for n, p in zip(pixels.shape, phase, strict=False)
    ]
    lines = [np.sign(one) * np.abs(one) ** 0.5 for one in wave]
    lattice = ((lines[0][:, None] + lines[1]) / 2).astype(np.float32)
    tint = (1 + 0.3 * rng.normal(size=3)).astype(np.float32)
    return as_pixels(pixels + lattice[:, :, None] * tint * power(severity, 9, 45))


def noise_residue(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """What is left when denoising stops early: blotchy noise, unevenly spread."""
    blotches = blurred(noise(rng, *pixels.shape), float(rng.uniform(0.8, 2)))
    strength = 1 + 0.6 * np.tanh(fields(rng, pixels.shape, 4)[0])[:, :, None]
    return as_pixels(pixels + blotches / blotches.std() * strength * power(severity, 7, 36))


def seams(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Strips or blocks made apart from each other, of slightly other scale, place and colour."""
    rows, columns = [(1, 6), (6, 1), (4, 4), (3, 3)][int(rng.integers(4))]
    height, width = pixels.shape[:2]
    y, x = np.indices((height, width), np.float32)
    block = (y * rows // height * columns + x * columns // width).astype(int)
    offsets = rng.normal(size=(4, rows * columns)).astype(np.float32)
    tints = rng.normal(size=(rows * columns, 3)).astype(np.float32)
    length = 10 * severity * _scaled(pixels)
    zoom = offsets[2:][:, block] * (0.08 * severity)
    centred = np.stack([y - height / 2, x - width / 2])
    return as_pixels(
        moved(pixels, offsets[:2][:, block] * length + zoom * centred) + tints[block] * power(severity, 5, 17)
    )


def ghosting(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """A second picture of everything, faint and beside the first."""
    angle = rng.uniform(0, 2 * np.pi)
    away = np.array([np.sin(angle), np.cos(angle)], np.float32) * power(severity, 5, 26) * _scaled(pixels)
    ghost = moved(pixels, np.broadcast_to(away[:, None, None], (2, *pixels.shape[:2])))
    return as_pixels(pixels + (ghost - pixels) * power(severity, 0.25, 0.5))


def pixel_jitter(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Fine structure frays: every pixel comes from somewhere near."""
    shift = blurred(noise(rng, *pixels.shape[:2], 2), 0.7)
    return as_pixels(moved(pixels, np.moveaxis(shift / shift.std(), -1, 0) * power(severity, 0.9, 4.5)))


# -- sharpness


def oversmooth(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Skin and leaves of plastic: edges stay, everything finer is gone."""
    contrast = power(severity, 12, 60)
    return as_pixels(flattened(flattened(pixels, 4, contrast), 3, contrast))


def gaussian_blur(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    return as_pixels(blurred(pixels.astype(np.float32), power(severity, 1, 6) * _scaled(pixels)))


def motion_blur(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Blurred along one direction."""
    angle = rng.uniform(0, np.pi)
    length = power(severity, 6, 40) * _scaled(pixels)
    around = int(length / 2) + 1
    y, x = np.indices((2 * around + 1,) * 2, np.float32) - around
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    line = np.clip(length / 2 - np.abs(along) + 0.5, 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    padded = np.pad(pixels, ((around, around), (around, around), (0, 0)), "reflect").astype(np.float32)
    return as_pixels(fftconvolve(padded, (line / line.sum())[:, :, None], "valid", axes=(0, 1)))


def oversharpen(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Bright and dark halos beside every edge."""
    values = pixels.astype(np.float32)
    edges = values - blurred(values, float(rng.uniform(1, 3)))
    return as_pixels(values + edges * power(severity, 1, 8))


def _small(pixels: Pixels, factor: float, how: Image.Resampling, back: Image.Resampling) -> Image.Image:
    picture = Image.fromarray(pixels)
    size = [max(round(length / factor), 4) for length in picture.size]
    return picture.resize((size[0], size[1]), how).resize(picture.size, back)


def enlarged_nearest(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Made at a low resolution and enlarged to squares."""
    return np.asarray(_small(pixels, power(severity, 2, 9), Image.Resampling.BOX, Image.Resampling.NEAREST))


def enlarged_bicubic(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Made at a low resolution and enlarged smoothly."""
    factor = power(severity, 2.2, 11)
    return np.asarray(_small(pixels, factor, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC))


def enlarged_sharpened(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Made at a low resolution, enlarged, and sharpened to make up for it."""
    factor = power(severity, 2, 9)
    large = _small(pixels, factor, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)
    return np.asarray(large.filter(ImageFilter.UnsharpMask(factor * 0.7, 200, 0)))


# -- colour and tone


def colour_cast(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Everything tends to one hue."""
    hue = rng.uniform(0, 2 * np.pi) + 2 * np.pi / 3 * np.arange(3)
    return as_pixels(pixels + np.cos(hue).astype(np.float32) * power(severity, 14, 65))


def _saturated(pixels: Pixels, factor: float) -> Pixels:
    grey = luma(pixels)[:, :, None]
    return as_pixels(grey + (pixels - grey) * factor)


def oversaturation(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """The glaring colours of tasteless prompts."""
    return _saturated(pixels, 1 + power(severity, 0.5, 4.5))


def desaturation(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Faded towards grey."""
    return _saturated(pixels, 1 - power(severity, 0.45, 1))


def posterise(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Bands instead of gradients: few shades of each colour."""
    shades = power(severity, 13, 2.8) - 1
    return as_pixels(np.rint(pixels * (shades / 255)) * (255 / shades))


def contrast_loss(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Flat and hazy."""
    haze = luma(pixels).mean() * 0.5 + rng.uniform(60, 115)
    return as_pixels(pixels + (haze - pixels) * power(severity, 0.26, 0.75))


def overexposure(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Lights burnt out to white."""
    return as_pixels(pixels * np.float32(1 + power(severity, 0.2, 1.9)) + np.float32(20 * severity))


def underexposure(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Dim, shadows drowned in black."""
    return as_pixels(pixels * np.float32(1 - power(severity, 0.3, 0.85)) - np.float32(6 * severity))


def harsh_contrast(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Lights and shadows both driven to the ends, and what lies beyond cut off."""
    middle = luma(pixels).mean()
    return as_pixels(middle + (pixels - middle) * (1 + power(severity, 0.45, 4)))


# -- noise and compression


def white_noise(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    return as_pixels(pixels + noise(rng, *pixels.shape) * power(severity, 9, 60))


def chroma_noise(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Blotches of colour, of unchanged brightness."""
    blotches = blurred(noise(rng, *pixels.shape), float(rng.uniform(1, 3)))
    blotches -= luma(blotches)[:, :, None]
    return as_pixels(pixels + blotches / blotches.std() * power(severity, 10, 60))


def _encoded(picture: Image.Image, kind: str, quality: float) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, quality=round(quality))
    return Image.open(file).convert("RGB")


def jpeg(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    return np.asarray(_encoded(Image.fromarray(pixels), "JPEG", power(severity, 24, 3)))


def webp(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """WebP, of a picture made smaller first where its lowest quality is not low enough."""
    picture = Image.fromarray(pixels)
    factor = power(severity, 1, 2.6)
    small = picture.resize(
        (round(picture.width / factor), round(picture.height / factor)), Image.Resampling.LANCZOS
    )
    made = _encoded(small, "WEBP", power(severity, 12, 1))
    return np.asarray(made.resize(picture.size, Image.Resampling.BICUBIC))


# -- all of them


def combined(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """A failure of content, then one or two of rendering; half of the time compressed at the end."""
    content = rng.choice(sorted(STRUCTURAL - {"combined"}))
    compressions = ["jpeg", "webp"]
    renderings = rng.choice(sorted(DEGRADATIONS.keys() - STRUCTURAL - set(compressions)), 2, replace=False)
    several, end, compressed = rng.integers(0, 2, 3)
    kinds = [content, renderings[0], compressions[end] if compressed else renderings[1]]
    if not several:
        del kinds[2 - compressed]
    for kind, seed in zip(kinds, rng.integers(2**32, size=4), strict=False):
        pixels = DEGRADATIONS[str(kind)](pixels, 0.75 * severity, np.random.default_rng(seed))
    return pixels


STRUCTURAL = frozenset(
    {
        "local_warp", "global_warp", "melted", "duplicated_parts", "misplaced_parts", "erased_texture",
        "repeated_texture", "scrambled_details", "combined",
    }
)  # fmt: skip

DEGRADATIONS: dict[str, Degradation] = {
    one.__name__: one
    for one in (
        structural.local_warp, structural.global_warp, structural.melted, structural.duplicated_parts,
        structural.misplaced_parts, structural.erased_texture, structural.repeated_texture,
        structural.scrambled_details, checkerboard, grid, noise_residue, seams, ghosting, pixel_jitter, oversmooth,
        gaussian_blur, motion_blur, oversharpen, enlarged_nearest, enlarged_bicubic, enlarged_sharpened, colour_cast,
        oversaturation, desaturation, posterise, contrast_loss, harsh_contrast, overexposure, underexposure,
        white_noise, chroma_noise, jpeg, webp, combined,
    )
}  # fmt: skip


def degrade(
    pixels: "np.ndarray[Any, Any]", kind: str, level: int, levels: int = 4, seed: int | list[int] = 0
) -> Pixels:
    """Degrade one picture.

    The levels of one kind and seed make a ladder: the same failure in the same places, worse at every level, at
    severities that are geometrically spaced from 0.2 to 1.

    Args:
        pixels: (H, W, 3) uint8, sides of 64 or more.
        kind: a key of `DEGRADATIONS`.
        level: 1, the slightest, to `levels`.
        levels: how many there are.
        seed: of where and how the picture is damaged.

    Raises:
        InputError: for pixels, a kind or a level that is none.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> pixels = np.asarray(Image.open("ref.png"))
        >>> levels = [degrade(pixels, "melted", level) for level in (1, 2, 3, 4)]
        >>> damage = [float(abs(pixels - one.astype(float)).mean()) for one in levels]
        >>> damage == sorted(damage)
        True
    """
    if kind not in DEGRADATIONS:
        near = difflib.get_close_matches(str(kind), DEGRADATIONS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the kinds are {', '.join(DEGRADATIONS)}"
        raise InputError(f"no degradation {kind!r}; {hint}")
    if not 1 <= level <= levels:
        raise InputError(f"level {level} is not one of 1 to {levels}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 64:
        raise InputError(
            f"pixels of shape {pixels.shape}, {pixels.dtype}; expected (H, W, 3) uint8, sides of 64 or more"
        )
    severity = LOWEST ** ((levels - level) / max(levels - 1, 1))
    return DEGRADATIONS[kind](pixels, severity, np.random.default_rng(seed))


__all__ = ["DEGRADATIONS", "STRUCTURAL", "Degradation", "Pixels", "Rng", "Values", "degrade"]
