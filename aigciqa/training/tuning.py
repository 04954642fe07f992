"""Teaching the network that sees the tiles what damage looks like, on one tile of each picture.

All views of all pictures, there and back, would take over an hour an epoch on two cores. A tile at one place of all
pictures of a ladder is enough to compare them, and stages near the pixels cost most and have least to learn, so they
stay as they are. So does the network that sees whole pictures: it is about content, and photographs whose number is
small would only be remembered by it.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import image
from ..config import MetricConfig
from ..errors import InputError
from ..progress import Progress
from ..stages import Stages
from ..transform import normalise
from ..weights import save_checkpoint
from .data import RatedSet
from .files import save_whole
from .initial import initial_network
from .ladders import rows_of_ladders
from .losses import combined
from .torchfile import load_tensors

TILE = 160  # pixels
PLACES = 4  # of a ladder, of which the one that its last step changes most is shown
LADDERS, PHOTOGRAPHS = 8, 8  # of a step
FIXED = ("conv_stem", "bn1", "blocks.0.", "blocks.1.")  # tensors of EfficientNet-Lite0 that stay as they are
RATE, HEAD_RATE, DECAY, CLIP, WARM_UP = 1e-3, 2e-3, 0.02, 5.0, 100
LOSS = {"mse": 0.3, "rank": 1.0}  # of ladders
PEOPLE, KIND = 0.3, 0.2  # weights of the squared error of photographs, and of the cross entropy of kinds
HIDDEN = 128
SAID_EVERY = 50  # steps


@dataclass(frozen=True)
class _Step:
    """What one step sees."""

    tiles: Tensor  # (N, 3, TILE, TILE), uint8, ladders first, then photographs
    labels: Tensor  # (N,)
    ladders: Tensor  # (of ladders,) which
    kinds: Tensor  # (of ladders,)


def tune(
    config: MetricConfig,
    weights: str,
    synthetic: RatedSet,
    photographs: RatedSet,
    out: Path,
    *,
    epochs: int = 5,
    seed: int = 1,
    report: Callable[[str], None] = print,
) -> None:
    """Fine-tune the network for tiles, and write a checkpoint whose backbone `Recipe.weights` takes.

    It learns how good the pictures of a ladder are, of which kind their damage is, and what people said of
    photographs. Started again after it was stopped, it goes on after the last whole epoch.

    Args:
        config: with a tile backbone, of EfficientNet-Lite0.
        weights: see `Recipe.weights`.
        synthetic: pictures in ladders, with labels of quality.
        photographs: with labels of quality.
        out: folder of the checkpoint, which appears when it is done. Its head is random.
        epochs: passes over the ladders.
        seed: of everything random.
        report: called with each line for the user.

    Raises:
        InputError: for pictures that cannot be read, are smaller than `TILE`, or fewer than a step needs.
    """
    torch.manual_seed(seed)
    _Tuning(synthetic, photographs, config, weights, seed).run(out, epochs, report)


class _Tuning:
    def __init__(
        self, synthetic: RatedSet, photographs: RatedSet, config: MetricConfig, weights: str, seed: int
    ):
        self.synthetic, self.photographs, self.seed = synthetic, photographs, seed
        self.ladders = ladders_of(synthetic)
        if len(self.ladders) < LADDERS or not len(photographs):
            raise InputError(f"tuning needs at least {LADDERS} ladders, and photographs")
        kinds = sorted(set(synthetic.generators))
        self.kinds = np.array([kinds.index(kind) for kind in synthetic.generators])
        self.config = config.with_(hidden=1)  # a head that no recipe takes over
        self.network = initial_network(self.config, weights).to(memory_format=torch.channels_last).eval()
        self.stages = cast(Stages, self.network.backbone)
        self.head = nn.Sequential(  # quality of a ladder's picture, that of a photograph, and the kind
            nn.BatchNorm1d(self.stages.parts[1], affine=False),
            nn.Linear(self.stages.parts[1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, 2 + len(kinds)),
        )
        self.middle = torch.tensor(
            [np.nanmean(one.labels["quality"]) for one in (synthetic, photographs)]
        ).float()
        for name, tensor in self.stages.tile_net.named_parameters():
            tensor.requires_grad_(not name.startswith(FIXED))
        self.learning = [p for p in self.stages.tile_net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.learning, "base": RATE},
                {"params": list(self.head.parameters()), "base": HEAD_RATE},
            ],
            weight_decay=DECAY,
            fused=True,
        )

    # -- what a step sees

    def plan(self, epoch: int) -> list[tuple[list[int], list[int]]]:
        """Of each step of an epoch: ladders, and photographs."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.ladders))
        return [
            (
                order[start : start + LADDERS].tolist(),
                rng.integers(0, len(self.photographs), PHOTOGRAPHS).tolist(),
            )
            for start in range(0, len(order) - LADDERS + 1, LADDERS)
        ]

    def step(self, ladders: list[int], photographs: list[int], seed: list[int]) -> _Step:
        rng = np.random.default_rng(seed)
        tiles, labels, which, kinds = [], [], [], []
        for number, ladder in enumerate(ladders):
            rows = self.ladders[ladder]
            tiles.append(tiles_of([self.synthetic.pictures[row] for row in rows], rng))
            labels += [self.synthetic.labels["quality"][row] for row in rows]
            which += [number] * len(rows)
            kinds += [self.kinds[row] for row in rows]
        for row in photographs:
            tiles.append(tiles_of([self.photographs.pictures[row]], rng))
            labels.append(self.photographs.labels["quality"][row])
        return _Step(torch.cat(tiles), torch.tensor(labels).float(), torch.tensor(which), torch.tensor(kinds))

    # -- learning

    def learn(self, seen: _Step, at: int, steps: int) -> list[float]:
        """The step of number `at`; the terms of its loss, and the share of ladders in order."""
        count = len(seen.ladders)
        tiles = normalise(seen.tiles, self.config.transform)
        found = self.head(self.stages.of_tiles(tiles).mean(1))  # what a checkpoint's head sees of them
        scores = found[:, :2] + self.middle
        mine, theirs = scores[:count, :1], scores[count:, 1:]
        labels = seen.labels[:, None]
        ladders = combined(mine, labels[:count], LOSS, comparable=seen.ladders, margin=1.0)
        people = F.mse_loss(theirs, labels[count:])
        kinds = F.cross_entropy(found[:count, 2:], seen.kinds)
        (ladders + PEOPLE * people + KIND * kinds).backward()
        nn.utils.clip_grad_norm_([*self.learning, *self.head.parameters()], CLIP)
        rate = min(1.0, (at + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * at / steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            ordered = [
                bool((mine[at, 0][labels[:count][at, 0].argsort()].diff() > 0).all())
                for at in (seen.ladders == number for number in range(LADDERS))
            ]
        return [ladders.item(), people.item(), kinds.item(), float(np.mean(ordered))]

    def run(self, out: Path, epochs: int, report: Callable[[str], None]) -> None:
        parts = {"net": self.stages.tile_net, "head": self.head, "optimizer": self.optimizer}
        state = out.with_suffix(".state")
        begun = 0
        if state.exists():
            try:
                saved = load_tensors(state)
                begun = int(saved["epoch"])
                for name, part in parts.items():
                    part.load_state_dict(saved[name])
            except Exception as error:  # torch raises many kinds, and a damaged file may have anything in it
                reason = (str(error).splitlines() or [""])[0]
                raise InputError(f"{state} is damaged; remove it to begin anew: {reason}") from None
        steps = epochs * (len(self.ladders) // LADDERS)
        progress = Progress("tuning", steps, begun=begun * (steps // epochs))
        terms: list[list[float]] = []
        # the next step is put together while this one is learned from
        with progress, ThreadPoolExecutor(1) as ahead:
            for epoch in range(begun, epochs):
                torch.manual_seed(self.seed + epoch)
                made = self.plan(epoch)
                load = lambda i: ahead.submit(self.step, *made[i], [self.seed, epoch, i])  # noqa: B023, E731
                waiting = load(0)
                for i in range(len(made)):
                    seen = waiting.result()
                    if i + 1 < len(made):
                        waiting = load(i + 1)
                    at = epoch * len(made) + i
                    terms.append(self.learn(seen, at, steps))
                    progress.done()
                    if (at + 1) % SAID_EVERY == 0:
                        ladders, people, kinds, ordered = np.mean(terms[-SAID_EVERY:], 0)
                        report(
                            f"tuning {at + 1}/{steps}: ladders {ladders:.3f}  people {people:.3f}  kinds {kinds:.3f}  "
                            f"in order {ordered:.3f}"
                        )
                save_whole(
                    state, {"epoch": epoch + 1} | {name: part.state_dict() for name, part in parts.items()}
                )
        save_checkpoint(out, self.config, self.network.state_dict())
        state.unlink(missing_ok=True)


def ladders_of(rated: RatedSet) -> list[list[int]]:
    """Rows of each ladder that begins with a pristine picture."""
    return [rows for rows in rows_of_ladders(rated) if not rated.ladders[rows[0]]]


def tiles_of(paths: list[Path], rng: np.random.Generator) -> Tensor:
    """A tile at the same place of pictures of one size, mirrored or not; (N, 3, TILE, TILE), uint8.

    Of `PLACES` it is the one where the last differs most from the first.
    """
    pictures = [next(iter(image.read(path)))[0] for path in paths]
    height, width = pictures[0].shape[-2:]
    if min(height, width) < TILE:
        raise InputError(
            f"{paths[0]}: {width} x {height}, and tuning needs pictures of at least {TILE} pixels"
        )
    first, last = pictures[0], pictures[-1]
    places = [
        (int(rng.integers(0, height - TILE + 1)), int(rng.integers(0, width - TILE + 1)))
        for _ in range(PLACES if len(paths) > 1 else 1)
    ]

    def tile(picture: Tensor, top: int, left: int, step: int = 1) -> Tensor:
        return picture[:, top : top + TILE : step, left : left + TILE : step]

    def difference(place: tuple[int, int]) -> float:
        return (tile(last, *place, 4).float() - tile(first, *place, 4).float()).abs().mean().item()

    place = max(places, key=difference)
    found = torch.stack([tile(picture, *place) for picture in pictures])
    return found.flip(-1) if rng.random() < 0.5 else found
