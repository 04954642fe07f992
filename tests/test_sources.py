import csv
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from itertools import chain, islice, zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import touch

from aigciqa.errors import InputError
from aigciqa.sources import Item, find_items

HOSTILE = [
    "new\nline.png",
    "emoji \U0001f600.png",
    os.fsdecode(b"caf\xe9.png"),
    "x" * 251 + ".png",
    "=1+1.png",
    "a,\"b'.png",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources, **options):
    """Twice the same, and as many as `check` counts."""
    items = find_items(list(sources), **options)
    found = [item.picture for item in items]
    assert [item.picture for item in items] == found
    assert items.check() == len(found)
    return found


def pairs(*sources, **options):
    items = find_items(list(sources), **options)
    items.check()
    return [(item.picture, item.reference) for item in items]


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


# -- files, folders, globs


def test_named_files_are_taken_as_they_are():
    touch("a.png", "notes.txt")
    assert names("b.png", "./a.png", "notes.txt", Path("a.png"), "b.png", "y" * 300 + ".png") == [
        "b.png", "./a.png", "notes.txt", "a.png", "b.png", "y" * 300 + ".png"
    ]  # fmt: skip


def test_folders_give_their_pictures_in_natural_order():
    touch(
        "d/img10.png", "d/img2.JPG", "d/img02.png", "d/img1/b.webp", "d/img1/a10.png", "d/img1/a9.png",
        "d/img3/deep/er/z.png", "d/notes.txt", "d/scores.csv", "d/features.h5", "d/png",
        "d/.hidden.png", "d/.cache/x.png",
    )  # fmt: skip
    assert names("d") == [
        "d/img1/a9.png", "d/img1/a10.png", "d/img1/b.webp", "d/img2.JPG", "d/img02.png", "d/img3/deep/er/z.png",
        "d/img10.png",
    ]  # fmt: skip


def test_names_of_the_same_number_have_an_order():
    touch("d/1.png", "d/001.png", "d/01.png", "d/0.png", "d/00.png")
    assert names("d") == ["d/0.png", "d/00.png", "d/001.png", "d/01.png", "d/1.png"]


def test_numbers_longer_than_any_integer_sort_too():
    touch("d/1" + "0" * 100 + ".png", "d/9" * 1 + "9" * 99 + ".png")
    assert [len(Path(name).stem) for name in names("d")] == [100, 101]


def test_folders_are_walked_as_items_are_asked_for():
    touch("d/a/1.png", "d/b/1.png")
    items = iter(find_items(["d"]))
    assert next(items).picture == "d/a/1.png"
    touch("d/b/2.png")
    assert [item.picture for item in items] == ["d/b/1.png", "d/b/2.png"]


def test_links():
    touch("d/a/x.png", "elsewhere/y.png")
    Path("d/a/up").symlink_to("..")
    Path("d/a/self").symlink_to(".")
    Path("d/itself.png").symlink_to("itself.png")
    Path("d/lost.png").symlink_to("nowhere.png")
    Path("d/other").symlink_to(Path("elsewhere").absolute())
    os.mkfifo("d/pipe.png")
    assert names("d") == ["d/a/x.png", "d/itself.png", "d/lost.png", "d/other/y.png"]
    assert names("d/**/x.png") == ["d/a/x.png"]


def test_very_deep_folders():
    deep = Path("d", *["e"] * 1200)
    for folder in chain(reversed(deep.parents), [deep]):
        folder.mkdir(exist_ok=True)
    touch("d/e/x.png")
    (deep / "y.png").touch()
    assert names("d") == [str(deep / "y.png"), "d/e/x.png"]
    subprocess.run(["rm", "-r", "d"], check=True)  # pytest's own clean-up gives up on such depths


