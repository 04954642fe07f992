"""The network for tiles learns from ladders what damage looks like; the one for whole pictures stays as it is."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from aigciqa import MetricConfig
from aigciqa.config import Transform
from aigciqa.errors import InputError
from aigciqa.model import Network
from aigciqa.training import tuning
from aigciqa.training.data import load
from aigciqa.training.initial import NET, TILES, initial_network
from aigciqa.training.tuning import FIXED, LADDERS, ladders_of, tiles_of, tune

CONFIG = MetricConfig(
    "tuned",
    "none",
    "tf_efficientnet_lite0",
    feature="stages",
    cells=2,
    tile_backbone=True,
    transform=Transform(64, 64, tiles=2),
)


def picture(rng, side=176):
    rough = rng.integers(0, 256, (11, 11, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + rng.normal(0, 20, (side, side, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ladders of blur, and photographs that are the worse the more they are blurred."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    rows, photographs = [], []
    for number in range(LADDERS + 1):
        first = picture(rng)
        for level in range(3):
            name = f"{number}-{level}.png"
            first.filter(ImageFilter.GaussianBlur(level)).save(folder / name)
            kind = "blur" if level else "pristine"
            ladder = f"{number}-blur" if level else ""
            rows.append((name, f"{number}-0.png", f"g{number}", kind, ladder, level, 4.5 - 1.5 * level))
            photographs.append((name, f"g{number}", 4.0 - level))
    columns = ["picture", "reference", "group", "generator", "ladder", "level", "quality"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "synthetic.csv", index=False)
    pd.DataFrame(photographs, columns=["picture", "group", "quality"]).to_csv(
        folder / "photographs.csv", index=False
    )
    torch.manual_seed(1)
    net = Network(CONFIG).backbone.net
    save_file(net.state_dict(), folder / "before.safetensors")
    return folder


def run(data, out, **changes):
    synthetic, photographs = (
        load(data / f"{name}.csv", score_range=(0.0, 5.0)) for name in ("synthetic", "photographs")
    )
    said = []
    given = {"epochs": 2, "report": said.append} | changes
    tune(CONFIG, str(data / "before.safetensors"), synthetic, photographs, out, **given)
    return initial_network(CONFIG, str(out)).state_dict(), said


def test_a_ladder_begins_with_the_pristine_picture(data):
    rated = load(data / "synthetic.csv", score_range=(0.0, 5.0))
    assert ladders_of(rated)[1] == [3, 4, 5]
    without = rated.subset([row for row in range(len(rated)) if row != 3])
    assert len(ladders_of(without)) == LADDERS  # nothing to compare the second with


def test_tiles_of_a_ladder_lie_where_the_damage_is_and_at_one_place(tmp_path):
    """Pictures whose pixels say where they are, and the last damaged in a corner."""
    side = 400
    rows, columns = np.indices((side, side))
    pixels = np.stack([rows // 2, columns // 2, np.zeros_like(rows)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    pixels = pixels.copy()
    pixels[:200, :200, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "1.png")
    shown = []
    for seed in range(20):
        first, last = tiles_of([tmp_path / "0.png", tmp_path / "1.png"], np.random.default_rng(seed))
        assert first.shape == (3, tuning.TILE, tuning.TILE)
        assert (first[:2] == last[:2]).all()
        assert not first[2].any()
        shown.append(last[2].float().mean().item() / 255)
    assert np.mean(shown) > 0.4  # a tile anywhere would show .25
    Image.new("RGB", (100, 300)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="100 x 300, and tuning needs pictures of at least 160 pixels"):
        tiles_of([tmp_path / "small.png"], np.random.default_rng(0))


def test_tuning_moves_what_sees_tiles_and_nothing_else(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "WARM_UP", 1)
    monkeypatch.setattr(tuning, "SAID_EVERY", 1)
    made, said = run(data, tmp_path / "tuned", epochs=6)
    before = initial_network(CONFIG, str(data / "before.safetensors")).state_dict()
    moved = 0
    for name, tensor in made.items():
        own = name.removeprefix(TILES)
        if name.startswith("head"):
            continue
        same = torch.equal(tensor, before[name])
        if not name.startswith(TILES) or own.startswith(FIXED) or "running" in own or "num_batches" in own:
            assert same, name
        elif own.endswith("conv_dw.weight"):
            assert not same, name
            moved += 1
        if name.startswith(TILES):  # it began as the network for whole pictures
            assert torch.equal(before[name], before[NET + own])
    assert moved == 8
    terms = [dict(zip(line.split()[2::2], line.split()[3::2], strict=False)) for line in said]
    assert float(terms[-1]["ladders"]) < float(terms[0]["ladders"])
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_tuning_that_was_stopped_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SAID_EVERY", 1)
    whole, _ = run(data, tmp_path / "whole")
    said = []

    def stop(line):
        said.append(line)
        if line.startswith("tuning 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "stopped", report=stop)
    assert not (tmp_path / "stopped").exists()
    again, lines = run(data, tmp_path / "stopped")
    assert [line.partition(":")[0] for line in lines] == ["tuning 2/2"]
    for name, tensor in whole.items():
        assert name.startswith("head") or torch.equal(again[name], tensor), name


def test_too_little_to_learn_from_is_refused(data, tmp_path):
    synthetic = load(data / "synthetic.csv", score_range=(0.0, 5.0)).subset(range(6))
    photographs = load(data / "photographs.csv", score_range=(0.0, 5.0))
    with pytest.raises(InputError, match="tuning needs at least 8 ladders, and photographs"):
        tune(CONFIG, "random", synthetic, photographs, tmp_path / "out")
