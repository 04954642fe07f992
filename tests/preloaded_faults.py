"""What runs while the system's calls fail: `test_transient.py` runs these tests in a process with `faults.c` in it."""

import ctypes
import errno
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import random_network, tiny_config
from PIL import Image

import aigciqa
from aigciqa import image, opening
from aigciqa.errors import CheckpointError, InputError, TransientError
from aigciqa.records import Row
from aigciqa.results import open_results
from aigciqa.sources import find_items
from aigciqa.transient import AGAIN
from aigciqa.weights import save_checkpoint

FORMATS = {
    "a.png": {},
    "a.jpg": {"quality": 90},
    "progressive.jpg": {"quality": 90, "progressive": True},
    "packed.tif": {"compression": "tiff_lzw"},
    "deflated.tif": {"compression": "tiff_adobe_deflate"},
    "raw.tif": {},
    "a.webp": {"lossless": True},
    "a.gif": {},
    "a.bmp": {},
    "a.jp2": {},
    "a.tga": {},
}
STAMP = "nr-aigciqa@v0.2.0"
_LIBRARY = ctypes.CDLL(os.environ["LD_PRELOAD"])


@contextmanager
def fault(path, call="read", number=errno.EIO, **when):
    """Calls for files with `path` in their name fail; `when` as `faults.c` has it."""
    _LIBRARY.fault_reset()
    settings = {"CALL": call, "ERRNO": number, **{key.upper(): value for key, value in when.items()}}
    names = [f"FAULT_{key}" for key in settings]
    os.environ.update({f"FAULT_{key}": str(value) for key, value in settings.items()})
    os.environ["FAULT_PATH"] = str(path)  # the last, which is what begins it
    try:
        yield
    finally:
        for name in ("FAULT_PATH", *names):
            os.environ.pop(name, None)


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    return aigciqa.create_metric(folder, device="cpu").load()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture in each format, turned by EXIF where it can be, by name."""
    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.init()
    for seed, (name, options) in enumerate(FORMATS.items()):
        turned = {} if name.endswith((".gif", ".bmp", ".tga", ".jp2")) else {"exif": exif}
        pixels = np.random.default_rng(seed).integers(0, 256, (14, 19, 3), np.uint8)
        drawn = Image.fromarray(pixels).resize((190, 140), Image.Resampling.BICUBIC)
        drawn.save(folder / name, **options, **turned)
    return sorted(folder.iterdir())


def one(metric, path, **how):
    (row,) = metric.score_files([path], **how)
    return row


@pytest.fixture(params=["in memory", "from the file", "in parts"])
def route(request, monkeypatch):
    """How a picture is decoded: small files from memory, larger ones from the disk, the largest in parts."""
    if request.param != "in memory":
        monkeypatch.setattr(opening, "WHOLE", 100)
    if request.param == "in parts":
        monkeypatch.setattr(image, "LARGE", 100)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, 0])
def test_never_a_broken_picture_and_never_another_score(number, route, metric, files):
    reason = {errno.EIO: "Input/output error", errno.ESTALE: "Stale file handle"}.get(
        number, "it ended after "
    )
    for path in files:
        right, size = one(metric, path).scores, path.stat().st_size
        for after in (0, 9, size // 3, size // 2, size - 20):
            with fault(path.name, number=number, after=after):
                row = one(metric, path)
                with pytest.raises(TransientError) as raised:
                    metric(path)
            assert row.error and row.error.startswith(f"{path}: cannot be read now: {reason}"), (
                path,
                after,
                row,
            )
            assert row.error.endswith(AGAIN)
            assert str(raised.value) == row.error
        assert one(metric, path).scores == right


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOMEM])
def test_what_cannot_be_opened(number, metric, files):
    with fault(files[0].name, "open", number):
        row = one(metric, files[0])
        with pytest.raises(TransientError, match=os.strerror(number)):
            metric(files[0])
    assert row.error == f"{files[0]}: cannot be read now: {os.strerror(number)}; {AGAIN}"


def test_what_is_not_there_or_not_whole_is_no_error_of_the_place(metric, files, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(files[2].read_bytes()[:-3000])
    for path in (cut, tmp_path / "missing.png"):
        error = one(metric, path).error
        assert error and AGAIN not in error
        with pytest.raises(InputError) as raised:
            metric(path)
        assert not isinstance(raised.value, TransientError)


def test_a_single_failure_is_tried_again_at_once(route, metric, files):
    for path in files:
        right = one(metric, path)
        for skip in range(6):  # also when it is read a second time, to be decoded
            with fault(path.name, skip=skip, times=1):
                assert one(metric, path) == right
    with fault(files[0].name, "open", errno.ESTALE, times=1):
        assert one(metric, files[0]) == one(metric, files[0])


@pytest.mark.parametrize("workers", [1, 4])
def test_files_of_the_same_content_do_not_share_a_failure(workers, route, metric, files, tmp_path):
    """Whichever comes first: what is read of one says nothing of another."""
    names = [tmp_path / f"{name}.png" for name in "abcd"]
    for name in names:
        shutil.copy(files[0], name)
    right = one(metric, files[0]).scores
    for bad in names:
        for skip in (0, 3):  # at once, or when it is read a second time, while the others wait for it
            with fault(bad.name, skip=skip, wait=20_000):
                rows = list(metric.score_files(names * 2, workers=workers))
            assert [row.picture for row in rows] == [str(name) for name in names * 2]
            for row in rows:
                assert row.scores == right or (row.picture == str(bad) and row.error.endswith(AGAIN)), (
                    bad,
                    row,
                )


def test_no_failure_is_remembered_for_later_items(metric, files, monkeypatch):
    monkeypatch.setattr(opening, "WHOLE", 100)
    right = one(metric, files[0]).scores
    with fault(files[0].name, skip=3, times=2):  # when the first item is decoded, and its second try
        rows = metric.score_files((str(files[0]) for _ in range(200)), workers=1)
        scored = [row.scores for row in rows]
    assert scored[0] is None and scored[-1] == right


def test_file_objects(metric, files):
    with (
        files[0].open("rb") as file,
        fault(files[0].name),
        pytest.raises(TransientError, match="cannot be read now"),
    ):
        metric(file)
    with (
        Image.open(files[0]) as lazy,
        fault(files[0].name),
        pytest.raises(TransientError, match="Input/output"),
    ):
        metric(lazy)


# -- what is not a picture


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, 0])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_checkpoints(name, number, tiny):
    folder = tiny()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if name == "config.json" and not number:
        return  # it is read by its end, and JSON that is cut is refused
    with fault(f"{folder.name}/{name}", number=number, after=50), pytest.raises(CheckpointError) as raised:
        aigciqa.create_metric(folder, device="cpu").load()
    assert str(raised.value).startswith(f"{folder}/{name}: cannot be read now: "), raised.value
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    aigciqa.create_metric(folder, device="cpu").load()


def test_a_cached_checkpoint_is_not_removed(hub, tiny, tmp_path):
    folder = tiny()
    hub.repo("someone/scorer").commit(
        {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    )
    cache = tmp_path / "cache"
    aigciqa.create_metric("someone/scorer", device="cpu", cache_dir=cache).load()
    (weights,) = cache.rglob("model.safetensors")
    blob, data = weights.resolve(), weights.read_bytes()
    for number in (errno.EIO, 0):
        with (
            fault(blob.name, number=number, after=50),
            pytest.raises(CheckpointError, match="cannot be read now"),
        ):
            aigciqa.create_metric("someone/scorer", device="cpu", cache_dir=cache, offline=True).load()
        assert weights.read_bytes() == data and blob.exists()
    aigciqa.create_metric("someone/scorer", device="cpu", cache_dir=cache, offline=True).load()


def test_manifests_and_shards(tmp_path, files):
    import tarfile

    (tmp_path / "list.csv").write_text("picture\n" + "\n".join(map(str, files)) + "\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(files[0], "0.png")
    for name in ("list.csv", "shard.tar"):
        with (
            fault(name),
            pytest.raises(TransientError, match=f"{name}: cannot be read now: Input/output error"),
        ):
            find_items([tmp_path / name]).check()
        assert find_items([tmp_path / name]).check()


def test_a_folder_on_a_share_that_is_gone_is_not_taken_for_a_picture(metric, files):
    """Its row would stand in the way of the next run."""
    folder = files[0].parent
    with fault(folder.name, "stat", errno.ESTALE):
        with pytest.raises(TransientError, match=r"pictures\d: cannot be read now: Stale file handle"):
            find_items([folder]).check()
        assert "Stale file handle" in one(metric, files[0]).error
    assert find_items([folder]).check() == len(files)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_results(kind, tmp_path):
    path = tmp_path / f"out.{kind}"
    rows = [Row(f"{i}.png", None, {"quality": float(i)}) for i in range(300)]
    with open_results(path, ["quality"], STAMP) as results:
        results.write(rows)
    before = path.read_bytes()
    with fault(path.name), pytest.raises(InputError, match=rf"out\.{kind}: cannot be read now: ") as raised:
        open_results(path, ["quality"], STAMP)
    assert "put that right and run the same command again" in str(raised.value)
    with (
        fault(path.name, "write"),
        pytest.raises(InputError, match=rf"out\.{kind}: cannot be written: Input/output error"),
        open_results(path, ["quality"], STAMP) as results,
    ):
        results.rewrite(results.rows())
        results.close()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_faults_are_real(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    with fault("/a", after=500), path.open("rb", buffering=0) as file:
        assert len(file.read(1000)) == 500
        with pytest.raises(OSError, match="Input/output error"):
            file.read(1)
    with fault("/a", number=0), path.open("rb") as file:
        assert file.read() == b""
    with fault("/a", "open", errno.EACCES), pytest.raises(PermissionError):
        path.open("rb")
    assert path.read_bytes() == bytes(1000)


# -- training: what could not be read is not left out for good


def test_a_photograph_is_not_left_out_of_a_data_set_for_good(files, tmp_path):
    from aigciqa.training.photographs import Photograph
    from aigciqa.training.synthesis import Plan, _make_photograph, _rows_file

    photo = Photograph("a.png", files[2], "0" * 64)
    plan = Plan(96, 1, 1, 1, 1, False, None)
    (tmp_path / "images").mkdir()
    with fault(files[2].name), pytest.raises(TransientError, match="Input/output error"):
        _make_photograph(tmp_path, plan, photo)
    assert not _rows_file(tmp_path, photo).exists()


def test_a_photograph_is_not_left_out_of_learning(files):
    from aigciqa.training.autoencoder import _read_all

    with fault(files[2].name), pytest.raises(TransientError, match="Input/output error"):
        _read_all([files[2]], print)
    assert len(_read_all([files[2]], print)) == 1
