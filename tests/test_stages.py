"""What goes beyond the papers against a restatement in numpy and scipy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import make_lively, tiny_config
from scipy.ndimage import uniform_filter
from torch import nn

from aigciqa.config import MetricConfig, Transform
from aigciqa.errors import CheckpointError
from aigciqa.model import Network, load_network
from aigciqa.stages import STATISTICS, Stages, scene_statistics, window_statistics

# -- restated: each gives (N, cells * cells, values) float64


def in_cells(x, cells):
    """(..., H, W) to a list of the cells, row by row; they overlap where cells do not divide a side evenly."""
    rows, columns = (
        [slice(i * n // cells, -(-(i + 1) * n // cells)) for i in range(cells)] for n in x.shape[-2:]
    )
    return [x[..., r, c] for r in rows for c in columns]


def pooled(x, cells, what):
    return np.stack([what(cell, axis=(-2, -1)) for cell in in_cells(x, cells)], 1)


def deviation(x, axis):
    return np.sqrt(np.maximum(x.var(axis), 1e-6))


def moments(maps, cells):
    """Means, then standard deviations, of feature maps."""
    maps = [x.double().numpy() for x in maps]
    return np.concatenate([pooled(x, cells, what) for what in (np.mean, deviation) for x in maps], -1)


@torch.no_grad()
def maps_of(net, images):
    """Those before the last stage, and those from there on."""
    last, maps = net.forward_intermediates(images)
    late = maps[-1:] if net.num_features == maps[-1].shape[1] else [maps[-1], last]
    return maps[:-1], late


def local_mean(x):
    """Of 7 x 7 pixels, at borders of those that are there."""

    def total(x):
        return uniform_filter(x, (0, 0, 7, 7), mode="constant")

    return total(x) / total(np.ones_like(x))


def scene(pixels, cells):
    r, g, b = np.moveaxis(pixels.double().numpy(), 1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    x = np.stack([luma, (b - luma) / 1.772, (r - luma) / 1.402], 1)
    found = []
    for _ in range(2):
        mean = local_mean(x)
        spread = np.sqrt(np.maximum(local_mean(x * x) - mean * mean, 1e-2))
        z = (x - mean) / (spread + 1)

        def average(values):
            return pooled(values, cells, np.mean)

        found += [
            average(abs(z)),
            np.sqrt(average(z**2) + 1e-6),
            average(z**3),
            np.log(average(z**4) + 1e-3),
            average(np.log(1 + spread)),
            pooled(np.log(1 + spread), cells, deviation),
            np.log(1 + average(spread)),
            np.log(1 + np.sqrt(average(spread**2) + 1e-6)),
            average(1 / (1 + spread)),
        ]
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            h, w = z.shape[-2:]
            here = z[..., : h - down, max(0, -right) : w - max(0, right)]
            product = here * z[..., down:, max(0, right) : w + min(0, right)]
            found += [average(product), average(abs(product))]
        n, c, h, w = x.shape
        x = x[..., : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
    return np.concatenate(found, -1)


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=2e-3)


# -- networks


def lively(config):
    """Like `random_network` of conftest, for stages and tiles."""
    torch.manual_seed(0)
    network = Network(config)

    def inputs(x):
        if config.transform.tiles:
            x = x[:, None].repeat(1, config.transform.views, 1, 1, 1)
        features = network.features(x)
        return network.inputs(features, features.roll(1, 0) if config.reference == "full" else None)

    make_lively(network.backbone, network.head, inputs, config.transform.crop)
    return network.eval()


def coarse(*shape):
    """(*shape, 3, 64, 64), normalised pictures with structure."""
    x = nn.functional.interpolate(torch.rand(int(np.prod(shape)), 3, 9, 9), (64, 64)) * 4 - 2
    return (x + 0.1 * torch.randn_like(x)).view(*shape, 3, 64, 64)


BACKBONES = pytest.mark.parametrize(
    ("backbone", "early", "late"),
    [
        ("test_resnet", 304, 96),
        ("test_efficientnet", 120, 64 + 256),  # a layer after the last stage
        ("test_vit", 320, 64),
        ("test_convnext", 104, 64),
        ("swin_tiny_patch4_window7_224", 672, 768),  # channels last inside
        ("resnet18", 512, 512),
    ],
)


@BACKBONES
def test_stages_are_mean_and_deviation_of_every_map(backbone, early, late):
    x = coarse(2)
    for cells in (1, 2):
        config = tiny_config(backbone=backbone, feature="stages", cells=cells, transform=Transform(64, 64))
        network = lively(config)
        assert network.backbone.parts == network.parts == (2 * (early + late),)
        assert network.backbone.width == cells**2 * 2 * (early + late)
        maps = [x for some in maps_of(network.backbone.net, x) for x in some]
        expected = moments(maps, cells)
        assert expected.shape == (2, cells**2, 2 * (early + late))
        with torch.no_grad():
            close(network.features(x), expected.reshape(2, -1))


@BACKBONES
def test_with_tiles_the_whole_gives_the_last_maps_and_tiles_the_rest(backbone, early, late):
    x = coarse(2, 5)
    for cells in (1, 2):
        transform = Transform(64, 64, tiles=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
        network = lively(tiny_config(backbone=backbone, feature="stages", cells=cells, transform=transform))
        assert network.parts == (2 * late, 2 * early, 6 * STATISTICS)
        assert network.backbone.width == cells**2 * (2 * late + 4 * (2 * early + 6 * STATISTICS))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (transform.mean, transform.std))
        tiles = x[:, 1:].flatten(0, 1)
        whole = moments(maps_of(network.backbone.net, x[:, 0])[1], cells)
        texture = moments(maps_of(network.backbone.net, tiles)[0], cells)
        native = scene((tiles * std + mean) * 255, cells)
        of_tiles = np.concatenate([texture, native], -1)
        expected = np.concatenate([whole.reshape(2, -1), of_tiles.reshape(2, -1)], 1)
        with torch.no_grad():
            found = network.features(x)
        close(found, expected)
        summary = np.concatenate([whole.mean(1), of_tiles.reshape(2, 4 * cells**2, -1).mean(1)], 1)
        close(network.inputs(found), summary)


@BACKBONES
def test_tiles_can_have_a_network_of_their_own(backbone, early, late):
    """Whole pictures as a plain network sees them, tiles as another does."""
    transform = Transform(64, 64, tiles=2)
    config = tiny_config(backbone=backbone, feature="stages", transform=transform)
    torch.manual_seed(0)
    network = Network(config.with_(tile_backbone=True))
    one, other = lively(config), Network(config)
    other.load_state_dict(one.state_dict())
    for tensor in other.parameters():
        tensor.data += 0.05 * tensor.std(correction=0) * torch.randn_like(tensor)
    wanted, states = network.state_dict(), (one.state_dict(), other.state_dict())
    tiles = {name: name.replace("tile_net", "net") for name in wanted if ".tile_net." in name}
    assert 0 < len(tiles) < sum(".net." in name for name in wanted)  # its last stage is not there
    assert all(torch.equal(wanted[name], wanted[of_net]) for name, of_net in tiles.items())  # it begins so
    network.load_state_dict(states[0] | {name: states[1][of_net] for name, of_net in tiles.items()})
    x = coarse(2, 5)
    with torch.no_grad():
        found, a, b = (n.eval().features(x) for n in (network, one, other))
    whole = 2 * late
    assert torch.allclose(found[:, :whole], a[:, :whole], atol=1e-5)
    assert torch.allclose(found[:, whole:], b[:, whole:], atol=1e-5)
    assert (a - b)[:, whole:].abs().max() > 1e-3
    assert network.parts == one.parts == (whole, 2 * early, 6 * STATISTICS)


def test_cells_change_the_deviations_only():
    x = torch.rand(3, 3, 64, 64) * 4 - 2
    one, four = (Network(tiny_config(feature="stages", cells=cells)).eval() for cells in (1, 2))
    four.load_state_dict(one.state_dict())  # of the same shapes
    with torch.no_grad():
        a, b = (network.inputs(network.features(x)) for network in (one, four))
    half = one.parts[0] // 2
    assert a.shape == b.shape == (3, 2 * half)
    assert torch.allclose(a[:, :half], b[:, :half], atol=1e-4)
    assert (b[:, half:] <= a[:, half:] + 1e-3).all()  # what differs between cells is no deviation within them
    assert (a[:, half:] - b[:, half:]).max() > 0.01


@pytest.mark.parametrize("reference", ["none", "full", "partial"])
@pytest.mark.parametrize(("cells", "tiles"), [(1, 0), (2, 0), (1, 2), (2, 2), (2, 1)])
def test_the_head_sees_both_pictures_and_where_they_differ(reference, cells, tiles):
    config = tiny_config(reference, feature="stages", cells=cells, transform=Transform(72, 64, tiles=tiles))
    network = lively(config)
    seen = []
    network.head.register_forward_pre_hook(lambda head, args: seen.append(args[0]))
    generated, prompt = coarse(2, 2, *([config.transform.views] if tiles else []))
    with torch.no_grad():
        network(generated, None if reference == "none" else prompt)
        g, r = (network.features(x).numpy() for x in (generated, prompt))

    def summary(features):
        first = network.backbone.parts[0] * cells**2
        whole, rest = features[:, :first], features[:, first:]
        parts = [whole.reshape(2, cells**2, -1).mean(1)]
        if tiles:
            parts.append(rest.reshape(2, tiles**2 * cells**2, -1).mean(1))
        return np.concatenate(parts, 1)

    expected = {
        "none": lambda: summary(g),
        "partial": lambda: summary((g + r) / 2),
        "full": lambda: np.concatenate([summary(g), summary(r), summary(abs(g - r))], 1),
    }[reference]()
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert network.parts == network.backbone.parts * (3 if reference == "full" else 1)
    assert sum(network.parts) == seen[0].shape[1] == network.head.fc1.in_features
    if reference == "full":  # part by part: not the difference of the sums
        apart = abs(summary(g) - summary(r))
        assert (expected[:, -apart.shape[1] :] >= apart - 1e-4).all()
        assert (expected[:, -apart.shape[1] :] > apart + 1e-3).any() == (cells > 1 or tiles > 1)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_convnext"])
@pytest.mark.parametrize(("cells", "tiles"), [(2, 2), (1, 1), (2, 0)])
def test_a_batch_is_what_its_members_are(backbone, cells, tiles):
    transform = Transform(72, 64, tiles=tiles)
    network = lively(
        tiny_config("full", backbone=backbone, feature="stages", cells=cells, transform=transform)
    )
    generated, prompts = coarse(2, 4, *([transform.views] if tiles else []))
    with torch.no_grad():
        together = network(generated, prompts)
        alone = torch.cat([network(generated[i : i + 1], prompts[i : i + 1]) for i in range(4)])
        order = torch.tensor([2, 0, 3, 1])
        shuffled = network(generated[order], prompts[order])
    assert together.std(0).min() > 1e-3
    assert torch.allclose(together, alone, atol=5e-4)
    assert torch.allclose(together[order], shuffled, atol=5e-4)


def test_the_order_of_tiles_does_not_matter_without_a_reference_and_matters_with_one():
    transform = Transform(72, 64, tiles=2)
    x, y = coarse(2, 3, 5)
    other = x[:, [0, 3, 1, 4, 2]]
    for reference in ("none", "full"):
        network = lively(tiny_config(reference, feature="stages", transform=transform))
        with torch.no_grad():
            apart = (network(x, y) - network(other, y)).abs().max()
        assert (apart > 1e-3) == (reference == "full")


def test_tiles_do_not_run_through_the_last_stage():
    network = lively(tiny_config(feature="stages", transform=Transform(72, 64, tiles=2)))
    seen = []
    for block in (network.backbone.net.blocks[0], network.backbone.net.blocks[-1]):
        block.register_forward_pre_hook(lambda block, args: seen.append(len(args[0])))
    with torch.no_grad():
        network(coarse(3, 5))
    assert seen == [3, 3, 12]


def test_names_and_shapes_of_weights_are_those_without_stages():
    transform = Transform(72, 64, tiles=2)
    config = tiny_config("full", feature="stages", cells=2, transform=transform)
    network = lively(config)
    plain = Network(tiny_config("full")).state_dict()
    state = network.state_dict()
    assert state.keys() == plain.keys()
    assert all(state[k].shape == plain[k].shape for k in state if k.startswith("backbone."))
    loaded = load_network(config, state)
    x, y = coarse(2, 2, 5)
    with torch.no_grad():
        assert torch.allclose(loaded(x, y), network(x, y), atol=1e-5)
    for changed in (
        config.with_(transform=Transform(72, 64)),
        config.with_(reference="none"),
        config.with_(feature="avg", cells=1, transform=Transform(72, 64)),
    ):
        with pytest.raises(CheckpointError, match="do not fit"):
            load_network(changed, state)


def test_a_network_without_stages_is_refused():
    with pytest.raises(CheckpointError, match="does not give the stages of plain"):
        Stages(nn.Identity(), MetricConfig("x", "none", "plain", feature="stages"))


# -- scene statistics: (N, cells, 2 scales, 17, 3 channels)


def by_channel(found):
    return found.view(*found.shape[:2], 2, STATISTICS, 3)


@pytest.fixture
def pixels(picture):
    """(2, 3, 72, 96) in [0, 255], one of them noisy."""

    def make(height=72, width=96):
        x = torch.stack(
            [torch.from_numpy(np.array(picture(width, height, seed))).permute(2, 0, 1) for seed in (1, 2)]
        ).float()
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0))
        x[1] = (x[1] + 20 * noise).clamp(0, 255).round()
        return x

    return make


@pytest.mark.parametrize("cells", [1, 2, 8])
@pytest.mark.parametrize("size", [(72, 96), (65, 71), (32, 32)])
def test_scene_statistics_are_those_restated(pixels, size, cells):
    x = pixels(*size)
    x[0, :, :9, 11:30] = 255  # flat, and at the border
    found = scene_statistics(x, cells)
    assert found.shape == (2, cells**2, 2 * STATISTICS * 3)
    np.testing.assert_allclose(found.numpy(), scene(x, cells), rtol=1e-3, atol=1e-3)


def test_statistics_of_windows_are_those_of_the_same_places_in_a_picture(pixels):
    x = pixels(256, 256)
    cells = by_channel(scene_statistics(x, 4)).view(2, 4, 4, 2, STATISTICS, 3)
    windows = window_statistics(x[..., 56:200, 56:136], 64)  # of 64 to 192 by 64 to 128
    assert windows.shape == (2, 3, 1, 2 * STATISTICS * 3)
    found = windows.view(2, 3, 2, STATISTICS, 3)
    for window, cell in ((0, cells[:, 1, 1]), (2, cells[:, 2, 1])):
        assert torch.allclose(found[:, window, :, :9], cell[:, :, :9], rtol=1e-3, atol=1e-3)
        assert torch.allclose(
            found[:, window], cell, atol=0.03
        )  # products are of one row or column less there
        assert not torch.allclose(found[:, 1], cell, atol=0.03)


def test_scene_statistics_of_white_noise():
    """Pixels that know nothing of each other, far from any border's influence."""
    noise = torch.randn(1, 1, 500, 500, generator=torch.Generator().manual_seed(0)) * 10 + 128
    found = by_channel(scene_statistics(noise.repeat(1, 3, 1, 1)))[0, 0, :, :, 0]
    for scale, std in ((0, 10), (1, 5)):  # of 4 pixels the mean
        rms, level = found[scale, 1], found[scale, 4]
        assert rms == pytest.approx((48 / 49) ** 0.5 * std / (std + 1), rel=0.03)
        assert level == pytest.approx(np.log(std * (48 / 49) ** 0.5 + 1), rel=0.02)
        # the two share a mean, of 49 of which each is one
        assert found[scale, 9::2].abs().max() < 0.05
    assert found[0, 9::2].mean() < 0


