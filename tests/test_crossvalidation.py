"""Cross-validation with small frozen networks, and the figures of ladders on sets made by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import make_pku
from test_probing import recipe, silent, weights

import aigciqa
from aigciqa.errors import InputError
from aigciqa.training.cli import main
from aigciqa.training.crossvalidation import cross_validate
from aigciqa.training.data import RatedSet, load
from aigciqa.training.ladders import Ladders
from aigciqa.training.recipe import DataSource
from aigciqa.training.splits import load_split

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=6, size=40)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Features, so that each test need not compute them."""
    return str(tmp_path_factory.mktemp("cache"))


def predictions(folder, folds=3):
    return pd.concat([pd.read_csv(folder / f"fold{i}" / "predictions.csv") for i in range(folds)])


def test_every_row_is_predicted_once_by_a_run_that_did_not_see_its_group(pku, tmp_path, cache):
    dimensions = ("quality", "correspondence")
    made = recipe(pku, folds=3, epochs=2, dimensions=dimensions, reference="full", cache=cache)
    said = []
    figures = cross_validate(made, tmp_path, report=said.append)
    rated = load(pku)
    table = predictions(tmp_path)
    assert sorted(table["row"]) == list(range(48))
    assert set(table["set"]) == {0}
    for fold in range(3):
        run = tmp_path / f"fold{fold}"
        split = load_split(run / "splits" / "0-pku-i2iqa.csv", rated)
        rows = pd.read_csv(run / "predictions.csv")["row"]
        assert tuple(rows) == split.test
        assert len(split.train) == 48 - len(rows) == 32
        assert not {rated.groups[i] for i in rows} & {rated.groups[i] for i in split.train}
    metric = aigciqa.create_metric(run, device="cpu")
    some = rated.subset(rows.tolist())
    found = metric(some.pictures, some.references).numpy()
    np.testing.assert_allclose(found, pd.read_csv(run / "predictions.csv")["quality_score"], atol=1e-2)

    table = table.sort_values("row")
    assert set(figures) == {"pku-i2iqa"}
    assert set(figures["pku-i2iqa"]) == set(dimensions)
    for dimension in dimensions:
        np.testing.assert_allclose(table[f"{dimension}_label"], rated.labels[dimension], rtol=1e-12)
        found = figures["pku-i2iqa"][dimension]
        expected = table[f"{dimension}_score"].corr(table[f"{dimension}_label"], method="spearman")
        assert found["srcc"] == pytest.approx(expected, abs=1e-9)
        assert found["n"] == 48
        assert "ladders" not in found
    assert json.loads((tmp_path / "evaluation.json").read_text()) == figures
    assert any("held out in 3 folds" in line for line in said)


def test_it_can_be_continued(pku, tmp_path, cache):
    import shutil

    made = recipe(pku, folds=3, epochs=1, cache=cache)
    figures = cross_validate(made, tmp_path, report=silent)
    content = weights(tmp_path / "fold1")
    times = [(tmp_path / f"fold{i}" / "state.pt").stat().st_mtime_ns for i in (0, 2)]
    shutil.rmtree(tmp_path / "fold1")
    said = []
    assert cross_validate(made, tmp_path, report=said.append) == figures
    assert weights(tmp_path / "fold1") == content
    assert [(tmp_path / f"fold{i}" / "state.pt").stat().st_mtime_ns for i in (0, 2)] == times
    assert [line for line in said if line.startswith("fold ")] == ["fold 2 of 3"]
    (tmp_path / "fold2" / "predictions.csv").unlink()  # killed in its last moment
    (tmp_path / "fold0" / "predictions.csv").unlink()  # killed before its first
    (tmp_path / "fold0" / "state.pt").unlink()
    assert cross_validate(made, tmp_path, report=silent) == figures


def test_runs_of_another_recipe_are_not_taken_for_its_own(pku, tmp_path, cache):
    cross_validate(recipe(pku, folds=2, epochs=1, cache=cache), tmp_path, report=silent)
    with pytest.raises(InputError, match="the recipe differs"):
        cross_validate(recipe(pku, folds=2, epochs=2, cache=cache), tmp_path, report=silent)


