"""How a quality map is drawn: beside its image and its reference, in colours that its legend explains."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .image import Array

if TYPE_CHECKING:
    from .explain import QualityMap

LONGEST = 8192  # pixels of a drawn image, along each side; an image of two million pixels has less unless it is thin
GAP = 8  # pixels between the parts of a sheet
OPACITY = 0.7  # of the colours over the grey image
# Matplotlib's inferno (CC0), every eighth of it: its lightness grows evenly, also for the colour-blind and in grey.
RAMP = ((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
        (249, 201, 50), (252, 255, 164))  # fmt: skip


def sheet(found: "QualityMap", top: float) -> Image.Image:
    """The image, its reference, the map over the image, and the legend, side by side, each with its name below.

    Args:
        found: the map.
        top: points of the score that the upper end of the colours stands for.
    """
    picture = _sized(found.picture)
    width, height = picture.size
    heat = spread(found, top, width, height)
    mapped = Image.fromarray(blended(heat, np.asarray(picture.convert("L"), np.float32)))
    text = min(28, max(14, height // 32))  # pixels of a line
    _mark_peak(mapped, found, text)
    parts = [("image", picture), ("reference", found.reference), ("score lost", mapped)]
    shown = [(name, part) for name, part in parts if part is not None]
    left, below = (width + GAP) * len(shown), max(height, 12 * text)
    drawn = Image.new("RGB", (left + 11 * text, below + 2 * text), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(text)
    for place, (name, part) in enumerate(shown):
        if part.size != picture.size:  # a reference may have another shape
            part = part.resize(_within(part.size, picture.size))
        x = place * (width + GAP)
        drawn.paste(part, (x + (width - part.width) // 2, (height - part.height) // 2))
        draw.text((x, below + text // 3), name, "black", font)
    _draw_legend(drawn, found, top, left, below, text)
    return drawn


def _sized(picture: Image.Image) -> Image.Image:
    """Thin images are shown shorter, and small images larger."""
    if max(picture.size) > LONGEST:
        picture = picture.resize([min(n, LONGEST) for n in picture.size])
    if factor := min(127 // picture.height, 1024 // picture.width):
        picture = picture.resize([n * (factor + 1) for n in picture.size], Image.Resampling.NEAREST)
    return picture


def _within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    factor = min(box[0] / size[0], box[1] / size[1])
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def spread(found: "QualityMap", top: float, width: int, height: int) -> Array:
    """(height, width): the map over the image, from 0, nothing lost, to 1, `top` or more."""
    rows, columns = (min(n, m) for n, m in zip(found.map.shape, found.size[::-1], strict=True))
    values = Image.fromarray(np.clip(found.map[:rows, :columns] / top, 0, 1).astype(np.float32))
    right, bottom = (n / found.cell for n in found.size)
    box = (0, 0, min(right, values.width), min(bottom, values.height))
    return np.asarray(values.resize((width, height), Image.Resampling.BILINEAR, box))


def blended(heat: Array, grey: Array) -> Array:
    """Colours over grey levels of half their contrast, so that the colours still tell the values.

    Args:
        heat: (H, W) in [0, 1].
        grey: (H, W) in [0, 255].

    Returns:
        (H, W, 3), uint8.

    Examples:
        >>> blended(np.array([[0.0, 1.0]]), np.array([[128.0, 128.0]])).tolist()
        [[[38, 38, 41], [215, 217, 153]]]
    """
    quiet = 64 + grey[:, :, None] / 2
    return (coloured(heat) * OPACITY + quiet * (1 - OPACITY)).round().astype(np.uint8)


def coloured(values: Array) -> Array:
    """(H, W) in [0, 1] to (H, W, 3) float in [0, 255], dark to bright.

    Examples:
        >>> coloured(np.array([[0.0, 1.0]])).tolist()
        [[[0.0, 0.0, 4.0], [252.0, 255.0, 164.0]]]
    """
    at = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(values, at, channel) for channel in zip(*RAMP, strict=True)], -1)


def _mark_peak(mapped: Image.Image, found: "QualityMap", text: int) -> None:
    """A ring around the place where most is lost, and the value beside it."""
    most = float(found.map.max())
    if most <= 0:
        return
    draw, font = ImageDraw.Draw(mapped), ImageFont.load_default(text)
    x, y = (p * n / m for p, n, m in zip(found.peak, mapped.size, found.size, strict=True))
    radius = text / 2
    for wider, colour in ((2, "black"), (0, "white")):
        ring = (
            x - radius - wider / 2,
            y - radius - wider / 2,
            x + radius + wider / 2,
            y + radius + wider / 2,
        )
        draw.ellipse(ring, outline=colour, width=2 + wider // 2)
    label = f"{most:.2f}"
    length = draw.textlength(label, font)
    at = x + radius + 4 if x + radius + 4 + length <= mapped.width else x - radius - 4 - length
    above = min(max(y - text * 0.6, 2), max(2, mapped.height - 1.4 * text))
    draw.text((max(at, 2), above), label, "white", font, stroke_width=2, stroke_fill="black")


def _draw_legend(
    drawn: Image.Image, found: "QualityMap", top: float, left: int, below: int, text: int
) -> None:
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(text)
    upper, lower = 3 * text, below - text
    bar = np.linspace(1, 0, lower - upper)[:, None].repeat(int(1.4 * text), 1)
    drawn.paste(Image.fromarray(blended(bar, np.full_like(bar, 127.5))), (left, upper))
    draw.text((left, 0), f"{found.dimension} lost,\nin score points", "black", font)
    for share, more in ((0.0, " or less"), (0.5, ""), (1.0, " or more")):
        y = lower - share * (lower - upper)
        label = f"{share * top:.2g}{more}"
        draw.text((left + 2 * text, y - 0.6 * text), label, "black", font)
    draw.text((left, below + text // 3), f"score {found.score:.2f}", "black", font)
