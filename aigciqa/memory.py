"""How much memory a network will take, found on the meta device, where nothing is allocated.

A checkpoint of a megabyte can name an architecture and a crop for which timm computes tables of many gigabytes, or
whose feature maps take as much. Neither shows in the size of its weights.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import limits
from .config import MetricConfig
from .errors import CheckpointError
from .limits import GIB, MIB

if TYPE_CHECKING:
    from .model import Network

SIDE, PIXELS = 512, 1 << 19  # of a crop, and of all views: with fewer every architecture keeps within 4 GiB
STEPS = 15_000  # of a network that are looked at; the longest usual ones have 7,000
REAL = 256 * MIB  # that an architecture may allocate in spite of the meta device


def working_memory(network: "Network", config: MetricConfig) -> int:
    """How many bytes a network needs to score one image, beside its weights.

    Args:
        network: on the meta device.
        config: what it was built from.

    Returns:
        The estimate; 0 where the crop is so small that it is within the limit in any case.

    Raises:
        CheckpointError: when building the network or scoring one image needs more than `aigciqa.limits.WORK`.

    Examples:
        >>> from aigciqa import MetricConfig, Transform
        >>> from aigciqa.model import blank_network
        >>> config = MetricConfig("x", "none", "resnet18", transform=Transform(resize=1024, crop=1024))
        >>> 50 < working_memory(blank_network(config), config) / 2**20 < 500
        True
    """
    transform = config.transform
    is_small = transform.crop <= SIDE and transform.views * transform.crop**2 <= PIXELS
    if is_small and limits.WORK >= 4 * GIB:
        return 0
    state = network.state_dict()
    if any(name not in state for name, _ in network.named_buffers()):
        taken = _peak(lambda: type(network)(config), config)
        _check(taken - sum(map(_bytes, state.values())), "to build its network", config)
    shape = (transform.views, 3, transform.crop, transform.crop)
    images = torch.empty(shape if transform.tiles else shape[1:], device="meta")[None]
    was_training = network.training
    network.eval()
    known = chain(network.parameters(), network.buffers())
    taken = _peak(lambda: network.features(images), config, known)
    network.train(was_training)
    _check(taken, "to score one image", config)
    return taken


def _check(size: int, purpose: str, config: MetricConfig) -> None:
    if size > limits.WORK:
        raise CheckpointError(
            f"{config.name} ({config.backbone}, {_views(config)}) needs about {size / MIB:,.0f} MiB of memory "
            f"{purpose}, more than the limit of {limits.WORK / MIB:,.0f} MiB; {_REMEDY}"
        )


_REMEDY = "if you trust the checkpoint, set aigciqa.limits.WORK to the bytes that it may take"


def _views(config: MetricConfig) -> str:
    views, crop = config.transform.views, config.transform.crop
    return f"{views} view{'s' * (views > 1)} of {crop} x {crop} pixels"


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _peak(run: Callable[[], Any], config: MetricConfig, known: Iterable[Tensor] = ()) -> int:
    """Bytes of tensors that are alive at once while `run` computes on the meta device, without those of `known`."""
    live = _Live(known)
    try:
        with torch.no_grad(), torch.device("meta"), live:
            run()
    except Exception as error:  # architectures raise nearly anything for a size that they do not take
        if math.isinf(limits.WORK):
            return 0
        raise CheckpointError(
            f"{config.name}: it cannot be told how much memory {config.backbone} needs for {_views(config)} "
            f"({type(error).__name__}: {str(error)[:200]}); {_REMEDY.replace('the bytes that it may take', 'math.inf')}"
        ) from None
    return live.peak


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.references: dict[int, Any] = {}
        self.now = self.peak = self.steps = self.real = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.steps += 1
        if self.steps > STEPS:
            raise RuntimeError(f"it has more than {STEPS:,} steps")
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = size = storage.nbytes()
        self.references[key] = weakref.ref(storage, lambda _: self.remove(key))
        self.now += size
        self.peak = max(self.peak, self.now)
        if not tensor.is_meta:
            self.real += size
            if self.real > REAL:
                raise RuntimeError(f"it allocates {self.real / MIB:,.0f} MiB at once")

    def remove(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
        del self.references[key]
