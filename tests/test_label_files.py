"""Label files as people have them: the layouts of the authors and of other public projects, in small."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.io
from click.testing import CliRunner
from test_data import paint_all

from aigciqa.errors import InputError
from aigciqa.training.cli import main
from aigciqa.training.data import check, load
from aigciqa.training.recipe import DataSource, Recipe
from aigciqa.training.rows import divide, open_data
from aigciqa.training.splits import own_split

PAPER = ("quality", "authenticity", "correspondence", "overall")


def scores(n, seed=1, low=0.5, high=4.5):
    """(n, 3) labels."""
    return np.random.default_rng(seed).uniform(low, high, (n, 3)).round(4)


def i2iqa_names(prompts=4):
    return [
        f"{g}_{n:03}_{p}.jpg" for g in ("SD", "MJ") for n in range(prompts) for p in ("00", "01", "10", "11")
    ]


def pku_frame(names, references, labels):
    """The columns of I2IQA_annotation.xlsx and of PKU-AIGIQA-4K's annotation.xlsx."""
    table = pd.DataFrame({"Image_prompt": references, "Text_prompt": "", "Generated_image": names})
    table[["MOS_q", "MOS_a", "MOS_c"]] = labels
    table["Text_prompt"] = [f"dog {name.split('_')[1]}" for name in names]
    return table


def make_i2iqa(folder, kind):
    names = i2iqa_names()
    labels = scores(len(names))
    paint_all(folder / "Generated_image/All", names)
    paint_all(folder / "Image_prompt", [f"{i}.jpg" for i in range(4)], 100)
    if kind == "xlsx":
        references = [f"{int(name.split('_')[1])}.jpg" for name in names]
        pku_frame(names, references, labels).to_excel(folder / "I2IQA_annotation.xlsx", index=False)
        return folder
    lines = [
        f"Generated_image/All/{name}\t{q}\t{a}\t{c}\tcorgi, standing on a train track, happy\n"
        for name, (q, a, c) in zip(names, labels, strict=True)
    ]
    (folder / "train.txt").write_text("".join(line for i, line in enumerate(lines) if i % 4 != 3))
    (folder / "test.txt").write_text("".join(lines[3::4]))
    return folder


def make_4k(folder, mos=True):
    """Rows with an image prompt first, as the authors have them, and a column MOS."""
    names = [*i2iqa_names(2), *(name.replace("_0", "_10", 1) for name in i2iqa_names(2))]
    labels = scores(len(names), 2)
    references = [f"{int(name.split('_')[1])}.jpg" for name in names[:16]] + [None] * 16
    paint_all(folder / "All", names)
    paint_all(folder / "I2I/Image_prompt", ["0.jpg", "1.jpg"], 100)
    table = pku_frame(names, references, labels)
    if mos:
        table["MOS"] = labels.sum(1)
    table.to_excel(folder / "annotation.xlsx", index=False)
    return folder


def make_agiqa_1k(folder):
    """Its last two rows are for one image, with different labels."""
    names = [f"{g}_{n}_0_1_{s}.jpg" for g in ("deepai", "dreamStudio") for n in range(4) for s in (0, 1)]
    paint_all(folder / "file", names)
    table = pd.DataFrame({"Image": [*names, names[-1]]})
    table["Prompt"] = [f"bird, {name.split('_')[1]}" for name in table["Image"]]
    table["MOS"] = [*np.linspace(1, 4.5, len(names) - 1), 0.44, 2.08]
    table.to_excel(folder / "AIGC_MOS_Zscore.xlsx", index=False)
    return folder


AGIQA_3K = [f"{g}_{s}_{n:03}.jpg" for g, s in (("AttnGAN", "normal"), ("sd1.5", "lowstep")) for n in range(8)]


def make_agiqa_3k(folder, kind):
    labels = scores(16, 3)
    prompts = [f"man lost in {name[-5]}, sci-fi style" for name in AGIQA_3K]
    paint_all(folder / "all", AGIQA_3K)
    if kind == "csv":
        table = pd.DataFrame({"name": AGIQA_3K, "prompt": prompts, "adj1": "", "adj2": "", "style": ""})
        table[["mos_quality", "std_quality", "mos_align"]] = labels
        table.assign(std_align=1).to_csv(folder / "data.csv", index=False)
        return folder
    lines = [
        f"all/{name}\t{q}\t{c}\t{prompt}\n"
        for name, (q, _, c), prompt in zip(AGIQA_3K, labels, prompts, strict=True)
    ]
    (folder / "train.txt").write_text("".join(lines[:12]))
    (folder / "test.txt").write_text("".join(lines[12:]))
    return folder


