"""Every example in a docstring and in the documentation runs."""

import doctest
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
from conftest import EXAMPLES

import aigciqa
import aigciqa.training

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [m.name for m in pkgutil.walk_packages(aigciqa.__path__, "aigciqa.")]
ELSEWHERE = (
    "recipes.md",
    "extending.md",
)  # test_recipes.py and test_extending.py run theirs, on what they need
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in ELSEWHERE)]


SLOW = ("aigciqa.export", "aigciqa.onnx")  # they export a packaged metric


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in ("aigciqa", *MODULES)]
)
def test_docstrings(name, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    assert doctest.testmod(import_module(name), optionflags=FLAGS).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks(page, monkeypatch, tmp_path, one_thread):
    """Blocks of one page run one after another, as a reader would paste them, in a copy of the examples."""
    for name in ("gen.png", "ref.png"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in page.read_text().split("```python\n")[1:]:
        exec(compile(block.split("```")[0], str(page), "exec"), names)


def test_api_page_is_complete():
    """Every public name of the two packages, and no name that is not there."""
    named = re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    for package in (aigciqa, aigciqa.training):
        missing = [
            f"{package.__name__}.{home}.{name}"
            for name, home in package._HOME.items()
            if not {f"{package.__name__}.{home}.{name}", f"{package.__name__}.{home}"} & set(named)
        ]
        assert not missing


def test_one_version():
    """The package, its citation and its changelog name the same one."""
    version = aigciqa.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(version)}, (not released yet|\d{{4}}-\d\d-\d\d)", headings[0])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_links_lead_somewhere():
    """Of README.md and others that no site is built from; `mkdocs build --strict` sees to the rest."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{page.name}: {target}"
