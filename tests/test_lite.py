"""The packaged checkpoints' backbone against timm's, from which its weights come."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from aigciqa.config import MetricConfig
from aigciqa.errors import CheckpointError
from aigciqa.folding import folded
from aigciqa.lite import NAME, EfficientNetLite0
from aigciqa.model import Network


@pytest.fixture(scope="module")
def both():
    theirs = timm.create_model(NAME, num_classes=0).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("size", [(224, 225), (65, 97), (33, 40)])
def test_features_are_those_of_timm(both, size):
    ours, theirs = both
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        (last, stages), (their_last, their_stages) = (net.forward_intermediates(images) for net in both)
        assert torch.equal(last, their_last)
        assert torch.equal(ours.forward_features(images), theirs.forward_features(images))
        assert len(stages) == len(their_stages) == len(ours.feature_info) == 5
        assert all(map(torch.equal, stages, their_stages))
        some = {"indices": [1, 3], "stop_early": True, "intermediates_only": True}
        for found, expected in zip(
            ours.forward_intermediates(images, **some),
            theirs.forward_intermediates(images, **some),
            strict=True,
        ):
            assert torch.equal(found, expected)


def test_pruned_it_keeps_what_timm_keeps(both):
    pruned = copy.deepcopy(both)
    for net in pruned:
        net.prune_intermediate_layers([0, 2])
    assert list(pruned[0].state_dict()) == list(pruned[1].state_dict())
    wanted = {"indices": [0, 2], "stop_early": True, "intermediates_only": True}
    images = torch.rand(2, 3, 65, 97)
    with torch.inference_mode():
        found, theirs, before = (net.forward_intermediates(images, **wanted) for net in (*pruned, both[0]))
    assert all(map(torch.equal, found, theirs))
    assert all(map(torch.equal, found, before))


def test_gradients_and_batch_statistics_are_those_of_timm(both):
    images = torch.rand(3, 3, 64, 64)
    gradients = []
    for net in both:
        net.train()
        net.zero_grad()
        net.forward_features(images).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
        net.eval()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-6), name
    for name, buffer in both[0].named_buffers():
        assert torch.allclose(buffer, both[1].get_buffer(name), rtol=1e-5), name


def test_random_weights_have_the_spread_of_timms():
    ours, theirs = EfficientNetLite0().state_dict(), timm.create_model(NAME, num_classes=0).state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        if tensor.ndim == 4:
            assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=0.3), name
        else:
            assert torch.equal(tensor, theirs[name]), name


def test_description_is_that_of_timm():
    theirs = timm.create_model(NAME, num_classes=0)
    assert theirs.num_features == EfficientNetLite0.num_features
    assert [s["num_chs"] for s in theirs.feature_info] == [
        s["num_chs"] for s in EfficientNetLite0.feature_info
    ]


def test_every_convolution_takes_its_normalisation_in(both):
    network = Network(MetricConfig(name="a", backbone=NAME, reference="none")).eval()
    network.backbone.net.load_state_dict(both[1].state_dict())
    images = torch.rand(2, 3, 96, 96)
    made = folded(network, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    assert torch.allclose(made.features(images), network.features(images), rtol=1e-3, atol=1e-4)


def test_there_is_no_class_token():
    with pytest.raises(CheckpointError, match="has no class token"):
        Network(MetricConfig(name="a", backbone=NAME, reference="none", feature="token"))


def test_packaged_checkpoints_score_without_slow_imports():
    code = (
        "import sys, aigciqa; aigciqa.create_metric('nr-aigciqa', device='cpu')('examples/gen.png');"
        "slow = {'timm', 'torchvision', 'torch._dynamo', 'sympy', 'pandas', 'scipy', 'huggingface_hub'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