def make_aigciqa2023(folder, kind):
    if kind == "model":  # CMIM-AIGIQA: labels divided by 20, a folder for each generator
        names = [f"{n:03}-{i}.png" for n in range(2) for i in (1, 2, 3, 4)]
        rows = [(model, name) for model in ("Lafite", "stable-diffusion") for name in names]
        for model in ("Lafite", "stable-diffusion"):
            paint_all(folder / "Image" / model, names, len(model) * 10)
        table = pd.DataFrame(rows, columns=["model", "image_name"])
        table[["mosz1", "mosz2", "mosz3"]] = scores(16, 4, 1.7, 3.6)
        table["prompt"] = [f'"corgi {name[:3]}"' for name in table["image_name"]]
        (folder / "1").mkdir()
        table[:12].to_csv(folder / "1/train.csv", index=False)
        table[12:].to_csv(folder / "1/val.csv", index=False)
        table.to_csv(folder / "full.csv", index=False)
        return folder
    labels = scores(48, 4, 35, 70)
    paint_all(folder / "Image/allimg", [f"{i}.png" for i in range(48)])
    if kind == "mat":
        (folder / "DATA/MOS").mkdir(parents=True)
        for number in (1, 2, 3):
            scipy.io.savemat(folder / f"DATA/MOS/mosz{number}.mat", {"MOSz": labels[:, number - 1 : number]})
        return folder
    lines = [f"Image/allimg/{i}.png\t{q}\t{a}\t{c}\ta corgi\n" for i, (q, a, c) in enumerate(labels)]
    (folder / "train.txt").write_text("".join(lines[:36]))
    (folder / "test.txt").write_text("".join(lines[36:]))
    return folder


def make_aigiqa_20k(folder):
    names = [f"{g}_{n:04}.png" for g in ("DALLE2", "SD1.5") for n in range(8)]
    paint_all(folder / "train", names)
    table = pd.DataFrame(
        {"name": names, "prompt": [f"cat {name[-5]}" for name in names], "mos": scores(16)[:, 0]}
    )
    table.to_csv(folder / "info_train.csv", index=False)
    return folder


LAYOUTS = {  # maker, the path below the folder, options; name, rows, dimensions, ranges of first and last
    "i2iqa-xlsx": (lambda f: make_i2iqa(f, "xlsx"), "", [], "pku-i2iqa", 32, PAPER, (5, 15)),
    "i2iqa-xlsx-file": (
        lambda f: make_i2iqa(f, "xlsx"), "I2IQA_annotation.xlsx", [], "pku-i2iqa", 32, PAPER, (5, 15)
    ),
    "i2iqa-text": (lambda f: make_i2iqa(f, "text"), "", [], "pku-i2iqa", 32, PAPER, (5, 15)),
    "4k": (make_4k, "", [], "pku-aigiqa-4k", 32, PAPER, (5, 15)),
    "4k-file": (make_4k, "annotation.xlsx", [], "pku-aigiqa-4k", 32, PAPER, (5, 15)),
    "4k-without-mos": (lambda f: make_4k(f, False), "", [], "pku-aigiqa-4k", 32, PAPER, (5, 15)),
    "4k-i2i": (make_4k, "", ["--format", "pku-aigiqa-4k-i2i"], "pku-aigiqa-4k-i2i", 16, PAPER, (5, 15)),
    "4k-t2i": (make_4k, "", ["--format", "pku-aigiqa-4k-t2i"], "pku-aigiqa-4k-t2i", 16, PAPER, (5, 15)),
    "agiqa-1k": (make_agiqa_1k, "", ["--duplicates", "mean"], "agiqa-1k", 16, ("quality",), (5, 5)),
    "agiqa-1k-file": (
        make_agiqa_1k, "AIGC_MOS_Zscore.xlsx", ["--duplicates", "drop"], "agiqa-1k", 16, ("quality",), (5, 5)
    ),
    "agiqa-3k": (lambda f: make_agiqa_3k(f, "csv"), "", [], "agiqa-3k", 16, PAPER[:3:2], (5, 5)),
    "agiqa-3k-text": (lambda f: make_agiqa_3k(f, "text"), "", [], "agiqa-3k", 16, PAPER[:3:2], (5, 5)),
    "aigciqa2023": (lambda f: make_aigciqa2023(f, "mat"), "", [], "aigciqa2023", 48, PAPER[:3], (100, 100)),
    "aigciqa2023-text": (
        lambda f: make_aigciqa2023(f, "text"), "", [], "aigciqa2023", 48, PAPER[:3], (100, 100)
    ),
    "aigciqa2023-model": (
        lambda f: make_aigciqa2023(f, "model"), "full.csv", [], "aigciqa2023", 16, PAPER[:3], (5, 5)
    ),
    "aigciqa2023-model-split": (
        lambda f: make_aigciqa2023(f, "model"), "1", ["--images", "."], "aigciqa2023", 16, PAPER[:3], (5, 5)
    ),
    "aigiqa-20k": (make_aigiqa_20k, "", [], "aigiqa-20k", 16, ("quality",), (5, 5)),
    "aigiqa-20k-file": (make_aigiqa_20k, "info_train.csv", [], "aigiqa-20k", 16, ("quality",), (5, 5)),
}  # fmt: skip


