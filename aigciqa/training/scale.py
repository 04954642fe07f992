"""Scales of labels and scores: differences between two of these numbers mean something on one scale only."""

from typing import Any

from .correlation import Floats

Range = tuple[float, float]


def rescaled(values: Floats, of: Range, to: Range) -> Floats:
    """Values on one scale as values on another.

    Args:
        values: any shape.
        of: lowest and highest possible value now.
        to: of the scale that is wanted.

    Examples:
        >>> import numpy as np
        >>> rescaled(np.array([0.0, 2.5, 5.0]), (0, 5), (1, 5))
        array([1., 3., 5.])
    """
    return (values - of[0]) / (of[1] - of[0]) * (to[1] - to[0]) + to[0]


def scale_facts(scale: Range, observed: bool) -> dict[str, Any]:
    """What stands beside figures in JSON: the scale that RMSE is on, and whether nobody said that it is that."""
    return {"scale": list(scale), "scale_is_observed": observed}


def scale_said(scale: Range, observed: bool) -> str:
    """The same for people."""
    low, high = scale
    said = f"{low:g} to {high:g}"
    return f"{said}, as far as labels were seen; say otherwise with --range LOW,HIGH" if observed else said
