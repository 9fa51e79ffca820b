from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn import metrics as sk

from herohe_model.evaluation import metrics
from herohe_model.evaluation.bootstrap import bootstrap, interval, resampled, wilson

SEEDS = 200


def samples() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Random truths and predictions, many of them small, one-sided or full of ties."""
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 60))
        truth = rng.random(n) < rng.random()
        p = rng.random(n)
        if seed % 3 == 0:
            p = np.round(p, 1)
        if seed % 7 == 0:
            p = np.full(n, 0.5)
        called = p >= rng.random()
        grades = rng.integers(0, 4, n)
        called_grades = np.clip(
            grades + rng.integers(-1, 2, n) * (rng.random(n) < 0.5), 0, int(rng.integers(1, 4))
        )
        yield truth, called, p, grades, called_grades


def same(ours: object, theirs: float) -> None:
    assert float(ours) == pytest.approx(theirs, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.fixture(autouse=True)
def _quiet_sklearn() -> Iterator[None]:
    """scikit-learn warns where a measure is not defined; ours say NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_measures_of_calls_equal_scikit_learns() -> None:
    nan = float("nan")
    for truth, called, *_ in samples():
        same(metrics.f1_score(truth, called), sk.f1_score(truth, called, zero_division=nan))
        same(metrics.precision(truth, called), sk.precision_score(truth, called, zero_division=nan))
        same(metrics.recall(truth, called), sk.recall_score(truth, called, zero_division=nan))
        same(metrics.specificity(truth, called), sk.recall_score(~truth, ~called, zero_division=nan))
        same(metrics.accuracy(truth, called), sk.accuracy_score(truth, called))


def test_measures_of_probabilities_equal_scikit_learns() -> None:
    for truth, _, p, *_ in samples():
        one_sided = truth.all() or not truth.any()
        same(metrics.roc_auc(truth, p), float("nan") if one_sided else sk.roc_auc_score(truth, p))
        same(
            metrics.brier_score(truth, p),
            float(np.mean((p - truth) ** 2)) if one_sided else sk.brier_score_loss(truth, p),
        )


def test_measures_of_grades_equal_scikit_learns() -> None:
    for *_, grades, called in samples():
        labels = list(range(4))
        same(
            metrics.quadratic_kappa(grades, called),
            sk.cohen_kappa_score(grades, called, labels=labels, weights="quadratic"),
        )
        same(metrics.macro_f1(grades, called), sk.f1_score(grades, called, average="macro"))
        same(metrics.mean_absolute_error(grades, called), sk.mean_absolute_error(grades, called))
        assert (metrics.confusion(grades, called) == sk.confusion_matrix(grades, called, labels=labels)).all()


def kappa_of_scikit_learn(truth: np.ndarray, grades: np.ndarray) -> float:
    return float(sk.cohen_kappa_score(truth, grades, labels=range(4), weights="quadratic"))


def macro_f1_of_scikit_learn(truth: np.ndarray, grades: np.ndarray) -> float:
    return float(sk.f1_score(truth, grades, average="macro"))


def test_weights_count_cases_as_often_as_they_say() -> None:
    """A resample's value is that of the cases, repeated."""
    for seed, (truth, called, p, grades, called_grades) in enumerate(samples()):
        weights = np.random.default_rng(seed).integers(0, 4, (3, len(truth)))
        weights[:, 0] += 1
        pairs = [
            (metrics.f1_score, metrics.f1_score, truth, called),
            (metrics.accuracy, metrics.accuracy, truth, called),
            (metrics.roc_auc, metrics.roc_auc, truth, p),
            (metrics.calibration_error, metrics.calibration_error, truth, p),
            (metrics.brier_score, metrics.brier_score, truth, p),
            (metrics.mean_absolute_error, metrics.mean_absolute_error, grades, called_grades),
        ]
        if seed % 10 == 0:
            pairs.append((metrics.quadratic_kappa, kappa_of_scikit_learn, grades, called_grades))
            pairs.append((metrics.macro_f1, macro_f1_of_scikit_learn, grades, called_grades))
        for ours, theirs, of, predicted in pairs:
            values = ours(of, predicted, weights)
            assert values.shape == (3,)
            for value, weight in zip(values, weights, strict=True):
                row = np.repeat(np.arange(len(of)), weight)
                same(value, float(theirs(of[row], predicted[row])))


