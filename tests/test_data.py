import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.training.data import check, identical, load


def paint(path, seed=0):
    """A tiny picture, other seeds other pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def paint_all(folder, names, first=0):
    for seed, name in enumerate(names):
        paint(folder / name, first + seed)


I2IQA = [f"{generator}_{n:03}_{p}.jpg" for generator in ("SD", "MJ") for n in (0, 12) for p in ("00", "11")]


@pytest.fixture
def i2iqa(tmp_path):
    """PKU-I2IQA in small: two generators, image prompts 0 and 12; rows are not in alphabetical order."""
    paint_all(tmp_path / "Generated_image/All", I2IQA)
    paint_all(tmp_path / "Image_prompt", ["0.jpg", "12.jpg"], 100)
    lines = [
        f'Generated_image/All/{name}\t{i / 2}\t{i / 4}\t{5 - i / 2}\t"{i}" corgi, "happy'
        for i, name in enumerate(I2IQA)
    ]
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "README.txt").write_text("Not a table.\tReally.\n")
    return tmp_path


def test_i2iqa_label_file(i2iqa):
    rated = load(i2iqa)
    assert (rated.name, len(rated), rated.score_range, rated.splits) == ("pku-i2iqa", 8, (0, 5), None)
    assert [path.name for path in rated.pictures] == I2IQA
    assert all(path.is_file() for path in [*rated.pictures, *rated.references])
    assert [path.name for path in rated.references] == ["0.jpg", "0.jpg", "12.jpg", "12.jpg"] * 2
    assert rated.groups == ["0", "0", "12", "12"] * 2
    assert rated.generators == ["SD"] * 4 + ["MJ"] * 4
    assert rated.prompts[3] == '"3" corgi, "happy'
    assert list(rated.labels) == ["quality", "authenticity", "correspondence", "overall"]
    np.testing.assert_array_equal(rated.labels["quality"], np.arange(8) / 2)
    np.testing.assert_array_equal(rated.labels["correspondence"], 5 - np.arange(8) / 2)


def test_i2iqa_label_file_elsewhere(i2iqa, tmp_path_factory):
    file = tmp_path_factory.mktemp("labels") / "mos.tsv"
    (i2iqa / "labels.txt").rename(file)
    rated = load(file, images=i2iqa)
    assert rated.name == "pku-i2iqa"
    assert check(rated).problems == []
    with pytest.raises(InputError, match=r"none of its pictures is there.*images="):
        load(file)


@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_i2iqa_table(i2iqa, ending):
    (i2iqa / "labels.txt").unlink()
    (i2iqa / "Generated_image/All").rename(i2iqa / "Generated_image/SD")  # without the folder of both
    for name in I2IQA[4:]:
        (i2iqa / "Generated_image/MJ").mkdir(exist_ok=True)
        (i2iqa / "Generated_image/SD" / name).rename(i2iqa / "Generated_image/MJ" / name)
    scores = np.linspace(0, 4.2, 8)
    table = pd.DataFrame(
        {"Name": I2IQA, "MOS_q": scores, "MOS_a": scores / 2, "MOS_c": 1, "Final": 5 - scores}
    )
    if ending == "xlsx":
        table.to_excel(i2iqa / "mos.xlsx", index=False)
    else:
        table.to_csv(i2iqa / "mos.csv", index=False)
    rated = load(i2iqa)
    assert list(rated.labels) == ["quality", "authenticity", "correspondence", "overall"]
    np.testing.assert_allclose(rated.labels["quality"], scores, atol=1e-15)
    np.testing.assert_allclose(rated.labels["overall"], 5 - scores, atol=1e-15)
    assert [path.parent.name for path in rated.pictures] == ["SD"] * 4 + ["MJ"] * 4
    assert check(rated).problems == []
    assert list(load(i2iqa, dimensions=["overall", "quality"]).labels) == ["overall", "quality"]


def test_i2iqa_refuses(i2iqa):
    file = i2iqa / "labels.txt"
    text = file.read_text()
    file.write_text(text + text.splitlines()[2] + "\n")
    with pytest.raises(InputError, match=r"labels\.txt: rows 3 and 9 are both for .*SD_012_00\.jpg"):
        load(i2iqa)
    file.write_text(text.replace("\t1.5\t", "\tgood\t", 1))
    with pytest.raises(InputError, match=r"labels\.txt: row 4, column 'quality': 'good' is not a number"):
        load(i2iqa)
    file.write_text(text.replace("MJ_000_11", "MJ-11"))
    with pytest.raises(InputError, match=r"row 6: .*MJ-11\.jpg' is not named like SD_000_00\.jpg"):
        load(i2iqa)
    (i2iqa / "more.tsv").write_text(text)
    file.write_text(text)
    with pytest.raises(InputError, match=r"several tables of labels: labels\.txt, more\.tsv"):
        load(i2iqa)
    for path in (file, i2iqa / "more.tsv"):
        path.unlink()
    with pytest.raises(InputError, match="no table of pku-i2iqa labels"):
        load(i2iqa)


@pytest.fixture
def aigiqa_4k(tmp_path):
    names = ["SD_000_00.jpg", "MJ_000_01.jpg", "SD_001_00.jpg", "DALLE_A_1.jpg", "SD_A_1.jpg", "SD_A_2.jpg"]
    paint_all(tmp_path / "All", names)
    paint_all(tmp_path / "I2I/Image_prompt", ["0.jpg", "1.jpg"], 100)
    table = pd.DataFrame({
        "Generated_image": names,
        "Image_prompt": ["0.jpg", "0.jpg", "1.jpg", None, None, None],
        "MOS_q": np.arange(6) / 2, "MOS_a": 1.25, "MOS_c": 4,
    })  # fmt: skip
    return tmp_path, table


def test_aigiqa_4k(aigiqa_4k):
    folder, table = aigiqa_4k
    table.to_excel(folder / "annotation.xlsx", index=False)
    rated = load(folder)
    assert (rated.name, rated.score_range) == ("pku-aigiqa-4k", (0, 5))
    assert rated.groups == ["0.jpg", "0.jpg", "1.jpg", "DALLE_A", "SD_A", "SD_A"]
    assert rated.references[3:] == [None] * 3
    assert [path.name for path in rated.references[:3]] == ["0.jpg", "0.jpg", "1.jpg"]
    assert rated.generators == ["SD", "MJ", "SD", "DALLE", "SD", "SD"]
    assert check(rated).problems == []
    np.testing.assert_array_equal(rated.labels["quality"], np.arange(6) / 2)
    part = rated.subset([4, 0])
    assert (part.groups, part.references[0], list(part.labels["quality"])) == (
        ["SD_A", "0.jpg"],
        None,
        [2, 0],
    )


def test_aigiqa_4k_rows_of_one_text_prompt_are_one_group(aigiqa_4k):
    folder, table = aigiqa_4k
    table["Text_prompt"] = ["a dog", "a dog, happy", "a cat", "a dog, happy", "a cat", "an owl"]
    table.to_excel(folder / "annotation.xlsx", index=False)
    assert load(folder).groups == ["0.jpg", "0.jpg", "1.jpg", "0.jpg", "1.jpg", "an owl"]


def test_agiqa_1k(tmp_path):
    paint_all(tmp_path / "file", ["a.png", "b.png"])
    pd.DataFrame({"Image": ["b.png", "a.png"], "MOS": [3.5, 2.0]}).to_excel(
        tmp_path / "mos.xlsx", index=False
    )
    rated = load(tmp_path)
    assert (rated.name, rated.score_range, list(rated.labels["quality"])) == ("agiqa-1k", (0, 5), [3.5, 2])
    assert [path.name for path in rated.pictures] == ["b.png", "a.png"]
    assert len(set(rated.groups)) == 2
    assert check(rated).problems == []


def test_agiqa_3k(tmp_path):
    names = ["AttnGAN_normal_000.jpg", "sd1.5_lowstep_001.jpg", "xl2.2_normal_000.jpg"]
    paint_all(tmp_path / "images", names)
    table = pd.DataFrame({
        "name": names, "prompt": ["a man", "a cat, red", "a man"], "adj1": "", "adj2": "", "style": "",
        "mos_quality": [0.3, 3, 4], "std_quality": 9, "mos_align": [1, 2, 3], "std_align": 9,
    })  # fmt: skip
    table.to_csv(tmp_path / "data.csv", index=False)
    for rated in (load(tmp_path), load(tmp_path / "data.csv")):
        assert (rated.name, list(rated.labels)) == ("agiqa-3k", ["quality", "correspondence"])
        assert list(rated.labels["correspondence"]) == [1, 2, 3]
        assert rated.groups == rated.prompts == ["a man", "a cat, red", "a man"]
        assert rated.generators == ["AttnGAN", "sd1.5", "xl2.2"]
        assert check(rated).problems == []
    paint(tmp_path / "more" / names[0])
    with pytest.raises(InputError, match=r"AttnGAN_normal_000\.jpg lies in .*images and .*more; pass one"):
        load(tmp_path)
    assert load(tmp_path, images=tmp_path / "images").pictures[0].parent.name == "images"


@pytest.mark.parametrize("kind", ["mat", "csv", "xlsx"])
def test_aigciqa2023(tmp_path, kind):
    n, labels = 48, tmp_path / "DATA/MOS"
    paint_all(tmp_path / "Image/allimg", [f"{i}.png" for i in range(n)])
    labels.mkdir(parents=True)
    for number in (1, 2, 3):
        values = np.arange(n, dtype=float)[:, None] + number
        if kind == "mat":
            scipy.io.savemat(labels / f"mosz{number}.mat", {"MOSz": values})
        elif kind == "csv":  # with a title
            pd.DataFrame({"MOSz": values[:, 0]}).to_csv(labels / f"mosz{number}.csv", index=False)
        else:
            pd.DataFrame(values).to_excel(labels / f"mosz{number}.xlsx", index=False, header=False)
    rated = load(tmp_path)
    assert (rated.name, rated.score_range) == ("aigciqa2023", (0, 100))
    np.testing.assert_array_equal(rated.labels["quality"], np.arange(n) + 1)
    np.testing.assert_array_equal(rated.labels["correspondence"], np.arange(n) + 3)
    assert rated.groups == (["0"] * 4 + ["1"] * 4) * 6
    assert rated.generators[7:9] == ["Controlnet", "DALLE"]
    assert [path.name for path in rated.pictures[9:11]] == ["9.png", "10.png"]
    assert check(rated).problems == []
    scipy.io.savemat(tmp_path / "mosz2.mat", {"MOSz": np.zeros(3)})
    with pytest.raises(InputError, match="several tables of labels"):
        load(tmp_path)


def test_aigciqa2023_refuses_a_part(tmp_path):
    scipy.io.savemat(tmp_path / "mosz1.mat", {"MOSz": np.zeros(28)})
    with pytest.raises(InputError, match=r"'quality': 28.*6 generators.*manifest"):
        load(tmp_path)
    scipy.io.savemat(tmp_path / "mosz1.mat", {"other": np.zeros(24)})
    with pytest.raises(InputError, match=r"mosz1\.mat: no variable MOSz; it has other"):
        load(tmp_path)


def test_aigiqa_20k(tmp_path):
    names = ["DALLE2_0000.png", "SD_v1.5_0001.png"]
    paint(tmp_path / "train" / names[0], 1)
    paint(tmp_path / "test" / names[1], 2)
    table = pd.DataFrame({"name": names, "prompt": ["a, b", "c"], "mos": [1, 4]})
    table.to_csv(tmp_path / "info.csv", index=False)
    rated = load(tmp_path)
    assert (rated.name, rated.generators, rated.groups) == (
        "aigiqa-20k",
        ["DALLE2", "SD_v1.5"],
        ["a, b", "c"],
    )
    assert check(rated).problems == []
    table["mos"] = [0.1, 0.9]  # looks like it but is not
    table.to_csv(tmp_path / "info.csv", index=False)
    with pytest.raises(InputError, match=r"looks like aigiqa-20k, but its labels are 0.1 to 0.9.*format="):
        load(tmp_path)
    assert load(tmp_path, "aigiqa-20k").score_range == (0, 5)


@pytest.fixture
def pictures(tmp_path):
    paint_all(tmp_path, ["a.png", "b.png", "c.png", "src/0.png"])
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx", "parquet"])
def test_manifest_with_a_mapping(pictures, kind):
    frame = pd.DataFrame({
        "file": ["c.png", "a.png", "b.png"], "src": ["src/0.png", "src/0.png", None], "mos": [4, None, 1.5],
        "appeal_mos": [40.0, 30, 20], "who": ["x", "y", "x"], "id": [7, 7, 8], "fold": ["Train", "valid", "test"],
    })  # fmt: skip
    file = pictures / "lists" / f"ratings.{kind}"
    file.parent.mkdir()
    write = {"csv": frame.to_csv, "tsv": frame.to_csv, "xlsx": frame.to_excel, "parquet": frame.to_parquet}[
        kind
    ]
    write(file, index=False, **({"sep": "\t"} if kind == "tsv" else {}))
    columns = {
        "picture": "file", "reference": "src", "quality": "mos", "generator": "who", "group": "id",
        "split": "fold", "appeal": "appeal_mos",
    }  # fmt: skip
    rated = load(file, images=pictures, columns=columns)
    assert (rated.name, rated.score_range) == ("ratings", (1.5, 40))
    np.testing.assert_array_equal(rated.labels["quality"], [4, np.nan, 1.5])
    np.testing.assert_array_equal(rated.labels["appeal"], [40, 30, 20])
    assert [path.name for path in rated.pictures] == ["c.png", "a.png", "b.png"]
    assert rated.references == [pictures / "src/0.png", pictures / "src/0.png", None]
    assert rated.generators == ["x", "y", "x"]
    assert rated.groups == ["7", "7", "8"]
    assert rated.splits == ["train", "val", "test"]
    only = load(file, images=pictures, columns=columns, dimensions=["appeal"], score_range=(0, 100))
    assert (list(only.labels), only.score_range) == (["appeal"], (0, 100))


def test_manifest_finds_obvious_columns_and_groups(pictures):
    (pictures / "ratings.csv").write_text(
        "\ufeffImage,reference,prompt,MOS\na.png,src/0.png,a cat,1\nb.png,,a cat,2\nc.png,,,3\n"
    )
    rated = load(pictures)  # the one table in the folder
    assert (rated.name, rated.groups) == (pictures.name, ["src/0.png", "a cat", "c.png"])
    assert rated.prompts == ["a cat", "a cat", ""]
    assert list(rated.labels["quality"]) == [1, 2, 3]
    assert rated.splits is None


def test_manifest_column_ladder(pictures):
    text = (
        "picture,reference,quality,{}\na.png,src/0.png,3,\nb.png,src/0.png,2,blur\nc.png,src/0.png,1,blur\n"
    )
    (pictures / "ratings.csv").write_text(text.format("Ladder"))
    rated = load(pictures)
    assert rated.ladders == ["", "blur", "blur"]
    assert list(rated.labels) == ["quality"]
    assert rated.subset([2, 0]).ladders == ["blur", ""]
    (pictures / "ratings.csv").write_text(text.format("steps"))
    assert load(pictures).ladders == ["", "", ""]
    assert load(pictures, columns={"ladder": "steps"}).ladders == ["", "blur", "blur"]
    assert load(pictures).subset([1]).ladders == [""]


def test_manifest_with_one_picture_beside_several_references(pictures):
    file = pictures / "ratings.csv"
    head = "picture,reference,group,quality,correspondence\n"
    rows = ["a.png,src/0.png,x,3,5", "a.png,c.png,x,3,1", "b.png,src/0.png,x,2,4", "a.png,,x,3,"]
    file.write_text(head + "\n".join(rows))
    rated = load(file)
    assert [path.name for path in rated.pictures] == ["a.png", "a.png", "b.png", "a.png"]
    assert [path and path.name for path in rated.references] == ["0.png", "c.png", "0.png", None]
    np.testing.assert_array_equal(rated.labels["correspondence"], [5, 1, 4, np.nan])
    assert check(rated).problems == []
    for again in ("a.png,c.png,x,3,1", "./a.png,src/../c.png,x,4,2", "a.png,,x,3,"):
        file.write_text(head + "\n".join([*rows, again]))
        with pytest.raises(InputError, match=r"rows \d and 6 are both for .*a\.png"):
            load(file)


def test_manifest_row_numbers_are_those_of_the_file(pictures):
    file = pictures / "ratings.csv"
    file.write_text("picture,mos\na.png,1\nb.png,2.5.1\n")
    with pytest.raises(InputError, match=r"ratings\.csv: row 3, column 'mos': '2\.5\.1' is not a number"):
        load(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("picture,mos\n", "has no rows"),
        ("picture,mos\na.png,inf\n", "row 2, column 'mos': 'inf' is not a number"),
        ("picture,mos\na.png,3\nb.png,3,5\n", "cannot be read as a table"),
        ("picture,mos\na.png,3,5\nb.png,3,6\n", "cannot be read as a table"),
        ("picture,mos\n,3\n", "row 2: the picture's name is empty"),
        ("picture,mos\na.png,3\nsrc/../a.png,4\n", "rows 2 and 3 are both for .*a.png"),
        ("picture,mos\na.png,\nb.png,\n", "not one label in quality"),
        ("picture,mos\na.png,3\nb.png,3\n", "pass score_range=\\(LOW, HIGH\\)"),
        ("picture,mos\nz.png,3\n/y.png,4\n", "none of its pictures is there, such as .*z.png"),
        ("picture,mos,split\na.png,3,train\nb.png,4,7\n", "row 3: split '7' is not train, val or test"),
        ("thing,mos\na.png,3\n", "no column of pictures.*'thing', 'mos'"),
        ("picture,stars\na.png,3\n", "no column of labels.*columns={'quality': ...}"),
    ],
)
def test_manifest_refuses(pictures, text, said):
    file = pictures / "ratings.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load(file)
    assert "ratings.csv" in str(caught.value)


def test_wrong_arguments(pictures):
    file = pictures / "ratings.csv"
    file.write_text("picture,mos\na.png,3\nb.png,4\n")
    with pytest.raises(InputError, match=r"no column 'score'; it has \['picture', 'mos'\]"):
        load(file, columns={"quality": "score"})
    with pytest.raises(InputError, match="'refrence' unknown; did you mean 'reference'"):
        load(file, columns={"refrence": "mos"})
    with pytest.raises(InputError, match="no column of labels"):
        load(file, dimensions=["authenticity"])
    with pytest.raises(InputError, match=r"no format 'coco'; the formats are pku-i2iqa, .*manifest"):
        load(file, "coco")
    with pytest.raises(InputError, match="columns is for manifests"):
        load(file, "agiqa-1k", columns={"quality": "mos"})
    with pytest.raises(InputError, match="no column Image, MOS; tables of agiqa-1k have them"):
        load(file, "agiqa-1k")
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        load(pictures / "nowhere")


def test_detection_lists_the_formats(pictures):
    with pytest.raises(InputError, match=r"of no format that can be told; .*pku-i2iqa.*aigiqa-20k, manifest"):
        load(pictures)
    for name in ("one.csv", "two.csv"):
        (pictures / name).write_text("picture,mos\na.png,3\nb.png,4\n")
    with pytest.raises(InputError, match="of no format that can be told"):
        load(pictures)


def test_check_reports_everything(pictures):
    (pictures / "copy.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "cut.png").write_bytes((pictures / "b.png").read_bytes()[:60])
    (pictures / "ratings.csv").write_text(
        "picture,reference,generator,split,mos\na.png,src/0.png,x,train,1\ncopy.png,src/0.png,x,test,2\n"
        "cut.png,src/gone.png,y,test,7\nlost.png,,y,val,\n"
    )
    report = check(load(pictures, score_range=(0, 5)))
    text = str(report)
    for line in (
        f"{pictures.name}: 4 pictures, 3 with one of 2 references",
        "generators: x (2), y (2)",
        "groups: 3, of 1 to 2 pictures",
        "its own split: train (1), test (2), val (1)",
        "quality: 3 labels from 1 to 7, mean 3.333",
        "4 problems:",
    ):
        assert line in text.splitlines()
    outside, missing, broken, same = report.problems
    assert outside.startswith("quality: 1 label outside 0 to 5, such as 7 of ")
    assert outside.endswith("cut.png")
    assert missing == f"2 files are missing: {pictures / 'lost.png'}, {pictures / 'src/gone.png'}"
    assert "cut.png: broken picture" in broken
    assert same == f"identical files: {pictures / 'a.png'}, {pictures / 'copy.png'}"


def test_identical_needs_the_same_content(tmp_path):
    for name, content in {"a": b"12", "b": b"21", "c": b"12", "d": b"123"}.items():
        (tmp_path / name).write_bytes(content)
    assert identical([tmp_path / name for name in "abcda"]) == [[tmp_path / "a", tmp_path / "c"]]
    with pytest.raises(InputError, match="gone: cannot be read"):
        identical([tmp_path / "gone"])
