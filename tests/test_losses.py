import numpy as np
import pytest
import torch
from torch import nn

from aigciqa.errors import InputError
from aigciqa.training.losses import combined

NAN = float("nan")


def test_missing_labels_take_no_part():
    scores = torch.randn(6, 2, requires_grad=True)
    labels = torch.randn(6, 2)
    labels[::2, 0] = NAN
    labels[5] = NAN
    for terms in ({"mse": 1.0}, {"mae": 1.0}, {"huber": 1.0}, {"plcc": 1.0}, {"rank": 1.0}):
        loss = combined(scores, labels, terms)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert gradient.isfinite().all()
        assert (gradient[labels.isnan()] == 0).all()
        assert gradient.abs().sum() > 0
    nothing = combined(scores, torch.full_like(labels, NAN), {"mse": 1.0, "plcc": 1.0, "rank": 1.0})
    assert nothing == 0
    assert (torch.autograd.grad(nothing, scores)[0] == 0).all()


def test_pointwise_are_torchs():
    scores, labels = torch.randn(7, 3), torch.randn(7, 3)
    for name, theirs in (("mse", nn.MSELoss()), ("mae", nn.L1Loss()), ("huber", nn.HuberLoss())):
        assert torch.allclose(combined(scores, labels, {name: 2.0}), 2 * theirs(scores, labels))
    weights = torch.tensor([1.0, 0, 0, 0, 0, 0, 3])
    expected = ((scores - labels).square().mean(1) * weights).sum() / 4
    assert torch.allclose(combined(scores, labels, {"mse": 1.0}, weights=weights), expected)


def test_plcc_is_pearsons():
    scores, labels = torch.randn(9, 2), torch.randn(9, 2)
    expected = 1 - np.mean([np.corrcoef(scores[:, d], labels[:, d])[0, 1] for d in (0, 1)])
    assert combined(scores, labels, {"plcc": 1.0}).item() == pytest.approx(expected, abs=1e-5)
    constant = labels.clone()
    constant[:, 1] = 3.0
    one = 1 - np.corrcoef(scores[:, 0], labels[:, 0])[0, 1]
    assert combined(scores, constant, {"plcc": 1.0}).item() == pytest.approx(one, abs=1e-5)


def test_rank_is_the_mean_hinge_over_pairs():
    scores, labels = torch.randn(8, 1), torch.randint(0, 4, (8, 1)).float()
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    pairs = [
        max(0.0, min(0.5, (labels[i] - labels[j]).item()) - (scores[i] - scores[j]).item())
        for i in range(8)
        for j in range(8)
        if labels[i] > labels[j] and groups[i] == groups[j]
    ]
    got = combined(scores, labels, {"rank": 1.0}, comparable=groups, margin=0.5)
    assert got.item() == pytest.approx(np.mean(pairs), abs=1e-6)
    right_order = labels * 10
    assert combined(right_order, labels, {"rank": 1.0}) == 0


def test_terms_add_up_and_unknown_ones_are_named():
    scores, labels = torch.randn(5, 1), torch.randn(5, 1)
    both = combined(scores, labels, {"mse": 0.3, "plcc": 2.0})
    assert torch.allclose(
        both, 0.3 * combined(scores, labels, {"mse": 1.0}) + 2 * combined(scores, labels, {"plcc": 1.0})
    )
    with pytest.raises(InputError, match="unknown loss 'mes'; there are mse, mae, huber, plcc, rank"):
        combined(scores, labels, {"mes": 1.0})
