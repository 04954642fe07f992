"""What folders, globs and shards leave out is counted and said, once, and nowhere among the results."""

import io
import json
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import touch
from PIL import Image
from torture.makers import encoded, photo

import aigciqa
from aigciqa.cli import score as command
from aigciqa.formats import LeftOut
from aigciqa.sources import find_items


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left_out(*sources, **options):
    """The same by counting and by going through the items."""
    items = find_items(list(sources), **options)
    items.check()
    said = str(items.left_out)
    list(items)
    assert str(items.left_out) == said
    return said


HEIC = "1 .heic (pip install pillow-heif)"
NAMELESS = "2 without an ending (if it is an image, name it or use a glob such as 'folder/*')"


def test_folders_say_what_they_leave_out():
    touch("d/a.png", "d/b.heic", "d/c.jxl", "d/LICENSE", "d/e/00af", "d/.hidden", "d/.cache/x")
    touch(*(f"d/{i}.txt" for i in range(3)), "d/f.json", "d/f.JSON")
    os.mkfifo("d/pipe.png")
    Path("d/e/up").symlink_to("..")
    said = left_out("d")
    assert said.removeprefix("left out: ").split("; ") == [
        HEIC,
        "1 .jxl (pip install pillow-jxl-plugin)",
        NAMELESS,
        "1 link to a folder that was walked already",
        "1 special file (a pipe, a socket or a device)",
        "3 .txt",
        "2 .json",
    ]
    items = find_items(["d", "d"])
    assert items.check() == 2
    assert items.left_out.counts[".txt"] == 6
    assert items.check() == 2
    assert items.left_out.counts[".txt"] == 6  # of the last pass


def test_nothing_left_out_is_nothing_said():
    touch("d/a.png", "d/.hidden.txt")
    assert left_out("d") == ""
    assert left_out("d/*", "d/a.png", "x.heic") == ""
    assert not find_items(["d"]).left_out


def test_globs_take_every_file_and_say_so_of_others():
    touch("d/a.png", "d/b.heic", "d/c", "d/e/f.png", "d/e.png/g.png")
    os.mkfifo("d/pipe.png")
    os.mkfifo("d/pipe.sock")
    pipe = "1 special file (a pipe, a socket or a device)"
    folder = "1 matching folder (name it, or use '**')"
    assert left_out("d/*.png") == f"left out: {folder}; {pipe}"
    assert left_out("d/**/*.png") == f"left out: {pipe}"
    assert left_out("d/?") == f"left out: {folder}"
    assert [item.picture for item in find_items(["d/*"])] == ["d/a.png", "d/b.heic", "d/c"]


def test_shards_say_what_they_leave_out():
    with tarfile.open("s.tar", "w") as tar:
        for name in ("a.png", "a.txt", "a.json", "b.png", "b.txt", "c.heic", ".d.txt"):
            tar.addfile(tarfile.TarInfo(name))
    assert left_out("s.tar") == f"left out: {HEIC}; 2 .txt; 1 .json"


