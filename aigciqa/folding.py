"""Networks made faster: batch normalisation and, on CPUs, activation within convolutions; weights in oneDNN's order."""

import copy
import sys
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .layers import Convolution, Norm

CLOSE = 1e-5  # of the largest feature: how much folding may change any
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a float
SHAPES = 6  # of its input, for which a convolution keeps weights in oneDNN's order
BY_ONEDNN: dict[type, tuple[str, list[float]]] = {  # what it computes as it writes a convolution's output
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}


def _kinds() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Convolutions and batch normalisations that are what they seem."""
    if "timm" not in sys.modules:  # then no network has its kinds
        return (nn.Conv2d, Convolution), (nn.BatchNorm2d, Norm)
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.norm_act import BatchNormAct2d

    return (nn.Conv2d, Convolution, Conv2dSame), (nn.BatchNorm2d, Norm, BatchNormAct2d)


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
    if any(map(_hooked, modules)) or not any(type(m) in norms for m in modules):
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
    convolution_of = {norm: convolution for convolution, norm in pairs}
    for parent in list(made.modules()):
        for name, child in parent.named_children():
            if child in convolution_of:
                setattr(parent, name, _rest(convolution_of[child], child, images))
    try:
        found = made.features(images)
    except AttributeError:  # it looks into its batch normalisation
        return network
    return made if (found - expected).abs().max() <= CLOSE * expected.abs().max() else network


def fingerprint(network: Any) -> list[Any]:
    """What `folded` depends on: two of a network are equal as long as nothing that it computes with has changed.

    Args:
        network: its tensors may have been changed in any way, also through ``data``, which PyTorch does not count.
    """
    tensors = [*network.parameters(), *network.buffers()]
    with torch.no_grad():
        sums = [t.view(BITS[t.element_size()]).sum() if t.is_floating_point() else t.sum() for t in tensors]
    counts = [None if t.is_inference() else t._version for t in tensors]
    kinds = [(t.dtype, t.device, t.shape) for t in tensors]
    return [[(m, m.training, _hooked(m)) for m in network.modules()], kinds, counts, [x.item() for x in sums]]


def _hooked(module: Any) -> bool:
    """Whether somebody looks at what a module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _rest(convolution: Any, norm: Any, images: Tensor) -> nn.Module:
    """What is left of a norm that was folded: its activation, where it has one that the convolution cannot do."""
    rest = [x for x in (getattr(norm, "drop", None), getattr(norm, "act", None)) if x is not None]
    rest = [x for x in rest if type(x) is not nn.Identity]
    if not rest:
        _by_onednn(convolution, nn.Identity(), images)
        return nn.Identity()
    if len(rest) == 1 and rest[0] is norm.act and _by_onednn(convolution, norm.act, images):
        return nn.Identity()
    return nn.Sequential(*rest)


def _by_onednn(convolution: Any, activation: Any, images: Tensor) -> bool:
    """Let oneDNN compute a convolution on the CPU, and an activation of it; whether it can.

    torch takes slower ways for some shapes, and writes and reads each map once more for the activation.
    """
    if (
        type(activation) not in BY_ONEDNN
        or type(convolution) not in (nn.Conv2d, Convolution)  # timm's pads and computes in one
        or isinstance(convolution.padding, str)
        or convolution.padding_mode != "zeros"
        or images.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
        or not hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    ):
        return False
    how = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
    name, limits = BY_ONEDNN[type(activation)]
    seen: dict[torch.Size, Tensor | None] = {}

    def ordered(weight: Tensor, shape: torch.Size) -> Tensor:
        """The weights as oneDNN wants them for inputs of a shape, which it else finds again every time."""
        found = seen.get(shape)
        if found is None and shape in seen:  # for the second time
            found = seen[shape] = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, shape)
        elif found is None and len(seen) < SHAPES:
            seen[shape] = None
        return weight if found is None else found

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # torch's compiler does this itself
        if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
            return cast(Tensor, activation(F.conv2d(x, weight, bias, how[1], how[0], how[2], how[3])))
        weight = ordered(weight, x.shape)
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how, name, limits, ""))

    convolution._conv_forward = forward
    convolution.by_onednn = True
    return True


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
        elif type(module) in norms and module.running_mean is not None:
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
