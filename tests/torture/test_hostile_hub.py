"""A Hub, a mirror or a proxy that means harm: nothing outside of the cache is touched, and little is spent."""

import gzip
import threading
import time
import zlib
from pathlib import Path

import pytest
import torch
from conftest import random_network, tiny_config
from huggingface_hub.utils import _http

import aigciqa
from aigciqa.errors import CheckpointError
from aigciqa.weights import save_checkpoint

REPO = "someone/scorer"
MIB = 1 << 20
FILES = ["config.json", "model.safetensors"]
MOST = 24 * MIB  # of disk, of memory and of what is received, where a gigabyte is offered


@pytest.fixture
def world(tmp_path):
    """A folder with a cache and somebody's files around it; afterwards, whether they are as they were."""
    (tmp_path / "victim.txt").write_text("somebody's")
    (tmp_path / "around" / "deep").mkdir(parents=True)
    (tmp_path / "around" / "victim.txt").write_text("somebody's")
    (tmp_path / "around" / "deep" / "main").write_text("somebody's")
    cache = tmp_path / "around" / "cache"

    def outside():
        return {
            path.relative_to(tmp_path): path.read_bytes() if path.is_file() else None
            for path in tmp_path.rglob("*")
            if cache not in (path, *path.parents)
        }

    before = outside()
    yield tmp_path
    assert outside() == before


