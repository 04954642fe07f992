"""The paper's whole table, from one command, on a stand-in with the names of PKU-I2IQA's files."""

import json

import pytest
from click.testing import CliRunner
from synthetic import make_pku
from test_trainer import one_thread  # noqa: F401  (a fixture that is used by itself)

from aigciqa import InputError
from aigciqa.config import DIMENSIONS
from aigciqa.training.cli import main
from aigciqa.training.paper import paper_results
from aigciqa.training.recipe import DataSource, read_recipe
from aigciqa.training.reproduction import paper_rows, reproduce

SMALL = {"epochs": 2, "weights": "random", "resize": 36, "crop": 32, "backbone": "test_efficientnet"}


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=4, size=40)


def ours(text):
    return [line for line in text.splitlines() if line.lstrip().startswith("reproduced")]


def test_each_run_has_the_authors_protocol(pku, tmp_path):
    said = []
    text = reproduce(
        DataSource(str(pku)), tmp_path, rows=["nr-vgg16", "fr-resnet50"], changes=SMALL, report=said.append
    )
    assert sorted(
        p.parent.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*/recipe.yaml")
    ) == sorted(f"{row}/{d}" for row in ("nr-vgg16", "fr-resnet50") for d in DIMENSIONS)
    for dimension, high in (("quality", 5), ("overall", 15)):
        made = read_recipe(tmp_path / "fr-resnet50" / dimension / "recipe.yaml")
        assert (made.split, made.select, made.validation, made.seed) == ("paper", "test", 0, 1)
        assert (made.optimizer, made.lr, made.weight_decay, made.batch_size) == ("adam", 1e-4, 1e-5, 8)
        assert (made.dimensions, made.score_range, made.reference) == ((dimension,), (0, high), "full")
    assert read_recipe("nr-vgg16").epochs == 100
    best = json.loads((tmp_path / "nr-vgg16/overall/evaluation.json").read_text())["best_of_each"]["overall"]
    rows = ours(text)
    assert len(rows) == 2
    lines = text.splitlines()
    assert lines[lines.index(rows[0]) - 1].startswith("NR vgg16") and lines[
        lines.index(rows[1]) - 1
    ].startswith("FR resnet50")
    assert (
        rows[0]
        .replace("0.", ".")
        .endswith(f"{best['srcc']:.4f} / {best['plcc']:.4f}".replace("0.", ".").rjust(15))
    )
    assert "Not the paper's protocol: epochs 2, weights random, resize 36, crop 32" in text
    assert (tmp_path / "table.txt").read_text() == text + "\n"
    assert sum("prompts) are trained and tested on" in line for line in said) == 1
    assert not (tmp_path / "cache").exists()


def test_finished_runs_are_kept_and_interrupted_ones_go_on(pku, tmp_path):
    source, how = DataSource(str(pku)), {"rows": ["nr-vgg16"], "dimensions": ["quality"], "changes": SMALL}
    whole = reproduce(source, tmp_path / "whole", **how, report=lambda line: None)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(
            source, tmp_path / "runs", **how, report=stop
        )  # at the first warning, before the first epoch
    assert reproduce(source, tmp_path / "runs", **how, report=lambda line: None) == whole
    model = tmp_path / "runs/nr-vgg16/quality/model.safetensors"
    made = model.stat().st_mtime_ns
    more = reproduce(
        source, tmp_path / "runs", **how | {"dimensions": ["quality", "overall"]}, report=lambda line: None
    )
    assert model.stat().st_mtime_ns == made
    assert ours(more)[0].count("/") == 2 and ours(whole)[0].count("/") == 1
    with pytest.raises(InputError, match="holds a run of other epochs; choose another folder, out=DIR"):
        reproduce(source, tmp_path / "runs", **how | {"changes": SMALL | {"epochs": 3}})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rows", "nr-vgg17"], "no row 'nr-vgg17'; pass some of --rows: fr-inceptionv4"),
        (["--columns", "beauty"], "has no labels for beauty"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
    ],
)
def test_what_cannot_be_reproduced(pku, tmp_path, options, says):
    done = CliRunner().invoke(main, ["reproduce", str(pku), "--out", str(tmp_path), *options])
    assert done.exit_code == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_protocol_is_not_an_option(pku, tmp_path):
    for changes in ({"split": "group"}, {"select": "last"}, {"dimensions": ("quality",)}):
        with pytest.raises(InputError, match=f"{min(changes)} is given by the paper's protocol"):
            reproduce(DataSource(str(pku)), tmp_path, changes=changes)


@pytest.mark.slow
def test_one_command_prints_the_whole_table(tmp_path):
    """All ten rows and four columns, on the papers' own backbones, made small."""
    data = make_pku(tmp_path / "PKU-I2IQA", prompts=2, size=76)
    small = ["--epochs", "1", "--weights", "random", "--resize", "76", "--crop", "75"]
    done = CliRunner().invoke(
        main, ["reproduce", str(data), "--out", str(tmp_path / "table"), *small], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout[done.stdout.index("PKU-I2IQA, arXiv") :].splitlines()
    published = paper_results()
    for row in paper_rows():
        method, backbone = row.split("-")
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{method.upper()} {backbone} "))
        first = published[(published.backbone == backbone) & (published.method == method.upper())].iloc[0]
        assert f"{first.srcc:.4f}".lstrip("0") in lines[at]
        assert lines[at + 1].startswith("  reproduced") and lines[at + 1].count("/") == 4
        for dimension in DIMENSIONS:
            assert (tmp_path / "table" / row / dimension / "evaluation.json").exists()
