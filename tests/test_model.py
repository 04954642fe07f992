"""Every named backbone and kind of reference against a restatement of the papers in plain torchvision and timm."""

import pytest
import timm
import torch
import torchvision
from conftest import make_lively
from test_transform import by_torchvision
from torch import nn

import aigciqa
from aigciqa.config import PAPER_BACKBONES, MetricConfig, Transform, paper_config
from aigciqa.errors import CheckpointError
from aigciqa.model import Network, load_network
from aigciqa.training.upstream import convert_state
from aigciqa.weights import save_checkpoint

# The papers' features, restated: name -> (build, features of a batch, width)


def _vgg(model, x):
    return nn.functional.adaptive_avg_pool2d(model.features(x), 1).flatten(1)


def _resnet(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return model.avgpool(x).flatten(1)


def _inception(model, x):
    return model.features(x).mean((2, 3))


def _vit(model, x):
    x = model.patch_embed(x)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    return x[:, 0]


AUTHORS = {
    "vgg16": (torchvision.models.vgg16, _vgg, 512),
    "vgg19": (torchvision.models.vgg19, _vgg, 512),
    "resnet18": (torchvision.models.resnet18, _resnet, 512),
    "resnet50": (torchvision.models.resnet50, _resnet, 2048),
    "inceptionv4": (lambda: timm.create_model("inception_v4"), _inception, 1536),
    "vit-l": (lambda: timm.create_model("vit_large_patch16_224"), _vit, 1024),
}


class Regressor(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, 1)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def authors_backbone(name):
    """Random weights in the authors' layout, and the feature they take."""
    build, features, _ = AUTHORS[name]
    torch.manual_seed(0)
    backbone = build()
    return backbone, lambda x: features(backbone, x)


def authors_model(name, reference, backbone, features, dtype=torch.float32):
    """A checkpoint as theirs lies on disk, and their forward pass on preprocessed pictures."""
    width = AUTHORS[name][2]
    regressor = Regressor(width * 2 if reference == "full" else width).eval()
    make_lively(backbone, regressor, features, 299 if name == "inceptionv4" else 224)
    state = backbone.state_dict()
    if name.startswith("resnet"):
        state = {k: v for k, v in state.items() if not k.startswith("fc.")}
    if name == "vit-l":
        state = {f"vit.{k}": v for k, v in state.items()}

    @torch.no_grad()
    def forward(generated, prompt):
        backbone.to(dtype), regressor.to(dtype)
        f = features(generated.to(dtype))
        if prompt is not None and reference == "full":
            f = torch.cat([f, features(prompt.to(dtype))], 1)
        elif prompt is not None and reference == "partial":
            f = torch.stack([f, features(prompt.to(dtype))]).mean(0)
        scores = regressor(f)[:, 0]
        backbone.float(), regressor.float()
        return scores.float()

    return {"backbone": state, "regressor": regressor.state_dict()}, forward


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in AUTHORS if n != "resnet18")]
)
def test_authors_checkpoint_scores_as_the_paper_restated(name, picture, tmp_path):
    """From pictures to scores, beside torchvision's preprocessing and the plain forward pass."""
    backbone, features = authors_backbone(name)
    # batch normalisation with random weights blows float32's rounding up a thousandfold
    dtype = torch.float32 if name.startswith("v") else torch.float64
    for reference, prompted in (("none", False), ("full", True), ("partial", True), ("partial", False)):
        checkpoint, forward = authors_model(name, reference, backbone, features, dtype)
        config = paper_config(name, reference)
        state = convert_state(checkpoint["backbone"], checkpoint["regressor"], config)
        save_checkpoint(tmp_path, config, state)
        metric = aigciqa.create_metric(tmp_path, device="cpu").to(dtype)
        # of a size that is cropped but not resized: resizing is compared in test_transform.py
        size = config.transform.resize
        images, prompts = [picture(size, size + 9, seed=s) for s in (1, 2)], [picture(size + 5, size)] * 2
        expected = torch.cat(
            [
                forward(*(by_torchvision(x, config.transform) if x else None for x in (image, prompt)))
                for image, prompt in zip(images, prompts if prompted else [None, None], strict=True)
            ]
        )
        assert (expected[0] - expected[1]).abs() > 0.05  # else this shows nothing
        got = metric(images, prompts if prompted else None)
        assert torch.allclose(got, expected, rtol=0, atol=1e-4 * 5), (reference, got, expected)


def test_network_equals_the_restatement_on_the_same_tensors():
    checkpoint, forward = authors_model("resnet18", "full", *authors_backbone("resnet18"))
    config = paper_config("resnet18", "full")
    network = load_network(config, convert_state(checkpoint["backbone"], checkpoint["regressor"], config))
    generated, prompt = (
        nn.functional.interpolate(torch.rand(3, 3, 9, 9), (224, 224)) * 4 - 2 for _ in range(2)
    )
    expected = forward(generated, prompt)
    with torch.no_grad():
        assert torch.allclose(network(generated, prompt)[:, 0], expected, atol=1e-4)
        assert not torch.allclose(network(prompt, generated)[:, 0], expected, atol=1e-2)  # order matters


