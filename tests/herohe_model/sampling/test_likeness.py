"""A slide is compared with those that a model was trained on."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_slides import tissue_picture

from herohe_model.model.card import StainSeen
from herohe_model.sampling.likeness import FEWEST, likeness, stain_measures, stain_seen
from herohe_model.sampling.stain import StainColours, stain_colours


def stained(strength: float, seed: int = 0, cast: tuple[float, float, float] = (1, 1, 1)) -> StainColours:
    """Tissue stained so strongly, in a scanner's colours: powers of each channel's light."""
    light = tissue_picture(256, seed=seed) / 255.0
    picture = 255 * light ** (strength * np.array(cast))
    return stain_colours(np.clip(picture, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def seen() -> StainSeen:
    """Thirty slides whose stain varies by a fifth."""
    rng = np.random.default_rng(1)
    found = stain_seen([stained(float(s), seed) for seed, s in enumerate(rng.uniform(0.9, 1.1, 30))])
    assert found is not None
    return found


def test_slides_like_those_of_training_are_within_and_have_their_place(seen: StainSeen) -> None:
    places = []
    for strength in (0.92, 1.0, 1.08):
        among = likeness(stained(strength, 99), seen)
        assert among is not None and among.unlike == ()
        places.append(among.percentiles["density"])
    assert places == sorted(places) and places[0] < 30 and places[-1] > 70


@pytest.mark.parametrize(
    ("strength", "cast", "word"),
    [
        (0.5, (1, 1, 1), "paler than all 30 slides"),
        (1.8, (1, 1, 1), "darker than all 30 slides"),
        (1.0, (1.5, 1, 1), "bluer than all 30 slides"),
        (1.0, (1, 1, 1.5), "browner than all 30 slides"),
    ],
)
def test_a_slide_of_another_stain_is_unlike_and_it_is_said_in_what(
    seen: StainSeen, strength: float, cast: tuple[float, float, float], word: str
) -> None:
    among = likeness(stained(strength, 99, cast), seen)
    assert among is not None and word in " ".join(among.unlike)


def test_of_few_slides_or_little_tissue_nothing_is_said(seen: StainSeen) -> None:
    assert stain_seen([stained(1.0)] * (FEWEST - 1)) is None
    assert stain_measures(StainColours()) is None and likeness(StainColours(), seen) is None
