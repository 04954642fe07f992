"""Images as people have them: integers of many bits, metadata of any size, files half read, warnings made errors."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torchvision.transforms.functional import pil_to_tensor

from aigciqa.errors import InputError
from aigciqa.image import read_one


@pytest.fixture
def grey(picture):
    return np.asarray(picture(mode="L"))


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_integers_up_to_255_in_memory_are_8_bits(grey):
    expected = read_one(Image.fromarray(grey))
    for dtype in (np.int32, np.uint16):
        assert torch.equal(read_one(Image.fromarray(grey.astype(dtype))), expected)
    assert torch.equal(read_one(saved(Image.fromarray(grey.astype(np.int32)), "TIFF")), expected)  # 32 bits
    assert not read_one(Image.fromarray(np.zeros((9, 9), np.int32))).any()  # black is an image


def test_16_bits_are_scaled(grey):
    expected = read_one(Image.fromarray(grey))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert torch.equal(read_one(deep), expected)
    for kind in ("PNG", "TIFF"):
        assert torch.equal(read_one(saved(deep, kind)), expected)
    night = saved(Image.fromarray((grey // 20).astype(np.uint16) * 257))  # a file knows its scale
    assert torch.equal(read_one(night), read_one(Image.fromarray(grey // 20)))


def test_integers_of_unknown_scale_are_refused_with_the_largest(grey):
    twelve = np.minimum(grey.astype(np.uint16) * 16, 4080)
    for array, message in (
        (twelve, rf"integer pixels up to {twelve.max()} .*4095"),
        (twelve.astype(np.int32), rf"integer pixels up to {twelve.max()} .*4095"),
        (grey.astype(np.int32) * 1000, "unknown scale, .* to [0-9]+; convert to 8"),
        (grey.astype(np.int32) - 300, "unknown scale, -[0-9]+ to"),
    ):
        with pytest.raises(InputError, match=message):
            read_one(Image.fromarray(array))


def test_transparent_grey_of_16_bits_is_composited(grey):
    key = int(np.bincount(grey.ravel()).argmax())
    eight = saved(Image.fromarray(grey), transparency=key)
    deep = saved(Image.fromarray(grey.astype(np.uint16) * 257), transparency=key * 257)
    found = read_one(deep)
    assert torch.equal(found, read_one(eight))
    assert (found[0, 0].numpy()[grey == key] == 255).all() and key < 255


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_text_of_any_size_in_a_png(picture, kind, after):
    image = picture()
    text = b"workflow " * 300_000  # 2.7 MB, as generators' user interfaces write
    data = {
        b"tEXt": b"prompt\0" + text,
        b"zTXt": b"prompt\0\0" + zlib.compress(text),
        b"iTXt": b"prompt\0\1\0\0\0" + zlib.compress(text),
        b"iCCP": b"profile\0\0" + zlib.compress(text),
    }[kind]
    plain = saved(image)
    place = plain.index(b"IEND") - 4 if after else 33  # behind the header
    found = read_one(plain[:place] + chunk(kind, data) + plain[place:])
    assert torch.equal(found[0], pil_to_tensor(image))


def test_transparency_and_orientation_beside_text(picture):
    """What tells how an image looks is kept where its text is left out."""
    image, text = picture(mode="RGBA"), PngImagePlugin.PngInfo()
    image.putalpha(picture(seed=1, mode="L"))
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert torch.equal(read_one(saved(image, pnginfo=text, exif=exif)), read_one(saved(image, exif=exif)))


def test_warnings_as_errors_do_not_fail_an_image(picture):
    data = saved(picture(), "JPEG")
    corrupt = data[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\xff\xff" + data[2:]
    palette = saved(picture(mode="P"), transparency=b"\0\xff")
    for file, image in ((corrupt, None), (palette, None), (None, Image.open(io.BytesIO(corrupt)))):
        found = []
        for action in ("ignore", "error"):
            with warnings.catch_warnings():
                warnings.simplefilter(action)
                found.append(read_one(image if file is None else file))
        assert torch.equal(*found)


def test_an_open_file_is_read_from_its_start(picture, tmp_path):
    expected = pil_to_tensor(picture())
    written = io.BytesIO()
    picture().save(written, "PNG")  # its position is the end
    (tmp_path / "a.png").write_bytes(written.getvalue())
    with (tmp_path / "a.png").open("rb") as file:
        file.read(100)
        assert torch.equal(read_one(file)[0], expected)
    assert torch.equal(read_one(written)[0], expected)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.0, 1.0002, r"0 to 1\.0002; clamp them"),
        (-0.004, 1.0, r"-0\.004 to 1; clamp them"),
        (-1.0, 1.0, r"-1 to 1; rescale them: \(pixels \+ 1\) / 2"),
        (0.0, 255.0, "0 to 255; divide by 255"),
        (-3.0, 8.0, "-3 to 8; clamp or rescale"),
    ],
)
def test_floats_out_of_range_name_the_largest_and_the_remedy(low, high, message):
    pixels = torch.full((3, 8, 8), 0.5)
    pixels[0, 0, 0], pixels[0, 0, 1] = low, high
    for image in (pixels, pixels.permute(1, 2, 0).numpy(), Image.fromarray(pixels[0].numpy())):
        with pytest.raises(InputError, match=message):
            read_one(image)
