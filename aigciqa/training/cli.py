"""The `aigciqa` command: train, evaluate, publish, convert, export, data. Heavy imports wait for their command."""

import json
import re
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..catalogue import completion_command, demo_command, info_command, list_command, report_command
from ..cli import Command, Program, complete_files, complete_metric, waiting
from ..writing import write_named
from .recipe import DataSource, Recipe, list_recipes, read_recipe

if TYPE_CHECKING:
    from .data import RatedSet

F = Callable[..., Any]


class _Group(Program, click.Group):
    command_class = Command
    group_class = type


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="aigciqa")
def main() -> None:
    """Train, evaluate and publish metrics for AI-generated images. To score pictures: aigciqa-score."""


for one in (list_command, info_command, report_command, demo_command, completion_command):
    main.add_command(one)


# -- options


def _data_options(command: F) -> F:
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
            help="Column of a manifest, such as quality=mos.",
        ),
        click.option("--range", "score_range", type=float, nargs=2, help="Lowest and highest label."),
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


def _columns(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [one.partition("=") for one in given]
    if any(not sign for _, sign, _ in pairs):
        raise click.UsageError("--column is written OURS=THEIRS, such as quality=mos")
    return {ours: theirs for ours, _, theirs in pairs} or None


def _load(
    path: str,
    format: str | None,
    images: str | None,
    columns: tuple[str, ...],
    score_range: tuple[float, float] | None,
    header: bool | None,
    duplicates: str,
) -> "RatedSet":
    """The data set that `_data_options` describe."""
    from .data import load

    root = None if images is None else Path(images)
    return load(
        Path(path), format, images=root, columns=_columns(columns), score_range=score_range, header=header,
        duplicates=duplicates,
    )  # fmt: skip


def _recipe_options(command: F) -> F:
    """An option for every field of `Recipe`; its help is the field's line in the docstring."""
    text = (Recipe.__doc__ or "").partition("Args:")[2]
    described = dict(re.findall(r"\n {8}(\w+): (.+?)(?=\n {8}\w|\s*$)", text, re.DOTALL))
    for one in reversed(fields(Recipe)):
        if one.name != "data":
            words = " ".join(described[one.name].replace("``", "").replace("`", "").split())
            command = click.option(
                f"--{one.name.replace('_', '-')}",
                type=_Value(one),
                default=None,
                help=words[:1].upper() + words[1:],
            )(command)
    return command


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The text of an option as the type of its field: 3, 0.5, true, "quality,overall", "mse=1,rank=0.5"."""

    NAMES: ClassVar = {
        "int": "integer", "float": "number", "bool": "true|false", "str": "text",
        "dict[str, float]": "term=weight,...", "tuple[str, ...]": "text,...",
    }  # fmt: skip

    def __init__(self, one: "Field[Any]"):
        self.kind = str(one.type).replace("<class '", "").replace("'>", "").removesuffix(" | None")
        self.name = self.NAMES.get(self.kind, "number,...")

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return _parsed(value, self.kind)
        except ValueError:
            return self.fail(f"{value!r} is not {self.name}", param, ctx)


def _parsed(value: str, kind: str) -> Any:
    if kind.startswith("dict"):
        return {k: float(v or "1") for k, _, v in (one.partition("=") for one in value.split(","))}
    if kind.startswith("tuple[float"):
        return tuple(float(v) for v in value.split(","))
    if kind.startswith("tuple[str"):
        return tuple(v.strip() for v in value.split(","))
    if kind == "bool":
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    convert: Callable[[str], Any] = {"int": int, "float": float}.get(kind, str)
    return convert(value)


# -- commands


def _complete_recipe(ctx: click.Context, param: click.Parameter, begun: str) -> "list[CompletionItem[str]]":
    named = [CompletionItem(name) for name in list_recipes() if name.startswith(begun)]
    return named or complete_files(ctx, param, begun)


def _list_recipes(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo("\n".join(list_recipes()))
        ctx.exit()


@main.command()
@click.argument("recipe", required=False, shell_complete=_complete_recipe)
@click.option(
    "--data",
    "paths",
    multiple=True,
    metavar="PATH",
    help="A data set's folder or manifest; may be repeated.",
    shell_complete=complete_files,
)
@click.option(
    "--out", required=True, metavar="DIR", help="Where the run goes.", shell_complete=complete_files
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--recipes", is_flag=True, is_eager=True, expose_value=False, callback=_list_recipes,
    help="List the shipped recipes and exit.",
)  # fmt: skip
@click.option(
    "--cross-validate",
    is_flag=True,
    help="Train once for each of --folds, and evaluate all of them together.",
)
@_data_options
@_recipe_options
def train(
    recipe: str | None,
    paths: tuple[str, ...],
    out: str,
    resume: bool,
    cross_validate: bool,
    format: str | None,
    images: str | None,
    columns: tuple[str, ...],
    score_range: tuple[float, float] | None,
    header: bool | None,
    duplicates: str,
    **overrides: Any,
) -> None:
    """Train a metric by a shipped recipe (see --recipes) or a YAML file, every field of which is an option.

    \b
    aigciqa train fr-resnet50 --data PKU-I2IQA --out runs/fr
    aigciqa train fr-resnet50 --data PKU-I2IQA --out runs/paper --split paper --select test --validation 0
    accelerate launch --num_processes 2 -m aigciqa.training.cli train nr-resnet50 --data D --out runs/nr
    """
    saved = Path(out) / "recipe.yaml"
    if resume and recipe is None and saved.exists():
        recipe = str(saved)
    if paths:
        overrides["data"] = [
            DataSource(p, format, images, _columns(columns), score_range or None, header, duplicates)
            for p in paths
        ]
    made = read_recipe(recipe, overrides)
    if cross_validate:
        from .crossvalidation import cross_validate as validate

        validate(made, out, report=click.echo)
        return
    from .trainer import train as run

    run(made, out, resume=resume, report=click.echo)


@main.command()
@click.argument("metric", shell_complete=complete_metric)
@click.argument("data", shell_complete=complete_files)
@click.option(
    "--dimension", "dimensions", multiple=True, help="Of the labels; may be repeated.  [default: all]"
)
@click.option(
    "--split", metavar="FILE", help="A saved split.  [default: the run's own, if METRIC is a run's folder]"
)
@click.option("--side", type=click.Choice(["train", "test"]), help="Of the split.  [default: test]")
@click.option(
    "--compare", metavar="METRIC", help="Test the difference from another metric or file of scores."
)
@click.option(
    "--compare-paper", is_flag=True, help="Print the table of the paper on PKU-I2IQA, with this run in it."
)
@click.option("--plots", metavar="DIR", help="Write plots there.")
@click.option("--out", metavar="FILE", help="Write the figures there as JSON.")
@click.option("--device", metavar="DEVICE", help="[default: cuda where there is one]")
@_data_options
def evaluate(
    metric: str,
    data: str,
    dimensions: tuple[str, ...],
    split: str | None,
    side: str | None,
    compare: str | None,
    compare_paper: bool,
    plots: str | None,
    out: str | None,
    device: str | None,
    format: str | None,
    images: str | None,
    columns: tuple[str, ...],
    score_range: tuple[float, float] | None,
    header: bool | None,
    duplicates: str,
) -> None:
    """Compare METRIC with the labels of DATA.

    METRIC is a name, a checkpoint folder, a Hub repository, or a table of somebody else's scores (CSV, TSV, Parquet,
    JSONL). Rows that a run learned from are left out; with --compare those of both.
    """
    from .assessment import assess, open_side

    rated = _load(data, format, images, columns, score_range, header, duplicates)
    rated, said = open_side(rated, metric, split, side, compare)
    click.echo(said)
    report = assess(
        metric,
        rated,
        dimensions=dimensions,
        compare_with=compare,
        beside=compare_paper,
        plots=plots,
        device=device,
    )
    click.echo(report.text)
    if out:
        write_named(out, json.dumps({**report.of, "data": said, "figures": report.figures}, indent=2))


@main.command()
@click.argument("folder", shell_complete=complete_files)
@click.argument("repo")
@click.option("--revision", metavar="TAG", help="Tag the upload, such as v1.")
@click.option("--private", is_flag=True, help="Make a private repository.")
@click.option("--license", metavar="NAME", help="Of the weights.  [default: the checkpoint's]")
@click.option("--labels", metavar="TEXT", help="Who gave the labels.  [default: the checkpoint's]")
@click.option("--evaluation", metavar="FILE", help="Figures for the card.  [default: FOLDER/evaluation.json]")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded.")
def publish(folder: str, repo: str, **options: Any) -> None:
    """Upload the checkpoint in FOLDER, with a model card, to the Hugging Face Hub repository REPO."""
    from .publishing import publish as upload

    click.echo(upload(folder, repo, **options))


@main.command()
@click.argument("checkpoint", shell_complete=complete_files)
@click.argument("folder", shell_complete=complete_files)
@click.option("--backbone", help="One of the papers'.  [default: found out from the tensors]")
@click.option(
    "--reference", type=click.Choice(["none", "full", "partial"]), help="[default: none or full, found out]"
)
@click.option("--dimension", default="quality", show_default=True, help="What it predicts.")
@click.option(
    "--activation",
    type=click.Choice(["relu", "leaky_relu"]),
    help="In the blocks of a ResNet18, which the file does not tell: leaky_relu if the authors' repository AIGIQA4K "
    "trained it, relu if torchvision's ResNet18 or that of their repository PSCR was trained.  [default: leaky_relu]",
)
@click.option("--license", metavar="NAME", help="Of the weights.")
def convert(checkpoint: str, folder: str, **options: Any) -> None:
    """Turn the papers' authors' best_model.pt into a checkpoint of this library, in FOLDER."""
    from .upstream import convert as run

    with waiting("converting"):
        config = run(checkpoint, folder, **{k: v for k, v in options.items() if v is not None})
    click.echo(f"{folder}: {config.mode} on {config.backbone}, {', '.join(config.dimensions)}")
    if said := config.provenance.get("activation"):
        other = "relu" if config.activation else "leaky_relu"
        click.echo(f"  activation: {said}; if it was trained otherwise, pass --activation {other}")


@main.command()
@click.argument("metric", shell_complete=complete_metric)
@click.argument("out", shell_complete=complete_files)
@click.option("--opset", type=int, help="ONNX operator set.  [default: torch's]")
@click.option("--offline", is_flag=True, default=None, help="Use only what is on this machine.")
def export(metric: str, out: str, opset: int | None, offline: bool | None) -> None:
    """Write METRIC as one graph: OUT.onnx for ONNX, OUT.pt2 for torch.export.

    \b
    aigciqa export nr-aigciqa nr.onnx
    aigciqa-score gen.png --metric nr.onnx
    """
    from ..export import export_metric
    from ..registry import create_metric

    with waiting(f"exporting {metric}"):
        path = export_metric(create_metric(metric, device="cpu", offline=offline), out, opset=opset)
    click.echo(f"{path}: checked against PyTorch, {path.stat().st_size / 1e6:.1f} MB")


@main.group()
def data() -> None:
    """Look at data sets, and make them."""


@data.command()
@click.argument("path", shell_complete=complete_files)
@_data_options
def check(
    path: str,
    format: str | None,
    images: str | None,
    columns: tuple[str, ...],
    score_range: tuple[float, float] | None,
    header: bool | None,
    duplicates: str,
) -> None:
    """Say what a data set holds and what is wrong with it. Exits with 1 when something is."""
    from .data import check as run

    report = run(_load(path, format, images, columns, score_range, header, duplicates))
    click.echo(report)
    if report.problems:
        raise SystemExit(1)


@data.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", default=384, show_default=True, help="Side of the pictures in pixels.")
@click.option("--crops", default=12, show_default=True, help="Of each photograph, at most.")
@click.option("--ladders", default=3, show_default=True, help="Of each crop, each of another kind.")
@click.option("--levels", default=4, show_default=True, help="Of each ladder.")
@click.option("--seed", default=1, show_default=True, help="Any integer from 0.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per processor]")
@click.option(
    "--measures/--no-measures",
    default=True,
    show_default=True,
    help="Labels from level and full-reference measures (needs piq), or from the level only.",
)
@click.option(
    "--networks",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Trained autoencoders, as further kinds.",
)
def synthesize(photos: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Make a data set with pseudo-labels: photographs degraded as generative models fail.

    PHOTOS are folders, searched recursively, and .txt files that list pictures, one path a line. OUT gets the pictures
    and manifest.csv. An interrupted run continues when it is started again.
    """
    from .synthesis import synthesize as run

    manifest = run(photos, out, **options)
    click.echo(f"{manifest}: load it with --range 0 5")
    for name, reason in json.loads((out / "synthesis.json").read_text())["left_out"].items():
        click.echo(f"left out: {name}: {reason}", err=True)


if __name__ == "__main__":
    main()
