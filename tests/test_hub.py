"""Checkpoints from the Hub, by the real huggingface-hub client against a server on loopback."""

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import torch
from conftest import random_network, tiny_config

import aigciqa
from aigciqa import weights
from aigciqa.weights import save_checkpoint

REPO = "someone/scorer"


@pytest.fixture
def published(hub, tiny):
    """A repository with one commit, tagged v1."""
    folder = tiny()
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.repo(REPO).commit(files, "v1")
    return folder


@pytest.fixture
def create(tmp_path):
    def make(source=REPO, **options):
        return aigciqa.create_metric(source, device="cpu", cache_dir=tmp_path / "cache", **options)

    return make


def cached_files(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and ".lock" not in p.name]


@pytest.mark.parametrize("form", [REPO, f"hf-hub:{REPO}", f"{REPO}@v1", f"hf-hub:{REPO}@main"])
def test_downloads_when_first_used_and_not_before(hub, published, create, picture, form):
    metric = create(form)
    assert hub.requests == []
    assert torch.equal(metric(picture()), aigciqa.create_metric(published, device="cpu")(picture()))
    assert metric.metric_name == "tiny-none"


def test_info_fetches_only_the_config(hub, published, tmp_path):
    assert aigciqa.metric_info(REPO, cache_dir=tmp_path / "cache").backbone == "test_efficientnet"
    assert [path.split("/")[-1] for path, _ in hub.downloads()] == ["config.json"]


def test_second_use_downloads_nothing(hub, published, create, picture):
    create().load()
    before = len(hub.downloads())
    assert before == 2
    create()(picture())
    assert len(hub.downloads()) == before


def test_pinned_revision_stays_when_main_moves(hub, published, create, picture, tmp_path):
    first = create("someone/scorer@v1")(picture())
    config = tiny_config()
    other = tmp_path / "other"
    save_checkpoint(other, config, random_network(config, seed=7).state_dict())
    commit = hub.repo(REPO).commit(
        {name: (other / name).read_bytes() for name in ("config.json", "model.safetensors")}
    )
    assert torch.equal(create("someone/scorer@v1")(picture()), first)
    moved = create()(picture())
    assert not torch.equal(moved, first)
    assert torch.equal(create(f"{REPO}@{commit}")(picture()), moved)


def test_config_and_weights_come_from_one_commit(hub, published, create, picture):
    metric = create()
    expected = aigciqa.create_metric(published, device="cpu")(picture())
    _ = metric.config
    hub.repo(REPO).commit({"model.safetensors": b"a later commit"})
    assert torch.equal(metric(picture()), expected)


def test_broken_transfer_is_resumed(hub, tiny, create, picture):
    folder = tiny(hidden=40_000)  # larger than the pieces of 10 MiB in which the client writes
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.repo(REPO).commit(files)
    hub.cut = [25_000_000, 12_000_000]
    assert torch.equal(create()(picture()), aigciqa.create_metric(folder, device="cpu")(picture()))
    ranges = [r for path, r in hub.downloads() if "storage" in path]
    assert ranges == [None, f"bytes={20 << 20}-", f"bytes={30 << 20}-"]


def test_wrong_checksum_is_refused_and_not_left_in_the_cache(hub, published, create, picture, tmp_path):
    good = (published / "model.safetensors").read_bytes()
    bad = bytearray(good)
    bad[-1] ^= 1
    hub.repo(REPO).commit({"model.safetensors": bytes(bad)})
    for _ in range(2):  # the second time it is not found in the cache either
        with pytest.raises(aigciqa.CheckpointError, match="wrong checksum, not used"):
            create()(picture())
        assert not [p for p in cached_files(tmp_path) if p.stat().st_size == len(good)]
    hub.repo(REPO).commit({"model.safetensors": good})
    assert create()(picture()).shape == (1,)


def test_damaged_cache_heals(hub, published, create, picture, tmp_path):
    expected = create()(picture())
    [blob] = [p for p in (tmp_path / "cache").rglob("blobs/*") if p.stat().st_size > 10000]
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(aigciqa.CheckpointError, match="wrong checksum"):
        create()(picture())
    assert torch.equal(create()(picture()), expected)


def entry(tmp_path):
    """The weights' place in the snapshot of the cache."""
    [path] = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    return path


def put_elsewhere(path, victim):
    path.unlink()
    path.symlink_to(victim)


def blob_elsewhere(path, victim):
    put_elsewhere(path.resolve(), victim)


