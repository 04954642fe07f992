"""Pictures as attackers, broken disks and old programs make them, small and the same in every run."""

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from .bombs import bombs
from .makers import EITHER, ERROR, SCORE, Hostile, chunk, encoded, kinds, patched, photo, png

MODES = (
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "L",
    "LA",
    "La",
    "1",
    "P",
    "PA",
    "I",
    "I;16",
    "F",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
)


@cache
def corpus() -> list[Hostile]:
    """Everything below; at least 200 files with different names."""
    made = [*_formats(), *_truncated(), *_disguised(), *bombs(), *_shapes(), *_metadata(), *_kinds()]
    assert len({h.name for h in made}) == len(made)
    return made


def in_mode(mode: str) -> Image.Image:
    image = photo(len(mode))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image.putalpha(photo(1).convert("L"))
    if mode in ("PA", "RGBa", "La"):
        steps = {"PA": ("LA", "PA"), "RGBa": ("RGBA", "RGBa"), "La": ("LA", "La")}[mode]
        for step in steps:
            image = image.convert(step)
        return image
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


def _formats() -> Iterator[Hostile]:
    for kind, ending in kinds().items():
        for mode in MODES:
            try:
                data = encoded(in_mode(mode), kind)
            except (OSError, ValueError, KeyError, SystemError, TypeError):
                continue  # this format has no such mode
            lossless = kind in ("PNG", "BMP", "DIB", "TIFF", "PPM", "TGA", "SGI", "QOI", "PCX", "DDS")
            exact = lossless and mode == "RGB"
            pixels = np.asarray(photo(3)) if exact else None
            name = f"{kind.lower()}-{mode.replace(';', '')}{ending}"
            yield Hostile(name, data, SCORE if exact or kind == "JPEG" else EITHER, pixels)
    yield Hostile("cursor.cur", b"\0\0\2\0" + encoded(photo(), "ICO", bitmap_format="bmp")[4:], SCORE)
    yield Hostile("many.dcx", struct.pack("<3I", 0x3ADE68B1, 12, 0) + encoded(photo(), "PCX"), SCORE)
    yield Hostile("old.ras", struct.pack(">8I", 0x59A66A95, 8, 4, 8, 32, 1, 0, 0) + bytes(range(32)), SCORE)
    yield Hostile(
        "text.xpm",
        b'/* XPM */\nstatic char *x[] = {\n"2 2 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab",\n"ba"\n};\n',
        SCORE,
    )
    layers = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 30, 40, 8, 3) + bytes(12) + bytes(2)
    yield Hostile(
        "shop.psd", layers + np.asarray(photo()).transpose(2, 0, 1).tobytes(), SCORE, np.asarray(photo())
    )


