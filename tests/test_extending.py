"""docs/extending.md: its code blocks, run as they stand, add a metric, a data set and a backbone."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import ImageFilter
from scipy.stats import spearmanr

import aigciqa
from aigciqa import weights

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
METRIC, MANIFEST, FORMAT, BACKBONE, USE = BLOCKS


def run(block):
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_under_thirty_lines():
    assert max(block.count("\n") for block in (METRIC, MANIFEST, FORMAT, BACKBONE + USE)) < 40
    assert all(block.count("\n") < 30 for block in BLOCKS)


def test_metric(picture, tmp_path, monkeypatch, one_thread):
    lines = ["picture,mos"]
    for seed in range(8):
        for blur in range(3):
            name = f"{seed}-{blur}.png"
            picture(64, 64, seed).filter(ImageFilter.GaussianBlur(2 * blur)).save(tmp_path / name)
            lines.append(f"{name},{5 - 2 * blur}")
    (tmp_path / "ratings.csv").write_text("\n".join(lines))
    picture(64, 64, 99).save("new.png")
    mine = run(METRIC)["mine"]
    assert mine.score_range == (0.0, 5.0)
    scores, labels = [], []
    for seed in range(100, 103):  # pictures that it has not seen
        for blur in range(3):
            scores.append(mine(picture(64, 64, seed).filter(ImageFilter.GaussianBlur(2 * blur))).item())
            labels.append(-blur)
    assert spearmanr(scores, labels).statistic > 0.6  # 0.95 at most, since labels are tied

    # as a named metric: a folder beside the packaged ones, and nothing else
    shutil.copytree("runs/my-metric", tmp_path / "packaged/my-metric")
    monkeypatch.setattr(weights, "PACKAGED", tmp_path / "packaged")
    assert aigciqa.list_metrics() == ["my-metric"]
    assert torch.equal(aigciqa.create_metric("my-metric")("new.png"), mine("new.png"))


def test_manifest(picture, tmp_path):
    (tmp_path / "theirs").mkdir()
    picture().save("theirs/a.png")
    (tmp_path / "theirs/ratings.csv").write_text("file,mean,prompt_id\na.png,80,7\n")
    rated = run(MANIFEST)["rated"]
    assert (rated.labels["quality"].tolist(), rated.groups) == ([80.0], ["7"])
    assert rated.score_range == (0, 100)


def test_format(picture, tmp_path):
    from aigciqa.training import formats

    for name in ("prompts/7.png", "sd/7_0.png", "mj/7_1.png"):
        (tmp_path / "my-set" / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / "my-set" / name)
    (tmp_path / "my-set/scores.csv").write_text("image,mos,votes\nsd/7_0.png,3,20\nmj/7_1.png,9.5,21\n")
    try:
        rated = run(FORMAT)["rated"]
    finally:
        formats.FORMATS.pop("my-set", None)
    assert (rated.generators, rated.groups, rated.score_range) == (["sd", "mj"], ["7", "7"], (1.0, 10.0))
    assert rated.references == [Path("my-set/prompts/7.png")] * 2
    assert rated.labels["quality"].tolist() == [3.0, 9.5]


def test_backbone(picture, tmp_path, monkeypatch, capsys, one_thread):
    (tmp_path / "my_backbone.py").write_text(BACKBONE)
    monkeypatch.syspath_prepend(tmp_path)
    picture().save("new.png")
    picture(seed=1).save("prompt.png")
    run(USE)
    assert "tensor([" in capsys.readouterr().out
    config = aigciqa.metric_info("runs/mine")
    assert (config.backbone, config.hidden) == ("my_net", None)
    fr = aigciqa.create_metric("runs/mine")
    assert fr.network.width == 48
    assert not torch.equal(fr("new.png", "prompt.png"), fr("new.png", "new.png"))
