"""The stamp in every row of results changes with whatever changes scores, and with nothing else."""

import csv
import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import EXAMPLES, random_network, tiny_config
from onnx import helper
from torture.graphs import model, scored

import aigciqa
from aigciqa.catalogue import report_command
from aigciqa.cli import score as command
from aigciqa.config import MetricConfig, Transform
from aigciqa.errors import CheckpointError
from aigciqa.onnx import OnnxNetwork
from aigciqa.runs import read_run
from aigciqa.stamp import config_digest, stamp_fits, stamp_of
from aigciqa.weights import save_checkpoint

PICTURE = EXAMPLES / "gen.png"
STAGES = tiny_config(feature="stages", cells=2, transform=Transform(72, 64, tiles=2), map_hidden=8)
DECIDES = {
    "reference": "partial", "backbone": "test_resnet", "feature": "token", "cells": 3, "tile_backbone": True,
    "hidden": 7, "map_hidden": 9, "dimensions": ("authenticity", "quality"), "score_range": (0.0, 100.0),
    "bounded": True, "transform": Transform(72, 64, tiles=3), "sha256": "f" * 64, "name": "other", "revision": "v9",
    "activation": "leaky_relu",
}  # fmt: skip
DOES_NOT = {"repo": "org/other", "provenance": {"labels": "others", "license": "MIT"}}


@pytest.mark.parametrize("name", [f.name for f in fields(MetricConfig)])
def test_each_field_of_a_config(name):
    changed = {"cells": 1, "map_hidden": None} if name in ("reference", "feature") else {}
    if name == "feature":
        changed["transform"] = Transform(72, 64)
    if name == "activation":  # which only these networks have
        changed["backbone"] = "resnet18"
    begun = STAGES.with_(**changed)
    stamp = begun.with_(**{name: (DECIDES | DOES_NOT)[name]}).stamp
    assert (stamp != begun.stamp) == (name in DECIDES)


@pytest.mark.parametrize("name", [f.name for f in fields(Transform)])
def test_each_field_of_a_transform(name):
    values = {"resize": 73, "crop": 63, "mean": (0.485, 0.456, 0.4061), "std": (0.3, 0.3, 0.3), "tiles": 1}
    there = {f.name: getattr(STAGES.transform, f.name) for f in fields(Transform)}
    changed = STAGES.with_(transform=Transform(**there | {name: values[name]}))
    assert changed.stamp != STAGES.stamp and changed.stamp.split()[:2] == STAGES.stamp.split()[:2]


def test_how_a_config_is_written_does_not_matter():
    data = json.loads(STAGES.to_json())
    assert data["score_range"] == [0.0, 5.0] and data["hidden"] is None
    again = {key: data[key] for key in reversed(data) if key not in ("hidden", "bounded", "tile_backbone")}
    del again["transform"]["mean"], again["transform"]["std"]
    again["score_range"] = [-0.0, 5]
    assert MetricConfig.from_json(json.dumps(again, indent=7)).stamp == STAGES.stamp


def test_stamps_stay_the_same_from_release_to_release():
    """A result file must go on after an upgrade, so this digest may never change."""
    assert config_digest(STAGES) == "ad3253ad1736"
    assert stamp_of(
        tiny_config(sha256="0123456789abcdef" * 4, revision="v1"), "fp16", "fedcba9876543210"
    ) == ("tiny-none@v1 sha256:0123456789ab config:f736e6183479 onnx:fedcba987654 fp16")


def test_a_stamp_fits_its_own_config():
    for stamp in (stamp_of(STAGES), stamp_of(STAGES, "bf16"), stamp_of(STAGES, "bf16", "0" * 64)):
        assert stamp_fits(stamp, STAGES)
        assert not stamp_fits(stamp, STAGES.with_(bounded=True))
        assert not stamp_fits(stamp[: len(STAGES.stamp) - 1], STAGES)
    assert not stamp_fits(f"{STAGES.stamp}a", STAGES) and not stamp_fits("", STAGES)
    assert not stamp_fits(stamp_of(STAGES), STAGES, "0" * 64)


# -- in results