def _truncated() -> Iterator[Hostile]:
    for kind, ending in kinds().items():
        for mode in ("RGB", "L", "P", "1", "F"):
            try:
                data = encoded(in_mode(mode), kind)
                break
            except (OSError, ValueError, KeyError, SystemError):
                continue
        for tenth in range(10):
            verdict = ERROR if tenth <= 5 and kind in ("PNG", "JPEG", "BMP", "TIFF") else EITHER
            yield Hostile(f"cut-{kind}-{tenth}{ending}".lower(), data[: len(data) * tenth // 10], verdict)


def _disguised() -> Iterator[Hostile]:
    """Contents that are not what the name says."""
    for kind, ending in kinds().items():
        if kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "AVIF"):
            other = ".jpg" if ending == ".png" else ".png"
            yield Hostile(f"disguised-{kind}{other}".lower(), encoded(photo(), kind), SCORE)
    rng = random.Random(0)
    for ending in (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", ".avif", ".ico", ".tga", ".jp2"):
        yield Hostile(f"empty{ending}", b"", ERROR)
        yield Hostile(f"zeros{ending}", bytes(5000), EITHER)
        yield Hostile(f"random{ending}", rng.randbytes(5000), EITHER)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        data = bytearray(encoded(photo(), kind))
        for _ in range(20):  # the header stays, so that it is taken for what it was
            data[rng.randrange(16, len(data))] = rng.randrange(256)
        yield Hostile(f"scrambled{kinds()[kind]}", bytes(data), EITHER)
    yield Hostile("page.png", b"<html><script>alert(1)</script></html>", ERROR)
    yield Hostile("vector.jpg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", ERROR)
    yield Hostile("archive.png", b"PK\3\4" + bytes(100), ERROR)
    yield Hostile("pickle.png", b"\x80\x04cposix\nsystem\n(S'exit 1'\ntR.", ERROR)
    yield Hostile("program.eps", encoded(photo(), "EPS"), ERROR)  # Ghostscript would run it
    yield Hostile("program.jpg", encoded(photo(), "EPS"), ERROR)


def _shapes() -> Iterator[Hostile]:
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (2, 3), (64, 1), (1, 65), (9000, 3)):
        image = photo(width, (width, height))
        for kind in ("PNG", "JPEG"):
            pixels = np.asarray(image) if kind == "PNG" else None
            yield Hostile(f"{width}x{height}{kinds()[kind]}", encoded(image, kind), SCORE, pixels)
    yield Hostile("0x0.png", png(0, 0, zlib.compress(b"")), ERROR)
    yield Hostile("0x9.ppm", b"P6 0 9 255\n", ERROR)
    yield Hostile("0x9.gif", patched(encoded(photo(), "GIF"), 6, bytes(2)), EITHER)


_UNDO: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def _metadata() -> Iterator[Hostile]:
    for orientation in (*range(10), 255, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        undo = _UNDO.get(orientation)
        stored = photo(orientation) if undo is None else photo(orientation).transpose(undo)
        for kind in ("PNG", "TIFF", "WEBP", "JPEG"):
            if kind in kinds():
                exact = {"lossless": True} if kind == "WEBP" else {}
                pixels = None if kind == "JPEG" else np.asarray(photo(orientation))
                data = encoded(stored, kind, exif=exif, **exact)
                yield Hostile(f"turned-{orientation}-{kind}{kinds()[kind]}".lower(), data, SCORE, pixels)
    loop = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\x08\0\0\0"
    far = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\xff\xff\xff\xff\xff\xff\xff\x7f\0\0\0\0"
    for number, exif_data in enumerate(
        (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", loop, far, b"\0" * 60_000)
    ):
        yield Hostile(f"exif-{number}.jpg", encoded(photo(), "JPEG", exif=exif_data), SCORE)
        yield Hostile(f"exif-{number}.png", encoded(photo(), "PNG", exif=exif_data or b"II"), SCORE)
    for number, profile in enumerate((b"\0", b"acsp" * 40, random.Random(1).randbytes(3000), b"\xff" * 128)):
        for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
            if kind in kinds():
                data = encoded(photo(), kind, icc_profile=profile)
                yield Hostile(f"icc-{number}-{kind}{kinds()[kind]}".lower(), data, SCORE)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(photo())))
    wrong = png(
        40,
        30,
        rows,
        chunk(b"iCCP", b"icc\0\0not deflated"),
        chunk(b"gAMA", b"\0" * 4),
        chunk(b"pHYs", b"\0" * 9),
    )
    yield Hostile("icc-broken.png", wrong, EITHER)
    yield Hostile("crc.png", png(40, 30, rows).replace(b"IDAT", b"IDAT", 1)[:-20] + bytes(20), EITHER)
    yield Hostile("trailing.png", encoded(photo(), "PNG") + b"<script>" * 1000, SCORE, np.asarray(photo()))
    yield Hostile("trailing.jpg", encoded(photo(), "JPEG") + b"\0" * 1000, SCORE)


def _kinds() -> Iterator[Hostile]:
    """What encoders other than Pillow's, or its rarer options, make."""
    pixels = np.asarray(photo())
    yield Hostile("interlaced.png", png(40, 30, zlib.compress(_adam7(pixels)), interlace=1), SCORE, pixels)
    deep = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257)
    yield Hostile("deep.png", png(40, 30, zlib.compress(deep), depth=16), SCORE, pixels)
    alpha = np.concatenate([pixels, np.full((30, 40, 1), 255, np.uint8)], 2).astype(np.uint16) * 257
    deep = b"".join(b"\0" + row.astype(">u2").tobytes() for row in alpha)
    yield Hostile("deep-alpha.png", png(40, 30, zlib.compress(deep), depth=16, colour=6), SCORE, pixels)
    frames = {"save_all": True, "append_images": [photo(1), photo(2)], "duration": 40}
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"):
        if kind in kinds():
            yield Hostile(f"moving-{kind}{kinds()[kind]}".lower(), encoded(photo(), kind, **frames), SCORE)
    yield Hostile("progressive.jpg", encoded(photo(), "JPEG", progressive=True, quality=95), SCORE)
    yield Hostile("restarts.jpg", encoded(photo(), "JPEG", restart_marker_blocks=1), SCORE)
    cmyk = encoded(photo().convert("CMYK"), "JPEG")
    yield Hostile("cmyk.jpg", cmyk, SCORE)
    yield Hostile("ycck.jpg", patched(cmyk, cmyk.index(b"Adobe") + 11, b"\2"), SCORE)
    yield Hostile("adobe-unknown.jpg", patched(cmyk, cmyk.index(b"Adobe") + 11, b"\x77"), EITHER)
    values = np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)
    yield Hostile("float.tif", encoded(Image.fromarray(values), "TIFF"), SCORE)
    for name, bad in (("nan", np.nan), ("infinite", np.inf), ("negative", -1), ("high", 2)):
        spoiled = values.copy()
        spoiled[3, 4] = bad
        yield Hostile(f"float-{name}.tif", encoded(Image.fromarray(spoiled), "TIFF"), ERROR)
    signed = np.full((9, 9), -5, np.int32)
    yield Hostile("signed.tif", encoded(Image.fromarray(signed), "TIFF"), ERROR)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        image = photo().convert("1") if compression == "group4" else photo()
        yield Hostile(f"{compression}.tif", encoded(image, "TIFF", compression=compression), SCORE)
    for name, options in (
        ("index", {"transparency": 0}),
        ("table", {"transparency": bytes(range(0, 250, 10))}),
    ):
        yield Hostile(f"palette-{name}.png", encoded(photo().quantize(16), "PNG", **options), SCORE)
    yield Hostile("colour-key.png", encoded(photo(), "PNG", transparency=(0, 0, 0)), SCORE)
    yield Hostile("clear.png", encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "PNG"), SCORE)
    yield Hostile("clear.gif", encoded(photo().quantize(16), "GIF", transparency=3), SCORE)


