"""The command line. Heavy imports wait until there is something to score, so that ``--help`` is instant."""

import errno
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from . import __version__
from .errors import AigciqaError, AigciqaWarning, InputError
from .streams import prepare_streams
from .temporary import allow_no_temporary_folder, temporary_folder_of
from .transient import transient

TRAINING = {"accelerate", "scipy", "pandas", "matplotlib", "openpyxl", "pyarrow"}
SHELLS = ("bash", "zsh", "fish")
FULL = {errno.ENOSPC, errno.EDQUOT}  # what only a write to a disk says, which takes nothing more


class Program(click.Command):
    """A command that starts with streams that it can write to, and says so when they are full."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command as a program."""
        prepare_streams()
        try:
            return super().main(*args, **extra)
        except OSError as error:  # of help and other texts that are printed before `invoke`
            if error.errno not in FULL:
                raise
            click.echo(f"error: output cannot be written: {error.strerror}", err=True)
            _drop_output()
            sys.exit(2)


class Command(Program):
    """Errors of ours end the program with a message on stderr and code 2.

    Raises:
        TypeError: for two parameters of one name, of which each would have the value of the other.
    """

    def __init__(self, *args: Any, **extra: Any):
        super().__init__(*args, **extra)
        names = Counter(
            name for one in self.params for name in {str(one.name), *one.opts, *one.secondary_opts}
        )
        if twice := [name for name, count in names.items() if count > 1]:
            raise TypeError(f"the command {self.name} has several parameters {', '.join(twice)}")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            allow_no_temporary_folder()
            with _plain_warnings():
                return super().invoke(ctx)
        except AigciqaError as error:
            _refuse(ctx, error.shown(_options(ctx.command)))
        except OSError as error:
            if error.errno in FULL:
                _refuse(ctx, f"{error.filename or 'output'} cannot be written: {error.strerror}")
            if isinstance(error, BrokenPipeError) or transient(error) is not error:
                raise
            if folder := temporary_folder_of(error):
                _refuse(
                    ctx,
                    f"a temporary file cannot be written in {folder}: {error.strerror}; let TMPDIR name a folder "
                    "that can be written",
                )
            where = error.filename or "a file or pipe of this run"
            _refuse(
                ctx, f"{where} cannot be read or written now: {error.strerror}; put that right and try again"
            )
        except ModuleNotFoundError as error:
            if error.name not in TRAINING:
                raise
            _refuse(ctx, f"this needs {error.name}; pip install 'aigciqa[train]'")
        except KeyboardInterrupt:  # click's own code for it is 1
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _options(command: click.Command) -> dict[str, str]:
    """The command's options by the name of the Python parameter, which an option may have as its `parameter`."""
    found: dict[str, str] = {}
    for one in command.params:
        if isinstance(one, click.Option):
            found.setdefault(getattr(one, "parameter", str(one.name)), max(one.opts, key=len))
    return found


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings are lines on stderr without our source; ours appear whatever PYTHONWARNINGS says."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        click.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", AigciqaWarning)
        warnings.showwarning = show
        yield


def _refuse(ctx: click.Context, message: str) -> NoReturn:
    """Say why, and end with code 2."""
    click.echo(f"error: {message}", err=True)
    _drop_output()
    ctx.exit(2)


def _drop_output() -> None:
    """Forget what standard output would not take: it is tried again when Python ends, and would change the code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on a terminal what takes more than two seconds, where nothing can be counted, and for how long it has."""
    begun, done = time.monotonic(), Event()

    def tell() -> None:
        if done.wait(2):
            return
        while not done.wait(0.5):
            click.echo(f"\r{what} ... {time.monotonic() - begun:.0f} s", nl=False, err=True)
        click.echo(f"\r{'':<{len(what) + 12}}\r", nl=False, err=True)

    teller = Thread(target=tell, daemon=True)
    if sys.stderr.isatty():
        teller.start()
    try:
        yield
    finally:
        done.set()
        if teller.ident is not None:
            teller.join()


