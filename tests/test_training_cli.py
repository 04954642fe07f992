"""The `aigciqa` command as a process, and `aigciqa.training` from Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import random_network
from synthetic import make_pku
from test_cli import HEAVY, imported_by

import aigciqa.training
from aigciqa import InputError, MetricConfig
from aigciqa.cli import Command
from aigciqa.config import paper_config
from aigciqa.training.cli import main
from aigciqa.training.initial import named_weights
from aigciqa.training.recipe import Recipe
from aigciqa.weights import save_checkpoint

COMMAND = shutil.which("aigciqa", path=str(Path(sys.executable).parent))


def run(*arguments, code=0):
    assert COMMAND, "the command is not installed beside this Python"
    result = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout if code == 0 else result.stdout + result.stderr


def run_score(*arguments):
    command = shutil.which("aigciqa-score", path=str(Path(sys.executable).parent))
    subprocess.run([command, *map(str, arguments)], capture_output=True, check=True)


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=6, size=40)


@pytest.fixture(scope="module")
def trained(pku, tmp_path_factory):
    """A run of one epoch from the command line, with options of every type."""
    out = tmp_path_factory.mktemp("runs") / "fr"
    run(
        "train", "--data", pku, "--out", out, "--name", "fr-small", "--reference", "full",
        "--backbone", "test_efficientnet", "--weights", "random",
        "--resize", 36, "--crop", 32, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--dimensions",
        "quality,authenticity", "--epochs", 1, "--lr", "1e-3", "--loss", "mse=1,rank=0.5", "--augment", "false",
        "--select", "last", "--labels", "made up by a test", "--license", "CC0-1.0",
    )  # fmt: skip
    return out


def test_train(trained):
    recipe = aigciqa.training.read_recipe(trained / "recipe.yaml")
    assert recipe.loss == {"mse": 1.0, "rank": 0.5}
    assert (recipe.dimensions, recipe.mean, recipe.augment) == (
        ("quality", "authenticity"),
        (0.5,) * 3,
        False,
    )
    provenance = aigciqa.metric_info(trained).provenance
    assert provenance["labels"] == "made up by a test"
    assert provenance["license"] == "CC0-1.0"


def test_every_field_of_a_recipe_is_an_option():
    shown = run("train", "--help")
    for name in Recipe.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in shown
    assert "computed once for" in shown  # descriptions are whole
    assert run("train", "--recipes").split() == aigciqa.training.list_recipes()


def test_two_parameters_of_one_name_are_refused():
    for first, second in ((["--a", "same"], ["--b", "same"]), (["--a"], ["--a", "other"])):
        with pytest.raises(TypeError, match="several parameters"):
            Command("both", params=[click.Option(first), click.Option(second)])


@pytest.fixture
def ratings(tmp_path, picture):
    """A table of eight images with labels from 1 to 5, and what trains on it in a second."""
    for i in range(8):
        picture(48, 48, i).save(tmp_path / f"p{i}.png")
    lines = "".join(f"p{i}.png,{1 + i % 5}\n" for i in range(8))
    (tmp_path / "ratings.csv").write_text("file,mos\n" + lines)
    return [
        "train", "--data", tmp_path / "ratings.csv", "--column", "picture=file", "--column", "quality=mos",
        "--backbone", "test_efficientnet", "--weights", "random", "--resize", 36, "--crop", 32, "--epochs", 1,
        "--batch-size", 8, "--out", tmp_path / "run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "scores", "labels"),
    [
        (["--range", "1,5"], (1, 5), [1, 5]),
        (["--range", "1", "5"], (1, 5), [1, 5]),
        (["--range", "-1,5"], (-1, 5), [-1, 5]),
        (["--score-range", "0,10"], (0, 10), None),
        (["--score-range", "0", "10", "--range", "1,5"], (0, 10), [1, 5]),
        ([], (0, 5), None),
    ],
)
def test_ranges_of_labels_and_scores(ratings, tmp_path, options, scores, labels):
    run(*ratings, *options)
    assert aigciqa.metric_info(tmp_path / "run").score_range == scores
    saved = aigciqa.training.read_recipe(tmp_path / "run" / "recipe.yaml")
    assert saved.data[0].score_range == (None if labels is None else tuple(labels))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    low, high = labels or (1, 5)  # those that were seen
    mos = pd.read_csv(tmp_path / "ratings.csv").mos[table["row"]]
    there = (mos - low) / (high - low) * (scores[1] - scores[0]) + scores[0]
    assert table["quality_label"].tolist() == pytest.approx(there.tolist())


@pytest.mark.parametrize("given", ["1,5,9", "1", "1,x", "5,1", "nan,1"])
def test_a_range_is_two_numbers(given):
    done = CliRunner().invoke(main, ["data", "check", ".", "--range", given])
    assert done.exit_code == 2
    assert f"'{given}' is no" in done.stderr


def test_messages_have_the_names_of_options(ratings, tmp_path):
    for options, says in (
        (["--images", tmp_path.parent], "pass --images FOLDER"),
        (["--column", "pictures=file"], "--column: 'pictures' unknown; did you mean 'picture'?"),
        (["--format", "pku-i2iqa"], "--column is for manifests"),
        (["--validation", 0], "or --select last"),
    ):
        shown = run(*ratings, *options, code=2)
        assert says in shown and "traceback" not in shown.lower()
    described = [word for word in ratings if word not in ("--data", tmp_path / "ratings.csv")]
    assert "are for --data" in run(*described, code=2)


def test_pretrained_weights_are_what_a_run_begins_from(ratings, tmp_path, hub, monkeypatch):
    """They cannot be fetched here: the error says what to do instead, and nothing is trained."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))  # another test may have fetched them
    at = ratings.index("--weights")
    shown = run(*ratings[:at], *ratings[at + 2 :], code=2)
    assert "cannot get the pretrained weights test_efficientnet.r160_in1k" in shown
    for way in (
        "--weights FILE",
        "--weights nr-aigciqa with --backbone tf_efficientnet_lite0",
        "--weights random",
    ):
        assert way in shown
    assert not (tmp_path / "run" / "state.pt").exists()
    assert Recipe().weights == "pretrained"
    assert named_weights("pretrained", paper_config("inceptionv4")) == "inception_v4.tf_in1k"
    with pytest.raises(
        InputError, match="timm has no pretrained weights for the backbone vit_giant_patch14_224"
    ):
        named_weights("pretrained", MetricConfig("x", "none", "vit_giant_patch14_224"))


