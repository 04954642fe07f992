"""Preprocessing: what torchvision's ``Resize`` and ``CenterCrop`` do to a PIL picture, for tensors on any device.

Everything up to normalisation happens in 8 bits: floats are rounded to the 256 steps that a PNG of them would hold.
So a tensor, the file it came from and the file it is saved to all score the same, and so do CPU and GPU.

Resizing is antialiased bilinear in two passes with 8-bit rounding after each, as in Pillow, the horizontal pass
first. (Recent Pillow orders the passes by their cost; that moves some pixels by one step.)
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import image
from .config import Transform
from .decode import Large

# Only the middle square of a picture is seen. Cutting panoramas to this aspect ratio first bounds the memory
# that resizing them takes.
MAX_ASPECT = 8

STRIP = 2_000_000  # pixels of a large picture that are resized at a time


def preprocess(images: Tensor, transform: Transform) -> Tensor:
    """Resize the shorter side, crop the centre, normalise; beside it, where the config asks for them, native tiles.

    Args:
        images: (N, 3, H, W), uint8, or float in [0, 1]; any device. Gradients pass through floats, as if
            nothing were rounded.
        transform: what the checkpoint's config says.

    Returns:
        (N, 3, crop, crop), float32, on the device of `images`; with tiles (N, views, 3, crop, crop), the whole
        picture first, then the tiles row by row.

    Examples:
        >>> import torch
        >>> preprocess(torch.rand(2, 3, 300, 400), Transform()).shape
        torch.Size([2, 3, 224, 224])
        >>> preprocess(torch.rand(2, 3, 300, 400), Transform(tiles=2)).shape
        torch.Size([2, 5, 3, 224, 224])
    """
    exact = in_bytes(images.detach())
    result = views(exact, transform).float()
    if images.requires_grad:
        smooth = views(images.float() * 255, transform)
        result = smooth + (result - smooth).detach()
    return normalise(result, transform)


def read_views(picture: Any, transform: Transform, what: str = "picture") -> Tensor:
    """Decode one picture to what the backbone sees of it, before `normalise`.

    Of a large one no copy is made, so that the memory it takes is that of decoding it; the values are the same.

    Args:
        picture: one of those that `aigciqa.image.read` takes.
        transform: what the checkpoint's config says.
        what: how messages call the picture, where it is no path.

    Returns:
        (1, 3, crop, crop), uint8, or with tiles (1, views, 3, crop, crop); as many as N for an (N, C, H, W) tensor.

    Raises:
        InputError: naming the picture and what is wrong with it.

    Examples:
        >>> read_views("gen.png", Transform(tiles=2)).shape
        torch.Size([1, 5, 3, 224, 224])
    """
    with image.opened(picture, what) as found:
        if isinstance(found, Large):
            return _views_of_large(found, transform)
        return views(in_bytes(found.detach()), transform)


def in_bytes(images: Tensor) -> Tensor:
    """(N, 3, H, W), uint8 or float in [0, 1], to uint8."""
    if images.dtype == torch.uint8:
        return images
    return (images.float() * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def views(images: Tensor, transform: Transform) -> Tensor:
    """What the backbone sees, before `normalise`: (N, 3, H, W) in 0 to 255 to (N, 3, crop, crop), or with tiles
    (N, views, 3, crop, crop).
    """
    whole = centre(shrink(images, transform.resize), transform.crop, transform.crop)
    if not transform.tiles:
        return whole
    native = shrink(images, transform.crop) if min(images.shape[-2:]) < transform.crop else images
    return torch.stack([whole, *tiles(native, transform.crop, transform.tiles)], 1)


def _views_of_large(large: Large, transform: Transform) -> Tensor:
    """`views` of a picture that is not there as a tensor.

    The horizontal pass of resizing takes each row by itself and rounds to 8 bits, so strips of rows give the same
    as the whole; the vertical pass has the whole then, which is narrow. Tiles are parts as they are.
    """
    height, width = _uncut(*large.shape)
    top, left = (_middle(*lengths) for lengths in zip(large.shape, (height, width), strict=True))
    if transform.tiles and min(height, width) < transform.crop:
        return views(in_bytes(large.part(top, left, height, width)), transform)  # narrow: it fits
    new_height, new_width = _short(height, width, transform.resize)
    rows = max(1, STRIP // width)
    narrow = [
        resize(in_bytes(large.part(top + y, left, n, width)), n, new_width)
        for y in range(0, height, rows)
        for n in [min(rows, height - y)]
    ]
    whole = centre(resize(torch.cat(narrow, -2), new_height, new_width), transform.crop, transform.crop)
    if not transform.tiles:
        return whole
    size = transform.crop
    native = [
        in_bytes(large.part(*corner, size, size)) for corner in _corners(large.shape, size, transform.tiles)
    ]
    return torch.stack([whole, *native], 1)


def tiles(images: Tensor, size: int, count: int) -> list[Tensor]:
    """The square middles of `count` x `count` equal parts of (N, C, H, W), row by row; shifted where they stick out."""
    corners = _corners(images.shape[-2:], size, count)
    return [images[..., top : top + size, left : left + size] for top, left in corners]


def _corners(shape: Sequence[int], size: int, count: int) -> list[tuple[int, int]]:
    """(top, left) of each of `tiles`, in a picture of (height, width)."""
    rows, columns = (
        [min(max(length * (2 * i + 1) // (2 * count) - size // 2, 0), length - size) for i in range(count)]
        for length in shape
    )
    return [(top, left) for top in rows for left in columns]


def shrink(images: Tensor, short: int) -> Tensor:
    """(N, 3, H, W) in 0 to 255 resized to the shorter side `short`; panoramas are cut first."""
    height, width = _uncut(*images.shape[-2:])
    return resize(centre(images, height, width), *_short(height, width, short))


def normalise(images: Tensor, transform: Transform) -> Tensor:
    """The last step of `preprocess`: (..., 3, H, W) in 0 to 255 to float32 of the checkpoint's mean and std."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device).view(3, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return (images.float() / 255 - mean) / std


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) to (N, C, height, width); uint8 bit for bit the same on every device."""
    if images.shape[-2:] == (height, width):
        return images
    if images.device.type == "cpu" or images.dtype != torch.uint8:
        return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resize_by_taps(images, height, width)


def resize_by_taps(images: Tensor, height: int, width: int) -> Tensor:
    """`resize` in elementary integer operations, for devices on which torch resizes no uint8."""
    for dim, size in ((-1, width), (-2, height)):
        if images.shape[dim] == size:
            continue
        where, weights, bits = _taps(images.shape[dim], size)
        total = torch.full((), 1 << (bits - 1), dtype=torch.int32, device=images.device)
        for index, weight in zip(where.to(images.device), weights.to(images.device), strict=True):
            taken = images.index_select(dim, index).int()
            total = total + taken * (weight if dim == -1 else weight[:, None])
        images = (total >> bits).clamp(0, 255).to(torch.uint8)
    return images


def _taps(size: int, new: int) -> tuple[Tensor, Tensor, int]:
    """The triangle filter in fixed point: (taps, new) source positions and integer weights, and the bits shifted.

    The arithmetic is torch's own for uint8 on the CPU: 16-bit weights of as many bits as the largest allows.
    """
    scale = size / new
    support = max(scale, 1.0)
    centre = scale * (torch.arange(new, dtype=torch.float64, device="cpu") + 0.5)
    first = (centre - support + 0.5).to(torch.int64).clamp(min=0)
    last = (centre + support + 0.5).to(torch.int64).clamp(max=size)
    where = first + torch.arange(int((last - first).max()), device="cpu")[:, None]
    weights = (1 - ((where - centre + 0.5) / support).abs()).clamp(min=0) * (where < last)
    weights = weights / weights.sum(0)
    bits = 0
    while bits < 22 and int(0.5 + weights.max().item() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return where.clamp(max=size - 1), (weights * (1 << bits) + 0.5).to(torch.int32), bits


def _uncut(height: int, width: int) -> tuple[int, int]:
    """What is left of (height, width) when a panorama is cut."""
    longest = MAX_ASPECT * min(height, width)
    return min(height, longest), min(width, longest)


def _short(height: int, width: int, short: int) -> tuple[int, int]:
    """(height, width) after resizing the shorter side, by torchvision's rule."""
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def centre(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of (..., H, W), where torchvision's ``CenterCrop`` takes it."""
    top, left = _middle(images.shape[-2], height), _middle(images.shape[-1], width)
    return images[..., top : top + height, left : left + width]


def _middle(length: int, new: int) -> int:
    """Where the middle `new` of `length` begins."""
    return round((length - new) / 2)
