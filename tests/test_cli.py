"""The command line: what it prints, how it ends, and that it goes on where it stopped."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import EXAMPLES

import aigciqa
from aigciqa import image
from aigciqa.cli import score as command

COMMAND = shutil.which("aigciqa-score", path=str(Path(sys.executable).parent))


def run(*arguments, cwd=EXAMPLES):
    """The installed command, as a process."""
    assert COMMAND, "the command is not installed beside this Python"
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "pandas", "scipy", "matplotlib", "huggingface_hub"}
HEAVY |= {"tqdm", "safetensors", "accelerate", "onnxruntime", "pyarrow", "ray", "gradio"}


def imported_by(module, command, *arguments):
    """The top-level modules that a command has imported when it ends, in a process of its own."""
    code = (
        f"import sys\nfrom {module} import {command}\n"
        f"try:\n    {command}({list(arguments)!r})\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def call(*arguments, code=0, stdin=None):
    """The same within this process, which spares the seconds that importing torch takes."""
    result = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu"], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def rows_of(result):
    """What ``--format csv`` printed, as dictionaries."""
    return list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(errors="surrogateescape"))))


@pytest.fixture
def folder(tmp_path, picture, monkeypatch):
    """The working folder, with six pictures as PKU-I2IQA names them and their two image prompts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image, "MAX_PIXELS", image.MAX_PIXELS)  # an option sets it
    (tmp_path / "All").mkdir()
    (tmp_path / "Image_prompt").mkdir()
    for i in range(6):
        name = f"{'SD' if i % 2 else 'MJ'}_{7 * (i // 3):03}_{i % 3 % 2}{i % 3 // 2}.jpg"
        picture(70 + 11 * i, 90, i).save(tmp_path / "All" / name)
    picture(90, 70, 10).save(tmp_path / "Image_prompt" / "0.jpg")
    picture(70, 70, 11).save(tmp_path / "Image_prompt" / "7.jpg")
    return tmp_path


STEMS = ["MJ_000_00", "MJ_000_01", "MJ_007_10", "SD_000_10", "SD_007_00", "SD_007_01"]
NAMES = [f"All/{stem}.jpg" for stem in STEMS]
PROMPTS = [f"Image_prompt/{n}.jpg" for n in (0, 0, 7, 0, 7, 7)]


def assert_scored(rows, expected, names, references=None):
    assert [row["picture"] for row in rows] == list(names)
    assert [row["reference"] or None for row in rows] == (references or [None] * len(names))
    assert [row["error"] for row in rows] == [""] * len(names)
    for dimension, scores in expected.items():
        assert [float(row[dimension]) for row in rows] == pytest.approx(scores.tolist(), abs=5e-4)


# -- what it prints