def test_the_backbone_of_a_packaged_metric_needs_no_network(ratings, tmp_path, hub):
    at = ratings.index("--backbone")
    begun = ["--backbone", "tf_efficientnet_lite0", "--weights", "nr-aigciqa", "--feature", "stages"]
    run(*ratings[:at], *begun, *ratings[at + 4 :])
    assert aigciqa.metric_info(tmp_path / "run").backbone == "tf_efficientnet_lite0"
    assert hub.requests == []


def test_help_imports_nothing_heavy():
    shown = run("--help")
    for name in ("train", "evaluate", "publish", "convert", "data"):
        assert f"\n  {name} " in shown
    for arguments in (["--help"], ["train", "--help"], ["data", "check", "--help"]):
        assert imported_by("aigciqa.training.cli", "main", *arguments) & HEAVY == set()


def test_evaluate_uses_the_test_side_of_the_run(pku, trained, tmp_path):
    out = tmp_path / "figures.json"
    shown = run(
        "evaluate", trained, pku, "--dimension", "quality", "--out", out, "--plots", tmp_path / "plots",
        "--compare", "nr-aigciqa", "--device", "cpu",
    )  # fmt: skip
    assert "of the test side" in shown
    assert "against nr-aigciqa" in shown
    theirs, ours = json.loads(out.read_text()), json.loads((trained / "evaluation.json").read_text())
    assert theirs["sha256"] == ours["sha256"] == aigciqa.metric_info(trained).sha256
    assert theirs["figures"]["quality"]["n"] == 8  # one of six prompts
    assert theirs["figures"]["quality"]["srcc"] == pytest.approx(
        ours["figures"]["pku-i2iqa"]["quality"]["srcc"]
    )
    assert len(list((tmp_path / "plots" / "quality").glob("*.png"))) == 3