def options_of(given, folder):
    return [str(folder) if one == "." else one for one in given]


def run(*arguments):
    """The output of a command that succeeds."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_and_checked(tmp_path, layout):
    make, path, options, name, rows, dimensions, (first, last) = LAYOUTS[layout]
    options = options_of(options, make(tmp_path))
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    rated = load(
        tmp_path / path, pairs.get("--format"), images=pairs.get("--images"),
        duplicates=pairs.get("--duplicates", "error"),
    )  # fmt: skip
    assert (rated.name, len(rated), tuple(rated.labels)) == (name, rows, dimensions)
    assert all(file.is_file() for file in [*rated.pictures, *filter(None, rated.references)])
    assert rated.range_of(dimensions[0]) == (0, first)
    assert rated.range_of(dimensions[-1]) == (0, last)
    assert all(rated.generators)
    assert 1 < len(set(rated.groups)) < rows
    said = run("data", "check", tmp_path / path, *options).splitlines()
    assert said[0].startswith(f"{name}: {rows} pictures")
    assert said[-1] == "no problems found"
    assert [line.partition(":")[0] for line in said if " labels from " in line] == [*dimensions]


def test_the_overall_score_is_the_sum_and_on_its_scale(tmp_path):
    summed, column = load(make_4k(tmp_path / "a", False)), load(make_4k(tmp_path / "b"))
    for rated in (summed, column):
        np.testing.assert_allclose(rated.labels["overall"], sum(rated.labels[part] for part in PAPER[:3]))
    np.testing.assert_allclose(summed.labels["overall"], column.labels["overall"], atol=1e-12)
    only = load(tmp_path / "a", dimensions=["overall"])
    assert (list(only.labels), only.score_range, only.ranges) == (["overall"], (0, 15), {})
    assert load(tmp_path / "a", dimensions=["quality"]).notes == []
    assert load(tmp_path / "a", score_range=(1, 5)).range_of("overall") == (3, 15)
    said = run("data", "check", tmp_path / "a")
    assert "overall: the sum of quality, authenticity, correspondence\n" in said
    assert f"mean {summed.labels['overall'].mean():.4g}, on a scale of 0 to 15\n" in said
    of = "subset: the rows with an image prompt (image-to-image), 16 of 32\n"
    assert of in run("data", "check", tmp_path / "a", "--format", "pku-aigiqa-4k-i2i")
    assert "overall: column 'MOS', which is the sum of" in run("data", "check", tmp_path / "b")
    table = pd.read_excel(tmp_path / "b/annotation.xlsx")
    table.assign(MOS=table["MOS"] / 3).to_excel(tmp_path / "b/annotation.xlsx", index=False)
    mean = load(tmp_path / "b")
    assert (mean.range_of("overall"), mean.ranges) == ((0, 5), {})
    assert any("in 32 of 32 rows is not the sum" in note for note in mean.notes)


def test_train_and_test_files_are_a_split_of_their_own(tmp_path):
    rated = load(make_i2iqa(tmp_path / "pku", "text"))
    split = own_split(rated)
    assert (len(split.train), len(split.test)) == (24, 8)
    assert all(rated.pictures[row].stem.endswith("11") for row in split.test)
    assert "label files: train.txt (train), test.txt (test)" in run("data", "check", tmp_path / "pku")
    make_aigciqa2023(tmp_path / "2023", "model")
    cmim = load(tmp_path / "2023/1", images=tmp_path / "2023")
    assert cmim.notes[-1] == "scale: 0 to 5, to which the labels of 0 to 100 seem to be divided by 20"
    assert cmim.splits == ["train"] * 12 + ["test"] * 4  # there is no other file to test on
    with (tmp_path / "pku/log.txt").open("wb") as file:  # what is no table may be of any size
        file.truncate(4 << 40)
    assert len(load(tmp_path / "pku")) == 32
    (tmp_path / "2023/1/val.csv").rename(tmp_path / "2023/1/validation.csv")
    (tmp_path / "2023/1/train.csv").rename(tmp_path / "2023/1/Train.csv")
    assert load(tmp_path / "2023/1", images=tmp_path / "2023").splits == cmim.splits
    bad = tmp_path / "pku/test.txt"
    bad.write_text(bad.read_text().replace("\t", "\tx", 1))
    with pytest.raises(InputError, match=r"test\.txt: row 1, column 'quality'"):
        load(tmp_path / "pku")


def test_the_papers_split_of_files_in_another_order_is_warned_about(tmp_path):
    make_i2iqa(tmp_path / "pku", "text")
    recipe = Recipe(split="paper", data=(DataSource(str(tmp_path / "pku")),))
    said = divide(recipe, open_data(recipe), tmp_path / "run")[3]
    assert "its files bring a split (split=own)" in said[-1]
    make_i2iqa(tmp_path / "xlsx", "xlsx")
    recipe = Recipe(split="paper", data=(DataSource(str(tmp_path / "xlsx")),))
    assert not any("bring a split" in one for one in divide(recipe, open_data(recipe), tmp_path / "other")[3])


def test_text_files_of_other_data_sets_are_not_taken_for_pku_i2iqa(tmp_path):
    agiqa = load(make_agiqa_3k(tmp_path / "3k", "text") / "test.txt")
    assert (agiqa.name, agiqa.prompts[0]) == ("agiqa-3k", "man lost in 4, sci-fi style")
    csv = load(make_agiqa_3k(tmp_path / "3k-csv", "csv"))
    np.testing.assert_array_equal(agiqa.labels["correspondence"], csv.labels["correspondence"][12:])
    text = load(make_aigciqa2023(tmp_path / "2023", "text"))
    assert text.generators == ["Controlnet"] * 48  # 400 images of each
    assert text.groups == [str(i // 4) for i in range(48)]


def test_other_tables_with_such_columns_stay_manifests(tmp_path):
    names = [f"cat_{n:03}.png" for n in range(3)]
    paint_all(tmp_path, names)
    pd.DataFrame({"name": names, "prompt": list("abc"), "mos": [1, 2, 3]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    rated = load(tmp_path / "t.csv")
    assert (rated.name, rated.range_of("quality"), rated.range_is_observed) == ("t", (1, 3), True)
    pd.DataFrame({"Image": names, "MOS": [1, 2, 3]}).to_excel(tmp_path / "t.xlsx", index=False)
    assert load(tmp_path / "t.xlsx").name == "t"
    for labels, said in (("3\t4", "3 columns may be anything"), ("3", None), ("3\t4\t5", None)):
        text = "".join(f"{name}\t{labels}\n" for name in names)
        (tmp_path / "u.txt").write_text(text)
        if said:
            with pytest.raises(InputError, match=said):
                load(tmp_path / "u.txt")
        else:
            rated = load(tmp_path / "u.txt", score_range=(0, 10))
            assert (rated.name, list(rated.labels["quality"])) == ("u", [3, 3, 3])
            assert rated.ranges == {}


def test_the_annotation_file_may_lie_elsewhere(tmp_path):
    make_i2iqa(tmp_path / "pku", "xlsx")
    (tmp_path / "pku/I2IQA_annotation.xlsx").rename(tmp_path / "mine.xlsx")
    assert load(tmp_path / "mine.xlsx", images=tmp_path / "pku").name == "pku-i2iqa"
    make_4k(tmp_path / "4k")
    (tmp_path / "4k/annotation.xlsx").rename(tmp_path / "mine.xlsx")
    assert load(tmp_path / "mine.xlsx", images=tmp_path / "4k").name == "pku-aigiqa-4k"
    table = pd.read_excel(tmp_path / "mine.xlsx")[:16].rename(columns={"MOS": "Total "})
    table.to_csv(tmp_path / "part.csv", index=False)  # as image-to-image rows are kept in one folder
    flat = tmp_path / "flat"
    paint_all(flat, table["Generated_image"])
    paint_all(flat / "Image_prompt", ["0.jpg", "1.jpg"], 100)
    rated = load(tmp_path / "part.csv", images=flat)
    assert (rated.name, check(rated).problems) == ("pku-i2iqa", [])


def test_an_image_with_two_rows_is_refused_dropped_or_averaged(tmp_path):
    make_agiqa_1k(tmp_path)
    with pytest.raises(
        InputError, match=r"rows 17 and 18 are both for .*dreamStudio_3_0_1_1\.jpg.*duplicates='drop'"
    ):
        load(tmp_path)
    for duplicates, label, said in (("drop", 0.44, "left out"), ("mean", 1.26, "averaged")):
        rated = load(tmp_path, duplicates=duplicates)
        assert len(rated) == 16
        assert rated.labels["quality"][-1] == pytest.approx(label)
        assert f"duplicate rows {said}" in str(check(rated))
        assert "1, such as row 18 after row 17" in str(check(rated))
    with pytest.raises(InputError, match="duplicates='first': pass one of error, drop, mean"):
        load(tmp_path, duplicates="first")


TRAINED = {
    "i2iqa-xlsx-file": ("full", ["--split", "paper"]),
    "i2iqa-text": ("none", ["--split", "own"]),
    "4k": ("partial", []),
    "4k-i2i": ("full", []),
    "agiqa-1k": ("none", []),
    "agiqa-3k-text": ("none", ["--split", "own"]),
    "aigciqa2023-text": ("none", []),
    "aigciqa2023-model-split": ("none", ["--split", "own"]),
    "aigiqa-20k": ("none", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", TRAINED)
def test_each_layout_trains_for_an_epoch(tmp_path, layout):
    make, path, options, name, _, dimensions, (_, last) = LAYOUTS[layout]
    reference, more = TRAINED[layout]
    options = options_of(options, make(tmp_path / "data"))
    wanted = ",".join(dimensions)
    out = tmp_path / "run"
    run(
        "train", "--data", tmp_path / "data" / path, "--out", out, *options, *more, "--reference", reference,
        "--backbone", "test_efficientnet", "--resize", 32, "--crop", 32, "--epochs", 1, "--dimensions", wanted,
        "--select", "last", "--validation", 0, "--weights", "random",
    )  # fmt: skip
    figures = json.loads((out / "evaluation.json").read_text())["figures"][name]
    assert tuple(figures) == dimensions
    assert figures[dimensions[-1]]["scale"] == [0, last]
    config = json.loads((out / "config.json").read_text())
    assert (config["dimensions"], config["score_range"]) == ([*dimensions], [0, 5])
    labels = pd.read_csv(out / "predictions.csv").filter(like="_label")
    assert ((labels >= 0) & (labels <= 5)).all().all()  # on the checkpoint's scale
    said = run("evaluate", out, tmp_path / "data" / path, *options, "--dimension", dimensions[-1])
    assert f"\n{dimensions[-1]}\n" in said


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["none", "full", "partial"])
def test_the_overall_score_trains_alone(tmp_path, reference):
    """On the scale of the sum where that is asked for, and else on that of the other dimensions."""
    make_i2iqa(tmp_path / "data", "xlsx")
    for scale in (5, 15):
        out, recipe = tmp_path / f"run{scale}", tmp_path / f"{scale}.yaml"
        recipe.write_text(f"score_range: [0, {scale}]\n")
        run(
            "train", recipe, "--data", tmp_path / "data", "--out", out, "--reference", reference, "--epochs", 1,
            "--backbone", "test_efficientnet", "--resize", 32, "--crop", 32, "--dimensions", "overall",
            "--weights", "random",
        )  # fmt: skip
        figures = json.loads((out / "evaluation.json").read_text())["figures"]["pku-i2iqa"]["overall"]
        assert figures["scale"] == [0, 15]
        assert json.loads((out / "config.json").read_text())["score_range"] == [0, scale]
        run("evaluate", out, tmp_path / "data", "--dimension", "overall", "--out", tmp_path / "figures.json")
        again = json.loads((tmp_path / "figures.json").read_text())["figures"]["overall"]
        assert again["rmse"] == pytest.approx(figures["rmse"], rel=1e-4)
