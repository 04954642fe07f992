"""Batch normalisation folded into the convolutions before it: each feature map is read and written once less."""

import copy
import sys
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .lite import Convolution

CLOSE = 1e-5  # of the largest feature: how much folding may change any


def _kinds() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Convolutions and batch normalisations that are what they seem."""
    if "timm" not in sys.modules:  # then no network has its kinds
        return (nn.Conv2d, Convolution), (nn.BatchNorm2d,)
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.norm_act import BatchNormAct2d

    return (nn.Conv2d, Convolution, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


@torch.no_grad()
def folded(network: Any, images: Tensor) -> Any:
    """A copy of a network in evaluation mode, with batch normalisation folded into the convolutions before it.

    Where the copy would not give the same features of `images`, where these do not go through, or where somebody's
    hooks look at what is between, it is the network itself. Weights that need no change are shared.

    Args:
        network: has ``features``, as `aigciqa.model.Network`; it is not changed.
        images: what its features are tried with.

    Examples:
        >>> from aigciqa.model import Network
        >>> from aigciqa.config import MetricConfig
        >>> config = MetricConfig(name="example", backbone="test_efficientnet", reference="none")
        >>> network = Network(config).eval()
        >>> made = folded(network, torch.rand(1, 3, 224, 224))
        >>> sum(isinstance(m, nn.BatchNorm2d) for m in made.modules())
        0
    """
    _, norms = _kinds()
    modules = list(network.modules())
    if any(m._forward_hooks or m._forward_pre_hooks for m in modules) or not any(
        type(m) in norms for m in modules
    ):
        return network
    shared = {id(t): t for t in chain(network.parameters(), network.buffers())}
    made = copy.deepcopy(network, shared)
    try:
        expected, pairs = _pairs(made, images)
    except RuntimeError:  # an architecture that takes pictures of one size
        return network
    for convolution, norm in pairs:
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
    done = {norm for _, norm in pairs}
    for parent in list(made.modules()):
        for name, child in parent.named_children():
            if child in done:
                with_activation: Any = child  # timm's kind has one of its own
                after = (
                    nn.Sequential(with_activation.drop, with_activation.act)
                    if hasattr(child, "act")
                    else nn.Identity()
                )
                setattr(parent, name, after)
    try:
        found = made.features(images)
    except AttributeError:  # it looks into its batch normalisation
        return network
    return made if (found - expected).abs().max() <= CLOSE * expected.abs().max() else network


def _pairs(network: Any, images: Tensor) -> tuple[Tensor, list[tuple[Any, Any]]]:
    """Features of the images; and each convolution of which the output always goes to one and the same norm."""
    last: tuple[Any, Any] = (None, None)
    feeds: dict[Any, set[Any]] = {}
    hooks = []
    convolutions, norms = _kinds()

    def convolved(module: Any, inputs: Any, output: Any) -> None:
        nonlocal last
        last = module, output

    def norming(module: Any, inputs: Any) -> None:
        feeds.setdefault(module, set()).add(last[0] if inputs[0] is last[1] else None)

    for module in network.modules():
        if type(module) in convolutions:
            hooks.append(module.register_forward_hook(convolved))
        elif type(module) in norms:
            hooks.append(module.register_forward_pre_hook(norming))
    try:
        features = network.features(images)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = [(next(iter(found)), norm) for norm, found in feeds.items() if len(found) == 1]
    pairs = [(convolution, norm) for convolution, norm in pairs if convolution is not None]
    once = [convolution for convolution, _ in pairs]
    return features, [pair for pair in pairs if once.count(pair[0]) == 1]
