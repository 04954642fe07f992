"""``aigciqa list`` and ``aigciqa info``: what there is, before anything is loaded."""

import click

from .cli import Command
from .registry import list_metrics, metric_info
from .weights import PACKAGED, WEIGHTS

COLUMNS = ("name", "judges", "dimensions", "backbone", "MB", "accuracy")
JUDGES = {"NR": "a picture alone", "FR": "beside its reference", "PR": "either"}


@click.command("list", cls=Command)
def list_command() -> None:
    """List the metrics that come with the package."""
    rows = [COLUMNS]
    for name in list_metrics():
        config = metric_info(name)
        size = (PACKAGED / name / WEIGHTS).stat().st_size / 1e6
        rows.append((
            name, JUDGES[config.mode], ", ".join(config.dimensions), config.backbone, f"{size:.1f}",
            config.provenance.get("accuracy", "see docs/accuracy.md"),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command("info", cls=Command)
@click.argument("metric")
@click.option("--offline", is_flag=True, default=None, help="Use only what is on this machine.")
def info_command(metric: str, offline: bool | None) -> None:
    """Say what METRIC is: a name, a checkpoint folder or a Hub repository. Nothing but its config is fetched."""
    config = metric_info(metric, offline=offline)
    view = config.transform
    low, high = config.score_range
    tiles = (
        f", and {view.tiles} x {view.tiles} tiles of {view.crop} at native resolution" if view.tiles else ""
    )
    facts = {
        "name": config.name,
        "judges": JUDGES[config.mode],
        "dimensions": ", ".join(config.dimensions),
        "scale": f"{low:g} to {high:g}, higher is better",
        "backbone": f"{config.backbone} (timm), feature {config.feature}",
        "sees": f"the picture at {view.resize} pixels (shorter side), its middle {view.crop} x {view.crop}{tiles}",
        "revision": config.revision or "none",
        "repository": config.repo or "none",
        "sha256": config.sha256 or "none",
        **config.provenance,
    }
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact}")
