"""Measures with their intervals, beside what trivial answers get on the same resamples.

Shares have Wilson's interval, F1 the one that follows from it, AUC DeLong's; Brier score, kappa and the like,
and the differences to trivial answers, have the bootstrap's, and none where all resamples give one value. The
calibration error has none: the bootstrap's is biased upwards and misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from herohe_model.evaluation import metrics
from herohe_model.evaluation.bootstrap import RESAMPLES, bootstrap, interval, wilson
from herohe_model.evaluation.intervals import auc_interval, f1_interval
from herohe_model.evaluation.metrics import Floats
from herohe_model.evaluation.schema import Group, Measure, Share, Trivial, TrivialName
from herohe_model.grades import GRADES

Better = Literal["higher", "lower"]
Metric = Callable[[ArrayLike, ArrayLike, ArrayLike | None], Floats]

# Of the two kinds of prediction that status measures take: calls, and probabilities.
_OF_CALLS: Final[tuple[tuple[str, str, Metric], ...]] = (
    ("f1", "F1", metrics.f1_score),
    ("precision", "Precision", metrics.precision),
    ("recall", "Recall (sensitivity)", metrics.recall),
    ("specificity", "Specificity", metrics.specificity),
    ("accuracy", "Accuracy", metrics.accuracy),
)
_OF_P: Final[tuple[tuple[str, str, Better, Metric], ...]] = (
    ("auc", "AUC", "higher", metrics.roc_auc),
    ("brier", "Brier score", "lower", metrics.brier_score),
    ("ece", "Calibration error (ECE)", "lower", metrics.calibration_error),
)
_OF_GRADES: Final[tuple[tuple[str, str, Better, Metric], ...]] = (
    ("quadratic_kappa", "Quadratic-weighted kappa", "higher", metrics.quadratic_kappa),
    ("macro_f1", "Macro-F1", "higher", metrics.macro_f1),
    ("grade_accuracy", "Accuracy of the grade", "higher", metrics.accuracy),
    ("mae", "Mean absolute error (grades)", "lower", metrics.mean_absolute_error),
)


@dataclass(frozen=True)
class _Asked:
    """A measure of some predictions, and of trivial ones, against one truth."""

    name: str
    label: str
    better: Better
    metric: Metric
    truth: ArrayLike
    predicted: ArrayLike
    trivial: tuple[tuple[TrivialName, ArrayLike], ...] = ()


def status_measures(
    truth: NDArray[np.bool_],
    called: NDArray[np.bool_],
    p: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Measure, ...]:
    """Measure how well HER2 status is told, beside calling every case positive.

    Brier score and calibration error stand beside giving every case the prevalence, too.

    Parameters
    ----------
    truth, called, p
        Positive or not, called so or not, and P(positive); each of shape (cases,), at least one.
    """
    all_positive = np.ones(len(truth))
    prevalence = np.full(len(truth), truth.mean())
    asked = [
        _Asked(name, label, "higher", metric, truth, called, (("always positive", all_positive),))
        for name, label, metric in _OF_CALLS
    ]
    for name, label, better, metric in _OF_P:
        trivial: list[tuple[TrivialName, ArrayLike]] = [("always positive", all_positive)]
        trivial += [("the prevalence for all", prevalence)] if better == "lower" else []
        asked.append(_Asked(name, label, better, metric, truth, p, tuple(trivial)))
    return _measured(asked, len(truth), resamples=resamples, seed=seed)


def grade_measures(
    truth: NDArray[np.int64], grades: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Measure, ...]:
    """Measure how well IHC grades (0 to 3) are told, beside calling every case 2+; at least one case."""
    always_2 = np.full(len(truth), GRADES.index("2+"), dtype=np.int64)
    asked = [
        _Asked(name, label, better, metric, truth, grades, (("always 2+", always_2),))
        for name, label, better, metric in _OF_GRADES
    ]
    return _measured(asked, len(truth), resamples=resamples, seed=seed)


def group(
    name: str,
    truth: NDArray[np.bool_],
    called: NDArray[np.bool_],
    p: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Group:
    """Measure some cases, at least one, that have something in common; arrays of shape (cases,)."""
    f1, auc = _measured(
        (
            _Asked("f1", "F1", "higher", metrics.f1_score, truth, called),
            _Asked("auc", "AUC", "higher", metrics.roc_auc, truth, p),
        ),
        len(truth),
        resamples=resamples,
        seed=seed,
    )
    return Group(
        name=name,
        cases=len(truth),
        positive=int(truth.sum()),
        called_positive=int(called.sum()),
        sensitivity=share(called[truth]),
        specificity=share(~called[~truth]),
        accuracy=share(called == truth),
        f1=f1,
        auc=auc,
        mean_p=float(p.mean()),
    )


def share(hits: NDArray[np.bool_]) -> Share:
    """Return how many of some cases are hits, with Wilson's interval."""
    number, of = int(hits.sum()), len(hits)
    low, high = wilson(number, of)
    return Share(number, of, number / of if of else None, low, high)


def _measured(asked: Sequence[_Asked], cases: int, *, resamples: int, seed: int) -> tuple[Measure, ...]:
    """Evaluate measures on the cases and on resamples; gains are differences within each resample."""
    functions: dict[str, Callable[[NDArray[np.int64]], Floats]] = {}
    for a in asked:
        for answer, predicted in (("", a.predicted), *a.trivial):
            functions[f"{a.name}/{answer}"] = _of_weights(a, predicted)
    drawn = bootstrap(functions, cases, resamples=resamples, seed=seed)
    measures = []
    for a in asked:
        own = _own_interval(a)
        sign = 1.0 if a.better == "higher" else -1.0
        value, values = float(a.metric(a.truth, a.predicted, None)), drawn[f"{a.name}/"]
        trivial = []
        for answer, predicted in a.trivial:
            other = float(a.metric(a.truth, predicted, None))
            low, high = _spread(sign * (values - drawn[f"{a.name}/{answer}"]))
            trivial.append(Trivial(answer, other, sign * (value - other), low, high))
        low, high = own if own is not None else _spread(values)
        measures.append(Measure(a.name, a.label, a.better, value, low, high, tuple(trivial)))
    return tuple(measures)


def _own_interval(a: _Asked) -> tuple[float, float] | None:
    """Return the interval of a measure that has one of its own; None where the bootstrap's holds."""
    truth, predicted = np.asarray(a.truth), np.asarray(a.predicted)
    if a.name == "ece":
        return (float("nan"), float("nan"))
    if a.name == "auc":
        return auc_interval(truth.astype(np.bool_), predicted.astype(np.float64))
    if a.name in ("accuracy", "grade_accuracy"):
        return wilson(int((truth == predicted).sum()), len(truth))
    if a.name in ("f1", "precision", "recall", "specificity"):
        n = metrics.count(truth, predicted)
        tp, fp, fn, tn = (int(count) for count in (n.tp, n.fp, n.fn, n.tn))
        of = {"precision": (tp, tp + fp), "recall": (tp, tp + fn), "specificity": (tn, tn + fp)}
        return f1_interval(tp, fp, fn) if a.name == "f1" else wilson(*of[a.name])
    return None


def _spread(values: Floats) -> tuple[float, float]:
    """Return the bootstrap's interval; NaN where all resamples give one value, which says nothing."""
    low, high = interval(values)
    return (low, high) if high - low > 1e-9 else (float("nan"), float("nan"))


def _of_weights(a: _Asked, predicted: ArrayLike) -> Callable[[NDArray[np.int64]], Floats]:
    return lambda weights: a.metric(a.truth, predicted, weights)
