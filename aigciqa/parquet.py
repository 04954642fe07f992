"""Results as a Parquet file."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import InputError
from .records import JsonLines, Row
from .results import Results
from .transient import transient, unreadable

_GROUP = 10_000  # rows of a Parquet row group


class ParquetResults(Results):
    """Parquet cannot be appended to: rows go to a journal of JSON lines, which becomes the file in the end."""

    def __init__(self, path: Path, codec: JsonLines) -> None:
        self._arrow, self._parquet = _pyarrow()
        self._final = Path(os.path.realpath(path))
        journal = self._final.with_name(f"{self._final.name}.part")
        named = journal if path.is_symlink() else f"{path}.part"
        super().__init__(journal, codec, path, f"{named} (the rows of a run into {path} that did not end)")
        try:
            self._adopt()
        except BaseException:
            self._release(remove=self._spare or self._end == 0)
            raise

    def close(self) -> None:
        if self._file.closed:
            return
        draft = self._final.with_name(f"{self._final.name}.part.tmp")
        try:
            with self._explained():
                self._file.flush()
                self._convert(draft)
                draft.replace(self._final)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            self._release()
            raise
        self._release(remove=True)

    def _schema(self) -> Any:
        arrow = self._arrow
        kinds = {d: arrow.float32() for d in self._codec.dimensions}
        return arrow.schema([(c, kinds.get(c, arrow.string())) for c in self._codec.columns])

    def _adopt(self) -> None:
        """Turn a finished file back into its journal, unless there is a longer one (it was killed before that).

        Until something is written to it, that journal has only what the finished file has, and goes with an error.
        """
        if not self._final.exists():
            return
        unfinished, self.holder = self.holder, str(self._shown)
        if not self._final.is_file():
            raise InputError(f"{self._shown} is not a file; write to another name")
        try:
            with self._parquet.ParquetFile(self._final) as file:
                if not file.schema_arrow.equals(self._schema()):
                    raise self._foreign("its columns are not " + ", ".join(self._codec.columns))
                count = 0
                for group in file.iter_batches(_GROUP):
                    count += group.num_rows
                    for stamp in group.column(group.num_columns - 1).unique().to_pylist():
                        if stamp != self._codec.stamp:
                            raise InputError(
                                f"{self._shown} holds scores of {stamp}; write to another file or remove it"
                            )
                if file.metadata.num_rows != count:
                    raise self._foreign(f"it says that it has {file.metadata.num_rows} rows and has {count}")
                if count > self.done:
                    self._spare = True
                    self._begin()
                    for row in self._from_parquet(file):
                        record = self._codec.encode(row)
                        with self._explained():
                            self._file.write(record)
                    with self._explained():
                        self._file.flush()
                        self._end, self.done = self._file.seek(0, os.SEEK_END), count
                elif self.done:
                    self.holder = unfinished
        except InputError:
            raise
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            if cause := transient(error):
                raise InputError(
                    f"{unreadable(str(self._shown), cause)}; put that right and run the same command again"
                ) from error
            raise self._foreign(f"it cannot be read: {str(error).splitlines()[0]}") from None

    def _from_parquet(self, file: Any) -> Iterator[Row]:
        for group in file.iter_batches(_GROUP):
            for values in zip(*(column.to_pylist() for column in group.columns), strict=True):
                yield self._codec.row([_unescaped(v) if isinstance(v, str) else v for v in values])[0]

    def _convert(self, draft: Path) -> None:
        schema, rows = self._schema(), self._read(self._file.seek(0, os.SEEK_END))
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:  # not what a link of that name points to
            with self._parquet.ParquetWriter(file, schema) as writer:
                while group := [self._codec.values(row) for row in islice(rows, _GROUP)]:
                    columns = [
                        [_escaped(v) if isinstance(v, str) else v for v in c]
                        for c in zip(*group, strict=True)
                    ]
                    arrays = [self._arrow.array(c, k) for c, k in zip(columns, schema.types, strict=True)]
                    writer.write_table(self._arrow.Table.from_arrays(arrays, schema=schema))
            file.flush()
            os.fsync(file.fileno())  # before the journal goes


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise InputError("Parquet needs pyarrow: pip install 'aigciqa[parquet]'") from None


def _escaped(text: str) -> str:
    """Valid Unicode: a byte that was not UTF-8 becomes \\udcXX, and what already looks so gets more backslashes."""
    return re.sub(
        r"(\\*)([\ud800-\udfff]|ud[89a-f][0-9a-f]{2})",
        lambda m: 2 * m[1] + (m[2] if len(m[2]) > 1 else f"\\u{ord(m[2]):04x}"),
        text,
    )


def _unescaped(text: str) -> str:
    """What `_escaped` was given."""
    return re.sub(
        r"(\\+)u(d[89a-f][0-9a-f]{2})",
        lambda m: len(m[1]) // 2 * "\\" + (chr(int(m[2], 16)) if len(m[1]) % 2 else f"u{m[2]}"),
        text,
    )
