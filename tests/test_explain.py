"""Quality maps: their shape, sign and unit, what they point at, and the folder of them."""

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import EXAMPLES, tiny_config
from PIL import Image

from aigciqa import InputError, attribution, create_metric, explain
from aigciqa.attribution import part
from aigciqa.cli import score
from aigciqa.config import Transform
from aigciqa.drawing import OPACITY, blended, coloured
from aigciqa.engines import MapFolder
from aigciqa.explain import QualityMap
from aigciqa.model import Network
from aigciqa.sources import Item
from aigciqa.weights import save_checkpoint

TILED = {"feature": "stages", "cells": 2, "transform": Transform(resize=64, crop=64, tiles=2)}


@pytest.fixture
def metric(tiny, tmp_path):
    """A metric with random weights, as the papers have it or with tiles."""

    def make(reference="none", tiled=False, map_hidden=None, **how):
        if not tiled:
            return create_metric(tiny(reference), device="cpu", **how)
        torch.manual_seed(0)
        config = tiny_config(reference, map_hidden=map_hidden, **TILED)
        network = Network(config).eval()
        for module in network.head.children():
            torch.nn.init.normal_(module.weight, std=0.1)
        folder = tmp_path / f"tiled-{reference}-{map_hidden}"
        save_checkpoint(folder, config, network.state_dict())
        return create_metric(folder, device="cpu", **how)

    return make


def a_map(values, **changes):
    size = (values.shape[1] * 10, values.shape[0] * 10)
    given = {
        "cell": 10.0, "size": size, "score": 3.0, "dimension": "quality", "method": "windows",
        "score_range": (0.0, 5.0), "picture": Image.new("RGB", size, "grey"),
    }  # fmt: skip
    return QualityMap(values.astype(np.float32), **(given | changes))


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("method", ["windows", "occlusion", "gradient"])
def test_covers_the_picture(metric, picture, method, tiled, one_thread):
    m = metric(tiled=tiled)
    found = m.explain(picture(150, 100), method=method)
    assert found.map.dtype == np.float32 and np.isfinite(found.map).all()
    rows, columns = found.map.shape
    assert (rows - 1) * found.cell < 100 <= rows * found.cell + 1e-6
    assert (columns - 1) * found.cell < 150 <= columns * found.cell + 1e-6
    assert found.score == pytest.approx(float(m(picture(150, 100))), abs=1e-4)
    assert found.map.std() > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 65), (33, 17)])
@pytest.mark.parametrize("method", ["windows", "occlusion", "gradient"])
def test_any_size(metric, picture, size, method, one_thread):
    for tiled in (False, True):
        found = metric(tiled=tiled).explain(picture(*size), method=method)
        assert np.isfinite(found.map).all()
        assert 0 <= found.peak[0] < size[0] and 0 <= found.peak[1] < size[1]
        assert min(found.overlay().size) >= 100


def test_windows_of_the_papers_networks_score_as_the_metric_does(metric, picture, one_thread):
    """In the interior a cell is the mean of the four windows over it, less that of the windows around."""
    m = metric()
    pixels = np.asarray(picture(72 * 4, 72 * 4))
    cell = 36
    found = m.explain(pixels)
    assert found.cell == cell
    with torch.no_grad():
        scores = np.array([
            [float(m(mirrored(pixels, (i - 1) * cell, (j - 1) * cell, 72))) for j in range(9)] for i in range(9)
        ])  # fmt: skip
    padded = np.pad(scores, 3, "edge")
    around = np.array([[padded[i : i + 7, j : j + 7].mean() for j in range(9)] for i in range(9)])
    lost = around - scores
    expected = (lost[1:, 1:] + lost[:-1, 1:] + lost[1:, :-1] + lost[:-1, :-1]) / 4
    np.testing.assert_allclose(found.map, expected, atol=2e-4)


def mirrored(pixels, top, left, side):
    padded = np.pad(pixels, ((side, side), (side, side), (0, 0)), "symmetric")
    return np.ascontiguousarray(padded[top + side : top + 2 * side, left + side : left + 2 * side])


