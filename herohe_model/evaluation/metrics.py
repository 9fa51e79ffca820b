"""Measures of how good predictions are, each for one sample of cases or for thousands of resamples at once.

Every function takes optional `weights`: how often each case counts, shape (..., cases). Without them it
returns one number; with them an array of shape (...,), so that a bootstrap is one call. Where a measure is
not defined (the precision of a model that calls nothing positive), the value is NaN.

``truth`` and ``called`` are HER2-positive or not, ``p`` is P(HER2-positive), ``grades`` are 0 to 3. Names and
values are those of scikit-learn, which the tests compare with; scikit-learn itself is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RELIABILITY_BINS: Final = 10


@dataclass(frozen=True)
class Counts:
    """The four counts of a yes-or-no answer, each of shape (...,), float64 with whole values."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats


def count(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Counts:
    """Count true and false positives and negatives."""
    t, c = np.asarray(truth, dtype=np.bool_), np.asarray(called, dtype=np.bool_)
    w = _weights(weights, len(t))
    cells = np.stack([t & c, ~t & c, t & ~c, ~t & ~c], axis=-1)
    return Counts(*np.moveaxis(w @ cells.astype(np.float64), -1, 0))


def f1_score(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """F1 of the positive class: the challenge's measure."""
    n = count(truth, called, weights)
    return _ratio(2 * n.tp, 2 * n.tp + n.fp + n.fn)


def precision(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of the cases called positive that are; the positive predictive value."""
    n = count(truth, called, weights)
    return _ratio(n.tp, n.tp + n.fp)


def recall(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of the positive cases that are called so; the sensitivity."""
    n = count(truth, called, weights)
    return _ratio(n.tp, n.tp + n.fn)


def specificity(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of the negative cases that are called so."""
    n = count(truth, called, weights)
    return _ratio(n.tn, n.tn + n.fp)


def accuracy(truth: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of cases that are called right; of statuses or of grades."""
    right = (np.asarray(truth) == np.asarray(called)).astype(np.float64)
    w = _weights(weights, len(right))
    return _ratio(w @ right, w.sum(axis=-1))


def roc_auc(truth: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Probability that a positive case scores above a negative one; ties count one half.

    Notes
    -----
    The Mann-Whitney statistic over groups of equal scores (Hanley & McNeil 1982, *Radiology* 143:29).
    """
    t, scores = np.asarray(truth, dtype=np.bool_), np.asarray(p, dtype=np.float64)
    w = _weights(weights, len(t))
    order = np.argsort(scores, kind="stable")
    t, scores, w = t[order], scores[order], w[..., order]
    if not len(t):
        return np.full(w.shape[:-1], np.nan)
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    positive = np.add.reduceat(w * t, starts, axis=-1)
    negative = np.add.reduceat(w * ~t, starts, axis=-1)
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=-1)
    return _ratio(wins, positive.sum(axis=-1) * negative.sum(axis=-1))


def brier_score(truth: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean squared distance of the probability from the truth; 0 is best (Brier 1950)."""
    squares = (np.asarray(p, dtype=np.float64) - np.asarray(truth, dtype=np.float64)) ** 2
    w = _weights(weights, len(squares))
    return _ratio(w @ squares, w.sum(axis=-1))


def calibration_error(
    truth: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None, *, bins: int = RELIABILITY_BINS
) -> Floats:
    """Return the expected calibration error (ECE) over bins of equal width; 0 is best.

    Notes
    -----
    The mean distance between a bin's mean probability and its share of positives, weighted by its cases
    (Naeini et al. 2015; Guo et al. 2017). It is biased upwards in small samples, and the more so in a
    bootstrap: its interval may lie above it.
    """
    gaps = np.asarray(p, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    w = _weights(weights, len(gaps))
    inside = bin_of(p, bins)[:, None] == np.arange(bins)
    return _ratio(np.abs(w @ (inside * gaps[:, None])).sum(axis=-1), w.sum(axis=-1))


def bin_of(p: ArrayLike, bins: int = RELIABILITY_BINS) -> NDArray[np.int64]:
    """Return the bin of equal width that each probability falls into; the last one holds 1 too."""
    return np.minimum((np.asarray(p, dtype=np.float64) * bins).astype(np.int64), bins - 1)


def confusion(
    truth: ArrayLike, grades: ArrayLike, weights: ArrayLike | None = None, *, classes: int = 4
) -> Floats:
    """Count cases by true grade (rows) and called grade (columns): shape (..., classes, classes)."""
    cell = np.asarray(truth, dtype=np.int64) * classes + np.asarray(grades, dtype=np.int64)
    inside = (cell[:, None] == np.arange(classes * classes)).astype(np.float64)
    w = _weights(weights, len(cell))
    table: Floats = (w @ inside).reshape(*w.shape[:-1], classes, classes)
    return table


def quadratic_kappa(
    truth: ArrayLike, grades: ArrayLike, weights: ArrayLike | None = None, *, classes: int = 4
) -> Floats:
    """Agreement of ordered classes beyond chance, by squared distance (Cohen 1968)."""
    seen = confusion(truth, grades, weights, classes=classes)
    steps = np.arange(classes)
    distance = ((steps[:, None] - steps) ** 2).astype(np.float64)
    total = seen.sum(axis=(-2, -1))
    by_chance = seen.sum(axis=-1)[..., :, None] * seen.sum(axis=-2)[..., None, :]
    return 1.0 - _ratio(
        (seen * distance).sum(axis=(-2, -1)) * total, (by_chance * distance).sum(axis=(-2, -1))
    )


def macro_f1(
    truth: ArrayLike, grades: ArrayLike, weights: ArrayLike | None = None, *, classes: int = 4
) -> Floats:
    """Mean of the F1 of each grade, over the grades that occur in the truth or in what was called."""
    seen = confusion(truth, grades, weights, classes=classes)
    marked = seen.sum(axis=-1) + seen.sum(axis=-2)
    each = _ratio(2 * np.diagonal(seen, axis1=-2, axis2=-1), marked)
    return _ratio(np.nansum(each, axis=-1), (marked > 0).sum(axis=-1).astype(np.float64))


def mean_absolute_error(truth: ArrayLike, grades: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean distance of the called grade from the true one, in grades."""
    apart = np.abs(np.asarray(truth, dtype=np.float64) - np.asarray(grades, dtype=np.float64))
    w = _weights(weights, len(apart))
    return _ratio(w @ apart, w.sum(axis=-1))


def roc_curve(truth: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Return 1 - specificity and sensitivity at every threshold, from "none positive" to "all positive"."""
    tp, fp = _sweep(truth, p)
    positives, negatives = tp[-1:], fp[-1:]
    return _ratio(fp, np.broadcast_to(negatives, fp.shape)), _ratio(tp, np.broadcast_to(positives, tp.shape))


def precision_recall_curve(truth: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Return recall and precision at every threshold that calls something positive, strictest first."""
    tp, fp = _sweep(truth, p)
    tp, fp = tp[1:], fp[1:]
    return _ratio(tp, np.broadcast_to(tp[-1:], tp.shape)), _ratio(tp, tp + fp)


def _sweep(truth: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Return true and false positives at or above each distinct score, the highest first, after 0 and 0."""
    t, scores = np.asarray(truth, dtype=np.bool_), np.asarray(p, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    t, scores = t[order], scores[order]
    last = (
        np.flatnonzero(np.concatenate([scores[1:] != scores[:-1], [True]])) if len(t) else np.array([], int)
    )
    tp = np.concatenate([[0.0], np.cumsum(t)[last]])
    fp = np.concatenate([[0.0], np.cumsum(~t)[last]])
    return tp, fp


def _weights(weights: ArrayLike | None, cases: int) -> Floats:
    return np.ones(cases) if weights is None else np.asarray(weights, dtype=np.float64)


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    nowhere = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)
    return np.asarray(np.divide(a, b, out=nowhere, where=b != 0), dtype=np.float64)