@pytest.mark.parametrize(
    "pattern, wanted",
    [
        ("g/*.png", ["g/a2.png", "g/a10.png", "g/s[1].png"]),
        ("g/a?.png", ["g/a2.png"]),
        ("g/a[0-9]*.png", ["g/a2.png", "g/a10.png"]),
        ("g/*", ["g/a2.png", "g/a10.png", "g/notes.txt", "g/s[1].png"]),
        ("g/*/c.png", ["g/b/c.png"]),
        ("g/**/c.png", ["g/b/c.png", "g/b/d/b/c.png"]),
        ("g/**/b/**/c.png", ["g/b/c.png", "g/b/d/b/c.png"]),
        ("**/b/c.png", ["g/b/c.png", "g/b/d/b/c.png"]),
        ("g/b/**", ["g/b/c.png", "g/b/d/b/c.png"]),
        ("g/.h*/*.png", ["g/.hidden/e.png"]),
        ("g/s[1].png", ["g/s[1].png"]),
        ("./g/?/c.png", ["g/b/c.png"]),
    ],
)
def test_globs(pattern, wanted, here):
    touch(
        "g/a10.png", "g/a2.png", "g/notes.txt", "g/b/c.png", "g/b/d/b/c.png", "g/.hidden/e.png", "g/s[1].png"
    )
    assert names(pattern) == wanted
    assert names(here / pattern) == [str(here / name) for name in wanted]


def test_globs_open_the_shards_and_tables_that_they_match():
    shard("s10.tar", [("z.png", b"z")])
    shard("s2.tar", [("y.png", b"y")])
    assert names("s*.tar") == ["s2.tar/y.png", "s10.tar/z.png"]


def test_hostile_names():
    touch(*(f"d/{name}" for name in HOSTILE))
    found = names("d")
    assert sorted(found) == sorted(f"d/{name}" for name in HOSTILE)
    assert all(Path(name).is_file() for name in found)
    assert names("d/*.png") == found
    touch(*(f"r/{name}" for name in HOSTILE))
    assert pairs("d", reference="r") == [(name, name.replace("d/", "r/", 1)) for name in found]


# -- lists


def text_stdin(data):
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")


def test_list_of_lines():
    stdin = text_stdin(b"b.png\n\n  \r\na 1.png\r\ncaf\xe9.png\nb.png\nno-end.png")
    wanted = ["b.png", "a 1.png", os.fsdecode(b"caf\xe9.png"), "b.png", "no-end.png"]
    assert names("first.png", "-", "last.png", stdin=stdin) == ["first.png", *wanted, "last.png"]
    assert names("-", stdin=io.StringIO("\n".join(wanted))) == wanted


def test_list_that_find_wrote():
    touch(*(f"d/{name}" for name in [*HOSTILE, "cr\r", " "]))
    found = subprocess.run(["find", "d", "-type", "f", "-print0"], capture_output=True, check=True).stdout
    assert sorted(names("-", stdin=text_stdin(found))) == sorted(f"d/{n}" for n in [*HOSTILE, "cr\r", " "])


def test_long_list():
    wanted = [f"{'folder' * 20}/{i}.png" for i in range(3000)]
    for separator in ("\n", "\0"):
        stdin = text_stdin(separator.join(wanted).encode())
        items = find_items(["-"], stdin=stdin)
        assert all(a.picture == b.picture == c for a, b, c in zip_longest(items, items, wanted))


def test_list_on_the_standard_input_of_a_process():
    code = (
        "import sys; from aigciqa.sources import find_items; "
        "print([ascii(item.picture) for item in find_items(['-'])], 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], input=b"a\xe9.png\nb.png\n", capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == repr([ascii("a\udce9.png"), ascii("b.png")]) + " False"


# -- manifests


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_manifests(kind, here):
    rows = [
        ("a.png", "r/1.png"),
        ('s/b,"c".png', ""),
        ("new\r\nline.png", "/abs/2.png"),
        ("a.png", "r/1.png"),
    ]
    write_table(f"m/t.{kind}", ["prompt", "reference", "picture"], [("p", r, p) for p, r in rows])
    assert pairs(f"m/t.{kind}") == [
        ("m/a.png", "m/r/1.png"), ('m/s/b,"c".png', None), ("m/new\r\nline.png", "/abs/2.png"), ("m/a.png", "m/r/1.png")
    ]  # fmt: skip
    write_table(f"t.{kind}", ["Image", "Prompt image"], rows[:1])
    assert pairs(f"t.{kind}", picture_column="Image") == [("a.png", None)]
    assert pairs(here / f"t.{kind}", picture_column="Image", reference_column="Prompt image") == [
        (str(here / "a.png"), str(here / "r/1.png"))
    ]


def write_table(path, header, rows):
    Path(path).parent.mkdir(exist_ok=True)
    if path.endswith("parquet"):
        columns = [[x or None for x in column] for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(header, columns or [[]] * len(header), strict=True))), path)
        return
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.endswith("tsv") else ",")
        writer.writerows([header, *rows])


