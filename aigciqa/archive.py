"""A tar archive read from front to back in bounded memory, and where the links in it lead."""

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import InputError
from .limits import ASIDE, GIB, HEADERS, HELD, MIB, check_size
from .walking import open_again

_UNPACK = "unpack the archive and score the files"
WINDOW = HELD  # what an xz file may need to be unpacked; xz itself asks for 65 MiB at most
_FOLLOWED = 40  # links after links, as many as Linux follows
_KEPT = 2048  # bytes of memory that a link or its target takes, at most, beside its names


def _inside(name: str) -> str:
    """A path in the archive, the same for all ways to write it."""
    return posixpath.normpath(name.lstrip("/"))


class Archive:
    """The members of a tar archive, which may be compressed.

    Args:
        path: of the archive.

    Raises:
        InputError: while reading, when what is said of one member is larger than `aigciqa.limits.HEADERS`.
        Exception: whatever `tarfile` and the compressions raise for a broken archive.
    """

    def __init__(self, path: Path):
        self._opened = open_again(path)
        try:
            self.compressed, file = _unpacked(self._opened)
            self.file = file
            self._headers = _Bounded(file)
            headers: Any = self._headers
            self._tar = tarfile.TarFile(
                str(path), "r", headers, tarinfo=_Member, encoding="utf-8", errors="surrogateescape"
            )
        except BaseException:
            self._opened.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Each member, which can be read until the next one is asked for."""
        self._headers.left = HEADERS
        while member := self._tar.next():
            self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            yield member
            self._headers.left = HEADERS

    def read(self, member: tarfile.TarInfo, what: str) -> bytes:
        """A regular member's content.

        Args:
            member: the last that `members` gave, or, where nothing is compressed, any of them.
            what: how messages call it.

        Raises:
            InputError: when it is larger than `aigciqa.limits.HELD`, or has holes in impossible places.
        """
        check_size(member.size, HELD, what, _UNPACK)
        pieces = getattr(member, "sparse", None)
        return _contents(self.file, member.offset_data, member.size, pieces, what)


def _contents(
    file: IO[bytes], offset: int, size: int, pieces: list[tuple[int, int]] | None, what: str
) -> bytes:
    """What lies at one place; or, of a sparse member, in pieces (position, length) one after another."""
    file.seek(offset)
    if pieces is None and size >= 0:
        return _exactly(file, size)
    end = 0
    for position, length in pieces or [(0, size)]:
        if position < end or length < 0 or position + length > size:
            raise InputError(f"{what}: its sizes contradict each other; write the archive anew")
        end = position + length
    found = bytearray(size)
    for position, length in pieces or ():
        found[position : position + length] = _exactly(file, length)
    return bytes(found)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise tarfile.ReadError("unexpected end of data")
    return data


class Links:
    """The members that links of an archive lead to, found when the first one is asked for.

    That takes two passes: over the links, and to what they lead to, which is kept as its place in the archive, or
    as a copy in a temporary file where the archive is compressed and each step back would unpack it from the start.

    Args:
        path: of the archive.
    """

    def __init__(self, path: Path):
        self._path = path
        self._archive: Archive | None = None
        self._copies = tempfile.SpooledTemporaryFile(HELD // 16)  # noqa: SIM115
        self._leads: dict[str, str | None] = {}
        self._targets: dict[str, list[_Target]] = {}
        self._memory = 0

    def __enter__(self) -> "Links":
        return self

    def __exit__(self, *_: object) -> None:
        self._copies.close()
        if self._archive is not None:
            self._archive.__exit__()

    def read(self, link: tarfile.TarInfo, what: str) -> bytes:
        """The content of the member that a link leads to.

        Args:
            link: a hard or a symbolic one.
            what: how messages call it.

        Raises:
            InputError: when it leads out of the archive, to no file, in a circle, or to what cannot be read.
        """
        if self._archive is None:
            self._collect()
        try:
            target = self._end(_lead(link))
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        found = self._targets.get(target, [])
        if link.islnk():  # which is another name of what was written before it
            found = [one for one in found if one.offset < link.offset]
        if not found:
            raise InputError(f"{what}: links to {target!r}, which is no file in this archive; {_UNPACK}")
        last = found[-1]
        if last.error:
            raise InputError(f"{what}: {last.error}")
        assert self._archive is not None
        file = self._copies if self._archive.compressed else self._archive.file
        return _contents(file, last.place, last.size, last.pieces, what)

    def _collect(self) -> None:
        with Archive(self._path) as archive:
            for member in archive.members():
                if member.issym() or member.islnk():
                    name = _inside(member.name)
                    self._take(len(name) + len(member.linkname))
                    self._leads[name] = _lead(member)
        wanted = set()
        for lead in self._leads.values():
            with suppress(InputError):  # which is said where the link is read
                wanted.add(self._end(lead))
        self._archive = Archive(self._path)
        for member in self._archive.members():
            name = _inside(member.name)
            if name in wanted and (member.isreg() or member.type not in tarfile.SUPPORTED_TYPES):
                self._take(len(name) + 100 * len(getattr(member, "sparse", None) or ()))
                self._targets.setdefault(name, []).append(self._keep(self._archive, member, name))

    def _keep(self, archive: Archive, member: tarfile.TarInfo, name: str) -> "_Target":
        what = f"links to {name!r}"
        try:
            check_size(member.size, HELD, what, _UNPACK)
            if not archive.compressed:
                pieces = getattr(member, "sparse", None)
                return _Target(member.offset, member.offset_data, member.size, pieces)
            place = self._copies.seek(0, io.SEEK_END)
            check_size(place + member.size, ASIDE, f"{what}: this and what other links lead to", _UNPACK)
            return _Target(member.offset, place, self._copies.write(archive.read(member, what)))
        except InputError as error:
            return _Target(member.offset, error=str(error))

    def _take(self, size: int) -> None:
        self._memory += _KEPT + size
        check_size(self._memory, GIB, f"{self._path}: the table of its links", _UNPACK)

    def _end(self, target: str | None) -> str:
        """Where a link leads to in the end: links to links are followed, and links to folders on the way."""
        seen = set[str]()
        while target is not None:
            parts = target.split("/")
            links = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            link = next((link for link in links if link in self._leads), None)
            if link is None:
                return target
            if target in seen or len(seen) == _FOLLOWED:
                raise InputError(f"links to {target!r}, which leads in a circle; {_UNPACK}")
            seen.add(target)
            lead = self._leads[link]
            target = lead and posixpath.normpath(lead + target[len(link) :])
        raise InputError(f"links out of its archive; {_UNPACK}")


@dataclass(frozen=True, slots=True)
class _Target:
    offset: int
    place: int = 0
    size: int = 0
    pieces: list[tuple[int, int]] | None = None
    error: str | None = None


def _lead(link: tarfile.TarInfo) -> str | None:
    """The path in the archive that a link names; None for one outside."""
    name = link.linkname
    if link.issym():
        if name.startswith("/"):
            return None
        name = posixpath.join(posixpath.dirname(_inside(link.name)), name)
    path = _inside(name)
    return None if path.split("/")[0] == ".." else path


class _Member(tarfile.TarInfo):
    """`tarfile` takes a broken header for the archive's end, and would leave out all that follows."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    def _block(self, count: int) -> int:
        if count < 0:  # the next member would be one before, for ever
            raise tarfile.ReadError("a negative size")
        return super()._block(count)  # type: ignore[misc]


