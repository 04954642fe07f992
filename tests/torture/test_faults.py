"""A scoring run that is killed, starved or interrupted loses no row: the same command again ends as if undisturbed."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import random_network, tiny_config

import aigciqa
from aigciqa import image, opening
from aigciqa.errors import InputError
from aigciqa.records import codec_for
from aigciqa.results import open_results
from aigciqa.weights import save_checkpoint

from .processes import Run

FILES = ("csv", "tsv", "jsonl", "parquet")
MANY = ["csv", "parquet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tsv", "jsonl"))]
PICTURES = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small pictures, one of them broken."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    chance = random.Random(0)
    for i in range(PICTURES):
        picture = Image.frombytes("RGB", (40, 30), chance.randbytes(3600)).resize((240, 180))
        picture.save(folder / f"{i:03d}.png")
    (folder / "007.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    return folder


@pytest.fixture(scope="module")
def begin(checkpoint, pictures, tmp_path_factory):
    """Begins a run that writes to a file."""
    logs, numbers = tmp_path_factory.mktemp("logs"), itertools.count()

    def make(output, *more, **options):
        log = logs / f"{next(numbers)}.log"
        return Run(pictures, "--metric", checkpoint, "-o", output, *more, log=log, **options)

    return make


@pytest.fixture(scope="module")
def undisturbed(begin, tmp_path_factory):
    """The files of runs that nothing happened to, by kind, and how long they take."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made, seconds = {}, []
    for kind in (*FILES, "csv"):
        path = folder / f"{len(seconds)}.{kind}"
        begun = time.monotonic()
        run = begin(path)
        assert run.wait() == 1, run.says()  # a picture is broken
        seconds.append(time.monotonic() - begun)
        made[kind] = path.read_bytes()
    return made, min(seconds)


@pytest.fixture
def complete(begin, undisturbed, tally):
    """Runs to the end what was disturbed, and sees that nothing is missing, double or different."""

    def check(path, group, faults):
        run = begin(path)
        code = run.wait()
        expected = undisturbed[0][path.suffix[1:]]
        lost = max(0, PICTURES - len(rows_of(path)))
        tally(group, faults=faults, lost=lost)
        assert code == 1, run.says()
        assert path.read_bytes() == expected
        return run

    return check


def rows_of(path):
    if not path.exists():
        return []
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    codec = codec_for(path.suffix[1:], ("quality", "authenticity"), "")
    records = path.read_bytes().removeprefix(codec.header).splitlines(keepends=True)
    return [codec.decode(record) for record in records if record.endswith(b"\n")]


def partial(path):
    """How many rows a run that did not end has left."""
    journal = path.with_name(path.name + ".part") if path.suffix == ".parquet" else path
    return (
        max(0, journal.read_bytes().count(b"\n") - (path.suffix in (".csv", ".tsv")))
        if journal.exists()
        else 0
    )


@pytest.mark.parametrize("kind", FILES)
def test_killed_at_random_moments(kind, begin, undisturbed, complete, rounds, tmp_path):
    """``kill -9``, fifty times over the four kinds of file; what was begun goes on until it is killed again."""
    chance, kills, midway = random.Random(kind), rounds({"csv": 14, "tsv": 12}.get(kind, 12), 3), 0
    path, number = tmp_path / f"out.{kind}", 0
    while kills > 0 or not midway:
        run = begin(path)
        if kills > 0:
            time.sleep(chance.uniform(0.1, 1) * undisturbed[1])
        else:  # chance let none end between its first and its last row
            _wait_for_rows(run, path)
        run.send(signal.SIGKILL)
        ended = run.wait()
        assert ended in (-signal.SIGKILL, 1), run.says()
        kills -= ended == -signal.SIGKILL
        midway += 0 < partial(path) < PICTURES
        number += 1
        if ended == 1:  # it was done before; the next begins anew
            assert path.read_bytes() == undisturbed[0][kind]
            path.unlink()
        assert number < 200
    complete(path, "kill -9 at random moments", number)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(how, kind, begin, complete, tmp_path):
    path = tmp_path / f"out.{kind}"
    run = begin(path)
    _wait_for_rows(run, path)
    run.send(how)
    code = run.wait()
    assert code == (130 if how == signal.SIGINT else -how), run.says()
    if how == signal.SIGINT:
        assert "keeps what is done, and the same command goes on from there" in run.says()
        assert "Traceback" not in run.says()
    assert 0 < partial(path) < PICTURES
    complete(path, "interrupted by SIGINT or SIGTERM", 1)


