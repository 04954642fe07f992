import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from aigciqa.errors import InputError
from aigciqa.records import Row
from aigciqa.results import open_results, stream_rows

DIMENSIONS = ("quality", "authenticity")
STAMP = "nr-aigciqa@v0.2.0 sha256:3fa9c1d2e4b7"
FILES = ("csv", "tsv", "jsonl", "parquet")

HOSTILE = [
    "line\nbreak.png",
    'two\r\n"lines",\r.png',
    'a"b.png',
    '"quoted"',
    "\ttab\t.png",
    "🎨 café 日本.png",
    "x" * 251 + ".png",
    os.fsdecode(b"caf\xe9\xff.png"),
    "caf\\udce9.png",  # looks like the escape of the one before
    "\\" + os.fsdecode(b"\xe9\\\xe9") + "\\ud83d",
    "=1+1.png",
    "./=1+1.png",
    "././=1+1.png",
    "-rf",
    "@SUM(A1)",
    "+1",
    "\r=1",
    "＝1",
    "'=1",
    "",
    "null",
    "NA",
    "nul\0.png",
    "{\x1b[2J}",
    "shard.tar/a.png",
    "/abs/=1.png",
    "./a.png",
    "a\u2028b\x85c\x0bd",  # what str.splitlines would split
]


def exact(value):
    return float(np.float32(value))


def some_rows(count=12, start=0):
    """Scored ones, with and without a reference, and failed ones; some names of more lines than one."""
    rows = []
    for i in range(start, start + count):
        name = f'{i}/"a,\nb".png' if i % 3 == 1 else f"{i}.png"
        reference = f"ref\t{i}.png" if i % 2 else None
        if i % 4 == 3:
            rows.append(Row(name, reference, None, f"=cannot be\nread {i}"))
        else:
            rows.append(Row(name, reference, {"quality": exact(i / 7), "authenticity": exact(-1e-7 * i)}))
    return rows


def write(path, rows, stamp=STAMP, dimensions=DIMENSIONS):
    with open_results(path, dimensions, stamp) as results:
        done = results.done
        results.write(rows[done:])
    return done


def read(path, stamp=STAMP, dimensions=DIMENSIONS):
    with open_results(path, dimensions, stamp) as results:
        rows = list(results.rows())
        assert len(rows) == results.done
    return rows


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", FILES)
def test_round_trip_of_hostile_names_and_any_float32(kind, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    values = [*values[np.isfinite(values)].tolist(), 0.0, -0.0, exact(1e-45), exact(3.4028235e38), 16777216.0]
    rows = [Row("a.png", None, {"quality": v, "authenticity": -v}) for v in values]
    rows += [
        Row(n, HOSTILE[-i] or None, {"quality": 1.0, "authenticity": 2.0}) for i, n in enumerate(HOSTILE)
    ]
    rows += [Row(n, None, None, n) for n in HOSTILE if n]
    path = tmp_path / "made" / f"out.{kind}"
    write(path, rows)
    assert [repr(r) for r in read(path)] == [repr(r) for r in rows]  # repr tells -0.0 from 0.0
    assert listed(path.parent) == [path.name]


def test_independent_readers_agree(tmp_path):
    import pandas as pd  # not above: this file is also imported by the processes that it starts
    import pyarrow.parquet as pq

    rows = some_rows()
    for kind in FILES:
        write(tmp_path / f"out.{kind}", rows)
    names = [r.picture for r in rows]
    quality = [np.nan if r.scores is None else r.scores["quality"] for r in rows]
    frames = {
        "csv": pd.read_csv(tmp_path / "out.csv", dtype={"quality": np.float32}),
        "tsv": pd.read_csv(tmp_path / "out.tsv", sep="\t", dtype={"quality": np.float32}),
        "jsonl": pd.read_json(tmp_path / "out.jsonl", lines=True),
        "parquet": pd.read_parquet(tmp_path / "out.parquet"),
    }
    for frame in frames.values():
        assert list(frame.columns) == ["picture", "reference", *DIMENSIONS, "error", "metric"]
        assert list(frame.picture) == names
        assert list(frame.reference.isna()) == [r.reference is None for r in rows]
        np.testing.assert_array_equal(frame.quality.astype(np.float32), np.array(quality, np.float32))
        assert set(frame.metric) == {STAMP}
    assert pq.read_schema(tmp_path / "out.parquet").types == [
        *("string", "string"), *("float", "float"), *("string", "string")
    ]  # fmt: skip
    # with every hostile name, Python's csv module finds the same cells
    write(tmp_path / "names.csv", [Row(n, None, None, "broken") for n in HOSTILE])
    text = (tmp_path / "names.csv").read_bytes().decode("utf-8", "surrogateescape")
    if sys.version_info >= (3, 11):  # before, it refused NUL
        cells = [line[0] for line in csv.reader(io.StringIO(text, newline=""), strict=True)]
        assert [os.path.normpath(c) for c in cells[1:]] == [os.path.normpath(n) for n in HOSTILE]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_no_cell_is_a_formula(delimiter, tmp_path):
    path = tmp_path / ("out.csv" if delimiter == "," else "out.tsv")
    texts = [n.replace("\0", "") for n in HOSTILE if n]
    write(path, [Row(n, n, None, n) for n in texts], stamp="-1+1|cmd")
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]
    assert len(records) == len(texts)
    for cells in records:
        assert len(cells) == 6
        assert not any(c.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for c in cells)
    assert records[texts.index("=1+1.png")][:5] == ["./=1+1.png", "./=1+1.png", "", "", "'=1+1.png"]
    assert records[texts.index('a"b.png')][0] == 'a"b.png'


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_resumes_from_every_byte(kind, tmp_path):
    rows = some_rows(5)
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    write(whole, rows)
    data = whole.read_bytes()
    counts = []
    for length in range(len(data) + 1):
        cut.write_bytes(data[:length])
        counts.append(write(cut, rows))
        assert cut.read_bytes() == data, length
    assert counts[0] == 0 and counts == sorted(counts) and set(counts) == set(range(6))


