"""The promises of docs/security.md are kept by tests that exist, and the declared dependencies by what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from packaging.requirements import Requirement

import aigciqa
from aigciqa import image

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
TEST = r"`(tests/[\w/]+\.py::\w+)`"
UNVERSIONED = {"types-tqdm", "types-PyYAML", "pandas-stubs", "scipy-stubs"}  # only annotations


def missing(tests, session):
    """Which of these tests pytest does not find."""
    names = set()
    for file in sorted({test.split("::")[0] for test in tests}):
        for test in pytest.Module.from_parent(session, path=ROOT / file).collect():
            names.add(f"{file}::{getattr(test, 'originalname', test.name)}")
    return sorted(set(tests) - names)


def test_the_tests_that_keep_the_promises_exist(request):
    tests = re.findall(TEST, PAGE.read_text())
    assert len(tests) > 30
    renamed = "tests/test_promises.py::test_that_was_renamed"
    assert missing([*tests, renamed], request.session) == [renamed]


def test_every_promise_names_its_tests():
    promises = re.findall(r"^- (.+?)(?=^- |^$)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(promises) > 15
    assert [promise for promise in promises if not re.search(TEST, promise)] == []


def floors(*left_out):
    command = [sys.executable, ROOT / ".ci" / "floors.py", *left_out]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.split(), done.stderr


def test_every_dependency_has_a_floor():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [table["dependencies"], *table["optional-dependencies"].values()]
    declared = {r.name for group in groups for r in map(Requirement, group)} - UNVERSIONED - {"aigciqa"}
    code, found, _ = floors()
    assert code == 0
    assert {line.split("==")[0] for line in found} == declared
    assert "pillow==10.3" in found
    code, found, _ = floors("torch", "torchvision")
    assert code == 0
    assert {line.split("==")[0] for line in found} == declared - {"torch", "torchvision"}
    code, found, says = floors("tensorflow")
    assert (code, found) == (1, [])
    assert "declares no floor of tensorflow" in says


@pytest.mark.parametrize("gone", ["decoder", "module"])
def test_scores_are_the_same_without_torchvisions_decoder(gone, tiny, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(image, "LARGE", 0)  # so that this small one is decoded as a large one is
    path = tmp_path / "a.jpg"
    picture(120, 90).save(path, quality=90)
    metric = aigciqa.create_metric(tiny(), device="cpu")
    asked = []
    decode = torchvision.io.decode_jpeg
    with monkeypatch.context() as watched:
        watched.setattr(torchvision.io, "decode_jpeg", lambda *a, **k: asked.append(a) or decode(*a, **k))
        expected = metric(path)
    assert asked
    if gone == "decoder":
        monkeypatch.delattr(torchvision.io, "decode_jpeg")
    else:
        monkeypatch.delattr(torchvision, "io")
        monkeypatch.setitem(sys.modules, "torchvision.io", None)
    assert torch.equal(metric(path), expected)
