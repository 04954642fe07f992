"""Learning to see where a picture was damaged."""

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image

from aigciqa import InputError, create_metric
from aigciqa.config import Transform
from aigciqa.model import Network
from aigciqa.stages import MapHead
from aigciqa.training import localising
from aigciqa.training.localising import Example, damaged_in, fit, random_box, reduced, train_map_head
from aigciqa.weights import load_weights, save_checkpoint

TILED = {"feature": "stages", "cells": 1, "transform": Transform(resize=64, crop=64, tiles=2)}


def grain(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return np.array(
        Image.fromarray(rng.integers(0, 256, (height // 3, width // 3, 3), np.uint8)).resize((width, height))
    )


def test_boxes_have_the_wanted_shares_and_detail():
    pixels = grain(400, 600)
    pixels[:, :300] = 128
    for seed in range(20):
        left, top, width, height = random_box(pixels, np.random.default_rng(seed), (1 / 4, 1 / 3))
        assert 100 <= height <= 134 and 150 <= width <= 200
        assert 0 <= top <= 400 - height and 0 <= left <= 600 - width
        assert left + width > 300  # the left half shows no damage
    assert random_box(np.full((400, 600, 3), 9, np.uint8), np.random.default_rng(0), (1 / 4, 1 / 3)) is None


@pytest.mark.parametrize("soft", [False, True])
def test_only_the_box_is_damaged(soft):
    pixels, box = grain(200, 300), (40, 60, 120, 80)
    case = damaged_in(pixels, box, "white_noise", 4, [1], soft)
    changed = (case.damaged != case.clean).any(2)
    assert changed[60:140, 40:160].mean() > 0.9 - 0.5 * soft
    changed[60:140, 40:160] = False
    assert not changed.any()
    apart = abs(case.damaged.astype(float) - case.clean).mean(2)
    edge, middle = apart[60, 40:160].mean(), apart[90:110, 80:120].mean()
    assert (edge < 0.3 * middle) == soft


def test_photographs_are_reduced_and_not_enlarged(tmp_path):
    Image.fromarray(grain(600, 900)).save(tmp_path / "a.png")
    assert reduced(tmp_path / "a.png", 300).shape == (300, 450, 3)
    assert reduced(tmp_path / "a.png", 900).shape == (600, 900, 3)


def example(rng, place, windows=8, width=6):
    """Windows of noise, of which those at a place have more of one feature."""
    seen = rng.normal(3, 2, (windows, windows, width)).astype(np.float16)
    inside = np.zeros((windows, windows), np.float16)
    if place is not None:
        row, column = place
        inside[row : row + 3, column : column + 3] = 1
        seen[row : row + 3, column : column + 3, 2] += 8
    return Example(seen, np.stack([inside, inside / 2], 2), inside)


def test_what_is_learned_finds_damage_and_says_what_it_costs(one_thread):
    rng = np.random.default_rng(0)
    places = [None if i % 3 == 0 else tuple(rng.integers(0, 6, 2)) for i in range(200)]
    state = fit([example(rng, place) for place in places], outputs=2, hidden=16, epochs=50, seed=0)
    head = MapHead(6, 16, 2)
    head.load_state_dict(state)
    found, inside, outside = [], [], []
    for _ in range(20):
        row, column = rng.integers(0, 6, 2)
        one = example(rng, (row, column))
        with torch.no_grad():
            said = head(torch.from_numpy(one.windows).float()[None])[0]
        within = torch.from_numpy(one.inside) > 0
        found.append(bool(within.flatten()[said[0].argmax()]))
        inside.append(said[:, within].mean(1))
        outside.append(said[:, ~within].mean(1))
    assert np.mean(found) >= 0.9
    inside, outside = (torch.stack(x).mean(0) for x in (inside, outside))
    assert torch.allclose(inside, torch.tensor([1, 0.5]), atol=0.15)
    assert torch.allclose(outside, torch.zeros(2), atol=0.1)


@pytest.mark.slow
def test_a_head_trained_on_photographs_draws_maps(tmp_path, monkeypatch):
    """The real thing on few pictures: processes, windows, a checkpoint with the head, and `explain`."""
    torch.manual_seed(0)
    config = tiny_config(**TILED)
    network = Network(config).eval()
    save_checkpoint(tmp_path / "nr", config, network.state_dict())
    photos = []
    for seed in range(24):
        photos.append(tmp_path / f"{seed}.png")
        Image.fromarray(grain(540, 520, seed)).save(photos[-1])
    small = tmp_path / "small.png"
    Image.fromarray(grain(300, 300)).save(small)
    state = train_map_head(
        str(tmp_path / "nr"),
        [*photos, small],
        hidden=16,
        parts=2,
        epochs=20,
        kinds=("gaussian_blur",),
        workers=2,
    )
    saved = config.with_(map_hidden=16)
    save_checkpoint(
        tmp_path / "with", saved, network.state_dict() | {f"map_head.{k}": v for k, v in state.items()}
    )
    assert "map_head.fc.weight" in load_weights(tmp_path / "with" / "model.safetensors")
    metric = create_metric(tmp_path / "with", device="cpu")
    hits = []
    for seed in range(100, 106):
        clean = grain(512, 512, seed)
        box = random_box(clean, np.random.default_rng(seed), (1 / 4, 1 / 3))
        found = metric.explain(damaged_in(clean, box, "gaussian_blur", 4, [seed]).damaged)
        x, y = found.peak
        hits.append(box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3])
        assert found.score == pytest.approx(
            float(create_metric(tmp_path / "nr", device="cpu")(Image.fromarray(clean))), abs=2
        )
    assert np.mean(hits) >= 0.8, hits
    with pytest.raises(InputError, match="512 pixels"):
        train_map_head(str(tmp_path / "nr"), [small], workers=1)


def test_shares_of_windows_in_a_box():
    """Of the half that lies beyond the edge, too, where windows see the mirrored picture."""
    found = localising._inside((0, 0, 64, 32))
    assert found.shape == (17, 17)
    assert (
        found[0, 0] == 1
        and found[1, 1] == 0.5
        and found[0, 2] == 0.5
        and found[2, 0] == 0
        and found[1, 3] == 0
    )
