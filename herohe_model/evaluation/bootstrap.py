"""Intervals: the bootstrap over cases, and Wilson's for shares of a few cases.

The bootstrap is the plain one: as many cases as there are, drawn with replacement from all of them, whatever
their status; 95% intervals are percentiles. Draws come from PCG64's raw bits, which numpy promises to be the
same for every version and platform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from herohe_model.evaluation.metrics import Floats

RESAMPLES: Final = 2000
METHOD: Final = (
    "95%: Wilson's of shares and, through it, of F1; DeLong's of AUC on the logit scale, with fewer than ten "
    "of a class Newcombe's; else percentiles of a plain bootstrap over cases"
)

_CHUNK: Final = 1 << 21
"""Case counts held at once, so that memory does not grow with the number of resamples."""
Z95: Final = 1.959963984540054
"""Standard errors to either side of a 95% interval."""


def resampled(cases: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Draw resamples of cases.

    Yields
    ------
    ndarray
        Shape (some resamples, cases), int64: how often each case was drawn; rows sum to `cases`.
    """
    bits = np.random.PCG64(seed)
    at_once = max(1, _CHUNK // max(cases, 1))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        # The remainder favours some cases by one part in 2^64 / cases.
        drawn = (bits.random_raw(rows * cases) % np.uint64(cases)).astype(np.int64).reshape(rows, cases)
        drawn += np.arange(rows)[:, None] * cases
        yield np.bincount(drawn.ravel(), minlength=rows * cases).reshape(rows, cases)


def bootstrap(
    measures: Mapping[str, Callable[[NDArray[np.int64]], Floats]],
    cases: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Floats]:
    """Evaluate measures on the same resamples, so that they can be compared pair by pair.

    Parameters
    ----------
    measures
        Functions of weights (resamples, cases), such as ``lambda w: f1_score(truth, called, w)``.

    Returns
    -------
    dict
        For each measure its values, shape (resamples,), float64; NaN where it is not defined.
    """
    if not cases:
        return {name: np.full(resamples, np.nan) for name in measures}
    parts: dict[str, list[Floats]] = {name: [] for name in measures}
    for weights in resampled(cases, resamples=resamples, seed=seed):
        for name, measure in measures.items():
            parts[name].append(np.asarray(measure(weights), dtype=np.float64))
    return {name: np.concatenate(values) for name, values in parts.items()}


def interval(values: ArrayLike) -> tuple[float, float]:
    """Return the middle 95% of the values that are defined; NaN where none is."""
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return (float("nan"), float("nan"))
    low, high = np.quantile(defined, [0.025, 0.975]).tolist()
    return (low, high)


def wilson(hits: int, of: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's interval of a share, which holds for few cases too; NaN for none (Wilson 1927).

    `z` is how many standard errors it reaches to either side.
    """
    if not of:
        return (float("nan"), float("nan"))
    share, z2 = hits / of, z**2
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = z / (1 + z2 / of) * float(np.sqrt(share * (1 - share) / of + z2 / (4 * of * of)))
    return (max(0.0, centre - half), min(1.0, centre + half))
