"""How much each place of a picture costs its score, by windows, by occlusion and by gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Transform
from .errors import InputError
from .limits import WORK as WORKING
from .limits import check_size
from .model import Network
from .stages import BEYOND, Stages, window_statistics
from .transform import normalise, preprocess, resize

LOCAL = 64  # side in pixels of windows of which statistics are taken
MARGIN = 32  # pixels around a block of windows that its feature maps see
MOST = 4096  # windows; larger pictures have larger ones
# pixels of windows that any image may have, and further ones for each of its own; an image of a usual shape has fewer
WORK, PER_PIXEL = 40_000_000, 8
BLOCK = 400_000  # pixels whose feature maps are in memory at a time
STEPS = 8  # of the integral over gradients
PATCHES = 4  # occluded squares, side by side, along the shorter side
SQUARES = 160  # that are occluded, at most; of long pictures they are larger

Score = Callable[[Tensor], Tensor]  # (N, 3, H, W) to (N,)


def part(picture: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """(1, 3, height, width) of a picture that goes on beyond its edges as in a mirror."""
    rows, columns = (
        _mirrored(start, count, length)
        for start, count, length in zip((top, left), (height, width), picture.shape[-2:], strict=True)
    )
    return picture[..., rows[:, None], columns]


def _mirrored(start: int, count: int, length: int) -> Tensor:
    """Positions that run to and fro within `length`."""
    where = torch.arange(start, start + count, device="cpu") % (2 * length)
    return torch.minimum(where, 2 * length - 1 - where)


def window_side(network: Network, transform: Transform, height: int, width: int) -> int:
    """How many pixels the side of a window has; windows overlap by half of it."""
    side = LOCAL
    if not _pools(network):
        side = max(2, min(transform.resize, min(height, width) // 2 // 2 * 2))
    while (2 * height / side + 1) * (2 * width / side + 1) > MOST:
        side *= 2
    return side


def check_work(
    network: Network, transform: Transform, size: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    """Refuse an image so thin that its windows take out of all proportion to its pixels, before anything is allocated.

    Args:
        network: for whose windows.
        transform: of the network.
        size: (height, width) of the image.
        enlarged: the same of the image in which the windows lie.

    Raises:
        InputError: when it is.
    """
    pixels = window_work(network, transform, *enlarged)
    if pixels > WORK + PER_PIXEL * size[0] * size[1]:
        raise InputError(
            f"a map of {size[1]} x {size[0]} pixels takes too long: its windows have {pixels / 1e6:,.0f} megapixels; "
            "cut the image into parts that are not so thin"
        )
    needed = 6 * enlarged[0] * enlarged[1]  # with a reference
    check_size(needed, WORKING, f"a map of {size[1]} x {size[0]} pixels", "cut the image into parts")


def window_work(network: Network, transform: Transform, height: int, width: int) -> int:
    """Pixels that `window_features` takes, those in several blocks as often."""
    side = window_side(network, transform, height, width)
    step = side // 2
    rows, columns = (-(-n // step) + 1 for n in (height, width))
    if not _pools(network):
        return rows * columns * max(transform.crop, side) ** 2  # cut from the image, then resized
    across = _across(step)
    return (rows * step + -(-rows // across) * (step + 2 * MARGIN)) * (
        columns * step + -(-columns // across) * (step + 2 * MARGIN)
    )


def _across(step: int) -> int:
    """How many windows a block has along each side, for networks that pool."""
    return max(1, int(BLOCK**0.5) // step - 1)


def _pools(network: Network) -> bool:
    """Whether the texture of windows is a part of the features: then those of any window can be taken by themselves."""
    return isinstance(network.backbone, Stages) and bool(network.backbone.transform.tiles)


def window_features(
    network: Network, picture: Tensor, whole: Tensor, side: int, transform: Transform, batch: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Features of windows that overlap by half, from half a window outside of the picture on, in blocks.

    Args:
        network: to compute them.
        picture: (1, 3, H, W).
        whole: (1, D), the features of the picture as it is scored; what they say of the whole is kept.
        side: of the windows, in pixels; even.
        transform: of the network.
        batch: windows in a forward pass, for networks that see each by itself.

    Yields:
        Row and column of the block's first window, and (rows, columns, D') features.
    """
    step = side // 2
    count = [-(-n // step) + 1 for n in picture.shape[-2:]]
    across = _across(step) if _pools(network) else max(1, int(batch**0.5))
    parameter = next(network.parameters())
    for row in range(0, count[0], across):
        for column in range(0, count[1], across):
            rows, columns = min(across, count[0] - row), min(across, count[1] - column)
            margin = MARGIN if _pools(network) else 0
            pixels = part(
                picture,
                (row - 1) * step - margin,
                (column - 1) * step - margin,
                (rows + 1) * step + 2 * margin,
                (columns + 1) * step + 2 * margin,
            ).to(parameter.device)
            if _pools(network):
                found = _pooled(network.backbone, pixels, whole, side, transform)
            else:
                found = network.features(preprocess(_cut(pixels, side, step), transform).to(parameter))
            yield row, column, found.view(rows, columns, -1)


def window_textures(
    network: Network, picture: Tensor, whole: Tensor, side: int, transform: Transform
) -> Tensor:
    """What `window_features` says of each window and not of the whole picture: (rows, columns, D), on the CPU.

    Only for networks with tiles.
    """
    skip = kept(network.backbone)
    found = torch.empty(
        *(-(-n // (side // 2)) + 1 for n in picture.shape[-2:]), sum(network.backbone.parts[1:]),
        dtype=torch.float32, device="cpu",
    )  # fmt: skip
    for row, column, block in window_features(network, picture, whole, side, transform, 1):
        found[row : row + block.shape[0], column : column + block.shape[1]] = block[..., skip:].float().cpu()
    return found


def kept(backbone: Any) -> int:
    """How many of a window's features are those of the whole picture, with tiles."""
    return int(backbone.parts[0] * backbone.cells**2)


def _cut(pixels: Tensor, side: int, step: int) -> Tensor:
    """(1, 3, H, W) to (windows, 3, side, side)."""
    windows = pixels.unfold(2, side, step).unfold(3, side, step)
    return windows[0].permute(1, 2, 0, 3, 4).flatten(0, 1)


def _pooled(backbone: Any, pixels: Tensor, whole: Tensor, side: int, transform: Transform) -> Tensor:
    """The picture's own features, those of its tiles replaced by those of one window: (windows, D')."""
    step, inner = side // 2, pixels[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    maps = backbone.maps_of_tiles(normalise(pixels, transform).to(whole))
    means, deviations = [], []
    for one in maps:
        stride = round(pixels.shape[-1] / one.shape[-1])
        edge, y = MARGIN // stride, one.float()
        y = y[..., edge : edge + inner.shape[-2] // stride, edge : edge + inner.shape[-1] // stride]
        mean = F.avg_pool2d(y, side // stride, step // stride)
        square = F.avg_pool2d(y.square(), side // stride, step // stride)
        means.append(mean)
        deviations.append((square - mean.square()).clamp(min=1e-6).sqrt())
    found = torch.cat([*means, *deviations], 1)[0].flatten(1).T
    around = MARGIN - BEYOND
    statistics = window_statistics(pixels[..., around:-around, around:-around].float(), side)[0].flatten(0, 1)
    content = whole[:, : kept(backbone)]
    return torch.cat([content.expand(len(found), -1), found.to(whole), statistics.to(whole)], 1)


def whole_features(network: Network, features: Tensor) -> Tensor:
    """A picture's features in the form of a window's, for a reference that is not laid over the windows."""
    if not _pools(network):
        return features
    split = kept(network.backbone)
    tiles = features[:, split:].unflatten(1, (-1, sum(network.backbone.parts[1:]))).mean(1)
    return torch.cat([features[:, :split], tiles], 1)


def occlusion(score: Score, image: Tensor, batch: int) -> tuple[Tensor, int]:
    """How much the score rises when a square is replaced by what surrounds it, on average over the squares on a place.

    Args:
        score: the metric.
        image: (1, 3, H, W), uint8.
        batch: pictures in a forward pass.

    Returns:
        (rows, columns), and how many pixels wide a cell is.

    Source:
        Zeiler, Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014; filled from the borders
        here, because grey squares are damage themselves.
    """
    height, width = image.shape[-2:]
    half = -(-min(height, width) // (2 * PATCHES))
    while (-(-height // half) + 1) * (-(-width // half) + 1) > SQUARES:
        half += 1
    rows, columns = -(-height // half), -(-width // half)
    corners = [(i * half, j * half) for i in range(-1, rows) for j in range(-1, columns)]
    before, gains = score(image), []
    for start in range(0, len(corners), batch):
        filled = [_filled(image, *corner, 2 * half) for corner in corners[start : start + batch]]
        gains.append(score(torch.cat(filled)) - before)
    return F.avg_pool2d(torch.cat(gains).view(1, rows + 1, columns + 1), 2, 1)[0], half


def _filled(image: Tensor, top: int, left: int, side: int) -> Tensor:
    """`image` with a square, which may stick out, filled from its borders inwards."""
    height, width = image.shape[-2:]
    bottom, right = min(top + side, height), min(left + side, width)
    top, left = max(top, 0), max(left, 0)
    down = torch.arange(1, bottom - top + 1, device=image.device)[:, None]
    along = torch.arange(1, right - left + 1, device=image.device)[None]
    borders = []
    if top > 0:
        borders.append((image[..., top - 1 : top, left:right], down))
    if bottom < height:
        borders.append((image[..., bottom : bottom + 1, left:right], down.flip(0)))
    if left > 0:
        borders.append((image[..., top:bottom, left - 1 : left], along))
    if right < width:
        borders.append((image[..., top:bottom, right : right + 1], along.flip(1)))
    filled = image.clone()
    if borders:
        total = weight = torch.zeros((), dtype=torch.float32, device=image.device)
        for line, distance in borders:
            total = total + line.float() / distance
            weight = weight + 1 / distance.float()
        filled[..., top:bottom, left:right] = (total / weight).round().to(torch.uint8)
    return filled


def gradient(score: Score, image: Tensor, cell: int) -> Tensor:
    """What of the score each place takes away, beside a picture without detail: integrated gradients, negated.

    Their sum is the score of the smooth picture less that of `image`, but for the steps of the integral.

    Args:
        score: the metric, with gradients.
        image: (1, 3, H, W), uint8.
        cell: in how many pixels, along each side, attributions are added up.

    Returns:
        (rows, columns) of cells.

    Source:
        Sundararajan, Taly, Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017, from a blurred picture.
    """
    sharp = image.float() / 255
    smooth = blurred(sharp)
    total = torch.zeros_like(sharp)
    with torch.enable_grad():
        for i in range(STEPS):
            at = (smooth + (sharp - smooth) * ((i + 0.5) / STEPS)).requires_grad_()
            total += torch.autograd.grad(score(at).sum(), at)[0]
    lost = (total / STEPS * (smooth - sharp)).sum(1, keepdim=True)
    height, width = lost.shape[-2:]
    lost = F.pad(lost, (0, -width % cell, 0, -height % cell))
    return F.avg_pool2d(lost, cell)[0, 0] * cell**2


def blurred(image: Tensor) -> Tensor:
    """(1, 3, H, W) at about a sixteenth of its resolution."""
    height, width = image.shape[-2:]
    small = resize(image, max(1, height // 16), max(1, width // 16))
    return F.interpolate(small, (height, width), mode="bilinear").clamp(0, 1)
