"""Autoencoders: convolutional networks that rebuild pictures through a bottleneck, trained on photographs."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError, InputError, TransientError
from ..weights import load_weights
from ..writing import write_whole
from .files import digest_of
from .photographs import read_photograph
from .structural import Rng

PATCH, BATCH, SIDE = 96, 8, 512  # pixels of a patch; patches of a step; photographs' shorter side
SHAPES = {  # stride, latent channels of the least and of the most degraded level, width
    "autoencoder-4": (4, 12, 2, 48),
    "autoencoder-8": (8, 20, 3, 96),
}
COLOURS = 3  # the first latent channels: the mean colour of a block
KEYS = ("stride", "channels", "fewest", "width")


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.leaky_relu(self.first(functional.leaky_relu(x, 0.1)), 0.1)
        return x + self.second(inner)


class Autoencoder(nn.Module):
    """A linear encoder, principal components of square blocks in falling order, and a convolutional decoder.

    The first latent channels alone are a smaller bottleneck: the decoder learns with any number of them.
    The encoder has a closed form, so the few minutes of training are all spent on the decoder.

    Args:
        stride: side of a block, a power of 2.
        channels: of the latents, at most ``3 * stride**2``.
        fewest: channels of the smallest bottleneck.
        width: channels of the decoder's residual blocks.
    """

    def __init__(self, stride: int, channels: int, fewest: int, width: int):
        super().__init__()
        self.fewest = fewest
        self.encoder = nn.Conv2d(3, channels, stride, stride, bias=False).requires_grad_(False)
        self.amplitude: Tensor
        self.register_buffer("amplitude", torch.ones(channels))
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        layers += [Residual(width) for _ in range(3)]
        for doubling in range(steps := int(math.log2(stride))):
            out = 3 if doubling == steps - 1 else max(32, width * 2 // 3 >> doubling)
            layers += [nn.LeakyReLU(0.1), nn.ConvTranspose2d(width, out, 4, 2, 1)]
            width = out
        self.decoder = nn.Sequential(*layers)

    def fit_encoder(self, pictures: Tensor) -> None:
        """Principal components of the blocks of pictures (N, 3, H, W) in [0, 1].

        They are divided by the root of their deviation: the last ones are amplified for the decoder to learn from,
        but still count for less than the first.
        """
        stride, channels = self.encoder.stride[0], self.encoder.out_channels
        blocks = functional.unfold(pictures - 0.5, stride, stride=stride).transpose(1, 2).flatten(0, 1)
        variance, components = torch.linalg.eigh((blocks.T @ blocks / len(blocks)).double())
        self.amplitude = variance.flip(0)[:channels].clamp_min(1e-6).pow(0.25).float()
        rows = components.flip(1)[:, :channels].T.float() / self.amplitude[:, None]
        with torch.no_grad():
            self.encoder.weight.copy_(rows.view_as(self.encoder.weight))

    def encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to latents (N, channels, H / stride, W / stride), of deviation `amplitude`."""
        return self.encoder(pictures - 0.5)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents) + 0.5


# -- training


def train_autoencoders(
    photos: Sequence[Path],
    folder: Path,
    *,
    seed: int = 1,
    steps: int = 1500,
    report: Callable[[str], None] = print,
) -> None:
    """Train autoencoders on patches of photographs; those that are in the folder already are left as they are.

    With the default number of steps this takes some five minutes on one processor.

    Args:
        photos: files; those that cannot be read or are smaller than 96 pixels are left out, and reported.
        folder: to write ``NAME.safetensors`` and ``NAME.json`` to.
        seed: any integer from 0.
        steps: of the optimiser, for each network.
        report: is told of the progress.

    Raises:
        InputError: when there is no usable photograph, or the folder's networks were trained otherwise.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> train_autoencoders([Path("ref.png")], folder, steps=1, report=lambda line: None)
        >>> sorted(file.name for file in folder.glob("*.safetensors"))
        ['autoencoder-4.safetensors', 'autoencoder-8.safetensors']
    """
    if steps < 1 or seed < 0:
        raise InputError(f"steps must be 1 or more and seed 0 or more, not {steps} and {seed}")
    photos, folder = [Path(photo) for photo in photos], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for one in sorted(map(digest_of, photos)):
        digest.update(bytes.fromhex(one))
    record = {"format": 1, "seed": seed, "steps": steps, "photographs": digest.hexdigest()}
    todo = []
    for name, shape in SHAPES.items():
        described = record | dict(zip(KEYS, shape, strict=True))
        if (file := folder / f"{name}.json").exists():
            if file.read_text() != _json(described):
                raise InputError(f"{file}: trained otherwise; choose another folder, or delete this one")
            report(f"{name}: is there")
        else:
            todo.append((name, described))
    pictures = _read_all(photos, report) if todo else []
    for name, described in todo:
        network = _train(name, pictures, described, report)
        _save(folder, name, network, described)


