"""Hostile pictures, files that are none, and names that nobody should give: a score or one clear error for each."""

import csv
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from aigciqa import image
from aigciqa.decode import REFUSED
from aigciqa.errors import InputError
from aigciqa.sources import Item
from aigciqa.transient import AGAIN

from .hostile import corpus, oddities
from .makers import ERROR, SCORE, encoded, kinds, photo
from .scoring import cli, lost, near

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # Pillow warns of much that is broken
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The corpus on disk, by path."""
    folder = tmp_path_factory.mktemp("corpus")
    made = {str(folder / h.name): h for h in corpus()}
    for path, h in made.items():
        Path(path).write_bytes(h.data)
    return made


@pytest.fixture(scope="module")
def good(tmp_path_factory, metric):
    """Healthy pictures and what they score by themselves."""
    folder = tmp_path_factory.mktemp("good")
    found = {}
    for seed in range(7):
        path = folder / f"{seed}.png"
        photo(seed + 100, (90, 80)).save(path)
        found[str(path)] = {d: s.item() for d, s in metric.predict(path).items()}
    return found


def between(wanted, good):
    """A healthy picture before each of the others, so that every one has it as a neighbour."""
    healthy = list(good)
    for number, name in enumerate(wanted):
        yield healthy[number % len(healthy)]
        yield name


def assert_complete(rows, names, good):
    """A row for each, in order; the healthy ones with their scores."""
    assert [row.picture for row in rows] == list(names)
    for row in rows:
        if row.picture in good:
            assert row.scores == near(good[row.picture]), row
        if row.error:
            assert row.error.startswith(shown(row.picture)), row.error
            assert row.error.isprintable(), row.error


def shown(name):
    return name if name.isprintable() else repr(name)


def test_the_corpus_is_what_it_should_be(files):
    assert len(files) >= 200
    assert len(kinds()) >= 20
    for kind in kinds():
        assert sum(h.name.startswith(f"{kind.lower()}-") for h in files.values()) >= 1
        assert sum(h.name.startswith(f"cut-{kind.lower()}-") for h in files.values()) == 10
    assert sum(len(h.data) for h in files.values()) < 50_000_000


def test_each_file_gives_a_score_or_one_clear_error(files, good, metric, tally):
    names = list(between(files, good))
    rows = list(metric.score_files(names))
    tally("inputs", inputs=len(files), lost=lost(rows, names))
    assert_complete(rows, names, good)
    for row in rows:
        made = files.get(row.picture)
        if made is None:
            continue
        assert made.verdict != SCORE or row.scores, row
        assert made.verdict != ERROR or row.error, row
        if row.error:
            with pytest.raises(InputError) as raised:
                metric(row.picture)
            assert str(raised.value) == row.error
        else:
            assert metric(row.picture).item() == near(row.scores["quality"])
            if made.pixels is not None:
                assert np.array_equal(image.read_one(row.picture)[0].permute(1, 2, 0), made.pixels), row


@pytest.mark.parametrize("how", ["bytes", pytest.param("file", marks=pytest.mark.slow)])
def test_each_content_by_itself(files, metric, how, tally):
    for made in files.values():
        source = made.data if how == "bytes" else io.BytesIO(made.data)
        try:
            assert metric(source).isfinite().all()
        except InputError as error:
            assert made.verdict != SCORE, (made.name, error)
            assert str(error).startswith(f"picture ({'bytes' if how == 'bytes' else 'file object'}): ")
        else:
            assert made.verdict != ERROR, made.name
    tally("inputs", inputs=len(files))


def test_shards_and_manifests_of_them_lose_nothing(files, good, metric, tmp_path, tally):
    names = list(between(files, good))
    table = tmp_path / "all.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["picture"], *([name] for name in names)])
    rows = list(metric.score_files(table))
    assert_complete(rows, names, good)
    shard = tmp_path / "all.tar"
    members = [name for name in names if Path(name).suffix != ".spider"]  # which Pillow knows by no ending
    with tarfile.open(shard, "w") as tar:
        for number, name in enumerate(members):
            tar.add(name, f"{number:05}{Path(name).suffix}")
    of_shard = list(metric.score_files(shard))
    assert len(of_shard) == len(members)
    outcomes = {row.picture: row for row in rows}
    for name, row in zip(members, of_shard, strict=True):
        assert row.scores == outcomes[name].scores, row
        assert bool(row.error) == bool(outcomes[name].error)
        assert not row.error or row.error.startswith(row.picture)
    tally("inputs", inputs=2 * len(files), lost=lost(rows, names))


MEASURE = """
import re, sys, warnings
from pathlib import Path
import aigciqa, torch
from aigciqa import image
torch.set_num_threads(1)
warnings.simplefilter("ignore")
# of this process alone, in MiB; what `resource` says begins with the process that started it
peak = lambda: int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
checkpoint, healthy, *names = sys.stdin.read().split("\\0")
metric = aigciqa.create_metric(checkpoint, device="cpu")
for _ in metric.score_files([healthy] * 50):
    pass
