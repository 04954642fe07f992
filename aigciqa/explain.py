"""Quality maps: where in a picture its score is lost."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from . import attribution, drawing, image
from .ambient import neutral
from .errors import InputError
from .image import Array
from .transform import in_bytes, preprocess, resize
from .writing import replacing

if TYPE_CHECKING:
    from .metric import Metric

METHODS = ("windows", "occlusion", "gradient")
REDUCED = 2_000_000  # pixels to which occlusion, gradients and overlays reduce larger pictures
CELLS = 16  # of the gradient's map, along the shorter side
AROUND = 7  # windows, along each side, that a window is compared with
# of the score range: what the upper end of the colours stands for, fixed for each method, so that maps compare
TOP = {"windows": 0.4, "occlusion": 0.1, "gradient": 0.04}


@dataclass(frozen=True)
class QualityMap:
    """Where a picture loses its score.

    Args:
        map: (rows, columns), float32, in points of the score: positive where the score is lost, the more the higher.
            Row i and column j are the pixels from ``i * cell`` and ``j * cell`` on. What is compared with depends
            on the method, see `explain`.
        cell: side in pixels of what a value stands for.
        size: (width, height) of the picture in pixels.
        score: of the whole picture.
        dimension: which it is of.
        method: how the map was made.
        score_range: lowest and highest score of the metric.
        picture: the picture, RGB, reduced to two million pixels where it is larger.
        reference: likewise; None where the metric was given none.
    """

    map: Array
    cell: float
    size: tuple[int, int]
    score: float
    dimension: str
    method: str
    score_range: tuple[float, float]
    picture: Image.Image
    reference: Image.Image | None = None

    @property
    def peak(self) -> tuple[int, int]:
        """(x, y) in pixels, where most is lost; the middle of the cell."""
        row, column = np.unravel_index(int(self.map.argmax()), self.map.shape)
        x, y = (
            int(min((k + 0.5) * self.cell, (k * self.cell + n) / 2))
            for k, n in zip((column, row), self.size, strict=True)
        )
        return x, y

    @property
    def top(self) -> float:
        """Points of the score that the upper end of the colour ramp stands for, the same for all maps of a method."""
        low, high = self.score_range
        return TOP[self.method] * (high - low)

    def overlay(self, top: float | None = None) -> Image.Image:
        """The image, its reference if there is one, the map in colour over the image in grey, and the legend.

        They stand side by side. A ring marks the peak, unless nothing is lost anywhere. The legend has the colours of
        the map over a middle grey.

        Args:
            top: points of the score that the upper end of the colours stands for, above 0; None for the attribute
                `top`.

        Raises:
            InputError: when `top` is not a number above 0.

        Examples:
            >>> from aigciqa import create_metric
            >>> create_metric("nr-aigciqa", device="cpu").explain("gen.png").overlay().mode
            'RGB'
        """
        top = self.top if top is None else top
        if not 0 < top < float("inf"):
            raise InputError(f"the top of the colours is {top!r}; give points of the score, above 0")
        return drawing.sheet(self, top)

    def save(self, path: str | os.PathLike[str], top: float | None = None) -> None:
        """Write `overlay` as a PNG, which appears whole or not at all.

        Args:
            path: of the file. A link of that name is replaced; what it points to stays as it is.
            top: as for `overlay`.

        Raises:
            InputError: when it cannot be written, or its ending is another.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise InputError(f"{path}: maps are saved as PNG; name it {path.with_suffix('.png').name}")
        drawn = self.overlay(top)
        try:
            with replacing(path) as file:
                drawn.save(file, "PNG")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def explain(
    metric: "Metric",
    picture: Any,
    reference: Any = None,
    *,
    method: str = "windows",
    dimension: str | None = None,
) -> QualityMap:
    """Where a picture loses its score; what `Metric.explain` does.

    - ``"windows"``: windows at native resolution, overlapping by half, are scored each by itself; a place gets the mean
      of those over it. The map is how much less that is than of the windows around; beside a reference of the same
      size, than the reference itself would have in the same place. A checkpoint without reference may have a head for
      maps (`map_hidden`, as the packaged one has): then the map is how much less that head takes the windows to
      score than they would undamaged, from their texture and that of the windows around.
    - ``"occlusion"``: how much the score of the picture rises when a square is replaced by what surrounds it.
    - ``"gradient"``: integrated gradients from a picture without detail; the map adds up to its score less the
      picture's.

    A reference of another size is compared as a whole with each window. Occlusion and gradients see a picture of more
    than two million pixels reduced to these.

    Args:
        metric: of any kind of reference.
        picture: one of those that `aigciqa.image.read` takes.
        reference: likewise; for full reference, and if there is one for partial reference.
        method: one of the above.
        dimension: whose score; None for the metric's own.

    Raises:
        InputError: for a picture, a reference, a method or a dimension that is none; and for an image so thin that
            its windows would take out of all proportion to its pixels.

    Examples:
        >>> from aigciqa import create_metric
        >>> found = explain(create_metric("fr-aigciqa", device="cpu"), "gen.png", "ref.png")
        >>> found.map.shape, found.cell, found.dimension
        ((16, 16), 32.0, 'quality')
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}; choose one of {', '.join(METHODS)}")
    column = _column(metric, dimension)
    _check_reference(metric, reference)
    # gradients are needed in somebody's inference mode, too
    with torch.inference_mode(False), neutral(metric.device):
        return _explained(metric, picture, reference, method, column)


def _explained(metric: "Metric", picture: Any, reference: Any, method: str, column: int) -> QualityMap:
    seen = _read(picture, "picture")
    beside = None if reference is None else _read(reference, "reference")
    made = _by_windows if method == "windows" else partial(_by_attribution, method=method)
    values, cell, score = made(metric, seen, beside, column)
    return QualityMap(
        values.float().cpu().numpy(),
        cell,
        (seen.shape[-1], seen.shape[-2]),
        score,
        metric.config.dimensions[column],
        method,
        metric.score_range,
        _shown(seen),
        None if beside is None else _shown(beside),
    )


def _shown(pixels: Tensor) -> Image.Image:
    return Image.fromarray(_reduced(pixels)[0].permute(1, 2, 0).numpy())


def _column(metric: "Metric", dimension: str | None) -> int:
    names = metric.config.dimensions
    chosen = dimension or metric.dimension
    if chosen not in names:
        raise InputError(
            f"{metric.metric_name} predicts {', '.join(names)}, not {chosen!r}; choose one of these"
        )
    return names.index(chosen)


def _check_reference(metric: "Metric", reference: Any) -> None:
    if metric.metric_mode == "NR" and reference is not None:
        raise InputError(f"{metric.metric_name} judges a picture alone; pass no reference, or use fr-aigciqa")
    if metric.metric_mode == "FR" and reference is None:
        raise InputError(f"{metric.metric_name} compares with a reference; pass it, or use nr-aigciqa")


def _read(picture: Any, what: str) -> Tensor:
    """(1, 3, H, W), uint8, on the CPU."""
    if isinstance(picture, list | tuple):
        raise InputError(f"{what}: a map is of one picture; pass each of the list by itself")
    found = image.read_one(picture, what)
    if len(found) != 1:
        raise InputError(f"{what}: a map is of one picture; pass each of the batch by itself")
    return in_bytes(found.detach()).cpu()


def _reduced(picture: Tensor) -> Tensor:
    """(1, 3, H, W) of at most `REDUCED` pixels."""
    height, width = picture.shape[-2:]
    factor = (REDUCED / (height * width)) ** 0.5
    if factor >= 1:
        return picture.contiguous()
    height, width = max(1, int(height * factor)), max(1, int(width * factor))
    return resize(picture, min(height, max(1, REDUCED // width)), min(width, max(1, REDUCED // height)))


def _features(metric: "Metric", picture: Tensor) -> Tensor:
    """(1, D) of a picture as it is scored."""
    network = metric.network
    return network.features(preprocess(picture, metric.config.transform).to(next(network.parameters())))


@torch.no_grad()
def _by_windows(
    metric: "Metric", picture: Tensor, reference: Tensor | None, column: int
) -> tuple[Tensor, float, float]:
    """The map, the side of its cells in pixels, and the score of the whole picture."""
    network, transform = metric.network, metric.config.transform
    aligned = reference is not None and reference.shape == picture.shape
    height, width = picture.shape[-2:]
    factor = 1.0
    if transform.tiles:  # enlarged where the metric enlarges it
        factor = max(1.0, transform.crop / min(height, width))
    larger = round(height * factor), round(width * factor)
    attribution.check_work(network, transform, (height, width), larger)
    seen = [_features(metric, picture)] + ([] if reference is None else [_features(metric, reference)])
    score = float(network.regress(*seen)[0, column])
    enlarged = [
        resize(one, *larger)
        for one in ([picture, reference] if aligned and reference is not None else [picture])
    ]
    side = attribution.window_side(network, transform, *enlarged[0].shape[-2:])
    if network.map_head is not None:
        windows = attribution.window_textures(network, enlarged[0], seen[0], side, transform).to(seen[0])
        lost = network.map_head(windows[None])[0, column]
        return F.avg_pool2d(lost[None], 2, 1)[0], side / 2 / factor, score
    blocks = [
        attribution.window_features(network, one, whole, side, transform, metric.batch(metric.device))
        for one, whole in zip(enlarged, seen, strict=False)
    ]
    beside = None if reference is None else attribution.whole_features(network, seen[1])
    shape = [-(-n // (side // 2)) + 1 for n in enlarged[0].shape[-2:]]
    scores = torch.empty(shape, dtype=torch.float32, device="cpu")
    best = torch.empty_like(scores)  # what the reference would have in the same place
    for block in zip(*blocks, strict=True):
        (row, left, found), there = block[0], block[-1][2].flatten(0, 1) if aligned else beside
        here = found.flatten(0, 1)
        place = np.s_[row : row + found.shape[0], left : left + found.shape[1]]
        if there is not None and not aligned:
            there = there.expand(len(here), -1)
        scores[place] = network.regress(here, there)[:, column].view(found.shape[:2]).float().cpu()
        if aligned:
            best[place] = network.regress(there, there)[:, column].view(found.shape[:2]).float().cpu()  # type: ignore[arg-type]
    if not aligned:
        best = _of_others(scores)
    return F.avg_pool2d((best - scores)[None], 2, 1)[0], side / 2 / factor, score


def _of_others(scores: Tensor) -> Tensor:
    """What the windows around have; a picture without damage has plain places, too, which score less."""
    around = min(AROUND, 2 * (min(scores.shape) // 2) - 1)
    padded = F.pad(scores[None, None], (around // 2,) * 4, "replicate")
    return F.avg_pool2d(padded, around, 1)[0, 0]


def _by_attribution(
    metric: "Metric", picture: Tensor, reference: Tensor | None, column: int, method: str
) -> tuple[Tensor, float, float]:
    """The map, the side of its cells in pixels, and the score of the whole picture."""
    network, transform = metric.network, metric.config.transform
    parameter = next(network.parameters())
    with torch.no_grad():
        beside = None if reference is None else _features(metric, reference)
        score = float(network.regress(_features(metric, picture), beside)[0, column])
    reduced = _reduced(picture).to(parameter.device)

    def scored(images: Tensor) -> Tensor:
        found = network.features(preprocess(images, transform).to(parameter))
        return network.regress(found, None if beside is None else beside.expand(len(found), -1))[
            :, column
        ].float()

    long = -2 if reduced.shape[-1] == 1 else -1  # of a line, the side along which it was reduced
    factor = picture.shape[long] / reduced.shape[long]
    if method == "gradient":
        cell = max(1, min(reduced.shape[-2:]) // CELLS)
        return attribution.gradient(scored, reduced, cell), cell * factor, score
    with torch.no_grad():
        lost, cell = attribution.occlusion(scored, reduced, metric.batch(parameter.device))
    return lost, cell * factor, score
