"""Lines about long work, where there is no terminal for a bar."""

import sys

from test_looking import on_terminal

from aigciqa import progress
from aigciqa.progress import Progress, each

CODE = "from aigciqa.progress import each\nfor _ in each('abc', 'letters', 3):\n    pass\n"


def test_a_line_says_how_far_it_is_and_how_long_it_will_take(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 90.0, 125.0, 300.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("features", 11_000, begun=1_000) as counted:
        for _ in range(5):
            counted.done(2_000)
    assert capsys.readouterr().err.splitlines() == [
        "features: 5,000 of 11,000, 01:31 left",
        "features: 9,000 of 11,000, 00:31 left",
    ]


def test_short_work_says_nothing_and_hidden_work_never(monkeypatch, capsys):
    assert list(each("abc", "letters", 3)) == ["a", "b", "c"]
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Progress("features", 9, shown=False) as counted:
        counted.done()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_is_a_bar_and_leaves_nothing():
    shown, _ = on_terminal([sys.executable, "-c", CODE])
    assert "letters" in shown and "\n" not in shown
    assert shown.rstrip("\r").rpartition("\r")[2].strip() == ""
