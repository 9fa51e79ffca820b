"""Does something other than the picture tell the label? Columns, laboratory and case numbers as controls.

Each test permutes the labels, so it holds for any number of cases and any distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.evaluation.metrics import roc_auc

Floats = NDArray[np.float64]

PERMUTATIONS: Final = 1000
ALARM: Final = 0.01
"""A control raises the flag at a p of so much: with five of them, one cohort in twenty does without cause."""
_BLOCKS: Final = 8
_FEWEST_NUMBERS: Final = 16


@dataclass(frozen=True)
class Control:
    """How well something tells the label by itself.

    Attributes
    ----------
    groups
        Into how many groups it divides the cases.
    auc
        Of the share of positives among the *other* cases of the same group; 0.5 and below is nothing.
    p_value
        Share of permuted labels that it tells as well.
    """

    name: str
    cases: int
    groups: int
    auc: float
    p_value: float

    @property
    def flagged(self) -> bool:
        """Whether it predicts the label."""
        return self.p_value <= ALARM


def control(
    name: str, values: Sequence[str | None], truth: NDArray[np.bool_], *, seed: int = 0
) -> Control | None:
    """Test whether values tell the label.

    Parameters
    ----------
    values
        Words, or numbers as text: numbers of which there are many are put into eight blocks of equal size.
        Cases without a value are left out.
    truth
        Shape (cases,).

    Returns
    -------
    Control or None
        None where it cannot tell anything: one group, one label, or a value for each case.

    Notes
    -----
    The statistic is the chi-square of groups against labels; its distribution is that under permutation.
    """
    known = np.array([value is not None for value in values], dtype=np.bool_)
    t = truth[known]
    group = blocks([value for value in values if value is not None])
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2 or t.all() or not t.any() or count > len(t) / 2:
        return None
    size = np.bincount(group, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)

    def chi_square(labels: NDArray[np.bool_]) -> float:
        hits = np.bincount(group, weights=labels, minlength=count)
        return float(((hits - size * t.mean()) ** 2 / size).sum())

    seen = chi_square(t)
    as_good = sum(chi_square(rng.permutation(t)) >= seen - 1e-9 for _ in range(PERMUTATIONS))
    hits = np.bincount(group, weights=t, minlength=count)
    # Half a case of the cohort's share steadies groups of few; the case itself is taken out.
    others = (hits[group] - t + 0.5 * t.mean()) / (size[group] - 1 + 0.5)
    auc = float(roc_auc(t, others))
    return Control(name, len(t), count, auc, (1 + as_good) / (1 + PERMUTATIONS))


def blocks(values: Sequence[str]) -> NDArray[np.int64]:
    """Return the group of each value: of a word its own, of many different numbers one of eight in order."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        numbers = np.array([])
    if len(np.unique(numbers)) >= _FEWEST_NUMBERS:
        rank = np.searchsorted(np.sort(numbers), numbers, side="left")
        return np.asarray(rank * _BLOCKS // len(numbers), dtype=np.int64)
    return np.asarray(np.unique(np.array(values, dtype=str), return_inverse=True)[1], dtype=np.int64).ravel()


def within_strata(
    truth: NDArray[np.bool_], p: Floats, strata: Sequence[str], *, seed: int = 0
) -> float | None:
    """Return the share of permutations of the labels within strata whose AUC is as high; None if none can be.

    Small: the score tells more than the strata do.
    """
    members = [np.flatnonzero(np.array(strata) == name) for name in sorted(set(strata))]
    mixed = [where for where in members if 0 < truth[where].sum() < len(where)]
    if not mixed:
        return None
    rng = np.random.default_rng(seed)
    seen, as_good = float(roc_auc(truth, p)), 0
    for _ in range(PERMUTATIONS):
        shuffled = truth.copy()
        for where in mixed:
            shuffled[where] = rng.permutation(truth[where])
        as_good += float(roc_auc(shuffled, p)) >= seen - 1e-12
    return (1 + as_good) / (1 + PERMUTATIONS)


def p_of_columns(
    columns: Mapping[str, Sequence[str | None]], truth: NDArray[np.bool_], *, folds: int = 5, seed: int = 0
) -> Floats:
    """Return P(positive) of each case from the columns alone, by models that have not seen it.

    A logistic regression with a ridge of 1 on an indicator of each group of each column (a missing value is
    a group), fitted on the other folds, which are stratified by label.

    Returns
    -------
    ndarray
        Shape (cases,), float64.
    """
    indicators = [np.ones((len(truth), 1))]
    for values in columns.values():
        known = np.array([value is not None for value in values], dtype=np.bool_)
        group = np.zeros(len(truth), dtype=np.int64)
        group[known] = 1 + blocks([value for value in values if value is not None])
        indicators.append((group[:, None] == np.unique(group)).astype(np.float64))
    x = np.concatenate(indicators, axis=1)
    order = np.random.default_rng(seed).permutation(len(truth))
    order = order[np.argsort(truth[order], kind="stable")]
    fold = np.empty(len(truth), dtype=np.int64)
    fold[order] = np.arange(len(truth)) % folds
    p = np.empty(len(truth))
    for k in range(folds):
        weights = logistic_regression(x[fold != k], truth[fold != k], ridge=1.0)
        p[fold == k] = 1 / (1 + np.exp(-x[fold == k] @ weights))
    return p


def logistic_regression(x: Floats, truth: NDArray[np.bool_], *, ridge: float = 0.0) -> Floats:
    """Return the weights of a logistic regression, by Newton's method; the first column is not shrunk.

    Parameters
    ----------
    x
        Shape (cases, columns).
    ridge
        Half of it times the sum of squared weights is added to the loss: scikit-learn's ``C = 1 / ridge``.
    """
    penalty = np.full(x.shape[1], ridge)
    penalty[0] = 0.0
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - truth) + penalty * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        # A class that is missing, or a column that tells all, has no finite answer: stop where steps end.
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        weights = weights - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-9:
            break
    return weights
