"""Files of results, which go on where a run stopped, and streams of them."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from .errors import InputError
from .records import FORMATS, LONGEST, JsonLines, Row, codec_for


def open_results(path: Path, dimensions: Sequence[str], stamp: str) -> "Results":
    """Open a file of results, a new one or one to go on with.

    Args:
        path: its suffix says the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``. Until it is closed, a
            Parquet file's rows are in ``.parquet.part`` beside it.
        dimensions: of the scores, in the columns' order.
        stamp: what scores, such as `Metric.stamp`; it stands in every row.

    Raises:
        InputError: when the format is not known, the file is not one of ours, holds other columns or another
            metric's scores, is being written by another process, or cannot be written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from aigciqa.records import Row
        >>> from aigciqa.results import open_results
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "out.csv")
        ...     with open_results(path, ["quality"], "nr-aigciqa@v0.2.0") as results:
        ...         results.write([Row("gen.png", None, {"quality": 3.25})])
        ...     print(path.read_text())
        picture,reference,quality,error,metric
        gen.png,,3.25,,nr-aigciqa@v0.2.0
        >>> open_results(Path("out.xml"), ["quality"], "nr-aigciqa@v0.2.0")
        Traceback (most recent call last):
        aigciqa.errors.InputError: out.xml: results are written to .csv, .tsv, .jsonl or .parquet
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS[1:]:
        raise InputError(f"{path}: results are written to .csv, .tsv, .jsonl or .parquet")
    codec = codec_for(kind, dimensions, stamp)
    if kind == "parquet":
        from .parquet import ParquetResults  # which is made of what is below

        return ParquetResults(path, codec)
    return Results(path, codec, path)


class Results:
    """A file of results, locked while it is open; see `open_results`. One thread at a time may use it.

    Left by an error, it keeps its rows, and a Parquet file is not made yet.
    """

    done: int  #: rows that were there when it was opened

    def __init__(self, path: Path, codec: JsonLines, shown: Path) -> None:
        self._path, self._codec, self._shown = path, codec, shown
        self._file: Any = None
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise InputError(f"{shown} is not a file; write to another name")
            self._file = _open_locked(path, shown)
        try:
            self._end = self._resume()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def rows(self) -> Iterator[Row]:
        """The rows that were there when it was opened, with names as they were given, read as they are asked for."""
        return self._read(self._end)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; when this returns, the operating system has them, under the file's name.

        Args:
            rows: taken one by one; each with a score for every dimension, or an error.

        Raises:
            InputError: when there is no room, the file was removed, or it cannot be written for another reason.
        """
        for row in rows:
            record = self._codec.encode(row)
            with self._explained():
                self._file.write(record)
        with self._explained():
            self._file.flush()
            if not _is_at(self._file, self._path):  # what is written to it now would be lost
                raise FileNotFoundError(errno.ENOENT, "it was removed or replaced meanwhile")

    def close(self) -> None:
        """Finish the file and unlock it.

        Raises:
            InputError: when it cannot be written.
        """
        with self._explained():
            self._file.close()

    def _release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _resume(self) -> int:
        """Count the complete rows, cut off an incomplete last one, and give the file's length."""
        self.done, codec = 0, self._codec
        with self._explained():
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
            start = self._file.read(len(codec.header))
        if not codec.header.startswith(start):
            raise self._foreign("does not begin with the columns " + ", ".join(codec.columns))
        if len(start) < len(codec.header):  # new, or killed in the middle of its first line
            return self._begin()
        position = len(start)
        while position < size:
            record = self._record(position)
            following = position + len(record)
            try:
                if not record.endswith(b"\n"):
                    raise ValueError("no end of line")
                _, stamp = codec.decode(record)
            except ValueError:
                if following < size or not codec.piece(record, first=self.done == 0):
                    raise self._foreign(f"row {self.done + 1} is none of ours") from None
                break
            if stamp != codec.stamp:
                raise InputError(f"{self._shown} holds scores of {stamp}; write to another file or remove it")
            position, self.done = following, self.done + 1
        if position < size:
            with self._explained():
                self._file.truncate(position)
        return position

    def _begin(self) -> int:
        with self._explained():
            self._file.truncate(0)
            self._file.write(self._codec.header)
            self._file.flush()
        self.done = 0
        return len(self._codec.header)

    def _read(self, end: int) -> Iterator[Row]:
        position = len(self._codec.header)
        while position < end:
            record = self._record(position)
            position += len(record)
            yield self._codec.decode(record)[0]

    def _record(self, position: int) -> bytes:
        """The row at `position`, to the end of a line outside quotes, or of the file, or of what a row may be."""
        self._file.seek(position)
        record = self._file.readline(LONGEST)
        if self._codec.quoted and record.count(b'"') % 2:
            parts, inside, length = [record], True, len(record)
            while inside and length < LONGEST and (line := self._file.readline(LONGEST)):
                parts.append(line)
                length += len(line)
                inside ^= bool(line.count(b'"') % 2)
            record = b"".join(parts)
        return record

    def _foreign(self, why: str) -> InputError:
        return InputError(
            f"{self._shown} is not a file of these results ({why}); write to another file or remove it"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._release()  # no row may follow one that is not whole
            raise _unwritable(str(self._shown), error) from error


def _unwritable(name: str, error: OSError) -> InputError:
    room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room" if room else "put that right or write to another file"
    return InputError(
        f"{name}: cannot be written: {error.strerror or error}; {advice} and run the same command again, "
        "it goes on where it stopped"
    )


def _open_locked(path: Path, shown: Path) -> Any:
    """The file, made if need be, for appending and reading, which no other process has open in this way."""
    while True:
        file = path.open("a+b", buffering=1 << 16)
        try:
            _lock(file.fileno(), shown)
            # whoever held the lock before may have removed the file in between
            if _is_at(file, path):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, shown: Path) -> None:
    """Held until the file is closed or the process ends, however it ends."""
    busy = InputError(
        f"{shown} is being written by another process; wait for it to end, or write to another file"
    )
    if sys.platform == "win32":
        import msvcrt

        os.lseek(
            descriptor, 0x7FFFFFFE, os.SEEK_SET
        )  # locked bytes cannot be read: one that others hardly want
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise busy from None
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None


def stream_rows(
    rows: Iterable[Row], format: str, dimensions: Sequence[str], stamp: str, out: BinaryIO
) -> None:
    """Write rows to a pipe, each as it comes.

    Args:
        rows: taken one by one.
        format: ``csv``, ``tsv`` or ``jsonl``.
        dimensions: of the scores, in the columns' order.
        stamp: what scores.
        out: such as ``sys.stdout.buffer``; binary, since names need not be UTF-8.

    Raises:
        InputError: for another format, or when it cannot be written (but a reader that has gone away raises
            BrokenPipeError).

    Examples:
        >>> import io
        >>> from aigciqa.records import Row
        >>> from aigciqa.results import stream_rows
        >>> out = io.BytesIO()
        >>> stream_rows([Row("=1+1.png", None, None, "no such file")], "csv", ["quality"], "nr-aigciqa", out)
        >>> print(out.getvalue().decode())
        picture,reference,quality,error,metric
        ./=1+1.png,,,no such file,nr-aigciqa
    """
    if format not in ("csv", "tsv", "jsonl"):
        raise InputError(f"{format} cannot be written to a pipe: take csv, tsv or jsonl, or name a file")
    codec = codec_for(format, dimensions, stamp)
    for record in chain([codec.header], map(codec.encode, rows)):
        try:
            out.write(record)
            out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"output cannot be written: {error.strerror or error}") from error