def second_set(folder, pku, change):
    """A manifest of the same pictures upside down, with labels that differ."""
    rated = load(pku)
    lines = [
        f"{p},{change(q)},{g}"
        for p, q, g in zip(rated.pictures, rated.labels["quality"], rated.groups, strict=True)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "second.csv").write_text("\n".join(["picture,quality,group", *lines[::-1]]))
    return DataSource(str(folder / "second.csv"), score_range=(0.0, 5.0), weight=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"mse": 1.0, "plcc": 0.5, "rank": 0.5}, "batch_size": 12},
        {"frozen": False, "feature": "avg", "loss": {"mse": 1.0, "plcc": 0.5}},
    ],
)
def test_a_set_of_weight_0_is_evaluated_but_not_learned_from(pku, tmp_path, cache, changes):
    found = {}
    for name, change in (("as-is", lambda q: q), ("other", lambda q: (q * 7) % 5)):
        sources = [DataSource(str(pku)), second_set(tmp_path / name, pku, change)]
        if not changes.get("frozen", True):
            cache = str(tmp_path / "pixels")
        made = recipe(pku, data=sources, folds=2, epochs=2, cache=cache, **changes)
        found[name] = cross_validate(made, tmp_path / name / "run", report=silent)
        table = predictions(tmp_path / name / "run", 2)
        assert set(found[name]) == {"pku-i2iqa", "second"}
        assert all(sorted(table["row"][table["set"] == i]) == list(range(48)) for i in (0, 1))
        rated = load(tmp_path / name / "second.csv")  # figures of the rows they are said to be of
        second = table[table["set"] == 1].sort_values("row")
        np.testing.assert_allclose(second["quality_label"], rated.labels["quality"], rtol=1e-9)
    assert found["as-is"]["pku-i2iqa"] == found["other"]["pku-i2iqa"]  # whatever its labels say
    assert found["as-is"]["second"]["quality"]["srcc"] != found["other"]["second"]["quality"]["srcc"]
    for fold in ("fold0", "fold1"):
        assert weights(tmp_path / "as-is/run" / fold) == weights(tmp_path / "other/run" / fold)


def test_ladders_are_judged_where_there_are_any(pku, tmp_path, cache):
    rated = load(pku)
    lines = ["picture,reference,group,generator,ladder,quality"]
    for p, r, g, m, q in zip(
        rated.pictures, rated.references, rated.groups, rated.generators, rated.labels["quality"], strict=True
    ):
        lines.append(f"{p},{r},{g},{m},{m}-{g},{q}")
    lines += [
        f"{r},{r},{g},pristine,,5" for r, g in dict(zip(rated.references, rated.groups, strict=True)).items()
    ]
    (tmp_path / "set.csv").write_text("\n".join(lines))
    made = recipe(tmp_path / "set.csv", folds=3, epochs=2, cache=cache, reference="full")
    said = []
    figures = cross_validate(made, tmp_path / "run", report=said.append)["set"]["quality"]
    ladders = figures["ladders"]
    assert (ladders["ladders"], ladders["pairs"], ladders["rereferenced"]) == (12, 0, None)
    assert {kind: one["ladders"] for kind, one in ladders["by_kind"].items()} == {"MJ": 6, "SD": 6}
    assert any("monotone" in line for line in said)
    # the share of pairs restated, from the runs' own files and the manifest's order
    table = predictions(tmp_path / "run").sort_values("row")
    scores, labels = table["quality_score"].to_numpy(), table["quality_label"].to_numpy()
    shares = []
    for group in dict.fromkeys(rated.groups):
        for maker in ("SD", "MJ"):
            rows = [i for i in range(48) if (rated.groups[i], rated.generators[i]) == (group, maker)]
            rows.append(48 + list(dict.fromkeys(rated.groups)).index(group))
            pairs = [(a, b) for a in rows for b in rows if labels[a] < labels[b]]
            assert len(pairs) == 10
            shares.append(np.mean([scores[a] < scores[b] for a, b in pairs]))
    assert ladders["pairwise"] == pytest.approx(np.mean(shares))


def test_refusals(pku, tmp_path, cache):
    for folds in (0, 1):
        with pytest.raises(InputError, match="at least 2 folds"):
            cross_validate(recipe(pku, folds=folds), tmp_path / "x", report=silent)
    with pytest.raises(InputError, match="7 folds of 6 groups"):
        cross_validate(recipe(pku, folds=7, cache=cache), tmp_path / "x", report=silent)
    with pytest.raises(InputError, match="no data set"):
        cross_validate(recipe(pku, folds=2, data=[]), tmp_path / "x", report=silent)