def test_manifest_of_other_bytes():
    Path("t.csv").write_bytes(b"\xef\xbb\xbfpicture\r\n\r\ncaf\xe9.png\r\n")
    pq.write_table(pa.table({"picture": [b"caf\xe9.png"]}), "t.parquet")
    pq.write_table(pa.table({"picture": pa.array(["a.png", "a.png"]).dictionary_encode()}), "d.parquet")
    assert names("t.csv", "t.parquet", "d.parquet") == [os.fsdecode(b"caf\xe9.png")] * 2 + ["a.png"] * 2


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"image,reference\na.png,\n", "no column 'picture'; its columns are 'image', 'reference'"),
        ("t.csv", b"", "no column 'picture'; its columns are none"),
        ("t.csv", b"picture\n", "no row"),
        ("t.csv", b"picture,picture\na,b\n", "2 columns are called 'picture'"),
        ("t.csv", b"picture,mos\na.png,1\n,2\n", "line 3: the picture's name is empty"),
        ("t.csv", b"picture,mos\na,b.png,1\n", "line 2: 3 cells where the first line has 2"),
        ("t.tsv", b"mos\tpicture\n1\n", "line 2: 1 cells where the first line has 2"),
        ("t.csv", b'picture\n"a.png\nb.png\n', "cannot be read as a table .*cut short"),
        ("t.parquet", b"picture\na.png\n", "cannot be read as a table"),
    ],
)  # fmt: skip
def test_wrong_manifests(name, content, message):
    Path(name).write_bytes(content)
    for through in (list, lambda items: items.check()):
        with pytest.raises(InputError, match=rf"^{name}.*{message}"):
            through(find_items([name]))


def test_wrong_parquet_columns(monkeypatch):
    pq.write_table(pa.table({"picture": [1, 2]}), "t.parquet")
    with pytest.raises(InputError, match="column 'picture' holds int"):
        list(find_items(["t.parquet"]))
    pq.write_table(pa.table({"picture": ["a.png"]}), "t.parquet")
    with pytest.raises(InputError, match=r"no column 'ref'.*reference_column"):
        list(find_items(["t.parquet"], reference_column="ref"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'aigciqa\[parquet\]'"):
        list(find_items(["t.parquet"]))


# -- tar shards

SAMPLES = [
    ("./a/2.json", b"{}"), ("./a/2.jpg", b"two"), ("./a/2.ref.png", b"ref two"), ("._x.jpg", b"?"),
    ("1.reference.WEBP", b"ref one"), ("1.PNG", b"one"), ("1.txt", b"a prompt"), ("3.cls", b"0"),
    ("caf\udce9.jpg", b"e"), ("new\nline.jpg", b"n"),
]  # fmt: skip
WANTED = [
    Item("s.tar/a/2.jpg", "s.tar/a/2.ref.png", b"two", b"ref two"),
    Item("s.tar/1.PNG", "s.tar/1.reference.WEBP", b"one", b"ref one"),
    Item("s.tar/caf\udce9.jpg", None, b"e"),
    Item("s.tar/new\nline.jpg", None, b"n"),
]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "TAR"])
def test_shards(ending):
    compression = {"tgz": "gz", "TAR": "tar"}.get(ending, ending.split(".")[-1])
    shard(f"s.{ending}", SAMPLES, "w:" + compression.removeprefix("tar"))
    items = find_items([f"s.{ending}"])
    assert items.check() == 4
    wanted = [(i.picture.replace("s.tar", f"s.{ending}"), i.data, i.reference_data) for i in WANTED]
    assert [(i.picture, i.data, i.reference_data) for i in items] == wanted
    assert [path.name for path in Path().iterdir()] == [f"s.{ending}"]  # nothing was unpacked