def _read_all(photos: Sequence[Path], report: Callable[[str], None]) -> list[Tensor]:
    """Photographs as (3, H, W) uint8, with a shorter side of `SIDE` pixels at most."""
    found = []
    for photo in photos:
        try:
            picture = read_photograph(photo)
        except (
            TransientError
        ):  # else a run on a share that fails now and then learns from another set each time
            raise
        except InputError as error:
            report(f"left out: {error}")
            continue
        if min(picture.size) < PATCH:
            report(f"left out: {photo}: smaller than {PATCH} pixels")
            continue
        scale = min(1, SIDE / min(picture.size))
        size = (round(picture.width * scale), round(picture.height * scale))
        shrunk = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
        found.append(torch.from_numpy(np.array(shrunk)).permute(2, 0, 1))
    if not found:
        raise InputError(f"no usable photograph among {len(photos)} files")
    return found


def _patches(pictures: Sequence[Tensor], count: int, rng: Rng) -> Tensor:
    """(count, 3, PATCH, PATCH) in [0, 1]."""
    chosen = []
    for number in rng.integers(len(pictures), size=count):
        picture = pictures[number]
        y, x = (int(rng.integers(side - PATCH + 1)) for side in picture.shape[1:])
        patch = picture[:, y : y + PATCH, x : x + PATCH]
        chosen.append(patch.flip(-1) if rng.random() < 0.5 else patch)
    return (torch.stack(chosen).float() / 255).contiguous(memory_format=torch.channels_last)


def _train(
    name: str, pictures: Sequence[Tensor], described: dict[str, Any], report: Callable[[str], None]
) -> Autoencoder:
    shape = [described[key] for key in KEYS]
    channels, fewest, steps, rate = described["channels"], described["fewest"], described["steps"], 3e-3
    rng = np.random.default_rng([described["seed"], *shape])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(described["seed"])
        network = Autoencoder(*shape)
    network.fit_encoder(_patches(pictures, 500, rng))
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.decoder.parameters(), rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        patches = _patches(pictures, BATCH, rng)
        share = np.minimum(1, 1.4 * rng.random((BATCH, 1)))  # all channels often, few as often as many
        kept = fewest * (channels / fewest) ** share
        mask = torch.from_numpy(np.arange(channels) < np.rint(kept))[:, :, None, None]
        loss = _loss(network.decode(network.encode(patches) * mask), patches)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.decoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            report(f"{name}: step {step} of {steps}, loss {loss.item():.4f}")
    return network


def _loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Of values, of gradients, and of how much fine structure there is, so that blurring does not pay."""
    loss = functional.l1_loss(made, wanted)
    for axis in (-1, -2):
        loss = loss + functional.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis)) / 2
    for size in (1, 2):
        pair = [functional.avg_pool2d(one, size) for one in (made, wanted)]
        fine = [one - functional.avg_pool2d(one, 3, 1, 1, count_include_pad=False) for one in pair]
        amount = [functional.avg_pool2d(one.abs(), 8, 4) for one in fine]
        loss = loss + functional.l1_loss(amount[0], amount[1]) * 0.4  # more of it rewards blocks
    return loss


def _json(described: dict[str, Any]) -> str:
    return json.dumps(described, indent=2) + "\n"


def _save(folder: Path, name: str, network: nn.Module, described: dict[str, Any]) -> None:
    """Weights first: what has its JSON file is complete."""
    from safetensors.torch import save

    weights = save({key: value.contiguous() for key, value in network.state_dict().items()})
    for file, content in ((f"{name}.safetensors", weights), (f"{name}.json", _json(described).encode())):
        write_whole(folder / file, content)


@cache
def load_autoencoder(file: Path) -> Autoencoder:
    try:
        described = json.loads(file.read_text())
        network = Autoencoder(*(described[key] for key in KEYS))
        network.load_state_dict(load_weights(file.with_suffix(".safetensors")))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{file}: not a trained autoencoder: {error}; delete it and train again"
        ) from None
    return network.eval().to(memory_format=torch.channels_last)


# -- what they do to pictures