def test_a_mirror_image_has_the_same_statistics_but_for_the_diagonals(pixels):
    x = pixels()
    for cells in (1, 2):
        plain, mirrored, upside, turned, transposed = (
            by_channel(scene_statistics(y, cells))
            for y in (x, x.flip(-1), x.flip(-2), x.flip(-1, -2), x.transpose(-1, -2))
        )
        grid = torch.arange(cells**2).view(cells, cells)
        diagonals = [*range(13), 15, 16, 13, 14]
        beside = [*range(9), 11, 12, 9, 10, *range(13, 17)]
        for found, order, names in (
            (mirrored, grid.flip(1), diagonals),
            (upside, grid.flip(0), diagonals),
            (turned, grid.flip(0, 1), list(range(17))),
            (transposed, grid.T, beside),
        ):
            assert torch.allclose(found, plain[:, order.flatten()][..., names, :], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(mirrored[:, grid.flip(1).flatten()], plain, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(transposed[:, grid.T.flatten()], plain, rtol=1e-3, atol=1e-3)


def test_brightness_moves_nothing_and_grey_pictures_have_no_chroma(pixels):
    x = pixels() / 2
    assert torch.allclose(scene_statistics(x + 60), scene_statistics(x), rtol=1e-3, atol=2e-3)
    grey = by_channel(scene_statistics(x.mean(1, keepdim=True).repeat(1, 3, 1, 1)))
    flat = by_channel(scene_statistics(torch.full_like(x, 128)))
    assert torch.allclose(grey[..., 1:], flat[..., 1:], atol=2e-3)
    assert not torch.allclose(grey[..., 0], flat[..., 0], atol=0.1)


@pytest.mark.parametrize("cells", [1, 2])
def test_statistics_of_a_batch_are_those_of_its_members(pixels, cells):
    x = torch.cat([pixels(), pixels().flip(-2), torch.full((1, 3, 72, 96), 255.0)])
    together = scene_statistics(x, cells)
    alone = torch.cat([scene_statistics(y[None], cells) for y in x])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)
    assert torch.allclose(scene_statistics(x.flip(0), cells), together.flip(0), rtol=1e-4, atol=1e-4)
    last = scene_statistics(x.contiguous(memory_format=torch.channels_last), cells)
    assert torch.allclose(last, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 17, 3), (1, 254, 77)])
