from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.simulated_logits import simulated, statuses
from sklearn.linear_model import LogisticRegression

from herohe_model.dataset.cases import Case
from herohe_model.dataset.folds import stratified_folds
from herohe_model.errors import OptionError
from herohe_model.evaluation.out_of_fold import OutOfFold
from herohe_model.grades import Target
from herohe_model.model.calibration import NEGATIVE, POSITIVE, sigmoid
from herohe_model.training.calibrate import (
    calibrate,
    calibration_slope,
    choose_call,
    fit_line,
    learned_steps,
    spread_of,
)
from herohe_model.training.choose import choose_nested
from herohe_model.training.cross_validation import pairs_of
from herohe_model.training.options import CallOptions

ISH = ">=2+/ISH+"


def test_the_slope_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    truth = rng.random(300) < sigmoid(0.6 * z + 0.2)
    exact = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], truth)
    found = calibration_slope(truth, sigmoid(z))
    assert found is not None
    assert found[0] == pytest.approx(exact.coef_[0, 0], abs=1e-4)


def test_separable_cases_have_a_finite_line_and_no_calibration_slope() -> None:
    z, truth = np.arange(20) - 9.5, np.arange(20) >= 10
    slope, _ = fit_line(z, truth)
    assert 0 < slope < 10
    assert calibration_slope(truth, sigmoid(z)) is None


def test_a_ranking_that_is_the_wrong_way_round_tells_the_prevalence_alone() -> None:
    z, truth = np.arange(20.0), np.arange(20) < 5
    slope, intercept = fit_line(z, truth)
    assert slope == 0.0
    assert sigmoid(intercept) == pytest.approx(0.25, abs=0.05)


def test_a_line_for_the_mean_of_networks_is_steeper_than_for_one() -> None:
    unseen = simulated(2000, seed=1)
    alone = replace(unseen, logits=tuple(z[:, :1] for z in unseen.logits))
    assert calibrate(unseen).lines[ISH].slope > 1.1 * calibrate(alone).lines[ISH].slope


def test_steps_of_one_answer_are_not_learned() -> None:
    unseen = simulated(200, seed=2)
    assert learned_steps(unseen.cases, Target.IHC_ISH) == (ISH,)
    graded = [Case("train", str(k), ihc=grade) for k, grade in enumerate(("1+", "3+", "2+", "1+"))]
    assert learned_steps(graded, Target.IHC_ISH) == ("3+", ISH, ">=2+")
    assert calibrate(unseen).steps == (ISH,)


def test_too_few_cases_are_not_calibrated() -> None:
    unseen = simulated(200, seed=2)
    positive = np.flatnonzero(statuses(unseen))[:4].tolist()
    kept = [*positive, *np.flatnonzero(~statuses(unseen))[:40].tolist()]
    few = replace(
        unseen,
        cases=tuple(unseen.cases[i] for i in kept),
        logits=tuple(unseen.logits[i] for i in kept),
        folds=unseen.folds[kept],
    )
    with pytest.raises(OptionError, match="Fewer than 5 cases"):
        calibrate(few)


def test_thresholds_keep_the_promise_on_the_cases_they_were_chosen_on() -> None:
    unseen = simulated(400, seed=3)
    line = calibrate(unseen).lines[ISH]
    options = CallOptions(sensitivity=0.9, specificity=0.8)
    rule = choose_call(unseen, line, options)
    spread, truth = spread_of(unseen, line, options.margin), statuses(unseen)
    called = np.array([rule.call(a, b) for a, b in zip(spread.low, spread.high, strict=True)])
    assert 0.9 <= np.mean(called[truth] != NEGATIVE) < 0.93
    assert 0.8 <= np.mean(called[~truth] != POSITIVE) < 0.83
    assert "sensitivity of at least 0.9" in rule.negative_chosen
    assert rule.out_of_fold["rule_out_sensitivity"] == pytest.approx(0.9, abs=0.05)


def test_a_wider_margin_leaves_more_slides_uncertain() -> None:
    unseen = simulated(400, seed=4)
    line = calibrate(unseen).lines[ISH]
    rules = [choose_call(unseen, line, CallOptions(margin=margin)) for margin in (0.0, 3.0)]
    uncertain = [rule.out_of_fold["share_uncertain"] for rule in rules]
    assert uncertain[0] is not None and uncertain[1] is not None
    assert uncertain[0] < uncertain[1]


def test_a_predictive_value_holds_at_its_prevalence() -> None:
    unseen = simulated(2000, seed=5)
    line = calibrate(unseen).lines[ISH]
    rule = choose_call(unseen, line, CallOptions(npv=0.95, ppv=0.4, prevalence=0.15))
    assert rule.out_of_fold["npv"] == pytest.approx(0.95, abs=0.01)
    assert rule.out_of_fold["ppv"] == pytest.approx(0.4, abs=0.05)
    with pytest.raises(OptionError, match="none is named"):
        CallOptions(npv=0.95)


def test_with_too_few_cases_for_a_promise_nobody_is_called() -> None:
    unseen = simulated(16, seed=6)
    rule = choose_call(unseen, calibrate(unseen).lines[ISH], CallOptions())
    assert (rule.negative_below, rule.positive_above) == (0.0, 1.0)
    assert rule.out_of_fold["share_uncertain"] == 1.0


def test_thresholds_that_would_cross_meet() -> None:
    unseen = simulated(200, seed=7)
    sure = [z + (20 if p else -20) for z, p in zip(unseen.logits, statuses(unseen).tolist(), strict=True)]
    unseen = replace(unseen, logits=tuple(sure))
    rule = choose_call(unseen, calibrate(unseen).lines[ISH], CallOptions())
    assert rule.negative_below == rule.positive_above
    assert rule.out_of_fold["share_uncertain"] == 0.0


def test_pairs_of_folds_leave_every_case_unseen_by_as_many_networks_as_there_are_folds() -> None:
    cases = [Case("train", str(k), ihc=("0", "1+", "3+")[k % 3]) for k in range(30)]
    folds = stratified_folds(cases, 5, seed=0)
    pairs = pairs_of(folds)
    assert len(pairs) == 10
    networks = [*folds, *pairs.values()]
    for k in range(30):
        assert sum(k in fold.held_out for fold in networks) == 5
        assert all((k in fold.held_out) != (k in fold.train) for fold in networks)
    assert pairs_of(folds[:2]) == {}


def test_each_fold_is_called_by_the_threshold_and_line_of_the_others() -> None:
    unseen = simulated(150, seed=8)
    seen = [
        frozenset(c.key for c, f in zip(unseen.cases, unseen.folds.tolist(), strict=True) if f != k)
        for k in range(5)
    ]
    oof = OutOfFold(
        cases=unseen.cases,
        logits=tuple(z.mean(axis=1) for z in unseen.logits),
        trained_on=tuple(seen[f] for f in unseen.folds.tolist()),
        target=unseen.target,
        positive_step=ISH,
    )
    chosen = choose_nested(oof, unseen, CallOptions(), lambda _: None)
    assert chosen is not None
    means = np.array([z[..., unseen.positive_bit].mean() for z in unseen.logits])
    mine = unseen.folds == 2
    slope, intercept = fit_line(means[~mine], statuses(unseen)[~mine])
    expected = sigmoid(slope * means[mine] + intercept)
    np.testing.assert_allclose(chosen.predictions.p_positive[mine], expected, atol=1e-6)
    assert chosen.predictions.grades is None
    assert chosen.call is not None
    assert "5 networks that have not seen it" in chosen.calibrated_for
