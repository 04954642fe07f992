"""A small data set in the layout of PKU-I2IQA: pictures whose degradation, and so whose quality, is known."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


def make_pku(root: Path, prompts: int = 40, size: int = 96, seed: int = 0) -> Path:
    """`prompts` image prompts and 8 pictures of each: blurred ones (SD), noisy ones (MJ)."""
    rng = np.random.default_rng(seed)
    (root / "Generated_image" / "All").mkdir(parents=True)
    (root / "Image_prompt").mkdir()
    lines = []
    for number in range(prompts):
        pixels = np.zeros((size, size, 3))
        for scale in (2, 4, 8, 24):
            coarse = rng.integers(0, 256, (size // scale + 2, size // scale + 2, 3), dtype=np.uint8)
            layer = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer) / 4
        prompt = Image.fromarray(pixels.astype(np.uint8))
        prompt.save(root / "Image_prompt" / f"{number}.jpg", quality=95)
        for generator in ("SD", "MJ"):
            for part in ("00", "01", "10", "11"):
                level = rng.uniform(0.05, 1)
                if generator == "SD":
                    picture = prompt.filter(ImageFilter.GaussianBlur(4 * level))
                else:
                    noisy = np.asarray(prompt) + rng.normal(0, 60 * level, (size, size, 3))
                    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                name = f"Generated_image/All/{generator}_{number:03d}_{part}.jpg"
                picture.save(root / name, quality=95)
                quality = 5 - 4 * level
                labels = f"{quality:.4f}\t{0.9 * quality:.4f}\t{3 + 0.2 * quality:.4f}"
                lines.append(f"{name}\t{labels}\ta picture of thing {number}\n")
    (root / "labels.txt").write_text("".join(lines))
    return root
