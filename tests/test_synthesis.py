import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import EXAMPLES
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.training.autoencoder import train_autoencoders
from aigciqa.training.cli import main
from aigciqa.training.data import load
from aigciqa.training.degradations import DEGRADATIONS, STRUCTURAL, degrade
from aigciqa.training.files import claimed
from aigciqa.training.held import of_synthetic
from aigciqa.training.networks import neural_kinds
from aigciqa.training.photographs import find_photographs
from aigciqa.training.pseudolabels import damage, severities
from aigciqa.training.synthesis import Plan, _Turns, synthesize

ARGUMENTS = {"size": 96, "crops": 3, "ladders": 2, "levels": 3, "seed": 7}


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(Image.open(EXAMPLES / "ref.png").convert("RGB").resize((256, 256)))


# -- degradations


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_damage_grows_with_the_level(kind, pixels):
    for seed in range(3):
        levels = [degrade(pixels, kind, level, 4, seed) for level in (1, 2, 3, 4)]
        assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in levels)
        difference = [np.abs(one - pixels.astype(float)).mean() for one in levels]
        assert difference[0] > 0.5  # of 255
        assert all(b > 1.03 * a for a, b in pairwise(difference)), difference


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_seed_decides_where(kind, pixels):
    """The worst places of one level are those of the next; the pixels given are left alone."""
    before = pixels.copy()
    first, second = (degrade(pixels, kind, level, 4, 5).astype(float) for level in (2, 3))
    np.testing.assert_array_equal(degrade(pixels, kind, 2, 4, 5), first)
    np.testing.assert_array_equal(pixels, before)
    blocks = [
        np.abs(one - pixels).mean(2).reshape(16, 16, 16, 16).mean((1, 3)).ravel() for one in (first, second)
    ]
    assert np.corrcoef(blocks)[0, 1] > 0.3


@pytest.mark.parametrize("kind", ["local_warp", "misplaced_parts", "seams", "combined", "colour_cast"])
def test_another_seed_is_another_picture(kind, pixels):
    assert (degrade(pixels, kind, 4, 4, 1) != degrade(pixels, kind, 4, 4, 2)).mean() > 0.1


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_any_shape_and_any_content(kind, pixels):
    for made in (pixels[:65, :140], np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 70, 3), np.uint8)):
        assert degrade(made, kind, 4).shape == made.shape


def test_what_cannot_be_degraded(pixels):
    for arguments, message in (
        ((pixels, "global_wrap", 1), "did you mean 'global_warp'"),
        ((pixels, "xyz", 1), "the kinds are local_warp"),
        ((pixels, "jpeg", 0), "level 0 is not one of 1 to 4"),
        ((pixels, "jpeg", 5), "level 5 is not one of 1 to 4"),
        ((pixels / 255, "jpeg", 1), "float64; expected"),
        ((pixels[:40], "jpeg", 1), "sides of 64 or more"),
    ):
        with pytest.raises(InputError, match=message):
            degrade(*arguments)


def test_structural_kinds_are_kinds():
    assert DEGRADATIONS.keys() > STRUCTURAL


# -- labels


def test_measures_see_damage(pixels):
    found = damage(pixels, [pixels, *(degrade(pixels, "gaussian_blur", level) for level in (1, 4))])
    assert list(found) == ["fsim", "haarpsi", "gmsd", "mdsi", "vif_p"]
    for name, (none, some, much) in found.items():
        assert abs(none) < 0.01 and none < some < much, name


def test_severity_by_level_only():
    np.testing.assert_allclose(severities([{}, {}], 4, [False, True]), [[0.25, 0.5, 0.75, 1]] * 2)


def test_severity_rises_where_the_measures_do_not():
    ladders = [{"a": [5.0, 1.0, 1.0]}, {"a": [2.0, 3.0, 4.0]}]
    found = severities(ladders, 3, [True] * len(ladders))
    np.testing.assert_allclose(found[:, 0], [1 / 6 + 1 / 2, 1 / 6 + 3 / 12])
    assert (np.diff(found) > 0.03).all()
    assert found.max() <= 1


