"""Making checkpoints: data sets, training, evaluation, publishing. Nothing here is imported when scoring.

Needs ``pip install 'aigciqa[train]'``. The names below load what they need when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assessment import assess
    from .comparison import compare
    from .crossvalidation import cross_validate
    from .data import RatedSet, check, load
    from .degradations import degrade
    from .evaluation import evaluate
    from .paper import paper_results
    from .publishing import publish
    from .recipe import DataSource, Recipe, list_recipes, read_recipe
    from .reproduction import reproduce
    from .splits import make_split
    from .synthesis import synthesize
    from .trainer import train
    from .upstream import convert

_HOME = {
    "DataSource": "recipe",
    "RatedSet": "data",
    "Recipe": "recipe",
    "assess": "assessment",
    "check": "data",
    "compare": "comparison",
    "convert": "upstream",
    "cross_validate": "crossvalidation",
    "degrade": "degradations",
    "evaluate": "evaluation",
    "list_recipes": "recipe",
    "load": "data",
    "make_split": "splits",
    "paper_results": "paper",
    "publish": "publishing",
    "read_recipe": "recipe",
    "reproduce": "reproduction",
    "synthesize": "synthesis",
    "train": "trainer",
}

__all__ = [
    "DataSource",
    "RatedSet",
    "Recipe",
    "assess",
    "check",
    "compare",
    "convert",
    "cross_validate",
    "degrade",
    "evaluate",
    "list_recipes",
    "load",
    "make_split",
    "paper_results",
    "publish",
    "read_recipe",
    "reproduce",
    "synthesize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
