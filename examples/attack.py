"""How far a gradient moves a score without anybody seeing why.

    python attack.py gen.png
    python attack.py noise --steps 1 20 --reach 2 16

A metric is a network, and its gradient finds what the network takes for quality rather than what people do. From an
image, or from uniform noise, this takes steps along the sign of the gradient (Kurakin et al., *Adversarial Examples in
the Physical World*, 2017), and changes no value by more than so many of 255. The images are rounded to 8 bits before
they are scored, as a file of them is. Whoever rewards a generator with a metric should know these numbers.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import aigciqa


def attacked(metric: aigciqa.Metric, picture: Tensor, steps: int, reach: float) -> Tensor:
    """An image, (1, 3, H, W) in [0, 1], changed by at most `reach` of 255, in so many steps, to score more."""
    size = 2 / 255 if steps > 1 else reach / 255
    found = picture
    for _ in range(steps):
        at = found.clone().requires_grad_()
        (slope,) = torch.autograd.grad(metric(at).sum(), at)
        found = (found + size * slope.sign()).clamp(picture - reach / 255, picture + reach / 255).clamp(0, 1)
        found = found.detach()
    return (found * 255).round() / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", help="A file, or noise.")
    parser.add_argument("--metric", default="nr-aigciqa", help="Judges an image alone.")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 20])
    parser.add_argument(
        "--reach", type=float, nargs="+", default=[2, 16], help="Of 255; for each of --steps."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the noise.")
    args = parser.parse_args()

    metric = aigciqa.create_metric(args.metric, device="cpu", as_loss=True)
    if args.picture == "noise":
        pixels = np.random.default_rng(args.seed).integers(0, 256, (256, 256, 3), np.uint8)
    else:
        pixels = np.array(Image.open(args.picture).convert("RGB"))
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    print(f"{'steps':>5}{'most, of 255':>14}{'score':>8}")
    print(f"{0:5}{0:14}{metric(picture).item():8.2f}")
    for steps, reach in zip(args.steps, args.reach, strict=True):
        changed = attacked(metric, picture, steps, reach)
        most = (changed - picture).abs().max().item() * 255
        print(f"{steps:5}{most:14.0f}{metric(changed).item():8.2f}")


if __name__ == "__main__":
    main()
