"""`--retry-failed`: rows that failed are scored again in their places, and whatever happens no row is lost."""

import errno
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

import aigciqa
from aigciqa.cli import score as command
from aigciqa.errors import InputError
from aigciqa.locking import unlinked
from aigciqa.records import Row
from aigciqa.results import open_results
from aigciqa.transient import AGAIN

FILES = ("csv", "tsv", "jsonl", "parquet")
STAMP = "nr-aigciqa@v0.2.0"
FAILING = Path("/proc/self/mem")  # whose beginning cannot be read: an input/output error of the system's own
NAMES = [f"{i}.png" for i in range(9)]

needs_failing = pytest.mark.skipif(not FAILING.exists(), reason="needs /proc/self/mem")


def call(*arguments, code=0, stdin=None, device=("--device", "cpu")):
    result = CliRunner().invoke(command, [*map(str, arguments), *device], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def rows_of(path):
    with open_results(path, ["quality", "authenticity"], stamp_of(path)) as file:
        return list(file.rows())


def stamp_of(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path)["metric"][0].as_py()
    return aigciqa.metric_info("checkpoint-tiny-none").stamp


@pytest.fixture
def folder(tmp_path, picture, tiny, monkeypatch):
    """The working folder: nine pictures, of which the second, the sixth and the last cannot be read, and the third is
    broken. `mend` makes them whole."""
    monkeypatch.chdir(tmp_path)
    tiny()
    for i, name in enumerate(NAMES):
        picture(70 + i, 80, i).save(name)
    Path("2.png").write_bytes(b"broken")
    for i in (1, 5, 8):
        Path(NAMES[i]).rename(f"whole-{i}")
        Path(NAMES[i]).symlink_to(FAILING)
    return tmp_path


def mend(*numbers):
    for i in numbers or (1, 5, 8):
        Path(NAMES[i]).unlink()
        shutil.copy(f"whole-{i}", NAMES[i])


SCORED = ["--metric", "checkpoint-tiny-none", "--batch-size", "1"]


def listed(folder="."):
    return sorted(path.name for path in Path(folder).iterdir() if folder != "." or "out" in path.name)


# -- the command


@needs_failing
@pytest.mark.parametrize("kind", FILES)
def test_passing_errors_are_scored_again_in_their_places(kind, folder):
    out = Path(f"out.{kind}")
    first = call(*NAMES[:7], *SCORED, "-o", out, code=1)
    assert "7 pictures, 3 failed" in first.stdout
    assert "not readable now: 2 of 7 images; put that right and add --retry-failed" in first.stdout
    before = rows_of(out)
    assert before[1].error == f"1.png: cannot be read now: Input/output error; {AGAIN}"
    assert before[2].error == "2.png: not a picture that Pillow can read"

    mend()
    kept = call(
        *NAMES[:7], *SCORED, "-o", out, code=1
    )  # as ever: nothing is scored, and the code says that rows failed
    assert (
        "3 of the 7 rows already in out." in kept.stdout and "--retry-failed scores them again" in kept.stdout
    )
    assert rows_of(out) == before

    again = call(*NAMES, *SCORED, "-o", out, "--retry-failed", code=1)  # and goes on with two more
    assert "9 pictures, 1 failed" in again.stdout
    assert "1 of the 7 rows already in out." in again.stdout and " failed again" in again.stdout
    call(*NAMES, *SCORED, "-o", f"undisturbed.{kind}", code=1)
    assert out.read_bytes() == Path(f"undisturbed.{kind}").read_bytes()
    assert listed() == [out.name]

    shutil.copy("3.png", "2.png")
    done = call(*NAMES, *SCORED, "-o", out, "--retry-failed")
    assert "9 pictures, 0 failed" in done.stdout and "failed again" not in done.stdout
    assert [row.picture for row in rows_of(out)] == NAMES and all(row.scores for row in rows_of(out))


@needs_failing
def test_rows_that_were_scored_are_not_scored_again(folder):
    call(*NAMES, *SCORED, "-o", "out.csv", code=1)
    before = Path("out.csv").read_text().splitlines()
    mend(5)
    Path("0.png").write_bytes(b"changed meanwhile")
    call(*NAMES, *SCORED, "-o", "out.csv", "--retry-failed", code=1)
    after = Path("out.csv").read_text().splitlines()
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [6]


@needs_failing
def test_with_a_page_maps_shards_and_archives(folder):
    with tarfile.open("shard.tar", "w") as tar:
        for name in ("0.png", "3.png"):
            tar.add(name)
    sources = [*NAMES, "shard.tar", "--shard", "1/2"]  # 0, 2, 4, 6, 8 and a member
    more = ["-o", "out.jsonl", "--html", "page.html", "--map", "maps"]
    call(*sources, *SCORED, *more, code=1)
    assert len(list(Path("maps").iterdir())) == 4
    mend(8)
    shutil.copy("3.png", "2.png")
    call(*sources, *SCORED, *more, "--retry-failed")
    call(*sources, *SCORED, "-o", "whole.jsonl", "--html", "whole.html", "--map", "all")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert Path("page.html").read_bytes() == Path("whole.html").read_bytes()
    assert listed("maps") == listed("all") and len(listed("all")) == 6


@needs_failing
def test_other_pictures_and_other_metrics_are_refused(folder):
    call(*NAMES, *SCORED, "-o", "out.csv", code=1)
    before = Path("out.csv").read_bytes()
    for names, says in (
        ([*NAMES[:2], *NAMES[3:]], "row 3 is '2.png', but now the picture is '3.png'"),
        (NAMES[:3], "row 4 is '3.png', but now there are fewer pictures"),
    ):
        refused = call(*names, *SCORED, "-o", "out.csv", "--retry-failed", code=2)
        assert says in refused.stderr
        assert Path("out.csv").read_bytes() == before and listed() == ["out.csv"]
    assert (
        "does not begin with the columns"
        in call(*NAMES, *SCORED, "--dimension", "quality", "-o", "out.csv", "--retry-failed", code=2).stderr
    )
    wrong = call(*NAMES, *SCORED, "--retry-failed", code=2)
    assert "--retry-failed is for the file of --output" in wrong.stderr


@needs_failing
def test_stopped_by_an_error_it_keeps_what_was_scored_again(folder):
    call(*NAMES, *SCORED, "-o", "out.csv", code=1)
    mend(1)
    stopped = call(*NAMES, *SCORED, "-o", "out.csv", "--retry-failed", "--on-error", "stop", code=2)
    assert "2.png: not a picture that Pillow can read" in stopped.stderr
    assert [bool(row.scores) for row in rows_of(Path("out.csv"))] == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@needs_failing
def test_a_link_stays_one_and_permissions_stay(folder):
    Path("real").mkdir()
    Path("real/out.csv").touch(mode=0o640)
    Path("out.csv").symlink_to("real/out.csv")
    call(*NAMES, *SCORED, "-o", "out.csv", code=1)
    mend()
    call(*NAMES, *SCORED, "-o", "out.csv", "--retry-failed", code=1)
    assert Path("out.csv").is_symlink() and listed("real") == ["out.csv"]
    assert Path("real/out.csv").stat().st_mode & 0o777 == 0o640
    assert len(rows_of(Path("out.csv"))) == 9


def retry_as_if_undisturbed(scored):
    """A run whose failed rows are scored again writes what a run without failures writes."""
    call(*scored, "out.csv", code=1, device=())
    assert AGAIN in Path("out.csv").read_text()
    mend()
    shutil.copy("3.png", "2.png")
    call(*scored, "out.csv", "--retry-failed", device=())
    call(*scored, "whole.csv", device=())
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


@needs_failing
def test_onnx_behaves_alike(folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from aigciqa.export import export_metric

    export_metric(aigciqa.create_metric("checkpoint-tiny-none", device="cpu"), "tiny.onnx")
    scored = [*NAMES, "--metric", "tiny.onnx", "-o"]
    retry_as_if_undisturbed(scored)


@pytest.mark.slow
@needs_failing
def test_ray_behaves_alike(folder):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, logging_level="error")
    try:
        scored = [*NAMES, "--metric", "checkpoint-tiny-none", "--engine", "ray", "-o"]
        retry_as_if_undisturbed(scored)
    finally:
        ray.shutdown()
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


@needs_failing
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_checkpoint_that_cannot_be_read_is_named(name, folder):
    path = Path("checkpoint-tiny-none") / name
    path.rename("kept")
    path.symlink_to(FAILING)
    for more in ([], ["-o", "out.csv"], ["-o", "out.parquet"]):
        refused = call("0.png", *SCORED, *more, code=2)
        assert f"error: {path}: cannot be read now: Input/output error; " in refused.stderr
        assert "cannot be written" not in refused.stderr
        assert listed() == []  # nothing empty is left, which could stand in the way of the next run
    assert path.is_symlink() and Path("kept").exists()


def test_other_errors_of_the_system_say_what_they_are():
    """Such as in training: only a full disk says that something was written."""
    import click

    from aigciqa.cli import Command

    for number, name, says in (
        (errno.EIO, None, "a file or pipe of this run cannot be read or written now: Input/output error"),
        (errno.ESTALE, "/x/y", "/x/y cannot be read or written now: Stale file handle"),
        (errno.ENOSPC, "/x/y", "/x/y cannot be written: No space left on device"),
    ):

        def fail(number=number, name=name):
            raise OSError(number, os.strerror(number), name)

        result = CliRunner().invoke(Command("x", callback=fail), [])
        assert result.exit_code == 2 and says in result.stderr
    missing = CliRunner().invoke(click.Command("x", callback=lambda: Path("/none").stat()), [])
    assert isinstance(missing.exception, FileNotFoundError)


# -- the file


def some_rows(count):
    rows = [Row(f"{i}.png", f"r{i}" if i % 2 else None, {"quality": i / 4}) for i in range(count)]
    return [
        Row(row.picture, row.reference, None, "failed, \n") if i % 3 == 2 else row
        for i, row in enumerate(rows)
    ]


def written(path, rows):
    with open_results(path, ["quality"], STAMP) as results:
        results.write(rows)


def mended(row):
    return Row(row.picture, row.reference, {"quality": -1.5}) if row.error else row


@pytest.mark.parametrize("kind", FILES)
def test_rewrite(kind, tmp_path):
    path, rows = tmp_path / f"out.{kind}", some_rows(50)
    written(path, rows[:40])
    with open_results(path, ["quality"], STAMP) as results:
        results.rewrite(mended(row) for row in results.rows())
        assert list(results.rows()) == [mended(row) for row in rows[:40]] and results.done == 40
        results.rewrite(row for row in rows[:10])  # ends early
        assert list(results.rows()) == rows[:10] + [mended(row) for row in rows[10:40]]
        results.write(rows[40:])
        results.rewrite(mended(row) for row in results.rows())  # of those that were there
    written(tmp_path / f"whole.{kind}", [mended(row) for row in rows[:40]] + rows[40:])
    assert path.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert listed(tmp_path) == [path.name, f"whole.{kind}"]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_rewrite_that_is_interrupted_keeps_all_rows(error, kind, tmp_path):
    path, rows = tmp_path / f"out.{kind}", some_rows(50)
    written(path, rows)

    def broken(results):
        for i, row in enumerate(results.rows()):
            if i == 30:
                raise error
            yield mended(row)

    with pytest.raises(error), open_results(path, ["quality"], STAMP) as results:
        results.rewrite(broken(results))
    with open_results(path, ["quality"], STAMP) as results:
        assert list(results.rows()) == [mended(row) for row in rows[:30]] + rows[30:]
    assert listed(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", FILES)
def test_rewrite_takes_only_the_same_pictures(kind, tmp_path):
    path, rows = tmp_path / f"out.{kind}", some_rows(5)
    written(path, rows)
    before = path.read_bytes()
    for wrong in (rows[1:], rows[:1] * 2, [*rows, rows[0]], [Row("0.png", "r", {"quality": 0.0})]):
        with (
            pytest.raises(InputError, match=r"'[0-9].png' is not the next picture in .*out"),
            open_results(path, ["quality"], STAMP) as results,
        ):
            results.rewrite(wrong)
        with open_results(path, ["quality"], STAMP) as results:
            assert list(results.rows()) == rows
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_draft_of_a_killed_run_and_a_planted_link_do_no_harm(kind, tmp_path):
    path, rows, victim = tmp_path / f"out.{kind}", some_rows(5), tmp_path / "victim"
    written(path, rows)
    victim.write_text("precious")
    (tmp_path / (f"out.{kind}.retry" if kind == "csv" else f"out.{kind}.part.retry")).symlink_to(victim)
    with open_results(path, ["quality"], STAMP) as results:
        results.rewrite(mended(row) for row in results.rows())
        with pytest.raises(InputError, match="is being written by another process"):
            open_results(path, ["quality"], STAMP)
    assert victim.read_text() == "precious"
    assert listed(tmp_path) == [path.name, "victim"]


def test_a_link_planted_in_the_place_of_the_journal_is_not_followed(tmp_path):
    path, victim = tmp_path / "out.parquet", tmp_path / "victim"
    victim.touch()
    (tmp_path / "out.parquet.part").symlink_to(victim)
    with pytest.raises(InputError, match=r"out\.parquet\.part is a link"):
        open_results(path, ["quality"], STAMP)
    assert victim.read_bytes() == b"" and not path.exists()
    with pytest.raises(OSError, match="symbolic links"):  # put there in between
        open(tmp_path / "out.parquet.part", "ab", opener=unlinked)  # noqa: SIM115


REWRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_retry import STAMP, mended
from aigciqa.results import open_results
with open_results(Path(sys.argv[1]), ["quality"], STAMP) as results:
    print(results.done, flush=True)
    results.rewrite(mended(row) for row in results.rows())
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_killed_at_any_moment_no_row_is_lost(kind, tmp_path):
    path, rows = tmp_path / f"out.{kind}", some_rows(4000)
    written(path, rows)
    script, killed = REWRITER.format(tests=str(Path(__file__).parent)), 0
    for pause in (0, 0.02, 0.05, 0.1):
        with subprocess.Popen(
            [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "4000\n"
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        with open_results(path, ["quality"], STAMP) as results:
            found = list(results.rows())
        assert found in (rows, [mended(row) for row in rows])
    assert killed
    with open_results(path, ["quality"], STAMP) as results:
        results.rewrite(mended(row) for row in results.rows())
    written(tmp_path / f"whole.{kind}", [mended(row) for row in rows])
    assert path.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert len(listed(tmp_path)) == 2


# -- what a failing open, or a run that scored nothing, leaves


@pytest.mark.parametrize("kind", FILES)
def test_a_run_without_a_row_leaves_no_file(kind, tmp_path):
    path = tmp_path / f"out.{kind}"
    with pytest.raises(RuntimeError), open_results(path, ["quality"], STAMP):
        raise RuntimeError
    assert listed(tmp_path) == []
    with open_results(path, ["quality", "other"], "another"):  # other columns are no trouble
        pass
    path.unlink()
    if kind != "parquet":
        path.touch()  # somebody else's, so it stays
        with pytest.raises(RuntimeError), open_results(path, ["quality"], STAMP):
            raise RuntimeError
        assert path.exists()


def test_a_parquet_mismatch_leaves_nothing_that_blocks_the_next_run(tmp_path, folder):
    """Whoever then removes the file, as the message says, begins anew."""
    call("0.png", "3.png", *SCORED, "-o", "out.parquet")
    before = Path("out.parquet").read_bytes()
    refused = call("3.png", "0.png", *SCORED, "-o", "out.parquet", code=2)
    assert refused.stderr.startswith("error: out.parquet: row 1 is '0.png', but now the picture is '3.png'")
    assert listed() == ["out.parquet"] and Path("out.parquet").read_bytes() == before
    for dimensions, stamp in (
        (["quality", "authenticity"], "other"),
        (["quality"], stamp_of(Path("out.parquet"))),
    ):
        with pytest.raises(InputError, match=r"^out.parquet "):
            open_results(Path("out.parquet"), dimensions, stamp)
        assert listed() == ["out.parquet"] and Path("out.parquet").read_bytes() == before
    Path("out.parquet").unlink()
    call("3.png", "0.png", *SCORED, "-o", "out.parquet")


def test_a_journal_that_did_not_end_is_named_and_kept(tmp_path):
    path, part, rows = tmp_path / "out.parquet", tmp_path / "out.parquet.part", some_rows(4)
    with pytest.raises(RuntimeError), open_results(path, ["quality"], STAMP) as results:
        results.write(rows[:3])
        raise RuntimeError
    kept = part.read_bytes()
    assert listed(tmp_path) == [part.name]
    for final in (False, True):
        if final:
            written(tmp_path / "other.parquet", rows[:1])
            (tmp_path / "other.parquet").replace(path)
        for dimensions, stamp in ((["quality"], "another"), (["beauty"], STAMP)):
            with pytest.raises(
                InputError, match=r"out\.parquet\.part \(the rows of a run into .* that did not end\) "
            ) as raised:
                open_results(path, dimensions, stamp)
            assert str(raised.value).endswith("; write to another file or remove it")
            assert part.read_bytes() == kept
    with open_results(path, ["quality"], STAMP) as results:
        assert results.done == 3 and results.holder.startswith(str(part))
        results.write(rows[3:])
    with open_results(path, ["quality"], STAMP) as results:
        assert list(results.rows()) == rows
    assert listed(tmp_path) == [path.name]


def test_what_is_no_file_in_the_place_of_a_parquet_file(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "out.parquet.part").mkdir()
    for name in ("folder.parquet", "pipe.parquet", "out.parquet"):
        with pytest.raises(InputError, match=rf"{name}.* is not a file; write to another name"):
            open_results(tmp_path / name, ["quality"], STAMP)
    assert listed(tmp_path) == ["folder.parquet", "out.parquet.part", "pipe.parquet"]
