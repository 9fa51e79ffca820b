"""Logits of networks on cases with a known chance of being positive, without any network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case
from herohe_model.grades import Target
from herohe_model.training.calibrate import UnseenLogits

SIGNAL = 0.9
"""Standard deviation of what all networks see in a case; its logit is twice that strong in truth."""

MEMBER = 0.6
COMPOSITE = 0.5
_TRUTH = 1.6


def simulated(
    count: int,
    *,
    seed: int,
    members: int = 5,
    composites: int = 8,
    folds: int = 5,
    prevalence: float | None = None,
    intercept: float = -0.5,
) -> UnseenLogits:
    """Draw cases, their truth, and logits of networks that err each for itself and at each composite.

    With a prevalence, cases are drawn until so many of them are positive.
    """
    rng = np.random.default_rng(seed)
    many = count if prevalence is None else 40 * count
    signal = rng.normal(0, SIGNAL, many)
    positive = rng.random(many) < 1 / (1 + np.exp(-(_TRUTH * signal + intercept)))
    if prevalence is not None:
        wanted = round(prevalence * count)
        keep = np.concatenate(
            [np.flatnonzero(positive)[:wanted], np.flatnonzero(~positive)[: count - wanted]]
        )
        signal, positive = signal[keep], positive[keep]
    z = (
        signal[:, None, None]
        + rng.normal(0, MEMBER, (count, 1, members))
        + rng.normal(0, COMPOSITE, (count, composites, 1))
    )
    logits = np.stack([z - 2.0, z, z + 1.0, z + 2.0], axis=-1)
    cases = tuple(
        Case("train", f"{k:04d}", status="HER2-positive" if p else "HER2-negative")
        for k, p in enumerate(positive.tolist())
    )
    return UnseenLogits(cases, tuple(logits), np.arange(count) % folds, Target.IHC_ISH)


def statuses(unseen: UnseenLogits) -> NDArray[np.bool_]:
    """Whether each case is HER2-positive, shape (cases,)."""
    return np.array([case.positive is True for case in unseen.cases])