def complete_files(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Whatever the shell itself would complete."""
    return [CompletionItem(begun, type="file")]


def complete_metric(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The named metrics, and the paths of others."""
    from .weights import packaged_names

    named = [CompletionItem(name) for name in packaged_names() if name.startswith(begun)]
    return named or complete_files(ctx, parameter, begun)


def complete_dimension(
    ctx: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """Of the named metric that was given, or else of all."""
    from .registry import list_metrics, metric_info

    given = ctx.params.get("metric")
    names = [given] if given in list_metrics() else list_metrics()
    found = dict.fromkeys(d for name in names for d in metric_info(name).dimensions)
    return [CompletionItem(d) for d in found if d.startswith(begun)]


def _part(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``2/5``: the second of five."""
    if value is None:
        return None
    first, _, every = value.partition("/")
    if not (first.isdecimal() and every.isdecimal() and 1 <= int(first) <= int(every)):
        raise click.BadParameter(f"{value!r} is not like 2/5, the second of five")
    return int(first), int(every)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", nargs=-1, required=True, metavar="PICTURES...", shell_complete=complete_files)
@click.option(
    "--ref",
    "reference",
    metavar="PATH",
    shell_complete=complete_files,
    help="The image prompt of all, or a folder in which each picture's has the same stem.",
)
@click.option(
    "--ref-pattern",
    "reference_pattern",
    metavar="PATTERN",
    help="How a reference is named after its picture, below the folder --ref, such as '{1:d}.jpg' for SD_007_00.jpg. "
    "Fields: {0}, {1}, ... (parts of the stem), {stem}, {name}, {suffix}, {parent}.",
)
@click.option("--picture-column", default="picture", show_default=True, help="Of manifests.")
@click.option("--reference-column", default="reference", show_default=True, help="Of manifests.")
@click.option("--shard", metavar="I/N", callback=_part, help="Score only every N-th picture, from the I-th.")
@click.option(
    "--metric",
    metavar="NAME",
    shell_complete=complete_metric,
    help="A named metric, a checkpoint folder, a Hub repository (org/repo@revision) or an exported .onnx file.  "
    "[default: fr-aigciqa where there are references, else nr-aigciqa]",
)
@click.option(
    "--dimension",
    metavar="NAME",
    shell_complete=complete_dimension,
    help="Show only this dimension, such as quality.  [default: all]",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write rows to a .csv, .tsv, .jsonl or .parquet file; if it is there, go on where it stopped.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Score the pictures again whose rows in --output have an error; all rows keep their places.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "tsv", "jsonl"]),
    default="table",
    show_default=True,
    help="Of what is printed without --output.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write a page, too: summary, gallery, comparison of groups, errors.",
)
@click.option(
    "--group-by",
    metavar="PATTERN",
    help="What --html compares, in the fields of --ref-pattern: '{0}' for SD in SD_007_00.jpg, '{parent}' for folders; "
    "or a column of the manifests, such as generator.",
)
@click.option(
    "--map",
    "map_folder",
    metavar="DIR",
    shell_complete=complete_files,
    help="Write a PNG for each picture, too, that shows where its score is lost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, in the end.")
@click.option(
    "--on-error",
    type=click.Choice(["row", "stop"]),
    default="row",
    show_default=True,
    help="Give a picture that cannot be scored a row with its error, or stop.",
)
@click.option(
    "--device",
    "devices",
    metavar="DEVICE",
    multiple=True,
    help="cpu, cuda, cuda:1, ...; several share the work.  [default: cuda where there is one]",
)
@click.option("--batch-size", type=click.IntRange(1), help="Pictures per forward pass.  [default: by device]")
@click.option(
    "--workers", type=click.IntRange(1), help="Threads that decode.  [default: one per core, at most 8]"
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="Half precision is faster on GPUs, and moves scores a little.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first; for many pictures.")
@click.option(
    "--engine",
    type=click.Choice(["torch", "onnx", "ray"]),
    default="torch",
    show_default=True,
    help="Compute with PyTorch or onnxruntime here, or on a Ray cluster.",
)
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures.  [default: 256000000]")
@click.option("--offline", is_flag=True, default=None, help="Use only what is on this machine.")
@click.version_option(__version__, package_name="aigciqa")
@click.pass_context
def score(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    reference: str | None,
    reference_pattern: str | None,
    picture_column: str,
    reference_column: str,
    shard: tuple[int, int] | None,
    metric: str | None,
    dimension: str | None,
    output: str | None,
    retry_failed: bool,
    form: str,
    page: str | None,
    group_by: str | None,
    map_folder: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Score AI-generated pictures. Higher is better.

    \b
    aigciqa-score gen.png                    judge the picture alone
    aigciqa-score gen.png --ref ref.png      judge it beside its image prompt
    aigciqa-score generated/ --ref prompts/ -o scores.csv
    find . -name '*.png' | aigciqa-score - --format jsonl

    PICTURES are files, folders, globs, manifests (.csv, .tsv, .jsonl, .parquet), tar shards (WebDataset), lists of
    paths (.txt), or - for a list on standard input.

    Exits with 0; with 1 when a picture could not be scored, now or in a run that this one goes on with; with 2 when
    nothing was begun, or --on-error stop ended it.
    """
    from .engines import Scorer
    from .running import Run, kept_in, open_report
    from .sources import find_items

    if output and (as_json or form != "table"):
        raise click.UsageError("--output has the format of its ending; leave out --format and --json")
    if retry_failed and not output:
        raise click.UsageError("--retry-failed is for the file of --output, whose rows say what failed")
    if group_by is not None and page is None:
        raise click.UsageError("--group-by is for the page that --html writes")
    if as_json and form != "table":
        raise click.UsageError("--json and --format exclude each other")
    items = find_items(
        sources,
        reference=reference,
        reference_pattern=reference_pattern,
        picture_column=picture_column,
        reference_column=reference_column,
        shard=shard,
    )
    with waiting("counting pictures"):
        count = items.check()
    if items.left_out:
        click.echo(str(items.left_out), err=True)
    paired = items.referenced
    if metric is None and 0 < paired < count:
        raise InputError(
            f"{count - paired} of {count} pictures have no reference; choose --metric pr-aigciqa, which judges both "
            "kinds, nr-aigciqa, which leaves references out, or fr-aigciqa, which gives such a picture an error"
        )
    with waiting("starting"):
        scorer = Scorer(metric or ("fr-aigciqa" if paired else "nr-aigciqa"), dimension, **how)
    name, mode = scorer.config.name, scorer.config.mode
    if mode == "FR" and not paired:
        raise InputError(f"{name} compares with references; give --ref, or use nr-aigciqa")
    if mode == "NR" and (reference or reference_pattern):
        raise InputError(f"{name} judges a picture alone; leave out --ref, or use fr-aigciqa")
    groups = None
    if group_by is not None and "{" not in group_by:
        from .runs import column_groups

        groups = column_groups(sources, picture_column, group_by)
    try:
        maps = None if map_folder is None else scorer.maps(map_folder)
        report = open_report(scorer, page, group_by)
        run = Run(scorer, items, count, report, groups, maps)
        failed = run.to_file(output, retry_failed) if output else run.to_output("json" if as_json else form)
        if report is not None:
            with waiting(f"writing {page}"):
                report.close()
    except KeyboardInterrupt:
        kept = f"; {kept_in(output)}" if output else ""
        click.echo(f"interrupted{kept}", err=True)
        ctx.exit(130)
    ctx.exit(1 if failed else 0)
