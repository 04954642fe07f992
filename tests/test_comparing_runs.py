"""Evaluating runs: only on rows that nobody learned from, and on the scale that the labels are on."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import make_pku
from test_trainer import one_thread, recipe  # noqa: F401 (a fixture that is used by itself)
from test_training_cli import run

import aigciqa
from aigciqa.errors import InputError
from aigciqa.training.assessment import assess, open_side
from aigciqa.training.crossvalidation import judge
from aigciqa.training.data import load
from aigciqa.training.recipe import DataSource
from aigciqa.training.trainer import train


def quiet(line):
    pass


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=6, size=40)


@pytest.fixture(scope="module")
def runs(pku, tmp_path_factory):
    """Two runs with different test sides, and one that held nothing out."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in (
        ("a", {"seed": 1, "test": 0.5}),
        ("b", {"seed": 3, "test": 0.5}),
        ("all", {"test": 0.0}),
    ):
        train(recipe(pku, epochs=1, **changes), folder / name, report=quiet, bootstrap=0)
    return folder


def side(folder, wanted):
    """Names of the images on a side of a run's split."""
    table = pd.read_csv(folder / "splits" / "0-pku-i2iqa.csv")
    return set(table["picture"][table["side"] == wanted])


def names(rated):
    return {picture.name for picture in rated.pictures}


@pytest.fixture(scope="module")
def both(runs):
    """What neither a nor b learned from."""
    found = side(runs / "a", "test") & side(runs / "b", "test")
    assert 0 < len(found) < len(side(runs / "a", "test"))  # else this shows nothing
    return found


def test_rows_that_either_run_learned_from_are_left_out(pku, runs, both):
    a, b = str(runs / "a"), str(runs / "b")
    for metric, other in ((a, b), (b, a)):
        rated, said = open_side(load(pku), metric, None, None, other)
        assert names(rated) == both
        lost = len(side(runs / "a", "test")) - len(both)
        assert f"left out: {lost} rows that {other} learned from" in said
    rated, _ = open_side(load(pku), "nr-aigciqa", None, None, a)
    assert names(rated) == side(runs / "a", "test")
    rated, said = open_side(load(pku), a, None, None, "nr-aigciqa")
    assert names(rated) == side(runs / "a", "test")
    assert "nr-aigciqa has no saved splits: what it learned from is not known" in said


def test_the_command_compares_on_those_rows(pku, runs, both, tmp_path):
    out = tmp_path / "figures.json"
    shown = run(
        "evaluate", runs / "a", pku, "--compare", runs / "b", "--dimension", "quality", "--device", "cpu", "--out", out
    )  # fmt: skip
    figures = json.loads(out.read_text())
    assert figures["figures"]["quality"]["n"] == figures["figures"]["quality"]["compared"]["n"] == len(both)
    assert f"rows that {runs / 'b'} learned from" in shown
    assert f"rows that {runs / 'b'} learned from" in figures["data"]


def test_a_given_split_or_side_does_not_bring_them_back(pku, runs, both):
    a, b = str(runs / "a"), str(runs / "b")
    rated, _ = open_side(load(pku), a, f"{a}/splits/0-pku-i2iqa.csv", "test", b)
    assert names(rated) == both
    rated, _ = open_side(load(pku), "nr-aigciqa", f"{a}/splits/0-pku-i2iqa.csv", "train", b)
    assert names(rated) == side(runs / "a", "train") & side(runs / "b", "test")
    for split in (None, f"{a}/splits/0-pku-i2iqa.csv"):
        with pytest.raises(InputError, match=r"no row is left to evaluate on.*learned from.*--test above 0"):
            open_side(load(pku), a, split, "train", b)
    # without a comparison they are the user's to ask for, and it is said what they are
    rated, said = open_side(load(pku), a, None, "train")
    assert names(rated) == side(runs / "a", "train")
    assert f"{a} learned from 24 of these rows" in said
    _, said = open_side(load(pku), a, f"{b}/splits/0-pku-i2iqa.csv", "test")
    assert f"learned from {len(side(runs / 'a', 'train') & side(runs / 'b', 'test'))} of these rows" in said
    with pytest.raises(InputError, match="has saved no split of pku-i2iqa; pass one with --split"):
        open_side(load(pku), "nr-aigciqa", None, "train")