def call(*arguments, code=0, command=command):
    result = CliRunner().invoke(command, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def checkpoints(tmp_path):
    """Three of the same weights: one, its copy, and the copy's with another mean."""
    config = tiny_config()
    state = random_network(config).state_dict()
    folders = [tmp_path / name for name in ("one", "copy", "mean")]
    for folder in folders:
        config = save_checkpoint(folder, config, state)
    other = config.with_(transform=Transform(72, 64, mean=(0.3, 0.3, 0.3)))
    (folders[2] / "config.json").write_text(other.to_json())
    return folders


def stamps_in(path):
    with path.open(newline="") as file:
        return {row["metric"] for row in csv.DictReader(file)}


def test_another_mean_does_not_go_on_in_the_file(checkpoints, tmp_path):
    one, copy, mean = checkpoints
    out = tmp_path / "out.csv"
    cpu = ("--device", "cpu", "-o", out)
    call(PICTURE, "--metric", one, *cpu)
    assert stamps_in(out) == {aigciqa.metric_info(one).stamp}
    call(PICTURE, "--metric", copy, *cpu)
    before = out.read_bytes()
    assert aigciqa.metric_info(mean).sha256 == aigciqa.metric_info(one).sha256
    said = call(PICTURE, "--metric", mean, *cpu, code=2).output
    assert f"holds scores of {aigciqa.metric_info(one).stamp}; write to another file" in said
    assert out.read_bytes() == before


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_results_from_before_the_config_was_in_the_stamp(ending, checkpoints, tmp_path):
    from aigciqa.results import open_results

    config = aigciqa.metric_info(checkpoints[0])
    old, out = f"{config.name}@local sha256:{config.sha256[:12]}", tmp_path / f"out.{ending}"
    row = aigciqa.create_metric(checkpoints[0], device="cpu").score_files([PICTURE])
    with open_results(out, config.dimensions, old) as results:
        results.write(list(row))
    said = call(PICTURE, "--metric", checkpoints[0], "--device", "cpu", "-o", out, code=2).output
    assert f"holds scores of {old}; write to another file" in said


def test_another_graph_does_not_go_on_in_the_file(tmp_path):
    """Of the same config and the same claimed weights."""
    out, files = tmp_path / "out.csv", [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    same = helper.make_node("Identity", ["nothing"], ["other"])
    for file, added in zip(files, (0, 0.25), strict=True):
        onnx.save(scored(same, nothing=np.array([added], np.float32)), file)
    call(PICTURE, "--metric", files[0], "-o", out)
    (stamp,) = stamps_in(out)
    network = OnnxNetwork(files[0])
    assert stamp == f"{network.config.stamp} onnx:{network.sha256[:12]}"
    said = call(PICTURE, "--metric", files[1], "-o", out, code=2).output
    assert f"holds scores of {stamp}; write to another file" in said
    (tmp_path / "moved.onnx").write_bytes(files[0].read_bytes())
    call(PICTURE, "--metric", tmp_path / "moved.onnx", "-o", out)  # its name does not matter


def test_pytorch_and_its_export_are_told_apart(checkpoints, tmp_path):
    config = aigciqa.metric_info(checkpoints[0]).with_(bounded=True)
    (checkpoints[0] / "config.json").write_text(config.to_json())
    out, graph = tmp_path / "out.csv", tmp_path / "m.onnx"
    onnx.save(model(config=config), graph)
    call(PICTURE, "--metric", checkpoints[0], "--device", "cpu", "-o", out)
    said = call(PICTURE, "--metric", graph, "-o", out, code=2).output
    assert f"holds scores of {config.stamp}; write to another file" in said
    found = json.loads(call(PICTURE, "--metric", graph, "--json").stdout)
    assert found["stamp"] == stamp_of(config, onnx=OnnxNetwork(graph).sha256)
    assert (found["sha256"], found["revision"]) == (config.sha256, None)


@pytest.mark.slow
def test_an_export_for_one_run_is_the_same_in_every_process(checkpoints, tmp_path):
    """Else a run with --engine onnx could not go on."""
    out = tmp_path / "out.csv"
    arguments = [PICTURE, "--metric", checkpoints[0], "--engine", "onnx", "-o", out]
    code = "import sys; from aigciqa.cli import score; score.main(sys.argv[1:])"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed, "PATH": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert " onnx:" in stamps_in(out).pop()


def test_reports_of_exported_metrics(tmp_path):
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    onnx.save(model(), files[0])
    onnx.save(model(doc_string="another"), files[1])
    out, page = tmp_path / "out.csv", tmp_path / "page.html"
    call(PICTURE, "--metric", files[0], "-o", out)
    said = call(out, "--html", page, command=report_command, code=2).output
    assert "say where that checkpoint is with --metric" in said
    call(out, "--html", page, "--metric", files[0], command=report_command)
    assert f"onnx:{OnnxNetwork(files[0]).sha256[:12]}" in page.read_text()
    with pytest.raises(CheckpointError, match=r"was scored by .* not by .*onnx:"):
        read_run(out).config(str(files[1]))


def test_a_metric_says_its_precision(checkpoints):
    metric = aigciqa.create_metric(checkpoints[0], device="cpu")
    plain = aigciqa.metric_info(checkpoints[0]).stamp
    assert (metric.stamp, metric.loaded) == (plain, False)
    for change, says in ((metric.half, " fp16"), (metric.bfloat16, " bf16"), (metric.double, " float64")):
        assert change().stamp == plain + says
    assert metric.float().stamp == plain


# -- where another process opens the checkpoint again


def with_another_mean(folder):
    config = aigciqa.metric_info(folder)
    other = config.with_(transform=Transform(72, 64, mean=(0.3, 0.3, 0.3)))
    (folder / "config.json").write_text(other.to_json())


def test_datasets_notice_that_the_checkpoint_is_another(checkpoints):
    pytest.importorskip("datasets")
    from aigciqa.integrations.datasets import score_batch

    arguments = {"source": checkpoints[0], "device": "cpu"}
    first, late = score_batch(arguments), score_batch(arguments)
    begun = aigciqa.metric_info(checkpoints[0]).stamp
    assert first({"image": [str(PICTURE)]})["metric"] == [begun]
    with_another_mean(checkpoints[0])
    with pytest.raises(CheckpointError, match="when score_batch was called"):
        late({"image": [str(PICTURE)]})


@pytest.mark.slow
def test_ray_actors_notice_that_the_checkpoint_is_another(checkpoints):
    pytest.importorskip("ray")
    code = (
        "import sys, pyarrow, aigciqa; from aigciqa.integrations import ray; from test_stamp import with_another_mean\n"
        "how = {'on_error': 'row', 'workers': 1, 'compiled': False}\n"
        "job = ray._Job(sys.argv[1], False, 1, 'bf16', how)\n"
        "table = pyarrow.table({'picture': [sys.argv[2]]})\n"
        "print(*ray._Actor(job)(table)['metric'].to_pylist())\n"
        "from pathlib import Path; with_another_mean(Path(sys.argv[1]))\n"
        "ray._Actor(job)(table)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoints[0], PICTURE], capture_output=True, text=True,
        cwd=EXAMPLES.parent / "tests",
    )  # fmt: skip
    assert done.stdout.strip() == f"{aigciqa.metric_info(checkpoints[1]).stamp} bf16", done.stderr
    assert "CheckpointError: an actor opened" in done.stderr