class _Bounded:
    """The file that `tarfile` reads headers from, which may be long ones, but not without end."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, HEADERS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self.left -= max(size, 0)
        if size < 0 or self.left < 0:
            check_size(HEADERS - self.left, HEADERS, "what the archive says of one member", _UNPACK)
            raise tarfile.ReadError("a negative size")
        return self.file.read(size)


def _unpacked(file: io.BufferedReader) -> tuple[bool, Any]:
    """Whether a file is compressed, and what to read its content from."""
    start = file.peek(6)[:6]
    if start.startswith(b"\x1f\x8b"):
        return True, gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return True, bz2.BZ2File(file)
    if start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return True, io.BufferedReader(_Xz(file))
    return False, file


class _Xz(io.RawIOBase):
    """An LZMA stream; `lzma.LZMAFile` would give its window as much memory as the stream asks for."""

    def __init__(self, file: IO[bytes]):
        self._compressed, self._position = file, 0
        self._unpack: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Forward, as members follow each other."""
        offset += self._position if whence == io.SEEK_CUR else 0
        if whence == io.SEEK_END or offset < self._position:
            raise tarfile.ReadError("a negative size")
        block = bytearray(1 << 16)
        while self._position < offset and self.readinto(memoryview(block)[: offset - self._position]):
            pass
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._unpack is None or self._unpack.eof:
                rest = (self._unpack.unused_data if self._unpack else b"").lstrip(b"\0")  # streams are padded
                rest = rest or self._compressed.read(1 << 16).lstrip(b"\0" if self._unpack else b"")
                if not rest:
                    return 0
                self._unpack = lzma.LZMADecompressor(memlimit=WINDOW)
            elif self._unpack.needs_input:
                rest = self._compressed.read(1 << 16)
                if not rest:
                    raise EOFError("the compressed file ends too early")
            else:
                rest = b""
            try:
                data = self._unpack.decompress(rest, len(buffer))
            except lzma.LZMAError as error:
                if "limit" not in str(error):
                    raise
                asks = f"its compression asks for more memory than {WINDOW // MIB} MiB"
                raise tarfile.ReadError(asks) from None
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
