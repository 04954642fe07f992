"""Preprocessing against torchvision's on PIL pictures, which is what the papers' code used."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from aigciqa.config import Transform
from aigciqa.image import read
from aigciqa.transform import normalise, preprocess, read_views, resize, resize_by_taps

INCEPTION = Transform(320, 299, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def by_torchvision(image, transform):
    steps = v2.Compose(
        [
            v2.Resize(transform.resize, v2.InterpolationMode.BILINEAR, antialias=True),
            v2.CenterCrop(transform.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(transform.mean, transform.std),
        ]
    )
    return steps(image)[None]


def steps_apart(a, b, transform):
    """Differences in 8-bit steps."""
    return ((a - b) * torch.tensor(transform.std).view(3, 1, 1) * 255).abs()


@pytest.mark.parametrize("transform", [Transform(), INCEPTION, Transform(64, 64)])
@pytest.mark.parametrize(
    "size", [(512, 512), (640, 427), (301, 999), (100, 57), (256, 256), (1, 1), (257, 320)]
)
def test_matches_torchvision_on_pil(picture, size, transform):
    image = picture(*size)
    apart = steps_apart(preprocess(next(read(image)), transform), by_torchvision(image, transform), transform)
    assert apart.max() < 1.01
    # Pillow in the order of passes used here, whatever order it would choose itself
    width, height = image.size
    short = min(width, height)
    new = [transform.resize if s == short else int(transform.resize * s / short) for s in image.size]
    two_passes = image.resize((new[0], height), Image.Resampling.BILINEAR).resize(
        new, Image.Resampling.BILINEAR
    )
    apart = steps_apart(
        preprocess(next(read(image)), transform), by_torchvision(two_passes, transform), transform
    )
    assert apart.max() < 1.01
    assert (apart > 0.01).float().mean() < 0.01


def test_floats_score_as_the_png_they_would_be_saved_to(picture, tmp_path):
    floats = torch.rand(1, 3, 70, 90)
    to_pil_image((floats[0] * 255 + 0.5).to(torch.uint8)).save(tmp_path / "a.png")
    for short in (64, 128):
        transform = Transform(short, 64)
        assert torch.equal(
            preprocess(floats, transform), preprocess(next(read(tmp_path / "a.png")), transform)
        )
    [block] = read(picture())
    assert torch.equal(preprocess(block, Transform()), preprocess(block / 255, Transform()))


def test_resize_of_other_devices_is_that_of_the_cpu_bit_for_bit():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, new_height, new_width = (int(v) for v in rng.integers(1, 700, 4))
        x = torch.from_numpy(rng.integers(0, 256, (1, 3, height, width), dtype=np.uint8))
        assert torch.equal(resize_by_taps(x, new_height, new_width), resize(x, new_height, new_width))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_the_cpu_bit_for_bit(picture):
    [block] = read(picture(300, 411))
    assert torch.equal(preprocess(block.cuda(), Transform()).cpu(), preprocess(block, Transform()))


@pytest.mark.parametrize("transform", [Transform(72, 64), Transform(72, 64, tiles=2)])
def test_views_of_any_kind_of_picture_are_what_preprocess_normalises(picture, tmp_path, transform):
    image = picture(101, 77)
    image.save(tmp_path / "a.png")
    floats = np.random.default_rng(0).random((50, 90, 3))
    for source in (tmp_path / "a.png", image, np.asarray(image), floats, torch.rand(2, 3, 80, 70)):
        found = read_views(source, transform)
        assert found.dtype == torch.uint8
        assert torch.equal(normalise(found, transform), preprocess(next(read(source)), transform))


def test_batch_is_its_members(picture):
    images = torch.cat([next(read(picture(300, 200, seed=s))) for s in range(3)])
    together = preprocess(images, Transform())
    for image, alone in zip(images, together, strict=True):
        assert torch.equal(preprocess(image[None], Transform())[0], alone)


def test_gradient_reaches_the_pixels():
    images = torch.rand(1, 3, 96, 80, requires_grad=True)
    out = preprocess(images, Transform(64, 64))
    assert torch.equal(out.detach(), preprocess(images.detach(), Transform(64, 64)))
    out.sum().backward()
    assert images.grad.abs().sum() > 0
    # a resize keeps the mean: the gradient is that of an unrounded one
    inner = images.grad[..., 16:-16, 8:-8]
    assert torch.allclose(inner, inner.mean((-1, -2), keepdim=True), rtol=0.2)


# -- tiles


def cut_at(length, size, count):
    """Where tiles begin: in the middles of equal parts, unless that is outside."""
    middles = [int((i + 0.5) * length / count) for i in range(count)]
    return [int(np.clip(middle - size // 2, 0, length - size)) for middle in middles]


def tiles_of(picture, size, count):
    """The tiles restated on a PIL picture: (count * count, size, size, 3) uint8."""
    if min(picture.size) < size:
        picture = v2.Resize(size, v2.InterpolationMode.BILINEAR, antialias=True)(picture)
    pixels = np.asarray(picture)
    tops, lefts = (cut_at(length, size, count) for length in pixels.shape[:2])
    return np.stack([pixels[y : y + size, x : x + size] for y in tops for x in lefts])


def test_where_tiles_lie():
    ramp = torch.arange(256, dtype=torch.uint8)
    image = torch.stack([ramp[:, None].expand(256, 200), ramp[:200].expand(256, 200)])
    image = torch.cat([image, image[:1]])[None]

    def corners(count):
        transform = Transform(32, 32, tiles=count, mean=(0, 0, 0), std=(1, 1, 1))
        return (preprocess(image, transform)[0, 1:, :2, 0, 0] * 255).round().int().tolist()

    assert corners(1) == [[112, 84]]
    assert corners(2) == [[48, 34], [48, 134], [176, 34], [176, 134]]
    assert corners(4)[:4] == [[16, 9], [16, 59], [16, 109], [16, 159]]
    assert corners(8)[:3] == [[0, 0], [0, 21], [0, 46]]  # wider than its part, so the first is moved inside
    assert corners(8)[-1] == [224, 168]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [(101, 77), (64, 64), (300, 65), (65, 190), (64, 131)])
def test_tiles_are_parts_of_the_picture_as_it_is(picture, size, count):
    image = picture(*size)
    transform = Transform(72, 64, tiles=count)
    found = preprocess(next(read(image)), transform)
    assert found.shape == (1, 1 + count**2, 3, 64, 64)
    assert torch.equal(found[:, 0], preprocess(next(read(image)), Transform(72, 64)))
    expected = torch.from_numpy(tiles_of(image, 64, count)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (transform.mean, transform.std))
    assert torch.allclose(found[0, 1:], (expected - mean) / std, atol=1e-5)


def test_tiles_larger_than_their_parts_reach_every_edge():
    image = torch.zeros(1, 3, 90, 131, dtype=torch.uint8)
    image[:, 0, 0], image[:, 0, -1], image[:, 1, :, 0], image[:, 1, :, -1] = 255, 255, 255, 255
    tiles = preprocess(image, Transform(72, 64, tiles=3, mean=(0, 0, 0), std=(1, 1, 1)))[0, 1:].view(
        3, 3, 3, 64, 64
    )
    assert tiles[0, :, 0, 0].min() == tiles[2, :, 0, -1].min() == 1
    assert tiles[:, 0, 1, :, 0].min() == tiles[:, 2, 1, :, -1].min() == 1
    assert tiles[1, 1, :2].max() == 0


@pytest.mark.parametrize("size", [(40, 30), (63, 200), (200, 50), (1, 1), (3, 40)])
def test_a_picture_smaller_than_a_tile_is_enlarged(picture, size):
    image = picture(*size)
    transform = Transform(72, 64, tiles=2)
    found = preprocess(next(read(image)), transform)
    assert torch.equal(found[:, 0], preprocess(next(read(image)), Transform(72, 64)))
    if max(size) <= 8 * min(size):  # else a panorama, of which the middle is seen
        expected = torch.from_numpy(tiles_of(image, 64, 2)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (transform.mean, transform.std))
        assert steps_apart(found[0, 1:], (expected - mean) / std, transform).max() < 1.01
    if min(size) == 1:
        assert (found - found[..., :1, :1]).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(101, 77), (40, 30)])
def test_tiles_of_bytes_floats_and_floats_with_gradient_agree(picture, size):
    [block] = read(picture(*size))
    expected = preprocess(block, Transform(72, 64, tiles=2))
    assert torch.equal(preprocess(block / 255, Transform(72, 64, tiles=2)), expected)
    floats = (block / 255).requires_grad_()
    # the value passes through the unrounded path's sum, which rounds
    assert torch.allclose(preprocess(floats, Transform(72, 64, tiles=2)).detach(), expected, atol=1e-5)


def test_the_gradient_of_a_tile_is_that_of_its_pixels():
    images = torch.rand(2, 3, 100, 90, requires_grad=True)
    transform = Transform(72, 64, tiles=2)
    found = preprocess(images, transform)
    for number, (top, left) in enumerate([(0, 0), (0, 26), (36, 0), (36, 26)], 1):
        (gradient,) = torch.autograd.grad(found[:, number].sum(), images, retain_graph=True)
        expected = torch.zeros_like(images)
        expected[:, :, top : top + 64, left : left + 64] = 1 / torch.tensor(transform.std).view(3, 1, 1)
        assert torch.allclose(gradient, expected, rtol=1e-5)
    (whole,) = torch.autograd.grad(found[:, 0].sum(), images)
    assert whole.abs().sum() > 0


def test_panorama_takes_bounded_memory_and_keeps_its_middle():
    wide = np.zeros((4, 40_000, 3), np.uint8)
    wide[:, 19_999:20_001] = 255
    out = preprocess(next(read(wide)), Transform())
    assert out.shape == (1, 3, 224, 224)
    assert out[0, 0, :, 112].min() > 2
    assert out[0, 0, :, 0].max() < -1.8
