"""Learn to see where a picture was damaged: the head that draws maps without a reference."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from .. import create_metric
from ..attribution import LOCAL, kept, part, window_textures
from ..errors import InputError
from ..image import Array
from ..progress import each
from ..stages import MapHead
from ..transform import preprocess
from .degradations import DEGRADATIONS, Pixels, Rng, degrade
from .photographs import EDGES, read_photograph
from .structural import luma

Box = tuple[int, int, int, int]  # left, top, width, height

KINDS = tuple(kind for kind in DEGRADATIONS if kind != "combined")
LEVELS = 4
SIZE = 512  # pixels of the shorter side, to which larger photographs are reduced
SHARES = (1 / 6, 1 / 2)  # of the sides of a picture that are damaged
SOFT = 0.5  # of the pictures, whose damage fades out towards its edges
LEAST = 0.25  # points by level that damage costs, also where the metric itself would not say so
SHARPNESS = 8.0  # of the softmax over places, per point, to begin with
SEARCH = 0.1  # weight of finding the damage beside saying how much it costs


@dataclass(frozen=True)
class Damaged:
    """A photograph of which a part was damaged.

    Args:
        kind: of degradation.
        level: of `LEVELS`.
        clean: (H, W, 3) as it was.
        damaged: (H, W, 3).
        box: where.
    """

    kind: str
    level: int
    clean: Pixels
    damaged: Pixels
    box: Box


def reduced(path: Path, short: int = SIZE) -> Pixels:
    """A photograph whose shorter side has at most `short` pixels: (H, W, 3) uint8."""
    picture = read_photograph(path)
    factor = min(1, short / min(picture.size))
    return np.asarray(picture.resize([round(n * factor) for n in picture.size], Image.Resampling.LANCZOS))


def random_box(pixels: Pixels, rng: Rng, shares: tuple[float, float]) -> Box | None:
    """Part of a picture; None when five attempts found only parts too flat to show damage.

    Args:
        pixels: (H, W, 3) uint8.
        rng: to draw with.
        shares: least and most of each side of the picture.
    """
    height, width = (max(64, round(n * rng.uniform(*shares))) for n in pixels.shape[:2])
    for _ in range(5):
        top, left = (
            int(rng.integers(n - m + 1)) for n, m in zip(pixels.shape, (height, width), strict=False)
        )
        dy, dx = np.gradient(luma(pixels[top : top + height, left : left + width]))
        if (abs(dy) + abs(dx)).mean() >= EDGES:
            return left, top, width, height
    return None


def damaged_in(
    pixels: Pixels, box: Box, kind: str, level: int, seed: list[int], soft: bool = False
) -> Damaged:
    """Degrade a part of a picture.

    Args:
        pixels: (H, W, 3) uint8.
        box: which part; sides of 64 or more.
        kind: see `aigciqa.training.degradations.degrade`.
        level: likewise, of `LEVELS`.
        seed: likewise.
        soft: whether the damage fades out towards the edges of the box rather than end there.
    """
    left, top, width, height = box
    there = np.s_[top : top + height, left : left + width]
    made = degrade(pixels[there], kind, level, LEVELS, seed)
    if soft:
        fade = min(width, height) // 8
        inner = Image.new("L", (width, height))
        inner.paste(255, (fade, fade, width - fade, height - fade))
        share = np.asarray(inner.filter(ImageFilter.GaussianBlur(fade / 2)), np.float32)[:, :, None] / 255
        made = (made * share + pixels[there] * (1 - share)).round().astype(np.uint8)
    damaged = pixels.copy()
    damaged[there] = made
    return Damaged(kind, level, pixels, damaged, box)


# -- what is learned from


@dataclass(frozen=True)
class Example:
    """The windows of one picture.

    Args:
        windows: (rows, columns, D) float16, what the map's head sees.
        lost: (rows, columns, dimensions) float16, points that damage costs each.
        inside: (rows, columns) float16, share of each that lies in the damaged box.
    """

    windows: Array
    lost: Array
    inside: Array


@cache
def _metric(checkpoint: str) -> Any:
    torch.set_num_threads(1)
    return create_metric(checkpoint, device="cpu").load()


@torch.no_grad()
def _examples(work: tuple[str, Path, int, int, tuple[str, ...]]) -> list[Example]:
    """One photograph as it is, and with some of its parts damaged, each by itself."""
    checkpoint, path, number, count, kinds = work
    metric = _metric(checkpoint)
    network, transform = metric.network, metric.config.transform
    rng = np.random.default_rng([number, 7])
    clean = reduced(path)
    if min(clean.shape[:2]) < SIZE:
        return []
    top, left = (int(rng.integers(n - SIZE + 1)) for n in clean.shape[:2])
    clean = clean[top : top + SIZE, left : left + SIZE]

    def picture(pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]

    whole = network.features(preprocess(picture(clean), transform))

    def seen(pixels: Pixels) -> tuple[Tensor, Tensor]:
        """The windows' textures, and their scores."""
        windows = window_textures(network, picture(pixels), whole, LOCAL, transform)
        content = whole[:, None, : kept(network.backbone)].expand(*windows.shape[:2], -1)
        return windows, network.regress(torch.cat([content, windows], 2).flatten(0, 1)).view(
            *windows.shape[:2], -1
        )

    windows, before = seen(clean)
    found = [_example(windows, torch.zeros_like(before), torch.zeros(windows.shape[:2]))]
    for turn in range(count):
        kind = kinds[(number * count + turn) % len(kinds)]
        level = int(rng.choice([1, 2, 3, 4], p=[0.1, 0.2, 0.35, 0.35]))
        soft = rng.random() < SOFT
        if (box := random_box(clean, rng, SHARES)) is None:
            continue
        case = damaged_in(clean, box, kind, level, [number, turn], soft)
        windows, after = seen(case.damaged)
        inside = _inside(box)
        share = inside[..., None]
        lost = torch.where(share > 0, torch.maximum(before - after, LEAST * level * share), 0)
        found.append(_example(windows, lost, inside))
    return found