@pytest.mark.parametrize("cells", [1, 8])
def test_a_picture_of_one_colour(colour, cells):
    x = torch.tensor(colour).float().view(1, 3, 1, 1).repeat(1, 1, 40, 40).requires_grad_()
    found = scene_statistics(x, cells)
    assert found.isfinite().all()
    assert found.half().isfinite().all()
    # squares of pixels are 65025 at most, of which float32 drops up to a hundredth
    np.testing.assert_allclose(found.detach().numpy(), scene(x.detach(), cells), atol=0.15)
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_every_extreme_is_finite_in_half_precision():
    squares = torch.zeros(1, 3, 64, 64)
    squares[..., ::2, ::2] = squares[..., 1::2, 1::2] = 255
    lone = torch.zeros(1, 3, 64, 64)
    lone[..., 30, 30] = 255
    red = lone * torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    for x in (squares, lone, red, 255 - lone):
        x.requires_grad_()
        found = scene_statistics(x, 2)
        assert found.half().isfinite().all()
        found.sum().backward()
        assert x.grad.isfinite().all()


def test_the_gradient_is_that_of_differences(pixels):
    x = pixels(32, 34)[1:].double().requires_grad_()
    weights = torch.randn(2 * STATISTICS * 3, generator=torch.Generator().manual_seed(0)).double()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()

    def value(x):
        return float(scene(x.detach(), 1)[0, 0] @ weights.numpy())

    (scene_statistics(x.float())[0, 0].double() @ weights).backward()
    step = 1e-4
    expected = (value(x + step * way) - value(x - step * way)) / (2 * step)
    assert (x.grad * way).sum() == pytest.approx(expected, rel=1e-2)


