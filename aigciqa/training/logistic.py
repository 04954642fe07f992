"""The logistic fits that map scores to MOS before PLCC and RMSE, and the two after them."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.special import expit

from ..errors import AigciqaWarning, InputError
from .correlation import Floats, paired, plcc


@dataclass(frozen=True)
class Curve:
    """A fitted logistic; call it with scores for the MOS it maps them to.

    Args:
        parameters: b1 to b4 or b1 to b5, as `fit_logistic` gives the formulas.
    """

    parameters: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Floats:
        x, b = np.asarray(scores, dtype=np.float64), self.parameters
        if len(b) == 4:
            return (b[0] - b[1]) * expit((x - b[2]) / abs(b[3])) + b[1]
        return b[0] * (0.5 - expit(-b[1] * (x - b[2]))) + b[3] * x + b[4]


def fit_logistic(
    scores: ArrayLike, mos: ArrayLike, parameters: int = 4, iterations: int = 200
) -> Curve | None:
    """Least-squares fit of the logistic that maps scores to MOS.

    With 4 parameters ``(b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2``, rising or falling; with 5 ``b1 *
    (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5``. Only midpoint and steepness are searched for, from
    the best of a grid; the others follow linearly. The midpoint stays within 3 standard deviations of the
    scores' range, the width of the curve between 0.05 and 10 of them: steeper is a step, flatter a line.

    Args:
        scores: (N,), finite, on any scale.
        mos: (N,), finite.
        parameters: 4 or 5.
        iterations: at most this many evaluations of the curve per start.

    Returns:
        The curve; None, with an AigciqaWarning, where the fit does not converge, MOS are constant, or there
        are not more rows than parameters and as many different scores.

    Raises:
        InputError: for different lengths, values that are not finite, another number of parameters.

    Source:
        4: VQEG, Final report on the validation of objective models of video quality assessment (2000).
        5: Sheikh, Sabir and Bovik, IEEE Transactions on Image Processing 15 (2006), 3440-3451.

    Examples:
        >>> curve = fit_logistic([0, 1, 2, 3, 4, 5], [1.1, 1.2, 2.0, 3.9, 4.8, 4.9])
        >>> curve([2.5])
        array([2.93...])
    """
    x, y = paired(scores, mos)
    if parameters not in (4, 5):
        raise InputError(f"a logistic of 4 or 5 parameters can be fitted, not of {parameters!r}")
    if len(x) <= parameters:
        return _none(parameters, f"{len(x)} rows are too few, it takes {parameters + 1}")
    if (different := len(np.unique(x))) < parameters:
        return _none(parameters, f"{different} different scores are too few, it takes {parameters}")
    if np.ptp(y) == 0:
        return _none(parameters, "all MOS are the same")

    # standardised, so that neither the scores' scale nor the MOS' matters
    (mx, sx), (my, sy) = (x.mean(), x.std()), (y.mean(), y.std())
    z, v = (x - mx) / sx, (y - my) / sy
    fixed = np.stack([np.ones_like(z), z][: parameters - 3], axis=1)
    q = np.linalg.qr(fixed)[0]

    def sigmoid(p: Floats) -> Floats:
        return expit((z - p[0]) / np.exp(p[1]))

    def beside(column: Floats) -> Floats:
        """What of a column the fixed ones (a constant, a line) do not explain."""
        return column - q @ (q.T @ column)

    target = beside(v)

    def residual(p: Floats) -> Floats:
        s = beside(sigmoid(p))
        square = s @ s
        return target - s * (s @ target / square) if square > 1e-20 * len(s) else target

    middles = [z.min() - 2, *np.quantile(z, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]), z.max() + 2]
    starts = [  # one for each width, since steep and flat ones lead to different local minima
        min((np.array([m, math.log(width)]) for m in middles), key=lambda p: float(np.sum(residual(p) ** 2)))
        for width in (0.1, 0.3, 1, 3)
    ]
    bounds = ([z.min() - 3, math.log(0.05)], [z.max() + 3, math.log(10)])
    fits = [least_squares(residual, p, bounds=bounds, max_nfev=iterations, method="dogbox") for p in starts]
    best = min(fits, key=lambda fit: fit.cost)
    if not best.success:
        return _none(parameters, f"no convergence after {iterations} evaluations")

    middle, width = best.x[0], math.exp(best.x[1])
    a, c, *line = np.linalg.lstsq(np.column_stack([sigmoid(best.x), fixed]), v, rcond=None)[0]
    b3 = mx + sx * middle
    if parameters == 4:
        low = my + sy * c
        found = [low + sy * a, low, b3, sx * width]
    else:
        slope = sy * line[0] / sx
        found = [sy * a, 1 / (sx * width), b3, slope, my + sy * (c + a / 2) - slope * mx]
    return Curve(tuple(float(b) for b in found))


def _none(parameters: int, reason: str) -> Curve | None:
    warnings.warn(f"no {parameters}-parameter logistic was fitted: {reason}", AigciqaWarning, stacklevel=3)
    return None


def plcc_fitted(scores: ArrayLike, mos: ArrayLike, parameters: int = 4) -> float:
    """Pearson's correlation after the logistic fit of `fit_logistic`.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.
        parameters: 4 or 5, of the logistic.

    Returns:
        In [-1, 1]; NaN, with an AigciqaWarning, where there is no fit.

    Raises:
        InputError: for different lengths, values that are not finite, another number of parameters.

    Examples:
        >>> round(plcc_fitted([0, 1, 2, 3, 4, 5], [1.1, 1.3, 1.9, 4.1, 4.5, 4.9]), 4)
        0.9975
    """
    curve = fit_logistic(scores, mos, parameters)
    return math.nan if curve is None else plcc(curve(scores), mos)


def rmse(scores: ArrayLike, mos: ArrayLike, parameters: int | None = None) -> float:
    """Root mean squared error, in units of MOS.

    Args:
        scores: (N,), finite.
        mos: (N,), finite.
        parameters: None for the scores as they are; 4 or 5 for after the fit of `fit_logistic`.

    Returns:
        At least 0 (the sum of squares divided by N); NaN without rows, or, with an AigciqaWarning, where
        there is no fit.

    Raises:
        InputError: for different lengths, values that are not finite, another number of parameters.

    Examples:
        >>> rmse([1, 2, 3], [1, 2, 6])
        1.732...
    """
    x, y = paired(scores, mos)
    if parameters is not None:
        if (curve := fit_logistic(x, y, parameters)) is None:
            return math.nan
        x = curve(x)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else math.nan