def test_parquet_resumes_from_every_byte_of_its_journal(tmp_path):
    rows = some_rows(4)
    path, journal = tmp_path / "out.parquet", tmp_path / "out.parquet.part"
    results = open_results(path, DIMENSIONS, STAMP)
    results.write(rows)
    data = journal.read_bytes()
    assert not path.exists()
    results.close()
    whole = path.read_bytes()
    for length in range(0, len(data) + 1, 7):
        path.unlink()
        journal.write_bytes(data[:length])
        write(path, rows)
        assert path.read_bytes() == whole
    # killed between the two last steps, or while the finished file was turned back: the longer one counts
    for length in (0, 200, len(data)):
        journal.write_bytes(data[:length])
        assert write(path, rows) == 4
        assert path.read_bytes() == whole
    journal.write_bytes(data)
    write_short = tmp_path / "short.parquet"
    write(write_short, rows[:2])
    write_short.replace(path)
    assert write(path, rows) == 4
    assert listed(tmp_path) == ["out.parquet"]


@pytest.mark.parametrize("kind", FILES)
def test_a_longer_list_goes_on_and_rows_are_those_of_before(kind, tmp_path):
    rows = some_rows(9)
    write(tmp_path / f"once.{kind}", rows)
    path = tmp_path / f"out.{kind}"
    write(path, rows[:5])
    with open_results(path, DIMENSIONS, STAMP) as results:
        found = results.rows()
        assert next(found) == rows[0]
        results.write(rows[5:7])  # reading and writing by turns
        assert list(found) == rows[1:5]
        results.write(iter(rows[7:]))
        assert (results.done, list(results.rows())) == (5, rows[:5])
    assert path.read_bytes() == (tmp_path / f"once.{kind}").read_bytes()
    assert write(path, rows) == 9
    assert path.read_bytes() == (tmp_path / f"once.{kind}").read_bytes()


def test_parquet_has_row_groups_and_all_rows(tmp_path):
    import pyarrow.parquet as pq

    rows = [Row(f"{i}.png", None, {"quality": exact(i), "authenticity": 0.0}) for i in range(10_300)]
    path = tmp_path / "out.parquet"
    write(path, rows[:10_001])
    assert write(path, rows) == 10_001
    assert read(path) == rows
    assert pq.read_metadata(path).num_row_groups == 2


