"""A checkpoint comes from anybody: a hostile one is refused before memory or disk is spent, and runs nothing."""

import ast
import hashlib
import io
import json
import os
import pickle
import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from conftest import random_network, tiny_config

import aigciqa
from aigciqa.errors import CheckpointError
from aigciqa.weights import save_checkpoint

from .processes import in_process, open_checkpoints, trapped

MOST_BYTES = 100 << 20
MOST_SECONDS = 60  # of a machine that does other things beside
PACKAGE = Path(aigciqa.__file__).parent


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The config as a dict, the weights as bytes."""
    folder = tmp_path_factory.mktemp("good")
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    return json.loads((folder / "config.json").read_text()), (folder / "model.safetensors").read_bytes()


def safetensors(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def split(weights):
    length = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def hostile_configs(config):
    """Contents of config.json, by name."""
    text = json.dumps(config)

    def changed(**changes):
        return json.dumps(config | changes)

    def raw(key, value):  # what json.dumps does not write
        return text.replace(json.dumps({key: config[key]})[1:-1], f'"{key}": {value}')

    for i, name in enumerate(("../../x", "/etc/passwd", "a/b", "..\\x", "a\0b", "a\nb", "x" * 10_000, "")):
        yield f"name-{i}", changed(name=name)
        yield f"repo-{i}", changed(repo=name if name != "a/b" else "a/b/c")
        yield f"backbone-{i}", changed(backbone=name)
    for i, revision in enumerate(("../x", "a/../../x", "/x", "x\x1b[2J", "\ud800", "x" * 1000)):
        yield f"revision-{i}", changed(revision=revision)
    yield "backbone-unknown", changed(backbone="resnet1000000")
    yield "backbone-of-the-hub", changed(backbone="hf-hub:someone/evil")
    yield "backbone-local", changed(backbone="local-dir:/etc")
    for i, number in enumerate((0, -1, 10**9, 10**30, 65_537, 10**4000)):
        yield f"hidden-{i}", raw("hidden", number)
        yield f"cells-{i}", changed(feature="stages", cells=number)
        for key in ("resize", "crop"):
            yield f"{key}-{i}", changed(transform={"resize": 256, key: min(number, 10**30)})
    yield "hidden-digits", raw("hidden", "9" * 100_000)
    yield "crop-million", changed(transform={"resize": 10**6, "crop": 10**6})
    yield "tiles-giant", changed(feature="stages", transform={"resize": 4096, "crop": 4096, "tiles": 8})
    yield "tiles-many", changed(feature="stages", transform={"tiles": 10**6})
    for i, value in enumerate(
        ("NaN", "Infinity", "-Infinity", "1e999", "[0, NaN]", "[-1e308, 1e308]", "[0, 1, 2]")
    ):
        yield f"range-{i}", raw("score_range", value)
        yield f"hidden-number-{i}", raw("hidden", value)
    for value in ([0.0, 1, 1], [1e-300, 1, 1], [-1, 1, 1], [1, 1], ["1", 1, 1]):
        yield f"std-{value}", changed(transform={"std": value})
    fits = {(key, None) for key in ("activation", "hidden", "map_hidden", "repo", "revision")} | {
        ("bounded", True)
    }
    for key in config.keys() - {"format"}:
        for i, value in enumerate((None, True, 7.5, {"a": [1]}, [[1]], ["a", 1])):
            if not (isinstance(value, bool | None) and (key, value) in fits):  # the others cannot be hashed
                yield f"type-{key}-{i}", changed(**{key: value})
    yield "extra-key", changed(__class__="os.system")
    yield "extra-key-long", changed(**{"x" * 500_000: 1})
    yield "extra-in-transform", changed(transform={"pad": 1})
    yield "missing-key", json.dumps({k: v for k, v in config.items() if k != "reference"})
    yield "duplicate-key", text[:-1] + ', "backbone": "vgg16"}'
    yield "duplicate-in-transform", raw("transform", '{"crop": 64, "crop": 32}')
    yield "format-new", changed(format=2)
    yield "format-list", changed(format=[1])
    yield "deep", raw("provenance", "[" * 200_000 + "]" * 200_000)
    yield "deep-objects", raw("provenance", '{"a":' * 50_000 + "1" + "}" * 50_000)
    yield "long-value", changed(reference="x" * 900_000)
    yield "many-dimensions", changed(dimensions=[f"d{i}" for i in range(50_000)])
    yield "dimension-script", changed(dimensions=["<script>"])
    yield "dimension-formula", changed(dimensions=["=1+1"])
    yield "dimension-column", changed(dimensions=["quality", "quality"])
    yield "labels-escape", changed(provenance={"labels": "\x1b]0;gone\x07", "license": "x"})
    yield "labels-surrogate", changed(provenance={"labels": "\ud800", "license": "x"})
    yield "not-utf-8", text.encode().replace(b"tiny", b"\xff\xfe\xfd")
    yield "utf-16-half", text.encode("utf-16")[:-1]
    yield "zeros", bytes(5000)
    yield "empty", b""
    yield "pickle", pickle.dumps(config)
    yield "list", f"[{text}]"
    yield "cut", text[: len(text) // 2]


def hostile_weights(weights, marker):
    """Contents of model.safetensors, by name."""
    header, data = split(weights)
    name, first = next((k, v) for k, v in header.items() if k != "__metadata__" and len(v["shape"]) > 1)

    def changed(**changes):
        return safetensors(header | {name: first | changes}, data)

    def extra(count):
        return safetensors(
            {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} for i in range(count)}
        )

    for i in range(10):
        yield f"cut-{i}", weights[: len(weights) * i // 10]
    yield "seven-bytes", weights[:7]
    for i, length in enumerate((2**60, 2**63, 2**64 - 1, len(weights), 100 << 20, 0, 1)):
        yield f"header-length-{i}", struct.pack("<Q", length) + weights[8:]
    yield "header-of-spaces", safetensors(json.dumps(header).encode() + b" " * (50 << 20), data)
    yield "header-deep", safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "header-not-json", safetensors(b"\xff" * 100, data)
    yield "million-tensors", extra(1_000_000)
    yield "many-tensors", extra(60_000)
    end = first["data_offsets"][1]
    for i, offsets in enumerate(
        ([0, 4], [end, end], [0, 2**62], [end, 0], [-4, 4], [1e300, 4], [2**64, 2**65])
    ):
        yield f"offsets-{i}", changed(data_offsets=offsets)
    yield "overlap", safetensors(header | {"copy": first}, data)
    yield "gap", safetensors({k: v for k, v in header.items() if k != name}, data)
    for i, shape in enumerate(
        ([2**40, 2**40], [0, 2**62], first["shape"][::-1], [-1], [1.5], [], "x", [1] * 100_000)
    ):
        yield f"shape-{i}", changed(shape=shape)
    for dtype in ("I32", "U8", "BOOL", "F4", "C64", "F64", "OBJECT", "", 7, None):
        yield f"dtype-{dtype}", changed(dtype=dtype)
    yield from (
        (f"tensors-{kind}", made)
        for kind, made in (
            ("int", retyped(weights, torch.int32)),
            ("int64", retyped(weights, torch.int64)),
            ("bool", retyped(weights, torch.bool)),
            ("complex", retyped(weights, torch.complex64)),
            ("nan", filled(weights, float("nan"))),
            ("infinite", filled(weights, float("-inf"))),
            ("one-more", with_tensors(weights, {"evil": torch.zeros(1)})),
            ("none", safetensors({})),
        )
    )
    yield "metadata", safetensors(header | {"__metadata__": {"format": 1}}, data)
    yield (
        "duplicate-tensor",
        safetensors(json.dumps(header).encode()[:-1] + b', "' + name.encode() + b'": 1}', data),
    )
    torch.save({"x": torch.zeros(2)}, marker.with_name("saved.pt"))
    yield "torch-save", marker.with_name("saved.pt").read_bytes()
    for protocol in (0, 2, 5):
        yield f"pickle-{protocol}", pickle.dumps(Payload(marker), protocol)
    yield "page", b"<!doctype html><title>404</title>" * 100


def with_tensors(weights, more):
    from safetensors.torch import load, save

    return save(load(weights) | more)


def retyped(weights, dtype):
    from safetensors.torch import load, save

    return save({k: v.to(dtype) for k, v in load(weights).items()})


def filled(weights, value):
    from safetensors.torch import load, save

    state = load(weights)
    name = min(k for k, v in state.items() if v.is_floating_point())
    state[name].view(-1)[-1] = value
    return save(state)


def hostile_files(folder, config, weights):
    """Things that are no files, or giant ones, under the names of a checkpoint: (name, what to make it of)."""
    giant = folder.parent / "giant"
    with giant.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    big = folder.parent / "big"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    secret = folder.parent / "secret"
    secret.write_text('{"password": "of-somebody"}')
    for target in ("config.json", "model.safetensors"):
        places = {
            "pipe": os.mkfifo,
            "folder": Path.mkdir,
            "gone": lambda path: path.symlink_to("gone"),
            "loop": lambda path: path.symlink_to(path.name),
            "device": lambda path: path.symlink_to("/dev/zero"),
            "random": lambda path: path.symlink_to("/dev/urandom"),
            "giant": lambda path: path.symlink_to(giant),
            "big": lambda path: path.symlink_to(big),
            "secret": lambda path: path.symlink_to(secret),
            "long": lambda path: path.symlink_to("x" * 300),
        }
        for name, make in places.items():
            place = folder / f"{target}-{name}"
            place.mkdir()
            for other, content in (
                ("config.json", json.dumps(config).encode()),
                ("model.safetensors", weights),
            ):
                if other != target:
                    (place / other).write_bytes(content)
            make(place / target)
            yield place


def gigantic(config, weights):
    """Configs of networks that nobody's memory holds, with a small file of weights, and one with a long header."""
    for backbone in (
        "vit_giant_patch14_224",
        "eva02_enormous_patch14_clip_224",
        "convnext_xxlarge",
        "regnety_2560",
    ):
        yield f"backbone-{backbone}", config | {"backbone": backbone, "transform": {}}, weights
    wide = {"backbone": "resnet50", "feature": "stages", "cells": 8, "hidden": 65536, "reference": "full"}
    yield "wide", config | wide | {"transform": {"tiles": 8}}, weights
    long = safetensors(json.dumps(split(weights)[0]).encode() + b" " * (50 << 20), b"")
    yield "wide-long-header", config | wide | {"transform": {"tiles": 8}}, long


