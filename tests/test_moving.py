"""A run goes on where its data has moved to, and with no other data."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from test_trainer import SMALL, one_thread, weights  # noqa: F401  (a fixture that is used by itself)

from aigciqa import InputError
from aigciqa.training.cli import main
from aigciqa.training.recipe import DataSource, read_recipe
from aigciqa.training.record import RECORD
from aigciqa.training.trainer import STATE, train


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A manifest with references, groups and a split, and its images in another folder."""
    import numpy as np

    folder = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    rows = []
    for i in range(24):
        for name in (f"p{i}.png", f"r{i}.png"):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / "images" / name)
        rows.append({"picture": f"p{i}.png", "reference": f"r{i}.png", "quality": 1 + rng.random() * 4})
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


def begun(place, **changes):
    source = DataSource(str(place / "ratings.csv"), images=str(place / "images"), score_range=(1, 5))
    return read_recipe(None, SMALL | {"data": [source], "reference": "full", "epochs": 2} | changes)


def silent(line):
    pass


def interrupt_after_one_epoch(recipe, out):
    def stop(line):
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, report=stop)
    assert (out / STATE).exists()


@pytest.mark.parametrize(
    "changes", [{}, {"frozen": True, "feature": "stages", "hidden": 16, "directions": 8}]
)
def test_a_moved_run_ends_as_if_it_had_not_moved(original, tmp_path, changes):
    there, moved = tmp_path / "there", tmp_path / "elsewhere" / "new"
    shutil.copytree(original, there)
    train(begun(there, **changes), tmp_path / "whole", report=silent)
    interrupt_after_one_epoch(begun(there, **changes), tmp_path / "run")
    moved.parent.mkdir()
    there.rename(moved)
    (tmp_path / "run").rename(tmp_path / "carried")  # to another machine, say

    def resume(*options):
        return CliRunner().invoke(main, ["train", "--out", f"{tmp_path}/carried", "--resume", *options])

    done = resume()
    assert done.exit_code == 2
    assert "is not there; if it was moved, name its new place: --data NEWPLACE" in done.stderr
    done = resume("--data", f"{moved}/ratings.csv")
    assert done.exit_code == 2
    assert f"{there}/images" in done.stderr and "--images NEWPLACE" in done.stderr
    done = resume("--data", f"{moved}/ratings.csv", "--images", f"{moved}/images")
    assert done.exit_code == 0, done.output
    assert "resuming at epoch 2" in done.output
    assert weights(tmp_path / "carried") == weights(tmp_path / "whole")
    saved = read_recipe(tmp_path / "carried" / "recipe.yaml").data[0]
    assert (saved.path, saved.images) == (f"{moved}/ratings.csv", f"{moved}/images")
    assert saved.score_range == (1, 5)


def test_files_of_other_names_are_the_same_data(original, tmp_path):
    """And groups that are named after their files remain what they were."""
    there = tmp_path / "there"
    shutil.copytree(original, there)
    interrupt_after_one_epoch(begun(there), tmp_path / "run")
    train(begun(there), tmp_path / "whole", report=silent)
    table = pd.read_csv(there / "ratings.csv")
    for column in ("picture", "reference"):
        for name in table[column]:
            (there / "images" / name).rename(there / "images" / f"other-{name}")
        table[column] = "other-" + table[column]
    table.to_csv(there / "ratings.csv", index=False)
    train(begun(there), tmp_path / "run", resume=True, report=silent)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def other_label(table, images):
    return table.assign(quality=table.quality.where(table.index != 3, 4.75))


def other_image(table, images):
    Image.new("RGB", (40, 40)).save(images / "p2.png")
    return table


def other_reference(table, images):
    Image.new("RGB", (40, 40)).save(images / "r2.png")
    return table


def row_less(table, images):
    return table.drop(index=5)


def row_more(table, images):
    Image.new("RGB", (40, 40)).save(images / "p99.png")
    table.loc[24] = ["p99.png", "r1.png", 3.0]
    return table


def other_order(table, images):
    return table[::-1]


def other_groups(table, images):
    return table.assign(group=table.index // 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            other_label,
            r"other labels in 1 of 24 rows, such as quality of p3.png: \d.* then, 4.75 now",
        ),
        (other_image, "files of another content: p2.png"),
        (other_reference, "files of another content: p2.png"),
        (row_less, "23 rows instead of 24; rows that are gone: p5.png"),
        (row_more, "25 rows instead of 24; rows that are new: p99.png"),
        (other_order, "the same rows in another order"),
        (other_groups, "another group of p1.png"),
    ],
)
def test_other_data_is_refused(original, interrupted, tmp_path, change, says):
    moved = tmp_path / "moved"
    shutil.copytree(original, moved)
    shutil.copytree(interrupted, tmp_path / "run")
    table = pd.read_csv(moved / "ratings.csv")
    table = change(table, moved / "images")
    table.to_csv(moved / "ratings.csv", index=False)
    files = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"the data is not what this run learned from.*{says}"):
        train(begun(moved), tmp_path / "run", resume=True, report=silent)
    for path, content in files.items():
        if path.name != ".lock":
            assert path.read_bytes() == content  # the run can still go on with its own data


@pytest.fixture(scope="module")
def interrupted(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    interrupt_after_one_epoch(begun(original), out)
    return out


def test_what_cannot_be_told_is_refused(original, interrupted, tmp_path):
    recipe = begun(original)
    twice = replace(recipe, data=recipe.data * 2)
    with pytest.raises(InputError, match=r"the recipe differs from .* in data"):
        train(twice, interrupted, resume=True, report=silent)
    with pytest.raises(InputError, match=r"the recipe differs from .* in epochs, lr;"):
        train(replace(recipe, epochs=5, lr=1.0), interrupted, resume=True, report=silent)
    place = str(original / "ratings.csv")
    done = CliRunner().invoke(
        main, ["train", "--out", str(interrupted), "--resume", "--data", place, "--data", place]
    )
    assert done.exit_code == 2
    assert f"this run learns from 1 data sets ({place}), and 2 are named" in done.stderr
    shutil.copytree(interrupted, tmp_path / "run")
    for damage in ("", "nonsense\n", (interrupted / RECORD).read_text().replace("name", "nome")):
        Path(tmp_path / "run" / RECORD).write_text(damage)
        with pytest.raises(InputError, match=r"rows\.csv is damaged"):
            train(recipe, tmp_path / "run", resume=True, report=silent)