def test_blocks_do_not_show(metric, picture, monkeypatch, one_thread):
    m = metric(tiled=True)
    whole = m.explain(picture(400, 300)).map
    monkeypatch.setattr("aigciqa.attribution.BLOCK", 160**2)
    np.testing.assert_allclose(m.explain(picture(400, 300)).map, whole, atol=0.2 * whole.std())


def test_a_head_for_maps_draws_them(metric, picture, monkeypatch, one_thread):
    m, plain = metric(tiled=True, map_hidden=8), metric(tiled=True)
    found, other = m.explain(picture(400, 300)), plain.explain(picture(400, 300))
    assert found.map.shape == other.map.shape and found.cell == other.cell
    assert found.score == pytest.approx(float(m(picture(400, 300))), abs=1e-4)
    assert not np.array_equal(found.map, m.explain(picture(400, 300), dimension="authenticity").map)
    monkeypatch.setattr("aigciqa.attribution.BLOCK", 160**2)
    np.testing.assert_allclose(m.explain(picture(400, 300)).map, found.map, atol=0.3 * found.map.std())
    m.network.map_head.out.bias.data += 1  # points
    np.testing.assert_allclose(m.explain(picture(400, 300)).map, found.map + 1, atol=0.3 * found.map.std())
    assert m.explain(picture(40, 3)).map.shape == plain.explain(picture(40, 3)).map.shape


def test_gradients_add_up_to_the_score(metric, picture, monkeypatch, one_thread):
    """Completeness: the map's sum is what the picture loses against the one without detail."""
    from aigciqa.attribution import blurred

    monkeypatch.setattr("aigciqa.attribution.STEPS", 64)
    m = metric()
    pixels = torch.from_numpy(np.array(picture(96, 80))).permute(2, 0, 1)[None] / 255
    found = m.explain(pixels, method="gradient")
    expected = float(m(blurred(pixels)) - m(pixels))
    assert found.map.sum() == pytest.approx(expected, abs=0.05 * max(abs(expected), 1))


def test_full_reference_is_zero_beside_itself_and_not_elsewhere(metric, picture, one_thread):
    m = metric("full", tiled=True)
    clean = np.asarray(picture(256, 192))
    assert abs(m.explain(clean, clean).map).max() == 0
    damaged = clean.copy()
    damaged[96:160, 64:128] = 255 - damaged[96:160, 64:128]
    lost = abs(m.explain(damaged, clean).map)
    row, column = np.unravel_index(lost.argmax(), lost.shape)
    assert 2 <= row <= 5 and 1 <= column <= 4
    assert lost[:, -2:].max() < 0.2 * lost.max()  # 64 pixels and more away


@pytest.mark.parametrize("kind", ["full", "partial"])
def test_reference_of_another_size_counts_as_a_whole(metric, picture, kind, one_thread):
    for tiled in (False, True):
        m = metric(kind, tiled=tiled)
        one = m.explain(picture(150, 100), picture(90, 200, seed=1))
        other = m.explain(picture(150, 100), picture(90, 200, seed=2))
        assert one.map.shape == other.map.shape and not np.array_equal(one.map, other.map)
    assert metric("partial").explain(picture()).map.std() > 0


def test_dimensions_differ(metric, picture, one_thread):
    m = metric(tiled=True)
    quality, other = (m.explain(picture(), dimension=d) for d in ("quality", "authenticity"))
    assert other.dimension == "authenticity" and not np.array_equal(quality.map, other.map)
    assert np.array_equal(metric(tiled=True, dimension="authenticity").explain(picture()).map, other.map)


@pytest.mark.parametrize(
    ("kind", "arguments", "how", "message"),
    [
        ("none", ("gen.png", "ref.png"), {}, "no reference"),
        ("full", ("gen.png",), {}, "pass it"),
        ("none", ("gen.png",), {"method": "magic"}, "windows, occlusion, gradient"),
        ("none", ("gen.png",), {"dimension": "beauty"}, "quality, authenticity"),
        ("none", (["gen.png"],), {}, "one picture"),
        ("none", (torch.zeros(2, 3, 9, 9),), {}, "one picture"),
        ("none", ("absent.png",), {}, "absent.png"),
        ("full", ("gen.png", "absent.png"), {}, "absent.png"),
    ],
)
def test_errors_say_what_to_do(metric, monkeypatch, kind, arguments, how, message):
    monkeypatch.chdir(EXAMPLES)
    with pytest.raises(InputError, match=message):
        metric(kind).explain(*arguments, **how)