@pytest.fixture(scope="module")
def refused(good, tmp_path_factory):
    """Every hostile checkpoint, opened in one process of little memory: what came of each, by its name."""
    folder = tmp_path_factory.mktemp("hostile")
    config, weights = good
    marker = tmp_path_factory.mktemp("marker") / "run"
    places = []

    def make(name, text, content):
        place = folder / name
        place.mkdir()
        (place / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        (place / "model.safetensors").write_bytes(content)
        places.append(place)

    def pinned(changed, content):
        return json.dumps(changed | {"sha256": hashlib.sha256(content).hexdigest()})

    for name, text in hostile_configs(config):
        make(
            f"config-{hashlib.md5(name.encode()).hexdigest()[:4]}-{name[:40].replace('/', '')}", text, weights
        )
    for name, content in hostile_weights(weights, marker):
        make(f"weights-{name}", pinned(config, content), content)
    for name, changed, content in gigantic(config, weights):
        make(f"gigantic-{name}", pinned(changed, content), content)
    files = folder / "files"
    files.mkdir()
    places += hostile_files(files, config, weights)
    report = folder / "report"
    assert in_process(open_checkpoints, [*map(str, places)], report) == 0, "a checkpoint ended the process"
    found = map(json.loads, report.read_text().splitlines())
    return dict(zip((p.relative_to(folder).as_posix() for p in places), found, strict=True)), marker


def test_hostile_checkpoints_are_refused(refused, tally):
    found, marker = refused
    wrong = {name: f for name, f in found.items() if f["error"] != "CheckpointError"}
    assert not wrong
    assert not marker.exists()
    for name, f in found.items():
        assert f["says"] and len(f["says"]) < 2000, name
        assert f["says"].isprintable() or "\n" in f["says"], name
        assert "\x1b" not in f["says"] and "of-somebody" not in f["says"], name
    assert len(found) > 200
    tally("checkpoints: hostile ones refused", inputs=len(found))


def test_they_take_no_memory_and_no_time(refused):
    found, _ = refused
    for name, f in found.items():
        assert f["bytes"] < MOST_BYTES, (name, f)
        assert f["seconds"] < MOST_SECONDS, (name, f)


def test_the_file_of_a_folder_stays_whatever_its_checksum(good, tmp_path):
    """Only what is in the Hub's cache is removed when it is damaged; a link elsewhere is not followed to remove."""
    config, weights = good
    (tmp_path / "mine").write_bytes(weights + b"x")
    place = tmp_path / "checkpoint"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").symlink_to(tmp_path / "mine")
    with pytest.raises(CheckpointError):
        aigciqa.create_metric(place, device="cpu").load()
    assert (tmp_path / "mine").exists()
    (tmp_path / "mine").write_bytes(
        weights
    )  # a link as such is no harm: the Hub's cache has its files like this
    assert aigciqa.create_metric(place, device="cpu").load().loaded


def sources():
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def test_nothing_in_the_package_unpickles():
    """By reading it: no pickle, and no loader that unpickles unless it is told not to.

    One file may look through pickles for the sizes that they announce; the test below sees that it builds nothing.
    """
    calls = 0
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name.split(".")[0] for a in node.names} | {
                    (getattr(node, "module", "") or "").split(".")[0]
                }
                names -= {"pickle"} if path.parts[-2:] == ("training", "torchfile.py") else set()
                assert not names & {
                    "pickle",
                    "_pickle",
                    "cPickle",
                    "dill",
                    "joblib",
                    "shelve",
                    "marshal",
                    "cloudpickle",
                }, (
                    path,
                    names,
                )
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called.split(".")[-2:] in (["torch", "load"], ["torch", "_load"]):
                calls += 1
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
            assert "allow_pickle" not in given or given["allow_pickle"] == "False", f"{path}:{node.lineno}"
            assert given.get("weights_only", "True") == "True", f"{path}:{node.lineno}"
            assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load"), f"{path}:{node.lineno}"
            assert not called.endswith((".read_pickle", ".load_checkpoint", "Unpickler")), (
                f"{path}:{node.lineno}"
            )
    assert calls >= 2  # it has looked at those that there are


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_looking_for_sizes_builds_nothing(tmp_path, protocol):
    from aigciqa.training.torchfile import _announced

    data = pickle.dumps({"a": Touches(tmp_path / "built"), "b": Fraction(1, 2)}, protocol)
    assert _announced(io.BytesIO(data), pickles=1) == 0
    assert not (tmp_path / "built").exists()
    pickle.loads(data)  # the pickle is one that would
    assert (tmp_path / "built").exists()