def blobs_elsewhere(path, victim):
    folder = path.resolve().parent
    victim.rename(folder / victim.name)
    folder.rename(victim.with_name("blobs"))
    folder.symlink_to(victim.with_name("blobs"))
    put_elsewhere(path, f"../../blobs/{victim.name}")


def snapshot_elsewhere(path, victim):
    path.unlink()
    commit = path.parent
    (commit / "config.json").resolve().replace(commit / "config.json")  # its link would lead nowhere
    commit.rename(victim.with_name("commit"))
    commit.symlink_to(victim.with_name("commit"))
    victim.rename(path)


def by_hand(path, victim):
    path.unlink()
    victim.rename(path)


def of_another_repository(path, victim):
    blobs = path.parents[3] / "models--other--one" / "blobs"
    blobs.mkdir(parents=True)
    victim.rename(blobs / ("a" * 64))
    put_elsewhere(path, f"../../../models--other--one/blobs/{'a' * 64}")


def by_a_detour(path, victim):
    (path.resolve().parent / "link").symlink_to(victim.parent)
    put_elsewhere(path, f"../../blobs/link/{victim.name}")


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        put_elsewhere,
        blob_elsewhere,
        blobs_elsewhere,
        snapshot_elsewhere,
        by_hand,
        of_another_repository,
        by_a_detour,
    ],
)
def test_what_the_client_did_not_put_into_the_cache_is_never_removed(
    hub, published, create, tmp_path, change, offline
):
    """A wrong checksum removes no file that an entry of the cache is linked to."""
    create().load()
    (tmp_path / "mine").mkdir()
    victim = tmp_path / "mine" / "other-weights"
    victim.write_bytes(b"of great value")
    change(entry(tmp_path), victim)
    before = {p: p.is_symlink() or p.read_bytes() for p in tmp_path.rglob("*") if not p.is_dir()}
    for _ in range(2):
        with pytest.raises(
            aigciqa.CheckpointError, match=r"wrong checksum, not used.* it was left"
        ) as caught:
            create(offline=offline).load()
        assert str(entry(tmp_path).resolve()) in str(caught.value)
    after = {p: p.is_symlink() or p.read_bytes() for p in tmp_path.rglob("*") if not p.is_dir()}
    assert after == before
    assert b"of great value" in after.values()


def test_offline_nothing_is_removed(hub, published, create, picture, tmp_path):
    """A damaged blob is of no use, but what is there cannot be fetched again."""
    expected = create()(picture())
    blob = entry(tmp_path).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"?")
    with pytest.raises(aigciqa.CheckpointError, match="cannot be fetched again offline"):
        create(offline=True).load()
    assert blob.read_bytes() == content[:-1] + b"?"
    blob.write_bytes(content)
    assert torch.equal(create(offline=True)(picture()), expected)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_blob_that_another_revision_needs(hub, published, create, picture, tmp_path, damaged):
    """It stays where it is right and only named wrongly by a later commit; damaged, it is fetched anew for both."""
    expected = create(f"{REPO}@v1")(picture())
    blob = entry(tmp_path).resolve()
    if damaged:
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
        hub.repo(REPO).commit({"README.md": b"more"}, "v2")
    else:
        hub.repo(REPO).commit({"model.safetensors": b"others"}, "v2")
        hub.faults["model.safetensors"] = {"headers": {"X-Linked-ETag": f'"{blob.name}"'}}
        lie = tiny_config(sha256="0" * 64)
        hub.repo(REPO).commit({"config.json": lie.to_json().encode()}, "v2")
    with pytest.raises(aigciqa.CheckpointError, match="it was removed from the cache"):
        create(f"{REPO}@v2").load()
    assert blob.exists() is not damaged
    hub.faults.clear()
    assert torch.equal(create(f"{REPO}@v1", offline=not damaged)(picture()), expected)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "folder"])
def test_what_is_no_file_in_the_cache_is_not_read(hub, published, create, tmp_path, target):
    create().load()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    put_elsewhere(entry(tmp_path), tmp_path / target)
    with pytest.raises(aigciqa.CheckpointError, match="is not a file; remove it to fetch the file again"):
        create(offline=True).load()
    assert (tmp_path / target).exists()


def test_offline_with_cache(hub, published, create, picture):
    expected = create()(picture())
    hub.requests.clear()
    assert torch.equal(create(offline=True)(picture()), expected)
    assert hub.requests == []


