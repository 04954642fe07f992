"""What the commands say about metrics and runs: lists, completion, progress, suggestions, and pages of groups."""

import csv
import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import EXAMPLES, random_network, tiny_config

import aigciqa
from aigciqa.cli import score
from aigciqa.errors import InputError
from aigciqa.results import open_results
from aigciqa.runs import column_groups, read_run
from aigciqa.training.cli import main
from aigciqa.weights import save_checkpoint

BIN = Path(sys.executable).parent
STAMP = "nr-aigciqa@v9 sha256:0"


def call(command, *arguments, code=0):
    result = CliRunner().invoke(command, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def written(path):
    """The data of a page."""
    (content,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', Path(path).read_text()
    )
    return json.loads(content)


# -- what there is


def test_list_says_what_there_is():
    shown = call(main, "list").stdout
    for name in aigciqa.list_metrics():
        config = aigciqa.metric_info(name)
        (line,) = [line for line in shown.splitlines() if line.startswith(name)]
        assert ", ".join(config.dimensions) in line and config.backbone in line
        assert re.search(r" [0-9]+\.[0-9] packaged ", line)
        assert line.endswith(config.provenance.get("accuracy", "not stated"))


def test_list_of_a_metric_that_is_fetched(tmp_path, monkeypatch):
    config = aigciqa.metric_info("nr-aigciqa")
    (tmp_path / "nr-aigciqa").mkdir()
    (tmp_path / "nr-aigciqa" / "config.json").write_text(config.to_json())
    for module in ("weights", "catalogue"):
        monkeypatch.setattr(f"aigciqa.{module}.PACKAGED", tmp_path)
    for command in (["list"], ["info", "nr-aigciqa"]):
        assert "  not packaged" in call(main, *command).stdout


def test_info_tells_the_backbone_and_its_weights(tiny):
    lines = dict(
        re.split(r"  +", line, maxsplit=1) for line in call(main, "info", "nr-aigciqa").stdout.splitlines()
    )
    config = aigciqa.metric_info("nr-aigciqa")
    assert lines["backbone"] == f"{config.backbone} (timm), feature {config.feature}"
    assert lines["backbone weights"] == config.provenance["backbone"]
    assert lines["MB"].endswith(" packaged")
    assert "packaged" not in call(main, "info", tiny()).stdout


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (main, ["trian"], "Did you mean 'train'?"),
        (main, ["train", "--epoch", 3], "Did you mean '--epochs'?"),
        (main, ["info", "nr-aigcia"], "did you mean 'nr-aigciqa'?"),
        (score, ["a.png", "--metrics", "x"], "Did you mean '--metric'?"),
        (score, ["a.png", "--metric", "fr-aigiqa"], "did you mean 'fr-aigciqa'?"),
        (score, ["a.png", "--dimension", "qualty"], "quality, authenticity, not 'qualty'"),
    ],
)
def test_misspelt_names_get_a_suggestion(command, arguments, says):
    assert says in call(command, *arguments, code=2).stderr


# -- completion


def completions(command, words):
    """What the shell is told, by the command itself."""
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    environment = os.environ | {
        variable: "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([BIN / command], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("aigciqa-score --metric n", ["plain,nr-aigciqa"]),
        ("aigciqa-score --metric runs/", ["file,runs/"]),
        ("aigciqa-score --metric fr-aigciqa --dimension c", ["plain,correspondence"]),
        ("aigciqa-score pic", ["file,pic"]),
        ("aigciqa-score a.png --group", ["plain,--group-by"]),
        ("aigciqa eval", ["plain,evaluate"]),
        ("aigciqa info p", ["plain,pr-aigciqa"]),
        ("aigciqa train fr-resnet1", ["plain,fr-resnet18"]),
    ],
)
def test_completion(words, expected):
    assert completions(words.split()[0], words) == expected


