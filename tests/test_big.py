"""Large pictures are taken in parts, to the same values; pictures larger than the limit are refused unread."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_image import encoded

import aigciqa
from aigciqa import image, transform
from aigciqa.config import Transform
from aigciqa.decode import Large
from aigciqa.errors import InputError
from aigciqa.transform import read_views

TILED = Transform(72, 64, tiles=2)


@pytest.fixture
def in_parts(monkeypatch):
    """Checks that a picture gives the same in parts as at once, and returns what it gives."""

    def check(source, *transforms):
        at_once = image.read_one(source), [read_views(source, t) for t in transforms]
        with monkeypatch.context() as changed:
            changed.setattr(image, "LARGE", 0)
            changed.setattr(transform, "STRIP", 1777)
            with image.opened(source) as found:
                assert isinstance(found, Large)
                assert found.shape == at_once[0].shape[-2:]
            assert torch.equal(image.read_one(source), at_once[0])
            for t, expected in zip(transforms, at_once[1], strict=True):
                assert torch.equal(read_views(source, t), expected)
        return at_once[1]

    return check


@pytest.mark.parametrize(
    "size",
    [(301, 203), (203, 301), (72, 72), (64, 500), (1300, 70), (70, 1300), (1300, 41), (41, 1300), (33, 20)],
)
def test_parts_of_any_shape(picture, in_parts, size):
    found = in_parts(encoded(picture(*size)), TILED, Transform(72, 64), Transform(80, 31, tiles=3))
    assert [v.shape[1:] for v in found] == [(5, 3, 64, 64), (3, 64, 64), (10, 3, 31, 31)]
    assert all(v.dtype == torch.uint8 for v in found)


def test_parts_of_every_mode(picture, in_parts):
    rgb = picture(301, 203)
    rgba = picture(301, 203, mode="RGBA")
    rgba.putalpha(picture(301, 203, seed=1).convert("L"))
    grey = np.asarray(rgb.convert("L"))
    for source in (
        encoded(rgba), encoded(rgba.convert("LA")), encoded(rgb.convert("L")), encoded(rgb.convert("1")),
        encoded(rgb.quantize(16)), encoded(rgb.quantize(16), transparency=0), encoded(rgb, transparency=(0, 0, 0)),
        encoded(rgb, "JPEG"), encoded(rgb, "JPEG", subsampling=0, progressive=True),
        encoded(rgb.convert("L"), "JPEG"), encoded(rgb.convert("CMYK"), "JPEG"), encoded(rgb, "GIF"),
        encoded(rgb, "MPO", save_all=True, append_images=[picture(301, 203, seed=2)]),
        encoded(rgb, "WEBP"), encoded(rgb, "TIFF", compression="tiff_lzw"), encoded(rgb.convert("CMYK"), "TIFF"),
        encoded(Image.fromarray(grey.astype(np.uint16) * 257)), Image.fromarray(grey.astype(np.int32) * 257),
        encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), rgb, rgb.convert("YCbCr"),
    ):  # fmt: skip
        in_parts(source, TILED)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_are_upright(picture, in_parts, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((301, 203), (41, 1300)):
        in_parts(encoded(picture(*size), kind, exif=exif), TILED)
        in_parts(Image.open(io.BytesIO(encoded(picture(*size), kind, exif=exif))), TILED)


def test_metric_scores_parts_as_the_whole(picture, tiny, tmp_path, monkeypatch):
    metric = aigciqa.create_metric(tiny(), device="cpu")
    picture(301, 203).save(tmp_path / "a.png")
    at_once = metric([tmp_path / "a.png", picture(90, 90)])
    monkeypatch.setattr(image, "LARGE", 10_000)
    assert torch.equal(metric([tmp_path / "a.png", picture(90, 90)]), at_once)


def test_broken_large_pictures_are_clear_errors(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(image, "LARGE", 0)
    path = tmp_path / "broken.jpg"
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(), kind)
        path.write_bytes(data[: len(data) * 3 // 4])
        for _ in range(2):  # again: the lock was let go
            with pytest.raises(InputError, match=r"broken\.jpg: broken picture: .*truncated"):
                read_views(path, TILED)


def test_one_large_picture_at_a_time(picture, monkeypatch):
    monkeypatch.setattr(image, "LARGE", 10_000)
    large, small = encoded(picture(120, 90)), encoded(picture(60, 60))
    done = threading.Event()

    def another():
        read_views(large, TILED)
        done.set()

    with image.opened(large):
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        read_views(small, TILED)  # small ones do not wait
        assert not done.wait(0.3)
    assert done.wait(30)


# -- memory

# not what `resource` says, which counts the process that started this one, too
PEAK = """
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
SCORE = f"""{PEAK}
import sys, aigciqa
score = aigciqa.create_metric("nr-aigciqa")(sys.argv[1])
print(float(score), peak())
"""
MAKE = """
import sys
import numpy as np
from PIL import Image
small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (763, 1024, 3), dtype=np.uint8))
exif = Image.Exif()
exif[0x0112] = int(sys.argv[2])
small.resize((16384, 12208), Image.Resampling.NEAREST).save(sys.argv[1], exif=exif)
"""


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux counts")
@pytest.mark.slow
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_of_200_megapixels_takes_less_than_1_5_gb(tmp_path, orientation):
    path = tmp_path / "big.jpg"
    run(MAKE, path, orientation)
    score, peak = map(float, run(SCORE, path))
    path.unlink()
    assert -5 < score < 10
    assert peak < 1.5e9