def _example(windows: Tensor, lost: Tensor, inside: Tensor) -> Example:
    return Example(*(x.clamp(-6e4, 6e4).half().numpy() for x in (windows, lost, inside)))


def _inside(box: Box) -> Tensor:
    """Share of each window that lies in the box."""
    left, top, width, height = box
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., top : top + height, left : left + width] = 1
    step = LOCAL // 2
    return F.avg_pool2d(part(mask, -step, -step, SIZE + 2 * step, SIZE + 2 * step), LOCAL, step)[0, 0]


# -- learning


def train_map_head(
    checkpoint: str,
    photographs: Sequence[Path],
    *,
    hidden: int = 96,
    parts: int = 2,
    epochs: int = 15,
    kinds: Sequence[str] = KINDS,
    workers: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Teach a head to find damage without a reference, from photographs that are damaged in one part.

    What it learns to say of each window is how many points less the checkpoint's own head gives it than the same window
    before it was damaged; these are pseudo-labels.

    Args:
        checkpoint: name or folder of a no-reference checkpoint with tiles; its backbone and head stay as they are.
        photographs: pictures of 512 pixels or more; smaller ones are left out.
        hidden: channels of the head.
        parts: of each photograph that are damaged, each in a copy of its own.
        epochs: passes.
        kinds: of degradation, all but ``combined`` unless given.
        workers: processes that make the pictures; None for one per processor.
        seed: of the initial weights and the order.

    Returns:
        The tensors of a `aigciqa.stages.MapHead`, to be saved with the checkpoint's as ``map_head.*``.

    Raises:
        InputError: for a checkpoint that has a reference or no tiles, or when there is no photograph of 512 pixels.

    Examples:
        >>> import aigciqa, tempfile
        >>> from PIL import Image
        >>> Image.open("ref.png").save(photo := f"{tempfile.mkdtemp()}/photo.png")
        >>> made = train_map_head("nr-aigciqa", [photo], hidden=8, epochs=1, workers=1)
        >>> made["out.weight"].shape  # dimensions, hidden
        torch.Size([2, 8, 1, 1])
    """
    metric = create_metric(checkpoint, device="cpu").load()
    if metric.metric_mode != "NR" or not metric.config.transform.tiles:
        raise InputError(f"{checkpoint}: maps are learned for checkpoints with tiles and without reference")
    jobs = [(checkpoint, Path(path), number, parts, tuple(kinds)) for number, path in enumerate(photographs)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        made = list(each(pool.map(_examples, jobs, chunksize=4), "damaging", len(jobs)))
    examples = [one for of_photo in made for one in of_photo]
    if not examples:
        raise InputError(f"none of the {len(photographs)} photographs has {SIZE} pixels")
    return fit(examples, len(metric.config.dimensions), hidden, epochs, seed)


def fit(examples: Sequence[Example], outputs: int, hidden: int, epochs: int, seed: int) -> dict[str, Tensor]:
    """The tensors of a `MapHead` that was trained on `examples`."""
    windows, lost, inside = (
        torch.from_numpy(np.stack([getattr(one, name) for one in examples]))
        for name in ("windows", "lost", "inside")
    )
    some = windows[:: max(1, len(windows) // 1000)].float().flatten(0, 2)
    mean, std = some.mean(0), some.std(0) + 1e-3
    torch.manual_seed(seed)
    head = MapHead(windows.shape[-1], hidden, outputs)
    batch, rng = 32, np.random.default_rng(seed)
    sharper = torch.zeros(outputs, requires_grad=True)  # learned, so that points stay points
    parts: list[dict[str, Any]] = [
        {"params": [*head.parameters()]},
        {"params": [sharper], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(parts, weight_decay=0.05)
    steps = -(-len(windows) // batch) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [2e-3, 5e-2], steps)
    for _ in each(range(epochs), "map head", epochs):
        for chosen in torch.from_numpy(rng.permutation(len(windows))).split(batch):
            x = (windows[chosen].float() - mean) / std
            targets, within = lost[chosen].float().permute(0, 3, 1, 2), inside[chosen].float()[:, None]
            if rng.random() < 0.5:
                x, targets, within = x.flip(2), targets.flip(3), within.flip(3)
            if rng.random() < 0.5:
                x, targets, within = x.flip(1), targets.flip(2), within.flip(2)
            said = head(x)
            loss = F.smooth_l1_loss(said, targets) + SEARCH * _missed(
                said * SHARPNESS * sharper.exp()[:, None, None], within
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    state = head.state_dict()  # sees windows as they are, so the scaling becomes part of it
    state["fc.bias"] = state["fc.bias"] - state["fc.weight"] @ (mean / std)
    state["fc.weight"] = state["fc.weight"] / std
    return state


def _missed(said: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy of where the most is lost, from logits: as likely anywhere in the damaged box."""
    places = F.avg_pool2d(inside, 2, 1).flatten(1) > 0.6
    there = places.any(1)
    if not there.any():
        return said.sum() * 0
    logits = F.avg_pool2d(said, 2, 1).flatten(2)[there]
    wanted = places[there].float() / places[there].sum(1, keepdim=True)
    return -(logits.log_softmax(2) * wanted[:, None]).sum(2).mean()
