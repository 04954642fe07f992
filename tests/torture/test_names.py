"""Names that nobody should give: every row is there, under its name, in whatever is written."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import aigciqa
from aigciqa.results import open_results

from .hostile import NAMES, named
from .scoring import cli, lost, near

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def hostile_names(tmp_path_factory, metric):
    """A folder of pictures with hostile names, one of them broken, and their scores."""
    folder = tmp_path_factory.mktemp("names")
    scores = {path: metric(picture).item() for path, picture in named(folder).items()}
    broken = f"{folder}/broken\n<b>\udcfe.png"
    Path(broken).write_bytes(b"no picture")
    return folder, scores, broken


def test_names_are_names(hostile_names, metric, tally):
    _, scores, broken = hostile_names
    rows = list(metric.score_files([*scores, broken]))
    tally("names", inputs=len(rows), lost=lost(rows, scores))
    assert {row.picture: row.scores["quality"] for row in rows[:-1]} == near(scores)
    assert rows[-1].error == f"{broken!r}: not a picture that Pillow can read"
    for path, score in scores.items():
        assert metric(path).item() == near(score)
        assert metric(Path(path)).item() == near(score)
        with open(path, "rb") as file:  # noqa: PTH123
            assert metric(file).item() == near(score)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_files_of_results_hold_every_name(kind, hostile_names, checkpoint, tmp_path, tally):
    folder, scores, broken = hostile_names
    output, page = tmp_path / f"out.{kind}", tmp_path / "page.html"
    done = cli(folder, "--metric", checkpoint, "-o", output, "--html", page)
    assert done.returncode == 1, done.stderr.decode()  # the broken one
    with open_results(output, ("quality", "authenticity"), stamp_of(checkpoint)) as results:
        rows = {row.picture: row for row in results.rows()}
    wanted = {p for p in scores if is_listed(Path(p).name)}
    assert rows.keys() == wanted | {broken}
    tally("names", inputs=len(rows), lost=len(wanted - rows.keys()))
    for path in wanted:
        assert rows[path].scores["quality"] == near(scores[path])
    assert rows[broken].error.startswith(repr(broken))
    read = {"csv": read_csv, "tsv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}[kind]
    assert sorted(read(output)) == sorted(rows)
    assert_page(page, rows)
    again = cli(folder, "--metric", checkpoint, "-o", output)
    assert again.returncode == 1, again.stderr.decode()  # it goes on with the same names
    assert b"another" not in again.stderr


def is_listed(name):
    """Whether a folder's listing has it."""
    return name.lower().endswith(".png") and not name.startswith(".")


def stamp_of(checkpoint):
    return aigciqa.create_metric(checkpoint, device="cpu").config.stamp


def read_csv(path):
    """By Python's own reader, and what it makes of names that a spreadsheet would run."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    assert all(None not in row and None not in row.values() for row in rows)
    return [row["picture"] for row in rows]


def read_jsonl(path):
    return [json.loads(line)["picture"] for line in path.read_bytes().split(b"\n")[:-1]]


def read_parquet(path):
    from pyarrow import parquet

    names = parquet.read_table(path)["picture"].to_pylist()
    for name in names:
        name.encode()  # valid Unicode
    return [re.sub(r"(\\+)u(dc[89a-f]\w)", unescape, name) for name in names]


def unescape(match):
    """The backslashes before an escaped byte are doubled, and there is one more."""
    odd = len(match[1]) % 2
    return "\\" * (len(match[1]) // 2) + (chr(int(match[2], 16)) if odd else f"u{match[2]}")


def assert_page(page, rows):
    """Well-formed, one script of ours and one of data, no picture's name among the elements; every row in it."""

    class Reader(HTMLParser):
        tags, data, inside = [], "", False

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            self.inside = tag == "script" and ("type", "application/json") in attrs

        def handle_data(self, data):
            self.data += data if self.inside else ""

        def handle_endtag(self, tag):
            self.inside = False

    reader = Reader()
    reader.tags = []
    reader.feed(page.read_text("utf-8"))
    assert reader.tags.count("script") == 2
    assert "b" not in reader.tags
    found = json.loads(reader.data)
    assert found["scored"] + found["failed"] == len(rows)
    names = {found["files"][row[0]][0] for row in found["rows"]} | {e[0] for e in found["errors"]}
    assert names == rows.keys()


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "jsonl", "json"])
def test_streams_hold_every_name(form, hostile_names, checkpoint, tally):
    _, scores, broken = hostile_names
    listed = b"\0".join(map(os.fsencode, [*scores, broken]))
    how = ("--json",) if form == "json" else ("--format", form)
    done = cli("-", "--metric", checkpoint, *how, input=listed)
    assert done.returncode == 1, done.stderr.decode()
    tally("names", inputs=len(scores) + 1)
    for stream in (done.stdout, done.stderr) if form in ("table", "json") else (done.stderr,):
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", stream)  # nothing moves the cursor
    if form == "table":
        rows = done.stdout.split(b"\n\n")[0].splitlines()
        assert len(rows) == len(scores) + 2
    elif form == "json":
        assert {r["picture"] for r in json.loads(done.stdout)["results"]} == {*scores, broken}
    elif form == "jsonl":
        assert {json.loads(x)["picture"] for x in done.stdout.splitlines()} == {*scores, broken}
    else:
        text = io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline="")
        rows = csv.DictReader(text, delimiter="\t" if form == "tsv" else ",")
        assert {row["picture"] for row in rows} == {*scores, broken}


def test_errors_on_the_terminal_stay_on_their_line(hostile_names, checkpoint):
    _, _, broken = hostile_names
    escape = os.fsencode(broken).replace(b"broken", b"\x1b[2Jgone")
    for arguments in ([broken], [escape], [os.fsencode(broken) + b".tar"], [b"x.png", b"--ref", escape]):
        done = cli_bytes(b"--on-error", b"stop", b"--metric", os.fsencode(checkpoint), b"--", *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", done.stderr), done.stderr


def cli_bytes(*arguments):
    """With arguments that are not UTF-8."""
    command = [os.fsencode(sys.executable), b"-c", b"from aigciqa.cli import score; score()"]
    arguments = [a if isinstance(a, bytes) else os.fsencode(a) for a in arguments]
    return subprocess.run([*command, *arguments], capture_output=True, timeout=300)


def test_names_given_on_the_command_line(hostile_names, checkpoint):
    """Relative, so that dashes come first, and as a glob."""
    folder, scores, _ = hostile_names
    given = [n for n in NAMES if is_listed(os.fsdecode(n))]
    command = [os.fsencode(sys.executable), b"-c", b"from aigciqa.cli import score; score()"]
    options = [b"--metric", os.fsencode(checkpoint), b"--format", b"jsonl", b"--"]
    for arguments, count in ((given, len(given)), ([b"*.[pP][nN][gG]"], len(given) + 1)):
        done = subprocess.run(
            [*command, *options, *arguments], cwd=folder, capture_output=True, timeout=300, check=False
        )
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rows) == count, done.stderr.decode()
        for row in rows:
            if row["error"] is None:
                assert row["quality"] == near(scores[f"{folder}/{row['picture']}"])
