"""Options that several commands of `aigciqa` share, and those that are made from the fields of a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import click

from ..cli import Command
from .fields import FIELDS
from .recipe import DataSource, Recipe

if TYPE_CHECKING:
    from .data import RatedSet

F = Callable[..., Any]
RANGES = ("--range", "--score-range")
DATA_OPTIONS = {  # and what they are when nobody gives them
    "format": None, "images": None, "columns": None, "label_range": None, "header": None, "duplicates": "error",
}  # fmt: skip


class NamedOption(click.Option):
    """An option of a parameter whose name another option of the command has.

    Args:
        parameter: what the parameter is called in messages, see `aigciqa.errors.Parameter`.
    """

    def __init__(self, *args: Any, parameter: str, **options: Any):
        super().__init__(*args, **options)
        self.parameter = parameter


class RangeCommand(Command):
    """A command whose ranges may be written `--range 1 5`, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make two numbers after such an option one list."""
        joined: list[str] = []
        for word in args:
            if joined[-2:-1] and joined[-2] in RANGES and _is_number(joined[-1]) and _is_number(word):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Value(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The text of an option as the type of its field: 3, 0.5, true, "quality,overall", "mse=1,rank=0.5".

    Args:
        kind: the type as the field writes it, such as ``tuple[float, float] | None``.
    """

    NAMES: ClassVar = {
        "int": "integer", "float": "number", "bool": "true|false", "str": "text",
        "dict[str, float]": "term=weight,...", "tuple[str, ...]": "text,...",
    }  # fmt: skip

    def __init__(self, kind: str):
        self.kind = kind.removesuffix(" | None")
        self.count = self.kind.count("float") if self.kind.startswith("tuple[float") else None
        self.name = self.NAMES.get(self.kind, ",".join(["number"] * (self.count or 1)))

    @classmethod
    def of(cls, field: "Field[Any]") -> "Value":
        """That of a field."""
        return cls(str(field.type).replace("<class '", "").replace("'>", ""))

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = parsed(value, self.kind)
        except ValueError:
            return self.fail(f"{value!r} is not {self.name}", param, ctx)
        if self.count and len(found) != self.count:
            return self.fail(f"{value!r} is not {self.name}", param, ctx)
        if self.count == 2 and not found[0] < found[1]:
            return self.fail(f"{value!r} is no range, whose first number is below the second", param, ctx)
        return found


def parsed(text: str, kind: str) -> Any:
    """The value of a type that a text stands for.

    Raises:
        ValueError: when it is not of that type.

    Examples:
        >>> parsed("1,5", "tuple[float, float]"), parsed("mse=1,rank", "dict[str, float]")
        ((1.0, 5.0), {'mse': 1.0, 'rank': 1.0})
    """
    if kind.startswith("dict"):
        return {k: float(v or "1") for k, _, v in (one.partition("=") for one in text.split(","))}
    if kind.startswith("tuple[float"):
        return tuple(float(v) for v in text.split(","))
    if kind.startswith("tuple[str"):
        return tuple(v.strip() for v in text.split(","))
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    convert: Callable[[str], Any] = {"int": int, "float": float}.get(kind, str)
    return convert(text)


def recipe_options(command: F) -> F:
    """An option for every field of `Recipe` but its data sets."""
    for one in reversed(fields(Recipe)):
        if one.name != "data":
            words = FIELDS[one.name].replace("``", "").replace("`", "")
            command = click.option(
                f"--{one.name.replace('_', '-')}",
                type=Value.of(one),
                default=None,
                help=words[:1].upper() + words[1:],
            )(command)
    return command


def data_options(command: F) -> F:
    """The options that say how a data set is read, which `source` takes."""
    for option in (
        click.option("--format", metavar="NAME", help="Of the data set.  [default: detected]"),
        click.option(
            "--images", metavar="DIR", help="Root of the relative paths in a manifest.  [default: its folder]"
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="OURS=THEIRS",
            callback=_columns,
            help="Column of a manifest, such as quality=mos.",
        ),
        click.option(
            "--range",
            "label_range",
            cls=NamedOption,
            parameter="score_range",
            type=Value("tuple[float, float]"),
            metavar="LOW,HIGH",
            help="Lowest and highest possible label.  [default: the format's, or the labels' own]",
        ),
        click.option(
            "--no-header",
            "header",
            flag_value=False,
            default=None,
            help="The table's first row is a picture; its columns are 0, 1 and so on.  [default: by its cells]",
        ),
        click.option(
            "--duplicates",
            type=click.Choice(["error", "drop", "mean"]),
            default="error",
            show_default=True,
            help="Of further rows for one picture: drop them, or average their labels with the first one's.",
        ),
    ):
        command = option(command)
    return command


def _columns(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [one.partition("=") for one in given]
    if any(not sign for _, sign, _ in pairs):
        raise click.UsageError("--column is written OURS=THEIRS, such as quality=mos", ctx)
    return {ours: theirs for ours, _, theirs in pairs} or None


def source(
    path: str,
    *,
    format: str | None,
    images: str | None,
    columns: dict[str, str] | None,
    label_range: tuple[float, float] | None,
    header: bool | None,
    duplicates: str,
) -> DataSource:
    """The data set at `path`, as `data_options` describe it."""
    return DataSource(path, format, images, columns, label_range, header, duplicates)


def given_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `DATA_OPTIONS` that somebody gave, as fields of `DataSource`."""
    given = {name: value for name, value in described.items() if value != DATA_OPTIONS[name]}
    return {"score_range" if name == "label_range" else name: value for name, value in given.items()}


def opened(path: str, **options: Any) -> "RatedSet":
    """That data set, read."""
    from .rows import open_source

    return open_source(source(path, **options))
