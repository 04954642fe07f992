"""``aigciqa list``, ``info``, ``completion``, ``report`` and ``demo``: what there is, and ways to look at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from click.shell_completion import get_completion_class

from .cli import SHELLS, Command, complete_files, complete_metric, score, waiting
from .config import MetricConfig
from .errors import InputError
from .registry import list_metrics, metric_info
from .weights import PACKAGED, WEIGHTS

COLUMNS = ("name", "judges", "dimensions", "backbone", "MB", "accuracy")
JUDGES = {"NR": "a picture alone", "FR": "beside its reference", "PR": "either"}


@click.command("list", cls=Command)
def list_command() -> None:
    """List the metrics that there are by name, and how accurate they are."""
    rows = [COLUMNS]
    for name in list_metrics():
        config = metric_info(name)
        rows.append((
            name, JUDGES[config.mode], ", ".join(config.dimensions), config.backbone, _weights(config),
            config.provenance.get("accuracy", "not stated"),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _weights(config: MetricConfig) -> str:
    """How large those of a named metric are, in megabytes, and whether they have to be fetched."""
    path = PACKAGED / config.name / WEIGHTS
    return f"{path.stat().st_size / 1e6:.1f} packaged" if path.is_file() else "not packaged"


@click.command("info", cls=Command)
@click.argument("metric", shell_complete=complete_metric)
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
        "stamp": config.stamp,
    }
    if metric in list_metrics():
        facts["MB"] = _weights(config)
    for key, value in config.provenance.items():
        facts["backbone weights" if key == "backbone" else key.replace("_", " ")] = value
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact}")


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete aigciqa and aigciqa-score: commands, options, and names of metrics.

    \b
    bash:  aigciqa completion bash >> ~/.bashrc
    zsh:   aigciqa completion zsh >> ~/.zshrc
    fish:  aigciqa completion fish > ~/.config/fish/completions/aigciqa.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click has one for each of these
    for command in ("aigciqa", "aigciqa-score"):
        variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
        click.echo(kind(score, {}, command, variable).source_template % {
            "complete_func": f"_{command.replace('-', '_')}_completion",
            "complete_var": variable,
            "prog_name": command,
        })  # fmt: skip


@click.command("report", cls=Command)
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...", shell_complete=complete_files)
@click.option(
    "--html", "page", required=True, metavar="FILE", help="The page to write.", shell_complete=complete_files
)
@click.option(
    "--group-by",
    metavar="PATTERN",
    help="Compare parts of the pictures' names, as with aigciqa-score.  [default: the files, if there are several]",
)
@click.option(
    "--metric",
    metavar="NAME",
    shell_complete=complete_metric,
    help="The checkpoint that scored them.  [default: the named metric that the results tell]",
)
def report_command(results: tuple[str, ...], page: str, group_by: str | None, metric: str | None) -> None:
    """Write a page of finished runs: files that aigciqa-score -o wrote, compared with each other.

    \b
    aigciqa-score SD/ -o sd.csv; aigciqa-score MJ/ -o mj.csv
    aigciqa report sd.csv mj.csv --html report.html
    """
    from pathlib import Path

    from .report import Report
    from .runs import read_run

    if group_by is not None and "{" not in group_by:
        raise InputError(
            f"--group-by {group_by!r}: results have no further columns; group by a part of the pictures' names, such "
            "as '{parent}'"
        )
    runs = [read_run(Path(name)) for name in results]
    first = runs[0]
    for run in runs[1:]:
        if (run.stamp, run.dimensions) != (first.stamp, first.dimensions):
            raise InputError(
                f"{run.path} was scored by {run.stamp} ({', '.join(run.dimensions)}), {first.path} by {first.stamp} "
                f"({', '.join(first.dimensions)}); only scores of the same compare"
            )
    names = [run.path.stem for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    config = first.config(metric)
    report = Report(
        page,
        stamp=first.stamp,
        dimensions=first.dimensions,
        score_range=config.score_range,
        labels=config.provenance["labels"],
        group_by=group_by or ("run" if len(runs) > 1 else None),
    )
    with waiting(f"writing {page}"):
        for run, name in zip(runs, names, strict=True):
            for row in run.rows:
                report.add(row, group=name)
        report.close()
    pictures = sum(len(run.rows) for run in runs)
    click.echo(f"{page}: {pictures:,} pictures of {len(runs)} {'run' if len(runs) == 1 else 'runs'}")


@click.command("demo", cls=Command)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_metric,
    help="To choose from; may be repeated.  [default: the named ones]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: the first free one from 7860]")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="Answer under this name, too, such as that of a reverse proxy; may be repeated.",
)
@click.option("--device", metavar="DEVICE", help="[default: cuda where there is one]")
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures.  [default: 16000000]")
@click.option("--offline", is_flag=True, default=None, help="Use only what is on this machine.")
def demo_command(
    metrics: tuple[str, ...],
    host: str,
    port: int | None,
    names: tuple[str, ...],
    device: str | None,
    max_pixels: int | None,
    offline: bool | None,
) -> None:
    """Serve a page to try metrics on: drop a picture, see its scores and where they are lost.

    Only this machine reaches it unless --host says otherwise; nothing is fetched or shared, and nothing kept.
    """
    from .demo import MAX_PIXELS, serve

    how = {"host": host, "port": port, "names": names, "device": device, "offline": offline}
    with ending() as wait, serve(metrics, **how, max_pixels=max_pixels or MAX_PIXELS) as address:  # type: ignore[arg-type]
        click.echo(f"{address}  (Ctrl-C ends it)")
        wait()


@contextmanager
def ending() -> Iterator[Callable[[], None]]:
    """End a block at Ctrl-C, at what a service manager sends, and when the terminal closes, however far the block is.

    The exit contexts of the block run, so that nothing stays behind; a second signal does not interrupt them.

    Yields:
        What waits for the end.
    """
    import signal
    from threading import Event

    ended = Event()

    def end(*_: object) -> None:
        if not ended.is_set():
            ended.set()
            raise SystemExit(0)

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK"):  # as far as the system has them
        number = getattr(signal, name, None)
        # nohup sets SIGHUP to be ignored
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            before[number] = signal.signal(number, end)

    def wait() -> None:
        while not ended.wait(1):  # in pieces, so that signals come through on every system
            pass

    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
