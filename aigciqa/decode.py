"""Opening encoded pictures: which size is too much, which way is up, and what does not fit into memory twice."""

import io
import os
import select
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, TypeVar

import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from .errors import InputError
from .formats import load_plugins
from .limits import HELD, IMAGE_FILE, check_size
from .transient import WatchedFile
from .walking import shown

# Kinds that Pillow reads, but not safely
REFUSED = {
    "EPS": "they are programs, which Ghostscript would run",
    "FITS": "packed ones take many times the memory of their pixels",
    "IPTC": "they may hold any other kind, of any size",
}

T = TypeVar("T")

CHUNK = 64 << 20  # bytes of a part of a PNG that is no pixels
PATIENCE = 3  # seconds to wait for somebody to write to a pipe

# Held while something of the whole process is changed: Pillow's limit, or which warnings are shown.
_PROCESS = threading.RLock()

# EXIF orientation: the dimensions to flip to be upright, and whether to transpose then
_UPRIGHT: dict[int, tuple[tuple[int, ...], bool]] = {
    1: ((), False), 2: ((-1,), False), 3: ((-2, -1), False), 4: ((-2,), False),
    5: ((), True), 6: ((-2,), True), 7: ((-2, -1), True), 8: ((-1,), True),
}  # fmt: skip


@dataclass(frozen=True)
class Large:
    """A decoded picture too large to be held twice, of which parts are taken.

    Args:
        stored: (height, width) in pixels as the file has them, not yet upright.
        orientation: how to turn it upright, 1 to 8 as in EXIF.
        take: (top, left, height, width) among the file's pixels to (1, 3, height, width).

    Examples:
        >>> large = Large((4, 6), 6, lambda top, left, height, width: torch.zeros(1, 3, height, width))
        >>> large.shape, large.part(0, 1, 2, 3).shape
        ((6, 4), torch.Size([1, 3, 2, 3]))
    """

    stored: tuple[int, int]
    orientation: int
    take: Callable[[int, int, int, int], Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), upright."""
        return self.stored[::-1] if _UPRIGHT[self.orientation][1] else self.stored

    def part(self, top: int, left: int, height: int, width: int) -> Tensor:
        """(1, 3, height, width) of the upright picture: uint8, or float32 in [0, 1]."""
        flips, turned = _UPRIGHT[self.orientation]
        if turned:
            top, left, height, width = left, top, width, height
        if -2 in flips:
            top = self.stored[0] - top - height
        if -1 in flips:
            left = self.stored[1] - left - width
        return upright(self.take(top, left, height, width), self.orientation)


def upright(images: Tensor, orientation: int) -> Tensor:
    """(N, C, H, W) as the file has it, turned as its EXIF orientation (1 to 8) says."""
    flips, turned = _UPRIGHT[orientation]
    images = images.flip(flips) if flips else images
    return images.transpose(-2, -1) if turned else images


def orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts; 1 where there is none, or none that can be read."""
    try:
        with _PROCESS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Corrupt EXIF data"
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
            return int(found) if found in _UPRIGHT else 1
    except Exception:  # EXIF that cannot be parsed says nothing about orientation
        return 1


def despite_warnings(decode: Callable[[], T]) -> T:
    """What `decode` returns, also where the caller's filters make errors of warnings, such as those of Pillow."""
    try:
        return decode()
    except Warning:
        with _PROCESS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode()


def open_file(path: "str | os.PathLike[str]") -> WatchedFile:
    """A file or a pipe, for reading. A pipe that nobody opens for writing within 3 seconds is empty.

    Args:
        path: of either.

    Raises:
        InputError: when it is a device, which may have no end; or a file without bytes, as are those of the
            system's that may have no end; or one of more bytes than `aigciqa.limits.IMAGE_FILE`.
        OSError: when it cannot be opened.

    Examples:
        >>> with open_file("gen.png") as file:
        ...     file.read(4)
        b'\x89PNG'
    """
    status = os.stat(path)  # noqa: PTH116  # before it is opened, which may do something to a device
    mode, name = status.st_mode, shown(os.fsdecode(path))
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise InputError(f"{name}: is a device, not a file")
    if stat.S_ISREG(mode):
        check_size(status.st_size, IMAGE_FILE, name, "make it smaller")
        if not status.st_size:
            _probe(path)
            raise InputError(f"{name}: is empty: a file of 0 bytes; write it anew")
    flags = os.O_NONBLOCK if stat.S_ISFIFO(mode) else 0
    file = WatchedFile(path, lambda name, given: os.open(name, given | flags))
    if flags:
        select.select([file], [], [], PATIENCE)  # until somebody writes, or has written
        os.set_blocking(file.fileno(), True)  # to wait for what its writers have yet to write
    return file


