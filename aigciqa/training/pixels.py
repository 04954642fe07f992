"""Decoded pictures of a run, so that no epoch but the first decodes anything."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import image
from ..config import Transform
from ..transform import shrink


class Pixels:
    """Every picture decoded and resized once, in one file that is mapped into memory.

    They are stored as `aigciqa.transform.shrink` makes them, so the centre crop of one is what scoring sees.

    Args:
        paths: the pictures; their position is their number.
        transform: the checkpoint's.
        folder: where to put ``pixels.bin``; what lies there of the same pictures is used again.

    Raises:
        InputError: for a picture that cannot be read.
    """

    def __init__(self, paths: Sequence[Path], transform: Transform, folder: Path):
        self.transform = transform
        self.file, index = folder / "pixels.bin", folder / "pixels.json"
        key = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        wanted = {"resize": transform.resize, "pictures": key}
        found = json.loads(index.read_text()) if index.is_file() else {}
        if {k: found.get(k) for k in wanted} != wanted:
            index.unlink(missing_ok=True)
            found = wanted | {"shapes": self._write(paths)}
            index.write_text(
                json.dumps(found)
            )  # last, so that a half-written file is not taken for a whole one
        self.shapes: list[tuple[int, int]] = [(h, w) for h, w in found["shapes"]]
        self.starts = np.cumsum([0, *(h * w * 3 for h, w in self.shapes)])
        self.bytes = np.memmap(self.file, np.uint8, "r")

    def _write(self, paths: Sequence[Path]) -> list[tuple[int, int]]:
        def decode(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
            [block] = image.read(path)
            return shrink(block, self.transform.resize)[0].permute(1, 2, 0).contiguous().numpy()

        shapes = []
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("wb") as file, ThreadPoolExecutor() as pool:
            bar = tqdm(total=len(paths), desc="decoding", unit="picture", disable=not sys.stderr.isatty())
            for start in range(0, len(paths), 256):  # so that memory does not grow with their number
                for pixels in pool.map(decode, paths[start : start + 256]):
                    file.write(pixels.tobytes())
                    shapes.append((pixels.shape[0], pixels.shape[1]))
                    bar.update()
            bar.close()
        return shapes

    def discard(self) -> None:
        """Remove the files; a later run would make them again."""
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".json").unlink(missing_ok=True)

    def batch(
        self, numbers: Sequence[int], draws: "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None"
    ) -> Tensor:
        """Crops of some pictures. They are normalised by whoever computes, on its device.

        Args:
            numbers: which.
            draws: (pictures, 3) uniform in [0, 1): by picture where its crop lies and whether it is mirrored; None
                for the centre.

        Returns:
            (N, 3, crop, crop), uint8, channels last.
        """
        crop = self.transform.crop
        out = np.empty((len(numbers), crop, crop, 3), np.uint8)
        for row, number in enumerate(numbers):
            height, width = self.shapes[number]
            pixels = self.bytes[self.starts[number] : self.starts[number + 1]].reshape(height, width, 3)
            if draws is None:
                top, left, mirrored = round((height - crop) / 2), round((width - crop) / 2), False
            else:
                top, left = (
                    int(d * (s - crop + 1)) for d, s in zip(draws[number], (height, width), strict=False)
                )
                mirrored = bool(draws[number, 2] < 0.5)
            cut = pixels[top : top + crop, left : left + crop]
            out[row] = cut[:, ::-1] if mirrored else cut
        return torch.from_numpy(out).permute(0, 3, 1, 2)
