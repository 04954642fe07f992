"""The authors' `best_model.pt`, read without executing anything, beside a restatement of the papers."""

import contextlib
import hashlib
import os
import re
import shutil

import numpy as np
import pytest
import torch
from test_model import AUTHORS, authors_backbone, authors_model
from torch import nn

import aigciqa
from aigciqa import image
from aigciqa.errors import CheckpointError
from aigciqa.training.upstream import convert
from aigciqa.transform import preprocess

SMALL, LARGE = "resnet18", [name for name in AUTHORS if name != "resnet18"]


def authors_file(path, checkpoint, **changes):
    """As their training code leaves it: Adam's state, and a NumPy number from scipy."""
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], lr=1e-4, weight_decay=1e-5)
    parameter.sum().backward()
    optimizer.step()
    content = {"epoch": 37, **checkpoint, "optimizer": optimizer.state_dict(), "rho_best": np.float64(0.7093)}
    torch.save(content | changes, path)
    return path


@pytest.fixture(scope="module")
def resnet18():
    return authors_model(SMALL, "none", *authors_backbone(SMALL))


@pytest.fixture
def file(resnet18, tmp_path):
    return authors_file(tmp_path / "best_model.pt", resnet18[0])


@pytest.mark.parametrize("name", [SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_scores_as_the_paper_restated(name, picture, tmp_path):
    """On the same preprocessed pictures: these are compared with torchvision's in test_transform.py and
    test_model.py, less closely, since float32 rounds them differently and random weights enlarge that."""
    if name in LARGE and shutil.disk_usage(tmp_path).free < 4e9:
        pytest.skip("needs 4 GB of disk: the file of ViT-L and what it is converted to")
    backbone, features = authors_backbone(name)
    # batch normalisation with random weights blows float32's rounding up a thousandfold
    dtype = torch.float32 if name.startswith("v") else torch.float64
    for reference in ("none", "full", "partial"):
        checkpoint, forward = authors_model(name, reference, backbone, features, dtype)
        path = authors_file(tmp_path / "best_model.pt", checkpoint)
        config = convert(
            path, tmp_path / "converted", reference="partial" if reference == "partial" else None,
            activation="relu",  # as torchvision's ResNet18 has; see test_activation.py for the authors'
        )  # fmt: skip
        assert (config.reference, config.backbone) == (reference, aigciqa.paper_config(name).backbone)
        metric = aigciqa.create_metric(tmp_path / "converted", device="cpu").to(dtype)
        size = config.transform.resize
        images, prompts = [picture(size, size + 9, seed=s) for s in (1, 2)], [picture(size + 5, size)] * 2
        generated, prompt = (
            torch.cat([preprocess(block, config.transform) for block in image.read(pictures)])
            for pictures in (images, prompts)
        )
        expected = forward(generated, prompt)
        got = metric(images, None if reference == "none" else prompts)
        assert (expected[0] - expected[1]).abs() > 0.05  # else this shows nothing
        assert torch.allclose(got, expected, rtol=0, atol=1e-5 * 5), (reference, got, expected)
    for large in (path, tmp_path / "converted" / "model.safetensors"):
        large.unlink()  # pytest keeps the folder


def test_says_where_it_comes_from(file, tmp_path):
    config = convert(file, tmp_path / "a", dimension="authenticity", labels="MOS of 20 raters", license="MIT")
    assert config == aigciqa.metric_info(tmp_path / "a")
    assert (config.name, config.dimensions, config.score_range) == ("nr-resnet18", ("authenticity",), (0, 5))
    facts = config.provenance
    assert facts["source"] == f"best_model.pt, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert (facts["labels"], facts["license"], facts["epoch"]) == ("MOS of 20 raters", "MIT", "37")
    assert facts["rho_best"].startswith("0.7093 ")
    unsaid = convert(file, tmp_path / "b", name="mine", score_range=(1, 10))
    assert (unsaid.name, unsaid.score_range, unsaid.provenance["license"]) == ("mine", (1, 10), "unknown")
    assert unsaid.provenance["labels"] == "ratings, as trained by the authors' code"
    assert unsaid.sha256 == config.sha256  # the same bytes each time


@pytest.mark.parametrize("module", [None, "numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_numpy_1_and_2(resnet18, tmp_path, module):
    """Whichever NumPy wrote the file, and whichever is here: the name in the pickle is rewritten to the other's."""
    before = torch.serialization.get_safe_globals()
    path = tmp_path / "best_model.pt"
    for rho in (np.float64(0.70930001), np.float32(-2.5)):
        # archives are checksummed, so only the older, plain format can be rewritten
        torch.save({**resnet18[0], "rho_best": rho}, path, _use_new_zipfile_serialization=module is None)
        if module:
            data, rewritten = re.subn(rb"numpy\._?core\.multiarray", module.encode(), path.read_bytes())
            assert rewritten == 1
            path.write_bytes(data)
        config = convert(path, tmp_path / "out")
        assert float(config.provenance["rho_best"].split()[0]) == pytest.approx(float(rho), abs=1e-6)
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_data_parallel(resnet18, tmp_path, file):
    wrapped = {
        part: {f"module.{key}": value for key, value in state.items()} for part, state in resnet18[0].items()
    }
    path = authors_file(tmp_path / "parallel.pt", wrapped)
    assert convert(path, tmp_path / "a").sha256 == convert(file, tmp_path / "b").sha256
    both = {**resnet18[0], "backbone": wrapped["backbone"] | resnet18[0]["backbone"]}
    with pytest.raises(CheckpointError, match="both with and without"):
        convert(authors_file(path, both), tmp_path / "c")


def changed(part, **tensors):
    """A tensor replaced, added, or (None) taken away."""

    def change(checkpoint):
        state = {**checkpoint[part], **{key.replace("__", "."): value for key, value in tensors.items()}}
        return {**checkpoint, part: {key: value for key, value in state.items() if value is not None}}

    return change


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (changed("backbone", layer1__0__conv1__weight=None), {}, "lacks 1 tensors.*layer1.0.conv1.weight"),
        (changed("backbone", layer5__weight=torch.ones(1)), {}, "unknown 1 tensors.*layer5.weight"),
        (changed("backbone", bn1__weight=torch.ones(65)), {}, "other shapes for 1 tensors.*bn1.weight"),
        (changed("backbone", bn1__weight=torch.full((64,), torch.nan)), {}, "NaN.*bn1.weight"),
        (changed("backbone", bn1__weight=[1.0]), {}, "bn1.weight.*not an ordinary tensor"),
        (changed("backbone", bn1__weight=torch.ones(64).to_sparse()), {}, "not an ordinary tensor"),
        (changed("backbone", bn1__weight=torch.ones(64, device="meta")), {}, "not an ordinary tensor"),
        (changed("regressor", fc3__weight=torch.ones(1, 1)), {}, "unknown 1 tensors.*fc3.weight"),
        (changed("regressor", fc2__weight=torch.ones(3, 256)), {}, "other shapes for 1 tensors.*fc2.weight"),
        (changed("regressor", fc1__weight=None), {}, "no matrix 'fc1.weight'"),
        (
            changed("regressor", fc1__weight=torch.ones(256, 768)),
            {},
            "768 features; on resnet18 it is 512 .* 1024",
        ),
        (lambda c: {"regressor": c["regressor"]}, {}, "no state dict 'backbone'.*'regressor'"),
        (lambda c: {**c, "regressor": {}}, {}, "no state dict 'regressor'"),
        (lambda c: {**c, "text_encoder": {"a": torch.ones(1)}}, {}, "holds text_encoder"),
        (lambda c: {**c, "rho_best": "high"}, {}, "rho_best is not a number"),
        (lambda c: {**c, "backbone": {"a.weight": torch.ones(1)}}, {}, "cannot tell the backbone"),
        (lambda c: c, {"backbone": "resnet50"}, "takes 512 features; on resnet50 it is 2048"),
        (lambda c: c, {"reference": "full"}, "not a FR checkpoint on resnet18: it has other shapes"),
        (lambda c: c, {"backbone": "resnet34"}, "none of the papers' backbones"),
    ],
)
def test_what_does_not_fit_is_refused(resnet18, tmp_path, change, options, reason):
    path = tmp_path / "best_model.pt"
    torch.save(change(resnet18[0]), path)
    with pytest.raises(CheckpointError, match=reason):
        convert(path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "best_model.pt"
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        convert(path, tmp_path / "out")
    for content in (b"", b"not a pickle", b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            convert(path, tmp_path / "out")
    torch.save([torch.ones(1)], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        convert(path, tmp_path / "out")


class Payload:
    """Unpickled by anything that executes pickles, it leaves a file."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "made",
    [
        lambda mark: Payload(os.mkdir, str(mark)),
        lambda mark: Payload(os.system, f"mkdir {mark}"),
        lambda mark: Payload(eval, f"__import__('os').mkdir({str(mark)!r})"),
        # within what is allowed: NumPy's names, with what they should not be given
        lambda mark: Payload(np.dtype, Payload(os.mkdir, str(mark))),
        lambda mark: Payload(np.float64(1).__reduce__()[0], np.dtype(object), Payload(os.mkdir, str(mark))),
    ],
)
def test_hostile_pickles_are_refused_and_do_not_run(resnet18, tmp_path, made, zipped):
    path, mark = tmp_path / "best_model.pt", tmp_path / "executed"
    torch.save({**resnet18[0], "epoch": made(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"nothing in it was executed.*more than tensors"):
        convert(path, tmp_path / "out")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    # the payload is live: it runs where a pickle is executed
    if not isinstance(made(mark).reduced[1][0], np.dtype):
        with contextlib.suppress(Exception):
            torch.load(path, weights_only=False)
        assert mark.exists()


def test_numpy_objects_stay_refused(resnet18, tmp_path):
    path = tmp_path / "best_model.pt"
    for rho in (np.array([0.5]), np.datetime64("2024-01-01"), np.array(["x"], object)[0:1]):
        torch.save({**resnet18[0], "rho_best": rho}, path)
        with pytest.raises(CheckpointError, match=r"refused|cannot be read"):
            convert(path, tmp_path / "out")
