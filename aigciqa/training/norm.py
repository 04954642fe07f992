"""Batch normalisation over all processes, so that two processes learn what one would."""

from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.nn.functional import all_reduce

from ..layers import Norm


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation take its statistics from the batches of all processes, in place.

    On CUDA torch's own is used for torch's and timm's layers, through timm; torch has none for CPUs.

    Args:
        network: any; names of parameters and buffers stay as they are.
        device: where it computes.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        for name, child in network.named_children():
            setattr(network, name, convert_sync_batchnorm(child))
    for module in network.modules():
        if isinstance(module, Norm) or (isinstance(module, nn.BatchNorm2d) and device.type != "cuda"):
            module.__class__ = type(f"Synchronised{type(module).__name__}", (_Synchronised, type(module)), {})


class _Synchronised(nn.Module):
    """Before `nn.BatchNorm2d`, timm's kind of it, or `Norm`."""

    def forward(self, x: Any) -> Any:
        own: Any = self
        if not self.training:
            return super().forward(x)
        kind, x = x.dtype, x.float()  # autocast's sums would have few digits
        count = all_reduce(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        if own.running_mean is not None and own.running_var is not None:
            own.num_batches_tracked += 1
            momentum = 1 / own.num_batches_tracked.item() if own.momentum is None else own.momentum
            own.running_mean.lerp_(mean.detach(), momentum)
            own.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        scale = (variance + own.eps).rsqrt()
        if own.weight is not None:
            scale = scale * own.weight
        x = centred * scale[:, None, None]
        if own.bias is not None:
            x = x + own.bias[:, None, None]
        for name in ("drop", "act"):  # which timm's kind has, and ours
            if (module := getattr(own, name, None)) is not None:
                x = module(x)
        return x.to(kind)
