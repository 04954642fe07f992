"""The layers of our networks, which are no subclasses of torch's.

Other programs look for `nn.BatchNorm2d`, `nn.Conv2d` and `nn.Linear` in a model and replace what they find, or set its
weights anew: `SyncBatchNorm.convert_sync_batchnorm`, timm's `freeze_batch_norm_2d`, quantization, LoRA, `apply` with a
function that initialises. A model may hold a metric, and its scores must stay. So none of them finds our layers.
"""

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Norm(nn.Module):
    """Batch normalisation, and what follows it, by the names of timm's ``BatchNormAct2d``.

    Args:
        channels: of the input.
        epsilon: added to the variance.
        act: the activation that follows; None for none.

    Examples:
        >>> Norm(4, act=nn.ReLU6()).eval()(torch.full((1, 4, 2, 2), 9.0)).max().item()
        6.0
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, channels: int, epsilon: float = 1e-5, act: nn.Module | None = None):
        super().__init__()
        self.eps = epsilon
        self.momentum: float | None = 0.1
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        self.drop: nn.Module | None = None  # timm drops blocks here, in training
        self.act = act

    @classmethod
    def of(cls, norm: Any) -> "Norm":
        """A layer that computes what a batch normalisation of torch's or of timm's does, with the same tensors."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name, parameter in norm._parameters.items():
            made.register_parameter(name, parameter)
        for name, buffer in norm._buffers.items():
            made.register_buffer(name, buffer)
        made.eps, made.momentum = norm.eps, norm.momentum
        made.drop, made.act = getattr(norm, "drop", None), getattr(norm, "act", None)
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        batch = self.training or self.running_mean is None
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch, momentum, self.eps
        )
        return self.after(x)

    def after(self, x: Tensor) -> Tensor:
        """What follows the normalisation."""
        for module in (self.drop, self.act):
            if module is not None:
                x = module(x)
        return x


def without_torchs_norms(network: nn.Module) -> nn.Module:
    """Replace each batch normalisation of torch's and timm's by a `Norm`, in place.

    Args:
        network: any; names of parameters and buffers, and what it computes, stay as they are.

    Examples:
        >>> made = without_torchs_norms(nn.Sequential(nn.BatchNorm2d(3)))
        >>> isinstance(made[0], nn.BatchNorm2d), list(made.state_dict())[0]
        (False, '0.weight')
    """
    kinds: tuple[type, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if "timm" in sys.modules:  # else no network has its kinds
        from timm.layers.norm_act import BatchNormAct2d

        kinds += (BatchNormAct2d,)
    made: dict[_BatchNorm, Norm] = {}  # a layer in two places stays one
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if type(child) in kinds and isinstance(child, _BatchNorm):
                parent._modules[name] = made.setdefault(child, Norm.of(child))
    return network


class Convolution(nn.Module):
    """Padded as TensorFlow's ``SAME``: with a stride of 2, more at the right and at the bottom where a side is even.

    Args:
        channels: of the input.
        out: channels of the output.
        kernel: side, odd.
        stride: 1 or 2.
        groups: of channels, each convolved by itself.
    """

    by_onednn = False  # as `aigciqa.folding` lets it be computed, with an activation
    padding_mode = "zeros"
    bias: Tensor | None

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        side = kernel // 2
        self.kernel_size, self.stride, self.padding = (kernel, kernel), (stride, stride), (side, side)
        self.dilation, self.groups = (1, 1), groups
        self.weight = nn.Parameter(torch.empty(out, channels // groups, kernel, kernel))
        self.register_parameter("bias", None)
        if not self.weight.is_meta:  # for which torch would bring its compiler
            # as TensorFlow's: normal, of a deviation by how many outputs an input goes to
            nn.init.normal_(self.weight, 0, math.sqrt(2 / (kernel**2 * out // groups)))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return self._conv_forward(x, self.weight, self.bias)
        even = [1 - size % 2 for size in (x.shape[-1], x.shape[-2])]
        if torch.compiler.is_compiling() and not self.by_onednn:
            # the picture is padded, since ONNX's exporter loses kernels that are
            side = self.kernel_size[0] // 2
            x = F.pad(x, (side - even[0], side, side - even[1], side))
            return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        # the same padding on all sides, and a kernel of which the first row or column is 0: no map has to be copied
        return self._conv_forward(x, F.pad(self.weight, (even[0], 0, even[1], 0)), self.bias)


class _Biased(nn.Module):
    """Weights and a bias, random as those of torch's own layers at first."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0]))
        nn.init.kaiming_uniform_(self.weight, math.sqrt(5))
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        nn.init.uniform_(self.bias, -bound, bound)


class Linear(_Biased):
    """What `nn.Linear` is.

    Args:
        width: of the input.
        out: of the output.

    Examples:
        >>> Linear(3, 2)(torch.rand(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, width: int, out: int):
        super().__init__(out, width)
        self.in_features, self.out_features = width, out

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class EdgeConvolution(_Biased):
    """What `nn.Conv2d` is, of a map that goes on beyond its edges as it is there.

    Args:
        channels: of the input.
        out: channels of the output.
        kernel: side, odd.

    Examples:
        >>> EdgeConvolution(3, 2, 3)(torch.rand(1, 3, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(self, channels: int, out: int, kernel: int):
        super().__init__(out, channels, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        if side := self.weight.shape[-1] // 2:
            x = F.pad(x, (side,) * 4, "replicate")
        return F.conv2d(x, self.weight, self.bias)
