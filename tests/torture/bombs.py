"""Little files that are, or say that they are, giant pictures."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from .makers import EITHER, ERROR, SCORE, Hostile, chunk, encoded, kinds, patched, photo, png


@cache
def zeros(count: int) -> bytes:
    """So many deflated, a thousandth of that."""
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    packed = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*packed, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def _ico(inner: bytes) -> bytes:
    return struct.pack("<3H4B2H2I", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def _icns(inner: bytes) -> bytes:
    return b"icns" + struct.pack(">I4sI", 16 + len(inner), b"ic10", 8 + len(inner)) + inner


def tiff(*tags: tuple[int, int, int], data: bytes = b"") -> bytes:
    """One little-endian directory of (tag, type, value), and `data` at offset 512."""
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(512, b"\0") + data


def bombs() -> Iterator[Hostile]:
    wide = png(50_000, 50_000, zeros(50_000 * 6251), depth=1, colour=0)
    rows = zlib.compress(bytes(31 * 10))
    yield Hostile("bomb.png", wide, ERROR)
    yield Hostile("bomb-empty.png", png(2**31 - 1, 2**31 - 1, rows), ERROR)
    yield Hostile("bomb-in.ico", _ico(wide), ERROR)
    yield Hostile("bomb-in.icns", _icns(wide), ERROR)
    yield Hostile("bomb-in-in.ico", _ico(_ico(wide)), ERROR)
    text = b"comment\0\0" + zeros(200 << 20)
    yield Hostile("bomb-ztxt.png", png(10, 10, rows, chunk(b"zTXt", text)), EITHER)
    yield Hostile(
        "bomb-itxt.png", png(10, 10, rows, chunk(b"iTXt", b"c\0\1\0\0\0" + zeros(200 << 20))), EITHER
    )
    yield Hostile("bomb-iccp.png", png(10, 10, rows, chunk(b"iCCP", b"icc\0\0" + zeros(200 << 20))), EITHER)
    many = [chunk(b"zTXt", b"c%d\0\0" % i + zeros(1 << 19)) for i in range(1000)]
    yield Hostile("bomb-texts.png", png(10, 10, rows, *many), EITHER)
    yield Hostile("bomb-rows.png", png(10, 10, zeros(200 << 20)), EITHER)  # more of them than it has
    common = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (262, 3, 1), (277, 3, 1)]
    packed = zeros(50_000 * 4_000)
    for side in (50_000, 2**31 - 1):
        tiles = [(322, 4, side), (323, 4, side), (324, 4, 512), (325, 4, len(packed))]
        yield Hostile(f"bomb-tile-{side}.tif", tiff(*common, *tiles, (259, 3, 8), data=packed), EITHER)
    strips = [(273, 4, 512), (278, 4, 2**31 - 1), (279, 4, 2**32 - 1)]
    yield Hostile("bomb-strip.tif", tiff(*common, *strips, (259, 3, 8), data=packed), EITHER)
    big = [(256, 4, 60_000), (257, 4, 60_000), (258, 3, 8), (262, 3, 1), (277, 3, 1), (259, 3, 1)]
    yield Hostile("bomb.tif", tiff(*big, (273, 4, 512), (279, 4, 100), data=bytes(100)), ERROR)
    loop = bytearray(tiff(*common, (273, 4, 512), (279, 4, 4096), (259, 3, 1), data=bytes(4096)))
    loop[10 + 12 * 8 : 14 + 12 * 8] = struct.pack("<I", 8)  # the next directory is this one
    yield Hostile("bomb-loop.tif", bytes(loop), SCORE)
    gif = encoded(photo(), "GIF")
    frame = gif.index(b",\0\0\0\0" + gif[6:10])
    yield Hostile("bomb.gif", patched(gif, 6, b"\xff" * 4), ERROR)
    yield Hostile("bomb-frame.gif", patched(gif, frame + 5, b"\xff" * 4), ERROR)
    jpeg = encoded(photo(), "JPEG")
    yield Hostile("bomb.jpg", patched(jpeg, jpeg.index(b"\xff\xc0") + 5, b"\xff\xdc" * 2), ERROR)
    for kind, offset, size in (
        ("BMP", 18, struct.pack("<ii", 100_000, 100_000)), ("DDS", 12, struct.pack("<II", 90_000, 90_000)),
        ("TGA", 12, b"\xff" * 4), ("SGI", 6, b"\xff" * 4), ("PCX", 4, b"\0\0\0\0\xfe\xff\xfe\xff"),
        ("QOI", 4, b"\x7f\xff\xff\xff" * 2),
    ):  # fmt: skip
        yield Hostile(f"bomb{kinds()[kind]}", patched(encoded(photo(), kind), offset, size), ERROR)
    yield Hostile("bomb.ppm", b"P6 100000 100000 255\n" + bytes(100), ERROR)
    yield Hostile("bomb-text.ppm", b"P3 100000 100000 255\n" + b"1 " * 100, ERROR)
    yield Hostile(
        "bomb.psd", struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 99_999, 99_999, 8, 3) + bytes(14), ERROR
    )
    yield Hostile("bomb.fits", _fits(90_000), ERROR)
    yield Hostile("bomb-packed.fits", _fits(4000, packed=True), ERROR)
    if "WEBP" in kinds():
        moving = encoded(photo(), "WEBP", save_all=True, append_images=[photo(1)], lossless=True)
        yield Hostile("bomb.webp", patched(moving, 24, b"\xff\xff\0\xfe\xff\0"), ERROR)
    if "JPEG2000" in kinds():
        jp2 = encoded(photo(), "JPEG2000")
        yield Hostile(
            "bomb.jp2", patched(jp2, jp2.index(b"ihdr") + 4, struct.pack(">II", 70_000, 70_000)), ERROR
        )
        siz = jp2.index(b"\xff\x51") + 6
        yield Hostile("bomb-siz.jp2", patched(jp2, siz, struct.pack(">II", 2**31, 2**31)), EITHER)
    if "AVIF" in kinds():
        avif = encoded(photo(), "AVIF")
        large = struct.pack(">II", 60_000, 60_000)
        yield Hostile("bomb.avif", patched(avif, avif.index(b"ispe") + 8, large), ERROR)


def _fits(side: int, packed: bool = False) -> bytes:
    cards = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": str(side), "NAXIS2": str(side)}
    head = _cards(cards)
    if packed:
        table = {"XTENSION": "'BINTABLE'", "BITPIX": "8", "NAXIS": "2", "NAXIS1": "8", "NAXIS2": "1"} | {
            "ZIMAGE": "T", "ZCMPTYPE": "'GZIP_1  '", "ZBITPIX": "8", "ZNAXIS": "2", "ZNAXIS1": str(side),
            "ZNAXIS2": str(side),
        }  # fmt: skip
        empty = _cards({"SIMPLE": "T", "BITPIX": "8", "NAXIS": "0"})
        return empty + _cards(table) + bytes(8) + gzip.compress(bytes(1 << 24))
    return head + bytes(2880)


def _cards(cards: dict[str, str]) -> bytes:
    text = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in cards.items()) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()
