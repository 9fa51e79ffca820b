"""A slide is compared with those that a model was trained on."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_slides import tissue_picture
from numpy.typing import NDArray

from herohe_model.model.card import StainSeen
from herohe_model.model.score import mean_distance
from herohe_model.sampling.likeness import (
    FEWEST,
    feature_likeness,
    features_seen,
    likeness,
    stain_measures,
    stain_seen,
)
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


def test_what_a_slide_of_training_is_to_the_others_a_new_one_is_to_all() -> None:
    """Each is measured by others alone: by a mean that holds it, few slides would all lie too near."""
    rng = np.random.default_rng(0)

    def bag() -> NDArray[np.float64]:
        return rng.normal(size=(50, 64)) + rng.normal(size=64) * 0.5

    inside = []
    for _ in range(30):
        bags = [bag() for _ in range(25)]
        centres = []
        for k in range(25):
            others = np.concatenate([b for j, b in enumerate(bags) if j % 5 != k % 5])
            centres.append((others.mean(axis=0), others.std(axis=0)))
        seen = features_seen(bags, centres)
        assert seen is not None
        everything = np.concatenate(bags)
        new = feature_likeness(mean_distance(bag(), everything.mean(axis=0), everything.std(axis=0)), seen)
        assert new.unlike == ()
        inside.append(new.percentiles["features"])
        far = feature_likeness(
            mean_distance(bag() + 1, everything.mean(axis=0), everything.std(axis=0)), seen
        )
        assert far.percentiles["features"] == 100 and "farther off" in far.unlike[0]
    assert 35 < np.mean(inside) < 65
    assert features_seen(bags[: FEWEST - 1], centres[: FEWEST - 1]) is None


def test_ink_on_a_slide_is_no_stain_of_its(seen: StainSeen) -> None:
    """A line of a green, blue or black pen must not make a slide unlike those of training."""
    for ink in ((30, 120, 60), (40, 60, 160), (20, 20, 25)):
        picture = tissue_picture(256, seed=99)
        picture[100:130] = ink
        among = likeness(stain_colours(picture), seen)
        plain = likeness(stain_colours(tissue_picture(256, seed=99)), seen)
        assert among is not None and plain is not None and among.unlike == ()
        assert abs(among.percentiles["red"] - plain.percentiles["red"]) < 15


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
