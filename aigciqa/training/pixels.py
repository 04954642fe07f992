"""Decoded pictures of a run, so that no epoch but the first decodes anything."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import image
from ..config import Transform
from ..progress import Progress
from ..transform import centre, shrink, views
from ..writing import replacing
from .files import by_turns, write_whole

WINDOW = 7 / 8  # of a picture's sides, that training with tiles sees of it


class Pixels:
    """Every picture decoded and resized once, in one file that is mapped into memory.

    They are stored as `aigciqa.transform.shrink` makes them, so the centre crop of one is what scoring sees; with
    tiles, as they are.

    Args:
        paths: the pictures; their position is their number.
        transform: the checkpoint's.
        folder: where to put ``pixels-KEY.bin``; what lies there of the same pictures is used again.

    Raises:
        InputError: for a picture that cannot be read.
    """

    def __init__(self, paths: Sequence[Path], transform: Transform, folder: Path):
        self.transform = transform
        known = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        key = json.dumps([0 if transform.tiles else transform.resize, known])
        # a name of its own, for another run with other pictures may share the folder, and have its own mapped
        self.file = folder / f"pixels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.bin"
        index = self.file.with_suffix(".json")
        folder.mkdir(parents=True, exist_ok=True)
        with by_turns(self.file):
            if not self._whole(index, len(paths)):
                write_whole(index, json.dumps(self._write(paths)))  # last: where it is, the other is whole
            self.shapes: list[tuple[int, int]] = [(h, w) for h, w in json.loads(index.read_text())]
        self.starts = np.cumsum([0, *(h * w * 3 for h, w in self.shapes)])
        self.bytes = np.memmap(self.file, np.uint8, "r")

    def _whole(self, index: Path, count: int) -> bool:
        """Whether the files are there and fit each other; damaged ones are made anew."""
        try:
            shapes = [(h, w) for h, w in json.loads(index.read_text())]
            return len(shapes) == count and self.file.stat().st_size == sum(h * w * 3 for h, w in shapes)
        except (OSError, ValueError, TypeError):
            return False

    def _write(self, paths: Sequence[Path]) -> list[tuple[int, int]]:
        def decode(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
            [block] = image.read(path)
            if not self.transform.tiles:
                block = shrink(block, self.transform.resize)
            return block[0].permute(1, 2, 0).contiguous().numpy()

        shapes = []
        progress = Progress("decoding", len(paths))
        with progress, replacing(self.file) as file, ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), 256):  # so that memory does not grow with their number
                for pixels in pool.map(decode, paths[start : start + 256]):
                    file.write(pixels.tobytes())
                    shapes.append((pixels.shape[0], pixels.shape[1]))
                    progress.done()
        return shapes

    def discard(self) -> None:
        """Remove the files; a later run would make them again."""
        for suffix in (".bin", ".json", ".lock"):
            self.file.with_suffix(suffix).unlink(missing_ok=True)

    def batch(
        self, numbers: Sequence[int], draws: "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None"
    ) -> Tensor:
        """Crops of some pictures. They are normalised by whoever computes, on its device.

        Args:
            numbers: which.
            draws: (pictures, 3) uniform in [0, 1): by picture where its crop lies and whether it is mirrored; None
                for what scoring sees. With tiles it is a window of the picture that is drawn, and views of that.

        Returns:
            (N, 3, crop, crop), uint8, channels last; with tiles (N, views, 3, crop, crop).
        """
        t = self.transform
        found = []
        for number in numbers:
            height, width = self.shapes[number]
            pixels = self.bytes[self.starts[number] : self.starts[number + 1]].reshape(height, width, 3)
            size = tuple(round(s * WINDOW) for s in (height, width)) if t.tiles else (t.crop, t.crop)
            if draws is not None:
                top, left = (
                    int(d * (s - cut + 1))
                    for d, s, cut in zip(draws[number], pixels.shape, size, strict=False)
                )
                pixels = pixels[top : top + size[0], left : left + size[1]]
                pixels = pixels[:, ::-1] if draws[number, 2] < 0.5 else pixels
            picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
            found.append(views(picture[None], t)[0] if t.tiles else centre(picture, t.crop, t.crop))
        return torch.stack(found)
