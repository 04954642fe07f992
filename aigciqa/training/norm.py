"""Batch normalisation over all processes, so that two processes learn what one would."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation take its statistics from the batches of all processes, in place.

    On CUDA torch's own is used, through timm; torch has none for CPUs.

    Args:
        network: any; names of parameters and buffers stay as they are.
        device: where it computes.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        for name, child in network.named_children():
            setattr(network, name, convert_sync_batchnorm(child))
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = type(f"Synchronised{type(module).__name__}", (_Synchronised, type(module)), {})


class _Synchronised(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = all_reduce(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        x = centred * scale[:, None, None]
        if self.affine:
            x = x + self.bias[:, None, None]
        after: Any = self  # timm's kind has an activation of its own
        return after.act(after.drop(x)) if hasattr(self, "act") else x
