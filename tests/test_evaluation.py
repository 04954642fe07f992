"""Correlations, fits, intervals, tests of differences, the paper's table, others' scores, plots."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
from scipy import stats
from scipy.optimize import curve_fit

from aigciqa.config import DIMENSIONS, PAPER_BACKBONES, MetricConfig, paper_config
from aigciqa.errors import InputError
from aigciqa.training.comparison import compare, williams
from aigciqa.training.correlation import krcc, pairwise_accuracy, plcc, srcc
from aigciqa.training.evaluation import evaluate, interval
from aigciqa.training.external import match_scores, read_scores
from aigciqa.training.logistic import fit_logistic, plcc_fitted, rmse
from aigciqa.training.paper import Result, paper_results, paper_table, row_of
from aigciqa.training.plots import plot_evaluation

CORRELATIONS = (srcc, krcc, plcc)


def rated(n=200, noise=0.7, seed=0, ties=False):
    """Scores and MOS that correlate."""
    rng = np.random.default_rng(seed)
    mos = rng.normal(2.5, 1, n)
    scores = mos + rng.normal(0, noise, n)
    return (np.round(scores), np.round(mos)) if ties else (scores, mos)


# -- correlations


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 10, 1600])
def test_correlations_are_scipys(n, ties):
    x, y = rated(n, ties=ties, seed=n)
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert krcc(x, y) == pytest.approx(stats.kendalltau(x, y, variant="b").statistic, abs=1e-12)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_by_hand_with_ties():
    x, y = [1, 2, 2, 4, 5], [1, 3, 2, 2, 5]
    # ranks 1, 2.5, 2.5, 4, 5 and 1, 4, 2.5, 2.5, 5: deviations from 3 give 7.25 / sqrt(9.5 * 9.5)
    assert srcc(x, y) == pytest.approx(7.25 / 9.5, abs=1e-12)
    # of 10 pairs one is tied in x, one in y; of the other 8, rows 2 and 4 are the only ones out of order
    assert krcc(x, y) == pytest.approx((7 - 1) / 9, abs=1e-12)
    # means 2.8 and 2.6: sum of products 7.6, of squares 10.8 and 9.2
    assert plcc(x, y) == pytest.approx(7.6 / math.sqrt(10.8 * 9.2), abs=1e-12)
    # 9 pairs differ in MOS: 7 in order, 1 not, 1 tied in the scores
    assert pairwise_accuracy(x, y) == pytest.approx(7.5 / 9, abs=1e-12)


@pytest.mark.parametrize("function", CORRELATIONS)
@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1, 2], [1, 2]), ([3, 3, 3, 3], [1, 2, 3, 4]), ([1, 2, 3, 4], [0.1] * 4)]
)
def test_what_has_no_correlation_is_nan_without_a_warning(function, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(function(x, y))


@pytest.mark.parametrize(
    "function", [*CORRELATIONS, rmse, plcc_fitted, fit_logistic, pairwise_accuracy, evaluate, plot_evaluation]
)
@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2, 3], [1, 2], "3 scores but 2 MOS"),
        ([1, math.nan, 3], [1, 2, 3], "scores are not finite .row 1"),
        ([1, 2, 3], [1, 2, math.inf], "MOS are not finite .row 2"),
        ([[1], [2], [3]], [1, 2, 3], r"shape \(N,\), not \(3, 1\)"),
        (["a", "b", "c"], [1, 2, 3], "scores must be numbers"),
    ],
)
def test_bad_rows_are_refused(function, x, y, said, tmp_path):
    extra = [tmp_path] if function is plot_evaluation else []
    with pytest.raises(InputError, match=said):
        function(x, y, *extra)


# -- pairs


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_pairwise_accuracy_is_brute_force(ties, grouped):
    x, y = rated(120, ties=ties)
    groups = np.random.default_rng(5).integers(15, size=120) if grouped else None
    alike, pairs = 0.0, 0
    for i in range(120):
        for j in range(i):
            if y[i] != y[j] and (groups is None or groups[i] == groups[j]):
                pairs += 1
                alike += 0.5 if x[i] == x[j] else (x[i] > x[j]) == (y[i] > y[j])
    assert pairwise_accuracy(x, y, groups) == alike / pairs


def test_pairwise_accuracy_at_its_ends():
    x, y = rated(50)
    assert pairwise_accuracy(y, y) == 1
    assert pairwise_accuracy(-y, y) == 0
    assert pairwise_accuracy(np.ones(50), y) == 0.5
    assert math.isnan(pairwise_accuracy(x, np.ones(50)))
    assert math.isnan(pairwise_accuracy(x, y, range(50)))  # nobody to compare with
    assert math.isnan(pairwise_accuracy([], [], []))


def test_pairwise_accuracy_of_many_rows_is_exact():
    """20,000 rows have 2e8 pairs; one swap is still seen."""
    y = np.arange(20000.0)
    x = y.copy()
    x[[7, 8]] = x[[8, 7]]
    assert pairwise_accuracy(x, y) == 1 - 1 / (20000 * 19999 / 2)


# -- fits


def logistic4(x, b1, b2, b3, b4):
    return (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4))) + b2


def logistic5(x, b1, b2, b3, b4, b5):
    return b1 * (1 / 2 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


@pytest.mark.parametrize(
    ("function", "true", "low", "high"),
    [
        (logistic4, (4.5, 0.5, 2.0, 0.6), 0, 5),
        (logistic4, (0.7, 4.2, 55.0, 12.0), 0, 100),  # falling: a distance
        (logistic4, (5.0, 1.0, 3e-4, 1e-4), 0, 1e-3),
        (logistic5, (3.0, 2.5, 2.2, 0.3, 1.0), 0, 5),
        (logistic5, (-4.0, 0.08, 40.0, 0.01, 3.0), 0, 100),
    ],
)
def test_known_parameters_are_recovered(function, true, low, high):
    x = np.linspace(low, high, 300)
    y = function(x, *true)
    curve = fit_logistic(x, y, len(true))
    assert curve.parameters == pytest.approx(true, rel=1e-4)
    assert curve(x) == pytest.approx(y, abs=1e-6)

    noisy = y + np.random.default_rng(1).normal(0, 0.05, len(x))
    assert fit_logistic(x, noisy, len(true))(x) == pytest.approx(y, abs=0.05)


@pytest.mark.parametrize("function", [logistic4, logistic5])
def test_fit_is_as_good_as_scipys_from_the_truth(function):
    true = (4.0, 1.0, 2.5, 0.5) if function is logistic4 else (3.0, 2.0, 2.5, 0.2, 2.0)
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 5, 400)
    y = function(x, *true) + rng.normal(0, 0.6, 400)
    theirs = function(x, *curve_fit(function, x, y, p0=true)[0])
    ours = fit_logistic(x, y, len(true))(x)
    assert rmse(ours, y) == pytest.approx(rmse(theirs, y), rel=1e-6)
    assert plcc_fitted(x, y, len(true)) == pytest.approx(stats.pearsonr(theirs, y).statistic, rel=1e-6)


def test_fit_undoes_a_monotonic_distortion():
    mos = np.linspace(0.2, 4.8, 200)
    scores = np.log(mos / (5 - mos))
    assert plcc(scores, mos) < 0.99
    for parameters in (4, 5):
        assert plcc_fitted(scores, mos, parameters) == pytest.approx(1, abs=1e-6)
        assert rmse(scores, mos, parameters) == pytest.approx(0, abs=1e-3)
    assert plcc_fitted(-scores, mos) == pytest.approx(1, abs=1e-6)


def test_fit_far_from_the_origin_stays_finite():
    x, y = rated()
    curve = fit_logistic(1e6 + x, y)
    assert np.isfinite(curve([-1e9, 0, 1e9])).all()
    assert rmse(curve(1e6 + x), y) == pytest.approx(rmse(x, y, 4), rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "iterations"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 5], 200),  # 4 rows, 4 parameters
        ([1] * 20, range(20), 200),
        ([0, 1] * 10, range(20), 200),
        (range(20), [2.0] * 20, 200),
        (*rated(), 1),
    ],
)
def test_no_fit_is_none_and_said(x, y, iterations):
    with pytest.warns(RuntimeWarning, match="no 4-parameter logistic was fitted"):
        assert fit_logistic(x, y, iterations=iterations) is None


def test_no_fit_makes_nan():
    with pytest.warns(RuntimeWarning):
        assert math.isnan(plcc_fitted([1, 2, 3, 4], [1, 2, 3, 5]))
    with pytest.warns(RuntimeWarning):
        assert math.isnan(rmse([1, 2, 3, 4], [1, 2, 3, 5], 4))


def test_fit_of_another_kind_is_refused():
    with pytest.raises(InputError, match="4 or 5"):
        fit_logistic(*rated(), parameters=3)


def test_rmse():
    assert rmse([1, 2, 3, 4], [1, 2, 3, 2]) == 1
    assert math.isnan(rmse([], []))


# -- evaluation


def test_evaluation_holds_what_the_functions_say():
    x, y = rated(120)
    groups = [f"prompt {i // 4}" for i in range(120)]
    generators = np.array(["SD", "MJ", "SD"])[np.arange(120) % 3]
    found = evaluate(x, y, groups, generators, bootstrap=20)
    assert found.n == 120
    assert (found.srcc, found.krcc, found.plcc) == (srcc(x, y), krcc(x, y), plcc(x, y))
    assert (found.plcc4, found.plcc5) == (plcc_fitted(x, y, 4), plcc_fitted(x, y, 5))
    assert (found.rmse, found.rmse4, found.rmse5) == (rmse(x, y), rmse(x, y, 4), rmse(x, y, 5))
    assert found.rmse5 <= found.rmse4 * 1.01 < found.rmse
    assert found.pairwise == pairwise_accuracy(x, y)

    assert list(found.by_generator) == ["SD", "MJ"]
    of_sd = generators == "SD"
    assert found.by_generator["SD"]["n"] == 80
    assert found.by_generator["SD"]["krcc"] == krcc(x[of_sd], y[of_sd])
    assert found.by_generator["MJ"]["mos"] == pytest.approx(y[~of_sd].mean())
    assert found.generator_srcc == pytest.approx((srcc(x[of_sd], y[of_sd]) + srcc(x[~of_sd], y[~of_sd])) / 2)

    within = [srcc(x[i : i + 4], y[i : i + 4]) for i in range(0, 120, 4)]
    assert found.by_group["groups"] == found.by_group["ranked"] == 30
    assert found.by_group["srcc"] == pytest.approx(np.mean(within))
    assert found.by_group["pairwise"] == pairwise_accuracy(x, y, groups)


def test_groups_that_cannot_be_ranked_are_counted_but_not_averaged():
    x, y = [1, 2, 3, 1, 2, 5, 5, 5], [1, 2, 3, 9, 8, 1, 2, 3]
    with pytest.warns(RuntimeWarning, match="no 5-parameter"):
        found = evaluate(x, y, groups=["a"] * 3 + ["b"] * 2 + ["c"] * 3, bootstrap=0)
    assert found.by_group == {"groups": 3, "ranked": 1, "srcc": pytest.approx(1), "pairwise": 4.5 / 7}
    assert found.intervals == {}


def test_table_and_dict_can_be_shown():
    x, y = rated(60)
    found = evaluate(x, y, np.arange(60) // 3, ["SD", "a very long name of a generator"] * 30, bootstrap=20)
    table = found.table()
    for text in (
        f"{found.srcc:.4f}",
        f"{found.intervals['plcc'][0]:.4f} to ",
        "within 20 groups",
        "very long",
    ):
        assert text in table
    with pytest.warns(RuntimeWarning):
        small = evaluate([1, 1, 1], [1, 2, 3], ["a", "a", "a"], ["SD", "SD", "MJ"], bootstrap=5)
    data = json.loads(json.dumps(small.to_dict(), allow_nan=False))
    assert data["srcc"] is None and data["intervals"]["srcc"] == [None, None]
    assert data["by_generator"]["SD"]["plcc"] is None
    assert data["n"] == 3 and data["pairwise"] == 0.5
    assert "nan" not in small.table()


def test_same_seed_same_intervals():
    x, y = rated(80)
    one, same, other = (evaluate(x, y, bootstrap=50, seed=seed).intervals for seed in (1, 1, 2))
    assert one == same != other


def test_intervals_cover_the_truth():
    """95 % intervals of samples of a known correlation: of 40, at least 33 should hold it."""
    rho, rng = 0.7, np.random.default_rng(4)
    inside = {"plcc": 0, "srcc": 0, "krcc": 0, "pairwise": 0}
    tau = 2 / math.pi * math.asin(rho)
    truth = {"plcc": rho, "srcc": 6 / math.pi * math.asin(rho / 2), "krcc": tau, "pairwise": (1 + tau) / 2}
    for seed in range(40):
        y = rng.normal(size=100)
        x = rho * y + math.sqrt(1 - rho**2) * rng.normal(size=100)
        intervals = evaluate(x, y, bootstrap=100, seed=seed).intervals
        for name, value in truth.items():
            low, high = intervals[name]
            inside[name] += low <= value <= high
    assert min(inside.values()) >= 33, inside


def test_interval_is_the_middle_95_percent():
    values = np.append(np.random.default_rng(0).permutation(1001) * 1.0, [math.nan] * 10)
    assert interval(values) == pytest.approx((25, 975))


def test_groups_widen_the_intervals():
    """Rows that repeat each other within groups hold no more than one of them does."""
    x, y = rated(40)
    repeated = np.repeat(x, 8), np.repeat(y, 8)
    alone = evaluate(*repeated, bootstrap=200).intervals["srcc"]
    grouped = evaluate(*repeated, groups=np.repeat(np.arange(40), 8), bootstrap=200).intervals["srcc"]
    once = evaluate(x, y, bootstrap=200).intervals["srcc"]
    assert np.ptp(grouped) > 2 * np.ptp(alone)
    assert np.ptp(grouped) == pytest.approx(np.ptp(once), rel=0.25)


def test_one_group_tells_no_interval():
    x, y = rated(30)
    low, high = evaluate(x, y, groups=["a"] * 30, bootstrap=10).intervals["srcc"]
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": ["a"] * 29}, "29 groups but 30 rows"),
        ({"groups": ["a"] * 29 + [None]}, "groups are missing in 1 rows, the first of them row 29"),
        ({"generators": ["a"] * 29 + [math.nan]}, "generators are missing"),
        ({"bootstrap": -1}, "bootstrap"),
        ({"bootstrap": 2.5}, "bootstrap"),
    ],
)
def test_bad_arguments_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        evaluate(*rated(30), **changes)


def test_nothing_to_evaluate_is_refused(tmp_path):
    for call in (
        lambda: evaluate([], []),
        lambda: compare([], [], []),
        lambda: plot_evaluation([], [], tmp_path),
    ):
        with pytest.raises(InputError, match="nothing to"):
            call()


# -- comparison


def test_williams_by_hand():
    """n = 30, r = .6, .4, between them .5: worked step by step."""
    determinant = np.linalg.det([[1, 0.6, 0.4], [0.6, 1, 0.5], [0.4, 0.5, 1]])
    assert determinant == pytest.approx(0.47)
    # t = .2 * sqrt(29 * 1.5 / (2 * .47 * 29 / 27 + .25 * .125))
    t, p = williams(0.6, 0.4, 0.5, 30)
    assert t == pytest.approx(0.2 * math.sqrt(43.5 / (27.26 / 27 + 0.03125)), abs=1e-12)
    assert t == pytest.approx(1.2929, abs=1e-4)
    assert p == pytest.approx(1 - (2 * stats.t.cdf(t, 27) - 1), abs=1e-12)
    assert williams(0.4, 0.6, 0.5, 30) == pytest.approx((-t, p))


def test_williams_rejects_as_often_as_it_says():
    """Where two scores are equally good, p is below .1 in about a tenth of samples."""
    rng = np.random.default_rng(8)
    below = 0
    for _ in range(1000):
        y = rng.normal(size=40)
        a, b = (y + rng.normal(size=40) for _ in range(2))
        below += williams(plcc(a, y), plcc(b, y), plcc(a, b), 40)[1] < 0.1
    assert 70 < below < 130  # 100 expected, standard deviation 9.5


def test_williams_at_its_limits():
    assert williams(0.5, 0.5, 1.0, 30) == (0, 1)
    assert all(map(math.isnan, williams(0.5, 0.4, 0.3, 3)))
    assert all(map(math.isnan, williams(math.nan, 0.4, 0.3, 30)))
    t, p = williams(1.0, -1.0, -1.0, 30)
    assert t == math.inf and p == 0


def test_compare_finds_the_better_one():
    rng = np.random.default_rng(3)
    y = rng.normal(size=160)
    good, poor = y + 0.5 * rng.normal(size=160), y + 2 * rng.normal(size=160)
    found = compare(good, poor, y, groups=np.arange(160) // 4, bootstrap=300)
    assert found.difference == srcc(good, y) - srcc(poor, y) == found.srcc_a - found.srcc_b
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.p == pytest.approx(2 / 301)
    expected = williams(plcc(good, y), plcc(poor, y), plcc(good, poor), 160)
    assert (found.plcc_t, found.plcc_p) == expected
    assert (found.srcc_t, found.srcc_p) == williams(srcc(good, y), srcc(poor, y), srcc(good, poor), 160)
    assert f"{found.difference:.4f}" in found.table() and "<0.0001" in found.table()

    turned = compare(poor, good, y, groups=np.arange(160) // 4, bootstrap=300)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert turned.p == found.p


def test_compare_does_not_find_what_is_not_there():
    rng = np.random.default_rng(6)
    y = rng.normal(size=150)
    a, b = (y + rng.normal(size=150) for _ in range(2))
    found = compare(a, b, y, bootstrap=300)
    assert found.interval[0] < 0 < found.interval[1]
    assert min(found.p, found.srcc_p, found.plcc_p) > 0.05
    same = compare(a, a, y, bootstrap=50)
    assert (same.difference, same.p, same.srcc_p, same.plcc_t) == (0, 1, 1, 0)


def test_comparison_as_json():
    found = compare([1, 2, 3], [3, 2, 1], [1, 2, 3], groups=["a"] * 3, bootstrap=5)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["srcc_a"] == pytest.approx(1) and data["srcc_b"] == pytest.approx(-1)
    assert data["srcc_p"] is None and data["interval"] == [None, None] and data["p"] is None


def test_compare_refuses_different_lengths():
    with pytest.raises(InputError, match="2 scores but 3 MOS"):
        compare([1, 2, 3], [1, 2], [1, 2, 3])


# -- the paper


def test_the_papers_table():
    table = paper_results()
    assert len(table) == len(table.drop_duplicates(["method", "backbone", "dimension"])) == 2 * 5 * 4
    assert set(table.data) == {"pku-i2iqa"}
    assert set(table.method) == {"NR", "FR"}
    assert set(table.backbone) == set(PAPER_BACKBONES) - {"vit-l"}
    assert set(table.dimension) == set(DIMENSIONS)
    rows = table.set_index(["method", "backbone", "dimension"])
    for key, value in {
        ("NR", "vgg16", "quality"): (0.6734, 0.6854),
        ("NR", "resnet50", "overall"): (0.7272, 0.7426),
        ("FR", "vgg19", "authenticity"): (0.6505, 0.7056),
        ("FR", "resnet18", "correspondence"): (0.7737, 0.7892),
        ("FR", "inceptionv4", "overall"): (0.7282, 0.7529),
    }.items():
        assert tuple(rows.loc[key, ["srcc", "plcc"]]) == value
    # what the paper says of it: the reference helps on average
    means = table.groupby("method").srcc.mean()
    assert means["FR"] > means["NR"]


def lines_of(*results, data="pku-i2iqa"):
    return paper_table(results, data).splitlines()


def test_the_whole_table_with_a_run_in_its_place():
    published = paper_results()
    text = lines_of(
        Result("this run", "FR", "resnet18", {"quality": (0.5123, -0.0345), "overall": (1, math.nan)})
    )
    rows = [line for line in text if line.startswith(("NR ", "FR "))]
    assert len(rows) == 10
    for row in rows:
        method, backbone, *cells = row.replace(" / ", "/").split()
        there = published[(published.method == method) & (published.backbone == backbone)]
        for dimension, cell in zip(DIMENSIONS, cells, strict=True):
            one = there[there.dimension == dimension].iloc[0]
            assert cell == f"{one.srcc:.4f}/{one.plcc:.4f}".replace("0.", ".")
    place = next(i for i, line in enumerate(text) if line.startswith("FR resnet18"))
    assert text[place + 1].split() == ["this", "run", ".5123", "/", "-.0345", "-", "-", "1.0000", "/", "-"]
    assert len({len(line) for line in text[1:13]}) == 1  # columns are below each other
    assert "this run: no figures for authenticity, correspondence." in text
    for caveat in ("best epochs", "test set", "prompt", "without a logistic fit"):
        assert caveat in "\n".join(text)


@pytest.mark.parametrize(
    ("method", "backbone", "shown"),
    [
        ("PR", "resnet18", "PR resnet18, mine"),
        ("NR", "vit-l", "NR vit-l, mine"),
        ("NR", "tf_efficientnet_lite0", "NR tf_efficientnet_lite0, mine"),
        ("", "", "mine"),
    ],
)
def test_what_the_paper_does_not_have(method, backbone, shown):
    text = lines_of(Result("mine", method, backbone, dict.fromkeys(DIMENSIONS, (0.5, 0.25))))
    assert text[12].split("  ")[0] == shown and text[12].count(".5000 / .2500") == 4
    assert f"{shown}: a row that the paper does not have." in text
    assert not any("no figures" in line for line in text)


@pytest.mark.parametrize("data", ["pku-aigiqa-4k", "pku-aigiqa-4k-i2i", "agiqa-3k", "pku-i2iqa"])
def test_figures_of_other_data_do_not_compare(data):
    text = "\n".join(lines_of(Result("this run", "NR", "vgg16", {"quality": (0.5, 0.5)}), data=data))
    said = f"This table is of PKU-I2IQA, the figures beside it are of {data}: they do not compare."
    assert (said in text) == (data != "pku-i2iqa")
    assert ("2404.18409) is not shipped" in text) == data.startswith("pku-aigiqa-4k")
    assert ".6734 / .6854" in text


@pytest.mark.parametrize(
    ("config", "row"),
    [
        (paper_config("vgg19"), ("NR", "vgg19")),
        (paper_config("inceptionv4", "full"), ("FR", "inceptionv4")),
        (paper_config("vit-l", "partial"), ("PR", "vit-l")),
        (paper_config("resnet50", feature="stages"), ("NR", "resnet50 with feature stages")),
        (MetricConfig("x", "none", "test_resnet"), ("NR", "test_resnet")),
    ],
)
def test_the_row_of_a_checkpoint(config, row):
    assert row_of(config) == row


# -- others' scores

THEIRS = {"All/0001": 1.25, "All/SD_000_01.jpg": 3.5, "größe, 1.png": -2e-3}


def write(path, data=THEIRS, names=("picture", "score")):
    frame = pd.DataFrame({names[0]: list(data), names[1]: list(data.values())})
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text(frame.to_json(orient="records", lines=True), encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_read_scores(ending, tmp_path):
    assert read_scores(write(tmp_path / f"theirs.{ending}")) == THEIRS


def test_read_scores_by_column(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("id,prompt,niqe,brisque\n0001,a dog,3.5,40\n0002,,4.5,50\n")
    assert read_scores(file, "id", "brisque") == {"0001": 40, "0002": 50}
    for given, said in (
        ({}, "does not tell which column it is; pass score_column, one of id, prompt, niqe, brisque"),
        ({"picture_column": "name"}, "has no column 'name'"),
        (
            {"score_column": "prompt", "picture_column": "id"},
            r"prompt is not a finite number in row 1 \(0001\)",
        ),
    ):
        with pytest.raises(InputError, match=said):
            read_scores(file, **given)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "picture,score\na.png,1\nb.png,\n", r"not a finite number in row 2 \(b.png\)"),
        ("a.csv", "picture,score\na.png,1\nb.png,nan\n", "not a finite number in row 2"),
        ("a.csv", "picture,score\na.png,1\nb.png,inf\n", "not a finite number in row 2"),
        ("a.csv", "picture,score\na.png,1\nb.png,failed\n", "not a finite number in row 2"),
        ("a.csv", "picture,score\na.png,1\na.png,2\n", "more than once: a.png"),
        ("a.csv", "picture,score\n,1\nb.png,2\n", "picture is empty in row 1"),
        ("a.csv", "a.png,1.5\nb.png,2\n", "no header line"),
        ("a.csv", "", "cannot (be )?read"),
        ("a.csv", "picture,score\n", "does not tell"),
        ("a.jsonl", '{"picture": "a.png", "score": 1}\n{"picture": "b.png"}\n', "row 2"),
        ("a.jsonl", '{"picture": "a.png", "score"\n', "cannot (be )?read"),
        ("a.jsonl", "3\n", "every line must be a JSON object"),
        ("a.jsonl", '{"picture": "a.png", "score": [1]}\n', "does not tell"),
        ("a.csv", "picture,score\na.png,1,2\n", "cannot (be )?read"),
        ("a.csv", "picture,score\na.png\n", "does not tell"),
        ("a.parquet", "no parquet", "cannot (be )?read"),
        ("a.txt", "picture,score\na.png,1\n", "must end in .csv"),
    ],
)
def test_scores_that_cannot_be_trusted(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_scores(tmp_path / name)


def test_scores_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot (be )?read"):
        read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("names", "pictures", "expected"),
    [
        (["a.png", "b.png", "c.png"], ["d/b.png", "d/a.png"], [1, 0]),  # by file name, more than needed
        (["x/0.jpg", "y/0.jpg"], ["data/y/0.jpg", "data/x/0.jpg"], [1, 0]),  # by folder
        (["/home/me/x/0.jpg", "/home/me/y/0.jpg"], ["data/y/0.jpg"], [1]),  # of another machine
        (["C:\\pics\\x\\0.jpg", "C:\\pics\\y\\0.jpg"], ["data/y/0.jpg"], [1]),
        (["0.jpg", "x/0.jpg"], ["data/x/0.jpg"], [1]),
        (["./a.png"], ["a.png", "a.png"], [0, 0]),  # the same picture twice
        (["a.png"], [], []),
    ],
)
def test_match_scores(names, pictures, expected):
    found = match_scores({name: float(i) for i, name in enumerate(names)}, pictures)
    assert found.dtype == np.float64 and found.tolist() == expected


@pytest.mark.parametrize(
    ("names", "pictures", "said"),
    [
        (["a.png"], ["a.png", "d/b.png", "c.png"], "no score for d/b.png, c.png$"),
        (["a.png"], ["A.png"], "no score for A.png"),
        (["aa.png"], ["a.png"], "no score for a.png"),
        (["x/0.jpg", "y/0.jpg"], ["0.jpg"], r"not clear .* 0.jpg \(x/0.jpg or y/0.jpg\)"),
        (["0.jpg"], ["x/0.jpg", "y/0.jpg"], r"not clear .* x/0.jpg .*fits others.*y/0.jpg"),
        (["x/0.jpg"], ["x/0.jpg", "y/0.jpg"], r"y/0.jpg \(x/0.jpg, which fits others\)"),
        ([], [f"{i}.jpg" for i in range(14)], "9.jpg and 4 more"),
    ],
)
def test_scores_that_do_not_match(names, pictures, said):
    with pytest.raises(InputError, match=said):
        match_scores(dict.fromkeys(names, 1.0), pictures)


# -- plots


def test_plots_are_pictures(tmp_path):
    x, y = rated(300)
    files = plot_evaluation(x, y, tmp_path / "new" / "folder", np.arange(300) % 2, "authenticity")
    assert [file.name for file in files] == ["predicted-vs-mos.png", "residuals.png", "by-generator.png"]
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "PNG" and min(picture.size) >= 600
            pixels = np.asarray(picture.convert("RGB"))
        coloured = np.ptp(pixels, axis=2) > 40
        assert 0.005 < coloured.mean() < 0.6  # marks, not a blank sheet nor a filled one
        assert (pixels == 255).all(axis=2).mean() > 0.3


def test_plots_leave_the_backend_alone(tmp_path):
    """In a fresh interpreter, since pyplot may be loaded here."""
    code = (
        "import sys, matplotlib; from aigciqa.training.plots import plot_evaluation; "
        "plot_evaluation([1, 2, 3, 4, 5, 6], [1, 2, 2, 4, 5, 6], sys.argv[1], list('ababab')); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=600)


def test_plots_show_the_scores(tmp_path):
    """Other scores make another picture; the same ones the same."""
    x, y = rated(100)
    one = plot_evaluation(x, y, tmp_path / "a")[0].read_bytes()
    assert plot_evaluation(x, y, tmp_path / "b")[0].read_bytes() == one
    assert plot_evaluation(-x, y, tmp_path / "c")[0].read_bytes() != one


def test_plots_without_a_fit(tmp_path):
    with pytest.warns(RuntimeWarning, match="no 4-parameter"):
        files = plot_evaluation([2.0], [3.0], tmp_path, generators=["SD"])
    assert all(file.stat().st_size > 5000 for file in files)


def test_plots_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        plot_evaluation(*rated(20), tmp_path / "file")