@pytest.mark.parametrize("kind", FILES)
def test_another_metric_does_not_mix(kind, tmp_path):
    path = tmp_path / f"out.{kind}"
    write(path, some_rows(3))
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"out.{kind} holds scores of {STAMP}; write to another file"):
        open_results(path, DIMENSIONS, STAMP.replace("3fa", "000"))
    with pytest.raises(InputError, match="not a file of these results"):
        open_results(path, DIMENSIONS[:1], STAMP)
    assert path.read_bytes() == before
    assert listed(tmp_path) == [path.name]
    if kind == "parquet":
        journal = tmp_path / "out.parquet.part"
        write(tmp_path / "other.jsonl", some_rows(2), stamp="other")
        (tmp_path / "other.jsonl").replace(journal)
        with pytest.raises(InputError, match="holds scores of other"):
            open_results(path, DIMENSIONS, STAMP)
        assert path.read_bytes() == before and journal.stat().st_size


def foreign_files(examples):
    import pandas as pd

    header = b"picture,reference,quality,authenticity,error,metric\n"
    row = f"a.png,,1.0,2.0,,{STAMP}\n".encode()
    values = {
        "picture": "a",
        "reference": None,
        "quality": 1.0,
        "authenticity": 2.0,
        "error": None,
        "metric": STAMP,
    }
    line = json.dumps(values).encode() + b"\n"
    yield "csv", (examples / "gen.png").read_bytes()
    yield "csv", b"name,mos\na.png,3\n"
    yield "csv", b"\xef\xbb\xbf" + header + row
    yield "csv", header + b"a.png,3\n" + row  # in the middle
    yield "csv", header + row + b"a.png,,high,2.0,," + STAMP.encode() + b"\n" + row
    yield "csv", header + row.replace(b",2.0", b",") + row  # half of the scores
    yield "csv", header + b'"' + row + row + row  # a stray quote
    yield "csv", header + b'a"b"c' + row + row
    yield "csv", header + b'"' + b"x" * (1 << 20) + b'\n"' + row
    yield "tsv", header + row
    yield "jsonl", (examples / "gen.png").read_bytes()
    yield "jsonl", b"notes\n"
    yield "jsonl", b"notes"
    yield "jsonl", b"{}\n"
    yield "jsonl", b'{"picture": "a.png", "mos": 3}\n'
    yield "jsonl", b'{"picture": "a.png", "mos": 3}'
    yield "jsonl", line.replace(b"3fa", b"000")[:-1]
    yield "jsonl", line + b"[" * 100_000 + b"\n" + line
    yield "jsonl", line + line.replace(b"1.0", b"NaN") + line
    yield "jsonl", line + line.replace(b"1.0", b'"1.0"') + line
    yield "jsonl", line + line.replace(b'"a"', b"7") + line
    yield "jsonl", line + b'{"picture": "a.png", "mos": 3}'
    yield "jsonl", line + b"5\n"
    yield "parquet", (examples / "gen.png").read_bytes()
    yield "parquet", b""
    buffer = io.BytesIO()
    pd.DataFrame({"name": ["a.png"], "mos": [3.0]}).to_parquet(buffer)
    yield "parquet", buffer.getvalue()
    yield "parquet", buffer.getvalue()[:-1]


def test_a_file_that_is_not_ours_stays_as_it_is(tmp_path):
    examples = Path(__file__).parent.parent / "examples"
    for i, (kind, data) in enumerate(foreign_files(examples)):
        path = tmp_path / f"{i}.{kind}"
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=r"not a file of these results .*; write to another file or remove it"
        ):
            open_results(path, DIMENSIONS, STAMP)
        assert path.read_bytes() == data, path
        assert not Path(f"{path}.part").exists()
    (tmp_path / "new.parquet.part").write_bytes(b"notes\n")
    with pytest.raises(InputError, match="not a file of these results"):
        open_results(tmp_path / "new.parquet", DIMENSIONS, STAMP)
    assert (tmp_path / "new.parquet.part").read_bytes() == b"notes\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off(kind, tmp_path):
    rows, path = some_rows(5), tmp_path / f"out.{kind}"
    write(path, rows)
    data = path.read_bytes()
    for rest in (b"\0" * 5000, b"garbage\n", b'"'):
        path.write_bytes(data + rest)
        assert write(path, rows) == 5
        assert path.read_bytes() == data


