from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from herohe_model.evaluation import metrics
from herohe_model.evaluation.bootstrap import bootstrap, interval
from herohe_model.evaluation.confounding import control, logistic_regression, within_strata
from herohe_model.evaluation.decisions import decision_curve, predictive_values
from herohe_model.evaluation.differences import auc_difference, f1_difference, mcnemar
from herohe_model.evaluation.intervals import auc_interval, f1_interval


def scores(n: int = 200, skill: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    return truth, np.round(rng.normal(skill * truth, 1), 2), np.round(rng.normal(0.5 * skill * truth, 1), 2)


def test_delong_is_the_bootstraps_where_there_are_many_cases() -> None:
    truth, p, other = scores(400)
    drawn = bootstrap(
        {"a": lambda w: metrics.roc_auc(truth, p, w), "b": lambda w: metrics.roc_auc(truth, other, w)}, 400
    )
    assert auc_interval(truth, p) == pytest.approx(interval(drawn["a"]), abs=0.01)
    difference = auc_difference(truth, p, other)
    assert (difference.low, difference.high) == pytest.approx(interval(drawn["a"] - drawn["b"]), abs=0.01)
    assert difference.value == pytest.approx(
        float(metrics.roc_auc(truth, p) - metrics.roc_auc(truth, other)), abs=1e-12
    )
    assert difference.p_value < 0.05 < auc_difference(truth, p, p + 0.001 * other).p_value


def test_the_difference_of_f1_is_the_bootstraps_where_there_are_many_cases() -> None:
    truth, p, other = scores(400)
    a, b = p > 0.5, other > 0.5
    drawn = bootstrap({"d": lambda w: metrics.f1_score(truth, a, w) - metrics.f1_score(truth, b, w)}, 400)
    found = f1_difference(truth, a, b)
    assert (found.low, found.high) == pytest.approx(interval(drawn["d"]), abs=0.015)
    turned = f1_difference(truth, b, a)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert turned.p_value == pytest.approx(found.p_value, abs=1e-9)


def test_differences_of_few_cases_hold_what_is_true() -> None:
    """DeLong's paired interval holds it in 0.85 of such cohorts, the bootstrap's of F1 in 0.45."""
    rng, normal = np.random.default_rng(20), NormalDist()
    true = normal.cdf(2.5 / 2**0.5) - normal.cdf(2.5 / 2)
    held = []
    while len(held) < 200:
        truth = rng.random(20) < 0.4
        if 2 <= truth.sum() <= 18:
            p = rng.normal(2.5 * truth, 1)
            found = auc_difference(truth, p, p + rng.normal(0, 1, 20))
            held.append(found.low <= true <= found.high)
    assert np.mean(held) >= 0.92


def test_two_that_put_all_cases_right_in_other_orders_are_not_surely_alike() -> None:
    truth = np.arange(20) < 8
    p = truth + np.linspace(0, 0.1, 20)
    other = truth + np.linspace(0.1, 0, 20)
    found = auc_difference(truth, p, other)
    assert found.value == 0 and found.low < -0.05 and found.high > 0.05
    assert found.p_value == pytest.approx(1)
    same = auc_difference(truth, p, 2 * p - 1)
    assert (same.low, same.high, same.p_value) == (0, 0, 1)


def test_mcnemar_is_the_binomial_test() -> None:
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32) and mcnemar(9, 1) == pytest.approx(22 / 1024)


def test_an_order_without_a_mistake_is_not_sure() -> None:
    for m, n in ((1, 1), (3, 9), (10, 10), (60, 90)):
        truth = np.arange(m + n) < m
        low, high = auc_interval(truth, truth.astype(float))
        assert 0 < low < 1 and high == 1
        mirrored = auc_interval(truth, 1.0 - truth)
        assert mirrored == pytest.approx((0, 1 - low), abs=1e-6)
    assert np.isnan(auc_interval(np.ones(4, dtype=bool), np.arange(4.0))).all()


def test_f1_follows_from_the_share_of_hits_among_all_that_is_positive_or_called_so() -> None:
    assert f1_interval(12, 0, 0)[0] < 0.9 and f1_interval(12, 0, 0)[1] == 1.0
    low, high = f1_interval(300, 100, 120)
    assert low < 2 * 300 / (600 + 220) < high and high - low < 0.08
    assert np.isnan(f1_interval(0, 0, 0)).all()


def test_logistic_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    truth = rng.random(300) < 1 / (1 + np.exp(-x @ [0.3, 1.0, -0.5, 0.0]))
    theirs = LogisticRegression(C=1.0, tol=1e-10).fit(x[:, 1:], truth)
    ours = logistic_regression(x, truth, ridge=1.0)
    assert ours == pytest.approx([*theirs.intercept_, *theirs.coef_[0]], abs=1e-4)


def test_labels_that_mean_nothing_are_rarely_told_by_a_control() -> None:
    rng = np.random.default_rng(2)
    values = [str(k % 4) for k in range(80)]
    found = [control("x", values, rng.random(80) < 0.4, seed=k).p_value for k in range(100)]
    assert np.mean(np.array(found) <= 0.05) <= 0.11
    assert control("x", [str(k) for k in range(80)], rng.random(80) < 0.4) is not None
    assert control("x", [f"c{k}" for k in range(80)], rng.random(80) < 0.4) is None
    assert control("x", ["a"] * 80, rng.random(80) < 0.4) is None


def test_a_score_that_only_tells_the_stratum_is_no_better_than_permutations_within_it() -> None:
    rng = np.random.default_rng(4)
    stratum = rng.random(200) < 0.5
    truth = rng.random(200) < np.where(stratum, 0.8, 0.2)
    names = [str(s) for s in stratum]
    assert within_strata(truth, stratum + rng.normal(0, 0.1, 200), names) > 0.02
    assert within_strata(truth, truth + rng.normal(0, 1, 200), names) < 0.01
    assert within_strata(stratum, truth.astype(float), names) is None


def test_net_benefit_is_that_of_the_counts_at_the_cases_own_prevalence() -> None:
    truth, p, _ = scores(200)
    p = 1 / (1 + np.exp(-p))
    at = float(truth.mean())
    curve = {point.threshold: point for point in decision_curve(truth, p, at)}
    for threshold in (0.1, 0.3, 0.7):
        tp, fp = (p >= threshold)[truth].sum(), (p >= threshold)[~truth].sum()
        odds = threshold / (1 - threshold)
        assert curve[threshold].model == pytest.approx((tp - fp * odds) / 200)
        assert curve[threshold].all_positive == pytest.approx((truth.sum() - (~truth).sum() * odds) / 200)


def test_predictive_values_follow_bayes_and_are_never_sure() -> None:
    ppv, npv = predictive_values(40, 10, 10, 90, 50 / 150)
    assert (ppv.value, npv.value) == (pytest.approx(40 / 50), pytest.approx(90 / 100))
    rare, _ = predictive_values(40, 10, 10, 90, 0.1)
    assert rare.value == pytest.approx(0.08 / (0.08 + 0.09)) and rare.low < rare.value < rare.high < ppv.value
    sure, without = predictive_values(0, 0, 5, 20, 0.15)
    assert sure.value is None and without.low < without.value == pytest.approx(0.85)
    assert predictive_values(12, 0, 0, 12, 0.15)[0].low < 0.95
