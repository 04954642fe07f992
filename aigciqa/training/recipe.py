"""A training run as data: read from YAML, overridden by options, saved with the run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..config import PAPER_BACKBONES, MetricConfig, paper_config
from ..errors import CheckpointError, InputError
from .bounds import check_file

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
    """Everything that decides a run.

    Args:
        name: of the metric that comes out.
        reference: ``"none"``, ``"full"`` or ``"partial"``.
        backbone: one of the papers' (with their feature and preprocessing) or any timm architecture.
        weights: what to start from: ``"random"``; a timm pretrained tag (``"resnet50.tv_in1k"``), fetched through
            the Hub; a state dict's file (.pth, .pt or .safetensors, for the timm architecture); or a checkpoint
            (name, folder or Hub repository), of which the backbone is taken, and the head where it fits.
        feature: ``"avg"``, ``"token"`` or ``"stages"``; None for the backbone's.
        activation: ``"leaky_relu"`` for a ResNet18 or 34 with LeakyReLU in its blocks, as the code of arXiv 2404.18409
            has it and `aigciqa convert` may find; None for the backbone's own.
        hidden: width of the head's hidden layer; None for the papers'.
        resize: shorter side in pixels; None for the backbone's.
        crop: side of the crop in pixels; None for the backbone's.
        tiles: crops per side at native resolution, seen beside the whole picture; 0 for none.
        cells: per side, that stages are pooled to, see `aigciqa.config.MetricConfig`.
        tile_backbone: tiles go through a network of their own, likewise; it starts from what `weights` has for it, or
            from the backbone's own stages.
        mean: of normalisation; None for ImageNet's.
        std: of normalisation; None for ImageNet's.
        dimensions: what to predict. A data set may lack some.
        score_range: scale of the scores; labels of every data set are mapped to it.
        bounded: keep scores within `score_range`, see `aigciqa.config.MetricConfig`.
        labels: who gave the labels, in words, for the model card.
        license: of the checkpoint, for its model card.
        data: the data sets, learned from together.
        split: ``"group"`` (no prompt or reference on both sides), ``"paper"`` (every fourth row is test, prompts on
            both sides), ``"own"`` (the manifest's), or a file that an earlier run saved.
        test: part of the groups held out, for ``"group"``; 0 to learn from everything and test nothing.
        folds: cut into so many folds instead; 0 for none.
        fold: which of them is the test side.
        validation: part of the training side's groups to select the epoch by; 0 for none.
        select: ``"validation"``, ``"last"``, or ``"test"`` (the papers' protocol: optimistic).
        epochs: passes over the training side; with ``per_batch`` over the first data set that is learned from, while
            the others come as often as that takes.
        batch_size: rows per step, over all processes together; with ``per_batch`` the sum of these instead.
        batch_by: ``"row"``; ``"group"`` or ``"reference"`` to put rows of one group or one reference into one batch: a
            reference is then computed once for all of them, and ``rank`` finds its pairs.
        lr: of the head and the backbone.
        head_lr: of the head; None for `lr`.
        dropout: of the head's inputs, in training.
        weight_decay: of Adam (added to the gradient) or AdamW.
        optimizer: ``"adam"`` (the papers') or ``"adamw"``.
        schedule: ``"constant"`` or ``"cosine"``.
        warmup: epochs over which the rate grows from 0.
        loss: weight by term, see `aigciqa.training.losses.combined`.
        margin: of the ``rank`` term, on the scale of the scores.
        rank_within: ``"set"`` to rank rows of a data set with each other, ``"group"`` only those of a group,
            ``"reference"`` only those that share a reference (whether or not the model sees it).
        frozen: leave the backbone as it is: what the head sees of each row is computed once, without augmentation,
            and a new head learns from that in seconds per epoch, its inputs normalised.
        directions: with `frozen`, the head learns from so many principal directions of its inputs, which is faster
            and keeps to what pictures really differ in; 0 for the inputs as they are.
        statistics_only: with `frozen` and `tiles`, the head learns from natural scene statistics and nothing else that
            the network gives.
        members: with `frozen`, so many independent heads learn, each of `hidden` / `members`, and are averaged.
        freeze: epochs in which only the head learns, though the whole network is computed.
        freeze_norm: keep batch normalisation at its pretrained statistics.
        ema: decay of the weights' moving average per step; 0 for none.
        clip: largest norm of the gradient; 0 for none.
        accumulate: batches per step of the optimizer.
        precision: ``"no"``, ``"fp16"`` or ``"bf16"``.
        patience: stop after so many epochs without a better selection; 0 for never.
        augment: random crops and flips in training.
        half: write the checkpoint in half precision, at half the size.
        cache: folder for decoded pictures, or for the head's inputs, that several runs may share one after another;
            None for one in the run's folder, which is removed in the end.
        seed: of everything random.
    """

    name: str = "my-metric"
    reference: str = "none"
    backbone: str = "resnet50"
    weights: str = "random"
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
                    f"recipe: {name} must be one of {', '.join(choices)}, not {getattr(self, name)!r:.99}"
                )
        for name in ("epochs", "batch_size", "accumulate", "members"):
            if getattr(self, name) < 1:
                raise InputError(f"recipe: {name} must be at least 1")
        for name in ("test", "validation", "ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"recipe: {name} must be at least 0 and below 1")
        if not 0 <= self.fold < max(self.folds, 1):
            raise InputError(
                f"recipe: fold={self.fold} of {self.folds} folds; pass 0 to {max(self.folds, 1) - 1}"
            )
        given = [source.per_batch for source in self.data]
        if any(given) and min(given) < 1:
            raise InputError("recipe: per_batch must be at least 1 for every data set, or 0 for all of them")
        if self.select == "validation" and self.validation == 0:
            raise InputError("recipe: select=validation needs a validation part; or select=last")
        if self.select == "test" and self.split == "group" and not self.test and not self.folds:
            raise InputError("recipe: select=test needs a test side")
        if self.freeze >= self.epochs and self.freeze > 0:
            raise InputError("recipe: freeze must be below epochs; to train only the head set frozen")
        if not self.frozen and (self.directions or self.members > 1):
            raise InputError("recipe: directions and members are for a frozen backbone; set frozen")
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


def read_recipe(source: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by the name of a shipped one or from a YAML file, with some fields replaced.

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
        for key in ("dimensions", "score_range", "mean", "std"):
            if isinstance(data.get(key), list):
                data[key] = tuple(data[key])
        recipe = Recipe(**data)
        recipe.config()
    except CheckpointError as error:
        raise InputError(f"recipe: {error}") from None
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