def test_rows_are_told_by_content_wherever_they_lie(pku, runs, both, tmp_path):
    """Another folder, other names of files, another name of the set, another order, and fewer rows."""
    rated = load(pku).subset(range(3, len(load(pku)), 2)[::-1])
    lines = ["picture,quality,group"]
    for row, (picture, label, group) in enumerate(
        zip(rated.pictures, rated.labels["quality"], rated.groups, strict=True)
    ):
        shutil.copy(picture, tmp_path / f"{row}.jpg")
        lines.append(f"{row}.jpg,{label},{group}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    found, _ = open_side(load(tmp_path / "mine.csv"), str(runs / "a"), None, None, str(runs / "b"))
    assert names(found) == {f"{row}.jpg" for row, p in enumerate(rated.pictures) if p.name in both}
    found, said = open_side(load(tmp_path / "mine.csv"), str(runs / "a"), None)
    expected = {f"{row}.jpg" for row, p in enumerate(rated.pictures) if p.name in side(runs / "a", "test")}
    assert names(found) == expected
    assert "of the test side" in said


def test_rows_are_told_by_name_where_the_data_set_is_gone(pku, runs, both, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(pku, moved)
    for name in "ab":
        shutil.copytree(runs / name, tmp_path / name)
        text = (tmp_path / name / "recipe.yaml").read_text()
        (tmp_path / name / "recipe.yaml").write_text(text.replace(str(pku), "/gone/PKU-I2IQA"))
    for rows in (range(48), range(0, 48, 3)):
        rated = load(moved).subset(rows)
        found, said = open_side(rated, str(tmp_path / "a"), None, None, str(tmp_path / "b"))
        assert names(found) == both & names(rated)
        assert "/gone/PKU-I2IQA" in said and "told by their names" in said


def test_what_is_new_to_a_run_stays(pku, runs, tmp_path):
    """Ratings of other images beside those of the run; and a set of the same name with none of them."""
    other = make_pku(tmp_path / "other" / "PKU-I2IQA", prompts=2, size=40, seed=9)
    lines = ["picture,quality"]
    for rated in (load(pku), load(other)):
        lines += [f"{p},{v}" for p, v in zip(rated.pictures, rated.labels["quality"], strict=True)]
    (tmp_path / "together.csv").write_text("\n".join(lines))
    found, said = open_side(load(tmp_path / "together.csv"), str(runs / "a"), None)
    assert {*found.pictures} == {*load(other).pictures} | {
        p for p in load(pku).pictures if p.name in side(runs / "a", "test")
    }
    assert "16 of them in no split" in said
    found, said = open_side(load(other), str(runs / "a"), None)
    assert len(found) == 16
    assert "is the split of another data set of this name" in said


def test_a_run_that_held_nothing_out_has_nothing_to_be_judged_on(pku, runs):
    for arguments in ((str(runs / "all"), None), ("nr-aigciqa", None, None, str(runs / "all"))):
        with pytest.raises(InputError, match="no row is left to evaluate on, of 48"):
            open_side(load(pku), *arguments)


def test_the_last_epoch_and_what_began_from_a_run_have_its_split(pku, runs, both, tmp_path):
    found, _ = open_side(load(pku), str(runs / "a" / "last"), None, None, str(runs / "b" / "last"))
    assert names(found) == both
    # a run on other data that began from one of these has seen what that had seen
    other = make_pku(tmp_path / "other" / "PKU-I2IQA", prompts=3, size=40, seed=9)
    train(recipe(other, epochs=1, weights=str(runs / "a")), tmp_path / "later", report=quiet, bootstrap=0)
    found, _ = open_side(load(pku), "nr-aigciqa", None, None, str(tmp_path / "later"))
    assert names(found) == side(runs / "a", "test")
    shutil.copytree(
        runs / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("splits", "recipe.yaml", "last")
    )
    found, said = open_side(load(pku), str(tmp_path / "copy"), None)
    assert len(found) == 48
    assert "has no saved splits: what it learned from is not known" in said


def test_a_set_of_weight_0_is_not_learned_from(pku, runs, tmp_path):
    shutil.copytree(runs / "b", tmp_path / "b")
    text = (tmp_path / "b" / "recipe.yaml").read_text()
    (tmp_path / "b" / "recipe.yaml").write_text(text.replace("weight: 1.0", "weight: 0.0"))
    found, _ = open_side(load(pku), str(runs / "a"), None, None, str(tmp_path / "b"))
    assert names(found) == side(runs / "a", "test")


# -- scales


@pytest.fixture(scope="module")
def from_1_to_5(pku, tmp_path_factory):
    """A manifest of labels on 1 to 5, and a run on it that scores from 0 to 5."""
    folder = tmp_path_factory.mktemp("scaled")
    rated = load(pku)
    labels = 1 + 0.8 * rated.labels["quality"]
    rows = zip(rated.pictures, labels, rated.groups, strict=True)
    (folder / "ratings.csv").write_text(
        "picture,quality,group\n" + "\n".join(f"{p},{v},{g}" for p, v, g in rows)
    )
    return folder / "ratings.csv"


@pytest.mark.parametrize("stated", [(1.0, 5.0), None])
def test_rmse_is_on_the_scale_of_the_labels_after_training_and_later(from_1_to_5, tmp_path, stated):
    sources = [DataSource(str(from_1_to_5), score_range=stated)]
    made = recipe(from_1_to_5, data=sources, epochs=1, lr=0.0)
    lines = []
    trained = train(made, tmp_path / "run", report=lines.append, bootstrap=0)
    figures = trained.evaluation["ratings"]["quality"]
    whole = load(from_1_to_5)
    scale = stated or whole.score_range
    assert figures["scale"] == pytest.approx(scale)
    assert figures["scale_is_observed"] == (stated is None)
    # by hand, from what the metric says of the test side
    predicted = pd.read_csv(tmp_path / "run" / "predictions.csv")
    low, high = aigciqa.metric_info(
        tmp_path / "run"
    ).score_range  # the stated one, unless the recipe says more
    scores = (predicted["quality_score"] - low) / (high - low) * (scale[1] - scale[0]) + scale[0]
    labels = whole.labels["quality"][predicted["row"]]
    assert figures["rmse"] == pytest.approx(np.sqrt(((scores - labels) ** 2).mean()), rel=1e-6)
    # whoever evaluates the run need not say again what it was told in training
    for given in {stated, None}:
        rated, _ = open_side(load(from_1_to_5, score_range=given), str(tmp_path / "run"), None)
        report = assess(str(tmp_path / "run"), rated, device="cpu", plots=str(tmp_path / "plots"))
        assert report.figures["quality"]["rmse"] == pytest.approx(figures["rmse"], rel=0.02)
        assert report.figures["quality"]["scale"] == pytest.approx(scale)
        assert f"RMSE is on the labels' scale of {scale[0]:g} to {scale[1]:g}" in report.text
    assert any(f"on the labels' scale of {scale[0]:g} to {scale[1]:g}" in line for line in lines)
    assert any("say otherwise with --range" in line and "test side" in line for line in lines) == (
        stated is None
    )
    # all folds of a cross-validation together are judged so, too
    predicted = predicted.assign(set=0)
    judged = judge(replace(made, folds=2), predicted, tmp_path / "folds", report=quiet)
    assert judged["ratings"]["quality"]["rmse"] == pytest.approx(figures["rmse"], rel=1e-6)
    assert judged["ratings"]["quality"]["scale"] == pytest.approx(scale)


def test_scores_of_a_file_are_compared_as_they_are_and_that_is_said(from_1_to_5, tmp_path):
    rated = load(from_1_to_5, score_range=(1, 5))
    lines = [f"{p},{v + 1}" for p, v in zip(rated.pictures, rated.labels["quality"], strict=True)]
    (tmp_path / "theirs.csv").write_text("picture,score\n" + "\n".join(lines))
    report = assess(str(tmp_path / "theirs.csv"), rated)
    assert report.figures["quality"]["rmse"] == pytest.approx(1)
    assert "theirs.csv as they are, for their scale is not known" in report.text


@pytest.mark.slow
def test_files_of_aigciqa_score_are_scores_of_every_dimension(pku, runs, both, tmp_path):
    images = pku / "Generated_image" / "All"
    files = tmp_path / "a.csv", tmp_path / "b.jsonl"
    for name, file in zip("ab", files, strict=True):
        command = ["aigciqa-score", images, "--metric", runs / name, "--device", "cpu", "-o", file]
        program = Path(sys.executable).with_name("aigciqa-score")
        subprocess.run([program, *map(str, command[1:])], check=True, capture_output=True)
    rated, said = open_side(load(pku), str(runs / "a"), None, None, str(files[1]))
    assert "b.jsonl has no saved splits: what it learned from is not known" in said
    report = assess(str(runs / "a"), rated, compare_with=str(files[1]), dimensions=["quality"], device="cpu")
    expected = assess(str(runs / "b"), rated, dimensions=["quality"], device="cpu").figures["quality"]["srcc"]
    assert report.figures["quality"]["compared"]["srcc_b"] == pytest.approx(expected, abs=0.02)
    assert assess(str(files[0]), rated, dimensions=["quality"]).figures["quality"]["srcc"] == pytest.approx(
        report.figures["quality"]["srcc"], abs=0.02
    )
    lines = files[0].read_text().splitlines()
    lines[1] = lines[1].replace("small@", "other@")
    files[0].write_text("\n".join(lines))
    with pytest.raises(InputError, match="holds scores of 2 metrics"):
        assess(str(files[0]), rated)