def test_beyond_its_edges_a_picture_is_mirrored():
    row = torch.arange(3).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    assert part(row, 0, -4, 1, 11)[0, 0, 0].tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]


def test_peak_is_in_the_picture_where_the_last_cell_sticks_out():
    values = np.zeros((4, 5))
    values[3, 4] = 1
    assert a_map(values, size=(42, 31)).peak == (41, 30)
    values[1, 2] = 2
    assert a_map(values).peak == (25, 15)


def test_overlay_shows_colours_where_the_score_is_lost(tmp_path):
    values = np.zeros((20, 30))
    values[10:15, 5:10] = 2
    values[2, 2] = -9
    found = a_map(values)
    found.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        sheet = np.asarray(image, int)
    assert sheet.shape[0] > 200 and sheet.shape[1] > 600
    assert (sheet[:200, :300] == 128).all()  # the picture as it is
    assert np.ptp(sheet[125, 308 + 75]) > 50  # bright yellow
    assert np.ptp(sheet[25, 308 + 25]) < 10  # a gain is no loss
    with pytest.raises(InputError, match=r"map\.png"):
        found.save(tmp_path / "map.jpg")
    with pytest.raises(InputError, match="cannot be written"):
        found.save(tmp_path / "no" / "map.png")


def test_colours_mean_the_same_in_every_map():
    """Whatever else a map has, and whatever its image: the legend of one map serves for all."""
    shades = []
    for most, grey in ((0.8, 128), (0.8, 0), (4.0, 255)):
        values = np.zeros((20, 30))
        values[:, :10] = 0.8
        values[0, 29] = most
        found = a_map(values, picture=Image.new("RGB", (300, 200), (grey,) * 3))
        assert found.top == 2  # of a scale from 0 to 5
        shades.append(np.asarray(found.overlay(), int)[150, 308 + 40])
    legend = blended(np.full((1, 1), 0.4), np.full((1, 1), 128.0))[0, 0].astype(int)
    assert (shades[0] == legend).all()
    for shade in shades:
        assert abs(shade - legend).max() <= 64 * (1 - OPACITY) + 1
    assert a_map(-np.ones((9, 9))).overlay().size[0] > 180


def test_the_legend_has_the_colours_of_the_overlay():
    values = np.full((20, 30), 1.0)
    values[0, 0] = 1.01  # the peak, which is marked
    sheet = np.asarray(a_map(values).overlay(), int)
    bar = sheet[:, 2 * 308 + 5]
    shades = abs(bar - sheet[180, 308 + 20]).max(1)
    ends = np.flatnonzero(abs(bar - blended(np.zeros((1, 1)), np.full((1, 1), 128.0))[0, 0]).max(1) < 3)
    assert shades.min() <= 4
    top = np.flatnonzero(abs(bar - blended(np.ones((1, 1)), np.full((1, 1), 128.0))[0, 0]).max(1) < 3)
    # 1 of 2 points: in the middle of the legend
    assert shades.argmin() == pytest.approx((top[0] + ends[-1]) / 2, abs=2)


def test_the_top_of_the_colours_can_be_chosen(tmp_path):
    found = a_map(np.full((20, 30), 1.0))
    found.save(tmp_path / "a.png", top=1)
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpixel((308 + 20, 180)) == tuple(
            blended(np.ones((1, 1)), np.full((1, 1), 128.0))[0, 0]
        )
    for top in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            found.overlay(top)


def test_the_peak_is_marked_unless_nothing_is_lost():
    def ring(values):
        mapped = np.asarray(a_map(values).overlay().convert("L"), int)[:200, 308:608]
        return np.ptp(mapped[90:121, 190:221])

    values = np.full((20, 30), 0.1)
    values[10, 20] = 0.101
    assert ring(values) > 200  # black and white around (205, 105)
    assert ring(np.full((20, 30), -0.1)) == 0
    assert ring(np.zeros((20, 30))) == 0


