"""What goes beyond the papers: every stage of the backbone, crops at native resolution, natural scene statistics."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ambient import without_autocast
from .config import MetricConfig
from .errors import CheckpointError
from .layers import EdgeConvolution, Linear

Pool: TypeAlias = Callable[[Tensor], Tensor]  # (N, C, H, W) to means of places

STATISTICS = 17  # per channel and scale
WINDOW = 7  # pixels, of the local mean and deviation
BEYOND = 8  # pixels around windows, of which local means at their edges are made
FLAT = 1e-2  # of a local variance, in squared steps of 255: less than that is rounding
LUMA_CHROMA = (  # ITU-R BT.601
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)


class Stages(nn.Module):
    """Mean and standard deviation of a network's feature maps, of whole pictures and of their tiles.

    Without tiles it is those of every stage, and of what follows the last. With tiles the whole picture gives only
    the last stage and what follows, which is about content; the tiles give the stages before, which are about
    texture, and `scene_statistics`.

    Args:
        net: timm architecture without its classifier.
        config: says how many tiles and cells, and whether tiles have a network of their own, which begins as the
            stages of `net`.

    Raises:
        CheckpointError: for an architecture that does not give its stages.
    """

    def __init__(self, net: Any, config: MetricConfig):
        super().__init__()
        self.net, self.cells, self.transform = net, config.cells, config.transform
        if not hasattr(net, "forward_intermediates"):
            raise CheckpointError(f"timm does not give the stages of {config.backbone}")
        channels = [int(stage["num_chs"]) for stage in net.feature_info]
        self.early = list(range(len(channels) - 1))
        self.tile_net: Any = copy.deepcopy(net) if config.tile_backbone else None
        if self.tile_net is not None:
            self.tile_net.prune_intermediate_layers(self.early)
        self.has_more = net.num_features != channels[-1]
        late = [channels[-1], int(net.num_features)][: 1 + self.has_more]
        self.parts: tuple[int, ...] = (2 * sum(channels[:-1] + late),)
        if config.transform.tiles:
            self.parts = (2 * sum(late), 2 * sum(channels[:-1]), 3 * 2 * STATISTICS)
        whole, *of_tiles = self.parts
        self.width = self.cells**2 * (whole + config.transform.tiles**2 * sum(of_tiles))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, crop, crop), or with tiles (N, views, 3, crop, crop), to (N, D)."""
        if not self.transform.tiles:
            return self._pooled(self._maps(_channels_last(images)), images).flatten(1)
        whole = self.of_whole(images[:, 0])
        tiles = _channels_last(images[:, 1:].flatten(0, 1))
        maps = self.of_tiles(tiles)
        std, mean = (
            torch.tensor(v, dtype=torch.float32, device=tiles.device).view(3, 1, 1)
            for v in (self.transform.std, self.transform.mean)
        )
        # on a CPU one after another, whose maps stay in a core's cache; a graph for export is smaller in one
        one_by_one = tiles.device.type == "cpu" and not torch.compiler.is_compiling()
        statistics = torch.cat([
            scene_statistics((some.float() * std + mean) * 255, self.cells).to(tiles)
            for some in (tiles.split(1) if one_by_one else [tiles])
        ])  # fmt: skip
        found = torch.cat([maps, statistics], 2)
        return torch.cat([whole, found.view(images.shape[0], -1)], 1)

    def of_whole(self, images: Tensor) -> Tensor:
        """(N, 3, crop, crop) whole pictures to (N, D), what `forward` with tiles begins with."""
        return self._pooled(self._maps(_channels_last(images))[len(self.early) :], images).flatten(1)

    def of_tiles(self, tiles: Tensor) -> Tensor:
        """(N, 3, H, W) tiles to (N, cells * cells, D) of their stages, without scene statistics."""
        return self._pooled(self.maps_of_tiles(tiles), tiles)

    def maps_of_tiles(self, tiles: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to a map of each stage before the last."""
        net = self.net if self.tile_net is None else self.tile_net
        found: list[Tensor] = net.forward_intermediates(
            _channels_last(tiles), indices=self.early, stop_early=True, intermediates_only=True
        )
        return found

    def _maps(self, images: Tensor) -> list[Tensor]:
        last, maps = self.net.forward_intermediates(images)
        return [*maps, last] if self.has_more else maps

    def _pooled(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """(N, cells * cells, width), of the type of the images: autocast's maps have less digits."""
        pairs = [_moments(x, partial(F.adaptive_avg_pool2d, output_size=self.cells)) for x in maps]
        means, deviations = zip(*pairs, strict=True)
        return torch.cat([*means, *deviations], 1).to(images.dtype).flatten(2).transpose(1, 2)

    def summary(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, sum(parts)): the mean over cells and tiles."""
        cells, split = self.cells**2, self.parts[0] * self.cells**2
        whole = features[:, :split].unflatten(1, (cells, -1)).mean(1)
        if len(self.parts) == 1:
            return whole
        return torch.cat([whole, features[:, split:].unflatten(1, (-1, sum(self.parts[1:]))).mean(1)], 1)


class MapHead(nn.Module):
    """How many points damage costs each window of a picture, from its texture and that of the windows around.

    Args:
        width: features of a window.
        hidden: channels within.
        outputs: dimensions.
    """

    def __init__(self, width: int, hidden: int, outputs: int):
        super().__init__()
        self.fc = Linear(width, hidden)
        self.context = Linear(2 * hidden, hidden)
        self.conv1 = EdgeConvolution(hidden, hidden, 3)
        self.conv2 = EdgeConvolution(hidden, hidden, 3)
        self.out = EdgeConvolution(hidden, outputs, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """(N, rows, columns, D) to (N, dimensions, rows, columns)."""
        x = self.fc(windows).relu()
        rest = torch.cat([x.mean((1, 2)), x.std((1, 2), correction=0)], 1)
        x = self.conv1(x.permute(0, 3, 1, 2)) + self.context(rest)[:, :, None, None]
        return self.out(self.conv2(x.relu()).relu())


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _moments(x: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in each cell, float32."""
    y = x.float()  # squares overflow half precision
    mean = pool(y)
    deviation = (pool(y.square()) - mean.square()).clamp(min=1e-6).sqrt()
    return mean, deviation


def scene_statistics(pixels: Tensor, cells: int = 1) -> Tensor:
    """Statistics of luma and chroma, locally normalised, at two scales; natural pictures keep them, damage moves them.

    Args:
        pixels: (N, 3, H, W), RGB in [0, 255], at native resolution; H and W at least 32.
        cells: pooled in so many parts per side.

    Returns:
        (N, cells * cells, 102).

    Source:
        After the features of BRISQUE, Mittal et al., *No-Reference Image Quality Assessment in the Spatial Domain*,
        IEEE TIP 2012; moments here instead of fitted distributions, and chroma too.

    Examples:
        >>> scene_statistics(torch.rand(2, 3, 64, 64) * 255).shape
        torch.Size([2, 1, 102])
    """
    found = _described(pixels, lambda x, scale: _cells(x, cells))
    return found.flatten(2).transpose(1, 2)


def window_statistics(pixels: Tensor, side: int) -> Tensor:
    """`scene_statistics` of windows that overlap by half, all at once.

    Args:
        pixels: (N, 3, H + 16, W + 16), RGB in [0, 255]; H and W are multiples of half a side, and at least a side.
            The windows lie in the middle; what is `BEYOND` is seen by their outermost pixels.
        side: of the windows in pixels, a multiple of 4.

    Returns:
        (N, rows, columns, 102).
    """
    height, width = (n - 2 * BEYOND for n in pixels.shape[-2:])

    def pool(x: Tensor, scale: int) -> Tensor:
        start, half = BEYOND >> scale, side // 2 >> scale
        x = x[..., start : start + (height >> scale), start : start + (width >> scale)]
        return F.avg_pool2d(F.avg_pool2d(x, half), 2, 1)

    return _described(pixels, pool).permute(0, 2, 3, 1)


def _described(pixels: Tensor, pool: Callable[..., Tensor]) -> Tensor:
    """(N, 102, ...) of what `pool` makes of maps at either scale."""
    with without_autocast(
        pixels.device
    ):  # in half precision, squares of 255 steps lose all digits, or overflow
        return torch.cat(_statistics_at_scales(pixels.float(), pool), 1)


def _statistics_at_scales(pixels: Tensor, pool: Callable[..., Tensor]) -> list[Tensor]:
    matrix = torch.tensor(LUMA_CHROMA, dtype=torch.float32, device=pixels.device)
    x = torch.einsum("kc,nchw->nkhw", matrix, pixels)
    found = []
    for scale in range(2):
        mean = _local_mean(x)
        deviation = (_local_mean(x.square()) - mean.square()).clamp(min=FLAT).sqrt()
        found += _statistics((x - mean) / (deviation + 1), deviation, partial(pool, scale=scale))
        x = F.avg_pool2d(x, 2)
    return found


def _local_mean(x: Tensor) -> Tensor:
    """Of `WINDOW` by `WINDOW` pixels, fewer at the edges; by adding shifted copies, faster than pooling."""
    half = WINDOW // 2
    for dim in (-1, -2):
        n = x.shape[dim]
        padded = F.pad(x, (half, half) if dim == -1 else (0, 0, half, half))
        pairs = padded.narrow(dim, 0, n + WINDOW - 2) + padded.narrow(dim, 1, n + WINDOW - 2)
        total = pairs.narrow(dim, 0, n) + pairs.narrow(dim, 2, n) + pairs.narrow(dim, 4, n)
        total += padded.narrow(dim, WINDOW - 1, n)
        place = torch.arange(n, device=x.device)
        count = (place + half).clamp(max=n - 1) - (place - half).clamp(min=0) + 1
        x = total / (count if dim == -1 else count[:, None])
    return x


def _cells(x: Tensor, count: int) -> Tensor:
    """`adaptive_avg_pool2d`, faster for large planes one after another."""
    for dim in (-1, -2):
        n = x.shape[dim]
        starts, ends = (
            [n * i // count for i in range(count)],
            [-(-n * i // count) for i in range(1, count + 1)],
        )
        means = [x.narrow(dim, start, end - start).mean(dim) for start, end in zip(starts, ends, strict=True)]
        x = torch.stack(means, dim)
    return x


def _statistics(normal: Tensor, deviation: Tensor, mean: Pool) -> list[Tensor]:
    """`STATISTICS` of each channel, of the normalised picture and of its local deviation."""
    square = normal.square()
    level, spread = _moments((deviation + 1).log(), mean)
    found = [
        mean(normal.abs()),
        mean(square).add(1e-6).sqrt(),
        mean(square * normal),
        mean(square.square()).add(1e-3).log(),
        level,
        spread,
        mean(deviation).log1p(),
        mean(deviation.square()).add(1e-6).sqrt().log1p(),
        mean((1 + deviation).reciprocal()),
    ]
    for product in (  # with the neighbour to the right, below, and on the two diagonals
        normal[..., 1:] * normal[..., :-1],
        normal[..., 1:, :] * normal[..., :-1, :],
        normal[..., 1:, 1:] * normal[..., :-1, :-1],
        normal[..., 1:, :-1] * normal[..., :-1, 1:],
    ):
        found += [mean(product), mean(product.abs())]
    return found