def test_curves_equal_scikit_learns() -> None:
    for truth, _, p, *_ in samples():
        if truth.all() or not truth.any():
            continue
        fpr, tpr, _ = sk.roc_curve(truth, p, drop_intermediate=False)
        ours = metrics.roc_curve(truth, p)
        assert np.allclose(ours[0], fpr) and np.allclose(ours[1], tpr)
        precisions, recalls, _ = sk.precision_recall_curve(truth, p)
        recall, precision = metrics.precision_recall_curve(truth, p)
        assert np.allclose(recall[::-1], recalls[:-1]) and np.allclose(precision[::-1], precisions[:-1])
        area = float(np.sum(np.diff(ours[0]) * (ours[1][1:] + ours[1][:-1]) / 2))
        assert area == pytest.approx(float(metrics.roc_auc(truth, p)))


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    for truth, _, p, *_ in samples():
        expected = 0.0
        for k in range(10):
            inside = (p >= k / 10) & ((p < (k + 1) / 10) | (k == 9))
            if inside.any():
                expected += inside.mean() * abs(p[inside].mean() - truth[inside].mean())
        same(metrics.calibration_error(truth, p), float(expected))


def test_calibrated_probabilities_have_no_calibration_error() -> None:
    p = np.repeat([0.25, 0.75], 40)
    truth = np.tile([1, 0, 0, 0], 10).tolist() + np.tile([1, 1, 1, 0], 10).tolist()
    assert float(metrics.calibration_error(truth, p)) == pytest.approx(0.0, abs=1e-12)
    assert float(metrics.calibration_error([1, 1], [0.0, 0.0])) == 1.0


def test_trivial_answers_on_the_training_counts_are_as_published() -> None:
    grades = np.repeat([0, 1, 2, 3], [43, 47, 230, 39])
    always_2 = np.full(len(grades), 2)
    assert round(float(metrics.accuracy(grades, always_2)), 3) == 0.641
    assert round(float(metrics.mean_absolute_error(grades, always_2)), 3) == 0.479
    assert float(metrics.quadratic_kappa(grades, always_2)) == 0.0


def test_what_is_not_defined_is_nan() -> None:
    none = np.zeros(3, dtype=bool)
    assert np.isnan(metrics.precision([True, False, True], none))
    assert np.isnan(metrics.recall(none, none)) and np.isnan(metrics.f1_score(none, none))
    assert np.isnan(metrics.roc_auc(none, [0.1, 0.2, 0.3]))
    assert np.isnan(metrics.roc_auc([], [])) and np.isnan(metrics.accuracy([], []))
    assert np.isnan(metrics.quadratic_kappa([2, 2], [2, 2]))


# The bootstrap.


def test_a_resample_draws_as_many_cases_as_there_are() -> None:
    drawn = np.concatenate(list(resampled(30, resamples=500, seed=1)))
    assert drawn.shape == (500, 30) and (drawn.sum(axis=1) == 30).all() and (drawn >= 0).all()
    # Each count is binomial (30, 1/30): mean 1, variance 29/30.
    assert drawn.mean() == 1.0
    assert drawn.var() == pytest.approx(29 / 30, rel=0.05)
    assert abs(drawn.mean(axis=0) - 1).max() < 5 / np.sqrt(500)


def test_the_bootstrap_is_seeded_and_the_same_whatever_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from herohe_model.evaluation import bootstrap as module

    whole = np.concatenate(list(resampled(20, resamples=100, seed=4)))
    monkeypatch.setattr(module, "_CHUNK", 60)
    parts = list(resampled(20, resamples=100, seed=4))
    assert len(parts) > 1 and (np.concatenate(parts) == whole).all()
    assert (np.concatenate(list(resampled(20, resamples=100, seed=5))) != whole).any()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        truth = rng.random(150) < 0.4
        called = np.where(truth, rng.random(150) < 0.8, rng.random(150) < 0.4)
        drawn = bootstrap(
            {"recall": lambda w, t=truth, c=called: metrics.recall(t, c, w)}, 150, resamples=300, seed=seed
        )
        low, high = interval(drawn["recall"])
        hits += low <= 0.8 <= high
    assert 176 <= hits <= 199


def test_two_thousand_resamples_of_every_measure_are_quick() -> None:
    rng = np.random.default_rng(0)
    truth, p, grades = rng.random(150) < 0.4, rng.random(150), rng.integers(0, 4, 150)
    start = time.perf_counter()
    drawn = bootstrap(
        {
            "f1": lambda w: metrics.f1_score(truth, p >= 0.5, w),
            "auc": lambda w: metrics.roc_auc(truth, p, w),
            "ece": lambda w: metrics.calibration_error(truth, p, w),
            "kappa": lambda w: metrics.quadratic_kappa(grades, 3 - grades, w),
            "macro": lambda w: metrics.macro_f1(grades, 3 - grades, w),
        },
        150,
    )
    assert time.perf_counter() - start < 5
    assert all(values.shape == (2000,) for values in drawn.values())


def test_no_case_gives_no_interval() -> None:
    drawn = bootstrap({"f1": lambda w: metrics.f1_score([], [], w)}, 0, resamples=10)
    assert np.isnan(interval(drawn["f1"])).all()


def test_wilsons_interval_equals_published_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    for hits, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0 and np.isnan(wilson(0, 0)).all()
