"""The photographs in folders and lists, and what is cut out of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .. import limits
from ..errors import InputError
from .bounds import check_file
from .files import digest_of
from .structural import Rng

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SIZE = re.compile(r"[-_ ]?\d{3,5}x\d{3,5}$")  # at the end of a file's name
EDGES = 4  # mean response of Pillow's edge filter below which a crop is too flat to show damage

Box: TypeAlias = tuple[int, int, int]  # left, top and side in the photograph, in pixels


@dataclass(frozen=True)
class Photograph:
    """One file to make pictures of.

    Args:
        name: its path in the folder or list that it came from.
        path: where it is.
        sha256: of the file.
    """

    name: str
    path: Path
    sha256: str


def find_photographs(sources: Sequence[Path]) -> tuple[list[Photograph], dict[str, str]]:
    """The photographs of folders (recursively, in alphabetical order) and ``.txt`` lists of paths.

    A folder may hold a photograph in several sizes, named like ``1920x1080.jpg`` or ``lake-1920x1080.jpg`` and
    ``lake.jpg``; the largest file is taken. Of files with the same content the first is taken.

    Args:
        sources: folders, and text files with a path on every line, relative to the file.

    Returns:
        The photographs, and by name why others were left out.

    Raises:
        InputError: when a source or a listed file is missing, or there is no picture in them.

    Examples:
        >>> found, left_out = find_photographs([Path(".")])
        >>> [photo.name for photo in found], left_out
        (['gen.png', 'ref.png'], {})
    """
    found: list[Photograph] = []
    left_out: dict[str, str] = {}
    first: dict[str, str] = {}
    for source in map(Path, sources):
        if source.is_dir():
            listed, smaller = _in_folder(source)
            left_out |= smaller
        elif source.is_file() and source.suffix.lower() == ".txt":
            listed = _in_list(source)
        else:
            raise InputError(f"{source}: neither a folder of photographs nor a .txt file that lists them")
        for name, path in listed.items():
            digest = digest_of(path)
            if name in first.values() or name in left_out:  # of another source
                name = f"{name} ({digest[:8]})"
            if digest in first:
                left_out[name] = f"the same as {first[digest]}"
                continue
            first[digest] = name
            found.append(Photograph(name, path, digest))
    if not found:
        raise InputError(f"no pictures ({', '.join(ENDINGS)}) in {', '.join(map(str, sources))}")
    return found, left_out


def _in_folder(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The largest picture of each, and by name of which picture others are another size."""
    same: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS and path.is_file():
            same.setdefault(path.with_name(SIZE.sub("", path.stem) + path.suffix), []).append(path)
    names = {path: path.relative_to(folder).as_posix() for paths in same.values() for path in paths}
    taken: dict[str, Path] = {}
    smaller: dict[str, str] = {}
    for paths in same.values():
        largest = max(paths, key=lambda path: path.stat().st_size)
        taken[names[largest]] = largest
        smaller |= {names[path]: f"another size of {names[largest]}" for path in paths if path != largest}
    return taken, smaller


def _in_list(file: Path) -> dict[str, Path]:
    check_file(file, limits.HELD, "a list of files")
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    paths = {line: file.parent / line for line in lines}
    if missing := [line for line, path in paths.items() if not path.is_file()]:
        raise InputError(f"{file}: {len(missing)} of {len(lines)} files are missing, such as {missing[0]}")
    return paths


def read_photograph(path: Path) -> Image.Image:
    """In RGB, upright; see `aigciqa.image.read` for what is refused and how."""
    from .. import image  # brings torch, which only the workers need

    block = next(iter(image.read(path)))
    pixels = block[0].permute(1, 2, 0).numpy()
    return Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8))


# -- crops


def cut(picture: Image.Image, box: Box, size: int) -> Image.Image:
    x, y, side = box
    return picture.resize((size, size), Image.Resampling.LANCZOS, (x, y, x + side, y + side), reducing_gap=3)


def find_boxes(picture: Image.Image, size: int, count: int, rng: Rng) -> list[Box]:
    """Detailed squares of differing scales, a quarter at native resolution, that overlap by a half at most."""
    if min(picture.size) < size:
        raise InputError(f"{picture.width} x {picture.height} is smaller than {size} pixels")
    found: list[Box] = []
    for _ in range(6 * count):
        native, scale, *place = rng.random(4)
        side = size
        if native > 0.25:
            side = round(side * (min(picture.size) / side) ** scale)
        x, y = (int(u * (length - side + 1)) for u, length in zip(place, picture.size, strict=True))
        box = (x, y, side)
        if any(_overlap(box, other) > 0.5 for other in found) or _is_flat(cut(picture, box, size)):
            continue
        found.append(box)
        if len(found) == count:
            break
    if not found:
        raise InputError("too flat for degradations to show")
    return found


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    sides = [min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]) for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (a[2] ** 2 + b[2] ** 2 - common)


def _is_flat(crop: Image.Image) -> bool:
    """Whether it is a sky or a flat drawing, which show no degradation."""
    edges = np.asarray(crop.convert("L").filter(ImageFilter.FIND_EDGES), np.float32)[2:-2, 2:-2]
    return bool(edges.mean() < EDGES)


def reframed(picture: Image.Image, box: Box, size: int, rng: Rng) -> Image.Image:
    """The scene of a crop as an image prompt may show it: framed otherwise, perhaps mirrored or graded."""
    x, y, side = box
    scale, *shift = rng.uniform([0.7, -0.15, -0.15], [1.4, 0.15, 0.15])
    mirrored, graded = rng.random(2) < 0.5
    gamma, colour, *gains = rng.uniform([0.8, 0.7, 0.92, 0.92, 0.92], [1.25, 1.4, 1.08, 1.08, 1.08])
    length = int(np.clip(side * scale, size, min(picture.size)))
    corner = [
        int(np.clip(start + (side - length) / 2 + move * side, 0, most - length))
        for start, move, most in zip((x, y), shift, picture.size, strict=True)
    ]
    new = (corner[0], corner[1], length)
    shown = cut(picture, new, size)
    if graded:
        table = 255 * np.outer(gains, (np.arange(256) / 255) ** gamma)
        shown = ImageEnhance.Color(shown.point(list(table.clip(0, 255).astype(int).ravel()))).enhance(colour)
    # a photograph that is hardly larger than the crop allows no other frame
    return ImageOps.mirror(shown) if mirrored or _overlap(new, box) > 0.95 else shown
