"""Losses over a batch of scores with missing labels."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError


def combined(
    scores: Tensor,
    labels: Tensor,
    terms: Mapping[str, float],
    *,
    weights: Tensor | None = None,
    comparable: Tensor | None = None,
    margin: float = 0.5,
) -> Tensor:
    """The weighted sum of loss terms.

    Args:
        scores: (N, D) predicted.
        labels: (N, D) on the same scale; NaN where there is none.
        terms: weight by name: ``mse`` (the papers'), ``mae``, ``huber``, ``plcc``, ``rank``.
        weights: (N,) of the rows, such as a data set's; None for 1 each.
        comparable: (N,) integers; ``rank`` compares only rows of the same one. None for all.
        margin: by how much ``rank`` wants a better picture to score higher, at most the difference of the labels.

    Returns:
        A scalar; 0 with a gradient of 0 where no label is present.

    Raises:
        InputError: for an unknown term.

    Examples:
        >>> import torch
        >>> combined(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]), {"mse": 1.0})
        tensor(2.)
    """
    if unknown := terms.keys() - {*POINTWISE, "plcc", "rank"}:
        raise InputError(
            f"unknown loss {min(unknown)!r}; there are {', '.join([*POINTWISE, 'plcc', 'rank'])}"
        )
    weights = torch.ones(len(scores), device=scores.device) if weights is None else weights
    total = scores.sum() * 0
    for name, factor in terms.items():
        if name in POINTWISE:
            term = _pointwise(scores, labels, weights, name)
        elif name == "plcc":
            term = _plcc(scores, labels, weights)
        else:
            term = _rank(scores, labels, weights, comparable, margin)
        total = total + factor * term
    return total


POINTWISE: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


def _pointwise(scores: Tensor, labels: Tensor, weights: Tensor, name: str) -> Tensor:
    present = ~labels.isnan()
    # absent entries are replaced before the loss, for a NaN times 0 is NaN in the gradient too
    each = POINTWISE[name](scores, torch.where(present, labels, scores.detach()), reduction="none")
    mass = present * weights[:, None]
    return (each * mass).sum() / mass.sum().clamp(min=1e-12)


def _plcc(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """1 - Pearson's correlation, the mean over the dimensions that have at least two different labels."""
    terms = []
    for score, label in zip(scores.unbind(1), labels.unbind(1), strict=True):
        present = ~label.isnan() & (weights > 0)
        x, y = score[present], label[present]
        if len(y) > 1 and y.min() < y.max():
            x, y = x - x.mean(), y - y.mean()
            terms.append(1 - (x * y).sum() / (x.square().sum() * y.square().sum() + 1e-8).sqrt())
    return torch.stack(terms).mean() if terms else scores.sum() * 0


def _rank(
    scores: Tensor, labels: Tensor, weights: Tensor, comparable: Tensor | None, margin: float
) -> Tensor:
    """Hinge on every pair of different labels, the mean over pairs (a margin ranking loss)."""
    difference = labels[:, None] - labels[None]
    counted = (difference > 0).float() * (weights[:, None] * weights[None])[..., None]  # NaN > 0 is false
    if comparable is not None:
        counted = counted * (comparable[:, None] == comparable[None])[..., None]
    wanted = difference.nan_to_num().clamp(max=margin)
    hinge = (wanted - (scores[:, None] - scores[None])).relu()
    return (hinge * counted).sum() / counted.sum().clamp(min=1e-12)
