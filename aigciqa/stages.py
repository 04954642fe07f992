"""What goes beyond the papers: every stage of the backbone, crops at native resolution, natural scene statistics."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MetricConfig
from .errors import CheckpointError

STATISTICS = 17  # per channel and scale
WINDOW = 7  # pixels, of the local mean and deviation
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
        config: says how many tiles and cells.

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
            return self._pooled(self._maps(_channels_last(images))).flatten(1)
        whole = self._maps(_channels_last(images[:, 0]))[len(self.early) :]
        tiles = _channels_last(images[:, 1:].flatten(0, 1))
        maps = self.net.forward_intermediates(
            tiles, indices=self.early, stop_early=True, intermediates_only=True
        )
        std, mean = (
            torch.tensor(v, device=tiles.device).view(3, 1, 1)
            for v in (self.transform.std, self.transform.mean)
        )
        statistics = scene_statistics((tiles.float() * std + mean) * 255, self.cells).to(tiles)
        found = torch.cat([self._pooled(maps), statistics], 2)
        return torch.cat([self._pooled(whole).flatten(1), found.view(images.shape[0], -1)], 1)

    def _maps(self, images: Tensor) -> list[Tensor]:
        last, maps = self.net.forward_intermediates(images)
        return [*maps, last] if self.has_more else maps

    def _pooled(self, maps: list[Tensor]) -> Tensor:
        """(N, cells * cells, width)."""
        pairs = [_moments(x, self.cells) for x in maps]
        means, deviations = zip(*pairs, strict=True)
        return torch.cat([*means, *deviations], 1).flatten(2).transpose(1, 2)

    def summary(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, sum(parts)): the mean over cells and tiles."""
        cells, split = self.cells**2, self.parts[0] * self.cells**2
        whole = features[:, :split].unflatten(1, (cells, -1)).mean(1)
        if len(self.parts) == 1:
            return whole
        return torch.cat([whole, features[:, split:].unflatten(1, (-1, sum(self.parts[1:]))).mean(1)], 1)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _moments(x: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in each cell."""
    y = x.float()  # squares overflow half precision
    mean = F.adaptive_avg_pool2d(y, cells)
    deviation = (F.adaptive_avg_pool2d(y.square(), cells) - mean.square()).clamp(min=1e-6).sqrt()
    return mean.to(x), deviation.to(x)


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
    x = torch.einsum("kc,nchw->nkhw", torch.tensor(LUMA_CHROMA, device=pixels.device), pixels)
    found = []
    for _ in range(2):
        mean = _local_mean(x)
        deviation = (_local_mean(x.square()) - mean.square()).clamp(min=1e-6).sqrt()
        found += _statistics((x - mean) / (deviation + 1), deviation, cells)
        x = F.avg_pool2d(x, 2)
    return torch.cat(found, 1).flatten(2).transpose(1, 2)


def _local_mean(x: Tensor) -> Tensor:
    half = WINDOW // 2
    rows = F.avg_pool2d(x, (1, WINDOW), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(rows, (WINDOW, 1), 1, (half, 0), count_include_pad=False)


def _statistics(normal: Tensor, deviation: Tensor, cells: int) -> list[Tensor]:
    """`STATISTICS` of each channel, of the normalised picture and of its local deviation."""

    def mean(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, cells)

    square = normal.square()
    level, spread = _moments((deviation + 1).log(), cells)
    found = [
        mean(normal.abs()),
        mean(square).add(1e-6).sqrt(),
        mean(square * normal),
        mean(square.square()).add(1e-3).log(),
        level,
        spread,
        mean(deviation).log1p(),
        mean(deviation.square()).add(1e-6).sqrt().log1p(),
        mean(1 / (1 + deviation)),
    ]
    for product in (  # with the neighbour to the right, below, and on the two diagonals
        normal[..., 1:] * normal[..., :-1],
        normal[..., 1:, :] * normal[..., :-1, :],
        normal[..., 1:, 1:] * normal[..., :-1, :-1],
        normal[..., 1:, :-1] * normal[..., :-1, 1:],
    ):
        found += [mean(product), mean(product.abs())]
    return found
