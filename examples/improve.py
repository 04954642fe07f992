"""Make a blurred and dim picture score better, by the gradient of a metric used as a loss.

    python improve.py ref.png better.png
    python improve.py ref.png better.png --how pixels

A metric is a network, and a network can be fooled. Left free to change every pixel (`--how pixels`), gradient ascent
finds a pattern that hardly shows, scores high, and brings the picture no nearer to what it was before it was damaged.
So by default it may only turn the knobs of a photo editor: a small filter, brightness and contrast. The distance to
the undamaged picture, which the metric never sees, tells the two apart. Whoever trains a generator on a metric should
watch such a number as well: a second metric, a reference, or people.
"""

import argparse

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

import aigciqa

SIDE = 7  # of the filter, in pixels


def damage(picture: Tensor) -> Tensor:
    """Blur and dim a picture, (1, 3, H, W) in [0, 1]."""
    profile = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * 1.2**2))
    kernel = torch.outer(profile, profile) / profile.sum() ** 2
    return filtered(picture, kernel) * 0.8


def filtered(picture: Tensor, kernel: Tensor) -> Tensor:
    """Every channel by the same filter."""
    reach = kernel.shape[-1] // 2
    channels = functional.pad(picture, [reach] * 4, mode="replicate").transpose(0, 1)
    return functional.conv2d(channels, kernel[None, None]).transpose(0, 1)


class Knobs(torch.nn.Module):
    """A filter, contrast and brightness, which begin by changing nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.zeros(SIDE, SIDE))
        self.contrast = torch.nn.Parameter(torch.zeros(()))
        self.brightness = torch.nn.Parameter(torch.zeros(()))

    def forward(self, picture: Tensor) -> Tensor:
        kernel = self.kernel - self.kernel.mean()  # sums to nothing, so brightness is the other knobs' alone
        changed = picture + filtered(picture, kernel)
        return (changed * self.contrast.exp() + self.brightness).clamp(0, 1)


class Pixels(torch.nn.Module):
    """Something to add to every pixel."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.added = torch.nn.Parameter(torch.zeros_like(picture))

    def forward(self, picture: Tensor) -> Tensor:
        return (picture + self.added).clamp(0, 1)


def improve(
    picture: Tensor, metric: aigciqa.Metric, change: torch.nn.Module, steps: int, rate: float
) -> Tensor:
    """The best-scoring of what `change` makes of a picture, (1, 3, H, W) in [0, 1], as it learns for some steps."""
    optimizer = torch.optim.Adam(change.parameters(), lr=rate)
    best, highest = picture, metric(picture).item()
    for _ in range(steps):
        optimizer.zero_grad()
        changed = change(picture)
        score = metric(changed)
        (-score.mean()).backward()  # higher is better
        optimizer.step()
        if score.item() > highest:
            best, highest = changed.detach(), score.item()
    return best


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; higher is nearer."""
    return -10 * torch.log10(functional.mse_loss(a, b)).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", help="An undamaged picture.")
    parser.add_argument("output", help="Where to write it, damaged, and beside that improved.")
    parser.add_argument("--metric", default="nr-aigciqa", help="Judges a picture alone.")
    parser.add_argument("--how", choices=("knobs", "pixels"), default="knobs")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--size", type=int, default=256, help="Of the longer side, in pixels.")
    args = parser.parse_args()

    metric = aigciqa.create_metric(args.metric, as_loss=True)
    image = ImageOps.contain(
        Image.open(args.picture).convert("RGB"), (args.size, args.size), Image.Resampling.LANCZOS
    )
    clean = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(metric.device) / 255
    damaged = damage(clean)
    change = Knobs() if args.how == "knobs" else Pixels(damaged)
    rate = 0.03 if args.how == "knobs" else 0.002
    better = improve(damaged, metric, change.to(metric.device), args.steps, rate)

    print(f"{'':10}{'score':>8}{'PSNR to the undamaged':>24}")
    for name, shown in (("damaged", damaged), ("improved", better)):
        print(f"{name:10}{metric(shown).item():8.3f}{psnr(shown, clean):21.2f} dB")
    print(f"{'undamaged':10}{metric(clean).item():8.3f}")
    both = torch.cat([damaged, better], 3)[0].permute(1, 2, 0)
    Image.fromarray((both * 255).round().byte().cpu().numpy()).save(args.output)


if __name__ == "__main__":
    main()
