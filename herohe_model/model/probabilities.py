"""What a model's card makes of the logits of a slide: probabilities of the steps that it may speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from herohe_model.grades import bit_probabilities
from herohe_model.model.calibration import Floats, around, sigmoid, slide_logit
from herohe_model.model.card import ModelCard


@dataclass(frozen=True)
class SlideProbabilities:
    """Probabilities of a slide.

    Attributes
    ----------
    steps
        The steps that the model may speak of, highest first; see ``ModelCard.claimed_steps``.
    slide
        Shape (steps,), not decreasing.
    composites
        The same of each composite alone, shape (composites, steps).
    members
        P(positive) by each network alone, shape (members,).
    low, high
        P(positive) after the logit was moved down, and up, by the card's margin of standard errors; both
        P(positive) itself where the card calls nothing.
    """

    steps: tuple[str, ...]
    slide: Floats
    composites: Floats
    members: Floats
    low: float
    high: float


def slide_probabilities(logits: ArrayLike, card: ModelCard) -> SlideProbabilities:
    """Say what a model makes of a slide's composites.

    Parameters
    ----------
    logits
        Shape (composites, members, bits), highest step first.
    card
        With a calibration, a slide's probability is that of its mean logit; without, the mean of its
        composites' probabilities at the card's temperature.

    Raises
    ------
    ValueError
        If a logit is not a number.
    """
    z = np.asarray(logits, dtype=np.float64)
    if np.isnan(z).any():
        raise ValueError("A logit is not a number")
    steps = card.claimed_steps
    kept = [card.steps.index(step) for step in steps]
    positive = steps.index(card.positive_step)
    if not card.calibration:
        composites = bit_probabilities(z.mean(axis=1), temperature=card.temperature)[:, kept]
        members = bit_probabilities(z, temperature=card.temperature)[..., card.positive_bit].mean(axis=0)
        slide = composites.mean(axis=0)
        p = float(slide[positive])
        return SlideProbabilities(steps, slide, composites, members, p, p)
    lines = [card.calibration[step] for step in steps]
    slopes, intercepts = (
        np.array([line.slope for line in lines]),
        np.array([line.intercept for line in lines]),
    )

    def calibrated(values: Floats) -> Floats:
        return around(sigmoid(slopes * values + intercepts), positive)

    claimed = z[..., kept]
    found = slide_logit(z[..., card.positive_bit])
    shift = 0.0 if card.call is None else card.call.margin * found.error
    ends = np.array([found.value - shift, found.value + shift])
    low, high = sigmoid(slopes[positive] * ends + intercepts[positive]).tolist()
    return SlideProbabilities(
        steps,
        calibrated(claimed.mean(axis=(0, 1))),
        calibrated(claimed.mean(axis=1)),
        calibrated(claimed.mean(axis=0))[:, positive],
        low,
        high,
    )
