"""The commands where a program may run: streams of any kind, warnings as errors, no place to write, no terminal."""

import csv
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import EXAMPLES
from test_cli import call

from aigciqa import running
from aigciqa.streams import INSTEAD, prepare_streams

BIN = Path(sys.executable).parent
STREAMS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
}
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The working folder, with two images, the name of one not Latin."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLES / "gen.png", tmp_path / "gen.png")
    shutil.copy(EXAMPLES / "ref.png", tmp_path / "猫.png")
    return tmp_path


def shell(line, **environment):
    """A line of shell with the commands of this Python on the path."""
    place = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment
    return subprocess.run(["sh", "-c", line], capture_output=True, env=place)


# -- streams


@posix
@pytest.mark.parametrize("kind", STREAMS)
def test_what_a_stream_cannot_show_is_replaced(kind, tiny, images):
    encoding = STREAMS[kind].get("PYTHONIOENCODING", "ascii")
    checkpoint = tiny()
    done = shell(f"aigciqa-score gen.png 猫.png gen.png --metric {checkpoint}; echo $?", **STREAMS[kind])
    lines = done.stdout.decode(encoding).splitlines()
    assert lines[-1] == "0" and done.stderr == b""
    shown = "\\u732b.png" if kind != "C" else "\\udce7\\udc8c\\udcab.png"  # the bytes are no characters there
    assert [line.split()[0] for line in lines[1:4]] == ["gen.png", shown, "gen.png"]
    bars = [line for line in lines if line.startswith(("quality ", "authenticity "))]
    assert len(bars) == 2 and all(line.endswith(("=", "@")) for line in bars)
    assert ("±" if encoding != "ascii" else "+-") in lines[6]
    written = shell(f"aigciqa-score gen.png 猫.png --metric {checkpoint} -o out.csv", **STREAMS[kind])
    assert written.returncode == 0, written.stderr
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text(encoding="utf-8"))))
    assert [row["picture"] for row in rows] == ["gen.png", "猫.png"]


@posix
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    "line",
    [
        "aigciqa-score --help", "aigciqa --help", "aigciqa list", "aigciqa info nr-aigciqa", "aigciqa train --help",
        "aigciqa info 猫 2>&1; test $? = 2", "aigciqa report 猫.csv --html 猫.html --metric nr-aigciqa",
    ],
)  # fmt: skip
def test_every_command_prints_to_an_8_bit_stream(line, kind, images):
    from aigciqa.registry import metric_info

    stamp = metric_info("nr-aigciqa").stamp
    text = f"picture,reference,quality,error,metric\n猫.png,,3.5,,{stamp}\n"
    Path("猫.csv").write_text(text, encoding="utf-8")
    done = shell(line, **STREAMS[kind])
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(STREAMS[kind].get("PYTHONIOENCODING", "ascii"))


def test_every_bar_has_a_character_of_ascii():
    assert all("▁▂▃▄▅▆▇█±…".translate(INSTEAD)[i].isascii() for i in range(10))


def test_streams_of_another_program_are_left_alone(monkeypatch):
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    prepare_streams()
    assert sys.stdout is other


CLOSED = ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"]


@posix
@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_are_silent(closed, tiny, images):
    done = shell(f"aigciqa-score gen.png 猫.png --metric {tiny()} -o out.csv {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("out.csv").read_bytes().count(b"\n") == 3
    for line in ("aigciqa list", "aigciqa-score --help", "aigciqa info nr-aigciqa"):
        done = shell(f"{line} {closed}")
        assert (done.returncode, done.stderr) == (0, b"")
        assert bool(done.stdout) == (">&-" not in closed.split())


def test_without_streams_a_program_still_ends_well(images):
    """As under pythonw, where the streams are None though the file descriptors may be valid."""
    code = (
        "import sys\nsys.stdin = sys.stdout = sys.stderr = None\n"
        "sys.argv = ['aigciqa-score', 'gen.png', '-o', 'o.csv']\n"
        "from aigciqa.program import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert Path("o.csv").read_bytes().count(b"\n") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "line", ["aigciqa-score gen.png", "aigciqa-score gen.png --json", "aigciqa-score --help", "aigciqa --help",
             "aigciqa list"],
)  # fmt: skip
def test_a_full_disk_is_an_error_and_a_closed_pipe_is_quiet(line, images):
    done = shell(f"{line} > /dev/full")
    assert (done.returncode, done.stderr) == (
        2,
        b"error: output cannot be written: No space left on device\n",
    )
    assert shell(f"{line} | head -n 1 >&2").stderr.count(b"\n") == 1


