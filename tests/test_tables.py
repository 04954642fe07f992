"""Tables of labels as spreadsheet programs and other systems write them."""

import unicodedata

import numpy as np
import pandas as pd
import pytest
from test_data import paint_all
from test_label_files import run

from aigciqa.errors import InputError
from aigciqa.training.data import load
from aigciqa.training.external import read_scores
from aigciqa.training.recipe import DataSource
from aigciqa.training.rows import open_source
from aigciqa.training.tables import read_table

PLAIN = "picture,reference,quality,prompt\na.png,src/0.png,3.5,a cat\nimg/b.png,,2,\n"
CAFE = "caf\u00e9.png"  # composed


@pytest.fixture
def pictures(tmp_path):
    paint_all(tmp_path, ["a.png", "img/b.png", "src/0.png"])
    return tmp_path


def rows_of(rated):
    return (
        [path.name for path in rated.pictures],
        [path and path.name for path in rated.references],
        list(rated.labels["quality"]),
        rated.prompts,
    )


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("t.csv", PLAIN, "utf-8-sig"),
        ("t.csv", PLAIN, "utf-16"),
        ("t.csv", PLAIN, "utf-16-le"),
        ("t.csv", PLAIN, "utf-16-be"),
        ("t.csv", PLAIN.replace("\n", "\r\n"), "utf-8"),
        ("t.csv", PLAIN.replace("\n", "\r\n"), "utf-16"),
        ("t.csv", PLAIN.replace(",", ";"), "utf-8"),
        ("t.csv", PLAIN.replace(",", ";").replace("3.5", "3,5"), "utf-8-sig"),
        ("t.csv", PLAIN.replace(",", "\t"), "utf-8"),
        ("t.tsv", PLAIN.replace(",", "\t").replace("3.5", "3,5"), "utf-16"),  # "Unicode text" of Excel
        ("t.csv", PLAIN.replace("picture,reference", " picture , reference\u00a0"), "utf-8"),
        ("t.csv", PLAIN.replace("\n", ",\n"), "utf-8"),
        ("t.csv", PLAIN.replace("\n", ",,,\n"), "utf-8"),
        ("t.csv", PLAIN.replace("cat\n", "cat,\n").replace("2,\n", "2,,\n"), "utf-8"),
        ("t.tsv", PLAIN.replace("\n", ",\n").replace(",", "\t"), "utf-8"),
        ("t.csv", PLAIN.replace("img/", "img\\").replace("src/", "src\\"), "utf-8"),
        ("t.csv", PLAIN.replace("2,\n", "2,\n,,,\n\n"), "utf-8"),
    ],
)
def test_the_same_rows_however_a_table_is_written(pictures, name, text, encoding):
    (pictures / name).write_bytes(text.encode(encoding))
    expected = (["a.png", "b.png"], ["0.png", None], [3.5, 2], ["a cat", ""])
    assert rows_of(load(pictures / name)) == expected
    assert rows_of(load(pictures)) == expected


@pytest.mark.parametrize("separator", [",", "\t"])
def test_text_without_a_header(pictures, separator):
    file = pictures / ("labels.csv" if separator == "," else "labels.txt")
    lines = ["a.png,3.5,2,1,a cat", "img/b.png,2,3,4,"]
    file.write_text("\n".join(lines).replace(",", separator))
    for rated in (load(file), load(pictures), load(file, header=False)):
        assert rated.name == (file.stem if rated.name != pictures.name else pictures.name)
        assert list(rated.labels["quality"]) == [3.5, 2]
        assert list(rated.labels["correspondence"]) == [1, 4]
        assert rated.prompts == ["a cat", ""]
    columns = {"picture": "0", "quality": "2"}
    assert list(load(file, columns=columns).labels["quality"]) == [2, 3]
    file.write_text("\n".join(["a.png,3.5,2", "img/b.png,2,3"]).replace(",", separator))
    with pytest.raises(InputError, match="has no header, and its 3 columns may be anything"):
        load(file)
    file.write_text("\n".join(["first,3.5", "a.png,2"]).replace(",", separator))  # the cells do not tell
    (pictures / "img/b.png").rename(pictures / "first")
    source = DataSource(str(file), columns={"picture": "0", "quality": "1"}, header=False)
    assert len(open_source(source)) == 2
    said = run("data", "check", "--no-header", "--column", "picture=0", "--column", "quality=1", file)
    assert "labels: 2 pictures, no references" in said


