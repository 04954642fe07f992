"""The schema of a checkpoint's ``config.json``: everything needed to use a metric except its weights."""

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import CheckpointError, InputError
from .transient import transient, unreadable

FORMAT = 1
# The Hub's client makes paths of a repository's name and of a revision, so neither may lead elsewhere.
REPO = r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?/\w(?:[\w.-]{0,94}\w)?"
REPO_IS = "owner/name of letters, digits, '.', '-' and '_', without '--' or '..'"
REVISION = r"(?=.{1,200}$)(?!.*\.\.)\w[\w.-]*(?:/[\w-][\w.-]*)*"
REVISION_IS = "a branch, tag or commit of letters, digits, '.', '-', '_' and '/', without '..'"
LONGEST = 1 << 20  # bytes; a config is about a page
PIXELS = 1 << 26  # that the backbone sees of one picture, at most
MODES = {"none": "NR", "full": "FR", "partial": "PR"}
BASIC_BLOCKS = ("resnet18", "resnet34")  # networks of which `MetricConfig.activation` may be another
FEATURES = ("avg", "token", "stages")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DIMENSIONS = ("quality", "authenticity", "correspondence", "overall")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # PyTorch's names of them


@dataclass(frozen=True)
class Transform:
    """How a picture becomes the network's input: shorter side to `resize`, centre `crop`, normalise.

    Args:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the centre crop, in pixels; at most `resize`.
        tiles: how many crops of the same size, per side of a grid over the picture, are seen at native
            resolution beside the whole picture; 0 for none, as in the papers.
        mean: per RGB channel, for pictures in [0, 1].
        std: likewise.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    tiles: int = 0

    @property
    def views(self) -> int:
        """How many crops of a picture the backbone sees."""
        return 1 + self.tiles**2

    def batch(self, device: str) -> int:
        """Pictures per forward pass that suit a type of device, such as ``"cpu"``, where more is slower."""
        return max(1, (8 if device == "cpu" else 64) // self.views)


@dataclass(frozen=True)
class MetricConfig:
    """One checkpoint, described wholly.

    Args:
        name: what the metric is called in results.
        reference: ``"none"``, ``"full"`` or ``"partial"``: whether it compares with the image prompt.
        backbone: name of a timm architecture.
        feature: ``"avg"``, the average of the last feature map or of the patch tokens; ``"token"``, the
            class token before the final norm; or ``"stages"``, mean and standard deviation of the feature maps
            of every stage, see `aigciqa.stages`.
        activation: ``"leaky_relu"`` for a ``resnet18`` or ``resnet34`` whose blocks have LeakyReLU with a slope of 0.01
            where timm's have ReLU, as in the code of arXiv 2404.18409; the tensors are the same. None for timm's own.
        cells: with ``"stages"``, maps are pooled in cells x cells parts, so that full reference can compare
            the generated picture with its reference part by part.
        tile_backbone: whether tiles, which are there then, go through a network of their own, the first stages of
            `backbone` with other weights, so that it can learn what damage looks like while the one for whole
            pictures stays as it is.
        hidden: width of the head's hidden layer; None for the papers' width (half of the head's input).
        map_hidden: with tiles and no reference, channels of the head that draws `Metric.explain`'s maps; None when
            there is none.
        dimensions: what the head predicts, in order; the first is what calling the metric returns.
        score_range: lowest and highest score of the labels it was trained on.
        bounded: whether scores keep within `score_range`, by a hyperbolic tangent behind the head, as steep as
            the head itself in the middle; else they may lie somewhat beyond.
        transform: preprocessing.
        sha256: of the weights file, 64 hexadecimal digits.
        provenance: free text by key; ``labels`` (what it learned from) and ``license`` are required.
        repo: where the same bytes are published on the Hugging Face Hub, if they are.
        revision: the tag there.

    Raises:
        CheckpointError: for a value out of its domain, naming the field.
    """

    name: str
    reference: str
    backbone: str
    feature: str = "avg"
    activation: str | None = None
    cells: int = 1
    tile_backbone: bool = False
    hidden: int | None = None
    map_hidden: int | None = None
    dimensions: tuple[str, ...] = ("quality",)
    score_range: tuple[float, float] = (0.0, 5.0)
    bounded: bool = False
    transform: Transform = field(default_factory=Transform)
    sha256: str = ""
    provenance: dict[str, str] = field(default_factory=lambda: {"labels": "unknown", "license": "unknown"})
    repo: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        t = self.transform
        for ok, name, wanted in (
            (_matches(r"[\w.-]{1,96}", self.name), "name", "letters, digits, '.', '-' and '_'"),
            (self.reference in MODES, "reference", f"one of {', '.join(MODES)}"),
            (_matches(r"[a-z0-9_]{1,96}", self.backbone), "backbone", "the name of a timm architecture"),
            (self.feature in FEATURES, "feature", f"one of {', '.join(FEATURES)}"),
            (
                self.activation is None
                or (self.activation == "leaky_relu" and self.backbone in BASIC_BLOCKS),
                "activation",
                f"null, or leaky_relu with {' or '.join(BASIC_BLOCKS)}",
            ),
            (
                self.cells == 1 or (self.feature == "stages" and 1 <= self.cells <= 8),
                "cells",
                "1, or up to 8 with feature stages",
            ),
            (not self.tile_backbone or t.tiles > 0, "tile_backbone", "false without tiles"),
            (self.hidden is None or 1 <= self.hidden <= 65536, "hidden", "null, or 1 to 65536"),
            (
                self.map_hidden is None
                or (1 <= self.map_hidden <= 4096 and self.reference == "none" and t.tiles > 0),
                "map_hidden",
                "null, or with tiles and no reference 1 to 4096",
            ),
            (
                1 <= len(self.dimensions) <= 16
                and len(set(self.dimensions)) == len(self.dimensions)
                and all(_matches(r"[a-z][a-z0-9_]{0,31}", d) for d in self.dimensions),
                "dimensions",
                "1 to 16 different lower-case words",
            ),
            (
                len(self.score_range) == 2 and self.score_range[0] < self.score_range[1],
                "score_range",
                "[lowest, highest]",
            ),
            (1 <= t.crop <= t.resize <= 4096, "transform", "1 <= crop <= resize <= 4096"),
            (
                t.tiles == 0 or (self.feature == "stages" and 0 < t.tiles <= 8 and t.crop >= 32),
                "transform",
                "tiles from 0 to 8; with feature stages, and a crop of 32 or more",
            ),
            (
                t.views * t.crop**2 <= PIXELS,
                "transform",
                f"at most {PIXELS:,} pixels, which are crop x crop x (1 + tiles x tiles)",
            ),
            (
                len(t.mean) == 3
                and len(t.std) == 3
                and min(t.std) >= 1e-4,  # less is 0 in float32, or near it
                "transform",
                "3 means, 3 stds of 0.0001 or more",
            ),
            (_matches(r"|[0-9a-f]{64}", self.sha256), "sha256", "64 hexadecimal digits"),
            ({"labels", "license"} <= self.provenance.keys(), "provenance", "'labels' and 'license'"),
            (
                all(map(_printable, chain(self.provenance, self.provenance.values()))),
                "provenance",
                "text without control characters",
            ),
            (
                self.repo is None or _matches(REPO, self.repo),
                "repo",
                f"null, or {REPO_IS}",
            ),
            (
                self.revision is None or _matches(REVISION, self.revision),
                "revision",
                f"null, or {REVISION_IS}",
            ),
        ):
            if not ok:
                raise CheckpointError(f"config: {name} must be {wanted}, not {_brief(getattr(self, name))}")

    @property
    def mode(self) -> str:
        """``"NR"``, ``"FR"`` or ``"PR"``."""
        return MODES[self.reference]

    def dimension(self, wanted: str | None) -> str:
        """The dimension that is wanted, or the first.

        Args:
            wanted: one of `dimensions`; None for the first.

        Raises:
            InputError: for another.
        """
        if wanted is not None and wanted not in self.dimensions:
            raise InputError(
                f"{self.name} predicts {', '.join(self.dimensions)}, not {wanted!r}; "
                "choose one of these, or another checkpoint"
            )
        return wanted or self.dimensions[0]

    @property
    def stamp(self) -> str:
        """Of the checkpoint on PyTorch in float32, as in every row of results; see `aigciqa.stamp.stamp_of`."""
        from .stamp import stamp_of

        return stamp_of(self)

    def with_(self, **changes: Any) -> "MetricConfig":
        """A copy with some fields changed, validated again."""
        return replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "config.json") -> "MetricConfig":
        """Read a `config.json`; unknown keys, missing keys and wrong types are refused.

        Args:
            text: the file's content.
            where: its name, for messages.

        Raises:
            CheckpointError: when it is not a config of this format.
        """
        try:
            data = json.loads(text, object_pairs_hook=_unique)
            if not isinstance(data, dict) or "format" not in data:
                raise CheckpointError("it is not an aigciqa config ('format' is missing)")
            if data.pop("format") != FORMAT:
                raise CheckpointError(f"its format is not {FORMAT}; upgrade aigciqa to read it")
            return _build(cls, data)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{where}: not readable as JSON: {error}") from None


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text, re.ASCII) is not None


def _printable(text: str) -> bool:
    """Whether it can be printed, in more than one line if need be, without moving about on the terminal."""
    return re.search(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", text) is None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; with a key that stands twice, readers would differ in what it means."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _build(cls: type, data: dict[str, Any]) -> Any:
    """A config dataclass from parsed JSON, every field checked against its annotation."""
    known = {f.name: f for f in fields(cls)}
    if unknown := data.keys() - known.keys():
        raise CheckpointError(f"unknown keys {_brief(sorted(unknown))}")
    values = {}
    for key, value in data.items():
        kind = known[key].type
        if kind is Transform and isinstance(value, dict):
            values[key] = _build(Transform, value)
        elif kind is not Transform and _fits(value, str(kind)):
            values[key] = tuple(value) if isinstance(value, list) else value
        else:
            raise CheckpointError(f"config: {key} has the wrong type: {_brief(value)}")
    try:
        return cls(**values)
    except TypeError as error:  # a required key is missing
        raise CheckpointError(str(error).replace(f"{cls.__name__}.__init__()", "config")) from None


def _fits(value: Any, kind: str) -> bool:
    def number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e9

    if kind.endswith("| None"):
        return value is None or _fits(value, kind.removesuffix("| None").strip())
    if kind.startswith("tuple[float"):
        return isinstance(value, list) and all(map(number, value))
    if kind.startswith("tuple[str"):
        return isinstance(value, list) and all(isinstance(x, str) for x in value)
    if kind.startswith("dict[str"):
        return isinstance(value, dict) and all(isinstance(x, str) for x in value.values())
    if "bool" in kind:
        return isinstance(value, bool)
    if "int" in kind:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


PAPER_BACKBONES: dict[str, dict[str, Any]] = {
    # name in the papers: timm architecture, feature, preprocessing (arXiv 2311.15556 and 2404.18409)
    "vgg16": {"backbone": "vgg16"},
    "vgg19": {"backbone": "vgg19"},
    "resnet18": {"backbone": "resnet18"},
    "resnet50": {"backbone": "resnet50"},
    "inceptionv4": {"backbone": "inception_v4", "transform": Transform(resize=320, crop=299)},
    "vit-l": {"backbone": "vit_large_patch16_224", "feature": "token"},
}


def paper_config(backbone: str, reference: str = "none", **changes: Any) -> MetricConfig:
    """The config of one of the papers' models, before training.

    Args:
        backbone: ``vgg16``, ``vgg19``, ``resnet18``, ``resnet50``, ``inceptionv4`` (arXiv 2311.15556) or
            ``vit-l`` (arXiv 2404.18409).
        reference: ``"none"``, ``"full"`` or ``"partial"``.
        **changes: any field of `MetricConfig`.

    Raises:
        CheckpointError: for another backbone (build a `MetricConfig` for those) or a wrong field value.

    Examples:
        >>> from aigciqa import paper_config
        >>> paper_config("inceptionv4", "full").transform.crop
        299
    """
    if backbone not in PAPER_BACKBONES:
        raise CheckpointError(
            f"{backbone!r} is none of the papers' backbones ({', '.join(PAPER_BACKBONES)}); "
            "for any other timm architecture build a MetricConfig(name=, reference=, backbone=)"
        )
    name = f"{MODES.get(reference, reference).lower()}-{backbone}"
    return MetricConfig(**{"name": name, "reference": reference, **PAPER_BACKBONES[backbone], **changes})


def read_config(folder: Path) -> MetricConfig:
    """The config of the checkpoint in `folder`.

    Raises:
        CheckpointError: when there is none, or it is not valid.
    """
    path = folder / "config.json"
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write to it
            raise CheckpointError(f"{folder} is not a checkpoint: {path.name} is not a file")
        with path.open("rb") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        if transient(error):
            raise CheckpointError(f"{unreadable(str(path), error)}; put that right and try again") from error
        raise CheckpointError(
            f"{folder} is not a checkpoint: cannot read {path.name} ({error.strerror}); "
            "a checkpoint is a folder with config.json and model.safetensors"
        ) from None
    if len(text) > LONGEST:
        raise CheckpointError(f"{path}: has more than {LONGEST:,} bytes, so it is no config of a checkpoint")
    return MetricConfig.from_json(text, where=str(path))