# -- warnings


@posix
@pytest.mark.parametrize(
    "line",
    [
        "aigciqa-score gen.png 猫.png missing.png --html page.html --map maps -o out.jsonl; test $? = 1",
        "aigciqa-score gen.png --ref 猫.png --workers 2 -o out.csv && aigciqa report out.csv --html r.html",
        "aigciqa list",
        "aigciqa info fr-aigciqa",
        "aigciqa data check --help",
    ],
)
def test_warnings_as_errors_change_nothing(line, images):
    done = shell(line, PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    assert b"Warning" not in done.stderr and b"warning" not in done.stderr


# -- nowhere to write

CHOSEN = {"TMPDIR", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"}  # importing torch's compiler sets the last
ONLY = """
mount --bind out out && mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm || exit 99
cd "$PWD"; touch writable 2>/dev/null && exit 99
"""


def read_only(line):
    """Run a line of shell where only the folder `out` can be written, and the home does not exist."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    place = {k: v for k, v in os.environ.items() if k not in CHOSEN}
    place |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": "/nonexistent"}
    Path("out").mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", ONLY + line], capture_output=True, text=True, env=place
    )
    if done.returncode == 99 or done.stderr.startswith("unshare: "):
        pytest.skip("needs the right to mount")
    return done


@posix
@pytest.mark.parametrize(
    "line",
    [
        "aigciqa-score gen.png 猫.png --ref gen.png --workers 2 -o out/a.parquet",
        "aigciqa-score shard.tar links.tar.gz --html out/page.html --map out/maps -o out/b.csv",
        "printf 'gen.png\\n' | aigciqa-score - --format csv && aigciqa list && aigciqa info nr-aigciqa",
        "aigciqa report results.csv --html out/report.html",
    ],
)
def test_nothing_but_the_output_has_to_be_writable(line, images):
    from aigciqa.registry import metric_info

    stamp = metric_info("nr-aigciqa").stamp
    Path("results.csv").write_text(f"picture,reference,quality,error,metric\ngen.png,,3.5,,{stamp}\n")
    Path("link.png").symlink_to("gen.png")
    for name, mode in (("shard.tar", "w"), ("links.tar.gz", "w:gz")):
        with tarfile.open(name, mode) as tar:
            tar.add("gen.png")
            tar.add("link.png")
    Path("link.png").unlink()
    done = read_only(line)
    assert done.returncode == 0, done.stderr


@posix
@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            "--engine onnx",
            "a temporary file cannot be written in /tmp: Read-only file system; let TMPDIR name",
        ),
        ("--compile", "the compiler of --compile cannot write to /tmp"),
    ],
)
def test_what_needs_a_temporary_folder_names_it(option, says, images):
    done = read_only(f"aigciqa-score gen.png {option} -o out/a.csv")
    assert (done.returncode, done.stderr.count("Traceback")) == (2, 0)
    assert done.stderr.splitlines()[-1].startswith(f"error: {says}")
    assert "TMPDIR" in done.stderr


@posix
def test_the_folder_of_the_compiler_is_named(images):
    done = read_only("TMPDIR=$PWD/out TORCHINDUCTOR_CACHE_DIR=$PWD/cache aigciqa-score gen.png --compile")
    assert done.returncode == 2
    assert f"cannot write to {images / 'cache'}: Read-only file system; " in done.stderr


# -- progress


def test_a_job_without_a_terminal_says_how_far_it_is(tiny, images, monkeypatch):
    monkeypatch.setattr(running, "EVERY", 0.0)
    said = call(
        "gen.png", "missing.png", "猫.png", "--metric", tiny(), "-o", "out.csv", code=1
    ).stderr.splitlines()
    assert len(said) == 2  # not at the end, which the summary tells
    assert said[0].startswith("scoring: 1 of 3, ") and ", 0 failed, " in said[0]
    assert said[1].startswith("scoring: 2 of 3, ") and " images/s, 1 failed, " in said[1]
    assert said[1].endswith(" left")


def test_a_log_that_cannot_be_written_does_not_end_the_run(monkeypatch):
    from aigciqa.progress import Progress

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with Progress("scoring", 3, every=0.0) as progress:
        monkeypatch.setattr(sys, "stderr", Full())
        progress.done(2)
    assert progress.count == 2