def test_samples_of_shards_are_whole_and_regular():
    with tarfile.open("s.tar", "w") as tar:
        for kind, name in (
            (tarfile.DIRTYPE, "d.png"),
            (tarfile.SYMTYPE, "l.png"),
            (tarfile.LNKTYPE, "h.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    shard("s.tar", SAMPLES, "a")
    outside, missing, *rest = find_items(["s.tar"])
    assert rest == WANTED
    assert (outside.data, missing.data) == (None, None)
    assert outside.error and outside.error.startswith("s.tar/l.png: links out of its archive")
    assert missing.error and missing.error.startswith(
        "s.tar/h.png: links to 'etc/passwd', which is no file in"
    )


@pytest.mark.parametrize(
    "members, message",
    [
        (["a.png", "a.jpg"], r"s\.tar/a\.jpg: the second picture of one sample, beside s\.tar/a\.png; .*key\.ref\.jpg"),
        (["v1.5_0.png", "v1.5_1.png"], "before their first dot"),
        (["a.ref.png", "a.jpg", "a.reference.jpg"], "the second reference of one sample"),
        (["a.png", "b.png", "a.ref.png"], r"s\.tar/a\.ref\.png: a reference without a picture"),
        (["a.txt"], r"s\.tar: no picture in this shard"),
        ([], r"s\.tar: no picture in this shard"),
    ],
)  # fmt: skip
def test_wrong_samples(members, message):
    shard("s.tar", [(name, b"x") for name in members])
    for through in (list, lambda items: items.check()):
        with pytest.raises(InputError, match=message):
            through(find_items(["s.tar"]))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_damaged_shards(ending):
    name = f"s.{ending}"
    shard("whole.tar", [(f"{i}.png", os.urandom(2000)) for i in range(20)])
    whole = Path("whole.tar").read_bytes()
    used = 20 * (512 + 2048)
    pack = gzip.compress if ending == "tar.gz" else bytes
    damaged = [whole[:n] for n in (0, 100, 700, 5 * 2560, 5 * 2560 + 100, 5 * 2560 + 900, used)]
    damaged.append(whole[:2560] + os.urandom(512) + whole[3072:])
    damaged = [pack(data) for data in damaged] + [pack(whole)[: used // 2]]
    for data in damaged:
        Path(name).write_bytes(data)
        for through in (list, lambda items: items.check()):
            with pytest.raises(
                InputError, match=rf"^{name}: cannot be read as a tar archive, or is cut short"
            ):
                through(find_items([name]))
    Path(name).write_bytes(pack(whole))
    assert find_items([name]).check() == 20


def test_memory_of_shards_does_not_grow():
    def peak(count):
        shard("s.tar", ((f"{i}.png", b"x" * 100) for i in range(count)))
        tracemalloc.start()
        assert sum(len(item.data) for item in find_items(["s.tar"])) == 100 * count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(10)
    assert peak(2000) < peak(200) + 100_000


def test_members_of_other_parts_are_not_read():
    shard("s.tar", [("1.png", b"1"), ("2.png", bytes(8_000_000)), ("3.png", b"3")])
    tracemalloc.start()
    assert [item.data for item in find_items(["s.tar"], shard=(1, 2))] == [b"1", b"3"]
    assert find_items(["s.tar"]).check() == 3
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


# -- references


def test_pku_i2iqa():
    pictures = [
        f"Generated_image/All/{g}_{p:03}_{v}.jpg"
        for g in ("MJ", "SD")
        for p in range(12)
        for v in ("00", "01", "10", "11")
    ]
    touch(*pictures, *(f"Image_prompt/{p}.jpg" for p in range(12)))
    wanted = [(picture, f"Image_prompt/{int(picture[23:26])}.jpg") for picture in pictures]
    assert pairs("Generated_image/All", reference="Image_prompt", reference_pattern="{1:d}.jpg") == wanted
    assert pairs("Generated_image/All", reference_pattern="Image_prompt/{1:d}.jpg") == wanted
    Path("Image_prompt/11.jpg").rename("Image_prompt/11.png")
    with pytest.raises(InputError) as caught:
        find_items(["Generated_image/All"], reference="Image_prompt", reference_pattern="{1:d}.jpg").check()
    assert "of 96 pictures 8 have no reference and 0 have several" in str(caught.value)
    for picture in pictures:
        assert (picture in str(caught.value)) == ("_011_" in picture)
    assert "looked for Image_prompt/11.jpg, not there; there is 11.png" in str(caught.value)


@pytest.mark.parametrize(
    "picture, pattern, wanted",
    [
        ("run/a-b-07.png", "r/{2}.png", "r/07.png"),
        ("run/a-b_07.png", "r/{0}.png", "r/a-b.png"),
        ("run/a_7.png", "r/{1:0>3}.png", "r/007.png"),
        ("run/a_7.png", "r/{1:03d}.png", "r/007.png"),
        ("run/0012.png", "r/{stem:d}{suffix}", "r/12.png"),
        ("run/a.b.png", "r/{parent}/{name}", "r/run/a.b.png"),
        ("run/x.png", "r/all.jpg", "r/all.jpg"),
        ("run/x.png", "r/{{0}}.png", "r/{0}.png"),
    ],
)
def test_patterns(picture, pattern, wanted):
    touch(wanted)
    assert pairs(picture, reference_pattern=pattern) == [(picture, wanted)]
    assert pairs(picture, reference="r", reference_pattern=pattern[2:]) == [(picture, wanted)]


def test_parent_of_a_bare_name(here):
    touch(f"{here.name}/x.png")
    assert pairs("x.png", reference_pattern="{parent}/x.png") == [("x.png", f"{here.name}/x.png")]


@pytest.mark.parametrize(
    "pattern",
    ["{}", "{x}", "{0", "0}", "{stem.__class__}", "{0[1]}", "{0!r}", "{1:d", "{1:{0}}", "{0:zd}", "{0:q}"],
)
def test_wrong_patterns(pattern):
    with pytest.raises(InputError, match=r"^reference_pattern .*its fields are \{0\}"):
        find_items(["a.png"], reference_pattern=pattern)


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("{2}.png", r"its stem has no part 2"),
        ("{0:d}.png", r"'a' is no number"),
        ("nowhere/{1}.png", r"looked for nowhere/1\.png, not there; there is no folder nowhere"),
        ("q/{1}.png", r"looked for q/1\.png, not there$"),
    ],
)
def test_pictures_that_a_pattern_does_not_fit(pattern, message):
    touch("q/other.gif")
    items = find_items(["a_1.png"], reference_pattern=pattern)
    with pytest.raises(InputError, match=f"a_1.png: {message}"):
        list(items)
    with pytest.raises(InputError, match=rf"of 1 pictures 1 have no reference(.|\n)*  a_1.png: {message}"):
        items.check()


def test_one_reference_for_all():
    touch("d/1.png", "d/2.png", "r.png")
    assert pairs("d", "-", reference="r.png", stdin=io.StringIO("3.png")) == [
        ("d/1.png", "r.png"), ("d/2.png", "r.png"), ("3.png", "r.png")
    ]  # fmt: skip


def test_references_by_stem():
    touch("g/x.png", "g/a/x.png", "g/b/x.png", "g/b/only.png", "g/v1.5.png")
    touch("r/x.jpg", "r/a/x.webp", "r/b/x.png", "r/c/only.bmp", "r/v1.5.jpg", "r/x.txt")
    wanted = [
        ("g/a/x.png", "r/a/x.webp"), ("g/b/only.png", "r/c/only.bmp"), ("g/b/x.png", "r/b/x.png"),
        ("g/v1.5.png", "r/v1.5.jpg"), ("g/x.png", "r/x.jpg"),
    ]  # fmt: skip
    assert pairs("g", reference="r") == wanted
    assert pairs("g/**/*.png", reference="r") == wanted
    assert pairs("g/b/only.png", reference="r") == [("g/b/only.png", "r/c/only.bmp")]
    shard("s.tar", [("b/x.png", b""), ("only.png", b"")])
    assert pairs("s.tar", reference="r") == [
        ("s.tar/b/x.png", "r/b/x.png"),
        ("s.tar/only.png", "r/c/only.bmp"),
    ]


def test_unpaired_stems_are_listed_and_refused():
    touch(*(f"g/{i}.png" for i in range(20)), *(f"r/{i}.png" for i in range(8)), "r/0.jpg", "r/deep/1.png")
    items = find_items(["g", "1.png"], reference="r")
    with pytest.raises(InputError) as caught:
        items.check()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("of 21 pictures 12 have no reference and 2 have several; ")
    assert lines[1] == "  g/0.png: looked for 0.* in r, found 2: 0.jpg, 0.png"
    assert lines[2] == "  g/8.png: looked for 8.* in r, found nothing"
    assert lines[-1] == "  and 4 more"
    assert len(lines) == 12
    with pytest.raises(InputError, match=r"^g/0.png: looked for 0\.\* in r, found 2"):
        list(items)
    with pytest.raises(InputError, match=r"1.png: looked for 1\.\* in r, found 2: 1.png, deep/1.png"):
        find_items(["1.png"], reference="r").check()


def test_messages_stay_on_their_lines():
    touch("g/new\nline\udce9.png", "r/x.png")
    with pytest.raises(InputError) as caught:
        find_items(["g"], reference="r").check()
    assert str(caught.value).splitlines()[1].startswith(r"  'g/new\nline\udce9.png': looked for")
    str(caught.value).encode()


@pytest.mark.parametrize(
    "options", [{"reference": "r"}, {"reference": "r/a.png"}, {"reference_pattern": "r/{stem}.png"}]
)
def test_two_kinds_of_references_are_refused(options):
    touch("r/a.png")
    shard("s.tar", [("a.png", b""), ("a.ref.png", b"")])
    write_table("t.csv", ["picture", "reference"], [("a.png", "b.png")])
    for source, own in (("s.tar", r"s\.tar/a\.ref\.png"), ("t.csv", r"b\.png")):
        for through in (list, lambda items: items.check()):
            with pytest.raises(InputError, match=f"a.png comes with the reference {own}"):
                through(find_items([source], **options))


# -- shards, and what is refused at once


def test_parts_partition_the_items():
    touch(*(f"d/{i}.png" for i in range(7)))
    shard("s.tar", SAMPLES)
    sources = ["d", "s.tar", "x.png", "-"]
    whole = list(find_items(sources, stdin=io.StringIO("y.png\nz.png")))
    assert len(whole) == 14
    for n in (1, 2, 3, 5, 14, 20):
        parts = [
            find_items(sources, stdin=io.StringIO("y.png\nz.png"), shard=(i, n)) for i in range(1, n + 1)
        ]
        assert [item for item in chain(*zip_longest(*parts)) if item] == whole
        assert sum(part.check() for part in parts) == len(whole)


def test_a_part_pairs_only_its_own():
    touch("r/1.png")
    assert pairs("1.png", "2.png", reference="r", shard=(1, 2)) == [("1.png", "r/1.png")]
    with pytest.raises(InputError, match="of 1 pictures 1 have no reference"):
        find_items(["1.png", "2.png"], reference="r", shard=(2, 2)).check()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sources": []}, "nothing to score"),
        ({"sources": "d"}, r"pass a list: \['d'\]"),
        ({"sources": [b"d"]}, "os.fsdecode"),
        ({"sources": [""]}, "not the name of anything"),
        ({"sources": ["a\0b"]}, "not the name of anything"),
        ({"sources": ["-", "d", "-"]}, "may be given once"),
        ({"sources": ["no.csv"]}, "no.csv: there is no such file"),
        ({"sources": ["no.tar.gz"]}, "no.tar.gz: there is no such file"),
        ({"sources": ["no/"]}, "no/: there is no such file or folder"),
        ({"sources": ["d"], "shard": (0, 2)}, "shard must be"),
        ({"sources": ["d"], "shard": (3, 2)}, "shard must be"),
        ({"sources": ["d"], "reference": "no"}, "no such reference"),
        ({"sources": ["d"], "reference": "d/a.txt", "reference_pattern": "{0}"}, "one reference for all"),
    ],
)
def test_refused_at_once(arguments, message):
    touch("d/a.txt")
    with pytest.raises(InputError, match=message):
        find_items(**arguments)


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("d", {}, "d: no picture in this folder"),
        ("d/*.png", {}, r"d/\*\.png: no file matches"),
        ("nowhere/*.png", {}, r"nowhere/\*\.png: no file matches"),
        ("-", {"stdin": io.StringIO(" \n\n")}, "no path came on standard input"),
        ("x.png", {"reference": "d"}, "d: no picture in this folder"),
        ("full.tar", {}, "full.tar: no picture in this folder"),
    ],
)
def test_nothing_there(source, options, message):
    touch("d/a.txt", "full.tar/a.txt")
    for through in (list, lambda items: items.check()):
        with pytest.raises(InputError, match=message):
            through(find_items([source], **options))


def test_first_items_come_before_a_later_source_fails():
    touch("d/a.txt")
    items = iter(find_items(["a.png", "b.png", "d"]))
    assert [item.picture for item in islice(items, 2)] == ["a.png", "b.png"]
    with pytest.raises(InputError, match="no picture in this folder"):
        next(items)