def load_and_score(folder, pictures, out):
    from aigciqa.cli import score

    metric = aigciqa.create_metric(folder, device="cpu")
    metric(pictures)
    list(metric.score_files(pictures))
    for name in ("nr-aigciqa", folder):
        for kind in ("csv", "parquet"):
            arguments = [
                *pictures,
                "--metric",
                name,
                "-o",
                f"{out}/{Path(name).name}.{kind}",
                "--html",
                f"{out}/p.html",
            ]
            assert score.main(arguments, standalone_mode=False) == 0
    bad = Path(out, "bad")
    bad.mkdir()
    Path(bad, "config.json").write_bytes(Path(folder, "config.json").read_bytes())
    Path(bad, "model.safetensors").write_bytes(pickle.dumps(Path))
    with pytest.raises(CheckpointError):
        aigciqa.create_metric(str(bad), device="cpu").load()


def test_nothing_is_unpickled_while_loading_and_scoring(tiny, picture, tmp_path):
    """By a trap: an audit hook that no unpickler passes, in a process of its own."""
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, name in enumerate(names):
        picture(seed=i).save(name)
    report = tmp_path / "report"
    assert in_process(trapped, load_and_score, (str(tiny()), names, str(tmp_path)), report) == 0
    assert json.loads(report.read_text()) == []
