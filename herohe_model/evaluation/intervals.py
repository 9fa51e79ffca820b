"""Intervals that hold for few cases and where all are right: of F1 and of the AUC.

A bootstrap of cases that are all called right gives "1.000 to 1.000"; none of these does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.evaluation.bootstrap import Z95, wilson

Floats = NDArray[np.float64]

FEWEST_OF_A_CLASS: Final = 10
"""Below so many positive or negative cases, variances that are estimated from them do not hold."""


def f1_interval(tp: int, fp: int, fn: int, z: float = Z95) -> tuple[float, float]:
    """Return the interval of the F1, of `z` standard errors; NaN where no case is positive or called so.

    Notes
    -----
    F1 is ``2 s / (1 + s)`` of the share ``s = TP / (TP + FP + FN)`` (Hand, Christen & Kirielle 2021,
    *Machine Learning* 110:451). Given how many cases are
    positive or called so, TP is binomial: Wilson's interval of `s` is carried over.
    """
    low, high = wilson(tp, tp + fp + fn, z)
    return (2 * low / (1 + low), 2 * high / (1 + high))


def auc_interval(truth: NDArray[np.bool_], p: Floats, z: float = Z95) -> tuple[float, float]:
    """Return the interval of the AUC; NaN where one class has no case.

    Parameters
    ----------
    truth, p
        Positive or not, and the score; shape (cases,).
    z
        How many standard errors it reaches to either side.

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
    of_positive, of_negative = placements(truth, p)
    auc = float(of_positive.mean())
    if min(m, n) >= FEWEST_OF_A_CLASS and 0.0 < auc < 1.0:
        error = np.sqrt(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)
        if error > 0:
            middle, half = np.log(auc / (1 - auc)), z * error / (auc * (1 - auc))
            low, high = (1 / (1 + np.exp(-np.array([middle - half, middle + half])))).tolist()
            return (low, high)
    return _newcombe(auc, m, n, z)


def placements(truth: NDArray[np.bool_], p: Floats) -> tuple[Floats, Floats]:
    """Return shares: of negative cases below each positive one, of positive ones above each negative.

    Ties count one half; the mean of either is the AUC (DeLong et al. 1988). Both classes have a case.
    """
    positive, negative = np.sort(p[truth]), np.sort(p[~truth])

    def below(values: Floats, among: Floats) -> Floats:
        both = np.searchsorted(among, values, "left") + np.searchsorted(among, values, "right")
        return np.asarray(both / (2 * len(among)), dtype=np.float64)

    return below(p[truth], negative), 1 - below(p[~truth], positive)


def _newcombe(auc: float, m: int, n: int, z: float) -> tuple[float, float]:
    half = (m + n) / 2 - 1

    def beyond(theta: float) -> float:
        """Below 0 where `theta` lies inside the interval."""
        terms = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return (theta - auc) ** 2 - z**2 * theta * (1 - theta) * terms / (m * n)

    return (_root(beyond, 0.0, auc), _root(beyond, 1.0, auc))


def _root(beyond: Callable[[float], float], outside: float, inside: float) -> float:
    """Return where `beyond` turns positive on the way from `inside`, by bisection."""
    if outside == inside:
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if beyond(middle) > 0 else (outside, middle)
    return (outside + inside) / 2
