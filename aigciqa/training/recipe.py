"""A training run as data: read from YAML, overridden by options, saved with the run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..config import PAPER_BACKBONES, MetricConfig, paper_config
from ..errors import CheckpointError, InputError, Parameter
from .bounds import check_file
from .fields import FIELDS

LONGEST = 1 << 20  # bytes of a recipe, which is about a page
VALUES = 10_000  # in a recipe, at most
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataSource:
    """One data set of a recipe.

    Args:
        path: a data set's folder, or a manifest or label file.
        format: see `aigciqa.training.data.load`; None to detect it.
        images: root of the manifest's relative paths; None for its folder.
        columns: our names to the manifest's.
        score_range: lowest and highest of its labels, which are mapped to the recipe's; None for the format's.
        header: whether its table has one; None to tell by its cells.
        duplicates: ``"error"``, ``"drop"`` or ``"mean"``: what becomes of further rows for one picture.
        weight: of its rows in the loss.
        per_batch: rows of it in every batch; 0 for its share of all rows. For sets of very different sizes, since a
            weight acts only within the batches that a row is in.
    """

    path: str
    format: str | None = None
    images: str | None = None
    columns: dict[str, str] | None = None
    score_range: tuple[float, float] | None = None
    header: bool | None = None
    duplicates: str = "error"
    weight: float = 1.0
    per_batch: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    name: str = "my-metric"
    reference: str = "none"
    backbone: str = "resnet50"
    weights: str = "pretrained"
    feature: str | None = None
    activation: str | None = None
    hidden: int | None = None
    resize: int | None = None
    crop: int | None = None
    tiles: int = 0
    cells: int = 1
    tile_backbone: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dimensions: tuple[str, ...] = ("quality",)
    score_range: tuple[float, float] = (0.0, 5.0)
    bounded: bool = False
    labels: str = ""
    license: str = "unknown"
    data: tuple[DataSource, ...] = ()
    split: str = "group"
    test: float = 0.25
    folds: int = 0
    fold: int = 0
    validation: float = 0.15
    select: str = "validation"
    epochs: int = 30
    batch_size: int = 8
    batch_by: str = "row"
    lr: float = 1e-4
    head_lr: float | None = None
    dropout: float = 0.0
    weight_decay: float = 1e-5
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup: float = 0.0
    loss: dict[str, float] = field(default_factory=lambda: {"mse": 1.0})
    margin: float = 0.5
    rank_within: str = "set"
    frozen: bool = False
    directions: int = 0
    statistics_only: bool = False
    members: int = 1
    freeze: int = 0
    freeze_norm: bool = False
    ema: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    precision: str = "no"
    patience: int = 0
    augment: bool = True
    half: bool = False
    cache: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        one_of = {
            "select": ("validation", "last", "test"),
            "batch_by": ("row", "group", "reference"),
            "optimizer": ("adam", "adamw"),
            "schedule": ("constant", "cosine"),
            "rank_within": ("set", "group", "reference"),
            "precision": ("no", "fp16", "bf16"),
        }
        for name, choices in one_of.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    "recipe: ",
                    Parameter(name),
                    f" must be one of {', '.join(choices)}, not {getattr(self, name)!r:.99}",
                )
        for name in ("epochs", "batch_size", "accumulate", "members"):
            if getattr(self, name) < 1:
                raise InputError("recipe: ", Parameter(name), " must be at least 1")
        for name in ("test", "validation", "ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError("recipe: ", Parameter(name), " must be at least 0 and below 1")
        if not 0 <= self.fold < max(self.folds, 1):
            raise InputError(
                "recipe: ",
                Parameter("fold", str(self.fold)),
                f" of {self.folds} folds; pass 0 to {max(self.folds, 1) - 1}",
            )
        given = [source.per_batch for source in self.data]
        if any(given) and min(given) < 1:
            raise InputError("recipe: per_batch must be at least 1 for every data set, or 0 for all of them")
        if self.select == "validation" and self.validation == 0:
            raise InputError(
                "recipe: ",
                Parameter("select", "validation"),
                " needs a validation part; or ",
                Parameter("select", "last"),
            )
        if self.select == "test" and self.split == "group" and not self.test and not self.folds:
            raise InputError("recipe: ", Parameter("select", "test"), " needs a test side")
        if self.freeze >= self.epochs and self.freeze > 0:
            raise InputError(
                "recipe: ",
                Parameter("freeze"),
                " must be below epochs; to train only the head set ",
                Parameter("frozen", "true", "True"),
            )
        if not self.frozen and (self.directions or self.members > 1):
            raise InputError(
                "recipe: directions and members are for a frozen backbone; set ",
                Parameter("frozen", "true", "True"),
            )
        if self.statistics_only and not (self.frozen and self.feature == "stages" and self.tiles):
            raise InputError("recipe: statistics_only is for a frozen backbone, feature stages and tiles")
        if (self.hidden or 0) % self.members or (self.members > 1 and not self.hidden):
            raise InputError("recipe: hidden must be given, as a multiple of members")

    def config(self) -> MetricConfig:
        """The config of the checkpoint that this recipe makes, without checksum and provenance."""
        changes: dict[str, Any] = {
            "name": self.name,
            "dimensions": self.dimensions,
            "score_range": self.score_range,
            "bounded": self.bounded,
            "hidden": self.hidden,
            "cells": self.cells,
            "activation": self.activation,
        }
        if self.feature is not None:
            changes["feature"] = self.feature
        if self.backbone in PAPER_BACKBONES:
            config = paper_config(self.backbone, self.reference, **changes)
        else:
            config = MetricConfig(reference=self.reference, backbone=self.backbone, **changes)
        given = {k: getattr(self, k) for k in ("resize", "crop", "tiles", "mean", "std")}
        transform = replace(config.transform, **{k: v for k, v in given.items() if v})
        return config.with_(transform=transform, tile_backbone=self.tile_backbone)

    def to_yaml(self) -> str:
        """As `read_recipe` reads it."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