@pytest.fixture
def published(hub, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    hub.repo(REPO).commit({name: (folder / name).read_bytes() for name in FILES}, "v1")
    hub.sent = 0
    yield folder
    hub.faults.clear()


@pytest.fixture
def create(world):
    def make(source=f"{REPO}@v1", **options):
        return aigciqa.create_metric(source, device="cpu", cache_dir=world / "around" / "cache", **options)

    return make


@pytest.fixture
def recovers(hub, published, create, picture, tally):
    """Once the server is honest, the same call gives what it would have given."""

    def check():
        hub.faults.clear()
        expected = aigciqa.create_metric(published, device="cpu")(picture())
        assert torch.equal(create()(picture()), expected)
        tally("the Hub: attacks", faults=1)

    return check


def hostile_names(world):
    yield from ("../../../victim.txt", str(world / "victim.txt"), str(world / "planted"), "../../../planted")
    yield from ("../x", "..", ".", "a/b", ".hidden", "x" * 3000, "a\\b", "C:x", "nul\tl", "a, b")


@pytest.mark.parametrize("honest", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("file", FILES)
def test_names_that_leave_the_cache(file, header, honest, hub, published, create, recovers, world):
    """Blobs, locks and snapshots are named after what a server answers; also when it is honest at first."""
    for name in hostile_names(world):
        for value in {name, f'"{name}"'} if header != "X-Repo-Commit" else {name}:
            hub.faults[file] = {"headers": {header: value}, "honest": honest}
            with pytest.raises(CheckpointError, match=r"is refused, because it has .* after which no file"):
                create().load()
            assert not [path for path, _ in hub.downloads() if path.endswith(file)]
    recovers()


def test_an_answer_about_a_missing_file_is_checked_too(hub, published, create, recovers, world):
    """The client notes in its cache which files a commit does not have."""
    for name in hostile_names(world):
        hub.faults["config.json"] = {
            "status": 404,
            "headers": {"X-Repo-Commit": name, "X-Error-Code": "EntryNotFound"},
        }
        with pytest.raises(CheckpointError, match="is refused, because it has X-Repo-Commit"):
            create().load()
    recovers()


def test_a_new_session_of_the_client_is_checked_too(hub, published, create, recovers, world):
    """The client drops its session after an error, and other threads make it do so."""
    for file in FILES:
        hub.faults[file] = {
            "headers": {"ETag": str(world / "planted"), "X-Linked-ETag": str(world / "planted")},
            "honest": 1,
            "call": lambda: setattr(_http, "_GLOBAL_CLIENT", None),
        }
        with pytest.raises(CheckpointError, match="after which no file may be named"):
            create().load()
        hub.faults.clear()
    recovers()


def test_the_client_of_others_stays_as_it_is(hub, published, create):
    """The checks are for our downloads only: whoever else uses the client gets every answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    create().load()
    hub.faults["config.json"] = {"headers": {"ETag": '"../x"', "X-Xet-Hash": "f" * 64}}
    answer = get_hf_file_metadata(hf_hub_url(REPO, "config.json"))
    assert answer.etag == "../x"
    seen = []

    def load():
        with pytest.raises(CheckpointError, match="after which no file"):
            create(f"{REPO}@main").load()
        seen.append(get_hf_file_metadata(hf_hub_url(REPO, "config.json")).etag)

    thread = threading.Thread(target=load)
    thread.start()
    while thread.is_alive():
        assert get_hf_file_metadata(hf_hub_url(REPO, "config.json")).etag == "../x"
    assert seen == ["../x"]


def endless(block=bytes(MIB), blocks=1024):
    yield from (block for _ in range(blocks))


def endless_gzip(blocks=1024):
    packer = zlib.compressobj(9, wbits=31)
    yield from (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_SYNC_FLUSH) for _ in range(blocks))


BODIES = {
    "endless": lambda: {"send": endless(), "chunked": True},
    "endless-announced": lambda: {"send": endless(), "length": 1 << 30},
    "gzip": lambda: {"send": gzip.compress(bytes(256 * MIB)), "length": None, "encoding": "gzip"},
    "gzip-endless": lambda: {"send": endless_gzip(), "chunked": True, "encoding": "gzip"},
    "gzip-twice": lambda: {
        "send": gzip.compress(gzip.compress(bytes(256 * MIB))),
        "length": None,
        "encoding": "gzip, gzip",
    },
    "deflate": lambda: {"send": zlib.compress(bytes(256 * MIB)), "length": None, "encoding": "deflate"},
    "error-endless": lambda: {"send": endless(), "chunked": True, "status": 500},
    "error-gzip": lambda: {
        "send": gzip.compress(bytes(256 * MIB)),
        "length": None,
        "encoding": "gzip",
        "status": 404,
    },
    "error-gzip-twice": lambda: {
        "send": gzip.compress(gzip.compress(bytes(256 * MIB))),
        "length": None,
        "encoding": "gzip, gzip",
        "status": 403,
    },
}


def peak():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells the memory at its peak")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("file", FILES)
def test_bodies_without_end(file, body, hub, published, create, recovers, world, monkeypatch):
    """What is too large is refused before memory or disk is spent, whatever was announced."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its attempts
    create(f"{REPO}@main").config if file != "config.json" else None
    fault = BODIES[body]()
    if "length" in fault and fault["length"] is None:
        fault["length"] = len(fault["send"])
    status = fault.pop("status", None)
    disk = []

    def watched(parts):
        for part in [parts] if isinstance(parts, bytes) else parts:
            yield part
            disk.append(sum(p.stat().st_size for p in (world / "around").rglob("*") if not p.is_symlink()))

    fault["send"] = watched(fault["send"])
    if status:  # the first answers are honest, so that the file itself is asked for

        def fail():
            if len(hub.requests) and hub.requests[-1][0] == "GET":
                fault["status"] = status

        fault["call"] = fail
    hub.faults[file] = fault
    before = reset_peak()
    with pytest.raises(CheckpointError):
        create(f"{REPO}@main").load()
    assert peak() - before < MOST
    assert hub.sent < MOST
    assert not disk or max(disk) < MOST
    recovers()


def test_a_transfer_that_is_resumed_for_ever(hub, published, create, recovers, monkeypatch):
    """It breaks off each time before too much has come, and the client asks again."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults["model.safetensors"] = {"send": bytes(4 * MIB), "length": 5 * MIB}
    with pytest.raises(CheckpointError, match="bytes have come and the file is not whole"):
        create().load()
    assert hub.sent < MOST
    recovers()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://localhost/x", "//", "http://127.0.0.1:9/x"])
def test_redirects(target, hub, published, create, recovers, world, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults["model.safetensors"] = {"headers": {"Location": target}}
    with pytest.raises(CheckpointError):
        create().load()
    recovers()


def test_no_other_way_of_transfer(hub, published, create, picture):
    """Xet writes to the disk by itself, so it is not used."""
    route = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{hub.url}/xet/token"}
    for file in FILES:
        hub.faults[file] = {"headers": route}
    assert torch.equal(create()(picture()), aigciqa.create_metric(published, device="cpu")(picture()))
    assert not [path for _, path, _ in hub.requests if "xet" in path]


@pytest.mark.parametrize("text", ["\x1b]0;gone\x07", "x" * 60_000])
def test_what_a_server_says_is_shown_in_one_short_line(text, hub, published, create, recovers):
    hub.faults["config.json"] = {"status": 403, "headers": {"X-Error-Message": text}}
    with pytest.raises(CheckpointError) as caught:
        create().load()
    assert len(str(caught.value)) < 2000
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)
    recovers()


HOSTILE_REVISIONS = ["../../../../victim.txt", "{}/victim.txt", "{}", "..", "a/../../x", "a//b", "a/", ".x"]


@pytest.mark.parametrize(
    "revision", [*HOSTILE_REVISIONS, "", "x y", "a\nb", "-x", "x" * 201, "é", "a/..", "%2e%2e/x"]
)
@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_revisions_that_leave_the_cache(prefix, revision, hub, published, create, world):
    """The client writes the commit into a file that is named after the revision."""
    revision = revision.format(world)
    with pytest.raises(
        CheckpointError, match="the revision after '@' must be a branch, tag or commit of letters"
    ):
        create(f"{prefix}{REPO}@{revision}")
    with pytest.raises(CheckpointError, match="revision must be null, or a branch, tag or commit of letters"):
        tiny_config(revision=revision)
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["main", "v1.0.0", "refs/pr/3", "a" * 40, "feature/x_y-z", "a" * 200])
def test_revisions_that_there_are(revision):
    assert aigciqa.create_metric(f"{REPO}@{revision}")._source.revision == revision
    assert tiny_config(revision=revision).revision == revision


@pytest.mark.parametrize(
    "repo", ["../x", "x/..", "a/b/c", ".a/b", "a/.b", "a--b/c", "a/b--c", "-a/b", "a/b-", "a/b.", f"a/{'x' * 97}",
             "a/b\n", "a\0/b", "é/b", "a/b?", "~nobody-here/x", "x" * 5000]
)  # fmt: skip
def test_repositories_that_leave_the_cache(repo, hub, published, create):
    for name in (repo, f"hf-hub:{repo}", f"{repo}@v1"):
        with pytest.raises(CheckpointError, match="no metric, folder or Hub repository") as caught:
            create(name)
        assert len(str(caught.value)) < 1000
    with pytest.raises(CheckpointError, match="repo must be null, or owner/name"):
        tiny_config(repo=repo)
    assert hub.requests == []
