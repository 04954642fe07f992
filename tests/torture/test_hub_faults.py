"""The Hub answers with errors, slowly, half or wrongly: what is wrong is said, nothing broken is used or kept."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time

import pytest
import torch
from conftest import random_network, tiny_config

import aigciqa
from aigciqa.errors import CheckpointError
from aigciqa.weights import save_checkpoint

from .processes import CONTEXT

REPO = "someone/scorer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(path, tiny_config(), random_network(tiny_config()).state_dict())
    return path


@pytest.fixture
def published(hub, folder):
    """A repository with one checkpoint: its folder here, and its files."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repo(REPO).commit(files, "v1")
    yield folder, files
    hub.faults.clear()


@pytest.fixture
def create(tmp_path):
    def make(**options):
        return aigciqa.create_metric(
            f"{REPO}@v1", device="cpu", **{"cache_dir": tmp_path / "cache"} | options
        )

    return make


@pytest.fixture
def recovers(published, create, picture, tmp_path, tally):
    """Once the Hub is well again, the same call gives what it would have given."""

    def check(faults=1):
        expected = aigciqa.create_metric(published[0], device="cpu")(picture())
        assert torch.equal(create()(picture()), expected)
        assert not list((tmp_path / "cache").rglob("*.incomplete"))
        tally("the Hub's faults", faults=faults)

    return check


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_status(status, file, hub, published, create, recovers, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its attempts
    hub.faults[file] = {"status": status}
    with pytest.raises(CheckpointError) as caught:
        create().load()
    says = str(caught.value)
    assert REPO in says and "cause: " in says and "hf download" in says
    assert str(status) in says or "NotFound" in says or "Gated" in says
    hub.faults.clear()
    recovers()


@pytest.mark.parametrize("fault", ["cut", "short", "long", "changed", "endless", "empty"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_lies_about_length_or_content(fault, file, hub, published, create, recovers, tmp_path, monkeypatch):
    """A transfer that ends early, has other bytes than were announced, or goes on and on."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    content = published[1][file]
    hub.faults[file] = {
        "cut": {"send": content[: len(content) // 2]},  # the length that was announced never comes
        "short": {"send": content[: len(content) // 2], "length": len(content) // 2},
        "long": {"send": content + b"x" * 1000, "length": len(content) + 1000},
        "changed": {"send": content.replace(b"tiny", b"evil").replace(content[-9:], b"123456789")},
        "endless": {"send": content + b"x" * (64 << 20), "chunked": True},
        "empty": {"send": b"", "length": 0},
    }[fault]
    with pytest.raises(CheckpointError):
        create().load()
    hub.faults.clear()
    with contextlib.suppress(CheckpointError):
        create().load()  # what was broken in the cache is dropped now, at the latest
    if file == "config.json" and fault == "changed":
        shutil.rmtree(tmp_path / "cache")  # the Hub has no checksum of small files to compare with
    recovers()


def test_a_giant_is_not_fetched(hub, published, create, recovers, tmp_path):
    """The size that the Hub announces is seen first; a disk is not filled with what no checkpoint has."""
    for file in published[1]:
        hub.faults[file] = {"announce": 1 << 40}
        with pytest.raises(CheckpointError, match=r"has 1,099,511,627,776 bytes, where"):
            create().load()
        assert [path for path, _ in hub.downloads() if path.endswith(file)] == []
        hub.faults.clear()
        hub.requests.clear()
    recovers(2)


def test_slow(hub, published, create, recovers):
    """A Hub that answers a little later is waited for."""
    for file in published[1]:
        hub.faults[file] = {"wait": 1.0}
    create().load()
    hub.faults.clear()
    recovers()


def load_from_hub(cache, folder):
    """Of one process among several."""
    metric = aigciqa.create_metric(f"{REPO}@v1", device="cpu", cache_dir=cache).load()
    state = b"".join(
        bytes(v.contiguous().view(-1).view(torch.uint8).numpy()) for v in metric.state_dict().values()
    )
    (folder / str(os.getpid())).write_text(hashlib.sha256(state).hexdigest())


@pytest.mark.parametrize("killed", [False, True])
def test_several_processes_fetch_into_one_cache(killed, hub, tmp_path, recovers, create, rounds):
    """At the same time; and when one of them is killed meanwhile, the others still end well."""
    config = tiny_config(hidden=8000)
    save_checkpoint(tmp_path / "large", config, random_network(config).state_dict())
    hub.repo(REPO).commit({p.name: p.read_bytes() for p in (tmp_path / "large").iterdir()})
    hub.repo(REPO).refs["v1"] = hub.repo(REPO).refs["main"]
    for file in ("config.json", "model.safetensors"):
        hub.faults[file] = {"wait": 0.3}
    found = tmp_path / "found"
    found.mkdir()
    processes = [CONTEXT.Process(target=load_from_hub, args=(tmp_path / "cache", found)) for _ in range(3)]
    for process in processes:
        process.start()
    if killed:
        time.sleep(1)
        processes[0].kill()
    for process in processes[killed:]:
        process.join(120)
        assert process.exitcode == 0
    hub.faults.clear()
    assert len({p.read_text() for p in found.iterdir()}) == 1 and len(list(found.iterdir())) >= 3 - killed
    assert create().load().config.hidden == 8000


def test_read_only_cache(hub, published, create, recovers, picture, tmp_path):
    """What it holds is used; what it does not hold is said to be impossible to store."""
    cache = tmp_path / "mounted"
    cache.mkdir()
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", cache]).returncode:
        pytest.skip("may not mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        with pytest.raises(CheckpointError, match="Read-only file system"):
            create(cache_dir=cache).load()
        subprocess.run(["mount", "-o", "remount,rw", cache], check=True)
        expected = create(cache_dir=cache)(picture())
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        assert torch.equal(create(cache_dir=cache, offline=True)(picture()), expected)
        assert torch.equal(create(cache_dir=cache)(picture()), expected)
    finally:
        subprocess.run(["umount", "-l", cache], check=True)
    recovers()


def test_cache_on_a_full_disk(hub, published, create, recovers, tmp_path):
    cache = tmp_path / "mounted"
    cache.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", cache]).returncode
    ):
        pytest.skip("may not mount a file system")
    try:
        with pytest.raises(CheckpointError, match=r"No space left on device|[Nn]ot enough free disk space"):
            create(cache_dir=cache).load()
        subprocess.run(["mount", "-o", "remount,size=8m", cache], check=True)
        assert create(cache_dir=cache).load().loaded
    finally:
        subprocess.run(["umount", "-l", cache], check=True)
    recovers()


def test_a_file_in_place_of_the_cache(hub, published, create, recovers, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot get config"):
        create(cache_dir=tmp_path / "file").load()
    recovers()
