"""Degradations of what a picture shows: its parts melt, move, multiply or lose their texture."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)
Values: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Rng: TypeAlias = np.random.Generator

LOWEST = 0.2  # the severity of the first level; that of the last is 1

# Every degradation makes the same draws whatever its severity, so that the levels of a ladder differ in degree only.
# Lengths are in parts of the picture's shorter side where people and networks look at the whole picture.


def as_pixels(values: Values) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def power(severity: float, first: float, last: float) -> float:
    """A parameter that is `first` at the lowest severity, `last` at 1, and geometric between."""
    return float(last * (first / last) ** (np.log(severity) / np.log(LOWEST)))


def luma(pixels: Pixels | Values) -> Values:
    return pixels.astype(np.float32, copy=False) @ np.array([0.299, 0.587, 0.114], np.float32)


def noise(rng: Rng, *shape: int) -> Values:
    """White, of mean 0 and deviation 1."""
    return np.asarray(rng.standard_normal(shape, np.float32))


def fields(rng: Rng, shape: tuple[int, ...], cells: int, count: int = 1) -> Values:
    """Smooth random fields of mean 0 and deviation 1, (count, H, W); `cells` says how fine."""
    coarse = noise(rng, count, cells + 2, cells + 2)
    fine = [Image.fromarray(one).resize((shape[1], shape[0]), Image.Resampling.BICUBIC) for one in coarse]
    stacked = np.stack([np.asarray(one) for one in fine])
    return (stacked - stacked.mean((1, 2), keepdims=True)) / stacked.std((1, 2), keepdims=True)


def blurred(values: Values, sigma: float) -> Values:
    sigmas = (sigma, sigma, 0) if values.ndim == 3 else sigma
    return gaussian_filter(values, sigmas, mode="nearest", truncate=3)


def detail(pixels: Pixels) -> Values:
    """Where something is to be seen: the density of edges, (H, W), of mean 0 and deviation 1."""
    dy, dx = np.gradient(luma(pixels))
    density = np.sqrt(uniform_filter(np.abs(dy) + np.abs(dx), min(pixels.shape[:2]) // 12))
    return (density - density.mean()) / (density.std() + 1e-6)


def regions(pixels: Pixels, rng: Rng, share: float, cells: int = 7) -> Values:
    """An irregular mask (H, W, 1) in [0, 1] over `share` of the picture, where there is detail.

    The mask of a smaller share lies within that of a larger one.
    """
    chosen = fields(rng, pixels.shape, cells)[0] + detail(pixels)
    threshold = np.quantile(chosen, 1 - share)
    return np.clip((chosen - np.float32(threshold)) * 6 + 0.5, 0, 1)[:, :, None]


def moved(values: Values | Pixels, shift: Values) -> Values:
    """Every pixel taken from elsewhere: `shift` is (2, H, W), rows and columns, in pixels."""
    places = np.indices(values.shape[:2], np.float32) + shift
    channels = np.moveaxis(values.astype(np.float32, copy=False), -1, 0)
    return np.stack([map_coordinates(one, places, order=1, mode="mirror") for one in channels], -1)


def flattened(values: Values | Pixels, radius: float, contrast: float) -> Values:
    """Edge-preserving smoothing: texture weaker than `contrast` is averaged away.

    Source: He, Sun, Tang: Guided Image Filtering, TPAMI 2013, with the picture as its own guide.
    """
    values = values.astype(np.float32, copy=False)
    box = (2 * round(radius) + 1,) * 2 + (1,)
    mean = uniform_filter(values, box)
    variance = uniform_filter(values * values, box) - mean * mean
    kept = np.maximum(variance, 0) / (np.maximum(variance, 0) + contrast**2)
    return uniform_filter(kept, box) * values + uniform_filter(mean * (1 - kept), box)


# -- places


def _patch(rng: Rng, side: int) -> Values:
    """The opacity of a part of the picture, (side, side, 1): round or nearly square, its edge soft."""
    along = np.abs(np.linspace(-1, 1, side)) ** rng.uniform(1.5, 6)
    return np.clip((1 - along[:, None] - along) * 3, 0, 1).astype(np.float32)[:, :, None]


def _cells(pixels: Pixels, rng: Rng) -> tuple[int, list[tuple[int, int]]]:
    """A lattice of squares laid over the picture: their side, and upper left corners in random order."""
    cells = int(rng.integers(5, 9))
    side = min(pixels.shape[:2]) // cells
    y, x = (int(rng.integers(0, length - cells * side + 1)) for length in pixels.shape[:2])
    return side, [
        (y + side * (k // cells), x + side * (k % cells)) for k in map(int, rng.permutation(cells**2))
    ]


def _paste(onto: Values, part: Values | Pixels, opacity: Values, y: int, x: int) -> None:
    there = onto[y : y + len(part), x : x + len(part)]
    there += (part - there) * opacity


def _shares(count: float) -> Iterator[tuple[int, float]]:
    """`count` parts, of which the last may be a fraction, so that every severity differs from every other."""
    return ((k, min(1, count + 0.5 - k)) for k in range(math.ceil(count + 0.5)))


# -- degradations: pixels, severity in (0, 1], random generator -> pixels


def local_warp(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """A few regions are bent out of shape."""
    mask = regions(pixels, rng, 0.15 + 0.4 * severity)
    shift = fields(rng, pixels.shape, int(rng.integers(6, 13)), 2)
    length = power(severity, 0.008, 0.032) * min(pixels.shape[:2])
    return as_pixels(moved(pixels, shift * mask[:, :, 0] * length))


def global_warp(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Everything is bent out of shape."""
    shift = fields(rng, pixels.shape, int(rng.integers(4, 8)), 2)
    return as_pixels(moved(pixels, shift * power(severity, 0.011, 0.045) * min(pixels.shape[:2])))