# which of the statistics of luma, at the first scale
LEVEL, FLAT, RIGHT = 4, 8, 9


def test_damage_moves_them(pixels):
    x = pixels(96, 96)[:1]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def blur(x):
        padded = nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return nn.functional.avg_pool2d(padded, 5, 1)

    def luma(x):
        return by_channel(scene_statistics(x))[0, 0, 0, :, 0]

    ladder = [luma((x + std * noise).clamp(0, 255)) for std in (0, 5, 15, 45)]
    for less, more in pairwise(ladder):
        assert more[LEVEL] > less[LEVEL] + 0.01
        assert more[FLAT] < less[FLAT]
        assert more[RIGHT] < less[RIGHT]  # neighbours agree less
    for sharp in (x, (x + 10 * noise).clamp(0, 255)):
        soft = luma(blur(sharp))
        assert soft[LEVEL] < luma(sharp)[LEVEL] - 0.05
        assert soft[FLAT] > luma(sharp)[FLAT]
    blocks = x.view(1, 3, 12, 8, 12, 8).mean((3, 5)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert (luma(blocks) - luma(x)).abs().max() > 0.3
    coloured = x + torch.tensor([0.0, -0.344136, 1.772]).view(3, 1, 1) * 10 * noise[:, :1]  # blue chroma only
    found, before = (by_channel(scene_statistics(y))[0, 0] for y in (coloured, x))
    assert torch.allclose(found[..., 0], before[..., 0], rtol=1e-3, atol=2e-3)
    assert torch.allclose(found[..., 2], before[..., 2], rtol=1e-3, atol=2e-3)
    assert found[0, LEVEL, 1] > before[0, LEVEL, 1] + 0.1
