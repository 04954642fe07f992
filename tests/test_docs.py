"""Every example in a docstring and in the documentation runs."""

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from conftest import EXAMPLES

import aigciqa

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [m.name for m in pkgutil.walk_packages(aigciqa.__path__, "aigciqa.")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


SLOW = ("aigciqa.export", "aigciqa.onnx")  # they export a packaged metric


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in ("aigciqa", *MODULES)]
)
def test_docstrings(name, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    assert doctest.testmod(import_module(name), optionflags=FLAGS).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks(page, monkeypatch, tmp_path):
    """Blocks of one page run one after another, as a reader would paste them, in a copy of the examples."""
    for name in ("gen.png", "ref.png"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in page.read_text().split("```python\n")[1:]:
        exec(compile(block.split("```")[0], str(page), "exec"), names)