def test_measures_say_more_where_the_content_is_whole():
    ladders = [{"a": [1.0, 3.0]}, {"a": [2.0, 4.0]}] * 2
    found = severities(ladders, 2, [False, False, True, True])
    rank, level = np.array([[1.5, 5.5], [3.5, 7.5]]) / 8, np.array([0.5, 1.0])
    np.testing.assert_allclose(found[:2], 0.25 * level + 0.75 * rank)
    np.testing.assert_allclose(found[2:], 0.5 * level + 0.5 * rank)


# -- photographs


def test_photographs_of_folders_and_lists(tmp_path, picture):
    folder = tmp_path / "photos"
    (folder / "KDE").mkdir(parents=True)
    for name, size in (
        ("lake.jpg", 40), ("lake-1920x1080.jpg", 80), ("KDE/640x480.png", 30), ("KDE/1920x1080.png", 60),
        ("sea.webp", 50),
    ):  # fmt: skip
        picture(size, size, seed=size).save(folder / name)
    (folder / "copy.webp").write_bytes((folder / "sea.webp").read_bytes())
    (folder / "notes.md").write_text("not a picture")
    found, left_out = find_photographs([folder])
    assert [one.name for one in found] == ["KDE/1920x1080.png", "copy.webp", "lake-1920x1080.jpg"]
    assert left_out == {
        "KDE/640x480.png": "another size of KDE/1920x1080.png",
        "lake.jpg": "another size of lake-1920x1080.jpg",
        "sea.webp": "the same as copy.webp",
    }
    listed = tmp_path / "list.txt"
    listed.write_text("photos/lake.jpg\n\nphotos/sea.webp\n")
    assert [one.name for one in find_photographs([listed])[0]] == ["photos/lake.jpg", "photos/sea.webp"]
    listed.write_text("photos/lake.jpg\nphotos/none.jpg\n")
    with pytest.raises(InputError, match=r"1 of 2 files are missing, such as photos/none.jpg"):
        find_photographs([listed])
    with pytest.raises(InputError, match="neither a folder"):
        find_photographs([folder / "lake.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        find_photographs([tmp_path / "empty"])


def test_two_folders_with_the_same_names(tmp_path, picture):
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        picture(seed=seed).save(tmp_path / name / "one.png")
    names = [one.name for one in find_photographs([tmp_path / "a", tmp_path / "b"])[0]]
    assert names[0] == "one.png" and names[1].startswith("one.png (")


# -- the data set


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs of the examples' kind, two noisy ones, and three that cannot be used."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("gen.png", "ref.png"):
        (folder / name).write_bytes((EXAMPLES / name).read_bytes())
    for seed in (1, 2):
        coarse = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((300, 250), Image.Resampling.BICUBIC).save(folder / f"other{seed}.png")
    (folder / "broken.jpg").write_bytes((EXAMPLES / "ref.png").read_bytes()[:2000])
    Image.new("RGB", (300, 300), "teal").save(folder / "flat.png")
    Image.new("RGB", (50, 50)).save(folder / "small.png")
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    return synthesize([photos], tmp_path_factory.mktemp("made") / "out", workers=2, **ARGUMENTS).parent


@pytest.fixture(scope="module")
def manifest(made):
    return pd.read_csv(made / "manifest.csv", keep_default_na=False)


def test_a_folder_that_is_being_made_is_refused(photos, made):
    before = contents(made)
    with claimed(made), pytest.raises(InputError, match="being written by another process"):
        synthesize([photos], made, workers=2, **ARGUMENTS)
    assert synthesize([photos], made, workers=2, **ARGUMENTS).parent == made
    assert contents(made) == before


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_loads_and_checks(made, manifest):
    rated = load(made / "manifest.csv", score_range=(0, 5))
    assert list(rated.labels) == ["quality", "correspondence"]
    assert len(rated) == len(manifest)
    assert set(rated.groups) == {"gen.png", "ref.png", "other1.png", "other2.png"}
    assert set(rated.generators) <= {*DEGRADATIONS, "pristine"}
    result = CliRunner().invoke(main, ["data", "check", str(made), "--range", "0,5"])
    assert (result.exit_code, "no problems found" in result.output) == (0, True), result.output


def test_every_picture_has_its_references(made, manifest):
    crops = len(list(made.glob("images/*/??.png")))
    assert crops >= 8
    assert len(list(made.glob("images/*/*.png"))) == crops * (2 + 2 * 3)
    assert manifest["picture"].nunique() == crops * (1 + 2 * 3)
    relations = manifest.groupby("picture")["relation"].agg(list)
    assert all(
        sorted(one) in (["aligned", "reframed"], ["aligned", "other", "reframed"]) for one in relations
    )
    assert 0.15 < relations.map(len).eq(3).mean() < 0.5
    photograph = manifest.set_index("picture")["group"].to_dict()
    for row in manifest.itertuples():
        own = row.picture.rpartition("/")[0] == row.reference.rpartition("/")[0]
        assert own == (row.relation != "other")
        if row.relation == "aligned":
            assert row.reference == row.picture.partition("-")[0].removesuffix(".png") + ".png"
        if row.relation == "other":
            assert photograph[row.reference] != row.group


def test_labels(manifest):
    assert (manifest.groupby("picture")["quality"].nunique() == 1).all()
    aligned = manifest[manifest["relation"] == "aligned"]
    pristine = aligned["level"] == 0
    assert (aligned["quality"][pristine] == 4.5).all() and (aligned["ladder"][pristine] == "").all()
    assert aligned["quality"][~pristine].between(4.5 - 3.7 * 1.2, 4.4).all()
    for _, ladder in aligned[~pristine].groupby("ladder"):
        assert list(ladder["level"]) == [1, 2, 3] and ladder["generator"].nunique() == 1
        assert (ladder["quality"].diff().dropna() < 0).all()
    same = manifest[manifest["relation"] != "other"]
    lost = (4.5 - same["correspondence"]) / (4.5 - same["quality"]).where(same["level"] > 0)
    structural = same["generator"].isin(STRUCTURAL)
    np.testing.assert_allclose(lost[structural & (same["level"] > 0)], 1.5 / 3.7, atol=1e-3)
    np.testing.assert_allclose(lost[~structural & (same["level"] > 0)], 0.5 / 3.7, atol=1e-3)
    assert (manifest[manifest["relation"] == "other"]["correspondence"] == 0.5).all()


def test_kinds_are_used_evenly(manifest):
    """No kind comes again within a photograph while others have not had their turn."""
    ladders = manifest[manifest["ladder"] != ""].drop_duplicates("ladder")
    assert (ladders.groupby(["group", "generator"]).size() == 1).all()
    assert ladders["generator"].nunique() > 12


def test_references_and_pictures(made, manifest):
    """Aligned references are the pristine picture; reframed ones show the same colours otherwise placed."""
    for row in manifest[manifest["level"] == 0].itertuples():
        picture, reference = (
            np.asarray(Image.open(made / name), float) for name in (row.picture, row.reference)
        )
        assert picture.shape == reference.shape == (96, 96, 3)
        assert (np.abs(picture - reference).mean() > 1) == (row.relation != "aligned")


def test_figures_of_predictions(made, manifest):
    """Of scores that are the labels."""
    predicted = pd.DataFrame({
        "row": manifest.index[::-1],
        "quality_score": manifest["quality"][::-1].to_numpy(),
        "correspondence_score": manifest["correspondence"][::-1].to_numpy(),
    })  # fmt: skip
    said = of_synthetic([(predicted, made / "manifest.csv")])
    ladders = manifest["ladder"].nunique() - 1  # "" is that of pristine crops
    assert f"reference aligned: of {ladders} ladders monotone 1.000, pairwise 1.000" in said
    assert "mean correspondence by reference: aligned 4." in said and ", other 0.50, reframed 4." in said
    assert "mean quality by level: 4.50, " in said
    wrong = (manifest["relation"] == "other").sum()
    assert f"falls with a wrong reference in 1.000 of {2 * wrong} cases" in said
    assert "correspondence" not in of_synthetic([(predicted.iloc[:, :2], made / "manifest.csv")])
    one_photo = predicted[manifest["group"][predicted["row"]].to_numpy() == "ref.png"]  # as of one fold
    assert "monotone 1.000" in of_synthetic([(one_photo, made / "manifest.csv")])


def test_nothing_is_dropped_silently(made):
    record = json.loads((made / "synthesis.json").read_text())
    assert record["arguments"] == {**ARGUMENTS, "measures": True}
    assert record["left_out"].keys() == {"broken.jpg", "flat.png", "small.png"}
    assert "broken picture" in record["left_out"]["broken.jpg"]
    assert record["left_out"]["small.png"] == "50 x 50 is smaller than 96 pixels"
    assert "too flat" in record["left_out"]["flat.png"]
    assert len(record["photographs"]) == 7 and "pseudo-labels" in record["labels"]


@pytest.mark.slow
def test_networks_are_further_kinds(photos, tmp_path, pixels):
    train_autoencoders([photos / "ref.png"], tmp_path, steps=1, report=lambda line: None)
    turns = _Turns(Plan(measures=False, networks=str(tmp_path)), np.random.default_rng(1))
    assert set(turns.queue) - DEGRADATIONS.keys() == {kind.name for kind in neural_kinds(tmp_path)}
    steps = turns.ladder(pixels, "latent_swap", 3)
    assert [one.shape for one in steps] == [pixels.shape] * 4
    np.testing.assert_array_equal(steps, turns.ladder(pixels, "latent_swap", 3))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
@pytest.mark.slow
def test_continues_after_a_kill(photos, made, tmp_path):
    """With another number of workers, to the same bytes, and without doing again what was done."""
    out = tmp_path / "out"
    arguments = [f"--{name}={value}" for name, value in ARGUMENTS.items()]
    command = [sys.executable, "-m", "aigciqa.training.cli", "data", "synthesize", str(photos), str(out)]
    process = subprocess.Popen([*command, "--workers=1", *arguments], stderr=subprocess.PIPE)
    while not (done := list(out.glob("photographs/*.json"))) or not list(out.glob("images/*/00.png")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.csv").exists()
    times = {file: file.stat().st_mtime_ns for file in done}
    deadline = time.monotonic() + 600
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < deadline, "the workers outlive the run"
        time.sleep(0.05)
    result = subprocess.run([*command, "--workers=1", *arguments], capture_output=True, text=True, check=True)
    assert all(file.stat().st_mtime_ns == when for file, when in times.items())
    assert "left out: flat.png: too flat" in result.stderr
    ours, theirs = contents(out), contents(made)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_starting_again_changes_nothing(photos, made):
    before = contents(made)
    synthesize([photos], made, **ARGUMENTS)
    assert contents(made) == before


@pytest.mark.parametrize("changed", [{"size": 128}, {"seed": 8}, {"levels": 4}, {"measures": False}])
def test_other_arguments_are_refused(photos, made, changed):
    name, value = next(iter(changed.items()))
    with pytest.raises(InputError, match=rf"other arguments.*\({name} .* there, {value} now.*another folder"):
        synthesize([photos], made, **ARGUMENTS | changed)


def test_other_photographs_are_refused(photos, made, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(os.path.relpath(photos / "ref.png", tmp_path))
    with pytest.raises(InputError, match="other photographs"):
        synthesize([listed], made, **ARGUMENTS)


def test_a_folder_with_something_else_is_refused(photos, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"holds something else"):
        synthesize([photos], tmp_path, measures=False)
    (tmp_path / "synthesis.json").write_text("[]")
    with pytest.raises(InputError, match=r"is not of a synthesis"):
        synthesize([photos], tmp_path, measures=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 64}, "size must be 96 to"),
        ({"levels": 0}, "levels must be 1 to"),
        ({"ladders": 99}, "ladders must be 1 to"),
        ({"networks": Path("nowhere")}, "no such folder of networks"),
    ],
)
def test_wrong_arguments(photos, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        synthesize([photos], tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_no_usable_photograph(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (200, 200)).save(tmp_path / "photos/black.png")
    with pytest.raises(InputError, match=r"no usable photograph: black.png: too flat"):
        synthesize([tmp_path / "photos"], tmp_path / "out", size=96, measures=False)


def test_without_piq(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)  # what Python itself does for a module that is not there
    with pytest.raises(InputError, match=r"aigciqa\[synthesize\]"):
        synthesize([photos], tmp_path / "out")


def test_a_manifest_has_a_row_for_picture_and_reference(tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (8, 8), (seed, 0, 0)).save(tmp_path / name)
    file = tmp_path / "m.csv"
    file.write_text("picture,reference,mos\na.png,b.png,1\na.png,c.png,2\na.png,,3\n")
    assert len(load(file)) == 3
    file.write_text("picture,reference,mos\na.png,b.png,1\na.png,c.png,2\na.png,./b.png,3\n")
    with pytest.raises(InputError, match=r"rows 2 and 4 are both for .*a.png with .*b.png; keep one"):
        load(file)