def test_evaluate_somebody_elses_scores(pku, tmp_path):
    rated = aigciqa.training.load(pku)
    lines = [f"{p.name},{1 - v}" for p, v in zip(rated.pictures, rated.labels["quality"], strict=True)]
    (tmp_path / "theirs.csv").write_text("picture,badness\n" + "\n".join(lines))
    shown = run("evaluate", tmp_path / "theirs.csv", pku, "--dimension", "quality")
    assert "SRCC                      -1.0000" in shown
    (tmp_path / "theirs.csv").write_text("picture,badness\n" + "\n".join(lines[1:]))
    assert "SD_000_00.jpg" in run("evaluate", tmp_path / "theirs.csv", pku, code=2)


def test_scores_are_put_on_the_scale_of_the_labels(tmp_path):
    examples = Path(__file__).parent.parent / "examples"
    for name in ("gen.png", "ref.png"):
        shutil.copy(examples / name, tmp_path)
    scores = aigciqa.create_metric("nr-aigciqa", device="cpu")([tmp_path / "gen.png", tmp_path / "ref.png"])
    low, high = (20 * scores).tolist()  # on 0 to 100 the metric is exactly right
    (tmp_path / "ratings.csv").write_text(f"picture,quality\ngen.png,{low}\nref.png,{high}\n")
    out = tmp_path / "figures.json"
    run(
        "evaluate", "nr-aigciqa", tmp_path / "ratings.csv", "--range", 0, 100, "--out", out, "--device", "cpu"
    )
    assert json.loads(out.read_text())["figures"]["quality"]["rmse"] < 1e-3
    # where nobody says more, the scale is what labels were seen of, as in training, and the output says so
    shown = run("evaluate", "nr-aigciqa", tmp_path / "ratings.csv", "--out", out, "--device", "cpu")
    figures = json.loads(out.read_text())["figures"]["quality"]
    ends = sorted((low, high))
    seen = [s / 100 * (ends[1] - ends[0]) + ends[0] for s in (low, high)]
    expected = (((seen[0] - low) ** 2 + (seen[1] - high) ** 2) / 2) ** 0.5
    assert figures["rmse"] == pytest.approx(expected, rel=1e-3)
    assert figures["scale_is_observed"] and figures["scale"] == pytest.approx(ends)
    assert "as far as labels were seen; say otherwise with --range LOW,HIGH" in shown
    refused = run(
        "evaluate", "nr-aigciqa", tmp_path / "ratings.csv", "--range", 0, low, "--device", "cpu", code=2
    )
    assert (
        f"quality: 1 label outside 0 to {low:g}, such as {high:g} of" in refused
        and "--range LOW,HIGH" in refused
    )


@pytest.mark.slow
def test_evaluate_beside_the_paper(pku, tmp_path):
    config = paper_config("resnet18", "full")
    save_checkpoint(tmp_path, config, random_network(config).state_dict())
    shown = run("evaluate", tmp_path, pku, "--compare-paper", "--device", "cpu").splitlines()
    at = next(i for i, line in enumerate(shown) if line.startswith("FR resnet18"))
    assert ".7063 / .7249" in shown[at]  # the published row, quality
    assert (
        shown[at + 1].startswith("  this run") and shown[at + 1].count(" - ") + 1 == 3
    )  # it predicts quality alone
    assert "this run: no figures for authenticity, correspondence, overall." in shown
    shown = run("evaluate", "nr-aigciqa", pku, "--compare-paper", "--device", "cpu")
    assert "NR tf_efficientnet_lite0, this run" in shown and "a row that the paper does not have" in shown


