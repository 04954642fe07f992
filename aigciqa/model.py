"""The network: one backbone, one head, for no, full or partial reference (arXiv 2311.15556, 2404.18409)."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import MetricConfig
from .errors import CheckpointError
from .layers import Linear, without_torchs_norms
from .lite import NAME, EfficientNetLite0
from .memory import working_memory
from .stages import MapHead, Stages
from .weights import HEADER, Source, check_weights, load_weights


class Network(nn.Module):
    """Pictures to scores.

    - no reference: ``head(f(generated))``
    - full reference: ``head([f(generated), f(reference)])``, the same backbone for both
    - partial reference: ``head(mean of f(generated) and, where there is one, f(reference))``

    The head is Linear, ReLU, Linear; unless the config says otherwise, its hidden layer is half as wide as its input
    and its scores have no bounds. These are the papers' models. With the feature ``"stages"``, see `aigciqa.stages`,
    a full-reference head also gets the mean absolute difference between generated and reference, part by part.

    Args:
        config: what to build. Weights are random until loaded.
    """

    image_bytes = 0  # working memory for one image, where it is more than little; see `aigciqa.memory`

    def __init__(self, config: MetricConfig):
        super().__init__()
        self.reference = config.reference
        self.compares = config.reference == "full" and config.feature == "stages"
        net = architecture(config.backbone, config.feature, config.transform.crop, config.activation)
        self.backbone: Backbone | Stages = (
            Stages(net, config) if config.feature == "stages" else Backbone(net, config.feature)
        )
        self.width: int = self.backbone.width  # of `features`
        self.parts = self.backbone.parts * {"full": 2 + self.compares}.get(config.reference, 1)
        width = sum(self.parts)
        bounds = config.score_range if config.bounded else None
        self.head = Head(width, config.hidden or width // 2, len(config.dimensions), bounds)
        self.map_head: MapHead | None = None
        if config.map_hidden:
            self.map_head = MapHead(sum(self.parts[1:]), config.map_hidden, len(config.dimensions))

    def features(self, images: Tensor) -> Tensor:
        """Preprocessed pictures, (N, 3, crop, crop) or with tiles (N, views, 3, crop, crop), to (N, D) features."""
        return self.backbone(images)

    def regress(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """(N, D) features of generated pictures and of their references to (N, dimensions) scores.

        Without a reference a partial-reference network judges the generated picture alone.
        """
        return self.head(self.inputs(generated, reference))

    def inputs(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """What the head sees of (N, D) features."""
        if self.reference == "full":
            if reference is None:
                raise ValueError("a full-reference network needs the features of the references")
            seen = [generated, reference]
            if self.compares:
                seen.append((generated - reference).abs())
            return torch.cat([self.backbone.summary(x) for x in seen], 1)
        if self.reference == "partial" and reference is not None:
            generated = (generated + reference) / 2
        return self.backbone.summary(generated)

    def forward(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """Preprocessed pictures to (N, dimensions) scores."""
        return self.regress(self.features(generated), None if reference is None else self.features(reference))


class Head(nn.Module):
    """Linear, ReLU, Linear; with `bounds`, lowest and highest score, also a hyperbolic tangent that keeps to them."""

    def __init__(self, width: int, hidden: int, outputs: int, bounds: tuple[float, float] | None = None):
        super().__init__()
        self.bounds = bounds
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.scores(self.fc2(self.fc1(features).relu()))

    def scores(self, points: Tensor) -> Tensor:
        """What the linear layers say, within the bounds."""
        return points if self.bounds is None else bounded(points, *self.bounds)


def bounded(points: Tensor, low: float, high: float) -> Tensor:
    """Scores from `low` to `high`, in the same order as `points`, and about the same near the middle.

    Examples:
        >>> bounded(torch.tensor([-3.0, 2.0, 2.5, 3.0, 8.0]), 0.0, 5.0)
        tensor([0.0606, 2.0066, 2.5000, 2.9934, 4.9394])
    """
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * torch.tanh((points - middle) / half)


class Backbone(nn.Module):
    """The papers' feature: the last layer, pooled to (N, D).

    Args:
        net: timm architecture without its classifier.
        feature: ``"avg"`` or ``"token"``, see `MetricConfig`.
    """

    def __init__(self, net: Any, feature: str):
        super().__init__()
        self.net, self.feature = net, feature
        self.width = int(net.num_features)
        self.parts: tuple[int, ...] = (self.width,)
        self.prefix_tokens: int = getattr(net, "num_prefix_tokens", 0)
        self.channels_last_output = getattr(net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) to (N, D)."""
        x = self.net.forward_features(images.contiguous(memory_format=torch.channels_last))
        x = x.to(images.dtype)  # a mean has more digits than autocast's maps
        if self.feature == "token":
            return x[:, 0]
        if x.ndim == 3:  # tokens
            return x[:, self.prefix_tokens :].mean(1)
        return x.mean((1, 2) if self.channels_last_output else (2, 3))

    def summary(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features


def architecture(name: str, feature: str, size: int, activation: str | None = None) -> Any:
    """One of timm's architectures without its classifier, random.

    Args:
        name: of the architecture.
        feature: what will be taken of it, see `MetricConfig`.
        size: side of the input in pixels; needed by architectures of fixed input size.
        activation: of its blocks, see `MetricConfig`.

    Raises:
        CheckpointError: for an architecture timm does not have, or one that lacks the feature.
    """
    net = EfficientNetLite0() if name == NAME else _of_timm(name, feature, size, activation)
    if feature == "token" and getattr(net, "cls_token", None) is None:
        raise CheckpointError(f"{name} has no class token")
    return net


def _of_timm(name: str, feature: str, size: int, activation: str | None = None) -> Any:
    import timm  # takes seconds

    if not timm.is_model(name):
        raise CheckpointError(f"timm {timm.__version__} has no architecture {name!r}")
    options: dict[str, Any] = {}
    if (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).fixed_input_size:
        options["img_size"] = size
    if feature == "token":
        options["final_norm"] = False  # the papers' class token is taken before it
    try:
        net: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        raise CheckpointError(f"{name} has no feature {feature!r}: {error}") from None
    if hasattr(net, "pre_logits"):
        net.pre_logits = nn.Identity()  # VGG's fully connected layers, which the papers leave out
    if activation == "leaky_relu":
        for block in chain(net.layer1, net.layer2, net.layer3, net.layer4):  # not the stem, which keeps ReLU
            block.act1, block.act2 = nn.LeakyReLU(inplace=True), nn.LeakyReLU(inplace=True)
    return net


def blank_network(config: MetricConfig, to_score: bool = True) -> Network:
    """The network that `config` describes on the meta device, which takes no memory however large it is.

    Args:
        config: what to build.
        to_score: whether the network will be used, so that its working memory is held to `aigciqa.limits.WORK`.

    Raises:
        CheckpointError: when there is no such network, or it needs more memory than `aigciqa.limits.WORK`.

    Examples:
        >>> from aigciqa import paper_config
        >>> blank_network(paper_config("vgg16")).head.fc1.weight.device
        device(type='meta')
    """
    try:
        with torch.device("meta"):
            network = Network(config)
    except CheckpointError:
        raise
    except Exception as error:  # architectures raise nearly anything for a size or a feature they do not have
        import timm

        raise CheckpointError(
            f"timm {timm.__version__} cannot build {config.backbone} with feature {config.feature} and crop "
            f"{config.transform.crop}: {type(error).__name__}: {error}"
        ) from None
    if to_score:
        network.image_bytes = working_memory(network, config)
    return network


def most_bytes(network: Network) -> int:
    """How many bytes a file of a network's weights can have."""
    return HEADER + 8 + sum(8 * tensor.numel() for tensor in network.state_dict().values())


def open_network(config: MetricConfig, source: Source) -> Network:
    """The network of a checkpoint, of which nothing large is fetched or read before it is known to fit.

    Args:
        config: of the checkpoint.
        source: where it is.

    Raises:
        CheckpointError: when its weights cannot be found or fetched, or are not those of the config.
    """
    network = blank_network(config)
    path = source.weights(config, most_bytes(network))
    check_weights(path, network.state_dict(), config)
    return _filled(network, config, load_weights(path))


def load_network(config: MetricConfig, state: Mapping[str, Tensor]) -> Network:
    """Build the network that `config` describes and fill it with `state`, as float32.

    Returns:
        In evaluation mode, frozen, channels last.

    Raises:
        CheckpointError: when names, shapes or types differ, or a weight is not finite.
    """
    return _filled(blank_network(config), config, state)  # nothing is initialised only to be overwritten


def _filled(network: Network, config: MetricConfig, state: Mapping[str, Tensor]) -> Network:
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    expected = network.state_dict()
    wrong = expected.keys() ^ state.keys()
    if wrong := wrong or {k for k in expected if not _fits(state[k], expected[k])}:
        raise CheckpointError(
            f"the weights do not fit the config ({config.backbone}, {config.reference} reference, "
            f"{len(config.dimensions)} dimensions): {len(wrong)} tensors differ, {min(wrong)!r} for one"
        )
    for name, tensor in state.items():
        if not np.isfinite(tensor.cpu().numpy()).all():  # numpy does not wait for threads, hundreds of times
            raise CheckpointError(
                f"the weights of {config.name} are not all finite: {name!r} for one; not used"
            )
    network.load_state_dict(state, assign=True)
    if any(t.is_meta for t in chain(network.parameters(), network.buffers())):
        image_bytes = network.image_bytes
        network = Network(config)  # it has computed buffers, which are in no file
        network.load_state_dict(state)
        network.image_bytes = image_bytes
    without_torchs_norms(network)
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _fits(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.dtype == expected.dtype
