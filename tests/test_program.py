"""The program: that it ends as Python programs end, though sooner."""

import gc
import subprocess
import sys

import pytest
from conftest import EXAMPLES
from test_cli import call, run


def ended(body, **how):
    """A process in which the command is `body`."""
    lines = "\n    ".join(body.splitlines())
    code = (
        f"import atexit, gc, os, sys\nimport aigciqa.cli\nfrom aigciqa.program import main\n"
        f"def score(obj):\n    {lines}\naigciqa.cli.score = score\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, **how)


@pytest.mark.parametrize(("code", "said"), [("0", 0), ("2", 2), ("None", 0), ("'why'", 1)])
def test_it_ends_with_what_the_command_says_after_everything_else(code, said):
    result = ended(
        "import threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.5), print('thread'))).start()\n"
        f"print('command')\nsys.exit({code})"
    )
    assert result.returncode == said
    assert result.stdout.split("\n") == ["command", "thread", "at exit", ""]
    assert result.stderr == ("why\n" if said == 1 else "")


def test_python_is_not_taken_apart():
    """A module's last words are never said."""
    last = "class Last:\n    def __del__(self, say=os.write): say(1, b'last')\nsys.last = Last()\n"
    assert ended(last + "sys.exit(0)").stdout == ""
    assert ended(last).stdout == "last"


def test_what_was_not_foreseen_is_a_traceback():
    result = ended("1 / 0")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        code = "from aigciqa.program import main; import aigciqa.cli, sys\n"
        code += "aigciqa.cli.score = lambda obj: (print('x'), sys.exit(0))\nmain()"
        result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode != 0
    assert "No space left" in result.stderr


def test_garbage_is_collected_again_when_there_is_something_to_score():
    result = ended(
        "before = gc.isenabled()\nobj()\nprint(before, gc.isenabled(), gc.get_freeze_count() > 0)\nsys.exit(0)"
    )
    assert result.stdout.split() == ["False", "True", "True"]


def test_within_another_program_the_command_leaves_garbage_alone(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    frozen = gc.get_freeze_count()
    call("gen.png", "--format", "csv")
    assert gc.isenabled() and gc.get_freeze_count() == frozen


def test_the_installed_program_is_this_one():
    result = run("gen.png", "missing.png", "--format", "csv")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 3