def test_where_nothing_can_be_read_the_error_says_why():
    touch("d/a.heic", "d/b.heic", "x.png", "s/only.txt")
    with pytest.raises(
        aigciqa.InputError, match=r"no picture in this folder.*; left out: 2 \.heic \(pip install"
    ):
        find_items(["d"]).check()
    with pytest.raises(aigciqa.InputError, match=r"d: no picture in this folder; left out: 2 \.heic"):
        find_items(["x.png"], reference="d").check()
    touch("d/y.png")
    with pytest.raises(
        aigciqa.InputError, match=r"found nothing \(left out: 2 \.heic \(pip install pillow-heif\)\)"
    ):
        find_items(["x.png"], reference="d").check()
    (row,) = aigciqa.create_metric("nr-aigciqa", device="cpu").score_files(["d/y.png"])
    assert row.error == "d/y.png: is empty: a file of 0 bytes; write it anew"
    Path("d/a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (row,) = aigciqa.create_metric("nr-aigciqa", device="cpu").score_files(["d/a.heic"])
    assert row.error.endswith("; .heic files need a plugin of Pillow's: pip install pillow-heif")


def test_strangers_names_do_not_fill_the_memory_or_the_line():
    counted = LeftOut()
    for i in range(10_000):
        counted.file(f"x.{i}")
    counted.file("x." + "y" * 200)
    counted.file("x.new\nline")
    assert len(counted.counts) <= 101
    assert sum(counted.counts.values()) == 10_002
    assert len(str(counted)) < 200 and str(counted).isprintable()


def test_the_command_says_it_once_beside_the_results(tiny):
    Path("d").mkdir()
    for seed in (1, 2):
        Path(f"d/{seed}.png").write_bytes(encoded(photo(seed), "PNG"))
    touch("d/a.heic", "d/b.txt")
    line = f"left out: {HEIC}; 1 .txt\n"
    common = ["d", "--metric", str(tiny()), "--device", "cpu"]
    for options in (["--json"], ["--format", "csv"], ["--format", "jsonl"], ["-o", "o.csv"], ["-o", "o.csv"]):
        result = CliRunner().invoke(command, [*common, *options])
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("left out") == result.stderr.count(line) == 1
        assert "left out" not in result.stdout
        if options == ["--json"]:
            assert len(json.loads(result.stdout)["results"]) == 2
    assert len(Path("o.csv").read_text().splitlines()) == 3


def test_score_files_logs_it(tiny, caplog):
    Path("d").mkdir()
    Path("d/1.png").write_bytes(encoded(photo(), "PNG"))
    touch("d/b.txt")
    with caplog.at_level(logging.WARNING, "aigciqa"):
        rows = list(aigciqa.create_metric(tiny(), device="cpu").score_files("d"))
    assert [bool(row.scores) for row in rows] == [True]
    assert caplog.messages == ["left out: 1 .txt"]


# -- plugins


def test_a_plugin_registered_later_counts_at_once(monkeypatch):
    touch("d/a.png")
    Path("d/b.toy").write_bytes(b"TOY" + encoded(photo(), "PNG"))
    assert [item.picture for item in find_items(["d"])] == ["d/a.png"]
    for table in ("OPEN", "EXTENSION", "ID"):
        monkeypatch.setattr(Image, table, type(getattr(Image, table))(getattr(Image, table)))
    Image.register_open(
        "TOY",
        lambda file, name: Image.open(io.BytesIO(file.read()[3:])),
        lambda prefix: prefix.startswith(b"TOY"),
    )
    Image.register_extension("TOY", ".toy")
    assert [item.picture for item in find_items(["d"])] == ["d/a.png", "d/b.toy"]
    assert left_out("d") == ""


PLUGIN = """\
import io
from PIL import Image
def register_heif_opener():
    inside = lambda file, name: Image.open(io.BytesIO(file.read()[16:]))
    Image.register_open("HEIF", inside, lambda prefix: prefix[4:8] == b"ftyp")
    Image.register_extension("HEIF", ".heic")
"""


def test_an_installed_plugin_is_used(tiny):
    """By the command as well, in which nobody else can register it."""
    Path("modules").mkdir()
    Path("modules/pillow_heif.py").write_text(PLUGIN)
    Path("d").mkdir()
    Path("d/a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + encoded(photo(), "PNG"))
    Path("d/a.jpg").write_bytes(Path("d/a.heic").read_bytes())  # called otherwise
    code = "from aigciqa.cli import score; score()"
    arguments = ["d", "--metric", str(tiny()), "--device", "cpu", "--format", "csv"]
    for modules, rows in (("modules", 2), ("", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([modules, os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
        )
        assert len(done.stdout.splitlines()) == 1 + rows, done.stderr
        assert done.returncode == (0 if modules else 1)
        assert ("pip install pillow-heif" in done.stderr) == (not modules)


# -- folders that link to each other


def test_folders_that_link_to_each_other_are_no_maze():
    """Ten folders, each with links to all others: a walk along every path would take millions of steps."""
    for i in range(10):
        touch(f"d/{i}/x.png", f"d/{i}/notes.txt")
        for j in range(10):
            Path(f"d/{i}/to{j}").symlink_to(f"../{j}")
    found = [item.picture for item in find_items(["d"])]
    assert {f"d/{i}/x.png" for i in range(10)} <= set(found)
    assert {f"d/{i}/to{j}/x.png" for i in range(10) for j in range(10) if i != j} <= set(found)
    assert len(found) < 500
    assert find_items(["d"]).check() == len(found)
    items = find_items(["d/**/x.png"])
    assert items.check() == len(found)
    assert "links to folders that were walked already" in str(items.left_out)


def test_links_to_folders_are_followed():
    touch("d/a/x.png", "out/deep/y.png", "more/z.png")
    Path("d/again").symlink_to("a")
    Path("d/out").symlink_to(Path("out").absolute())
    Path("out/more").symlink_to(Path("more").absolute())
    items = find_items(["d"])
    assert [item.picture for item in items] == [
        "d/a/x.png", "d/again/x.png", "d/out/deep/y.png", "d/out/more/z.png"
    ]  # fmt: skip
    assert not items.left_out
