"""The installed command, as a process."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import EXAMPLES

import aigciqa

COMMAND = shutil.which("aigciqa-score", path=str(Path(sys.executable).parent))


def run(*arguments, cwd=EXAMPLES):
    assert COMMAND, "the command is not installed beside this Python"
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def test_table():
    result = run("gen.png", "--ref", "ref.png", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    score = aigciqa.create_metric("fr-aigciqa", device="cpu")(
        EXAMPLES / "gen.png", EXAMPLES / "ref.png"
    ).item()
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["picture", "quality", "correspondence"]
    assert lines[1].split()[:2] == ["gen.png", f"{score:.2f}"] and len(lines[1].split()) == 3
    assert lines[-1].startswith("fr-aigciqa ")
    assert "pseudo-labels" in lines[-1]
    assert result.stderr == ""


def test_json_of_several_pictures():
    result = run("gen.png", "ref.png", "--json", "--device", "cpu")
    report = json.loads(result.stdout)
    config = aigciqa.metric_info("nr-aigciqa")
    assert (report["metric"], report["sha256"], report["score_range"]) == (
        "nr-aigciqa",
        config.sha256,
        [0, 5],
    )
    scores = aigciqa.create_metric("nr-aigciqa", device="cpu")([EXAMPLES / "gen.png", EXAMPLES / "ref.png"])
    for row, name, score in zip(report["results"], ("gen.png", "ref.png"), scores, strict=True):
        assert (row["picture"], row["reference"]) == (name, None)
        assert row["scores"]["quality"] == pytest.approx(score.item(), abs=1e-4)


def test_metric_and_dimension(tiny):
    folder = tiny("none", dimensions=("quality", "authenticity"))
    result = run("gen.png", "--metric", folder, "--json", "--device", "cpu")
    assert list(json.loads(result.stdout)["results"][0]["scores"]) == ["quality", "authenticity"]
    result = run("gen.png", "--metric", folder, "--dimension", "authenticity", "--device", "cpu")
    assert result.stdout.split()[:2] == ["picture", "authenticity"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.png"], "missing.png: cannot be opened"),
        (["gen.png", "--ref", "missing.png"], "missing.png: cannot be opened"),
        (["README.md"], "README.md: not a picture"),
        (["."], "is a folder"),
        (["gen.png", "--metric", "nr-aigcqa"], "did you mean 'nr-aigciqa'"),
        (["gen.png", "--metric", "fr-aigciqa"], "compares with a reference"),
        (["gen.png", "--metric", "nr-aigciqa", "--ref", "ref.png"], "judges a picture alone"),
        (["gen.png", "--dimension", "beauty"], "predicts quality, authenticity, not 'beauty'"),
        (["gen.png", "--device", "warp"], "device 'warp' is not available"),
        (["gen.png", "--metric", "some/one", "--offline"], "hf download some/one"),
        (["gen.png", "--mteric", "x"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_errors_are_one_message_on_stderr_with_code_2(arguments, says):
    result = run(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_help_is_instant_and_imports_nothing_heavy():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        result = run("--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5
    for word in ("PICTURE", "--ref", "--metric", "--device", "--dimension", "--json", "--offline"):
        assert word in result.stdout
    code = (
        "import sys, aigciqa.cli\n"
        "assert not {'torch', 'numpy', 'PIL', 'timm', 'huggingface_hub'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version():
    assert aigciqa.__version__ in run("--version").stdout
