import os

import numpy as np
import pytest

from aigciqa.records import Row
from aigciqa.summary import Summary, print_table

DIMENSIONS = ("quality", "authenticity")


def test_table():
    scores = {"quality": 3.14159, "authenticity": -12.5}
    rows = [
        Row("a.png", None, scores),
        Row("evil\x1b[2J\n" + os.fsdecode(b"\xff") + "\u202e.png", None, scores),
        Row("folder/" * 10 + "last.png", None, None, "cannot\nread"),
        *(Row("a.png", None, scores) for _ in range(97)),
        Row("y" * 5000, None, scores),
    ]
    lines = []
    print_table(iter(rows), DIMENSIONS, lines.append)
    assert lines[0] == f"{'picture':<60}  quality  authenticity"
    assert lines[1] == f"{'a.png':<60}     3.14        -12.50"
    assert lines[2].startswith(r"evil\x1b[2J\n\udcff\u202e.png ")
    assert lines[3].startswith("folder/folder/") and lines[3][29] == "…"
    assert lines[3].endswith(r"folder/last.png        -             -  cannot\nread")
    assert len(lines) == 102 and {len(line) for line in lines if "cannot" not in line} == {83}
    lines.clear()
    print_table([], DIMENSIONS, lines.append)
    assert lines == ["picture  quality  authenticity"]


def test_the_table_does_not_wait_for_more_than_20_rows():
    printed, lines = [], []

    def rows():
        for i in range(25):
            printed.append(len(lines))
            yield Row(f"{i}.png", None, {"quality": 1.0})

    print_table(rows(), ["quality"], lines.append)
    assert printed == [0] * 20 + [21, 22, 23, 24, 25]
    assert len(lines) == 26


def test_later_names_stay_whole_though_longer_than_the_first_20():
    names = [f"{i}.png" for i in range(1200)] + ["y" * 61]
    lines = []
    print_table((Row(n, None, {"quality": 1.0}) for n in names), ["quality"], lines.append)
    shown = [line.split()[0] for line in lines[1:]]
    assert shown[:-1] == names[:-1]
    assert shown[-1] == "y" * 29 + "…" + "y" * 30


@pytest.mark.parametrize("shape", ["normal", "skewed", "few", "two", "one", "same", "negative", "shifted"])
def test_summary_against_numpy(shape):
    rng = np.random.default_rng(1)
    values = {
        "normal": rng.normal(3, 0.7, 20_000),
        "skewed": rng.lognormal(0, 2, 5000),
        "few": np.array([0.0, 1.5, 1.5, 4.0, 5.0]),
        "two": np.array([1.0, 5.0]),
        "one": np.array([2.3]),
        "same": np.full(100, 3.3),
        "negative": rng.uniform(-5, 5, 3000),
        "shifted": 100_000 + rng.normal(0, 1, 3000),
    }[shape].astype(np.float32).astype(float)  # fmt: skip
    summary = Summary(["quality"])
    for value in values:
        summary.add(Row("a.png", None, {"quality": value}))
    found = summary.statistics("quality")
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-9)
    assert found["sd"] == pytest.approx(values.std(ddof=1) if len(values) > 1 else 0, rel=1e-6, abs=1e-12)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    ordered = np.sort(values)
    for name, q in (("5%", 5), ("25%", 25), ("median", 50), ("75%", 75), ("95%", 95)):
        rank = q / 100 * (len(values) - 1)
        larger = np.abs(ordered[[int(np.floor(rank)), int(np.ceil(rank))]]).max()
        assert abs(found[name] - np.percentile(values, q)) <= larger / 4096 + 1e-12, name


def test_summary_memory_is_bounded():
    summary = Summary(["quality"])
    for value in np.random.default_rng(0).uniform(1, 5, 60_000):
        summary.add(Row("a.png", None, {"quality": value}))
    assert len(summary._spreads["quality"].rounded) <= 2.25 * 2048 + 1


def test_summary_lines():
    summary = Summary(DIMENSIONS)
    for i in range(1100):
        quality = 1.0 if i < 1000 else 5.0
        summary.add(Row("a.png", None, {"quality": quality, "authenticity": -quality}))
    summary.add(Row("b.png", None, None, "broken"))
    lines = summary.lines(seconds=2.0, scored=100)
    assert lines[0] == "1,101 pictures, 1 failed, 50.0 images/s"
    assert summary.lines(2.0)[0] == "1,101 pictures, 1 failed, 550.5 images/s"
    assert summary.lines()[0] == "1,101 pictures, 1 failed"
    assert lines[1].split() == ["mean", "±", "sd", "min", "5%", "25%", "median", "75%", "95%", "max"]
    assert lines[2].split()[:8] == ["quality", "1.364", "±", "1.150", "1.000", "1.000", "1.000", "1.000"]
    assert lines[2].split()[8:] == ["1.000", "5.000", "5.000", "█", "▁"]
    assert lines[2].endswith("█" + 18 * " " + "▁") and lines[3].endswith("▁" + 18 * " " + "█")
    assert Summary(DIMENSIONS).lines(1.0) == ["0 pictures, 0 failed, 0.0 images/s"]
    failed = Summary(DIMENSIONS)
    failed.add(Row("b.png", None, None, "broken"))
    assert failed.lines() == ["1 pictures, 1 failed"]
    assert failed.statistics("quality") == {}