@pytest.mark.parametrize(
    ("backbone", "transform", "feature"),
    [
        ("test_resnet", Transform(72, 64), "avg"),
        ("test_efficientnet", Transform(72, 64), "avg"),
        ("test_vit", Transform(96, 96), "avg"),
        ("test_vit", Transform(96, 96), "token"),
        ("test_convnext", Transform(72, 64), "avg"),
        (
            "swin_tiny_patch4_window7_224",
            Transform(112, 112),
            "avg",
        ),  # channels last inside, computed buffers
        ("mobilenetv3_small_050", Transform(72, 64), "avg"),
    ],
)
def test_any_timm_backbone(backbone, transform, feature):
    config = MetricConfig(
        "any", "full", backbone, feature=feature, transform=transform, dimensions=("a", "b", "c")
    )
    network = Network(config).eval()
    loaded = load_network(config, network.state_dict())
    x = torch.randn(2, 3, transform.crop, transform.crop)
    with torch.no_grad():
        assert loaded(x, x.flip(0)).shape == (2, 3)
        assert torch.allclose(loaded(x, x.flip(0)), network(x, x.flip(0)), atol=1e-5)
    assert loaded.features(x).shape == (2, network.backbone.width)


@pytest.mark.parametrize(("reference", "width"), [("none", 512), ("full", 1024), ("partial", 512)])
def test_head_is_the_papers(reference, width):
    head = Network(paper_config("resnet18", reference)).head
    assert (head.fc1.in_features, head.fc1.out_features) == (width, width // 2)


@pytest.mark.parametrize("name", AUTHORS)
@pytest.mark.parametrize("reference", ["none", "full", "partial"])
def test_the_papers_models_have_nothing_more(name, reference):
    width = AUTHORS[name][2]
    with torch.device("meta"):
        network = Network(paper_config(name, reference))
        options = {"final_norm": False} if name == "vit-l" else {}
        theirs = timm.create_model(PAPER_BACKBONES[name]["backbone"], num_classes=0, **options).state_dict()
    assert network.backbone.width == width
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    total = width * 2 if reference == "full" else width
    heads = {
        "fc1.weight": (total // 2, total), "fc1.bias": (total // 2,), "fc2.weight": (1, total // 2), "fc2.bias": (1,),
    }  # fmt: skip
    assert shapes == {
        **{f"backbone.net.{k}": tuple(v.shape) for k, v in theirs.items() if not k.startswith("pre_logits.")},
        **{f"head.{k}": shape for k, shape in heads.items()},
    }


def test_the_papers_heads_see_features_as_they_are():
    x, y = torch.rand(2, 5, 512)
    network = Network(paper_config("resnet18", "full"))
    assert network.features(torch.rand(1, 3, 64, 64)).shape == (1, 512)
    assert (network.backbone.parts, network.parts) == ((512,), (512, 512))
    assert torch.equal(network.inputs(x, y), torch.cat([x, y], 1))
    assert torch.equal(Network(paper_config("resnet18")).inputs(x), x)
    assert torch.equal(Network(paper_config("resnet18", "partial")).inputs(x, y), (x + y) / 2)


def test_bounded_scores_keep_to_the_scale_and_learn():
    config = MetricConfig("bounded", "none", "test_resnet", score_range=(10.0, 20.0))
    torch.manual_seed(0)
    plain, bounded = Network(config).eval(), Network(config.with_(bounded=True)).eval()
    bounded.load_state_dict(plain.state_dict())
    features = 1000 * torch.randn(64, plain.width)
    with torch.no_grad():
        points, scores = plain.regress(features) + 15, bounded.head.scores(plain.regress(features) + 15)
    assert points.min() < 10 and points.max() > 20
    assert scores.min() >= 10 and scores.max() <= 20
    assert torch.allclose(scores, 15 + 5 * ((points - 15) / 5).tanh())
    near = torch.tensor([14.9, 15.0, 15.1])
    assert torch.allclose(bounded.head.scores(near), near, atol=1e-4)
    torch.nn.init.constant_(bounded.head.fc2.bias, 15.0)  # as training begins, in the middle
    optimizer = torch.optim.Adam(bounded.head.parameters(), lr=1e-3)
    for _ in range(400):
        loss = (bounded.regress(features / 1000) - 19).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 2e-2


def test_vgg_leaves_its_classifier_out():
    with torch.device("meta"):
        network = Network(paper_config("vgg16"))
    assert sum(p.numel() for p in network.backbone.parameters()) == 14_714_688


def test_what_does_not_fit_is_refused():
    config = paper_config("resnet18")
    checkpoint, _ = authors_model("resnet18", "none", *authors_backbone("resnet18"))
    state = convert_state(checkpoint["backbone"], checkpoint["regressor"], config)
    for changed in (
        config.with_(reference="full"),
        config.with_(dimensions=("a", "b")),
        config.with_(backbone="resnet50"),
    ):
        with pytest.raises(CheckpointError, match="do not fit"):
            load_network(changed, state)
        with pytest.raises(CheckpointError, match="not a"):
            convert_state(checkpoint["backbone"], checkpoint["regressor"], changed)
    with pytest.raises(CheckpointError, match="no architecture 'resnet19'"):
        Network(config.with_(backbone="resnet19"))
    with pytest.raises(CheckpointError, match="token"):
        Network(config.with_(feature="token"))
    with pytest.raises(CheckpointError, match="none of the papers' backbones"):
        paper_config("resnet34")
