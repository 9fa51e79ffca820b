"""Intervals that hold for few cases and where all are right: of F1 and of the AUC, and of their differences.

A bootstrap of cases that are all called right gives "1.000 to 1.000"; none of these does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.evaluation.bootstrap import wilson

Floats = NDArray[np.float64]

FEWEST_OF_A_CLASS: Final = 10
"""Below so many positive or negative cases, variances that are estimated from them do not hold."""
_Z95: Final = NormalDist().inv_cdf(0.975)


def f1_interval(tp: int, fp: int, fn: int) -> tuple[float, float]:
    """Return the 95% interval of the F1; NaN where no case is positive or called so.

    Notes
    -----
    F1 is ``2 s / (1 + s)`` of the share ``s = TP / (TP + FP + FN)`` (Hand, Christen & Kirielle 2021,
    *Machine Learning* 110:451). Given how many cases are
    positive or called so, TP is binomial: Wilson's interval of `s` is carried over.
    """
    low, high = wilson(tp, tp + fp + fn)
    return (2 * low / (1 + low), 2 * high / (1 + high))


def auc_interval(truth: NDArray[np.bool_], p: Floats) -> tuple[float, float]:
    """Return the 95% interval of the AUC; NaN where one class has no case.

    Parameters
    ----------
    truth, p
        Positive or not, and the score; shape (cases,).

    Notes
    -----
    DeLong's variance (DeLong et al. 1988, *Biometrics* 44:837) on the logit scale, whose interval stays
    inside 0 to 1. With fewer than :data:`FEWEST_OF_A_CLASS` of a class, or where the variance is 0 since all
    pairs are ordered alike, the interval is Newcombe's method 5 (2006, *Statistics in Medicine* 25:559),
    whose variance follows from the AUC that is asked about and not from the one that was seen.
    """
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        return (float("nan"), float("nan"))
    of_positive, of_negative = _placements(truth, p)
    auc = float(of_positive.mean())
    if min(m, n) >= FEWEST_OF_A_CLASS and 0.0 < auc < 1.0:
        error = np.sqrt(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)
        if error > 0:
            middle, half = np.log(auc / (1 - auc)), _Z95 * error / (auc * (1 - auc))
            low, high = (1 / (1 + np.exp(-np.array([middle - half, middle + half])))).tolist()
            return (low, high)
    return _newcombe(auc, m, n)


@dataclass(frozen=True)
class AucDifference:
    """How much higher one AUC is than another on the same cases, with its 95% interval and two-sided p."""

    value: float
    low: float
    high: float
    p_value: float


def auc_difference(truth: NDArray[np.bool_], p: Floats, other: Floats) -> AucDifference:
    """Compare two scores of the same cases, each of shape (cases,), by DeLong's paired test (1988).

    With fewer than :data:`FEWEST_OF_A_CLASS` cases of a class all but the value is NaN: its variance is
    estimated from too few. Just above, and with an AUC near 1, the interval is still too narrow: measured by
    ``tests/benchmarks/evaluation_statistics.py``. Where the difference does not vary (the same order of all
    cases), it is known exactly and p is 1.
    """
    m, n = int(truth.sum()), int((~truth).sum())
    nothing = float("nan")
    if not m or not n:
        return AucDifference(nothing, nothing, nothing, nothing)
    one, two = _placements(truth, p), _placements(truth, other)
    value = float(one[0].mean() - two[0].mean())
    if min(m, n) < FEWEST_OF_A_CLASS:
        return AucDifference(value, nothing, nothing, nothing)
    variance = float((one[0] - two[0]).var(ddof=1) / m + (one[1] - two[1]).var(ddof=1) / n)
    if variance <= 0:
        return AucDifference(value, value, value, 1.0)
    error = float(np.sqrt(variance))
    two_sided = 2 * (1 - NormalDist().cdf(abs(value) / error))
    return AucDifference(value, max(-1.0, value - _Z95 * error), min(1.0, value + _Z95 * error), two_sided)


def _placements(truth: NDArray[np.bool_], p: Floats) -> tuple[Floats, Floats]:
    """Return shares: of negative cases below each positive one, of positive ones above each negative."""
    positive, negative = np.sort(p[truth]), np.sort(p[~truth])

    def below(values: Floats, among: Floats) -> Floats:
        # Ties count one half.
        both = np.searchsorted(among, values, "left") + np.searchsorted(among, values, "right")
        return np.asarray(both / (2 * len(among)), dtype=np.float64)

    return below(p[truth], negative), 1 - below(p[~truth], positive)


def _newcombe(auc: float, m: int, n: int) -> tuple[float, float]:
    half = (m + n) / 2 - 1

    def beyond(theta: float) -> float:
        """Below 0 where `theta` lies inside the interval."""
        terms = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return (theta - auc) ** 2 - _Z95**2 * theta * (1 - theta) * terms / (m * n)

    return (_root(beyond, 0.0, auc), _root(beyond, 1.0, auc))


def _root(beyond: Callable[[float], float], outside: float, inside: float) -> float:
    """Return where `beyond` turns positive on the way from `inside`, by bisection."""
    if outside == inside:
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if beyond(middle) > 0 else (outside, middle)
    return (outside + inside) / 2
