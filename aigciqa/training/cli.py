"""The `aigciqa` command: train, evaluate, publish, convert, export, data. Heavy imports wait for their command."""

import json
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..catalogue import completion_command, demo_command, info_command, list_command, report_command
from ..cli import Program, complete_files, complete_metric, waiting
from ..writing import write_named
from .options import DATA_OPTIONS, RangeCommand, Value, data_options, given_of, opened, recipe_options, source
from .recipe import list_recipes, read_recipe


class _Group(Program, click.Group):
    command_class = RangeCommand
    group_class = type


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="aigciqa")
def main() -> None:
    """Train, evaluate and publish metrics for AI-generated images. To score pictures: aigciqa-score."""


for one in (list_command, info_command, report_command, demo_command, completion_command):
    main.add_command(one)


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
    multiple=True,
    metavar="PATH",
    help="A data set's folder or manifest; may be repeated. With --resume, where it lies now.",
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
@data_options
@recipe_options
def train(
    recipe: str | None,
    data: tuple[str, ...],
    out: str,
    resume: bool,
    cross_validate: bool,
    **overrides: Any,
) -> None:
    """Train a metric by a shipped recipe (see --recipes) or a YAML file, every field of which is an option.

    \b
    aigciqa train fr-resnet50 --data PKU-I2IQA --out runs/fr
    aigciqa train fr-resnet50 --data PKU-I2IQA --out runs/paper --split paper --select test --validation 0
    accelerate launch --num_processes 2 -m aigciqa.training.cli train nr-resnet50 --data D --out runs/nr
    """
    described = {name: overrides.pop(name) for name in DATA_OPTIONS}
    given = given_of(described)
    saved = Path(out) / "recipe.yaml"
    if resume and recipe is None and saved.exists():
        recipe = str(saved)
        if data or given:
            from .record import moved

            overrides["data"] = moved(read_recipe(saved).data, data, given)
    elif data:
        overrides["data"] = [source(path, **described) for path in data]
    elif given:
        raise click.UsageError(
            "--format, --images, --column, --range, --no-header and --duplicates are for --data"
        )
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
@click.option("--compare-paper", is_flag=True, help="Print the paper's table of PKU-I2IQA, too.")
@click.option("--picture-column", metavar="NAME", help="Of a table of scores.  [default: found]")
@click.option("--score-column", metavar="NAME", help="Of a table of scores.  [default: found]")
@click.option("--plots", metavar="DIR", help="Write plots there.")
@click.option("--out", metavar="FILE", help="Write the figures there as JSON.")
@click.option("--device", metavar="DEVICE", help="[default: cuda where there is one]")
@data_options
def evaluate(
    metric: str,
    data: str,
    dimensions: tuple[str, ...],
    split: str | None,
    side: str | None,
    compare: str | None,
    compare_paper: bool,
    picture_column: str | None,
    score_column: str | None,
    plots: str | None,
    out: str | None,
    device: str | None,
    **described: Any,
) -> None:
    """Compare METRIC with the labels of DATA.

    METRIC is a name, a checkpoint folder, a Hub repository, or a table of somebody else's scores (CSV, TSV, Parquet,
    JSONL). Rows that a run learned from are left out; with --compare those of both.
    """
    from .assessment import assess, open_side

    rated = opened(data, **described)
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
        picture_column=picture_column,
        score_column=score_column,
    )
    click.echo(report.text)
    if out:
        write_named(out, json.dumps({**report.of, "data": said, "figures": report.figures}, indent=2))


@main.command()
@click.argument("data", shell_complete=complete_files)
@click.option("--out", required=True, metavar="DIR", help="Where the runs go.", shell_complete=complete_files)
@click.option(
    "--rows",
    metavar="NAME,...",
    type=Value("tuple[str, ...]"),
    default=(),
    help="Of the table, as recipes.  [default: the paper's ten]",
)
@click.option(
    "--columns",
    "dimensions",
    metavar="DIMENSION,...",
    type=Value("tuple[str, ...]"),
    default=(),
    help="Of the table.  [default: all four]",
)
@click.option("--images", metavar="DIR", help="Folder of the images.  [default: that of the labels]")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the paper's 100.")
@click.option("--weights", metavar="NAME", help="Instead of the backbones' ImageNet weights, such as random.")
@click.option("--resize", type=click.IntRange(1), help="Shorter side in pixels instead of the paper's.")
@click.option("--crop", type=click.IntRange(1), help="Side of the crop in pixels instead of the paper's.")
@click.option("--seed", type=int, help="Instead of the paper's 1.")
def reproduce(
    data: str,
    out: str,
    rows: tuple[str, ...],
    dimensions: tuple[str, ...],
    images: str | None,
    **changes: Any,
) -> None:
    """Train every row and column of the paper's table on PKU-I2IQA in DATA, by the authors' protocol, and print it.

    Interrupted runs go on, and finished ones are kept, when the same command is given again.

    \b
    aigciqa reproduce PKU-I2IQA --out runs/table
    aigciqa reproduce PKU-I2IQA --out runs/table --rows nr-resnet50,fr-resnet50 --columns quality --epochs 3
    """
    from .recipe import DataSource
    from .reproduction import reproduce as run

    source = DataSource(data, images=images)
    click.echo(run(source, out, rows=rows, dimensions=dimensions, changes=changes, report=click.echo))


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
@data_options
def check(
    path: str,
    **described: Any,
) -> None:
    """Say what a data set holds and what is wrong with it. Exits with 1 when something is."""
    from .data import check as run

    report = run(opened(path, **described))
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
    click.echo(f"{manifest}: load it with --range 0,5")
    for name, reason in json.loads((out / "synthesis.json").read_text())["left_out"].items():
        click.echo(f"left out: {name}: {reason}", err=True)


if __name__ == "__main__":
    main()
