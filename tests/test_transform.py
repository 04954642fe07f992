"""Preprocessing against torchvision's on PIL pictures, which is what the papers' code used."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from aigciqa.config import Transform
from aigciqa.image import read
from aigciqa.transform import preprocess, resize, resize_by_taps

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


def test_panorama_takes_bounded_memory_and_keeps_its_middle():
    wide = np.zeros((4, 40_000, 3), np.uint8)
    wide[:, 19_999:20_001] = 255
    out = preprocess(next(read(wide)), Transform())
    assert out.shape == (1, 3, 224, 224)
    assert out[0, 0, :, 112].min() > 2
    assert out[0, 0, :, 0].max() < -1.8