@pytest.mark.slow
def test_evaluate_reads_what_scoring_and_training_wrote(pku, trained, tmp_path):
    """And finds in it what the metric itself gives."""
    rated = aigciqa.training.load(pku)
    metric = aigciqa.create_metric(trained, device="cpu")
    scores = metric.predict(rated.pictures, rated.references)["quality"].tolist()
    direct = run("evaluate", trained, pku, "--dimension", "quality", "--device", "cpu")
    for name in ("scores.csv", "scores.jsonl", "scores.parquet"):
        run_score(pku / "Generated_image/All", "--ref", pku / "Image_prompt", "--ref-pattern", "{1:d}.jpg",
                  "--metric", trained, "--output", tmp_path / name, "--device", "cpu")  # fmt: skip
        split = trained / "splits" / "0-pku-i2iqa.csv"
        theirs = run("evaluate", tmp_path / name, pku, "--dimension", "quality", "--split", split)
        kinds = ("SRCC ", "KRCC", "pairwise")
        assert [line for line in theirs.splitlines() if line.startswith(kinds)][:3] == [
            line for line in direct.splitlines() if line.startswith(kinds)
        ][:3]
    table = pd.read_csv(trained / "predictions.csv")
    for picture, reference, row, score in zip(
        table.picture, table.reference, table["row"], table.quality_score, strict=True
    ):
        assert (Path(picture), Path(reference)) == (rated.pictures[row], rated.references[row])
        assert score == pytest.approx(scores[row], abs=1e-3)
    theirs = run("evaluate", trained / "predictions.csv", pku, "--dimension", "quality")
    assert "of the test side" in theirs  # the only rows that it has
    assert [line for line in theirs.splitlines() if line.startswith("SRCC  ")] == [
        line for line in direct.splitlines() if line.startswith("SRCC  ")
    ]


def test_columns_of_somebody_elses_scores_can_be_named(pku, tmp_path):
    rated = aigciqa.training.load(pku)
    lines = [f"{p.name},{v},{-v}" for p, v in zip(rated.pictures, rated.labels["quality"], strict=True)]
    (tmp_path / "theirs.csv").write_text("id,good,bad\n" + "\n".join(lines))
    arguments = ["evaluate", tmp_path / "theirs.csv", pku, "--dimension", "quality"]
    assert "pass --score-column, one of id, good, bad" in run(*arguments, code=2)
    assert "SRCC                      -1.0000" in run(*arguments, "--score-column", "bad")
    assert "has no column 'name'" in run(
        *arguments, "--score-column", "bad", "--picture-column", "name", code=2
    )


