"""Batch normalisation folded away, and where it must not be."""

import copy

import pytest
import torch
from torch import nn

import aigciqa
from aigciqa.config import MetricConfig
from aigciqa.folding import SHAPES, fingerprint, folded
from aigciqa.layers import Norm
from aigciqa.model import Network


def network(backbone="test_efficientnet", **options):
    """With running statistics that a fresh one does not have."""
    torch.manual_seed(0)
    made = Network(MetricConfig(name="x", backbone=backbone, reference="none", **options))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.uniform_(-0.5, 0.5)
    return made.eval().requires_grad_(False)


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "backbone", ["test_efficientnet", "test_resnet", "mobilenetv3_small_050", "resnet18"]
)
def test_features_are_the_same_and_no_norm_is_left(backbone):
    plain = network(backbone)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    made = folded(plain, torch.rand(1, 3, 64, 64))
    assert norms(plain) > 0 == norms(made)
    images = torch.rand(3, 3, 64, 64)
    expected, found = plain.features(images), made.features(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert made.head.fc1.weight.data_ptr() == plain.head.fc1.weight.data_ptr()


def calls(network, images):
    """How often each operator of torch is called."""
    with torch.inference_mode(), torch.profiler.profile() as profile:
        network.features(images)
    return {event.key: event.count for event in profile.key_averages()}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize("size", [256, 255])
def test_activations_are_left_to_the_convolutions(size):
    """Of the packaged checkpoints' backbone, all of them; and the features stay the same."""
    plain = aigciqa.create_metric("nr-aigciqa", device="cpu").network
    made = folded(plain, torch.rand(1, 5, 3, 64, 64))
    images = torch.rand(1, 5, 3, size, size)
    before, after = calls(plain, images), calls(made, images)
    assert (
        before["aten::convolution"] == after["mkldnn::_convolution_pointwise"] > before["aten::hardtanh_"] > 0
    )
    assert not after.keys() & {"aten::hardtanh_", "aten::hardtanh", "aten::convolution", "aten::batch_norm"}
    expected, found = plain.features(images), made.features(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_weights_are_put_in_order_once_for_a_shape_and_the_features_stay():
    """From the second time that a shape comes on; for some shapes, since each keeps weights of its own."""
    plain = aigciqa.create_metric("nr-aigciqa", device="cpu").network
    made = folded(plain, torch.rand(1, 5, 3, 64, 64))
    views = [torch.rand(1, 5, 3, 64, 64 + 8 * n) for n in range(1, 6)]
    with torch.inference_mode():
        first, second, third = ([made.features(x) for x in views] for _ in range(3))
    assert all(map(torch.equal, first + first, second + third))
    made = folded(plain, torch.rand(1, 5, 3, 64, 64))
    ordered = [calls(made, views[-1]).get("mkldnn::_reorder_convolution_weight", 0) for _ in range(3)]
    assert ordered[1] > ordered[0] == ordered[2] == 0
    shapes = [torch.rand(1, 5, 3, 32, 32 + 8 * n) for n in range(2 * SHAPES)]
    for x in shapes:
        made.features(x)
    assert "mkldnn::_reorder_convolution_weight" not in calls(made, shapes[-1])


class TestFingerprint:
    """Equal until something changes that the features depend on."""

    def test_it_stays(self):
        plain = network()
        before = fingerprint(plain)
        plain.features(torch.rand(1, 3, 64, 64))
        assert fingerprint(plain) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda n: n.head.fc1.weight.mul_(1.01),
            lambda n: n.head.fc1.weight.data.mul_(1.01),  # which PyTorch does not count
            lambda n: n.head.fc1.weight.copy_(n.head.fc1.weight.flip(0)),
            lambda n: setattr(n.head, "fc1", copy.deepcopy(n.head.fc1)),
            lambda n: next(m for m in n.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1),
            lambda n: next(m for m in n.modules() if isinstance(m, nn.BatchNorm2d)).train(),
            lambda n: n.register_forward_hook(lambda *_: None),
            lambda n: n.backbone.register_forward_pre_hook(lambda *_: None),
            lambda n: n.double(),
            lambda n: n.half(),
        ],
    )
    def test_it_changes(self, change):
        plain = network()
        before = fingerprint(plain)
        change(plain)
        assert fingerprint(plain) != before


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.slow
def test_a_folded_network_can_be_traced(size):
    """`--compile` does; torch's own compiler then sees convolutions and activations that it knows."""
    made = folded(aigciqa.create_metric("nr-aigciqa", device="cpu").network, torch.rand(1, 5, 3, 64, 64))
    images = torch.rand(1, 5, 3, size, size)
    with torch.no_grad():
        expected = made.features(images)
        found = torch.compile(made.features, backend="eager")(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "test_efficientnet"])
