"""From a slide's logits to what a model says of it: probabilities, and a call in three.

A calibrated model's probability of a step is Platt's: the logistic function of a line of the slide's logit,
which is the mean over composites and members (Platt 1999, *Probabilistic Outputs for Support Vector
Machines*). The line is fitted on slides that none of the networks behind the logit has seen. Models of before
that was so have one temperature, and the mean of their composites' probabilities.

A call counts how sure the logit is: it is moved towards the other answer by some standard errors, of the
members and of the composites together, and must still be beyond the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

Call = Literal["likely positive", "uncertain: IHC, and ISH at 2+", "likely negative"]

POSITIVE: Final[Call] = "likely positive"
UNCERTAIN: Final[Call] = "uncertain: IHC, and ISH at 2+"
NEGATIVE: Final[Call] = "likely negative"

CALLS: Final = (POSITIVE, UNCERTAIN, NEGATIVE)

_Line = Annotated[float, msgspec.Meta(ge=-1000.0, le=1000.0)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Platt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a slide's logit of one step becomes a probability: ``sigmoid(slope * logit + intercept)``.

    Attributes
    ----------
    slope
        Never negative: a model that ranks slides the wrong way round knows nothing.
    cases, reached
        On how many cases it was fitted, and how many of them reach the step.
    held_out_slope, held_out_intercept
        Calibration slope and intercept of lines fitted on the other folds, over the cases of every fold in
        turn; 1 and 0 are ideal. None where there was one fold, or the slope is not defined.
    """

    slope: Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)]
    intercept: _Line
    cases: _Count
    reached: _Count
    held_out_slope: float | None = None
    held_out_intercept: float | None = None


class CallRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a slide is called in three.

    Attributes
    ----------
    positive_above
        P(positive) above which a slide is *likely positive*, after the logit was moved down by `margin`
        standard errors.
    negative_below
        P(positive) below which a slide is *likely negative*, after the logit was moved up as far.
    margin
        Standard errors.
    positive_chosen, negative_chosen
        How each threshold was chosen, in words.
    prevalence
        Of HER2-positive, for which predictive values are stated; None where none are.
    out_of_fold
        Rates of the three calls on cases that no network had seen, with thresholds of the other folds.
    """

    positive_above: _Share
    negative_below: _Share
    margin: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 1.0
    positive_chosen: str
    negative_chosen: str
    prevalence: _Share | None = None
    out_of_fold: dict[str, float | None] = {}

    def __post_init__(self) -> None:
        """Refuse thresholds that would call one slide both."""
        if self.negative_below > self.positive_above:
            raise ValueError("negative_below lies above positive_above")

    def call(self, low: float, high: float) -> Call:
        """Return the call of a slide from P(positive) after its logit was moved down, and up."""
        if low > self.positive_above:
            return POSITIVE
        return NEGATIVE if high < self.negative_below else UNCERTAIN


@dataclass(frozen=True)
class SlideLogit:
    """A slide's logit of one step, and how sure it is.

    Attributes
    ----------
    value
        Mean over composites and members.
    error
        Standard error of it: of the members (the spread of their means over composites) and of the
        composites (the spread of theirs over members), added up as squares.
    """

    value: float
    error: float


def slide_logit(logits: ArrayLike) -> SlideLogit:
    """Return a slide's logit of one step from those of its composites and members.

    Parameters
    ----------
    logits
        Shape (composites, members).
    """
    z = np.asarray(logits, dtype=np.float64)
    squares = 0.0
    for axis in (0, 1):
        means = z.mean(axis=axis)
        if len(means) > 1:
            squares += float(means.var(ddof=1)) / len(means)
    return SlideLogit(float(z.mean()), squares**0.5)


def sigmoid(z: ArrayLike) -> Floats:
    """Return the logistic function, without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0))), dtype=np.float64)


def around(q: ArrayLike, fixed: int) -> Floats:
    """Put probabilities of bits into order around one that stays as it is.

    Parameters
    ----------
    q
        Shape (..., bits), highest step first.
    fixed
        The bit that stays: of what is calibrated, the status is what decisions rest on.

    Returns
    -------
    ndarray
        Same shape, not decreasing along the last axis.
    """
    q = np.array(q, dtype=np.float64)
    for k in range(fixed - 1, -1, -1):
        q[..., k] = np.minimum(q[..., k], q[..., k + 1])
    for k in range(fixed + 1, q.shape[-1]):
        q[..., k] = np.maximum(q[..., k], q[..., k - 1])
    return q