def test_wrong_arguments_and_places(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, says in (
        ("out.xlsx", "results are written to .csv, .tsv, .jsonl or .parquet"),
        ("out", "results are written to"),
        ("folder.csv", "is not a file"),
        ("pipe.csv", "is not a file"),
        ("file/out.csv", "out.csv: cannot be written: .*; put that right"),
        ("x" * 300 + ".csv", "cannot be written: File name too long"),
    ):
        with pytest.raises(InputError, match=says):
            open_results(tmp_path / name, DIMENSIONS, STAMP)
    for dimensions in ((), ("quality", "quality"), ("quality", "error")):
        with pytest.raises(InputError, match="columns must be different"):
            open_results(tmp_path / "out.csv", dimensions, STAMP)
    assert not (tmp_path / "out.csv").exists()


def test_rows_that_cannot_be_true_are_refused(tmp_path):
    for scores, error in (
        ({"quality": float("nan")}, None),
        ({"quality": 1e39}, None),
        (None, None),
        ({}, "x"),
    ):
        with pytest.raises(InputError, match=r"'a.png': (a row has either|not every score is finite)"):
            Row("a.png", None, scores, error)
    with open_results(tmp_path / "out.csv", DIMENSIONS, STAMP) as results:
        for scores in ({"quality": 1.0}, {"quality": 1.0, "authenticity": 1.0, "overall": 1.0}):
            with pytest.raises(
                InputError, match=r"'a.png' has scores of quality.*, not of quality, authenticity"
            ):
                results.write([Row("a.png", None, scores)])
        with pytest.raises(InputError, match="bytes"):
            results.write([Row("x" * (1 << 20), None, None, "too long")])
        results.write(some_rows(2))
    assert read(tmp_path / "out.csv") == some_rows(2)


@pytest.mark.parametrize("kind", FILES)
def test_an_error_in_the_run_leaves_the_rows_before_it(kind, tmp_path):
    rows, path = some_rows(5), tmp_path / f"out.{kind}"

    def interrupted():
        yield from rows[:3]
        raise FileNotFoundError("of the run's own")

    with pytest.raises(FileNotFoundError, match="own"), open_results(path, DIMENSIONS, STAMP) as results:
        results.write(interrupted())
    assert path.exists() == (kind != "parquet")  # which is not made of an interrupted run
    assert write(path, rows) == 3
    assert read(path) == rows


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_results import DIMENSIONS, STAMP, some_rows
from aigciqa.results import open_results
with open_results(Path(sys.argv[1]), DIMENSIONS, STAMP) as results:
    print(results.done, flush=True)
    {body}
"""


def run(path, body, **options):
    script = WRITER.format(tests=str(Path(__file__).parent), body=body)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_second_process_is_refused_until_the_first_ends(kind, tmp_path):
    path = tmp_path / f"out.{kind}"
    with run(
        path, "results.write(some_rows(3)); print(flush=True); sys.stdin.read()", stdin=subprocess.PIPE
    ) as first:
        first.stdout.readline(), first.stdout.readline()
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(InputError, match=rf"out.{kind} is being written by another process"):
            open_results(path, DIMENSIONS, STAMP)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert write(path, some_rows(5)) == 3
    with ExitStack() as stack:  # in one process too
        stack.enter_context(open_results(path, DIMENSIONS, STAMP))
        with pytest.raises(InputError, match="another process"):
            open_results(path, DIMENSIONS, STAMP)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_killed_at_any_moment_nothing_is_lost_or_doubled(kind, tmp_path):
    count, path, acknowledged = 4000, tmp_path / f"out.{kind}", 0
    body = f"""rows = some_rows({count})
    for i in range(results.done, {count}):
        results.write(rows[i:i + 1])
        print(i + 1, flush=True)"""
    for pause in (0.01, 0.03):
        with run(path, body) as writer:
            started = int(writer.stdout.readline())
            assert started >= acknowledged
            writer.stdout.readline()
            time.sleep(pause)
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([started, *map(int, re.findall(r"\d+(?=\n)", writer.stdout.read()))])
            assert writer.wait() == -signal.SIGKILL
    assert acknowledged < count, "it was killed too late to show anything"
    rows = some_rows(count)
    done = write(path, rows)
    assert done in (acknowledged, acknowledged + 1)
    write(tmp_path / f"undisturbed.{kind}", rows)
    assert path.read_bytes() == (tmp_path / f"undisturbed.{kind}").read_bytes()


@pytest.mark.parametrize("kind", FILES)
def test_no_room(kind, tmp_path):
    """A limit on the file's size stands for a full disk: write(2) takes a part of the row and then fails."""
    rows, path = some_rows(400), tmp_path / f"out.{kind}"
    write(tmp_path / f"whole.{kind}", rows)

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    body = "rows = some_rows(400)\n    for row in rows: results.write([row])"
    with run(path, body, preexec_fn=limit) as writer:
        _, errors = writer.communicate()
    assert re.search(
        rf"InputError: .*out.{kind}: cannot be written: .*; make room and run the same command", errors
    )
    assert (path if kind != "parquet" else tmp_path / "out.parquet.part").stat().st_size == 10_000
    assert 0 < write(path, rows) < 400
    assert path.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()


def test_nothing_follows_a_row_that_had_no_room(tmp_path):
    """Larger than the buffer, so that what did not fit is gone; room is made while the process goes on."""
    rows, path = (
        [*some_rows(3), Row("x" * 100_000, None, None, "too long"), *some_rows(3, 3)],
        tmp_path / "out.csv",
    )
    body = """import resource
    from aigciqa.records import Row
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    for row in [*some_rows(3), Row("x" * 100_000, None, None, "too long"), *some_rows(3, 3)]:
        try:
            results.write([row])
        except ValueError as error:
            print(error, flush=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"""
    with run(path, body) as writer:
        output, _ = writer.communicate()
    assert "make room" in output and output.count("closed file") == 3
    assert write(path, rows) == 3
    assert read(path) == rows


def test_no_room_for_the_parquet_file_keeps_its_journal(tmp_path):
    rows, path = some_rows(30), tmp_path / "out.parquet"
    body = """results.write(some_rows(30))
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"""
    with run(path, body) as writer:
        _, errors = writer.communicate()
    assert "make room and run the same command again" in errors
    assert listed(tmp_path) == ["out.parquet.part"]
    assert write(path, rows) == 30
    assert read(path) == rows


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_streams_are_as_the_files_are(tmp_path):
    rows = some_rows(8)
    for kind in ("csv", "tsv", "jsonl"):
        write(tmp_path / f"out.{kind}", rows)
        out = io.BytesIO()
        stream_rows(iter(rows), kind, DIMENSIONS, STAMP, out)
        assert out.getvalue() == (tmp_path / f"out.{kind}").read_bytes()
    for kind in ("parquet", "table", "xml"):
        with pytest.raises(InputError, match=f"{kind} cannot be written to a pipe"):
            stream_rows(rows, kind, DIMENSIONS, STAMP, out)
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(InputError, match="No space left on device"),
    ):
        stream_rows(rows, "csv", DIMENSIONS, STAMP, full)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        stream_rows(rows, "csv", DIMENSIONS, STAMP, pipe)


def test_rows_stream_one_by_one():
    out = io.BytesIO()
    seen = []

    def rows():
        for row in some_rows(4):
            seen.append(out.getvalue().count(b"{"))
            yield row

    stream_rows(rows(), "jsonl", DIMENSIONS, STAMP, out)
    assert seen == [0, 1, 2, 3]
    assert [json.loads(line)["picture"] for line in out.getvalue().splitlines()] == [
        r.picture for r in some_rows(4)
    ]


def test_without_pyarrow_the_extra_is_named(tmp_path):
    hide = "import sys; sys.modules['pyarrow'] = None\n"
    script = hide + "from pathlib import Path; from aigciqa.results import open_results\n"
    script += "assert 'torch' not in sys.modules\n"
    script += "open_results(Path(sys.argv[1]), ['quality'], 'x')"
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.parquet"], capture_output=True, text=True
    )
    assert "InputError: Parquet needs pyarrow: pip install 'aigciqa[parquet]'" in done.stderr
    assert (
        subprocess.run([sys.executable, "-c", script, tmp_path / "a.csv"], capture_output=True).returncode
        == 0
    )
