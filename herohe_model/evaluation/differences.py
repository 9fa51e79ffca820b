"""Two predictions of the same cases compared: differences of AUC and F1, and who was right where.

Both differences have the interval of Zou (2007, *Psychological Methods* 12:399), "MOVER": what the two
single intervals say of either end is put together by the correlation of the two estimates. So it holds for
few cases and near 1, where DeLong's paired variance and the bootstrap are far too sure; of scores that are
much alike it is wider than it would have to be. p is where the interval ends at 0. Coverage is measured by
``tests/benchmarks/evaluation_statistics.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.evaluation.bootstrap import Z95
from herohe_model.evaluation.intervals import auc_interval, f1_interval, placements
from herohe_model.evaluation.metrics import Floats, count, f1_score

FEWEST_PAIRED: Final = 2
"""Cases of a class below which a correlation cannot be estimated, and no difference is claimed."""

_MOST_Z: Final = 8.0


@dataclass(frozen=True)
class Difference:
    """How much higher one measure is than the other on the same cases; 95% interval and two-sided p.

    All but the value is NaN where there are too few cases.
    """

    value: float
    low: float
    high: float
    p_value: float


_NOT_DEFINED: Final = Difference(float("nan"), float("nan"), float("nan"), float("nan"))


def auc_difference(truth: NDArray[np.bool_], p: Floats, other: Floats) -> Difference:
    """Compare the AUC of two scores of the same cases, each of shape (cases,).

    The correlation is DeLong's (1988, *Biometrics* 44:837). Where both scores put all cases into the same
    order, the difference is known exactly and p is 1.
    """
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        return _NOT_DEFINED
    one, two = placements(truth, p), placements(truth, other)
    value = float(one[0].mean() - two[0].mean())
    if np.array_equal(_order(p), _order(other)):
        return Difference(0.0, 0.0, 0.0, 1.0)
    if min(m, n) < FEWEST_PAIRED:
        return Difference(value, *(float("nan"),) * 3)
    # Rows: the two scores. Over positive cases, and over negative ones.
    covariance = np.cov([one[0], two[0]]) / m + np.cov([one[1], two[1]]) / n
    return _mover(
        (float(one[0].mean()), float(two[0].mean())),
        lambda z: (auc_interval(truth, p, z), auc_interval(truth, other, z)),
        _correlation(covariance),
    )


def f1_difference(
    truth: NDArray[np.bool_], called: NDArray[np.bool_], other: NDArray[np.bool_]
) -> Difference:
    """Compare the F1 of two ways to call the same cases, each of shape (cases,).

    The correlation is the jackknife's over cases, less four cases' worth of it, since of few cases it is
    unsure: calls that are the same on twenty cases need not be so on others. The difference is not defined
    where an F1 is not.
    """
    counts = [count(truth, calls) for calls in (called, other)]
    each = [(int(c.tp), int(c.fp), int(c.fn)) for c in counts]
    if not all(sum(parts) for parts in each):
        return _NOT_DEFINED
    values = (float(f1_score(truth, called)), float(f1_score(truth, other)))
    if int(truth.sum()) < FEWEST_PAIRED:
        return Difference(values[0] - values[1], *(float("nan"),) * 3)
    without = np.array([_leaving_one_out(truth, calls) for calls in (called, other)])
    return _mover(
        values,
        lambda z: (f1_interval(*each[0], z), f1_interval(*each[1], z)),
        _correlation(np.cov(without)) * max(0.0, 1 - 4 / len(truth)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test (1947): a sign test of the cases that one alone had.

    Parameters
    ----------
    only_first, only_second
        Cases that only one of the two called right; 1 where there are none.
    """
    of, least = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(comb(of, k) for k in range(least + 1)) / (1 << of))


def _leaving_one_out(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> Floats:
    """Return the F1 without each case in turn, shape (cases,)."""
    hit = (truth & called).astype(np.float64)
    # F1 = 2 TP / (2 TP + FP + FN).
    marked = truth.astype(np.float64) + called
    return np.asarray(2 * (hit.sum() - hit) / np.maximum(marked.sum() - marked, 1.0), dtype=np.float64)


def _order(p: Floats) -> NDArray[np.int64]:
    return np.asarray(np.unique(p, return_inverse=True)[1], dtype=np.int64).ravel()


def _correlation(covariance: Floats) -> float:
    """Return the correlation; 0, which makes the widest interval that is usual, where one does not vary."""
    errors = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    if not np.isfinite(covariance).all() or errors.min() <= 1e-12:
        return 0.0
    correlation: float = float(covariance[0, 1]) / float(errors[0] * errors[1])
    return max(-1.0, min(1.0, correlation))


def _mover(
    values: tuple[float, float],
    intervals: Callable[[float], tuple[tuple[float, float], tuple[float, float]]],
    correlation: float,
) -> Difference:
    """Put the intervals of two estimates together; `intervals` takes the standard errors they reach."""
    first, second = values

    def ends(z: float) -> tuple[float, float]:
        (low, high), (other_low, other_high) = intervals(z)

        def half(mine: float, its: float) -> float:
            return float(np.sqrt(max(0.0, mine**2 + its**2 - 2 * correlation * mine * its)))

        middle = first - second
        return middle - half(first - low, other_high - second), middle + half(
            high - first, second - other_low
        )

    def holds_none(z: float) -> bool:
        low, high = ends(z)
        return low <= 0.0 <= high

    inside, outside = _MOST_Z, 0.0
    if holds_none(inside):
        for _ in range(40):
            z = (inside + outside) / 2
            inside, outside = (z, outside) if holds_none(z) else (inside, z)
    low, high = ends(Z95)
    p_value = 2 * (1 - NormalDist().cdf(inside))
    return Difference(first - second, max(-1.0, low), min(1.0, high), p_value)
