import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from aigciqa.errors import InputError
from aigciqa.training.data import RatedSet
from aigciqa.training.splits import (
    Split,
    folds,
    group_split,
    leaks,
    load_split,
    make_split,
    own_split,
    paper_split,
    save_split,
)


def rated_set(pictures, groups=None, references=None, splits=None):
    n = len(pictures)
    return RatedSet(
        name="small",
        pictures=list(pictures),
        references=references or [None] * n,
        labels={"quality": np.arange(n, dtype=float)},
        groups=groups or [str(i) for i in range(n)],
        generators=[""] * n,
        splits=splits,
        score_range=(0, 5),
        prompts=[""] * n,
    )


def pku_like(folder=Path("set")):
    """Rows as PKU-I2IQA has them: the four pictures of a prompt one after another."""
    return rated_set(
        [folder / f"{g}/{g}_{p:03}_{k}.jpg" for g in ("SD", "MJ") for p in range(10) for k in range(4)],
        [str(p) for _ in ("SD", "MJ") for p in range(10) for _ in range(4)],
    )


def test_a_split_is_two_sides_that_share_nothing():
    split = Split((4, 0), (np.int64(2), 1), "mine")
    assert (split.train, split.test) == ((0, 4), (1, 2))
    with pytest.raises(InputError, match="mine: rows 0 are there more than once"):
        Split((0, 1), (0, 2), "mine")
    with pytest.raises(InputError, match="mine: there is nothing to test on"):
        Split((0, 1), (), "mine")


def test_paper_split_is_three_to_one_in_the_order_of_the_file():
    split = paper_split(10)
    assert (split.train, split.test) == ((0, 1, 2, 4, 5, 6, 8, 9), (3, 7))
    whole = paper_split(1600)
    assert (len(whole.train), len(whole.test)) == (1200, 400)
    with pytest.raises(InputError, match="nothing to test on"):
        paper_split(3)


def test_group_split_keeps_groups_whole_and_is_the_same_everywhere():
    rated = pku_like()
    split = group_split(rated.groups, 0.3, seed=5)
    tested = {rated.groups[i] for i in split.test}
    assert not tested & {rated.groups[i] for i in split.train}
    assert (len(split.test), len(split.train), len(tested)) == (24, 56, 3)
    assert group_split(rated.groups, 0.3, seed=5) == split
    assert {group_split(rated.groups, 0.3, seed).test for seed in range(20)} != {split.test}
    assert tested == {"0", "2", "9"}  # on every machine, with every version
    order = random.Random(0).sample(range(80), 80)
    shuffled = group_split([rated.groups[i] for i in order], 0.3, seed=5)
    assert {rated.groups[order[i]] for i in shuffled.test} == tested


@pytest.mark.parametrize("seed", range(25))
def test_group_split_is_as_near_to_the_size_as_groups_allow(seed):
    rng = random.Random(seed)
    sizes = [rng.choice([1, 3, 7, 12, 20]) for _ in range(rng.randint(2, 9))]
    groups = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    test = rng.uniform(0.05, 0.95)
    sums = {sum(some) for n in range(1, len(sizes)) for some in combinations(sizes, n)}
    best = min(abs(total - test * len(groups)) for total in sums)
    split = group_split(groups, test, seed)
    assert abs(len(split.test) - test * len(groups)) == pytest.approx(best)
    assert sorted(split.train + split.test) == list(range(len(groups)))
    assert not {groups[i] for i in split.train} & {groups[i] for i in split.test}


def test_group_split_leaves_neither_side_empty():
    for test in (0.01, 0.99):
        split = group_split(["a", "b", "b"], test)
        assert {len(split.train), len(split.test)} == {1, 2}


def test_group_split_chooses_every_group_as_often():
    counts = dict.fromkeys("abcdefgh", 0)
    for seed in range(400):
        for i in group_split(list("abcdefgh"), 0.25, seed).test:
            counts["abcdefgh"[i]] += 1
    assert min(counts.values()) > 70  # 100 expected, standard deviation 9
    assert max(counts.values()) < 130


def test_group_split_refuses():
    with pytest.raises(InputError, match="1 group of pictures; a split needs two or more"):
        group_split(["a", "a"])
    for test in (0, 1, 25):
        with pytest.raises(InputError, match="between 0 and 1"):
            group_split(["a", "b"], test)


@pytest.mark.parametrize("method", ["group", "paper"])
def test_folds_test_every_row_once(method):
    groups = [str(i) for i in range(23) for _ in range(1 + i % 5)]
    splits = folds(groups, 4, seed=3, method=method)
    assert len(splits) == 4
    assert sorted(i for split in splits for i in split.test) == list(range(len(groups)))
    for split in splits:
        assert sorted(split.train + split.test) == list(range(len(groups)))
        assert abs(len(split.test) - len(groups) / 4) <= 1
        shared = {groups[i] for i in split.train} & {groups[i] for i in split.test}
        assert bool(shared) == (method == "paper")
    assert splits == folds(groups, 4, seed=3, method=method)
    assert (splits == folds(groups, 4, seed=4, method=method)) == (method == "paper")


