"""Nothing depends on docstrings or assertions, which `python -OO` leaves out."""

import subprocess
import sys

import pytest
from conftest import EXAMPLES

from aigciqa.training.cli import main
from aigciqa.training.fields import FIELDS
from aigciqa.training.recipe import Recipe

SCORE = "import sys; sys.argv[0] = 'aigciqa-score'; from aigciqa.program import main; main()"


def python(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(command, *names):
    """The names of every command."""
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *names, name)


@pytest.mark.parametrize("names", list(commands(main)), ids=" ".join)
def test_help(names):
    shown = python("-OO", "-m", "aigciqa.training.cli", *names, "--help")
    assert shown.startswith(" ".join(["Usage: python -m aigciqa.training.cli", *names]))


def test_help_of_options():
    shown = " ".join(python("-OO", "-m", "aigciqa.training.cli", "train", "--help").split())
    assert 'What to start from: "pretrained", the ImageNet weights' in shown
    assert "Of everything random." in shown
    assert "Higher is better" not in python("-OO", "-c", SCORE, "--help")  # docstrings are really left out


def test_scores_are_the_same():
    arguments = ["-c", SCORE, EXAMPLES / "gen.png", "--format", "jsonl"]
    assert python("-OO", *arguments) == python(*arguments) != ""


@pytest.mark.slow
def test_training_is_the_same(tmp_path, pku_small):
    """And what it writes can be evaluated."""
    for name, flags in (("plain", []), ("optimized", ["-OO"])):
        python(
            *flags, "-m", "aigciqa.training.cli", "train", "--data", pku_small, "--backbone", "test_efficientnet",
            "--weights", "random", "--resize", 36, "--crop", 32, "--epochs", 1, "--out", tmp_path / name,
        )  # fmt: skip
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "optimized")]
    assert weights[0] == weights[1]
    python("-OO", "-m", "aigciqa.training.cli", "evaluate", tmp_path / "optimized", pku_small)


@pytest.fixture
def pku_small(tmp_path):
    from synthetic import make_pku

    return make_pku(tmp_path / "PKU-I2IQA", prompts=6, size=40)


def test_every_field_is_described():
    assert list(FIELDS) == list(Recipe.__dataclass_fields__)
    assert all(f"    {name}: {text}" in (Recipe.__doc__ or "") for name, text in FIELDS.items())
