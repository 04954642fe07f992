"""What tests of hostile pictures and names share: the command line, and when scores are the same."""

import subprocess
import sys

import pytest


def cli(*arguments, **options):
    command = [sys.executable, "-c", "from aigciqa.cli import score; score()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **options)


def near(scores):
    """To what is promised of one picture scored in two ways."""
    return pytest.approx(scores, rel=1e-4, abs=1e-4)


def lost(rows, names):
    return len(set(names) - {row.picture for row in rows})
