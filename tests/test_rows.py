"""How the rows of several data sets are divided."""

import numpy as np
import pytest
from test_splits import rated_set

from aigciqa.errors import InputError
from aigciqa.training.recipe import DataSource, Recipe
from aigciqa.training.rows import divide, linked

SIZES = {f"scene{n}": 2 + n % 5 for n in range(12)}  # rows of a group


def files(folder, sizes=SIZES):
    """Groups and their pictures, which are there."""
    groups = [group for group, size in sizes.items() for _ in range(size)]
    pictures = [folder / f"{group}-{row}.png" for row, group in enumerate(groups)]
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.write_text(picture.name)  # told apart by content, and not decoded
    return pictures, groups


def two_sets(folder):
    """All pictures, and a part of them that has other proportions: folds of each alone would differ."""
    pictures, groups = files(folder)
    some = [row for row, group in enumerate(groups) if row % 3 or group in ("scene1", "scene2")]
    return rated_set(pictures, groups), rated_set([pictures[i] for i in some], [groups[i] for i in some])


def recipe(**changes):
    return Recipe(data=(DataSource("a"), DataSource("b")), select="last", **changes)


def divided(sets, folder, **changes):
    """The sides as sets of (number of the data set, row), and the warnings."""
    *sides, warnings = divide(recipe(**changes), sets, folder)
    of = [(index, row) for index, one in enumerate(sets) for row in range(len(one))]
    assert sorted(np.concatenate(sides)) == list(range(len(of)))  # each row once
    return [[of[row] for row in side] for side in sides], warnings


@pytest.mark.parametrize("protocol", [{"folds": 3, "fold": 1}, {"test": 0.3}])
@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_sets_that_show_the_same_pictures_have_groups_on_the_same_side(tmp_path, protocol, validation):
    """Otherwise what one set tests on is learned from in the other."""
    sets = two_sets(tmp_path)
    sides, warnings = divided(sets, tmp_path / "run", validation=validation, **protocol)
    shown = [{sets[index].pictures[row] for index, row in side} for side in sides]
    assert shown[0] and shown[2] and bool(shown[1]) == bool(validation)
    assert not (shown[0] & shown[1] or shown[0] & shown[2] or shown[1] & shown[2])
    assert not warnings
    for side in sides:
        assert {index for index, _ in side} in ({0, 1}, set())


def test_every_picture_is_tested_in_one_fold(tmp_path):
    sets = two_sets(tmp_path)
    tested = [row for fold in range(4) for row in divided(sets, tmp_path / "run", folds=4, fold=fold)[0][2]]
    assert len(tested) == len(set(tested)) == len(sets[0]) + len(sets[1])


def test_sets_of_different_pictures_are_split_each_for_itself(tmp_path):
    """Groups of one name, such as prompt 1 of two data sets, are not the same."""
    one, other = (rated_set(*files(tmp_path / name)) for name in "ab")
    assert linked([one, other]) == [[0], [1]]
    sides, _ = divided([one, other], tmp_path / "run", folds=3, fold=0)
    for index in (0, 1):
        assert [row for of, row in sides[2] if of == index] == [
            row for _, row in divided([one], tmp_path / "run", folds=3, fold=0)[0][2]
        ]


def test_sets_are_linked_through_a_third(tmp_path):
    pictures, groups = files(tmp_path)
    sets = [rated_set(pictures[a:b], groups[a:b]) for a, b in ((0, 9), (20, 30), (5, 25))]
    assert linked(sets) == [[0, 1, 2]]


def test_a_split_that_is_given_warns_of_what_another_set_is_trained_on(tmp_path):
    sets = two_sets(tmp_path)
    _, warnings = divided(sets, tmp_path / "run", split="paper")
    assert any("tests on are trained on in" in warning for warning in warnings)


def test_a_set_with_an_empty_side_is_named(tmp_path):
    pictures, groups = files(tmp_path)
    sets = [rated_set(pictures, groups), rated_set(pictures[:2], groups[:2])]
    refused = 0
    for fold in range(3):
        try:
            divided(sets, tmp_path / "run", folds=3, fold=fold)
        except InputError as error:
            assert "small: group: fold" in str(error) and "pass another seed" in str(error)
            refused += 1
    assert refused == 3  # two rows of one group: nothing to train on, or nothing to test on


@pytest.mark.parametrize(("folds", "fold"), [(0, 1), (3, 3), (3, -1)])
def test_a_fold_that_is_not_there(folds, fold):
    with pytest.raises(InputError, match=r"recipe: fold=-?\d of \d folds; pass 0 to"):
        recipe(folds=folds, fold=fold)