@pytest.mark.parametrize("seed", range(5))
def test_folds_of_uneven_groups_are_even(seed):
    groups = ["big"] * 6 + list("abcdef")
    assert [len(split.test) for split in folds(groups, 2, seed)] == [6, 6]


def test_paper_folds():
    splits = folds(10, 4, method="paper")
    assert [split.test for split in splits] == [(0, 4, 8), (1, 5, 9), (2, 6), (3, 7)]
    assert splits[3].test == paper_split(10).test


def test_folds_refuse():
    with pytest.raises(InputError, match="4 folds of 3 groups"):
        folds(["a", "b", "c", "c"], 4)
    for k in (-1, 0, 1):
        with pytest.raises(InputError, match=f"{k} folds"):
            folds(10, k, method="paper")
    with pytest.raises(InputError, match="with the groups"):
        folds(10, 2)
    with pytest.raises(InputError, match="'random'"):
        folds(["a", "b"], 2, method="random")


def test_own_split():
    pictures = [Path(f"{i}.png") for i in range(4)]
    split = own_split(rated_set(pictures, splits=["test", "train", "val", "train"]))
    assert (split.train, split.test) == ((1, 2, 3), (0,))
    with pytest.raises(InputError, match="small brings no split"):
        own_split(rated_set(pictures))
    with pytest.raises(InputError, match="nothing to test on"):
        own_split(rated_set(pictures, splits=["train"] * 4))


def test_make_split(tmp_path):
    rated = pku_like()
    assert make_split(rated) == group_split(rated.groups, 0.25, 1)
    assert make_split(rated, "group", 0.5, 7) == group_split(rated.groups, 0.5, 7)
    assert make_split(rated, "paper") == paper_split(80)
    assert make_split(rated, "group", seed=2, k=5, fold=3) == folds(rated.groups, 5, 2)[3]
    assert make_split(rated, "paper", k=5, fold=4) == folds(80, 5, method="paper")[4]
    own = rated_set(rated.pictures, splits=["train", "test"] * 40)
    assert make_split(own, "own") == own_split(own)
    save_split(paper_split(80), tmp_path / "split.csv", rated)
    assert make_split(rated, tmp_path / "split.csv") == paper_split(80)
    with pytest.raises(InputError, match="no split 'papers': pass group, paper, own or the file"):
        make_split(rated, "papers")
    with pytest.raises(InputError, match="own is one split and has no folds"):
        make_split(own, "own", k=2)
    with pytest.raises(InputError, match="without k="):
        make_split(rated, fold=1)
    for fold in (5, -1):
        with pytest.raises(InputError, match="pass 0 to 4"):
            make_split(rated, k=5, fold=fold)


def test_a_saved_split_comes_back_exactly(tmp_path):
    rated, file = pku_like(), tmp_path / "split.csv"
    for split in (group_split(rated.groups), paper_split(80), Split((5, 2), (70,), 'mine, with "quotes"')):
        save_split(split, file, rated)
        assert load_split(file, rated) == split
    assert file.read_text().splitlines()[:4] == [
        "picture,side,method",
        'SD/SD_000_0.jpg,unused,"mine, with ""quotes"""',
        'SD/SD_000_1.jpg,unused,"mine, with ""quotes"""',
        'SD/SD_000_2.jpg,train,"mine, with ""quotes"""',
    ]


def test_a_saved_split_fits_the_data_set_moved_or_in_another_order(tmp_path):
    rated, file = pku_like(), tmp_path / "split.csv"
    split = paper_split(80)
    save_split(split, file, rated)
    assert load_split(file, pku_like(tmp_path / "elsewhere")) == split
    order = random.Random(0).sample(range(80), 80)
    again = rated.subset(order)
    assert {again.pictures[i] for i in load_split(file, again).test} == {
        rated.pictures[i] for i in split.test
    }


def several_references(folder=Path("set")):
    """Two pictures of two prompts each, every picture with its own reference, another's, and none."""
    rows = [(p, r) for p in ("a", "b") for r in ("ref/a.png", "ref/b.png", None)]
    return rated_set(
        [folder / f"gen/{p}{k}.png" for p, _ in rows for k in range(2)],
        [p for p, _ in rows for _ in range(2)],
        [r and folder / r for _, r in rows for _ in range(2)],
    )


