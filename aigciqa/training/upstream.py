"""Checkpoints of the papers' authors (FR: `backbone` and `regressor` state dicts) in this library's terms.

Their key names: torchvision's for VGG and ResNet, Cadene's for InceptionV4, and timm's under ``vit.`` for ViT;
the head's are ``fc1`` and ``fc2``. timm builds the same architectures under the same names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import MetricConfig
from ..errors import CheckpointError
from ..model import Network

# layers of the original classifiers, which neither they nor we use
CLASSIFIERS = ("classifier.", "fc.", "last_linear.", "head.", "norm.")


def convert_state(
    backbone: Mapping[str, Tensor], regressor: Mapping[str, Tensor], config: MetricConfig
) -> dict[str, Tensor]:
    """The state dict of our `Network` from the two state dicts of an authors' checkpoint.

    Args:
        backbone, regressor: as they lie in ``best_model.pt`` under these keys.
        config: what to make of it, usually `paper_config`.

    Raises:
        CheckpointError: naming the tensors that are missing, unknown or of another shape.
    """
    with torch.device("meta"):
        wanted = Network(config).state_dict()
    state = {f"head.{key}": value for key, value in regressor.items()}
    for key, value in backbone.items():
        key = key.removeprefix("vit.")
        ours = f"backbone.net.{key}"
        if ours in wanted or not key.startswith(CLASSIFIERS):
            state[ours] = value
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    reshaped = {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}
    for keys, problem in ((missing, "lacks"), (unknown, "has unknown"), (reshaped, "has other shapes for")):
        if keys:
            raise CheckpointError(
                f"not a {config.mode} checkpoint on {config.backbone}: it {problem} {len(keys)} tensors, "
                f"such as {min(keys)!r}"
            )
    return state
