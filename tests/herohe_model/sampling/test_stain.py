from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_slides import immunostained_picture, tissue_picture
from numpy.typing import NDArray

from herohe_model.grades import GRADES
from herohe_model.sampling.patches import find_patches
from herohe_model.sampling.stain import StainColours, stain_colours
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

H, E, DAB = (np.array(v) for v in ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)))


def stained(*stains: tuple[NDArray[np.float64], float, float], side: int = 256) -> NDArray[np.uint8]:
    """Glass with stains, each a vector, its density, and the share of pixels that hold it."""
    rng = np.random.default_rng(0)
    density = np.zeros((side, side, 3))
    for vector, strength, share in stains:
        density += (rng.random((side, side)) < share)[..., None] * strength * vector
    return np.rint(244 * np.exp(-density)).astype(np.uint8)


@pytest.mark.parametrize("grade", GRADES)
def test_synthetic_slides_are_he(grade: str) -> None:
    picture = draw_phantom(grade, seed=3, side=512, amplified=grade == "3+").picture
    coarse = picture.reshape(16, 32, 16, 32, 3).mean(axis=(1, 3)).astype(np.uint8)
    assert {stain_colours(picture).stain(), stain_colours(coarse).stain()} == {"H&E"}


def test_haematoxylin_and_eosin_in_any_mixture_are_he() -> None:
    for pink, blue in ((1.2, 0.1), (0.6, 0.3), (0.4, 0.5)):
        assert stain_colours(stained((E, pink, 0.9), (H, blue, 0.5))).stain() == "H&E"


@pytest.mark.slide
def test_a_real_slide_is_he_wherever_it_is_read(real_slide: Path) -> None:
    with Slide(real_slide) as slide:
        for shrink in (1, 8, 32):
            out = (slide.size[0] // shrink, slide.size[1] // shrink)
            colours = stain_colours(slide.read_box(0, 0, *slide.size, out))
            assert colours.stain() == "H&E" and colours.brown_share < 0.02


def test_dab_is_brown_with_and_without_a_counterstain() -> None:
    assert stain_colours(stained((DAB, 0.9, 0.8))).stain() == "brown"
    assert stain_colours(stained((H, 0.5, 0.3), (DAB, 0.9, 0.6))).stain() == "brown"
    assert stain_colours(immunostained_picture(256)).stain() == "brown"


def test_what_is_neither_is_doubted_and_glass_says_nothing() -> None:
    assert stain_colours(stained((H, 0.8, 0.4))).stain() == "doubtful blue"
    patchy = np.concatenate([stained((DAB, 1.2, 1))[:24], stained((E, 0.8, 1))])
    assert stain_colours(patchy).stain() == "doubtful brown"
    assert stain_colours(np.full((64, 64, 3), 235, np.uint8)).stain() == "unknown"
    assert stain_colours(np.full((64, 64, 3), 40, np.uint8)).stain() == "unknown", "black ink"


def test_blood_and_saffron_are_not_taken_for_dab() -> None:
    for colour in ((190, 70, 60), (230, 200, 120)):
        picture = np.where(np.arange(64)[:, None, None] < 20, np.array(colour), stained((E, 0.8, 1), side=64))
        assert stain_colours(picture.astype(np.uint8)).stain() == "H&E"


def test_colours_come_with_the_patches_and_add_up_alike_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    write_tiff(path, tissue_picture(512), mpp=0.5, tile=128)
    found = []
    for readers in (1, 4):
        with Slide(path, readers=readers) as slide:
            found.append(find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.1).stain)
    assert found[0] == found[1] and found[0].stain() == "H&E" and found[0].tissue > 1000
    parts = [StainColours(3, 1, (5, 6, 7)), StainColours(1, 1, (1, 2, 3)), StainColours()]
    assert (
        sum(parts, StainColours()) == sum(reversed(parts), StainColours()) == StainColours(4, 2, (6, 8, 10))
    )
