"""Images as people have them: integers of many bits, metadata of any size, files half read, warnings made errors."""

import gzip
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


def tiff(bits, photometric, data):
    """A TIFF image of 120 x 90 grey pixels in one strip."""
    entries = {
        256: 120,
        257: 90,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 90,
        279: len(data),
    }
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries))
        + fields
        + bytes(4)
    )


def test_tiff_images_of_12_bits(grey):
    """Two pixels lie in three bytes; white is 4095."""
    first, second = (grey.ravel().astype(np.int32) * 4095 // 255).reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)
    found = read_one(tiff(12, 1, packed.tobytes()))
    assert (found.int() - read_one(Image.fromarray(grey)).int()).abs().max() <= 1  # 12 bits, rounded down
    assert found.max() == grey.max()


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_images_whose_white_is_0(grey, bits):
    inverted = 255 - grey if bits == 8 else 65535 - grey.astype("<u2") * 257
    assert torch.equal(read_one(tiff(bits, 0, inverted.tobytes())), read_one(Image.fromarray(grey)))


@pytest.mark.parametrize(
    "largest, remedy",
    [
        (200, r"pixels\.{}, if 255 is white"),
        (4000, "pixels / 65535 where .* 16 bits, / 4095 where 12"),
        (70000, ""),
    ],
)
def test_integer_arrays_and_tensors_name_the_largest_and_the_remedy(largest, remedy):
    pixels = torch.zeros(3, 8, 8, dtype=torch.int32)
    pixels[0, 0, 0] = largest
    wanted = rf"pixels are int32, 0 to {largest}; pass uint8 .*{remedy}$"
    with pytest.raises(InputError, match=wanted.format(r"to\(torch\.uint8\)")):
        read_one(pixels)
    with pytest.raises(InputError, match=wanted.format(r"astype\(numpy\.uint8\)")):
        read_one(pixels.permute(1, 2, 0).numpy())


def test_files_that_cannot_be_read_say_so(picture, tmp_path):
    data = io.BytesIO(saved(picture()))
    data.close()
    closed = (tmp_path / "a.png").open("wb")
    closed.close()
    with (tmp_path / "b.png").open("wb") as writing, (tmp_path / "a.png").open() as text:
        for file, message in (
            (data, r"cannot be read: I/O operation on closed file; open it with mode 'rb'"),
            (closed, r"a\.png: cannot be read: .*; open it with mode 'rb'"),
            (writing, r"b\.png: cannot be read: .*; open it with mode 'rb'"),
            (text, "open as text; open it with mode 'rb'"),
        ):
            with pytest.raises(InputError, match=message):
                read_one(file)
    with (
        pytest.raises(InputError, match="broken picture"),
        gzip.open(io.BytesIO(gzip.compress(b"x")[:-4])) as file,
    ):
        read_one(file)


def test_values_beyond_float32_are_infinite_also_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="NaN or infinite"):
            read_one(np.full((9, 9), 1e300))