if Recipe.__doc__:  # which python -OO takes away
    Recipe.__doc__ += "\n\nArgs:\n" + "\n".join(f"    {name}: {text}" for name, text in FIELDS.items())


def read_recipe(source: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by the name of a shipped one or from a YAML file, with some fields replaced.

    Where neither says `score_range`, and all data sets say the same range of their labels, the scores have that range.

    Args:
        source: a name of `list_recipes`, a file, or None for the defaults.
        overrides: by field; None leaves a field alone.

    Raises:
        InputError: for an unknown name, field or value.

    Examples:
        >>> read_recipe("fr-resnet50", {"epochs": 3}).epochs
        3
    """
    data: dict[str, Any] = {}
    if source is not None:
        path = RECIPES / f"{source}.yaml"
        path = path if path.is_file() else Path(source)
        if not path.is_file():
            raise InputError(
                f"no recipe {str(source)!r}; shipped are {', '.join(list_recipes())}, or name a file"
            )
        try:
            check_file(path, LONGEST, "a recipe")
            data = yaml.safe_load(path.read_text())
            _count(data, {})
        except InputError:
            raise
        # values that Python cannot hold, such as dates that are none; and what is nested too deeply
        except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError) as error:
            raise InputError(f"{path}: not readable as YAML: {str(error)[:500]}") from None
        if not isinstance(data, dict):
            raise InputError(f"{path}: a recipe is a mapping of names to values")
    data |= {k: v for k, v in (overrides or {}).items() if v is not None}
    if unknown := data.keys() - {f.name for f in fields(Recipe)}:
        raise InputError(f"recipe: unknown {', '.join(sorted(map(str, unknown))):.500}")
    sources = data.get("data") or ()
    try:
        data["data"] = tuple(s if isinstance(s, DataSource) else _source(s) for s in sources)
        stated = {source.score_range for source in data["data"]}
        if "score_range" not in data and len(stated) == 1 and None not in stated:
            [data["score_range"]] = stated
        for key in ("dimensions", "score_range", "mean", "std"):
            if isinstance(data.get(key), list):
                data[key] = tuple(data[key])
        recipe = Recipe(**data)
        recipe.config()
    except CheckpointError as error:
        raise InputError("recipe: ", *error.args) from None
    except (TypeError, AttributeError) as error:
        raise InputError(f"recipe: a value has the wrong type: {error!s:.500}") from None
    return recipe


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, those that aliases name counted each time, as messages would show them.

    Raises:
        ValueError: for more than a recipe has, or a value that contains itself.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = VALUES  # until it is known
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    if known[id(value)] >= VALUES:
        raise ValueError(f"it has more than {VALUES:,} values, or its aliases name each other")
    return known[id(value)]


def _source(given: str | dict[str, Any]) -> DataSource:
    if isinstance(given, str):
        return DataSource(given)
    if isinstance(given.get("score_range"), list):
        given = given | {"score_range": tuple(given["score_range"])}
    return DataSource(**given)


def list_recipes() -> list[str]:
    """The recipes that are shipped, one per row of the papers' tables.

    Examples:
        >>> "nr-inceptionv4" in list_recipes()
        True
    """
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value