def test_table():
    result = run("gen.png", "--ref", "ref.png", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    metric = aigciqa.create_metric("fr-aigciqa", device="cpu")
    found = metric.predict(EXAMPLES / "gen.png", EXAMPLES / "ref.png")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["picture", "quality", "correspondence"]
    assert lines[1].split() == ["gen.png", *(f"{score.item():.2f}" for score in found.values())]
    assert lines[-1].startswith("fr-aigciqa@")
    assert metric.config.sha256[:12] in lines[-1] and "scale 0 to 5" in lines[-1]
    assert metric.config.provenance["labels"] in lines[-1]
    assert result.stderr == ""


def test_summary_of_several_pictures(tiny, folder):
    lines = call("All", "missing.png", "--metric", tiny(), code=1).stdout.splitlines()
    assert lines[0].split() == ["picture", "quality", "authenticity"]
    assert [line.split()[0] for line in lines[1:8]] == [*NAMES, "missing.png"]
    assert lines[7].endswith("missing.png: cannot be opened: No such file or directory")
    assert lines[9].startswith("7 pictures, 1 failed, ")
    assert lines[11].startswith("quality ") and lines[12].startswith("authenticity ")


def test_json_of_several_pictures(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    report = json.loads(call("gen.png", "missing.png", "ref.png", "--json", code=1).stdout)
    config = aigciqa.metric_info("nr-aigciqa")
    assert report["metric"] == "nr-aigciqa"
    assert (report["sha256"], report["revision"]) == (config.sha256, config.revision)
    assert (report["labels"], report["score_range"]) == (config.provenance["labels"], [0, 5])
    scores = aigciqa.create_metric("nr-aigciqa", device="cpu")(["gen.png", "ref.png"])
    results = report["results"]
    assert [(row["picture"], row["reference"]) for row in results] == [
        (name, None) for name in ("gen.png", "missing.png", "ref.png")
    ]
    for row, found in zip(results[::2], scores, strict=True):
        assert row["scores"]["quality"] == pytest.approx(found.item(), abs=5e-4)
        assert "error" not in row
    assert results[1]["scores"] is None and "cannot be opened" in results[1]["error"]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_a_pipe_gets_rows_only_and_a_file_the_same(form, tiny, folder):
    arguments = ["All", "broken.png", "--metric", tiny(), "--batch-size", "1"]
    Path("broken.png").write_bytes(b"?")
    printed = call(*arguments, "--format", form, code=1)
    call(*arguments, "-o", f"out.{form}", code=1)
    assert printed.stdout_bytes == Path(f"out.{form}").read_bytes()
    assert "7 pictures, 1 failed" in printed.stderr and "tiny-none@local" in printed.stderr
    lines = printed.stdout.splitlines()
    assert len(lines) == 7 + (form != "jsonl")
    if form == "jsonl":
        rows = [json.loads(line) for line in lines]
    else:
        rows = list(csv.DictReader(lines, delimiter="," if form == "csv" else "\t"))
    assert list(rows[0]) == ["picture", "reference", "quality", "authenticity", "error", "metric"]
    assert [row["picture"] for row in rows] == [*NAMES, "broken.png"]
    assert rows[-1]["error"] == "broken.png: not a picture that Pillow can read"
    assert {row["metric"].split()[0] for row in rows} == {"tiny-none@local"}


def test_one_dimension(tiny, folder):
    scored = ["All", "--metric", tiny()]
    every = rows_of(call(*scored, "--format", "csv"))
    one = rows_of(call(*scored, "--format", "csv", "--dimension", "authenticity"))
    assert "quality" not in one[0]
    assert [row["authenticity"] for row in one] == [row["authenticity"] for row in every]
    assert call(*scored, "--dimension", "authenticity").stdout.split()[:2] == ["picture", "authenticity"]


# -- what it scores, and with which references


@pytest.mark.parametrize(
    "sources",
    [["All"], ["All/*.jpg"], ["**/??_*.jpg"], ["All/MJ*.jpg", "All/SD*"], NAMES, ["-"], ["list.csv"]],
)
def test_sources(sources, tiny, folder):
    checkpoint = tiny()
    Path("list.csv").write_text("\n".join(["picture", *NAMES]))
    stdin = "".join(f"{name}\n" for name in NAMES) if sources == ["-"] else None
    rows = rows_of(call(*sources, "--metric", checkpoint, "--format", "csv", stdin=stdin))
    assert_scored(rows, aigciqa.create_metric(checkpoint, device="cpu").predict(NAMES), NAMES)


def test_paths_ended_by_nul_may_be_any(tiny, folder):
    names = [b"new\nline.jpg", b"caf\xe9.jpg", b" blank .jpg"]
    for name, source in zip(names, NAMES, strict=False):
        shutil.copy(source, os.fsdecode(name))
    listed = b"".join(name + b"\0" for name in names)
    result = call("-", "--metric", tiny(), "--format", "jsonl", stdin=listed)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [os.fsencode(row["picture"]) for row in rows] == names
    assert all(row["error"] is None for row in rows)
    table = call("-", "--metric", tiny(), stdin=listed).stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in table[1:3]] == ["new\\nline.jpg", "caf\\udce9.jpg"]


@pytest.mark.parametrize(
    ("options", "references"),
    [
        (["--ref", "Image_prompt/0.jpg"], ["Image_prompt/0.jpg"] * 6),
        (["--ref", "Image_prompt", "--ref-pattern", "{1:d}.jpg"], PROMPTS),
        (["--ref-pattern", "Image_prompt/{1:d}{suffix}"], PROMPTS),
        (["--ref", "stems"], [f"stems/{Path(name).stem}.png" for name in NAMES]),
    ],
)
def test_references(options, references, tiny, folder, picture):
    Path("stems").mkdir()
    for i, name in enumerate(NAMES):
        picture(80, 80, 50 + i).save(f"stems/{Path(name).stem}.png")
    checkpoint = tiny("full")
    rows = rows_of(call("All", *options, "--metric", checkpoint, "--format", "csv"))
    metric = aigciqa.create_metric(checkpoint, device="cpu")
    assert_scored(rows, metric.predict(NAMES, references), NAMES, references)


def test_manifest_with_columns_of_any_name(tiny, folder):
    Path("table.tsv").write_text("MOS\tprompt\timage\n" + f"3.1\t{PROMPTS[2]}\t{NAMES[2]}\n1\t\t{NAMES[0]}\n")
    named = ["table.tsv", "--picture-column", "image", "--reference-column", "prompt", "--format", "csv"]
    checkpoint = tiny("partial")
    names, references = [NAMES[2], NAMES[0]], [PROMPTS[2], None]
    expected = aigciqa.create_metric(checkpoint, device="cpu").predict(names, references)
    assert_scored(rows_of(call(*named, "--metric", checkpoint)), expected, names, references)
    without = rows_of(call(*named, "--metric", tiny()))  # judges the picture alone
    assert [row["reference"] for row in without] == ["", ""]
    full = rows_of(call(*named, "--metric", tiny("full"), code=1))
    assert full[0]["error"] == "" and "has no reference, which tiny-full needs" in full[1]["error"]


def test_metric_follows_from_the_references(monkeypatch, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(EXAMPLES / "gen.png", "0.png")
        tar.add(EXAMPLES / "ref.png", "0.ref.png")
    row = rows_of(call(tmp_path / "shard.tar", "--format", "csv"))[0]
    assert row["metric"].startswith("fr-aigciqa@")
    monkeypatch.chdir(EXAMPLES)
    expected = aigciqa.create_metric("fr-aigciqa", device="cpu").predict("gen.png", "ref.png")
    names, references = [f"{tmp_path}/shard.tar/0.png"], [f"{tmp_path}/shard.tar/0.ref.png"]
    assert_scored([row], expected, names, references)


def test_shards_cover_everything_once(tiny, folder):
    checkpoint = tiny()
    scored = ["All", *NAMES[:2], "--metric", checkpoint, "--format", "csv"]
    parts = [rows_of(call(*scored, "--shard", f"{i}/3")) for i in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 3, 2]
    names = NAMES + NAMES[:2]
    expected = aigciqa.create_metric(checkpoint, device="cpu").predict(names)
    assert_scored([parts[i % 3][i // 3] for i in range(8)], expected, names)


# -- how it computes


@pytest.mark.parametrize(
    "options",
    [["--batch-size", "1"], ["--batch-size", "4", "--workers", "3"], ["--workers", "1"], ["--device", "cpu"]],
)
def test_options_of_speed_do_not_move_scores(options, tiny, folder):
    checkpoint = tiny("full")
    expected = aigciqa.create_metric(checkpoint, device="cpu").predict(NAMES, PROMPTS)
    paired = ["--ref", "Image_prompt", "--ref-pattern", "{1:d}.jpg"]
    rows = rows_of(
        call("All", *paired, "--metric", checkpoint, "--format", "csv", *options)
    )  # --device twice
    assert_scored(rows, expected, NAMES, PROMPTS)


@pytest.mark.slow
def test_compiled_scores_are_the_same(tiny, folder):
    checkpoint = tiny()
    rows = rows_of(call("All", "--metric", checkpoint, "--format", "csv", "--compile", "--batch-size", "4"))
    assert_scored(rows, aigciqa.create_metric(checkpoint, device="cpu").predict(NAMES), NAMES)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_is_full(precision, tiny, folder):
    scored = ["All", "--metric", tiny(), "--format", "csv"]
    half = call(*scored, "--precision", precision)
    assert half.stderr.startswith(f"warning: {precision} is slow on most CPUs; computing in fp32\n")
    assert half.stdout == call(*scored).stdout


def test_larger_pictures_are_refused(tiny, folder, picture):
    picture(100, 101).save("large.png")
    picture(100, 100).save("fits.png")
    rows = rows_of(
        call("fits.png", "large.png", "--metric", tiny(), "--format", "csv", "--max-pixels", 10_000, code=1)
    )
    assert rows[0]["error"] == ""
    assert rows[1]["error"].startswith("large.png: has 0.0101 megapixels, more than the limit of 0.01;")


# -- a file goes on where it stopped


def test_goes_on_with_the_same_pictures_only(tiny, folder):
    checkpoint = tiny()
    scored = ["--metric", checkpoint, "--batch-size", "1", "-o", "out.csv"]
    call(*NAMES[:2], *scored)
    before = Path("out.csv").read_bytes()
    shutil.copytree(checkpoint, "other")
    config = json.loads(Path("other/config.json").read_text())
    Path("other/config.json").write_text(json.dumps(config | {"name": "other"}))
    for arguments, says in [
        ([*NAMES, *scored, "--metric", "other"], "holds scores of tiny-none@local"),
        ([*NAMES, *scored, "--dimension", "quality"], "does not begin with the columns"),
        ([NAMES[0], *NAMES[2:], *scored], f"row 2 is '{NAMES[1]}', but now the picture is '{NAMES[2]}'"),
        ([NAMES[0], *scored], f"row 2 is '{NAMES[1]}', but now there are fewer pictures"),
    ]:
        refused = call(*arguments, code=2)
        assert says in refused.stderr and refused.stdout == ""
        assert Path("out.csv").read_bytes() == before
    assert "6 pictures, 0 failed" in call(*NAMES, *scored).stdout
    call(*NAMES, *scored[:-1], "whole.csv")
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    call(*NAMES, *scored)  # nothing left to do
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_another_reference_is_refused(tiny, folder):
    scored = [NAMES[0], "--metric", tiny("full"), "-o", "out.csv"]
    call(*scored, "--ref", "Image_prompt/0.jpg")
    before = Path("out.csv").read_bytes()
    refused = call(*scored, "--ref", "Image_prompt/7.jpg", code=2)
    assert "beside 'Image_prompt/0.jpg', but now its reference is 'Image_prompt/7.jpg'" in refused.stderr
    assert Path("out.csv").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("how", "out"),
    [(signal.SIGKILL, "out.csv"), (signal.SIGINT, "out.jsonl"), (signal.SIGINT, "out.parquet")],
)
def test_killed_or_interrupted_it_goes_on_to_the_same_file(how, out, tiny, folder, picture):
    names = [f"{i}.png" for i in range(16)]
    for i, name in enumerate(names):
        picture(64, 64, i).save(name)
    Path(names[9]).rename("tenth.png")
    os.mkfifo(names[9])
    pipe = os.open(names[9], os.O_RDWR)  # whoever reads it waits
    scored = [*names, "--metric", tiny(), "--batch-size", "1", "--workers", "1", "-o"]
    out = Path(out)
    kept = Path("out.parquet.part") if out.suffix == ".parquet" else out
    process = subprocess.Popen(
        [COMMAND, *map(str, scored), out, "--device", "cpu"], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (kept.exists() and kept.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.send_signal(how)
    os.close(pipe)  # lets the thread go that reads it
    _, stderr = process.communicate(timeout=600)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert stderr == f"interrupted; {kept} keeps what is done, and the same command goes on from there\n"
    assert 3 < kept.read_bytes().count(b"\n") < 11
    Path("tenth.png").rename(names[9])
    assert "16 pictures, 0 failed" in call(*scored, out).stdout
    whole = out.with_stem("whole")
    call(*scored, whole)
    assert out.read_bytes() == whole.read_bytes()


# -- how it ends


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.png"], "missing.png: cannot be opened"),
        (["README.md"], "README.md: not a picture"),
        (["gen.png", "missing.png", "ref.png"], "missing.png: cannot be opened"),
    ],
)
def test_a_picture_that_cannot_be_scored_is_a_row_and_code_1(arguments, says, tiny, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    result = call(*arguments, "--metric", tiny(), code=1)
    assert says in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gen.png", "--ref", "missing.png"], "missing.png: there is no such reference"),
        (["missing/"], "missing/: there is no such file or folder"),
        (["missing.csv"], "missing.csv: there is no such file or folder"),
        (["*.webp"], "*.webp: no file matches"),
        (["gen.png", "--ref-pattern", "{0}x.png"], "of 1 pictures 1 have no reference"),
        (["gen.png", "--metric", "nr-aigcqa"], "did you mean 'nr-aigciqa'"),
        (["gen.png", "--metric", "fr-aigciqa"], "compares with references"),
        (["gen.png", "--metric", "nr-aigciqa", "--ref", "ref.png"], "judges a picture alone"),
        (["gen.png", "--dimension", "beauty"], "predicts quality, authenticity, not 'beauty'"),
        (["gen.png", "--device", "warp"], "device 'warp' is not available"),
        (["gen.png", "--metric", "some/one", "--offline"], "hf download some/one"),
        (["gen.png", "-o", "out.xml"], "out.xml: results are written to .csv"),
        (["gen.png", "--ref", "ref.png", "--ref-pattern", "{0}.png"], "leave out --ref-pattern, or name the"),
        (["gen.png", "--ref-pattern", "{0"], "error: --ref-pattern '{0': "),
        (["gen.png", "--metric", "clipiqa"], "repository 'clipiqa'. The named metrics are fr-aigciqa"),
        (
            ["gen.png", "missing.png", "--on-error", "stop", "--format", "jsonl"],
            "missing.png: cannot be opened",
        ),
        (["gen.png", "--mteric", "x"], "No such option"),
        (["gen.png", "--shard", "4/3"], "'4/3' is not like 2/5"),
        (["gen.png", "--batch-size", "0"], "0 is not in the range"),
        ([], "Missing argument"),
    ],
)
def test_errors_are_one_message_on_stderr_with_code_2(arguments, says, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    last = arguments[-2:] == ["--device", "warp"]
    result = CliRunner().invoke(command, arguments + ["--device", "cpu"] * (not last))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) <= 4
    assert result.stdout == "" or "stop" in arguments


def test_stop_keeps_the_rows_before(tiny, folder):
    scored = ["--metric", tiny(), "--on-error", "stop", "-o", "out.csv"]
    stopped = call(*NAMES[:3], "missing.jpg", *NAMES[3:], *scored, code=2)
    assert stopped.stderr == "error: missing.jpg: cannot be opened: No such file or directory\n"
    assert [row["picture"] for row in csv.DictReader(Path("out.csv").read_text().splitlines())] == NAMES[:3]
    shutil.copy(NAMES[3], "missing.jpg")
    call(*NAMES[:3], "missing.jpg", *NAMES[3:], *scored)
    assert len(Path("out.csv").read_text().splitlines()) == 1 + 7


def test_a_reader_that_goes_away_is_no_error(tiny, folder):
    listed = "".join(f"{name}\n" for name in NAMES * 400)
    arguments = ["-", "--metric", str(tiny()), "--format", "csv", "--device", "cpu"]
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(listed)
    process.stdin.close()
    assert process.stdout.readline().startswith("picture,")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() != 0


def test_interrupted_before_there_is_anything_to_score():
    process = subprocess.Popen(
        [COMMAND, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b"name.png\n" * 50_000)  # more than a pipe holds: once written, it is being read
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # else it might see the list's end before the signal
    stdout, stderr = process.communicate(timeout=600)
    assert (process.returncode, stdout, stderr) == (130, b"", b"interrupted\n")


def test_help_imports_nothing_heavy():
    result = run("--help")
    for word in ("PICTURE", "--ref", "--metric", "--device", "--dimension", "--json", "--offline"):
        assert word in result.stdout
    assert imported_by("aigciqa.cli", "score", "--help") & HEAVY == set()


def test_version():
    assert aigciqa.__version__ in run("--version").stdout
