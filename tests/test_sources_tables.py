"""Tables and lists of images to score, as spreadsheets, other systems and other tools write them."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import touch
from PIL import Image

import aigciqa
from aigciqa.errors import InputError
from aigciqa.limits import LINE
from aigciqa.runs import column_groups
from aigciqa.sources import Item, as_items, find_items


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(*sources, **options):
    items = find_items(list(sources), **options)
    found = [(item.picture, item.reference) for item in items]
    assert items.check() == len(found)
    return found


# -- text


@pytest.mark.parametrize("name, sign", [("t.csv", ","), ("t.tsv", "\t")])
def test_cells_of_any_length_within_the_limit_of_a_row(name, sign):
    before = csv.field_size_limit(10)  # which another library may have set
    try:
        Path(name).write_text(f'picture{sign}flow\na.png{sign}"{"x" * 200_000}"\nb.png{sign}SD\n')
        assert pairs(name) == [("a.png", None), ("b.png", None)]
        csv.field_size_limit(10)
        groups = column_groups([name], "picture", "flow")
        assert {key: len(group) for key, group in groups.items()} == {"a.png": 200_000, "b.png": 2}
    finally:
        csv.field_size_limit(before)


def test_a_row_has_its_limit_over_all_its_lines():
    Path("t.csv").write_text('picture,flow\na.png,"' + ("x" * 1000 + "\n") * (LINE // 1000) + '"\n')
    for read in (pairs, lambda name: column_groups([name], "picture", "flow")):
        with pytest.raises(InputError, match=r"t\.csv: a row of the table: needs 16 MiB"):
            read("t.csv")


@pytest.mark.parametrize(
    "text",
    [
        " picture ,ref \na.png,r.png\nb.png,\n",
        "picture,ref,\na.png,r.png,\nb.png,,\n",
        "picture,ref,,\na.png,r.png\nb.png,\n",
        "picture,ref\na.png,r.png,,\nb.png,,\n,\n,,,\n",
        "picture;ref\na.png;r.png\nb.png;\n",
        '"picture";"what, exactly";"ref";\n"a.png";"x, y";r.png;\n"b.png";;;\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_tables_as_spreadsheets_save_them(text, encoding):
    Path("t.csv").write_text(text, encoding=encoding)
    assert pairs("t.csv", reference_column="ref") == [("a.png", "r.png"), ("b.png", None)]
    assert column_groups(["t.csv"], "picture", "ref") == {"a.png": "r.png", "b.png": ""}


def test_names_beyond_ascii_in_utf16():
    Path("t.tsv").write_bytes(b"\xfe\xff" + "picture\tn\n猫 1.png\t1\n".encode("utf-16-be"))
    assert pairs("t.tsv") == [("猫 1.png", None)]


def test_cells_that_no_column_is_for():
    Path("t.csv").write_text("picture,ref,\na.png,r.png,,more\n")
    with pytest.raises(InputError, match=r"t\.csv, line 2: 4 cells where the first line has 3"):
        pairs("t.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_on_standard_input_as_other_systems_write_them(encoding):
    wanted = ["猫 1.png", *(f"{'folder' * 20}/{i}.png" for i in range(2000))]  # more than one block

    def stdin(text=""):
        return io.TextIOWrapper(io.BytesIO((text or "\r\n".join(wanted)).encode(encoding)), encoding="utf-8")

    assert pairs("-", stdin=stdin()) == [(name, None) for name in wanted]
    assert pairs("-", stdin=io.StringIO("\ufeffa.png\n")) == [("a.png", None)]
    with pytest.raises(InputError, match="-: no path came on standard input"):
        pairs("-", stdin=stdin("\n"))


def test_a_list_that_only_begins_as_utf16():
    with pytest.raises(InputError, match="-: begins as UTF-16 and is not; write the list in UTF-8"):
        pairs("-", stdin=io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00\xdc\x00\xdc")))


# -- images in Parquet files


def encoded(shade, kind="png"):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 90, 120)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "gif", "tiff"])
@pytest.mark.parametrize("size", [1, 900])
def test_columns_of_bytes(kind, size):
    first, second = encoded(10, kind) + bytes(size * 100), encoded(20, kind)
    pq.write_table(pa.table({"jpg": [None, first, second], "ref": [None, second, None]}), "t.parquet")
    items = find_items(["t.parquet"], picture_column="jpg", reference_column="ref")
    assert items.check() == 3
    assert items.referenced == 1
    empty, *rest = items
    assert empty.error == "t.parquet#1: the column 'jpg' has no image in this row"
    assert rest == [
        Item("t.parquet#2", "t.parquet#2", first, second), Item("t.parquet#3", None, second, None)
    ]  # fmt: skip


def test_images_as_hugging_face_stores_them():
    rows = [
        {"bytes": b"one", "path": "x/1.png"},
        {"bytes": b"two", "path": None},
        {"bytes": None, "path": "3.png"},
        {"bytes": None, "path": None},
        None,
    ]
    pq.write_table(pa.table({"picture": rows, "n": range(5)}), "t.parquet", row_group_size=2)
    *found, fourth, fifth = find_items(["t.parquet"])
    assert found == [
        Item("t.parquet/x/1.png", None, b"one"), Item("t.parquet#2", None, b"two"), Item("3.png")
    ]  # fmt: skip
    assert [fourth.error, fifth.error] == [
        f"t.parquet#{n}: the column 'picture' has no image in this row" for n in (4, 5)
    ]
    assert [item.data for item in find_items(["t.parquet"], shard=(2, 5))] == [b"two"]


def test_images_in_parquet_files_score_as_their_files_do():
    for shade in (10, 200):
        Path(f"{shade}.png").write_bytes(encoded(shade))
    pq.write_table(pa.table({"picture": [encoded(10), b"no image", encoded(200)]}), "t.parquet")
    metric = aigciqa.create_metric("nr-aigciqa", device="cpu")
    first, broken, last = metric.score_files("t.parquet")
    assert [first.scores, last.scores] == [row.scores for row in metric.score_files(["10.png", "200.png"])]
    assert broken.error and broken.error.startswith("t.parquet#2: not a picture")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_columns_of_bytes_of_each_type(kind):
    images = [encoded(10), encoded(20), encoded(10)]
    pq.write_table(pa.table({"picture": pa.array(images, pa.binary()).cast(kind)}), "t.parquet")
    assert [(item.picture, item.data) for item in find_items(["t.parquet"])] == [
        (f"t.parquet#{row}", image) for row, image in enumerate(images, 1)
    ]


def test_groups_of_images_that_a_table_holds():
    rows = [{"bytes": encoded(10), "path": "a.png"}, {"bytes": encoded(20), "path": None}]
    pq.write_table(pa.table({"image": rows, "g": ["SD", "MJ"]}), "t.parquet")
    names = [item.picture for item in find_items(["t.parquet"], picture_column="image")]
    assert column_groups(["t.parquet"], "image", "g") == dict(zip(names, ["SD", "MJ"], strict=True))


def test_columns_of_other_types_are_refused_in_one_line():
    pq.write_table(pa.table({"picture": [[b"x"]]}), "t.parquet")
    with pytest.raises(InputError, match=r"^t\.parquet: column 'picture' holds list.*score_batch$"):
        pairs("t.parquet")


# -- rows of a data frame


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", " "])
@pytest.mark.parametrize("kind", [list, tuple, pd.Series])
def test_missing_paths(missing, kind):
    lost = "row 1 (counted from 0) has no path of an image; fill it in, or leave the row out"
    pictures, references = kind(["a.png", missing, "c.png"]), kind([missing, "r.png", "s.png"])
    assert list(as_items(pictures, references)) == [
        Item("a.png"), Item("row 1", "r.png", error=lost), Item("c.png", "s.png")
    ]  # fmt: skip
    assert list(as_items(pictures)) == [Item("a.png"), Item("row 1", error=lost), Item("c.png")]


@pytest.mark.parametrize("kind", [np.array, pd.Categorical, pa.array, lambda rows: pa.chunked_array([rows])])
def test_columns_of_every_library(kind):
    rows = ["a.png", None, "c.png"]
    assert list(as_items(kind(rows), kind(rows[::-1]))) == list(as_items(rows, rows[::-1]))
    assert {type(item.picture) for item in as_items(kind(["a.png"]))} == {str}


@pytest.mark.parametrize("kind", [list, pd.Series])
def test_what_is_no_path_is_refused(kind):
    with pytest.raises(InputError, match=r"row 0 .* is no path of an image, but int"):
        list(as_items(kind([3])))
    with pytest.raises(InputError, match=r"row 0 .* is no path of an image, but int"):
        list(as_items(["a.png"], kind([3])))


def test_cells_of_blanks_are_empty():
    Path("t.csv").write_text("picture,reference\na.png,  \n")
    Path("lost.csv").write_text("picture,n\n  ,1\n")
    assert pairs("t.csv") == [("a.png", None)]
    with pytest.raises(InputError, match="line 2: the picture's name is empty"):
        pairs("lost.csv")


def test_rows_without_a_path_are_rows_with_an_error():
    for shade in (10, 200):
        Path(f"{shade}.png").write_bytes(encoded(shade))
    table = pd.DataFrame({"image": ["10.png", None, "200.png"], "reference": [None] * 3}, dtype="string")
    metric = aigciqa.create_metric("nr-aigciqa", device="cpu")
    first, lost, last = metric.score_files(table.image, table.reference)
    assert [first, last] == list(metric.score_files(["10.png", "200.png"]))
    assert lost.error and lost.error.startswith("row 1 (counted from 0) has no path")
    with pytest.raises(InputError, match="without rows that have no path"):
        metric.score_files([None, "10.png"], "200.png")


# -- names as the disk spells them


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "list", "given", "named"])
def test_names_that_other_systems_spell_differently(on_disk, kind):
    folder, name = "Émile", "café à la carte.png"
    path = str(Path(unicodedata.normalize("NFC", folder), unicodedata.normalize(on_disk, name)))
    touch(path, "a.png")
    other = "NFD" if on_disk == "NFC" else "NFC"
    written = [
        " a.png ",
        "\\".join(unicodedata.normalize(other, part) for part in (folder, name)),
        "no\\b.png",
    ]
    wanted = ["a.png", path, "no\\b.png"]
    if kind == "csv":
        Path("t.csv").write_text("picture,n\n" + "".join(f"{name},1\n" for name in written))
        found = find_items(["t.csv"])
        assert list(column_groups(["t.csv"], "picture", "n")) == wanted
    elif kind == "parquet":
        pq.write_table(pa.table({"picture": written}), "t.parquet")
        found = find_items(["t.parquet"])
    elif kind == "list":
        found = find_items(["-"], stdin=io.StringIO("\n".join(written)))
    elif kind == "given":
        found = as_items(written, written[::-1])
        assert [item.reference for item in as_items(written, written[::-1])] == wanted[::-1]
    else:
        found = find_items(written)
    assert [item.picture for item in found] == wanted


def test_a_file_of_the_very_name_is_taken():
    touch("a\\b.png", "a/b.png", " c.png", "c.png", "café.png", unicodedata.normalize("NFD", "café.png"))
    written = ["a\\b.png", " c.png", "café.png", unicodedata.normalize("NFD", "café.png")]
    assert [item.picture for item in find_items(written)] == written
    assert [item.picture for item in find_items(["-"], stdin=io.StringIO("\n".join(written)))] == written


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_references_whose_names_are_spelled_differently(forms):
    picture, reference = (
        unicodedata.normalize(form, name) for form, name in zip(forms, ("g/é.png", "r/é.jpg"), strict=True)
    )
    touch(picture, reference)
    assert pairs("g", reference="r") == [(picture, reference)]
    assert pairs("g", reference="r", reference_pattern="{stem}.jpg") == [(picture, reference)]


# -- lists and JSON lines in files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_files(encoding):
    touch("m/a.png", "m/猫.png", "d/here.png")
    Path("m/list.txt").write_text("a.png\r\n猫.png\n\nd/here.png\nlost.png", encoding=encoding)
    wanted = ["m/a.png", "m/猫.png", "d/here.png", "m/lost.png"]
    assert pairs("m/list.txt", "x.png") == [(name, None) for name in [*wanted, "x.png"]]


def test_texts_that_are_no_lists():
    Path("image.txt").write_bytes(encoded(10))
    touch("empty.txt")
    Path("blank.txt").write_text("\n \n")
    Path("prompt.txt").write_text("a cat")
    assert pairs("image.txt", "empty.txt") == [("image.txt", None), ("empty.txt", None)]
    assert pairs("p*.txt") == [("prompt.txt", None)]
    with pytest.raises(InputError, match=r"^blank\.txt: no path in this list"):
        pairs("blank.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines(encoding):
    rows = [{"image": "a.png", "ref": "r.png", "g": "SD"}, {"image": "caf\u00e9.png", "ref": None, "g": "MJ"}]
    text = "\n\n".join(json.dumps(row) for row in [*rows, {"image": "c.png", "g": "SD"}])
    Path("m").mkdir()
    Path("m/t.jsonl").write_text(text, encoding=encoding)
    assert pairs("m/t.jsonl", picture_column="image", reference_column="ref") == [
        ("m/a.png", "m/r.png"), ("m/café.png", None), ("m/c.png", None)
    ]  # fmt: skip
    assert list(column_groups(["m/t.jsonl"], "image", "g").values()) == ["SD", "MJ", "SD"]
    assert list(column_groups(["m/t.jsonl"], "image", "ref").values()) == ["r.png", "", ""]
    with pytest.raises(InputError, match="no column 'gs', did you mean 'g'"):
        column_groups(["m/t.jsonl"], "image", "gs")


def test_json_lines_that_are_paths_alone():
    Path("t.jsonl").write_text('"a.png"\n\n{"picture": "b.png", "reference": "r.png"}\n"c.png"')
    assert pairs("t.jsonl") == [("a.png", None), ("b.png", "r.png"), ("c.png", None)]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"image": "a.png"}', "no column 'picture'; its columns are 'image'"),
        ('{"picture": "a.png"}\n[1]', "line 2: is no JSON object"),
        ("[" * 100_000, "line 1: is no JSON object"),
        ('{"picture": 3}', "line 1: 'picture' is no text, but int"),
        ('{"picture": "a.png"}\n{}', "line 2: the picture's name is empty"),
        ("", "no row in this table"),
    ],
)
def test_wrong_json_lines(text, message):
    Path("t.jsonl").write_text(text)
    with pytest.raises(InputError, match=rf"^t\.jsonl.*{message}"):
        list(find_items(["t.jsonl"]))


@pytest.mark.parametrize("content", [b"\x01" * 10_000, b"a," * 10_000])
def test_a_file_that_is_no_table_is_not_printed(content):
    Path("t.csv").write_bytes(content)
    for read in (pairs, lambda name: column_groups([name], "picture", "g")):
        with pytest.raises(InputError, match="no column 'picture'") as caught:
            read("t.csv")
        assert len(str(caught.value)) < 500