def _wait_for_rows(run, path, count=2):
    """Wait until it has written some, and stop it there, so that it cannot end before it is dealt with."""
    for _ in range(6000):
        if partial(path) >= count:
            return
        assert run.process.is_alive(), run.says()
        time.sleep(0.002)
    raise AssertionError("it wrote no row")


@pytest.fixture
def disk(tmp_path):
    """Makes a small file system, which can be made read-only; skips where that may not be."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.parametrize("kind", MANY)
def test_disk_full(kind, begin, complete, disk, tmp_path):
    folder = disk("4k")
    path = folder / f"out.{kind}"
    run = begin(path)
    assert run.wait() == 2, run.says()
    assert f"{path}: cannot be written: No space left on device; make room and run the same" in run.says()
    assert "Traceback" not in run.says()
    again = begin(path)  # before there is room
    assert again.wait() == 2 and "make room" in again.says()
    remount(folder, "size=1m")
    complete(path, "disk full", 2)


@pytest.mark.parametrize("kind", MANY)
def test_file_too_large(kind, begin, complete, tmp_path):
    """As a full disk, where nothing can be mounted; a row may be cut in its middle."""
    path = tmp_path / f"out.{kind}"
    run = begin(path, file_size=3001)
    assert run.wait() == 2, run.says()
    assert "make room and run the same command again" in run.says()
    assert 0 < partial(path) < PICTURES
    complete(path, "disk full", 1)


@pytest.mark.parametrize("kind", MANY)
def test_output_folder_removed(kind, begin, complete, tmp_path):
    path = tmp_path / "folder" / f"out.{kind}"
    run = begin(path)
    _wait_for_rows(run, path)
    shutil.rmtree(path.parent)
    assert run.wait() == 2, run.says()
    assert "cannot be written: it was removed or replaced meanwhile" in run.says()
    complete(path, "output removed while running", 1)


def test_output_replaced(begin, complete, tmp_path):
    path = tmp_path / "out.csv"
    run = begin(path)
    _wait_for_rows(run, path)
    (tmp_path / "other").write_text("of somebody else\n")
    (tmp_path / "other").replace(path)
    assert run.wait() == 2, run.says()
    assert path.read_text() == "of somebody else\n"
    path.unlink()
    complete(path, "output removed while running", 1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_read_only_output_folder(kind, begin, complete, disk):
    folder = disk("1m")
    path = folder / f"out.{kind}"
    for more in ((), ("--html", folder / "page.html")):
        remount(folder, "ro")
        run = begin(path, *more)
        assert run.wait() == 2, run.says()
        assert "cannot be written: Read-only file system" in run.says()
        assert "Traceback" not in run.says()
    remount(folder, "rw")
    complete(path, "read-only folder", 2)


def test_a_file_in_place_of_the_output_folder(begin, complete, tmp_path):
    (tmp_path / "folder").write_text("")
    path = tmp_path / "folder" / "out.csv"
    run = begin(path)
    assert run.wait() == 2 and "out.csv: cannot be written" in run.says()
    (tmp_path / "folder").unlink()
    complete(path, "read-only folder", 1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_two_runs_into_one_file(kind, begin, undisturbed, complete, tmp_path):
    path = tmp_path / f"out.{kind}"
    first = begin(path)
    _wait_for_rows(first, path)
    first.send(signal.SIGSTOP)
    second = begin(path)
    assert second.wait() == 2
    assert f"{path} is being written by another process; wait for it to end" in second.says()
    first.send(signal.SIGCONT)
    assert first.wait() == 1, first.says()
    assert path.read_bytes() == undisturbed[0][kind]
    complete(path, "two runs into one file", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("form", ["csv", "jsonl", "table", "json"])
def test_full_pipe(form, checkpoint, pictures):
    """Standard output that takes nothing is said, with code 2; buffered or not, and also when Python ends."""
    command = [shutil.which("aigciqa-score", path=str(Path(sys.executable).parent)), pictures]
    options = ["--metric", checkpoint, *(["--json"] if form == "json" else ["--format", form])]
    for unbuffered in ("", "1"):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [*command, *options],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )
        assert done.returncode == 2, done.stderr
        assert "output cannot be written: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr and "ignored" not in done.stderr


# -- in this process: the decoder and the network fail


@pytest.fixture
def metric(checkpoint):
    return aigciqa.create_metric(checkpoint, device="cpu")


@pytest.fixture
def write(metric, pictures, tmp_path):
    """Scores into a file and gives it, as the command line does."""

    def make(name="out.csv", **options):
        config = metric.config
        with open_results(tmp_path / name, config.dimensions, config.stamp) as file:
            remaining = itertools.islice(sorted(pictures.iterdir()), file.done, None)
            for row in metric.score_files(list(remaining), **options):
                file.write([row])
        return (tmp_path / name).read_bytes()

    return make


@pytest.mark.parametrize("error", [RuntimeError("worker died"), SystemExit(1), KeyboardInterrupt()])
def test_a_decoding_thread_dies(error, write, monkeypatch, tally):
    expected, read = write("whole.csv"), opening.read_views

    def dies(content, transform, name):
        if "031" in name:
            raise error
        return read(content, transform, name)

    monkeypatch.setattr(opening, "read_views", dies)
    with pytest.raises(type(error)):
        write()
    monkeypatch.undo()
    assert write() == expected
    tally("workers that die", faults=1)


@pytest.mark.parametrize("times", [1, 1000])
def test_no_memory_to_decode(times, write, monkeypatch, tally):
    """Once, it is tried again alone; when it never fits, that row says so and the others are right."""
    expected, left, loaded = write("whole.csv"), [times], image._from_pixels

    def starved(picture, what, white):
        if left[0] and "031" in what:
            left[0] -= 1
            raise MemoryError
        return loaded(picture, what, white)

    monkeypatch.setattr(image, "_from_pixels", starved)
    found = write()
    tally("workers that die", faults=times - left[0])
    if times == 1:
        assert found == expected
    else:
        wrong = [
            i
            for i, (a, b) in enumerate(zip(found.splitlines(), expected.splitlines(), strict=True))
            if a != b
        ]
        assert wrong == [32]
        assert b"031.png: there is not enough memory to decode it" in found.splitlines()[32]


@pytest.mark.parametrize("fits", [4, 1])
def test_out_of_memory_on_the_device(fits, metric, write, tally):
    expected, failed = write("whole.csv"), []

    def refuse(module, inputs):
        if len(inputs[0]) > fits:
            failed.append(len(inputs[0]))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    metric.network.backbone.register_forward_pre_hook(refuse)
    metric.batch_size = 8
    assert _close(write(), expected)
    assert failed and max(failed) == 8
    tally("CUDA out of memory", faults=len(failed))


def test_out_of_memory_for_a_single_picture(metric, write):
    """Nothing is left to halve: it is said, rows before it are kept, and the run goes on when there is memory."""
    expected, hungry = write("whole.csv"), [True]
    seen = []

    def refuse(module, inputs):
        seen.append(len(inputs[0]))
        if hungry[0] and sum(seen) > 24:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    metric.network.backbone.register_forward_pre_hook(refuse)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        write()
    hungry[0] = False
    assert _close(write(), expected)


def _close(found: bytes, expected: bytes) -> bool:
    """Names and errors are the same, and scores to 1e-4 of the range: another batch size may round otherwise."""
    codec = codec_for("csv", ("quality", "authenticity"), "")
    for one, other in zip(found.splitlines(True)[1:], expected.splitlines(True)[1:], strict=True):
        (a, _), (b, _) = codec.decode(one), codec.decode(other)
        if (a.picture, a.error) != (b.picture, b.error):
            return False
        if a.scores and any(abs(a.scores[d] - b.scores[d]) > 5e-4 for d in a.scores):
            return False
    return True


def test_the_checks_can_fail(tmp_path):
    """A file that lacks a row is seen to."""
    path = tmp_path / "x.csv"
    path.write_bytes(codec_for("csv", ("quality", "authenticity"), "").header + b"a,,1.0,2.0,,\n")
    assert len(rows_of(path)) == 1
    with pytest.raises(InputError):
        open_results(path, ["quality"], "")