def test_command(pku, tmp_path):
    options = {
        "--data": pku, "--out": tmp_path / "run", "--folds": 3, "--backbone": "test_efficientnet", "--resize": 36,
        "--weights": "random",
        "--crop": 32, "--epochs": 1, "--feature": "stages", "--frozen": "true", "--hidden": 8,
    }  # fmt: skip
    flags = [str(part) for option in options.items() for part in option]
    result = CliRunner().invoke(main, ["train", "--cross-validate", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "pku-i2iqa, quality, held out in 3 folds" in result.output
    assert set(json.loads((tmp_path / "run" / "evaluation.json").read_text())) == {"pku-i2iqa"}
    assert len(predictions(tmp_path / "run")) == 48
    flags = [str(part) for option in (options | {"--folds": 1}).items() for part in option]
    result = CliRunner().invoke(main, ["train", "--cross-validate", *flags])
    assert result.exit_code != 0
    assert "at least 2 folds" in str(result.exception) + result.output


# -- ladders


def rated_set(rows):
    """Of (picture, reference, group, kind, ladder, label)."""
    pictures, references, groups, kinds, ladders, labels = zip(*rows, strict=True)
    return RatedSet(
        name="by-hand",
        pictures=[Path(p) for p in pictures],
        references=[r and Path(r) for r in references],
        labels={"quality": np.array(labels, float)},
        groups=list(groups),
        generators=list(kinds),
        splits=None,
        score_range=(0, 5),
        prompts=[""] * len(rows),
        ladders=list(ladders),
    )


BY_HAND = [
    ("a.png", "a.png", "A", "pristine", "", 5),
    ("a-blur1.png", "a.png", "A", "blur", "a-blur", 4),
    ("a-blur2.png", "a.png", "A", "blur", "a-blur", 2),
    ("a-noise1.png", "a.png", "A", "noise", "a-noise", 3),
    ("b.png", "b.png", "B", "pristine", "", 5),
    ("b-blur1.png", "b.png", "B", "blur", "b-blur", 4),
    ("b-blur2.png", "b.png", "B", "blur", "b-blur", 1),
]


def of(rows, scores):
    return Ladders.of(rated_set(rows), np.array(scores, float), "quality")


def test_ladders_that_are_all_right():
    found = of(BY_HAND, [9, 8, 7, 1, 3, 2, 1])
    assert (found.ladders, found.monotone, found.pairwise) == (3, 1, 1)
    assert found.by_kind == {
        "blur": {"ladders": 2, "monotone": 1, "pairwise": 1},
        "noise": {"ladders": 1, "monotone": 1, "pairwise": 1},
    }
    assert found.pairs == 0
    assert math.isnan(found.rereferenced)
    assert "one picture" not in found.table()


def test_ladders_are_compared_with_the_pristine_picture_of_their_group_and_reference():
    # a's noise beats its pristine picture; b's second step beats its first, though neither beats the pristine
    found = of(BY_HAND, [5, 4, 3, 6, 9, 1, 2])
    assert found.by_kind["noise"] == {"ladders": 1, "monotone": 0, "pairwise": 0}
    assert found.by_kind["blur"] == {
        "ladders": 2,
        "monotone": 0.5,
        "pairwise": pytest.approx((1 + 2 / 3) / 2),
    }
    assert found.ladders == 3
    assert found.monotone == pytest.approx(1 / 3)
    assert found.pairwise == pytest.approx((1 + 2 / 3 + 0) / 3)
    for number in ("3", "0.3333", "0.5556", "0.8333"):
        assert number in found.table()
    # scores of different groups are not compared
    assert of(BY_HAND, [5, 4, 3, 2, 1, 0, -1]).monotone == 1


def test_steps_of_one_score_are_not_in_order():
    found = of(BY_HAND, [5, 5, 3, 5, 9, 8, 8])
    assert found.monotone == 0
    assert found.by_kind["noise"]["pairwise"] == 0.5  # as a coin would
    assert of(BY_HAND, [1] * 7).monotone == 0


def test_steps_of_one_label_may_come_in_any_order_but_not_past_others():
    rows = [("a.png", "a.png", "A", "blur", "l", 1)]
    rows += [(f"a{i}.png", "a.png", "A", "blur", "l", label) for i, label in enumerate((2, 2, 3))]
    assert of(rows, [1, 2, 3, 4]).monotone == of(rows, [1, 3, 2, 4]).monotone == 1
    for scores in ([1, 5, 2, 4], [1, 2, 5, 4], [3, 2, 4, 5], [3, 4, 2, 5]):
        found = of(rows, scores)
        assert (found.monotone, found.pairwise) == (0, 0.8)


@pytest.mark.parametrize("turned", [False, True])
def test_right_and_wrong_references(turned):
    rows = [
        ("a.png", "a.png", "A", "pristine", "", 5),
        ("a.png", "other.png", "A", "pristine", "", 1),
        ("a1.png", "a.png", "A", "blur", "l", 4),
        ("a1.png", "other.png", "A", "blur", "l", 1),
        ("a2.png", "a.png", "A", "blur", "l", 3),
        ("a2.png", "other.png", "A", "blur", "l", 1),
        ("a2.png", "same.png", "A", "blur", "l", 3),
    ]
    scores = [5, 1, 4, 4, 3, 6, 3]

    def judged(scores):
        return of(rows[::-1], scores[::-1]) if turned else of(rows, scores)

    found = judged(scores)
    # a right; a1 tied, which is wrong; a2 wrong with both of its right references
    assert (found.pairs, found.rereferenced) == (4, 0.25)
    # all correspond as little to the wrong reference, so there is nothing to order; one step is no ladder
    assert (found.ladders, found.monotone) == (1, 1)
    assert "one picture, other reference" in found.table()
    assert judged([5, 1, 4, 1, 3, 1, 3]).rereferenced == 1
    assert judged([3] * 7).rereferenced == 0  # a metric that looks at the picture only
    json.dumps(found.to_dict())


def test_a_set_without_ladders():
    found = of([(f"{i}.png", None, "A", "", "", i) for i in range(3)], [1, 2, 3])
    assert (found.ladders, found.pairs, found.by_kind) == (0, 0, {})
    assert math.isnan(found.monotone)
    assert math.isnan(found.pairwise)
    assert "0" in found.table()