def _probe(path: "str | os.PathLike[str]") -> None:
    """Raise the OSError of a file without a size that cannot be read; such files of the system may have no end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        with suppress(BlockingIOError):
            os.read(descriptor, 1)
    finally:
        os.close(descriptor)


def identify(file: IO[bytes], what: str, limit: int | None) -> Image.Image:
    """A picture of which only the header is read; of an icon, whose header does not know its size, all of it.

    Args:
        file: seekable.
        what: how messages call it.
        limit: most pixels it may have, instead of Pillow's own limit; None for any number.

    Raises:
        InputError: when it has more, or is one of those of `REFUSED`.
        UnidentifiedImageError: when no plugin of Pillow's knows it. Plugins raise other errors for broken files.

    Examples:
        >>> with open("gen.png", "rb") as file:
        ...     identify(file, "gen.png", 1_000_000).size
        (512, 512)
    """
    start = file.read(8)
    icon = start[:4] in (b"\0\0\1\0", b"icns")
    if start == b"\x89PNG\r\n\x1a\n" and file.seek(0, os.SEEK_END) > CHUNK:
        _check_chunks(file, what)
    image = None
    if not icon:
        with suppress(Image.DecompressionBombError):  # a plugin asked for Pillow's limit itself
            image = _open(file)
    if image is None:
        try:
            with _pillow_limit(limit):
                image = _open(file)
                if icon:
                    image.load()
        except Image.DecompressionBombError:
            raise _too_large(what, "more megapixels", limit) from None
    if limit is not None and image.width * image.height > limit:
        raise _too_large(what, f"{image.width * image.height / 1e6:g} megapixels, more", limit)
    if image.format in REFUSED:
        reason = REFUSED[image.format]
        raise InputError(f"{what}: {image.format} pictures are not read: {reason}; convert it to PNG")
    return image


def load(image: Image.Image, limit: int | None) -> None:
    """Decode a picture that `identify` gave, whatever limit Pillow has.

    Args:
        image: opened.
        limit: most pixels that one of its parts may have, as for `identify`.
    """
    largest = Image.MAX_IMAGE_PIXELS
    asks = image.format in ("TIFF", "BLP")  # whose plugins compare with Pillow's limit once more
    with _pillow_limit(limit) if asks and largest and image.width * image.height > largest else nullcontext():
        try:
            image.load()
        except ValueError as error:
            if not _about_text(image.format, error):
                raise
            image.load()  # the text stands after the pixels, which are decoded


def _check_chunks(file: IO[bytes], what: str) -> None:
    """Refuse a PNG that has a giant beside its pixels; Pillow would read it whole, and more than once."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"IDAT":
            check_size(
                length, CHUNK, f"{what}: a part of it that is no pixels", "save it again without metadata"
            )
        file.seek(length + 4, os.SEEK_CUR)


def _about_text(kind: str | None, error: ValueError) -> bool:
    """Whether Pillow refused a PNG for its text or colour profile alone, which nothing here looks at."""
    return kind == "PNG" and "MAX_TEXT_" in str(error)


def _without_text(file: IO[bytes]) -> IO[bytes]:
    """The PNG without its text and colour profile."""
    length = file.seek(0, os.SEEK_END)
    check_size(length, HELD, "a PNG with much text", "save it again without metadata")
    file.seek(0)
    kept = io.BytesIO()
    kept.write(file.read(8))
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[:4], "big") + 4
        if head[4:] in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            file.seek(size, os.SEEK_CUR)
        else:
            kept.write(head + file.read(size))
    kept.seek(0)
    return kept


def _too_large(what: str, count: str, limit: int | None) -> InputError:
    return InputError(
        f"{what}: has {count} than the limit of {(limit or 0) / 1e6:g}; to score it all the same set "
        "aigciqa.image.MAX_PIXELS (--max-pixels on the command line)"
    )


def _open(file: IO[bytes]) -> Image.Image:
    """`PIL.Image.open` without its check of the size, whose limit is one for the whole process."""
    file.seek(0)
    prefix = file.read(16)
    for load in (
        Image.preinit,
        Image.init,
        load_plugins,
    ):  # the common plugins, all, and those of other packages
        load()
        for name in tuple(Image.ID):
            factory, accepts = Image.OPEN[name]
            # what a plugin raises when the picture is not of its kind after all
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                if accepts is None or accepts(prefix) is True:
                    file.seek(0)
                    try:
                        return factory(file, "")
                    except ValueError as error:
                        if not _about_text(name, error):
                            raise
                    return factory(_without_text(file), "")
    raise UnidentifiedImageError


@contextmanager
def _pillow_limit(limit: int | None) -> Iterator[None]:
    """For plugins that ask for Pillow's limit themselves as they open or decode, such as those of icons.

    The limit is one for all threads, so it is another one only here, where few pictures come by.
    """
    with _PROCESS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None if limit is None else (limit + 1) // 2  # refuses more than twice that
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode_jpeg(image: Image.Image, file: IO[bytes]) -> Tensor | None:
    """(1, 3, H, W) of a colour JPEG in 3 bytes a pixel, of which Pillow takes 4; None for Pillow to decode it.

    Both decode with libjpeg-turbo, to the same pixels.
    """
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB" or file.seek(0, os.SEEK_END) > HELD:
        return None
    try:
        codec = _torchvision_io()
        file.seek(0)
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        pixels = codec.decode_jpeg(data, codec.ImageReadMode.RGB)[None]
    except (ImportError, AttributeError, DeprecationWarning):  # deprecated since torchvision 0.29
        return None
    except RuntimeError:  # built without libjpeg; or the file is broken, which Pillow will say in its words
        return None
    return pixels if pixels.shape[-2:] == (image.height, image.width) else None


def _torchvision_io() -> Any:
    """Imported at the first large picture, since it takes a second, and by a thread of its own.

    Importing it leaves errors behind that keep the frames of the thread alive, and so the pictures in them.
    """
    with ThreadPoolExecutor(1) as other:
        return other.submit(import_module, "torchvision.io").result()
