"""Tar shards as `tar` writes them: links and other kinds of members, and what becomes of those that cannot be read."""

import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from torture.makers import encoded, photo

import aigciqa
from aigciqa import archive
from aigciqa.sources import find_items

MODES = ["w:", "w:gz", "w:bz2", "w:xz"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard(members, mode="w:", name="s.tar", form=tarfile.PAX_FORMAT):
    """From (name, content), or (name, kind, what it links to)."""
    with tarfile.open(name, mode, format=form) as tar:
        for path, *rest in members:
            member = tarfile.TarInfo(path)
            if len(rest) == 1:
                member.size = len(rest[0])
                tar.addfile(member, io.BytesIO(rest[0]))
            else:
                member.type, member.linkname = rest
                tar.addfile(member)


def found(*sources, **options):
    """What is found, by name, counted the same beforehand and found the same a second time."""
    items = find_items(list(sources) or ["s.tar"], **options)
    made = list(items)
    assert items.check() == len(made)
    assert list(items) == made
    return {item.picture: item for item in made}


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
LINKS = [
    ("d/early.png", SYM, "late.jpg"),  # a symbolic link may come before what it leads to
    ("d/a.png", b"one"),
    ("d/b.png", HARD, "d/a.png"),
    ("./d/c.png", HARD, "./d/a.png"),
    ("e/up.png", SYM, "../d/a.png"),
    ("e/through.png", SYM, "alias/a.png"),
    ("e/alias", SYM, "../d"),
    ("e/again.png", SYM, "through.png"),
    ("e/hard-to-link.png", HARD, "e/up.png"),
    ("e/odd.png", SYM, "././/../d/./b.png"),
    ("late.png", b"other"),
    ("d/late.jpg", b"two"),
    ("f/hidden.png", SYM, "../.store/1"),
    (".store/1", b"three"),
    ("x.png", b"four"),
    ("x.ref.png", SYM, "d/a.png"),
]
CONTENTS = {
    "d/early.png": b"two", "d/a.png": b"one", "d/b.png": b"one", "d/c.png": b"one", "e/up.png": b"one",
    "e/through.png": b"one", "e/again.png": b"one", "e/hard-to-link.png": b"one", "e/odd.png": b"one",
    "late.png": b"other", "d/late.jpg": b"two", "f/hidden.png": b"three", "x.png": b"four",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_links_are_what_they_lead_to(mode):
    shard(LINKS, mode)
    items = found()
    assert {name.removeprefix("s.tar/"): item.data for name, item in items.items()} == CONTENTS
    assert items["s.tar/x.png"].reference_data == b"one"
    assert not any(item.error or item.reference_error for item in items.values())
    assert [path.name for path in Path().iterdir()] == ["s.tar"]  # nothing was unpacked
    parts = [found(shard=(i, 3)) for i in (1, 2, 3)]
    assert {name: item for part in parts for name, item in part.items()} == items


UNRESOLVED = {
    "out.png": (SYM, "../../etc/passwd", "links out of its archive"),
    "absolute.png": (SYM, "/etc/passwd", "links out of its archive"),
    "missing.png": (SYM, "nowhere.png", "links to 'nowhere.png', which is no file in this archive"),
    "hard.png": (HARD, "etc/passwd", "links to 'etc/passwd', which is no file in this archive"),
    "after.png": (HARD, "z.png", "links to 'z.png', which is no file in this archive"),  # it comes only later
    "folder.png": (SYM, "d", "links to 'd', which is no file in this archive"),
    "self.png": (SYM, "self.png", "leads in a circle"),
    "loop-a.png": (SYM, "loop-b.png", "leads in a circle"),
    "loop-b.png": (SYM, "loop-a.png", "leads in a circle"),
    "grows.png": (SYM, "grows.png/x", "leads in a circle"),
}


@pytest.mark.parametrize("mode", MODES)
def test_links_that_lead_nowhere_are_rows_with_an_error(mode, tiny):
    good = encoded(photo(), "PNG")
    links = [(name, kind, target) for name, (kind, target, _) in UNRESOLVED.items()]
    shard(
        [("d", tarfile.DIRTYPE, ""), ("a.png", good), *links, ("z.png", good), ("z.ref.png", SYM, "q.png")],
        mode,
    )
    items = found()
    assert list(items) == ["s.tar/a.png", *(f"s.tar/{name}" for name in UNRESOLVED), "s.tar/z.png"]
    rows = list(
        aigciqa.create_metric(tiny(), device="cpu").score_files(map(without_reference, items.values()))
    )
    assert [row.picture for row in rows] == list(items)
    for row in rows[1:-1]:
        says = UNRESOLVED[row.picture.removeprefix("s.tar/")][2]
        assert row.error.startswith(f"{row.picture}: ") and says in row.error
        assert row.error.endswith("unpack the archive and score the files")
    assert rows[0].scores == rows[-1].scores is not None
    (row,) = aigciqa.create_metric(tiny("full"), device="cpu").score_files([items["s.tar/z.png"]])
    assert row.error.startswith("s.tar/z.ref.png: links to 'q.png', which is no file in this archive")


def without_reference(item):
    return type(item)(item.picture, data=item.data, error=item.error)


@pytest.mark.parametrize("mode", MODES)
def test_a_hard_link_means_the_file_that_was_there_when_it_was_written(mode):
    shard(
        [("a", b"old"), ("b.png", HARD, "a"), ("a", b"new"), ("c.png", SYM, "a"), ("d.png", HARD, "a")], mode
    )
    assert [item.data for item in found().values()] == [b"old", b"new", b"new"]


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu", "v7", "ustar"])
def test_what_tar_itself_writes(form):
    """The folder and its shard give the same contents, links, holes and long names included."""
    random.seed(0)
    Path("d/sub").mkdir(parents=True)
    long = "x" * 90 if form in ("v7", "ustar") else "x" * 200
    for name in ("a.png", "sub/b.png", f"{long}.png"):
        Path("d", name).write_bytes(random.randbytes(1000))
    os.link("d/a.png", "d/hard.png")
    os.link("d/a.png", "d/sub/hard.png")
    Path("d/sub/soft.png").symlink_to("../a.png")
    Path("d/soft.png").symlink_to("sub/soft.png")
    if holes := form not in ("v7", "ustar"):
        with Path("d/holes.png").open("wb") as file:
            for place in range(0, 1_000_000, 100_000):
                file.seek(place)
                file.write(random.randbytes(5000))
            file.truncate(2_000_000)
    wanted = {item.picture: Path(item.picture).read_bytes() for item in find_items(["d"])}
    for pack in ([], ["--gzip"], ["--xz"], ["--bzip2"]):
        options = [f"--format={form}", "--sort=name", *(["--sparse"] if holes else []), *pack]
        subprocess.run(["tar", *options, "-cf", "d.tar", "d"], check=True)
        assert Path("d.tar").stat().st_size < 200_000  # no hole is in it
        items = found("d.tar")
        assert {name.replace("d.tar/", "", 1): item.data for name, item in items.items()} == wanted


def test_kinds_of_members():
    kinds = [
        (f"{i}.png", kind, "") for i, kind in enumerate((tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE))
    ]
    shard([*kinds, ("d.png", tarfile.DIRTYPE, ""), ("d/link", SYM, ".."), ("a.png", b"a"), ("a.txt", b"t")])
    with tarfile.open("s.tar", "a") as tar:
        for name, kind in (
            ("c.png", tarfile.CONTTYPE),
            ("u.png", b"Q"),
        ):  # contiguous; unknown, so taken for a file
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, 3
            header = member.tobuf()
            tar.fileobj.write(header + b"abc" + bytes(509))
            tar.offset += 1024
    items = find_items(["s.tar"])
    assert [(item.picture, item.data) for item in items] == [
        ("s.tar/a.png", b"a"), ("s.tar/c.png", b"abc"), ("s.tar/u.png", b"abc")
    ]  # fmt: skip
    assert items.check() == 3
    assert str(items.left_out) == (
        "left out: 1 link to a folder or to no image (unpack the archive to score what a folder holds); "
        "3 special files (a pipe, a socket or a device); 1 .txt"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_member_that_is_too_large_is_one_row(mode, monkeypatch):
    monkeypatch.setattr(archive, "HELD", 1000)
    large = [
        ("b.png", bytes(1001)),
        ("c.png", SYM, "b.png"),
        ("d.png", HARD, "b.png"),
        ("e.ref.png", HARD, "b.png"),
    ]
    shard([("a.png", bytes(1000)), *large, ("e.png", b"e"), ("f.png", b"f")], mode)
    items = found()
    assert [item.data for item in items.values()] == [bytes(1000), None, None, None, b"e", b"f"]
    says = [item.error or item.reference_error for item in items.values()]
    assert says[1].startswith("s.tar/b.png: needs 0 MiB, more than the limit of 0 MiB; unpack the archive")
    assert says[2].startswith("s.tar/c.png: links to 'b.png': needs 0 MiB")
    assert says[3].startswith("s.tar/d.png: links to 'b.png': needs 0 MiB")
    assert says[4].startswith("s.tar/e.ref.png: links to 'b.png': needs 0 MiB")
    assert says[5] is None


def test_copies_of_linked_members_have_a_limit(monkeypatch):
    monkeypatch.setattr(archive, "ASIDE", 2500)
    files = [(str(i), bytes([i]) * 1000) for i in range(4)]
    links = [(f"{i}.png", SYM, str(i)) for i in range(4)]
    for mode in MODES:
        shard([*files, *links], mode)
        items = list(found().values())
        assert [item.data for item in items[:2]] == [bytes(1000), b"\1" * 1000]
        assert [bool(item.error) for item in items[2:]] == [mode != "w:"] * 2
    assert "this and what other links lead to: needs" in items[2].error


def test_a_negative_size_does_not_go_round_for_ever():
    member = tarfile.TarInfo("a.png")
    member.pax_headers = {"size": "-1024"}
    with tarfile.open("s.tar", "w") as tar:
        tar.addfile(member)
        tar.addfile(tarfile.TarInfo("b.png"))
    with pytest.raises(aigciqa.InputError, match="a negative size"):
        find_items(["s.tar"]).check()


def test_a_broken_extended_header_is_not_the_end():
    """Everything after it would be left out."""
    shard([("a.png", b"a"), ("x" * 200 + ".png", b"b"), ("c.png", b"c")])
    data = Path("s.tar").read_bytes()
    place = data.index(b" path=xxx")
    Path("s.tar").write_bytes(data[: place - 3] + b"000" + data[place:])
    with pytest.raises(aigciqa.InputError, match="cannot be read as a tar archive"):
        find_items(["s.tar"]).check()


def test_a_window_of_xz_has_a_limit(monkeypatch):
    shard([("a.png", os.urandom(100_000))], "w:xz")
    assert len(found()) == 1
    monkeypatch.setattr(archive, "WINDOW", 1 << 20)
    with pytest.raises(aigciqa.InputError, match="its compression asks for more memory than 1 MiB"):
        find_items(["s.tar"]).check()


def test_xz_of_several_streams():
    shard([("a.png", os.urandom(100_000)), ("b.png", HARD, "a.png")], "w:")
    whole = Path("s.tar").read_bytes()
    Path("s.tar.xz").write_bytes(lzma.compress(whole[:70_001]) + bytes(8) + lzma.compress(whole[70_001:]))
    items = list(found("s.tar.xz").values())
    assert items[0].data == items[1].data == whole[512:100_512]


def test_pipes_and_devices_are_no_shards():
    os.mkfifo("p.tar")
    os.mkfifo("p.csv")
    Path("z.tar").symlink_to("/dev/zero")
    Path("z.parquet").symlink_to("/dev/zero")
    for name in ("p.tar", "p.csv", "z.tar", "z.parquet"):
        with pytest.raises(aigciqa.InputError, match=f"{name}: is a pipe or a device, not a file"):
            find_items([name]).check()
