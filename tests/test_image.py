import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.image import read


def one(picture):
    [block] = read(picture)
    return block


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_kind_of_input_gives_the_same_pixels(picture, tmp_path):
    image = picture()
    array = np.asarray(image)
    path = tmp_path / "a.png"
    image.save(path)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    with path.open("rb") as file:
        for same in (
            path, str(path), path.read_bytes(), bytearray(path.read_bytes()), file, io.BytesIO(path.read_bytes()),
            image, array, array[::-1][::-1], np.asfortranarray(array), tensor, tensor[None],
        ):  # fmt: skip
            block = one(same)
            assert block.shape == (1, 3, 90, 120)
            assert block.dtype == torch.uint8
            assert torch.equal(block[0], tensor)
    for same in (array / 255, (array / 255).astype(np.float32), (array / 255).astype(">f8"), tensor / 255):
        block = one(same)
        assert block.dtype == torch.float32
        assert torch.allclose(block[0] * 255, tensor.float(), atol=1e-3)


def test_lists_mix_kinds_and_sizes(picture, tmp_path):
    picture(40, 30).save(tmp_path / "a.png")
    blocks = list(
        read([tmp_path / "a.png", picture(50, 20), torch.rand(2, 3, 8, 9), np.zeros((4, 5), np.uint8)])
    )
    assert [b.shape for b in blocks] == [(1, 3, 30, 40), (1, 3, 20, 50), (2, 3, 8, 9), (1, 3, 4, 5)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, orientation):
    upright = picture(48, 32)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    stored = upright.transpose(undo) if undo is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(one(encoded(stored, exif=exif)), one(upright))
    assert torch.equal(one(Image.open(io.BytesIO(encoded(stored, exif=exif)))), one(upright))


def test_unreadable_exif_is_ignored(picture):
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert one(data).shape == (1, 3, 90, 120)


def test_transparency_is_composited_on_white(picture):
    rgba = picture(mode="RGBA")
    rgba.putalpha(Image.fromarray(np.linspace(0, 255, 90 * 120).reshape(90, 120).astype(np.uint8)))
    white = Image.new("RGBA", rgba.size, "white")
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB")).astype(int)
    array = np.asarray(rgba)
    for source in (encoded(rgba), rgba, array, torch.from_numpy(array.copy()).permute(2, 0, 1), array / 255):
        got = one(source)[0].permute(1, 2, 0)
        got = got * 255 if got.is_floating_point() else got
        assert np.abs(got.numpy() - expected).max() <= 1
    grey_alpha = rgba.convert("LA")
    expected = np.asarray(Image.alpha_composite(white, grey_alpha.convert("RGBA")).convert("RGB")).astype(int)
    assert np.abs(one(grey_alpha)[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_palette_with_and_without_transparency(picture):
    palette = picture().quantize(16)
    assert torch.equal(one(encoded(palette)), one(palette.convert("RGB")))
    transparent = one(encoded(palette, transparency=0))
    hidden = torch.from_numpy(np.asarray(palette) == 0)
    assert (transparent[0][:, hidden] == 255).all()
    assert torch.equal(transparent[0][:, ~hidden], one(palette)[0][:, ~hidden])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV"])
def test_other_modes_look_as_pillow_shows_them(picture, mode):
    image = picture(mode=mode)
    expected = np.asarray(image.convert("L").convert("RGB") if mode in "1L" else image.convert("RGB"))
    assert np.array_equal(one(image)[0].permute(1, 2, 0).numpy(), expected)


def test_cmyk_jpeg(picture):
    image = picture(mode="CMYK")
    block = one(encoded(image, "JPEG", quality=100, subsampling=0))
    assert (block.float() - one(image).float()).abs().mean() < 2


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = np.round(deep / 257)
    for source in (
        encoded(Image.fromarray(deep)),
        encoded(Image.fromarray(deep), "TIFF"),
        Image.fromarray(deep),
    ):
        assert np.array_equal(one(source)[0, 0].numpy(), expected)
    assert np.array_equal(one(Image.fromarray(deep.astype(np.int32)))[0, 1].numpy(), expected)


def test_sixteen_bit_colour_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    import zlib

    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.abs(one(data)[0].permute(1, 2, 0).numpy() - values / 257).max() <= 1


def test_float_tiff():
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    block = one(encoded(Image.fromarray(values), "TIFF"))
    assert torch.allclose(block[0, 2], torch.from_numpy(values))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_an_animation(picture, kind):
    first, second = picture(seed=1), picture(seed=2)
    options = {"lossless": True} if kind == "WEBP" else {}
    both = one(encoded(first, kind, save_all=True, append_images=[second], **options))
    alone = one(encoded(first, kind, **options))
    assert torch.equal(both, alone)


def test_nothing_is_changed_in_the_input(picture):
    image, array, tensor = picture(mode="RGBA"), np.asarray(picture()).copy(), torch.rand(3, 20, 30)
    before = image.tobytes(), array.tobytes(), tensor.clone()
    list(read([image, array, tensor]))
    assert (image.tobytes(), array.tobytes()) == before[:2]
    assert torch.equal(tensor, before[2])
    assert image.mode == "RGBA"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([], "list is empty"),
        (None, "cannot score a NoneType"),
        (3.5, "cannot score a float"),
        ("missing.png", "missing.png: cannot be opened: No such file"),
        (Path(), "is a folder; pass the pictures in it as a list"),
        ("https://example.org/a.png", "is a URL; download it"),
        ("nul\0byte.png", "cannot be opened"),
        (b"", "not a picture"),
        (b"not a picture at all", "not a picture"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (np.zeros((3, 8, 8), np.uint8), "looks like (C, H, W)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "pass a batch as list(array)"),
        (np.zeros((8, 8, 5), np.uint8), "expected (H, W) or (H, W, 1 to 4)"),
        (np.zeros((8, 8, 3), np.int64), "pixels are int64, 0 to 0; pass uint8"),
        (np.zeros((8, 8, 3), bool), "pixels are bool"),
        (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
        (np.full((8, 8, 3), 200.0), "divide by 255 or pass uint8"),
        (np.full((8, 8, 3), -1.0), "[0, 1] but are -1 to -1"),
        (np.full((8, 8, 3), np.nan), "NaN or infinite"),
        (torch.full((3, 8, 8), torch.inf), "NaN or infinite"),
        (torch.zeros(8, 8, 3), "expected (C, H, W)"),
        (torch.zeros(2, 8, 8, 3), "the channels are last"),
        (torch.zeros(8, 8), "expected (C, H, W)"),
        (torch.zeros(0, 3, 8, 8), "has no pixels"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "pixels are int32"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "32-bit integer pixels"),
        (Image.fromarray(np.full((4, 4), 200, np.float32)), "divide by 255"),
    ],
)
def test_wrong_input_is_a_clear_error(bad, says):
    with pytest.raises(InputError) as caught:
        list(read(bad))
    assert says in str(caught.value)


def test_error_names_the_picture_in_a_list(picture, tmp_path):
    with pytest.raises(InputError, match="picture 1: "):
        list(read([picture(), torch.full((3, 4, 4), 9.0)]))
    (tmp_path / "broken.jpg").write_bytes(encoded(picture(), "JPEG")[:-200])
    with pytest.raises(InputError, match=r"broken\.jpg: broken picture: .*truncated"):
        list(read([tmp_path / "broken.jpg"]))


def test_floats_may_miss_the_range_by_rounding(picture):
    assert one(torch.full((3, 4, 4), 1.00005)).shape == (1, 3, 4, 4)
