"""Small files that ask for gigabytes, one for each door through which data comes; where memory is limited."""

import binascii
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigciqa import containers, image, listing, opening, runs, tabular
from aigciqa.errors import InputError
from aigciqa.limits import LINE, NAME
from aigciqa.sources import Item, find_items

from .makers import encoded, photo, png
from .processes import in_process, open_sources

MOST_BYTES = 500 << 20  # twice what one member may have, and less than each bomb asks for
GOOD = encoded(photo(), "PNG")


def gzipped(*parts: bytes | int) -> bytes:
    """A gzip file of these, where a number stands for so many MiB of zeros."""
    mebibyte = gzip.compress(bytes(1 << 20), 9)  # one after another they are one file
    return b"".join(mebibyte * part if isinstance(part, int) else gzip.compress(part, 1) for part in parts)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def good(name: str) -> bytes:
    return header(name, len(GOOD)) + padded(GOOD)


def sparse(name: str, size: int) -> bytes:
    """An old GNU sparse member that holds nothing but a hole."""
    block = bytearray(header(name, 0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def extended(name: str) -> bytes:
    """The same with a list of pieces that goes on in the blocks after it, as each of these says of the next."""
    block = bytearray(sparse(name, 1000))
    block[482] = 1
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def pax() -> bytes:
    """What GNU tar writes before a sparse member of its latest format."""
    records = b""
    for key, value in (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"b.png"),
    ):
        length = len(key) + len(value) + 3
        length += len(str(length + 2))
        records += b"%d %s=%s\n" % (length, key, value)
    return header("@", len(records), tarfile.XHDTYPE) + padded(records)


END = bytes(1024)
GIANT = 7 << 30
PIECES = tarfile.itn(1, 12, tarfile.GNU_FORMAT) * 42 + b"\1" * 8  # and more in the next block


def giant_window() -> bytes:
    """An xz file that asks for a window of 1.5 GB, as its first block says."""
    data = bytearray(lzma.compress(good("a.png") + END))
    length = (data[12] + 1) * 4
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 37  # 1.5 GiB
    data[12 + length - 4 : 12 + length] = struct.pack("<I", binascii.crc32(bytes(data[12 : 12 + length - 4])))
    return bytes(data)


# Its content; how many rows it has, None where the whole is refused; and what is said
SHARDS = {
    "sparse.tar": (good("a.png") + sparse("b.png", GIANT) + good("c.png") + END, 3, "b.png: needs 7,168 MiB"),
    "zeros.tar.gz": (
        gzipped(good("a.png"), header("b.png", 300 << 20), 300, good("c.png") + END),
        3,
        "b.png: needs 300 MiB, more than the limit of 256 MiB; unpack the archive",
    ),
    "long-name.tar.gz": (
        gzipped(header("@", 700 << 20, tarfile.GNUTYPE_LONGNAME), 700, good("a.png") + END),
        None,
        "what the archive says of one member: needs 700 MiB, more than the limit of 1 MiB",
    ),
    "long-link.tar.gz": (
        gzipped(good("a.png"), header("@", 700 << 20, tarfile.GNUTYPE_LONGLINK), 700, good("b.png") + END),
        None,
        "what the archive says of one member: needs 700 MiB",
    ),
    "pax.tar.gz": (
        gzipped(good("a.png"), header("@", 700 << 20, tarfile.XHDTYPE), 700, good("b.png") + END),
        None,
        "what the archive says of one member: needs 700 MiB",
    ),
    "many-pax.tar.gz": (
        gzip.compress(header("@", 1 << 19, tarfile.XHDTYPE) + bytes(1 << 19)) * 900
        + gzipped(good("b.png") + END),
        None,
        "what the archive says of one member: needs",
    ),
    "map.tar.gz": (
        gzipped(good("a.png"), pax(), header("b.png", 100 << 20), b"9" * 7)
        + gzip.compress(b"\n0" * (1 << 19)) * 50,
        None,
        "what the archive says of one member: needs",
    ),
    "extended.tar.gz": (
        gzipped(good("a.png"), extended("b.png")) + gzip.compress(PIECES * 2048) * 100,
        None,
        "what the archive says of one member: needs",
    ),
    "window.tar.xz": (giant_window(), None, "its compression asks for more memory than 256 MiB"),
}


def tables(folder: Path) -> dict[str, tuple[int | None, str]]:
    """Tables and lists in `folder`: by name as above."""
    (folder / "good.png").write_bytes(GOOD)
    plain = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"picture": ["x" * (100 << 20)]}), folder / "cell.parquet", **plain)
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int32)), pa.array(["y" * (2 << 20)]))
    pq.write_table(pa.table({"picture": one}), folder / "dictionary.parquet", compression="zstd")
    several = [["good.png"] * 1000] * 1
    pq.write_table(pa.table({"picture": pa.array(several)}), folder / "lists.parquet")
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["z" * 60_000]))
    pq.write_table(
        pa.table({"picture": many, "reference": many}), folder / "long.parquet", compression="zstd"
    )
    with (folder / "line.csv").open("wb") as file:
        file.write(b"picture\ngood.png\n")
        file.truncate(900 << 20)
    with (folder / "cells.csv").open("wb") as file:
        file.write(b"picture\n" + b'"\n",' * (5 << 20))
    for name in ("sparse.csv", "sparse.tsv", "sparse.png"):
        with (folder / name).open("wb") as file:
            file.write(b"picture\n")
            file.truncate(4 << 40)
    for name, path in (
        ("zero.png", "/dev/zero"),
        ("zero.csv", "/dev/zero"),
        ("memory.png", "/proc/self/mem"),
        ("memory.csv", "/proc/self/mem"),
        ("memory.tar", "/proc/self/mem"),
        ("messages.png", "/proc/kmsg"),
    ):
        (folder / name).symlink_to(path)
    with (folder / "text.png").open("wb") as file:
        file.write(png(10, 10, b"")[:33] + struct.pack(">I", 900 << 20) + b"tEXtComment\0")
        file.truncate(901 << 20)
    return {
        "cell.parquet": (
            None,
            "holds a name of more than 65,536 bytes; name the column of pictures by picture_column",
        ),
        "dictionary.parquet": (None, "row 1 or later: holds a name of more than 65,536 bytes"),
        "lists.parquet": (None, "column 'picture' holds list<element: string>, not names"),
        "long.parquet": (2000, "/zzzz"),
        "line.csv": (None, "a row of the table: needs 16 MiB, more than the limit of 16 MiB"),
        "cells.csv": (None, "a row of the table: needs 16 MiB"),
        "sparse.csv": (None, "needs 4,194,304 MiB, more than the limit of 1,024 MiB"),
        "sparse.tsv": (None, "needs 4,194,304 MiB, more than the limit of 1,024 MiB"),
        "sparse.png": (1, "needs 4,194,304 MiB, more than the limit of 1,024 MiB; make it smaller"),
        "zero.png": (1, "is a device, not a file"),
        "zero.csv": (None, "is a pipe or a device, not a file"),
        "memory.png": (1, "cannot be read now: Input/output error"),
        "memory.csv": (None, "no column 'picture'; its columns are none"),
        "memory.tar": (None, "cannot be read as a tar archive, or is cut short: empty header"),
        "messages.png": (1, "is empty: a file of 0 bytes"),
        "text.png": (1, "a part of it that is no pixels: needs 900 MiB, more than the limit of 64 MiB"),
    }


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What came of each, in a process that may take a gigabyte."""
    folder = tmp_path_factory.mktemp("bombs")
    wanted = tables(folder)
    for name, (data, count, says) in SHARDS.items():
        (folder / name).write_bytes(data)
        wanted[name] = count, says
    wanted["-"] = None, "a path of more than 65,536 bytes came on standard input"
    (folder / "list").write_bytes(b"a" * (100 << 20))
    report = folder / "report"
    sources = [name if name == "-" else str(folder / name) for name in wanted]
    assert in_process(open_sources, sources, report, str(folder / "list")) == 0, report.read_text()
    found = map(json.loads, report.read_text().splitlines())
    return {name: (*wanted[name], one) for name, one in zip(wanted, found, strict=True)}


def test_bombs_are_refused_with_little_memory(opened, tally):
    for name, (count, says, found) in opened.items():
        assert says in found["error"], (name, found)
        assert found["error"].startswith("refused: ") == (count is None), (name, found)
        assert found["count"] == (count or 0), (name, found)
        assert found["bytes"] < MOST_BYTES, (name, found)
        if name in SHARDS:
            assert found["failed"] == 1, (name, found)  # and the others are read
    tally("sources: bombs", inputs=len(opened))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_results_that_are_read_again_have_a_limit(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "TABLE", 1 << 20)
    monkeypatch.setattr(tabular, "TABLE", 1 << 20)
    path = tmp_path / f"results.{ending}"
    path.write_bytes(bytes(2 << 20))
    if ending == "parquet":  # a small file of large texts
        texts = ["a" * 40_000 + str(n) for n in range(100)]
        names = ["picture", "reference", "quality", "error", "metric"]
        pq.write_table(pa.table(dict.fromkeys(names, texts)), path, compression="zstd", use_dictionary=False)
        assert path.stat().st_size < runs.TABLE
    with pytest.raises(InputError, match=r"MiB, more than the limit of .*; split it into several files"):
        runs.read_run(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_results_have_rows_of_a_limited_length(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(tabular, "LINE", 1000)
    path = tmp_path / f"results.{ending}"
    path.write_text("a" * 1001)
    with pytest.raises(InputError, match="a row of the table: needs"):
        runs.read_run(path)


class Endless(io.RawIOBase):
    """A file without end that says nothing about its size, and counts how much was taken of it."""

    taken = 0

    def read(self, size=-1):
        assert 0 <= size <= 1 << 20, "all of an endless file was asked for"
        self.taken += size
        return bytes(size)


def test_endless_files_are_read_to_the_limit(monkeypatch, metric):
    monkeypatch.setattr(image, "HELD", 5 << 20)
    file = Endless()
    with pytest.raises(
        InputError, match=r"picture \(file object\): holds more than the limit of 5 MiB; pass its path"
    ):
        metric(file)
    assert file.taken == (5 << 20) + 1


def test_endless_pipes_are_read_to_the_limit(monkeypatch, metric, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for module, use in (
        (image, lambda: metric(pipe)),
        (opening, lambda: next(iter(metric.score_files([pipe])))),
    ):
        monkeypatch.setattr(module, "HELD", 3 << 20)
        monkeypatch.setattr(image, "HELD", 3 << 20)

        def write():
            for _ in range(2):  # the second time to say what is wrong
                try:
                    with pipe.open("wb") as file:
                        while True:
                            file.write(bytes(1 << 16))
                except BrokenPipeError:
                    pass

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            error = use().error
        except InputError as refused:
            error = str(refused)
        assert error == f"{pipe}: holds more than the limit of 3 MiB; write it to a file first"
        pipe.unlink()
        os.mkfifo(pipe)


def test_the_list_on_standard_input_has_a_limit(monkeypatch):
    monkeypatch.setattr(listing, "TABLE", 1 << 20)
    with pytest.raises(InputError, match="-: more than the limit of 1 MiB came on standard input"):
        find_items(["-"], stdin=io.TextIOWrapper(io.BytesIO(b"a.png\n" * 200_000))).check()
    fits = io.TextIOWrapper(io.BytesIO(b"\n".join([b"a" * NAME, b"b" * NAME])))
    assert find_items(["-"], stdin=fits).check() == 2


def test_rows_of_tables_up_to_the_limit_are_read(tmp_path):
    path = tmp_path / "t.csv"
    many = ",".join("x" * 100_000 for _ in range(LINE // 100_001 - 1))
    path.write_text(f"picture{',c' * many.count('x,x')},d\n" + f"a.png,{many}\n" * 2)
    assert find_items([path]).check() == 2


def test_a_page_of_a_table_is_checked_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"picture": [f"{i:0>100}.png" for i in range(10_000)]}), path, use_dictionary=False
    )
    assert find_items([path]).check() == 10_000
    monkeypatch.setattr(containers, "TABLE", 1 << 19)
    with pytest.raises(
        InputError, match="picture in one group of rows: needs 1 MiB, more than the limit of 0 MiB"
    ):
        find_items([path]).check()
    monkeypatch.setattr(containers, "LINE", 100)
    with pytest.raises(InputError, match="the table's description: needs 0 MiB"):
        find_items([path]).check()


def test_what_waits_to_be_decoded_has_a_limit(metric, monkeypatch):
    """However many threads there are: a shard's members are not all taken into memory ahead."""
    monkeypatch.setattr(opening, "HELD", 10_000)
    taken = 0
    large = GOOD + bytes(3000 - len(GOOD)) if len(GOOD) < 3000 else GOOD

    def items():
        nonlocal taken
        for number in range(200):
            taken += 1
            yield Item(f"s.tar/{number}.png", data=large + str(number).encode())

    rows = []
    for row in metric.score_files(items(), workers=8):
        rows.append(row)
        assert len(row.scores) == 2
    assert [row.picture for row in rows] == [f"s.tar/{number}.png" for number in range(200)]
    waiting = opening.Remaining(Item("a", data=bytes(3000)) for _ in range(100))
    ahead = 0
    while waiting.take(ahead):
        ahead += 1
    assert ahead == 4  # the last one begins below the limit
    assert waiting.take(1) is not None