# -- the limit


def png(width, height, depth=1):
    """Black, without ever holding the pixels."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (width * depth + 7) // 8)
    parts = [packer.compress(row * 1000) for _ in range(height // 1000)]
    parts += [packer.compress(row * (height % 1000)), packer.flush()]
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(parts)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def ico(data):
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(data), 22) + data


def icns(data):
    return b"icns" + struct.pack(">I4sI", len(data) + 16, b"ic08", len(data) + 8) + data


REFUSE = f"""{PEAK}
import sys
from aigciqa import image
from aigciqa.errors import InputError
memory = peak()
try:
    image.read_one(sys.argv[1])
except InputError as error:
    print(error, file=open(sys.argv[2], "w"), end="")
print(peak() - memory)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux counts")
def test_decompression_bomb_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(50_000, 50_000))
    assert path.stat().st_size < 2_000_000
    (memory,) = map(float, run(REFUSE, path, tmp_path / "error.txt"))
    assert (tmp_path / "error.txt").read_text() == (
        f"{path}: has 2500 megapixels, more than the limit of 256; to score it all the same set "
        "aigciqa.image.MAX_PIXELS (--max-pixels on the command line)"
    )
    assert memory < 20e6


BOMBS = {
    "png": lambda: png(20_000, 20_000),
    "ico": lambda: ico(png(20_000, 20_000)),
    "icns": lambda: icns(png(20_000, 20_000)),
    "gif": lambda: (
        b"GIF89a"
        + struct.pack("<HH3x", 16, 16)
        + b","
        + struct.pack("<4HB", 0, 0, 60_000, 60_000, 0)
        + b"\2\0"
    ),  # of which the frame is larger than the header says
    "bmp": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "ppm": lambda: b"P6 60000 60000 255\n" + bytes(100),
    "webp": lambda: (
        b"RIFF" + struct.pack("<I4s4sI", 22, b"WEBP", b"VP8X", 10) + bytes(4) + b"\x5f\xea\0\x5f\xea\0"
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("pillow", [None, 10**6, Image.MAX_IMAGE_PIXELS])
def test_no_format_escapes_the_limit_whatever_pillows_is(kind, pillow, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(BOMBS[kind]())
    with pytest.raises(InputError) as caught:
        image.read_one(path)
    # (truncated as it is, Pillow may find a WebP broken before it has a size to check)
    assert "than the limit of 256; to score" in str(caught.value) or kind == "webp"
    assert str(path) in str(caught.value)
    assert pillow == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["png", "ico", "icns", "gif"])
def test_the_limit_may_be_set(kind, picture, monkeypatch):
    data = encoded(picture(256, 256), "GIF" if kind == "gif" else "PNG")
    if kind == "gif":
        data = data[:6] + struct.pack("<HH", 16, 16) + data[10:]
    data = {"ico": ico, "icns": icns}.get(kind, bytes)(data)
    for limit in (65_536, 65_537, None):
        monkeypatch.setattr(image, "MAX_PIXELS", limit)
        assert image.read_one(data).shape == (1, 3, 256, 256)
    monkeypatch.setattr(image, "MAX_PIXELS", 65_534)
    with pytest.raises(InputError, match=r"picture \(bytes\): has .*more .*than the limit of 0\.065534; "):
        image.read_one(data)


def test_pillows_own_limit_neither_warns_nor_counts(tmp_path):
    path = tmp_path / "large.png"
    for side in (10_000, 13_500):  # Pillow warns above 89 megapixels and refuses above 179
        path.write_bytes(png(side, side))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_views(path, TILED).max() == 0


@pytest.mark.parametrize("how", [{}, {"compression": "tiff_lzw"}, {"tiffinfo": {322: 64, 323: 64}}])
def test_pillows_own_limit_does_not_count_where_a_plugin_asks_for_it_again(how, picture, monkeypatch):
    """Pillow's plugin for TIFF does, as it decodes."""
    data = encoded(picture(256, 256), "TIFF", **how)
    for pillow in (30_000, 40_000):  # it refuses, and it warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for large in (image.LARGE, 1):
                monkeypatch.setattr(image, "LARGE", large)
                with image.opened(data) as found:
                    assert tuple(found.shape[-2:]) == (256, 256)
        assert pillow == Image.MAX_IMAGE_PIXELS


def test_a_fifo_can_be_read(picture, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = encoded(picture())
    thread = threading.Thread(target=lambda: Path(path).write_bytes(data))
    thread.start()
    assert torch.equal(image.read_one(path), image.read_one(data))
    thread.join()
