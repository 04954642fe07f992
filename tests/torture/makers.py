"""How the hostile pictures are made."""

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

SCORE, ERROR, EITHER = "score", "error", "either"
NEVER = {"BUFR", "GRIB", "HDF5", "WMF", "EPS"}  # Pillow writes, or would, but does not read them by itself


@dataclass(frozen=True)
class Hostile:
    """A file's name and content, what should come of it, and its pixels where they are known."""

    name: str
    data: bytes
    verdict: str = EITHER
    pixels: np.ndarray | None = None


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def kinds() -> dict[str, str]:
    """The formats that Pillow writes and reads here, with an ending of each."""
    Image.init()
    endings = {kind: ending for ending, kind in reversed(Image.registered_extensions().items())}
    both = (Image.SAVE.keys() & Image.OPEN.keys()) - NEVER
    return {
        kind: endings.get(kind, f".{kind.lower()}") for kind in sorted(both | ({"MPO"} & Image.SAVE.keys()))
    }


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *chunks: bytes, depth=8, colour=2, interlace=0) -> bytes:
    """From deflated rows; `chunks` go before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    body = b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]