def test_a_cell_longer_than_the_csv_module_takes(pictures):
    prompt = "a very long prompt, " * 10_000
    (pictures / "t.csv").write_text(f'picture,prompt,quality\na.png,"{prompt}",3\nimg/b.png,b,4\n')
    rated = load(pictures)
    assert rated.prompts == [prompt.strip(), "b"]
    (pictures / "t.txt").write_text(f"a.png\t3\t{prompt}\nimg/b.png\t4\tb\n")
    assert load(pictures / "t.txt").prompts == [prompt.strip(), "b"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_composed_and_decomposed_names(tmp_path, on_disk, in_table):
    paint_all(tmp_path, [unicodedata.normalize(on_disk, f"\u00e4/{CAFE}"), "b.png"])
    table = unicodedata.normalize(in_table, f"picture,Qualit\u00e4t\n\u00e4/{CAFE},3\nb.png,4\n")
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    rated = load(tmp_path / "t.csv", columns={"quality": "Qualit\u00e4t"})
    assert all(path.is_file() for path in rated.pictures)


def test_spreadsheets(pictures):
    table = pd.DataFrame({" picture ": ["a.png", "img\\b.png"], "quality\u00a0": [3.5, 2], "note": ["", " "]})
    table.to_excel(pictures / "t.xlsx", index=False)
    assert list(load(pictures / "t.xlsx").labels["quality"]) == [3.5, 2]


def test_refusals_say_what_to_do(pictures):
    file = pictures / "t.csv"
    file.write_bytes("picture,quality,prompt\na.png,3,caf\u00e9\n".encode("cp1252"))
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16; save it as CSV UTF-8"):
        load(file)
    file.write_text("picture,quality, quality\na.png,3,4\n")
    with pytest.raises(InputError, match="several columns are named 'quality'"):
        load(file)
    file.write_text("picture,quality\na.png,3\nimg/b.png,3,5\n")  # no separator at the end, but another cell
    with pytest.raises(InputError, match="cannot be read as a table"):
        load(file)
    file.write_text("picture;quality\na.png;1,5\nimg/b.png;good\n")
    with pytest.raises(InputError, match="row 2, column 'quality': '1,5' is not a number"):
        load(file)


def test_scores_of_others_are_read_alike(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_bytes("\ufeffpicture ; score ;\r\na.png;3,5;\r\nb.png;4;\r\n".encode("utf-16-le"))
    assert read_scores(file) == {"a.png": 3.5, "b.png": 4}
    lines = tmp_path / "scores.jsonl"
    lines.write_text('\ufeff{"picture": "a.png", "score": 3.5}\n', encoding="utf-8")
    assert read_scores(lines) == {"a.png": 3.5}


def test_columns_in_the_middle_stay_where_they_are(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("a.png\t\t3\t\t\nb.png\t\t4\t\t\n")
    table = read_table(file, header=False)
    assert list(table.columns) == ["0", "1", "2"]
    np.testing.assert_array_equal(table["2"], ["3", "4"])


def test_images_in_a_parquet_file_are_no_cells(tmp_path):
    image = b"\x89PNG\0" * 30_000
    columns = {
        "image": [{"bytes": image, "path": None}] * 2,
        "thumb": [image] * 2,
        "name": ["a.png", "b.png"],
    }
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").to_dict("list") == {"name": ["a.png", "b.png"]}
    pd.DataFrame({"image": [image]}).to_parquet(tmp_path / "i.parquet")
    with pytest.raises(InputError, match=r"i\.parquet: holds images and no label") as caught:
        read_table(tmp_path / "i.parquet")
    assert len(str(caught.value)) < 500