def test_completing_a_metric_does_not_import_torch():
    code = (
        "import os, sys\nos.environ |= {'_AIGCIQA_SCORE_COMPLETE': 'bash_complete', 'COMP_CWORD': '2', "
        "'COMP_WORDS': 'aigciqa-score --metric n'}\nfrom aigciqa.cli import score\n"
        "try:\n    score(prog_name='aigciqa-score')\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "plain,nr-aigciqa"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_the_shells(shell, tmp_path):
    script = call(main, "completion", shell).stdout
    assert "_AIGCIQA_COMPLETE" in script and "_AIGCIQA_SCORE_COMPLETE" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path):
    (tmp_path / "script").write_text(call(main, "completion", "bash").stdout)
    code = (
        f"PATH={BIN}:$PATH; . {tmp_path}/script; COMP_WORDS=(aigciqa-score --metric f); COMP_CWORD=2; "
        '_aigciqa_score_completion aigciqa-score; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "fr-aigciqa\n"


# -- progress


def on_terminal(command, **options):
    """Run it with standard error on a terminal; what it wrote there, and its standard output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.PIPE, **options)
    os.close(theirs)
    shown, end = b"", time.monotonic() + 600
    while time.monotonic() < end and select.select([ours], [], [], 600)[0]:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, shown
    return shown.decode(), output.decode()


WAIT = "import time\nfrom aigciqa.cli import waiting\nwith waiting('exporting'):\n    time.sleep({})\nprint('done')"


def test_what_takes_long_says_so_on_a_terminal_only():
    silent = subprocess.Popen([sys.executable, "-c", WAIT.format(2.7)], stderr=subprocess.PIPE)
    shown, output = on_terminal([sys.executable, "-c", WAIT.format(2.7)])
    assert re.search(r"\rexporting \.\.\. \d+ s", shown)
    assert shown.rstrip(" \r").endswith(" s") and shown.endswith("\r")  # and is wiped away
    assert output == "done\n"
    assert on_terminal([sys.executable, "-c", WAIT.format(0.1)])[0].strip() == ""
    assert silent.communicate()[1] == b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.slow
def test_scoring_has_a_bar_on_a_terminal_only(tiny, tmp_path, picture):
    """A picture that takes three seconds to come."""
    for i in range(3):
        picture(64, 64, i).save(tmp_path / f"{i}.png")
    held = (tmp_path / "1.png").read_bytes()
    checkpoint = tiny()
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    command = [BIN / "aigciqa-score", *names, "--metric", checkpoint, "--device", "cpu", "--batch-size", "1"]
    for terminal in (True, False):
        (tmp_path / "1.png").unlink()
        os.mkfifo(tmp_path / "1.png")
        code = f"import sys, time\nwith open({names[1]!r}, 'wb') as f: time.sleep(4); f.write({held!r})"
        feeder = subprocess.Popen([sys.executable, "-c", code])
        try:
            if terminal:
                shown, output = on_terminal([*command, "--format", "csv"])
                assert re.search(r"[123]/3 \[", shown), shown
                assert "%|" not in output and len(output.splitlines()) == 4
            else:
                done = subprocess.run([*command, "-o", tmp_path / "out.csv"], capture_output=True, check=True)
                assert done.stderr == b""
        finally:
            feeder.wait()


# -- pages of groups and of runs


@pytest.fixture
def pictures(tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    with Path("pictures/list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", "generator", "steps"])
        for i in range(6):
            picture(64, 64, i).save(f"pictures/{i}.png", compress_level=1)
            rows.writerow([f"{i}.png", ["SD", "MJ", ""][i % 3], 20 + i % 2])
    return tmp_path


def test_groups_by_a_column_of_a_manifest(tiny, pictures):
    scored = ["pictures/list.csv", "--metric", tiny(), "--device", "cpu", "--html", "out.html"]
    call(score, *scored, "--group-by", "generator")
    data = written("out.html")
    assert data["groupBy"] == "generator"
    assert sorted(data["groupNames"]) == ["(no such part)", "MJ", "SD"]
    found = {data["files"][row[0]][0]: data["groupNames"][row[2]] for row in data["rows"]}
    assert [found[f"pictures/{i}.png"] for i in range(3)] == ["SD", "MJ", "(no such part)"]
    assert [group["n"] for group in data["compared"][0]["groups"]] == [2, 2, 2]
    call(score, *scored, "--group-by", "steps", "--shard", "2/2")  # of every second picture
    data = written("out.html")
    assert [data["groupNames"][row[2]] for row in data["rows"]] == ["21"] * 3
    said = call(score, *scored, "--group-by", "generater", code=2).stderr
    assert "no column 'generater', did you mean 'generator'?" in said
    said = call(score, "pictures", *scored[1:], "--group-by", "generator", code=2).stderr
    assert "no manifest (.csv, .tsv, .jsonl, .parquet) with a column 'generator'" in said
    assert not Path("nothing.html").exists()


@pytest.mark.parametrize("ending", ["tsv", "parquet"])
def test_columns_of_other_tables(ending, pictures):
    import pandas as pd

    frame = pd.read_csv("pictures/list.csv", keep_default_na=False)
    if ending == "tsv":
        frame.to_csv("pictures/list.tsv", sep="\t", index=False)
    else:
        frame.to_parquet("pictures/list.parquet")
    found = column_groups([f"pictures/*.{ending}", "pictures"], "picture", "steps")
    assert found == {f"pictures/{i}.png": str(20 + i % 2) for i in range(6)}
    (pictures / "pictures" / "other.csv").write_text("picture,steps\n1.png,99\n")
    with pytest.raises(InputError, match="has two values of 'steps', '21' and '99'"):
        column_groups([f"pictures/list.{ending}", "pictures/other.csv"], "picture", "steps")


@pytest.fixture
def runs(tiny, pictures):
    """Two files of results, of the same checkpoint."""
    checkpoint = tiny()
    for name, of in (("first.csv", "pictures/[0-2].png"), ("second.parquet", "pictures/[3-5].png")):
        call(score, of, "gone.png", "--metric", checkpoint, "--device", "cpu", "-o", name, code=1)
    return checkpoint


def test_a_page_compares_runs(runs):
    done = call(main, "report", "first.csv", "second.parquet", "--html", "out.html", "--metric", runs)
    assert done.stdout == "out.html: 8 pictures of 2 runs\n"
    data = written("out.html")
    assert (data["scored"], data["failed"], data["groupBy"]) == (6, 2, "run")
    assert sorted(data["groupNames"]) == ["first", "second"]
    assert data["range"] == [0, 5] and data["previews"] == 6
    scores = {data["files"][row[0]][0]: row[3] for row in data["rows"]}
    expected = aigciqa.create_metric(runs, device="cpu")(sorted(scores))
    assert [scores[name] for name in sorted(scores)] == pytest.approx(expected.tolist(), abs=1e-3)
    call(main, "report", "first.csv", "--html", "out.html", "--metric", runs, "--group-by", "{stem}")
    assert written("out.html")["groupBy"] == "{stem}"
    call(main, "report", "first.csv", "--html", "out.html", "--metric", runs)
    assert written("out.html")["groupBy"] is None


def test_runs_that_do_not_compare(runs, tmp_path):
    config = tiny_config()
    save_checkpoint(tmp_path / "other", config, random_network(config, seed=1).state_dict())
    call(score, "pictures", "--metric", tmp_path / "other", "--device", "cpu", "-o", "other.jsonl")
    page = ["--html", "out.html"]
    for arguments, says in [
        (["first.csv", "other.jsonl", *page, "--metric", runs], "only scores of the same compare"),
        (["first.csv", *page], "say where that checkpoint is with --metric"),
        (["first.csv", *page, "--metric", "nr-aigciqa"], "not by nr-aigciqa@"),
        (["pictures/list.csv", *page], "its columns are 'picture', 'generator', 'steps'; results"),
        (["gone.csv", *page], "gone.csv: there is no such file"),
        (["first.csv", *page, "--group-by", "run"], "results have no further columns"),
        (["first.csv", *page, "--group-by", "{colour}", "--metric", runs], "no field {colour}"),
    ]:
        assert says in call(main, "report", *arguments, code=2).stderr
    assert not Path("out.html").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_run_is_read_as_it_was_written(ending, tmp_path):
    from aigciqa.records import Row

    path = tmp_path / f"out.{ending}"
    names = ["a,b.png", 'q"uo\nte.png', "caf\udce9.png", "plain.png"]
    rows = [Row(name, None, {"quality": 0.5 + i}) for i, name in enumerate(names)]
    rows += [Row("bad.png", "ref.png", None, "is\tbroken")]
    with open_results(path, ["quality"], STAMP) as file:
        file.write(rows)
    run = read_run(path)
    assert (run.stamp, run.dimensions, run.rows) == (STAMP, ("quality",), rows)
    with path.open("wb"):
        pass
    with pytest.raises(InputError, match=r"out\."):
        read_run(path)


def test_named_metrics_are_found_by_the_stamp(tmp_path):
    config = aigciqa.metric_info("nr-aigciqa")
    for stamp in (config.stamp, f"{config.stamp} fp16"):
        path = tmp_path / f"{len(stamp)}.csv"
        path.write_text(f"picture,reference,quality,error,metric\n{EXAMPLES / 'gen.png'},,3.5,,{stamp}\n")
        assert read_run(path).config() == config
