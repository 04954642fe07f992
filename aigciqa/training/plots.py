"""Pictures of an evaluation, as PNG files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..errors import InputError
from ..writing import replacing
from .correlation import Floats, paired, plcc, rows_by_label, srcc
from .evaluation import Labels
from .logistic import fit_logistic, rmse

BLUE, ORANGE, GREY = "#1f5fa8", "#d9641e", "#777777"


def plot_evaluation(
    scores: ArrayLike,
    mos: ArrayLike,
    folder: str | Path,
    generators: Labels | None = None,
    dimension: str = "quality",
    score_range: tuple[float, float] = (0, 5),
) -> list[Path]:
    """Write ``predicted-vs-mos.png``, ``residuals.png`` and, given generators, ``by-generator.png``.

    The figures are drawn without pyplot, so a notebook's or a program's own backend is left as it is.

    Args:
        scores: (N,), finite, N at least 1, on MOS' scale.
        mos: (N,), finite.
        folder: where to write; made if need be. Files of these names are overwritten.
        generators: one label per row.
        dimension: what was scored, for the labels.
        score_range: lowest and highest MOS possible; the axes hold it, and whatever lies beyond it.

    Returns:
        The files written.

    Raises:
        InputError: for no rows, different lengths, values that are not finite, missing labels, or a folder
            that cannot be written.

    Examples:
        >>> import tempfile
        >>> files = plot_evaluation([1, 2, 3, 4, 5], [1.2, 1.8, 3.1, 4.4, 4.6], tempfile.mkdtemp())
        >>> [file.name for file in files]
        ['predicted-vs-mos.png', 'residuals.png']
    """
    x, y = paired(scores, mos)
    if not len(x):
        raise InputError("there is nothing to plot: no scores were given")
    rows = {} if generators is None else rows_by_label(generators, len(x), "generators")
    folder = Path(folder)
    files = [
        _figure(folder / "predicted-vs-mos.png", lambda ax: _scatter(ax, x, y, dimension, score_range)),
        _figure(folder / "residuals.png", lambda ax: _residuals(ax, x, y, dimension, score_range)),
    ]
    if rows:
        by_name = {name: (x[part], y[part]) for name, part in rows.items()}
        width = max(6.0, 1.5 + 1.1 * len(rows))
        files.append(
            _figure(
                folder / "by-generator.png",
                lambda ax: _boxes(ax, by_name, dimension, score_range),
                width,
            )
        )
    return files


def _figure(path: Path, draw: Callable[[Axes], None], width: float = 6.0) -> Path:
    figure = Figure(figsize=(width, 5.0), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    ax.grid(color="#e5e5e5")
    ax.set_axisbelow(True)
    draw(ax)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            canvas.print_png(file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return path


def _points(ax: Axes, x: Floats, y: Floats) -> None:
    crowded = len(x) > 500
    ax.scatter(x, y, s=10 if crowded else 20, alpha=0.35 if crowded else 0.6, color=BLUE, linewidths=0)


def _limits(score_range: tuple[float, float], *values: Floats) -> tuple[float, float]:
    low = min(score_range[0], *(v.min() for v in values))
    high = max(score_range[1], *(v.max() for v in values))
    margin = 0.02 * (high - low)
    return float(low - margin), float(high + margin)


def _scatter(ax: Axes, x: Floats, y: Floats, dimension: str, score_range: tuple[float, float]) -> None:
    _points(ax, x, y)
    if (curve := fit_logistic(x, y)) is not None:
        line = np.linspace(x.min(), x.max(), 300)
        ax.plot(line, curve(line), color=ORANGE, linewidth=2, label="4-parameter logistic fit")
    ax.axline(
        (score_range[0], score_range[0]), slope=1, color=GREY, linewidth=1, linestyle="--", label="equal"
    )
    ax.set(
        xlim=_limits(score_range, x),
        ylim=_limits(score_range, y),
        xlabel=f"predicted {dimension}",
        ylabel=f"MOS, {dimension}",
        title=f"{len(x)} pictures, SRCC {srcc(x, y):.3f}, PLCC {plcc(x, y):.3f}, RMSE {rmse(x, y):.3f}",
    )
    ax.legend(loc="upper left")


def _residuals(ax: Axes, x: Floats, y: Floats, dimension: str, score_range: tuple[float, float]) -> None:
    residual = x - y
    _points(ax, x, residual)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.axhline(residual.mean(), color=ORANGE, linewidth=2, label=f"mean {residual.mean():+.3f}")
    ax.set(
        xlim=_limits(score_range, x),
        xlabel=f"predicted {dimension}",
        ylabel="predicted minus MOS",
        title=f"Residuals of {len(x)} pictures, standard deviation {residual.std():.3f}",
    )
    ax.legend(loc="upper left")


def _boxes(
    ax: Axes, by_name: dict[str, tuple[Floats, Floats]], dimension: str, score_range: tuple[float, float]
) -> None:
    places = np.arange(len(by_name))
    for offset, color, name, column in ((-0.19, BLUE, "predicted", 0), (0.19, GREY, "MOS", 1)):
        at = places + offset
        # drawn here because Axes.boxplot imports pyplot, which settles the program's backend
        stats = boxplot_stats([pair[column] for pair in by_name.values()])
        low, q1, middle, q3, high = (
            np.array([s[key] for s in stats]) for key in ("whislo", "q1", "med", "q3", "whishi")
        )
        ax.bar(at, q3 - q1, 0.32, bottom=q1, color=color, alpha=0.6, label=name)
        ax.hlines(middle, at - 0.16, at + 0.16, color="black")
        ax.vlines(np.tile(at, 2), np.append(low, q3), np.append(q1, high), color=color)
        for x, s in zip(at, stats, strict=True):
            ax.plot(np.full(len(s["fliers"]), x), s["fliers"], ".", markersize=4, color=color)
    labels = [f"{name}\n{len(x)} pictures" for name, (x, _) in by_name.items()]
    ax.set_xticks(places, labels)
    if max(len(name) for name in by_name) > 12:
        ax.tick_params(axis="x", rotation=30)
    ax.set(
        xlim=(-0.6, len(by_name) - 0.4),
        ylim=_limits(score_range, *(values for pair in by_name.values() for values in pair)),
        ylabel=dimension,
        title="Predicted scores and MOS by generator",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