def _adam7(pixels: np.ndarray) -> bytes:
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    parts = (pixels[top::down, left::right] for top, left, down, right in passes)
    return b"".join(b"\0" + row.tobytes() for part in parts for row in part)


NAMES = [
    b"new\nline.png", b"carriage\rreturn.png", b"tab\there.png", b'"quoted".png', b"'single'.png", b"-dash.png",
    b"--help.png", b"a,b;c.png", b"=1+1.png", b"@cmd.png", b"+1.png", b"<script>alert(1)<script>.png",
    b"&amp;<b>.png", b"<\\script>.png", b" .png", b"space end .png", b"%s{0}%n.png", b"$(id).png", b"~.png",
    b"a[b]*?.png", b"http:x.png", b"back\\slash.png", b"\x1b[2J\x1b]0;x\x07.png", b"bell\x07.png", b"null.png",
    "\N{GRINNING FACE}\u200d\N{ROCKET}.png".encode(), "\u202egnp.exe.png".encode(), "line\u2028sep.png".encode(),
    "\u00e9-composed.png".encode(), "e\u0301-composed.png".encode(), "\uff1d1.png".encode(), b"x" * 251 + b".png",
    b"\xff\xfe-not-utf8.png", b"half\xc3.png", b"\\udcff.png", b"lone\xed\xa0\x80.png", b"{data}{{data}}.png",
    b"..png.png", b"con.png", b"a:b.png", b"'; drop table.png", b"\x7f.png", b"\x85.png", b"\x01\x02.PNG",
]  # fmt: skip


def named(folder: Path) -> dict[str, Image.Image]:
    """Good pictures under hostile names, in a folder of their own; by path."""
    pictures = {}
    for seed, name in enumerate(NAMES):
        path = os.path.join(folder, os.fsdecode(name))  # noqa: PTH118  # pathlib would lose nothing, but joins "~"
        pictures[path] = photo(1000 + seed)
        Path(path).write_bytes(encoded(pictures[path], "PNG"))
    return pictures


def oddities(folder: Path) -> dict[str, str]:
    """Names that are no files, or not for us; by path, the word that the message must have."""
    made: dict[str, tuple[Callable[[Path], object], str]] = {
        "loop-a.png": (lambda p: p.symlink_to("loop-b.png"), "symbolic links"),
        "loop-b.png": (lambda p: p.symlink_to("loop-a.png"), "symbolic links"),
        "dangling.png": (lambda p: p.symlink_to("nowhere.png"), "No such file"),
        "folder.png": (lambda p: p.mkdir(), "folder"),
        "fifo.png": (os.mkfifo, ""),
        "device.png": (lambda p: p.symlink_to("/dev/zero"), "device"),
        "endless.png": (lambda p: p.symlink_to("/dev/urandom"), "device"),
        "hole.png": (lambda p: p.symlink_to("/dev/null"), "device"),
        "x" * 300 + ".png": (lambda p: None, "too long"),
        "under/a.png/b.png": (lambda p: None, "No such file"),
    }
    for name, (make, _) in made.items():
        make(folder / name)
    return {str(folder / name): says for name, (_, says) in made.items()}
