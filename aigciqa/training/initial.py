"""Where training starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from ..config import PAPER_BACKBONES, MetricConfig
from ..errors import CheckpointError, InputError, Parameter
from ..model import Network, blank_network, most_bytes
from ..weights import load_weights, parse_source
from .recipe import read_recipe
from .torchfile import load_tensors

OTHERWISE = (
    "begin from a file, ", Parameter("weights", "FILE"),
    ", from the backbone of a packaged metric, which needs no network, ", Parameter("weights", "nr-aigciqa"),
    " with ", Parameter("backbone", "tf_efficientnet_lite0"), " and ", Parameter("feature", "stages"),
    ", or from nothing, ", Parameter("weights", "random"),
)  # fmt: skip
NET, TILES = "backbone.net.", "backbone.tile_net."


def initial_network(config: MetricConfig, weights: str, middle: Sequence[float] | None = None) -> Network:
    """A network with a random head and the backbone that `weights` names.

    Args:
        config: what to build.
        weights: ``"pretrained"``, a timm pretrained tag, a state dict's file, a checkpoint, or ``"random"``, see
            `aigciqa.training.recipe.Recipe`.
        middle: what a random head is to predict at first, of each dimension, such as the mean label; None for
            whatever it does.

    Raises:
        InputError: when it names nothing that fits.
        CheckpointError: when a checkpoint cannot be opened, or pretrained weights cannot be fetched.

    Examples:
        >>> from aigciqa import MetricConfig
        >>> initial_network(MetricConfig("tiny", "none", "test_resnet"), "random").reference
        'none'
    """
    network = Network(config)
    if middle is not None:
        network.head.fc2.bias.data = torch.tensor(middle, dtype=torch.float32)
    if weights == "random":
        return network
    wanted = network.state_dict()
    weights = named_weights(weights, config)
    path = Path(weights)
    if path.is_file():
        found = _backbone(_read(path))
    elif is_tag(weights):
        if weights.partition(".")[0] != config.backbone:
            raise InputError(f"weights {weights!r} are not of the backbone {config.backbone}")
        found = _backbone(_pretrained(weights))
    else:
        source = parse_source(weights)
        theirs = source.config()
        if theirs.backbone == config.backbone and theirs.activation != config.activation:
            raise InputError(
                f"weights {weights!r} are of a {config.backbone} with {theirs.activation or 'the usual activation'} in "
                f"its blocks; train with ",
                Parameter("activation", theirs.activation or "null"),
                ", or from other weights",
            )
        found = load_weights(source.weights(theirs, most_bytes(blank_network(theirs, to_score=False))))
        if (theirs.bounded, theirs.score_range) != (config.bounded, config.score_range):
            found = {k: v for k, v in found.items() if not k.startswith("head.")}  # of another scale
    if not any(k.startswith(TILES) for k in found):  # then a network for tiles begins as the other
        found = found | {TILES + k.removeprefix(NET): v for k, v in found.items() if k.startswith(NET)}
    fitting = {k: v for k, v in found.items() if k in wanted}
    lacking = {k for k in wanted if k.startswith("backbone.")} - fitting.keys()
    other = {k for k, v in fitting.items() if k.startswith("backbone.") and v.shape != wanted[k].shape}
    if lacking or other:
        raise InputError(
            f"weights {weights!r} do not fit the backbone {config.backbone}: {len(lacking)} tensors are missing "
            f"and {len(other)} have other shapes, such as {min(lacking | other)!r}"
        )
    # a head of other width, other dimensions or another scale stays random
    fitting = {k: v for k, v in fitting.items() if v.shape == wanted[k].shape}
    floats = {k: v.float() if v.is_floating_point() else v for k, v in fitting.items()}
    if wrong := [k for k, v in floats.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise InputError(
            f"weights {weights!r} hold NaN or infinity in {len(wrong)} tensors, such as {min(wrong)!r}"
        )
    network.load_state_dict(wanted | floats)
    return network


def named_weights(weights: str, config: MetricConfig) -> str:
    """`weights`, or for ``"pretrained"`` the tag of the weights that are meant.

    Raises:
        InputError: when timm has no pretrained weights for the backbone.

    Examples:
        >>> named_weights("pretrained", MetricConfig("mine", "none", "resnet50"))
        'resnet50.tv_in1k'
    """
    if weights != "pretrained":
        return weights
    for name, paper in PAPER_BACKBONES.items():
        if paper["backbone"] == config.backbone:
            return read_recipe(f"nr-{name}").weights
    known = timm.get_pretrained_cfg(config.backbone)
    if known is None or not known.has_weights or not known.tag:
        raise InputError(f"timm has no pretrained weights for the backbone {config.backbone}; ", *OTHERWISE)
    return f"{config.backbone}.{known.tag}"


def is_tag(weights: str) -> bool:
    """Whether `weights` names pretrained weights of timm's, architecture and tag."""
    return "." in weights and timm.is_model(weights.partition(".")[0])


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_weights(path)
    try:
        state = load_tensors(path)
    except Exception as error:  # torch raises many kinds for what is no state dict
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path}: not a state dict that holds only tensors: {type(error).__name__}: {reason}; get the file again, "
            "or save its state dict alone with torch.save"
        ) from None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) and v.layout is torch.strided for k, v in state.items()
    ):
        raise InputError(f"{path}: not a state dict, which has a tensor for each name")
    return state


def _pretrained(tag: str) -> Mapping[str, Tensor]:
    try:
        return timm.create_model(tag, pretrained=True).state_dict()
    except Exception as error:  # the Hub's client raises its HTTP library's errors as they come
        raise CheckpointError(
            f"cannot get the pretrained weights {tag} through timm: {type(error).__name__}: {error}\n"
            f"  by hand, where there is a network: hf download timm/{tag} model.safetensors --local-dir DIR\n"
            "  then copy DIR here and train with ", Parameter("weights", "DIR/model.safetensors"),
            "\n  or ", *OTHERWISE,
        ) from None  # fmt: skip


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {NET + k: v for k, v in state.items()}
