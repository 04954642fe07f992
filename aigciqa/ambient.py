"""What surrounds a metric, such as autocast, another default dtype or less precision, does not change its scores.

PyTorch keeps these states for a thread, or for the process. `neutral` is entered where a metric computes, `building`
where its tensors are made; both cost some microseconds where nothing is unusual.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")  # that autocast knows, and may be enabled for
FULL = ("ieee", "none")  # float32's own precision, by the names of torch's newer settings
Restore: TypeAlias = Callable[[], None]


@contextmanager
def neutral(device: torch.device) -> Iterator[bool]:
    """Compute as if nothing surrounded it.

    Autocast is off; tensors are made on the CPU where the code does not say where; float32 products and convolutions
    are of float32's precision.

    Args:
        device: where the network is.

    Yields:
        Whether gradients, too, need `apart`, since the surroundings would change them.

    Examples:
        >>> with torch.autocast("cpu", torch.bfloat16), neutral(torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    if torch.compiler.is_compiling():
        from torch._dynamo import graph_break  # it is there

        graph_break()  # what is below must happen at every call
    with ExitStack() as stack:
        casting = [kind for kind in DEVICES if torch.is_autocast_enabled(kind)]
        for kind in casting:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        lowered = stack.enter_context(_PRODUCTS)
        if device.type == "cuda":
            stack.enter_context(_CONVOLUTIONS)
        yield bool(casting) or lowered


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """For the parts of a network that have to be computed in float32 in training, too.

    Args:
        device: where they are computed.
    """
    if device.type in DEVICES and torch.is_autocast_enabled(device.type):  # not the meta device
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@contextmanager
def building() -> Iterator[None]:
    """`neutral` for making networks: float32 where the code does not say what, and tensors that can have gradients.

    The default dtype is the whole process's, so this is not for the forward pass.

    Examples:
        >>> with torch.inference_mode(), building():
        ...     torch.ones(1).is_inference()
        False
    """
    with neutral(torch.device("cpu")), torch.inference_mode(False), _DTYPE:
        yield


def apart(compute: Callable[..., Tensor], module: nn.Module, *tensors: Tensor) -> Tensor:
    """What `compute` makes of tensors, with gradients that are computed in a `neutral` place, too.

    `backward` runs in the state in which the user calls it. Called under autocast, it would multiply matrices in half
    precision, for which autograd is not made. The graph is kept inside of one function, so that there are no second
    derivatives.

    Args:
        compute: a method of `module`.
        module: whose parameters it uses.
        *tensors: its arguments.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    found: Tensor = _Apart.apply(compute, len(tensors), *tensors, *parameters)
    return found


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], count: int, *tensors: Tensor) -> Tensor:
        given = [t.detach().requires_grad_(t.requires_grad) for t in tensors[:count]]
        ctx.inputs = (*given, *tensors[count:])
        with torch.enable_grad():
            ctx.result = compute(*given)
        return ctx.result.detach()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> Any:
        wanted = [t for t in ctx.inputs if t.requires_grad]
        # whether the user retains the graph, which compiled functions must know; torch's own have to ask so, too
        retained = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)()
        with neutral(gradient.device):
            found = iter(
                torch.autograd.grad(ctx.result, wanted, gradient, retain_graph=retained, allow_unused=True)
            )
        return None, None, *(next(found) if t.requires_grad else None for t in ctx.inputs)


class _Raised:
    """A precision that is the whole process's, raised for as long as a thread is within.

    The first that enters raises it, the last that leaves restores it, unless somebody has set it meanwhile. Products of
    others are computed more precisely as long, which does them no harm.

    Args:
        raises: raises what is lower, and returns a function that restores it; None where nothing is.
    """

    def __init__(self, raises: "Callable[[], Restore | None]"):
        self.raises = raises
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.within = 0
        self.restores: list[Restore] = []

    def __enter__(self) -> bool:
        """Whether it was lower."""
        with self.lock:
            # again for those that come later, since it may have been lowered in between
            if restore := self.raises():
                self.restores.append(restore)
            self.within += 1
            return bool(self.restores)

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.within -= 1
            if not self.within:
                while self.restores:  # the last first
                    self.restores.pop()()

    def after_fork(self) -> None:
        """In the child, in which no other thread is within."""
        for restore in reversed(self.restores):
            restore()
        self.reset()


def _raise_products() -> Restore | None:
    """Of matrix products anywhere, and of oneDNN's convolutions, which bfloat16 or TF32 may compute.

    By "medium", products of float32 are computed in bfloat16 by processors that can. Folded networks, which score
    files, have other products than those that a call computes, so both would be rounded differently: by .02 of 5.
    """
    settings = [(setting, setting.fp32_precision) for setting in _PRODUCT_SETTINGS]
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer settings say something else
        precision = "highest"
    if precision == "highest" and all(value in FULL for _, value in settings):
        return None
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    for setting, _ in settings:
        if setting.fp32_precision not in FULL:
            setting.fp32_precision = "ieee"

    def restore() -> None:
        ours = precision != "highest" and torch.get_float32_matmul_precision() == "highest"
        if ours:
            torch.set_float32_matmul_precision(precision)
        for setting, value in settings:
            if ours or setting.fp32_precision == "ieee":
                _put(setting, value)

    return restore


def _raise_convolutions() -> Restore | None:
    """Of cuDNN's convolutions, for which TF32 is torch's default.

    TF32 has 10 bits, so it rounds by 5e-4 in every layer, and folded weights otherwise than those of a call. A GPU
    would differ from a CPU, and a batch of 1 from one of 32, for which cuDNN chooses other algorithms, by more than the
    1e-4 of the score range that we promise. Who wants speed more than these digits has `Metric.half`.
    """
    cudnn = torch.backends.cudnn
    settings = [(setting, setting.fp32_precision) for setting in _CONVOLUTION_SETTINGS]
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # the newer settings say something else
        allowed = False
    if not allowed and all(value in FULL for _, value in settings):
        return None
    if allowed:  # by this, since torch raises where it is read and does not agree with the newer settings
        cudnn.allow_tf32 = False
    for setting, _ in settings:
        if setting.fp32_precision not in FULL:
            setting.fp32_precision = "ieee"

    def restore() -> None:
        if allowed:
            cudnn.allow_tf32 = True
        for setting, value in settings:
            _put(setting, value)

    return restore


def _raise_dtype() -> Restore | None:
    """Which is float32 again, also where it was float64."""
    before = torch.get_default_dtype()
    if before == torch.float32:
        return None
    torch.set_default_dtype(torch.float32)

    def restore() -> None:
        if torch.get_default_dtype() == torch.float32:
            torch.set_default_dtype(before)

    return restore


def _put(setting: Any, value: str) -> None:
    """Set one of torch's ``fp32_precision``; where a more general setting says the same, by leaving it to that."""
    if setting.fp32_precision != value:
        setting.fp32_precision = "none"
        if setting.fp32_precision != value:
            setting.fp32_precision = value


def _settings(*names: str) -> list[Any]:
    """Those of ``torch.backends`` that this version of torch has, from 2.9 on."""
    found = []
    for name in names:
        setting: Any = torch.backends
        for part in name.split("."):
            setting = getattr(setting, part, None)
        if hasattr(setting, "fp32_precision"):
            found.append(setting)
    return found


_PRODUCT_SETTINGS = _settings("cuda.matmul", "mkldnn.matmul", "mkldnn.conv")
_CONVOLUTION_SETTINGS = _settings("cudnn.conv")
_PRODUCTS, _CONVOLUTIONS = _Raised(_raise_products), _Raised(_raise_convolutions)
_DTYPE = _Raised(_raise_dtype)
if hasattr(os, "register_at_fork"):
    for _raised in (_PRODUCTS, _CONVOLUTIONS, _DTYPE):
        os.register_at_fork(after_in_child=_raised.after_fork)


def let_gradients_through(network: nn.Module) -> None:
    """Replace tensors of inference mode, which autograd refuses: copies and pickles made in it have such tensors."""
    if not any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
        return
    with building():
        for module in network.modules():
            stored: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in stored:
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_inference():
                        made = tensor.clone()
                        kept = isinstance(tensor, nn.Parameter)
                        tensors[name] = nn.Parameter(made, tensor.requires_grad) if kept else made
