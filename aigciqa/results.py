"""Files of results, which go on where a run stopped, and streams of them."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from .errors import InputError
from .locking import is_at, lock, new, open_locked
from .records import FORMATS, LONGEST, JsonLines, Row, codec_for
from .transient import unreadable


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

    Left by an error, it keeps its rows, and a Parquet file is not made yet. Where it has none, and was not there
    before, it is removed.
    """

    done: int  #: rows that were there when it was opened
    holder: str  #: how messages call the file that these rows are in

    def __init__(self, path: Path, codec: JsonLines, shown: Path, holder: str | None = None) -> None:
        self._path, self._codec, self._shown = path, codec, shown
        self.holder = holder or str(shown)
        self._file: Any = None
        self._spare = False  # whether nothing would be lost with the file
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise InputError(f"{self.holder} is not a file; write to another name")
            self._file, self._spare = open_locked(path, shown, follow=holder is None)
        try:
            self._end = self._resume()
        except BaseException:
            self._release(remove=self._spare)
            raise

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._release(remove=self._spare)

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
            self._spare = False
            with self._explained():
                self._file.write(record)
        with self._explained():
            self._file.flush()
            if not is_at(self._file, self._path):  # what is written to it now would be lost
                raise FileNotFoundError(errno.ENOENT, "it was removed or replaced meanwhile")

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Put other rows in place of those that were there when the file was opened, such as those that failed.

        The whole file is replaced in the end, at once. Where `rows` ends early, or raises, the rows after that stay as
        they were, and what it raised goes on when the file is written. An iterator that `rows` gave before ends here.

        Args:
            rows: of the same pictures and references in the same order, taken one by one.

        Raises:
            InputError: when a row is of another picture, or the file cannot be written; then it is as it was.

        Examples:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from aigciqa.records import Row
            >>> from aigciqa.results import open_results
            >>> folder = tempfile.TemporaryDirectory()
            >>> path = Path(folder.name, "out.csv")
            >>> with open_results(path, ["quality"], "nr-aigciqa@v0.2.0") as results:
            ...     results.write([Row("a.png", None, {"quality": 2.5}), Row("b.png", None, None, "gone")])
            >>> with open_results(path, ["quality"], "nr-aigciqa@v0.2.0") as results:
            ...     again = {"b.png": Row("b.png", None, {"quality": 3.25})}
            ...     results.rewrite(again[row.picture] if row.error else row for row in results.rows())
            ...     [row.scores for row in results.rows()]
            [{'quality': 2.5}, {'quality': 3.25}]
        """
        target = Path(os.path.realpath(self._path))  # a link stays one
        draft = target.with_name(f"{target.name}.retry")
        stopped: BaseException | None = None
        with self._explained():
            draft.unlink(missing_ok=True)  # of a run that was killed; the lock of `target` is its lock, too
            file = open(draft, "a+b", buffering=1 << 16, opener=new)  # noqa: SIM115
        try:
            lock(file.fileno(), self._shown)
            before, position = self._file.seek(0, os.SEEK_END), len(self._codec.header)
            with self._explained():
                file.write(self._codec.header)
            remaining = iter(rows)
            while True:
                try:
                    row = next(remaining, None)
                except BaseException as error:  # even an interruption: what was done until then is kept
                    row, stopped = None, error
                if row is None:
                    break
                position = self._replaced(position, row, file)
            with self._explained():
                self._file.seek(position)
                shutil.copyfileobj(self._file, file, 1 << 20)
                self._commit(file, draft, target)
            self._end += self._file.seek(0, os.SEEK_END) - before
            self._spare = False
        except BaseException:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                draft.unlink()
            raise
        if stopped is not None:
            raise stopped

    def _replaced(self, position: int, row: Row, file: Any) -> int:
        """Write a row in place of the one at `position`; where the next one is."""
        record = self._record(position) if position < self._end else b""
        old = self._codec.decode(record)[0] if record else None
        if old is None or (old.picture, old.reference or None) != (row.picture, row.reference or None):
            raise InputError(
                f"{row.picture!r} is not the next picture in {self.holder}; give the rows in their order"
            )
        encoded = self._codec.encode(row)
        with self._explained():
            file.write(encoded)
        return position + len(record)

    def _commit(self, file: Any, draft: Path, target: Path) -> None:
        """Let a draft, which is locked, take the place of the file."""
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
        file.flush()
        os.fsync(file.fileno())
        if not is_at(self._file, self._path):
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced meanwhile")
        if sys.platform == "win32":  # where an open file can be neither replaced nor moved
            file.close()
            self._file.close()
            draft.replace(target)
            self._file, _ = open_locked(target, self._shown)
        else:
            draft.replace(target)
            self._file.close()
            self._file = file

    def close(self) -> None:
        """Finish the file and unlock it.

        Raises:
            InputError: when it cannot be written.
        """
        with self._explained():
            self._file.close()

    def _release(self, remove: bool = False) -> None:
        """Close the file; `remove` it while it is locked, before anybody else has begun to write it."""
        if self._file is None or self._file.closed:
            return
        with suppress(OSError):
            remove = remove and is_at(self._file, self._path)
            if remove and sys.platform != "win32":
                self._path.unlink()
        with suppress(OSError):
            self._file.close()
        if (
            remove and sys.platform == "win32"
        ):  # where an open file cannot be removed, nor one that others opened
            with suppress(OSError):
                self._path.unlink()

    def _resume(self) -> int:
        """Count the complete rows, cut off an incomplete last one, and give the file's length."""
        self.done, codec = 0, self._codec
        with self._explained("read"):
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
                raise InputError(f"{self.holder} holds scores of {stamp}; write to another file or remove it")
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
        with self._explained("read"):
            return self._line(position)

    def _line(self, position: int) -> bytes:
        self._file.seek(position)
        record: bytes = self._file.readline(LONGEST)
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
            f"{self.holder} is not a file of these results ({why}); write to another file or remove it"
        )

    @contextmanager
    def _explained(self, how: str = "written") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._release(remove=self._spare)  # no row may follow one that is not whole
            if how == "read":
                raise InputError(
                    f"{unreadable(str(self._shown), error)}; put that right and run the same command again"
                ) from error
            raise _unwritable(str(self._shown), error) from error


def _unwritable(name: str, error: OSError) -> InputError:
    room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room" if room else "put that right or write to another file"
    return InputError(
        f"{name}: cannot be written: {error.strerror or error}; {advice} and run the same command again, "
        "it goes on where it stopped"
    )


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
