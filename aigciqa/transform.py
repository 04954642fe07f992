"""Preprocessing: what torchvision's ``Resize`` and ``CenterCrop`` do to a PIL picture, for tensors on any device.

Everything up to normalisation happens in 8 bits: floats are rounded to the 256 steps that a PNG of them would hold.
So a tensor, the file it came from and the file it is saved to all score the same, and so do CPU and GPU.

Resizing is antialiased bilinear in two passes with 8-bit rounding after each, as in Pillow, the horizontal pass
first. (Recent Pillow orders the passes by their cost; that moves some pixels by one step.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Transform

# Only the middle square of a picture is seen. Cutting panoramas to this aspect ratio first bounds the memory
# that resizing them takes.
MAX_ASPECT = 8


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


def tiles(images: Tensor, size: int, count: int) -> list[Tensor]:
    """The square middles of `count` x `count` equal parts of (N, C, H, W), row by row; shifted where they stick out."""
    rows, columns = (
        [min(max(length * (2 * i + 1) // (2 * count) - size // 2, 0), length - size) for i in range(count)]
        for length in images.shape[-2:]
    )
    return [images[..., top : top + size, left : left + size] for top in rows for left in columns]


def shrink(images: Tensor, short: int) -> Tensor:
    """(N, 3, H, W) in 0 to 255 resized to the shorter side `short`; panoramas are cut first."""
    images = _cut(images)
    return resize(images, *_short(images, short))


def normalise(images: Tensor, transform: Transform) -> Tensor:
    """The last step of `preprocess`: (..., 3, H, W) in 0 to 255 to float32 of the checkpoint's mean and std."""
    mean = torch.tensor(transform.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(transform.std, device=images.device).view(3, 1, 1)
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
    centre = scale * (torch.arange(new, dtype=torch.float64) + 0.5)
    first = (centre - support + 0.5).to(torch.int64).clamp(min=0)
    last = (centre + support + 0.5).to(torch.int64).clamp(max=size)
    where = first + torch.arange(int((last - first).max()))[:, None]
    weights = (1 - ((where - centre + 0.5) / support).abs()).clamp(min=0) * (where < last)
    weights = weights / weights.sum(0)
    bits = 0
    while bits < 22 and int(0.5 + weights.max().item() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return where.clamp(max=size - 1), (weights * (1 << bits) + 0.5).to(torch.int32), bits


def _cut(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    longest = MAX_ASPECT * min(height, width)
    return centre(images, min(height, longest), min(width, longest))


def _short(images: Tensor, short: int) -> tuple[int, int]:
    """(height, width) after resizing the shorter side, by torchvision's rule."""
    height, width = images.shape[-2:]
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def centre(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of (..., H, W), where torchvision's ``CenterCrop`` takes it."""
    top = round((images.shape[-2] - height) / 2)
    left = round((images.shape[-1] - width) / 2)
    return images[..., top : top + height, left : left + width]
