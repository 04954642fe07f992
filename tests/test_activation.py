"""ResNet18 with LeakyReLU in its blocks, as the authors' code has it, beside a forward pass written out here."""

import pytest
import torch
from test_model import authors_backbone, authors_model
from test_upstream import authors_file
from torch.nn import functional as F

import aigciqa
from aigciqa import image
from aigciqa.config import MetricConfig
from aigciqa.errors import CheckpointError, InputError
from aigciqa.export import export_metric
from aigciqa.training.initial import initial_network
from aigciqa.training.recipe import read_recipe
from aigciqa.training.upstream import convert
from aigciqa.transform import preprocess


def scores_of(backbone, regressor, images, slope):
    """(N,) scores: ReLU after the stem and in the head, LeakyReLU of `slope` twice in each block."""
    state = {k: v.double() for k, v in backbone.items() if v.is_floating_point()}

    def norm(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.conv2d(images.double(), state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm(x, "bn1").clamp(min=0), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1")
            y = torch.where(y < 0, slope * y, y)
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = norm(
                    F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1"
                )
            x = x + y
            x = torch.where(x < 0, slope * x, x)
    x = x.mean((2, 3))
    hidden = (x @ regressor["fc1.weight"].double().T + regressor["fc1.bias"].double()).clamp(min=0)
    return (hidden @ regressor["fc2.weight"].double().T + regressor["fc2.bias"].double())[:, 0]


@pytest.fixture(scope="module")
def checkpoint():
    return authors_model("resnet18", "none", *authors_backbone("resnet18"))[0]


@pytest.fixture
def file(checkpoint, tmp_path):
    return authors_file(tmp_path / "best_model.pt", checkpoint)


@pytest.mark.parametrize(
    ("given", "slope"), [({}, 0.01), ({"activation": "leaky_relu"}, 0.01), ({"activation": "relu"}, 0.0)]
)
def test_scores_as_the_authors_network(file, checkpoint, picture, tmp_path, given, slope):
    config = convert(file, tmp_path / "ours", **given)
    assert config.activation == ("leaky_relu" if slope else None)
    assert ("LeakyReLU" in config.provenance["activation"]) == bool(slope)
    metric = aigciqa.create_metric(tmp_path / "ours", device="cpu")
    images = [picture(256, 270, seed=seed) for seed in (1, 2, 3)]
    inputs = torch.cat([preprocess(block, config.transform) for block in image.read(images)])
    expected = scores_of(**checkpoint, images=inputs, slope=slope)
    other = scores_of(**checkpoint, images=inputs, slope=0.01 - slope)
    assert (expected - other).abs().max() > 0.01  # else this shows nothing
    # in double, for random weights blow up rounding; then in float, where batch normalisation is folded away
    assert torch.allclose(metric.double()(images).double(), expected, rtol=0, atol=1e-4)
    assert torch.allclose(metric.float()(images).double(), expected, rtol=0, atol=5e-3)


def test_folded_and_exported_networks_agree(file, picture, tmp_path):
    convert(file, tmp_path / "ours")
    metric = aigciqa.create_metric(tmp_path / "ours", device="cpu")
    images = [picture(256, 256, seed=seed) for seed in (1, 2)]
    graph = export_metric(metric, tmp_path / "ours.pt2")  # compares itself with the metric
    assert graph.exists()
    with torch.no_grad():
        inputs = torch.cat([preprocess(block, metric.config.transform) for block in image.read(images)])
        plain = metric.network(inputs)[:, 0]
    assert torch.allclose(metric(images), plain, rtol=0, atol=5e-3)


def test_a_config_without_such_blocks_is_refused(file, tmp_path):
    with pytest.raises(
        CheckpointError, match="activation must be null, or leaky_relu with resnet18 or resnet34"
    ):
        MetricConfig("x", "none", "resnet50", activation="leaky_relu")
    with pytest.raises(CheckpointError, match="activation must be null"):
        MetricConfig("x", "none", "resnet18", activation="gelu")
    with pytest.raises(CheckpointError, match="activation must be one of relu, leaky_relu"):
        convert(file, tmp_path / "ours", activation="gelu")
    again = MetricConfig.from_json(MetricConfig("x", "none", "resnet18", activation="leaky_relu").to_json())
    assert again.activation == "leaky_relu"


def test_training_goes_on_with_the_same_network(file, tmp_path):
    convert(file, tmp_path / "ours")
    recipe = read_recipe(None, {"backbone": "resnet18", "weights": str(tmp_path / "ours")})
    with pytest.raises(InputError, match="train with activation=leaky_relu, or"):
        initial_network(recipe.config(), recipe.weights)
    recipe = read_recipe(
        None, {"backbone": "resnet18", "weights": recipe.weights, "activation": "leaky_relu"}
    )
    network = initial_network(recipe.config(), recipe.weights)
    slopes = {module.negative_slope for module in network.modules() if isinstance(module, torch.nn.LeakyReLU)}
    assert slopes == {0.01}