def test_the_reference_stands_beside(metric, picture, one_thread):
    generated, reference = picture(300, 200), Image.new("RGB", (100, 200), (10, 200, 30))
    alone = metric("partial").explain(generated).overlay()
    found = metric("full").explain(generated, reference)
    both = found.overlay()
    assert alone.size == (both.width - 308, both.height)
    assert both.getpixel((308 + 150, 100)) == (10, 200, 30)  # in its own shape
    assert both.getpixel((308 + 90, 100)) == both.getpixel((308 + 210, 100)) == (255, 255, 255)
    assert np.array_equal(found.reference, reference)


def test_the_ramp_grows_evenly_in_lightness():
    light = coloured(np.linspace(0, 1, 33)[None])[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


def test_names_of_maps_stay_apart_and_inside(metric, tmp_path):
    folder = MapFolder(metric(), tmp_path / "maps")
    names = [
        "a/cat.png",
        "b/cat.png",
        "../../cat.png",
        "/etc/cat",
        "",
        "..",
        "shard.tar/x.jpg",
        "ü\udcff\0.png",
    ]
    paths = [folder.path(Item(name)) for name in names] + [folder.path(Item("a/cat.png", "ref.png"))]
    assert len(set(paths)) == len(names) + 1
    assert all(path.parent == tmp_path / "maps" and len(path.name) < 120 for path in paths)
    assert folder.path(Item("x" * 300 + ".png")).name.startswith("x" * 80 + "-")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name another"):
        MapFolder(metric(), tmp_path / "file")


def test_command_writes_a_map_for_each_picture_that_has_scores(tiny, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture(90, 70, seed=ord(folder)).save(tmp_path / folder / "cat.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    common = ["a", "b", "--metric", str(tiny()), "--device", "cpu", "--map", "maps", "-o", "s.csv"]
    result = CliRunner().invoke(score, common)
    assert result.exit_code == 1, result.output
    maps = sorted((tmp_path / "maps").iterdir())
    assert [path.name.split("-")[0] for path in maps] == ["cat", "cat"]
    assert len({path.read_bytes() for path in maps}) == 2
    assert "a/broken.png" in (tmp_path / "s.csv").read_text()
    maps[0].unlink()
    CliRunner().invoke(score, common)  # goes on where it stopped: what is missing is made
    assert sorted((tmp_path / "maps").iterdir()) == maps


THIN = [(50_000, 1), (50_000, 60), (3_000_000, 1), (1, 3_000_000)]


@pytest.mark.parametrize("method", ["windows", "occlusion", "gradient"])
@pytest.mark.parametrize("size", THIN)
def test_thin_images_take_no_more_than_others(metric, size, method, monkeypatch, one_thread):
    """A map, or an error before the memory is asked for; the largest tensor says which."""
    largest, resized = [], explain.resize

    def resize(images, height, width):
        largest.append(height * width)
        return resized(images, height, width)

    for module in (explain, attribution):
        monkeypatch.setattr(module, "resize", resize)
    monkeypatch.setattr(attribution, "STEPS", 1)
    monkeypatch.setattr(attribution, "SQUARES", 9)
    pixels = np.zeros((*size[::-1], 3), np.uint8)
    pixels[:] = (np.arange(max(size)) % 251).reshape(1, -1, 1) if size[0] > size[1] else 9
    for tiled in (False, True):
        try:
            found = metric(tiled=tiled).explain(pixels, method=method)
        except InputError as error:
            assert method == "windows" and re.search(r"map of \d+ x \d+ pixels.*; cut the image", str(error))
        else:
            assert np.isfinite(found.map).all() and found.map.size < 4_200_000
            assert 0 <= found.peak[0] < size[0] and 0 <= found.peak[1] < size[1]
            width, height = found.overlay().size
            assert width <= 2 * 8200 + 320 and height <= 8192 + 60
    assert max(largest, default=0) <= 40_000_000 + 8 * size[0] * size[1]


@pytest.mark.parametrize(
    "size", [(16_384, 16_384), (25_600, 10_000), (4000, 3000), (512, 512), (8000, 1000), (2048, 32)]
)
@pytest.mark.parametrize("name", ["nr-aigciqa", "fr-aigciqa"])
def test_images_of_usual_shapes_have_maps(size, name):
    metric = create_metric(name, device="cpu")
    transform = metric.config.transform
    factor = max(1, transform.crop / min(size))
    attribution.check_work(metric.network, transform, size, tuple(round(n * factor) for n in size))


def test_the_work_that_is_foreseen_is_done(metric, picture, monkeypatch, one_thread):
    seen, real = [], attribution.part
    monkeypatch.setattr(attribution, "part", lambda *a: seen.append(real(*a)) or seen[-1])
    for tiled in (False, True):
        m = metric(tiled=tiled)
        for size in ((150, 100), (900, 64), (64, 1300)):
            network, transform = m.network, m.config.transform
            foreseen = attribution.window_work(network, transform, *size[::-1])
            m.explain(picture(*size), method="windows")
            if tiled:
                assert sum(one.shape[-1] * one.shape[-2] for one in seen) == foreseen
            seen.clear()


def test_command_goes_on_after_an_image_that_has_no_map(tiny, picture, tmp_path, monkeypatch):
    """It has its score, and the next run does not end at it again."""
    monkeypatch.chdir(tmp_path)
    Image.new("1", (3_000_000, 1)).save("a-thin.png")
    picture(90, 70).save("b.png")
    common = [
        "a-thin.png",
        "b.png",
        "--metric",
        str(tiny()),
        "--device",
        "cpu",
        "--map",
        "maps",
        "-o",
        "s.csv",
    ]
    for _ in range(2):
        result = CliRunner().invoke(score, common)
        assert result.exit_code == 0, result.output
        assert "warning: no map of 'a-thin.png': a map of 3000000 x 1 pixels" in result.stderr
        assert [path.name.split("-")[0] for path in (tmp_path / "maps").iterdir()] == ["b"]
        assert (tmp_path / "s.csv").read_text().count("sha256") == 2


def test_a_link_in_the_place_of_a_map_is_not_followed(metric, picture, tmp_path):
    """Names of maps can be foreseen."""
    picture(40, 30).save(tmp_path / "a.png")
    victim, item = tmp_path / "victim", Item(str(tmp_path / "a.png"))
    victim.write_text("precious")
    folder = MapFolder(metric(), tmp_path / "maps")
    place = folder.path(item)
    for link in (place, place.with_name(f".{place.name}.part")):
        link.symlink_to(victim)
    folder.add(item)
    assert victim.read_text() == "precious"
    assert list((tmp_path / "maps").iterdir()) == [place] and not place.is_symlink()
    with Image.open(place) as image:
        image.load()


def test_command_refuses_maps_of_other_engines():
    result = CliRunner().invoke(score, [str(EXAMPLES / "gen.png"), "--engine", "ray", "--map", "maps"])
    assert result.exit_code == 2 and "--map" in result.stderr


def grain(size, seed):
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((size, size), 3)
        for n in (6, 24, 96)
    ]
    return np.mean([np.asarray(one, float) for one in layers], 0).astype(np.uint8)


@pytest.mark.slow
def test_peak_lies_in_the_damaged_box():
    """Full reference, packaged; `benchmarks/maps.py` has the figures on photographs."""
    from aigciqa.training.degradations import degrade

    metric, hits = create_metric("fr-aigciqa", device="cpu"), []
    for seed, kind in enumerate(
        ("gaussian_blur", "jpeg", "white_noise", "checkerboard", "enlarged_nearest", "grid")
    ):
        clean = np.asarray(Image.open(EXAMPLES / "ref.png").convert("RGB")) if seed % 2 else grain(512, seed)
        top, left = np.random.default_rng(seed).integers(0, 512 - 150, 2)
        damaged = clean.copy()
        damaged[top : top + 150, left : left + 150] = degrade(
            clean[top : top + 150, left : left + 150], kind, 4, seed=seed
        )
        x, y = metric.explain(damaged, clean).peak
        hits.append(left <= x < left + 150 and top <= y < top + 150)
    assert np.mean(hits) >= 0.8, hits