def melted(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Regions run like wax and lose their detail."""
    mask = regions(pixels, rng, 0.2 + 0.5 * severity)
    shift = fields(rng, pixels.shape, int(rng.integers(6, 11)), 2)
    length = power(severity, 0.009, 0.045) * min(pixels.shape[:2])
    run = moved(pixels, shift * mask[:, :, 0] * length)
    soft = blurred(flattened(run, 4, power(severity, 12, 40)), power(severity, 0.5, 2.5))
    return as_pixels(run + (soft - run) * mask)


def duplicated_parts(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Parts appear a second time beside themselves: the additional limbs of generated pictures."""
    side, corners = _cells(pixels, rng)
    opacity = _patch(rng, side)
    size = np.array(pixels.shape[:2])
    angles, distances = rng.uniform(0, 2 * np.pi, len(corners)), rng.uniform(0.5, 1, len(corners)) * side
    density = detail(pixels)
    detailed = [(y, x) for y, x in corners if density[y + side // 2, x + side // 2] > -0.5] or corners
    made = pixels.astype(np.float32)
    for k, share in _shares(0.6 * len(detailed) * severity):
        here = np.array(detailed[k])
        away = distances[k] * np.array([np.sin(angles[k]), np.cos(angles[k])])
        inside = (here + away >= 0) & (here + away <= size - side)
        v, u = (here + np.where(inside, away, -away)).clip(0, size - side).astype(int)
        y, x = detailed[k]
        _paste(made, pixels[v : v + side, u : u + side], opacity * share, y, x)
    return as_pixels(made)


def misplaced_parts(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Parts have changed places."""
    side, corners = _cells(pixels, rng)
    opacity = _patch(rng, side)
    made = pixels.astype(np.float32)
    for k, share in _shares(0.25 * len(corners) * severity):
        (y, x), (v, u) = corners[2 * k], corners[2 * k + 1]
        _paste(made, pixels[v : v + side, u : u + side], opacity * share, y, x)
        _paste(made, pixels[y : y + side, x : x + side], opacity * share, v, u)
    return as_pixels(made)


def erased_texture(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Regions have edges but no texture."""
    mask = regions(pixels, rng, 0.25 + 0.6 * severity, 5)
    contrast = power(severity, 20, 60)
    smooth = flattened(flattened(pixels, 5, contrast), 3, contrast)
    return as_pixels(pixels + (smooth - pixels) * mask)


def repeated_texture(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Regions are covered with one small piece of texture, over and over."""
    side = int(min(pixels.shape[:2]) / rng.uniform(10, 20))
    mask = regions(pixels, rng, 0.05 + 0.5 * severity, 5)
    places = rng.integers(0, np.array(pixels.shape[:2]) - side + 1, (8, 2))
    y, x = max(places, key=lambda place: float(detail(pixels)[tuple(place + side // 2)]))
    tile = pixels[y : y + side, x : x + side].astype(np.float32)
    times = [-(-length // side) for length in pixels.shape[:2]]
    tiled = np.tile(tile - tile.mean((0, 1)), (*times, 1))[: pixels.shape[0], : pixels.shape[1]]
    base = blurred(pixels.astype(np.float32), side / 2)  # the colours stay where they were
    return as_pixels(pixels + (base + tiled - pixels) * mask)


def scrambled_details(pixels: Pixels, severity: float, rng: Rng) -> Pixels:
    """Small structure is garbled, as letters and distant faces are."""
    mask = regions(pixels, rng, 0.3 + 0.5 * severity)
    cells = max(min(pixels.shape[:2]) // int(rng.integers(6, 13)), 4)
    shift = rng.uniform(-1, 1, (2, cells, cells)).astype(np.float32)
    size = pixels.shape[1::-1]
    coarse = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in shift]
    return as_pixels(moved(pixels, np.stack(coarse) * mask[:, :, 0] * power(severity, 4.5, 16)))
