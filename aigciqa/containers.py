"""Manifests and tar shards: files that hold or name many pictures."""

import csv
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from .errors import InputError
from .walking import reading, shown, suffixes

SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MANIFESTS = (".csv", ".tsv", ".parquet")

Sample: TypeAlias = tuple[str, str | None, bytes | None, bytes | None]  # picture, reference, their bytes


def read_manifest(path: Path, picture_column: str, reference_column: str) -> Iterator[tuple[str, str | None]]:
    columns = (picture_column, reference_column)
    kind = path.suffix.lower()
    with reading(path, f"a table ({kind})"):
        rows = _parquet(path, columns) if kind == ".parquet" else _csv(path, columns)
        for where, picture, reference in rows:
            if not picture:
                raise InputError(f"{shown(str(path))}, {where}: the picture's name is empty; fill it in")
            yield str(path.parent / picture), str(path.parent / reference) if reference else None


def _csv(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names = next(reader, [])
        there = _columns(path, names, columns)
        for row in reader:
            if not row:  # an empty line
                continue
            if len(row) != len(names):
                raise InputError(
                    f"{shown(str(path))}, line {reader.line_num}: {len(row)} cells where the first line has "
                    f"{len(names)}; put cells with a comma, tab or line break in double quotes"
                )
            cells = dict(zip(names, row, strict=True))
            yield (
                f"line {reader.line_num}",
                cells[there[0]],
                cells[there[1]] if len(there) > 1 else "",
            )


def _parquet(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow; pip install 'aigciqa[parquet]'") from None
    row = 0
    with path.open("rb") as file, parquet.ParquetFile(file) as table:
        there = _columns(path, table.schema_arrow.names, columns)
        for batch in table.iter_batches(batch_size=4096, columns=there):
            for cells in zip(*(batch.column(name).to_pylist() for name in there), strict=True):
                row += 1
                for name, cell in zip(there, cells, strict=True):
                    if not isinstance(cell, str | bytes | None):
                        raise InputError(f"{path}: column {name!r} holds {type(cell).__name__}, not names")
                texts = [os.fsdecode(cell or "") for cell in cells]
                yield f"row {row}", texts[0], texts[1] if len(texts) > 1 else ""


def _columns(path: Path, names: Sequence[str], columns: tuple[str, str]) -> list[str]:
    """Those of `columns` that the table has."""
    for name in columns:
        if names.count(name) > 1:
            raise InputError(f"{shown(str(path))}: {names.count(name)} columns are called {name!r}")
        if name not in names and (name == columns[0] or name != "reference"):
            option = "picture_column" if name == columns[0] else "reference_column"
            listed = ", ".join(map(repr, names)) or "none"
            raise InputError(
                f"{shown(str(path))}: no column {name!r}; its columns are {listed}; name it by {option}"
            )
    return [name for name in columns if name in names]


class _Member(tarfile.TarInfo):
    """`tarfile` takes a broken header for the archive's end, and would leave out all that follows."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # this is what an end looks like
                raise
            raise tarfile.ReadError(str(error)) from None


def read_tar(path: Path, wanted: Callable[[], bool]) -> Iterator[Sample]:
    """The samples in order; `wanted` says, when one begins, whether to read its members."""
    with reading(path, "a tar archive"), tarfile.open(path, "r:*", tarinfo=_Member) as tar:
        key, sample, read = "", dict[str, tuple[str, bytes | None]](), False
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            inner = PurePosixPath(member.name.lstrip("/"))
            if not member.isreg() or any(part.startswith(".") and part != ".." for part in inner.parts):
                continue
            stem, _, ending = inner.name.partition(".")
            if key != str(inner.parent / stem):
                if sample:
                    yield _sample(sample)
                key, sample, read = str(inner.parent / stem), {}, wanted()
            if inner.suffix.lower() not in suffixes():
                continue
            role = "reference" if ending.lower().split(".")[-2:-1] in (["ref"], ["reference"]) else "picture"
            name = f"{path}/{inner}"
            if role in sample:
                raise InputError(
                    f"{shown(name)}: the second {role} of one sample, beside {shown(sample[role][0])}; "
                    "call references key.ref.jpg, and give different pictures different names before their first dot"
                )
            contents = tar.extractfile(member)
            sample[role] = name, contents.read() if read and contents else None
        if sample:
            yield _sample(sample)


def _sample(sample: dict[str, tuple[str, bytes | None]]) -> Sample:
    reference, reference_data = sample.get("reference", (None, None))
    if "picture" not in sample:
        raise InputError(f"{shown(str(reference))}: a reference without a picture beside it in the shard")
    picture, data = sample["picture"]
    return picture, reference, data, reference_data