def test_a_folded_network_has_gradients(backbone):
    """Which oneDNN's convolutions do not give."""
    plain = network(backbone)
    images = torch.rand(1, 3, 64, 64)
    gradients = []
    for made in (plain, folded(plain, images)):
        given = images.clone().requires_grad_()
        made.features(given).square().mean().backward()
        gradients.append(given.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-3 * gradients[0].abs().max())


@pytest.mark.parametrize("changes", [{"padding_mode": "circular"}, {"padding": "same"}])
def test_convolutions_that_onednn_would_compute_otherwise_stay_torchs(changes):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3, **{"padding": 1} | changes)
            self.norm = Norm(4, act=nn.ReLU6())

        def features(self, images):
            return self.norm(self.convolution(images)).mean((2, 3))

    plain = Small().eval()
    images = torch.rand(2, 3, 16, 16)
    made = folded(plain, images)
    assert norms(made) == 0
    assert "mkldnn::_convolution_pointwise" not in calls(made, images)
    assert torch.allclose(made.features(images), plain.features(images), atol=1e-6)


def test_what_lies_between_norm_and_activation_stays():
    """timm's norms may drop blocks there, which no convolution does; the convolution is folded all the same."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), Norm(4, act=nn.ReLU6())
            self.norm.drop = nn.Dropout()

        def features(self, images):
            return self.norm(self.convolution(images)).mean((2, 3))

    plain = Dropping().eval()
    images = torch.rand(2, 3, 16, 16)
    made = folded(plain, images)
    assert norms(made) == 0
    assert any(isinstance(module, nn.ReLU6) for module in made.modules())
    assert torch.allclose(made.features(images), plain.features(images), atol=1e-6)


def test_networks_without_batch_norm_stay_as_they_are():
    plain = network("test_vit")
    assert folded(plain, torch.rand(1, 3, 224, 224)) is plain


def test_somebodys_hooks_see_the_modules_they_were_put_on():
    plain = network()
    norm = next(module for module in plain.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_hook(lambda *_: None)
    assert folded(plain, torch.rand(1, 3, 64, 64)) is plain


class Twice(nn.Module):
    """Folding one of its norms into the convolution would change what the other sees."""

    def __init__(self, shared_convolution):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.again = shared_convolution

    def features(self, images):
        x = self.convolution(images)
        y = self.convolution(images) if self.again else x
        return torch.cat([self.norms[0](x), self.norms[1](y)], 1).mean((2, 3))


@pytest.mark.parametrize("again", [True, False])
def test_a_convolution_that_feeds_two_norms_is_left_alone(again):
    plain = Twice(again).eval()
    plain.norms[1].running_mean.fill_(3)
    images = torch.rand(2, 3, 16, 16)
    made = folded(plain, images)
    assert torch.allclose(made.features(images), plain.features(images))
    assert norms(made) == 2


class Summed(nn.Module):
    """Its convolution goes to a norm, and is seen by something else too."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def features(self, images):
        x = self.convolution(images)
        return (self.norm(x) + x).mean((2, 3))


def test_folding_that_would_change_the_features_is_not_done():
    plain = Summed().eval()
    plain.norm.running_var.fill_(4)
    assert folded(plain, torch.rand(1, 3, 16, 16)) is plain