def test_offline_without_cache_says_how_to_fetch_by_hand(hub, published, create, picture, tmp_path):
    with pytest.raises(aigciqa.CheckpointError) as caught:
        create(f"{REPO}@v1", offline=True)(picture())
    assert hub.requests == []
    message = str(caught.value)
    for part in (REPO, "revision v1", str(tmp_path / "cache"), "offline"):
        assert part in message
    assert "hf download someone/scorer config.json model.safetensors --revision v1 --local-dir DIR" in message
    assert 'create_metric("DIR")' in message


@pytest.mark.parametrize(
    ("variables", "cached"),
    [
        ({}, True),
        pytest.param({}, False, marks=pytest.mark.slow),  # the Hub's client tries for half a minute
        ({"HF_HUB_OFFLINE": "1"}, True),
    ],
)
def test_no_network_at_all(hub, published, tmp_path, variables, cached):
    """A process of its own, with the endpoint closed: what is cached is used, what is not is explained."""
    env = os.environ | {"HF_HOME": str(tmp_path / "home")}
    code = f"import aigciqa; print(aigciqa.create_metric('{REPO}@v1', device='cpu').load().config.name)"

    def run(**changes):
        return subprocess.run([sys.executable, "-c", code], env=env | changes, capture_output=True, text=True)

    if cached:
        assert run().stdout == "tiny-none\n"
    result = run(HF_ENDPOINT="http://127.0.0.1:9", **variables)
    if cached:
        assert result.stdout == "tiny-none\n"
    else:
        assert "cannot get config.json of someone/scorer (revision v1)" in result.stderr
        assert "hf download" in result.stderr


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda hub: hub.repos.clear(), "RepositoryNotFoundError"),
        (lambda hub: hub.repo(REPO).refs.pop("v1"), "RevisionNotFoundError"),
        (lambda hub: setattr(hub, "status", 500), "500"),
        (lambda hub: hub.repo(REPO).commits[hub.repo(REPO).refs["v1"]].pop("config.json"), "EntryNotFound"),
    ],
)
def test_what_the_hub_refuses_is_named(hub, published, create, picture, change, cause):
    change(hub)
    with pytest.raises(aigciqa.CheckpointError, match=cause):
        create(f"{REPO}@v1")(picture())


def test_private_repository_needs_the_token(hub, published, create, picture):
    hub.repo(REPO).private = True
    with pytest.raises(aigciqa.CheckpointError, match="RepositoryNotFound"):
        create()(picture())
    assert create(token=hub.token)(picture()).shape == (1,)


def test_progress_bar_of_the_client_is_shown_on_a_terminal(hub, published, tmp_path):
    code = f"import aigciqa; aigciqa.create_metric('{REPO}', cache_dir={str(tmp_path / 'cache')!r}).load()"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while piece := os.read(ours, 65536):
            shown += piece
    assert re.search(rb"model.safetensors: +100%|100%.*549k/549k", shown)


@pytest.fixture
def slim(tmp_path, monkeypatch):
    """The package without its weights, as a slim distribution would ship it: the configs that pin them stay."""
    for name in aigciqa.list_metrics():
        shutil.copytree(
            weights.PACKAGED / name, tmp_path / "slim" / name, ignore=shutil.ignore_patterns("*.safetensors")
        )
    real = weights.PACKAGED
    monkeypatch.setattr(weights, "PACKAGED", tmp_path / "slim")
    return real


def test_named_metric_packaged_then_cached_then_hub_all_the_same(
    hub, create, picture, slim, tmp_path, monkeypatch
):
    packaged = slim / "nr-aigciqa"
    config = aigciqa.metric_info("nr-aigciqa")
    assert hub.requests == []
    content = (packaged / "model.safetensors").read_bytes()
    hub.repo(config.repo).commit({"model.safetensors": content}, config.revision)

    from_hub = create("nr-aigciqa")(picture())
    assert any("/storage/" in path for path, _ in hub.downloads())

    hub.requests.clear()
    from_cache = create("nr-aigciqa")(picture())
    assert hub.requests == []  # the content is pinned: there is nothing to ask

    monkeypatch.setattr(weights, "PACKAGED", slim)
    from_package = create("nr-aigciqa", offline=True)(picture())
    assert hub.requests == []
    assert torch.equal(from_hub, from_cache)
    assert torch.equal(from_hub, from_package)


def test_named_metric_refuses_other_bytes_from_the_hub(hub, create, picture, slim):
    config = aigciqa.metric_info("nr-aigciqa")
    hub.repo(config.repo).commit({"model.safetensors": b"not what the name pins"}, config.revision)
    with pytest.raises(aigciqa.CheckpointError, match="wrong checksum"):
        create("nr-aigciqa")(picture())