metric([healthy] * 8)
before = peak()
rows = list(metric.score_files(names))
failed = 0
for name in names:
    try:
        metric(name)
    except aigciqa.InputError:
        failed += 1
assert failed == sum(row.scores is None for row in rows)
print(len(rows), peak() - before)
"""


def test_memory_stays_bounded(files, good, checkpoint):
    names = "\0".join(map(str, [checkpoint, next(iter(good)), *files]))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=names, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    count, grown = map(int, done.stdout.split())
    assert count == len(files)
    assert grown < 400  # MB; a bomb alone would be gigabytes


def test_postscript_is_not_run(tmp_path):
    """Pillow would call Ghostscript, here one that leaves a mark."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    picture = tmp_path / "a.png"
    picture.write_bytes(encoded(photo(), "EPS"))
    says = "import sys, aigciqa.image\naigciqa.image.read_one(sys.argv[1])"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", says, picture], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert "EPS pictures are not read" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_refused_kinds_say_why():
    assert set(REFUSED) == {"EPS", "FITS", "IPTC"}
    packed = {h.name: h for h in corpus() if h.name == "bomb-packed.fits"}
    for data in (packed["bomb-packed.fits"].data, encoded(photo(), "EPS")):
        with pytest.raises(InputError, match=r"pictures are not read: .*; convert it to PNG"):
            image.read_one(data)


def test_the_limit_of_pixels_can_be_set(monkeypatch, metric, checkpoint, tmp_path):
    path = tmp_path / "a.png"
    photo(1, (200, 100)).save(path)
    for limit, fits in ((19_999, False), (20_000, True), (None, True)):
        monkeypatch.setattr(image, "MAX_PIXELS", limit)
        if fits:
            assert metric(path).shape == (1,)
        else:
            with pytest.raises(InputError, match=r"set aigciqa\.image\.MAX_PIXELS \(--max-pixels"):
                metric(path)
    for limit, code in ((19_999, 1), (20_000, 0)):
        done = cli("--metric", checkpoint, "--max-pixels", limit, path)
        assert done.returncode == code
        assert (b"more than the limit of 0.019999" in done.stdout) == bool(code)


# -- what is no file, or not for us


def test_what_is_no_file(good, metric, tmp_path, tally):
    odd = oddities(tmp_path)
    names = list(between(odd, good))
    rows = []
    thread = threading.Thread(
        target=lambda: rows.extend(metric.score_files(Item(name) for name in names)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert not thread.is_alive()  # a pipe, or a device without an end
    tally("inputs", inputs=len(odd), lost=lost(rows, names))
    assert_complete(rows, names, good)
    for row in rows:
        if row.picture in odd:
            assert odd[row.picture] in (row.error or ""), row
            with pytest.raises(InputError, match=re.escape(row.error)):
                metric(row.picture)


def test_a_pipe_that_somebody_writes_to_is_read(good, metric, tmp_path):
    name, scores = next(iter(good.items()))
    for use in (metric, lambda path: next(iter(metric.score_files([path]))).scores["quality"]):
        inlet, outlet = os.pipe()  # what the shell's <(...) is

        def write(inlet=inlet, outlet=outlet):
            with os.fdopen(outlet, "wb") as file:
                file.write(Path(name).read_bytes())

        thread = threading.Thread(target=write)
        thread.start()
        assert float(use(f"/dev/fd/{inlet}")) == near(scores["quality"])
        thread.join()
        os.close(inlet)


def test_a_folder_with_oddities_in_it(metric, tmp_path, tally):
    oddities(tmp_path)
    (tmp_path / "again").symlink_to(".")
    photo().save(tmp_path / "folder.png" / "inside.png")
    rows = list(metric.score_files(tmp_path))
    names = [Path(row.picture).relative_to(tmp_path).as_posix() for row in rows]
    assert names == ["dangling.png", "folder.png/inside.png", "loop-a.png", "loop-b.png"]
    assert [bool(row.scores) for row in rows] == [False, True, False, False]
    tally("inputs", inputs=len(rows))


@contextmanager
def unprivileged():
    """As somebody to whom files can be unreadable; root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
def test_unreadable_files_and_folders(metric):
    with tempfile.TemporaryDirectory() as root:  # pytest's own folders are closed to others
        folder = Path(root)
        folder.chmod(0o755)
        for name in ("a.png", "closed.png", "z.png"):
            photo().save(folder / name)
        (folder / "closed.png").chmod(0)
        with unprivileged():
            rows = list(metric.score_files(folder))
            with pytest.raises(InputError, match=r"closed\.png: cannot be read now: Permission denied"):
                metric(folder / "closed.png")
        assert [bool(row.scores) for row in rows] == [True, False, True]
        assert rows[1].error == f"{folder}/closed.png: cannot be read now: Permission denied; {AGAIN}"
        (folder / "shut").mkdir(mode=0)
        with unprivileged(), pytest.raises(InputError, match="shut: cannot be listed: Permission denied"):
            list(metric.score_files(folder))  # rather than less than all
