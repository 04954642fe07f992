"""EfficientNet-Lite0, the backbone of the packaged checkpoints, here so that scoring need not import timm.

timm takes as long to import as torch does, most of it for torchvision's operators, which bring torch's compiler.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        self.bn1 = Activated(STEM)
        stages, channels = [], STEM
        for count, kernel, stride, expansion, out in STAGES:
            blocks = []
            for number in range(count):
                blocks.append(Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head: nn.Module = Convolution(channels, HEAD, 1)
        self.bn2: nn.Module = Activated(HEAD)

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
            self.bn1 = Activated(wide)
            self.conv_dw = Convolution(wide, wide, kernel, stride, groups=wide)
            self.bn2: nn.Module = Activated(wide)
            self.conv_pwl = Convolution(wide, out, 1)
            self.bn3 = nn.BatchNorm2d(out, EPSILON)
        else:  # the names count what there is
            self.conv_dw = Convolution(wide, wide, kernel, stride, groups=wide)
            self.bn1 = Activated(wide)
            self.conv_pw = Convolution(wide, out, 1)
            self.bn2 = nn.BatchNorm2d(out, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if not self.widens:
            made = self.bn1(self.conv_dw(x))
            made = self.bn2(self.conv_pw(made))
        else:
            made = self.bn1(self.conv_pw(x))
            made = self.bn2(self.conv_dw(made))
            made = self.bn3(self.conv_pwl(made))
        return made + x if self.adds else made


class Convolution(nn.Conv2d):
    """Padded as TensorFlow's ``SAME``: with a stride of 2, more at the right and at the bottom where a side is even."""

    by_onednn = False  # as `aigciqa.folding` lets it be computed, with an activation

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)

    def reset_parameters(self) -> None:
        """As TensorFlow's: normal, of a deviation by how many outputs an input goes to."""
        count = self.kernel_size[0] ** 2 * self.out_channels // self.groups
        if not self.weight.is_meta:  # for which torch would bring its compiler
            nn.init.normal_(self.weight, 0, math.sqrt(2 / count))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        even = [1 - size % 2 for size in (x.shape[-1], x.shape[-2])]
        if torch.compiler.is_compiling() and not self.by_onednn:
            # the picture is padded, since ONNX's exporter loses kernels that are
            side = self.kernel_size[0] // 2
            x = F.pad(x, (side - even[0], side, side - even[1], side))
            return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        # the same padding on all sides, and a kernel of which the first row or column is 0: no map has to be copied
        return self._conv_forward(x, F.pad(self.weight, (even[0], 0, even[1], 0)), self.bias)


class Activated(nn.BatchNorm2d):
    """Batch normalisation and what follows it, by the names that timm gives them in its ``BatchNormAct2d``."""

    def __init__(self, channels: int):
        super().__init__(channels, EPSILON)
        self.drop, self.act = nn.Identity(), nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(super().forward(x)))
