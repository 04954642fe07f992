"""The command line. Heavy imports wait until there is something to score, so that ``--help`` is instant."""

import json
from typing import Any

import click

from . import __version__
from .errors import AigciqaError

TRAINING = {"accelerate", "scipy", "pandas", "matplotlib", "openpyxl", "pyarrow"}


class Command(click.Command):
    """Errors of ours end the program with a message on stderr and code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AigciqaError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except ModuleNotFoundError as error:
            if error.name not in TRAINING:
                raise
            click.echo(f"error: this needs {error.name}; pip install 'aigciqa[train]'", err=True)
            ctx.exit(2)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("generated", nargs=-1, required=True, metavar="PICTURE...")
@click.option("--ref", "reference", metavar="FILE", help="The image prompt that the pictures came from.")
@click.option(
    "--metric",
    metavar="NAME",
    help="A named metric, a checkpoint folder or a Hub repository (org/repo@revision).  "
    "[default: fr-aigciqa with --ref, else nr-aigciqa]",
)
@click.option(
    "--dimension", metavar="NAME", help="Show only this dimension, such as quality.  [default: all]"
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...  [default: cuda where there is one]")
@click.option("--offline", is_flag=True, default=None, help="Use only what is on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.version_option(__version__, package_name="aigciqa")
def score(
    generated: tuple[str, ...],
    reference: str | None,
    metric: str | None,
    dimension: str | None,
    device: str | None,
    offline: bool | None,
    as_json: bool,
) -> None:
    """Score AI-generated pictures. Higher is better.

    \b
    aigciqa-score gen.png                  judge the picture alone
    aigciqa-score gen.png --ref ref.png    judge it beside its image prompt

    Exits with 0, or with 2 when something could not be scored.
    """
    from .registry import create_metric

    name = metric or ("fr-aigciqa" if reference else "nr-aigciqa")
    model = create_metric(name, dimension=dimension, device=device, offline=offline)
    config = model.config
    shown = [model.dimension] if dimension else list(config.dimensions)
    scores = model.predict(list(generated), reference)
    rows = [{d: scores[d][i].item() for d in shown} for i in range(len(generated))]
    if as_json:
        report = {
            "metric": config.name,
            "sha256": config.sha256,
            "revision": config.revision,
            "labels": config.provenance["labels"],
            "score_range": config.score_range,
            "results": [
                {"picture": picture, "reference": reference, "scores": row}
                for picture, row in zip(generated, rows, strict=True)
            ],
        }
        click.echo(json.dumps(report, indent=2))
        return
    low, high = config.score_range
    width = max(len("picture"), *map(len, generated))
    click.echo("  ".join([f"{'picture':<{width}}", *shown]))
    for picture, row in zip(generated, rows, strict=True):
        click.echo("  ".join([f"{picture:<{width}}", *(f"{row[d]:>{len(d)}.2f}" for d in shown)]))
    click.echo(
        f"\n{config.name} {config.revision or ''} (sha256 {config.sha256[:12]}), scale {low:g} to {high:g}, "
        f"learned from {config.provenance['labels']}"
    )
