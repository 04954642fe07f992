"""EfficientNet-Lite0, the backbone of the packaged checkpoints, here so that scoring need not import timm.

timm takes as long to import as torch does, most of it for torchvision's operators, which bring torch's compiler.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .layers import Convolution, Norm

NAME = "tf_efficientnet_lite0"  # as timm calls it
STEM, HEAD = 32, 1280  # channels
EPSILON = 1e-3  # of batch normalisation
STAGES = (  # blocks, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
ENDS = (0, 1, 2, 4, 6)  # of STAGES, those before the size halves, and the last


class EfficientNetLite0(nn.Module):
    """The tensors, names and numbers of timm's ``tf_efficientnet_lite0`` without its classifier.

    It has those of timm's attributes that this project asks for. Weights are random until loaded.

    Source:
        Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019
        (arXiv 1905.11946); the Lite variants, without squeeze-and-excitation and with ReLU6, are Google's of 2020.

    Examples:
        >>> import torch
        >>> network = EfficientNetLite0().eval()
        >>> [tuple(x.shape[1:]) for x in network.forward_intermediates(torch.rand(1, 3, 64, 64))[1]]
        [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    num_features = HEAD
    feature_info = tuple({"num_chs": STAGES[end][-1]} for end in ENDS)

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Convolution(3, STEM, 3, stride=2)
        self.bn1 = _activated(STEM)
        stages, channels = [], STEM
        for count, kernel, stride, expansion, out in STAGES:
            blocks = []
            for number in range(count):
                blocks.append(Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head: nn.Module = Convolution(channels, HEAD, 1)
        self.bn2: nn.Module = _activated(HEAD)

    def prune_intermediate_layers(self, indices: Sequence[int]) -> None:
        """Leave out what is behind the last of these stages."""
        del self.blocks[ENDS[max(indices)] + 1 :]
        self.conv_head, self.bn2 = nn.Identity(), nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1280, H / 32, W / 32), sizes rounded up."""
        return self.forward_intermediates(images)[0]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: Sequence[int] | None = None,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """The last map, and those of the five stages.

        Args:
            images: (N, 3, H, W).
            indices: which of the stages to give; None for all.
            stop_early: leave out what is behind the last of them; with `intermediates_only`.
            intermediates_only: give the stages alone.
        """
        ends = [ENDS[i] for i in (range(len(ENDS)) if indices is None else indices)]
        stages = list(self.blocks)[: ends[-1] + 1] if stop_early else self.blocks
        x = self.bn1(self.conv_stem(images))
        found = []
        for number, stage in enumerate(stages):
            x = stage(x)
            if number in ends:
                found.append(x)
        if intermediates_only:
            return found
        return self.bn2(self.conv_head(x)), found


class Block(nn.Module):
    """Widened, filtered channel by channel, narrowed, and added to what came in where that has the same shape."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and channels == out
        if self.widens:
            self.conv_pw = Convolution(channels, wide, 1)
            self.bn1 = _activated(wide)
            self.conv_dw = Convolution(wide, wide, kernel, stride, groups=wide)
            self.bn2: nn.Module = _activated(wide)
            self.conv_pwl = Convolution(wide, out, 1)
            self.bn3 = Norm(out, EPSILON)
        else:  # the names count what there is
            self.conv_dw = Convolution(wide, wide, kernel, stride, groups=wide)
            self.bn1 = _activated(wide)
            self.conv_pw = Convolution(wide, out, 1)
            self.bn2 = Norm(out, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if not self.widens:
            made = self.bn1(self.conv_dw(x))
            made = self.bn2(self.conv_pw(made))
        else:
            made = self.bn1(self.conv_pw(x))
            made = self.bn2(self.conv_dw(made))
            made = self.bn3(self.conv_pwl(made))
        return made + x if self.adds else made


def _activated(channels: int) -> Norm:
    return Norm(channels, EPSILON, nn.ReLU6(inplace=True))