@pytest.mark.parametrize("filters", ["default", "error", "ignore"])
def test_warnings_are_lines_without_source(filters, tmp_path, picture):
    for i in range(2):
        picture(48, 48, i).save(tmp_path / f"p{i}.png")
    (tmp_path / "two.csv").write_text("picture,mos\np0.png,3\np1.png,4\n")
    (tmp_path / "theirs.csv").write_text("picture,quality\np0.png,3\np1.png,4\n")
    done = subprocess.run(
        [COMMAND, "evaluate", tmp_path / "theirs.csv", tmp_path / "two.csv"], capture_output=True, text=True,
        env=os.environ | {"PYTHONWARNINGS": filters},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning: no 4-parameter logistic was fitted: 2 rows are too few" in done.stderr
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "SRCC" in done.stdout


def test_data_check(pku, tmp_path):
    shown = run("data", "check", pku)
    assert "48 pictures" in shown
    copy = tmp_path / "damaged"
    shutil.copytree(pku, copy)
    (copy / "Generated_image" / "All" / "SD_000_00.jpg").unlink()
    (copy / "Image_prompt" / "3.jpg").write_bytes(b"\xff\xd8 broken")
    shown = run("data", "check", copy, code=1)
    assert "SD_000_00.jpg" in shown
    assert "3.jpg" in shown


def test_publish_dry_run(trained, hub):
    shown = run("publish", trained, "me/fr-small", "--revision", "v1", "--dry-run")
    assert hub.requests == []
    for part in (
        "README.md",
        "model.safetensors",
        "config.json",
        "made up by a test",
        "| pku-i2iqa quality |",
    ):
        assert part in shown


def test_convert(tmp_path):
    from test_model import authors_backbone, authors_model

    checkpoint, _ = authors_model("resnet18", "full", *authors_backbone("resnet18"))
    torch.save({"epoch": 3, "rho_best": 0.7, "optimizer": {}, **checkpoint}, tmp_path / "best_model.pt")
    shown = run("convert", tmp_path / "best_model.pt", tmp_path / "ours")
    assert "FR on resnet18" in shown
    assert "LeakyReLU with a slope of 0.01 in the blocks, as in the authors' repository AIGIQA4K" in shown
    assert "pass --activation relu" in shown
    assert aigciqa.metric_info(tmp_path / "ours").mode == "FR"
    assert aigciqa.metric_info(tmp_path / "ours").activation == "leaky_relu"
    run("convert", tmp_path / "best_model.pt", tmp_path / "relu", "--activation", "relu")
    assert aigciqa.metric_info(tmp_path / "relu").activation is None
    (tmp_path / "best_model.pt").write_bytes(b"nothing")
    run("convert", tmp_path / "best_model.pt", tmp_path / "theirs", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "fr-resnet51", "--out", "x"], "no recipe 'fr-resnet51'; shipped are"),
        (["train", "nr-resnet18", "--out", "x", "--epochs", "1.5"], "'1.5' is not integer"),
        (["train", "nr-resnet18", "--out", "x", "--augment", "maybe"], "'maybe' is not true|false"),
        (["train", "nr-resnet18", "--out", "x"], "no data set; name one, --data PATH"),
        (["train", "nr-resnet18"], "Missing option '--out'"),
        (["evaluate", "nr-aigciqa", "nowhere"], "nowhere"),
        (["data", "check", "nowhere"], "nowhere"),
        (["data", "check", ".", "--column", "quality"], "OURS=THEIRS"),
        (["publish", "nowhere", "me/x"], "nowhere"),
        (["frobnicate"], "No such command"),
    ],
)
def test_errors_are_a_message_and_code_2(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in run(*arguments, code=2)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "pandas.py").write_text("raise ModuleNotFoundError('no pandas', name='pandas')")
    code = "import aigciqa.training.cli as c; c.main(['data', 'check', '.'])"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'aigciqa[train]'" in result.stderr


def test_public_names():
    for name in aigciqa.training.__all__:
        assert getattr(aigciqa.training, name)
    with pytest.raises(AttributeError):
        _ = aigciqa.training.nothing


def test_list_names_every_packaged_metric_with_its_dimensions():
    done = CliRunner().invoke(main, ["list"], catch_exceptions=False)
    assert done.exit_code == 0
    header, *rows = done.output.splitlines()
    assert header.split() == ["name", "judges", "dimensions", "backbone", "MB", "accuracy"]
    assert [row.split()[0] for row in rows] == aigciqa.list_metrics()
    assert "quality, authenticity" in rows[1]


def test_info_says_what_a_checkpoint_is_without_reading_its_weights(tiny):
    folder = tiny()
    (folder / "model.safetensors").unlink()
    done = CliRunner().invoke(main, ["info", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    for fact in ("tiny-none", "none (random weights)", "a picture alone", "its middle 64 x 64"):
        assert fact in done.output
    done = CliRunner().invoke(main, ["info", "nr-aigcqa"])
    assert done.exit_code == 2
    assert "did you mean 'nr-aigciqa'" in done.stderr
