"""IHC grades, the ordinal bits they are learned as, and the way back to grades and HER2 status.

A bit answers "at least this step?". Bits stand highest step first, as the HEROHE team wrote them:
``[3+, >=2+, >=1+]``, so that grade 1+ is ``001``. (``coral-pytorch`` calls the reverse order *levels*.)
The target ``ihc+ish`` puts a step inside 2+, where in-situ hybridisation decides the HER2 status:
``[3+, >=2+/ISH+, >=2+, >=1+]``.

Targets sum to 0..3 (or 4), so each bit has its own sigmoid; a softmax over bits would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRADES: Final = ("0", "1+", "2+", "3+")

Status = Literal["HER2-positive", "HER2-negative"]


class Target(str, Enum):
    """What the network learns: three IHC bits, or four with the ISH step inside 2+."""

    IHC = "ihc"
    IHC_ISH = "ihc+ish"

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the bits, highest step first."""
        if self is Target.IHC:
            return ("3+", ">=2+", ">=1+")
        return ("3+", ">=2+/ISH+", ">=2+", ">=1+")

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the ordered classes, lowest first; one more than there are bits."""
        if self is Target.IHC:
            return GRADES
        return ("0", "1+", "2+/ISH-", "2+/ISH+", "3+")

    @property
    def default_positive_step(self) -> str:
        """The bit that is read as P(HER2-positive) when a model card names no other."""
        return ">=2+" if self is Target.IHC else ">=2+/ISH+"


def bits_of_level(level: str, target: Target) -> tuple[int, ...]:
    """Ordinal bits of a level, highest step first: of ``ihc``, 2+ gives ``(0, 1, 1)``.

    Raises
    ------
    ValueError
        If `level` is none of ``target.levels``.
    """
    if level not in target.levels:
        raise ValueError(f"{level!r} is none of {', '.join(target.levels)}")
    rank = target.levels.index(level)
    count = len(target.steps)
    return tuple(int(rank >= count - i) for i in range(count))


def monotone(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Least-squares projection of bit probabilities onto "a higher step is never likelier".

    Parameters
    ----------
    probabilities
        Shape (..., bits), values 0 to 1, highest step first.

    Returns
    -------
    ndarray
        Same shape, float64, not decreasing along the last axis.

    Notes
    -----
    The min-max formula of isotonic regression (Barlow et al. 1972, *Statistical Inference under Order
    Restrictions*, theorem 1.4), exact and free of iteration for a handful of bits.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    bits = p.shape[-1]
    sums = np.concatenate([np.zeros((*p.shape[:-1], 1)), np.cumsum(p, axis=-1)], axis=-1)
    result = np.empty_like(p)
    for k in range(bits):
        best = np.full(p.shape[:-1], -np.inf)
        for i in range(k + 1):
            means = [(sums[..., j + 1] - sums[..., i]) / (j + 1 - i) for j in range(k, bits)]
            best = np.maximum(best, np.min(means, axis=0))
        result[..., k] = best
    return np.clip(result, 0.0, 1.0)


def bit_probabilities(logits: ArrayLike, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Monotone probabilities of the bits from logits.

    Parameters
    ----------
    logits
        Shape (..., bits), highest step first.
    temperature
        Logits are divided by it (Guo et al. 2017, *On Calibration of Modern Neural Networks*).

    Returns
    -------
    ndarray
        Same shape, float64, 0 to 1.

    Raises
    ------
    ValueError
        If a logit is not a number: every comparison with it is false, which would read as grade 0.
    """
    z = np.asarray(logits, dtype=np.float64) / temperature
    if np.isnan(z).any():
        raise ValueError("A logit is not a number")
    return monotone(1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0))))


def level_probabilities(q: ArrayLike) -> NDArray[np.float64]:
    """Probability of each level from monotone bit probabilities.

    Parameters
    ----------
    q
        Shape (..., bits), highest step first, not decreasing along the last axis.

    Returns
    -------
    ndarray
        Shape (..., bits + 1), lowest level first; sums to 1.
    """
    q = np.asarray(q, dtype=np.float64)
    ends = np.concatenate([np.zeros((*q.shape[:-1], 1)), q, np.ones((*q.shape[:-1], 1))], axis=-1)
    return np.diff(ends, axis=-1)[..., ::-1]


_GRADE_STEPS: Final = {"1+": ">=1+", "2+": ">=2+", "3+": "3+"}


def ihc_probabilities(q: ArrayLike, steps: Sequence[str]) -> dict[str, float]:
    """P(>=1+), P(>=2+) and P(3+) from one vector of bit probabilities, as far as the steps tell of them.

    Parameters
    ----------
    steps
        Names of the bits in `q`.

    Returns
    -------
    dict
        Keys of ``"1+"``, ``"2+"``, ``"3+"``: the probability of at least that grade.
    """
    by_step = dict(zip(steps, np.asarray(q, dtype=np.float64).tolist(), strict=True))
    return {grade: by_step[step] for grade, step in _GRADE_STEPS.items() if step in by_step}


def grade_of(at_least: dict[str, float]) -> str:
    """Return the median grade: the highest one that is reached with a probability of at least one half.

    "" where one of the three probabilities is not there: a grade is only told from all of them.
    """
    if not at_least.keys() >= _GRADE_STEPS.keys():
        return ""
    return GRADES[sum(at_least[g] >= 0.5 for g in GRADES[1:])]


def expected_grade(at_least: dict[str, float]) -> float | None:
    """Return the mean of the grade's distribution, 0 to 3; None where a probability is not there."""
    if not at_least.keys() >= _GRADE_STEPS.keys():
        return None
    return float(sum(at_least[g] for g in GRADES[1:]))


def status_of(p_positive: float, decision_threshold: float) -> Status:
    """HER2 status by the model card's decision threshold on P(positive)."""
    return "HER2-positive" if p_positive >= decision_threshold else "HER2-negative"
