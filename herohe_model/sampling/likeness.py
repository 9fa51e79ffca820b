"""Whether a slide is like those that a model was trained on: by its stain and, of a bag model, its features.

Three measures of the tissue's colours: how much light it absorbs, and how much red and blue do beside green,
which tells haematoxylin's part and the scanner's colours (Ruifrok & Johnston 2001, *Quantification of
histochemical staining by color deconvolution*). The card keeps how they are spread over the training slides;
a slide far beyond all of these is unlike them.

Of features, the measure is how far the mean of a slide's patches lies from the mean over the training slides,
in standard deviations of patches; what it is for these themselves is measured with each left out of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.model.card import FeaturesSeen, StainSeen
from herohe_model.model.score import mean_distance
from herohe_model.sampling.stain import StainColours

FEWEST: Final = 20
"""Training slides, below which nothing is said of what they are like."""

_QUANTILES: Final = tuple(range(0, 101, 5))
_BEYOND: Final = 0.5
"""How far beyond the training slides a slide may lie, as a part of the width of nine tenths of them."""
_DIGITS: Final = 4
_WORDS: Final = {
    "density": ("paler than", "darker than"),
    "red": ("redder than", "bluer than"),
    "blue": ("less brown than", "browner than"),
}
"""By measure, what a slide below and above the training slides looks like beside them."""


@dataclass(frozen=True)
class Likeness:
    """How a slide lies among the training slides.

    Attributes
    ----------
    percentiles
        By measure, the share of the training slides that have less of it, 0 to 100.
    unlike
        What is beyond the limit, in words; empty where nothing is.
    """

    percentiles: Mapping[str, float]
    unlike: tuple[str, ...]


def stain_measures(stain: StainColours) -> dict[str, float] | None:
    """Return the measures of a slide's tissue; None where there is too little of it.

    ``density`` is the mean optical density over all channels (natural logarithm), ``red`` and ``blue`` that
    of the channel as a part of green's.
    """
    if stain.stain() == "unknown":
        return None
    red, green, blue = (float(total) for total in stain.density)
    return {
        "density": stain.mean_density,
        "red": red / max(green, 1.0),
        "blue": blue / max(green, 1.0),
    }


def stain_seen(stains: Sequence[StainColours]) -> StainSeen | None:
    """Return how the training slides' stains are spread; None of fewer than :data:`FEWEST` of them."""
    measured = [found for found in map(stain_measures, stains) if found is not None]
    if len(measured) < FEWEST:
        return None
    spread = {
        name: tuple(np.percentile([m[name] for m in measured], _QUANTILES).round(_DIGITS).tolist())
        for name in _WORDS
    }
    return StainSeen(slides=len(measured), **spread)


def features_seen(
    bags: Sequence[NDArray[np.floating]], centres: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]
) -> FeaturesSeen | None:
    """Return how far the training slides' features lie from those of others.

    Parameters
    ----------
    bags
        Features of each slide, (n, dimension).
    centres
        For each, centre and scale of the slides that it was held out of, (dimension,) each.

    Returns
    -------
    FeaturesSeen or None
        None of fewer than :data:`FEWEST` slides.
    """
    if len(bags) < FEWEST:
        return None
    found = [mean_distance(bag, *centre) for bag, centre in zip(bags, centres, strict=True)]
    return FeaturesSeen(
        slides=len(found), distance=tuple(np.percentile(found, _QUANTILES).round(_DIGITS).tolist())
    )


def feature_likeness(distance: float, seen: FeaturesSeen) -> Likeness:
    """Compare the distance of a slide's features with that of the training slides."""
    quantiles = np.array(seen.distance)
    percentile = round(float(np.interp(distance, quantiles, _QUANTILES)), 1)
    unlike: tuple[str, ...] = ()
    if distance > quantiles[-1] + _room(quantiles):
        unlike = (
            f"its features lie farther off than those of all {seen.slides} slides it was trained on "
            f"(distance {distance:.2f}, theirs {quantiles[0]:.2f} to {quantiles[-1]:.2f})",
        )
    return Likeness({"features": percentile}, unlike)


def _room(quantiles: NDArray[np.float64]) -> float:
    return _BEYOND * max(float(quantiles[-2] - quantiles[1]), 1e-3)


def likeness(stain: StainColours, seen: StainSeen) -> Likeness | None:
    """Compare a slide with the training slides; None where it has too little tissue."""
    measured = stain_measures(stain)
    if measured is None:
        return None
    percentiles, unlike = {}, []
    for name, value in measured.items():
        quantiles = np.array(getattr(seen, name))
        percentiles[name] = round(float(np.interp(value, quantiles, _QUANTILES)), 1)
        room = _room(quantiles)
        below, above = value < quantiles[0] - room, value > quantiles[-1] + room
        if below or above:
            low, high = quantiles[0], quantiles[-1]
            unlike.append(
                f"{_WORDS[name][int(above)]} all {seen.slides} slides it was trained on ({name} {value:.2f}, "
                f"theirs {low:.2f} to {high:.2f})"
            )
    return Likeness(percentiles, tuple(unlike))