def test_a_saved_split_tells_rows_of_one_picture_apart_by_their_references(tmp_path):
    rated, file = several_references(), tmp_path / "split.csv"
    split = Split((0, 3, 5, 8), (2, 4, 6, 11), "mine")  # of one picture, rows on both sides and unused ones
    save_split(split, file, rated)
    assert file.read_text().splitlines()[:4] == [
        "picture,reference,side,method",
        "a0.png,a.png,train,mine",
        "a1.png,a.png,unused,mine",
        "a0.png,b.png,test,mine",
    ]
    assert file.read_text().splitlines()[5] == "a0.png,,test,mine"
    assert load_split(file, rated) == split
    assert load_split(file, several_references(tmp_path / "elsewhere")) == split
    order = random.Random(0).sample(range(12), 12)
    found = load_split(file, rated.subset(order))
    assert {order[i] for i in found.train} == set(split.train)
    assert {order[i] for i in found.test} == set(split.test)
    for method in ("group", "paper"):
        made = make_split(rated, method)
        save_split(made, file, rated)
        assert load_split(file, rated) == made


def test_a_saved_split_of_other_references_is_refused(tmp_path):
    rated, file = several_references(), tmp_path / "split.csv"
    save_split(paper_split(12), file, rated)
    fewer = rated.subset(range(11))
    with pytest.raises(InputError, match=r"1 of its pictures are not in small: b1\.png"):
        load_split(file, fewer)
    save_split(paper_split(11), file, fewer)
    with pytest.raises(InputError, match=r"1 pictures of small are not in it: b1\.png"):
        load_split(file, rated)
    rated.references[1] = rated.references[0].with_name("c.png")
    save_split(paper_split(12), file, several_references())
    with pytest.raises(InputError, match=r"1 pictures of small are not in it: a1\.png with c\.png"):
        load_split(file, rated)
    text = file.read_text()
    file.write_text(text + text.splitlines()[3] + "\n")
    with pytest.raises(InputError, match=r"more than once: a0\.png with b\.png"):
        load_split(file, several_references())
    once = rated_set(rated.pictures[:2])  # whose split tells pictures apart by their names alone
    save_split(Split((0,), (1,), "mine"), file, once)
    with pytest.raises(InputError, match="not a saved split: no column reference"):
        load_split(file, several_references())


def test_a_saved_split_of_another_data_set_is_refused(tmp_path):
    rated, file = pku_like(), tmp_path / "split.csv"
    save_split(paper_split(80), file, rated)
    with pytest.raises(InputError, match=r"1 of its pictures are not in small: MJ/MJ_009_3\.jpg"):
        load_split(file, rated.subset(range(79)))
    more = rated_set([*rated.pictures, Path("set/new.png")])
    with pytest.raises(InputError, match=r"1 pictures of small are not in it: new\.png"):
        load_split(file, more)
    text = file.read_text()
    file.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(InputError, match=r"more than once: SD/SD_000_0\.jpg"):
        load_split(file, rated)
    file.write_text(text.replace("2.jpg,train", "2.jpg,left", 1))
    with pytest.raises(InputError, match="row 4: side 'left' is not train, test or unused"):
        load_split(file, rated)
    file.write_text("picture,mos\na.png,3\n")
    with pytest.raises(InputError, match="not a saved split: no column method, side"):
        load_split(file, rated)


@pytest.fixture
def files(tmp_path):
    """Eight pictures of four prompts, and a reference for each prompt, all different."""
    pictures = [tmp_path / f"{i}.png" for i in range(8)]
    references = [tmp_path / f"ref{i // 2}.png" for i in range(8)]
    for i, path in enumerate([*pictures, *references]):
        path.write_bytes(bytes([i, 0, 0]))
    return rated_set(pictures, [str(i // 2) for i in range(8)], references)


def test_leaks(files):
    clean = Split((0, 1, 2, 3), (4, 5, 6, 7), "mine")
    assert leaks(files, clean) == []
    groups, references = leaks(files, Split((0, 2, 4, 5), (1, 6, 7), "mine"))
    assert groups == "1 of 4 groups (prompts) are trained and tested on: 0"
    assert references == f"1 references are on both sides: {files.references[0]}"
    assert len(leaks(files, paper_split(8))) == 2


def test_leaks_of_identical_files(files):
    split = Split((0, 1, 2, 3), (4, 5, 6, 7), "mine")
    files.pictures[5].write_bytes(files.pictures[4].read_bytes())  # on one side
    assert leaks(files, split) == []
    files.references[7].write_bytes(files.pictures[1].read_bytes())
    assert leaks(files, split) == [
        f"identical files are on both sides: {files.pictures[1]}, {files.references[7]}"
    ]
    assert leaks(files, Split((2, 3), (4, 5), "mine")) == []  # neither is used
