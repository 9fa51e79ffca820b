"""What is out of focus is told from what is sharp, whatever the stain, the noise and the scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_slides import tissue_picture
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from herohe_model.sampling.focus import composite_out_of_focus, out_of_focus
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom, look_like_tissue


def blurred(patches: NDArray[np.uint8], um: float, mpp: float) -> NDArray[np.uint8]:
    """Patches after a Gaussian blur, with the camera's noise on it."""
    noise = np.random.default_rng(0).normal(0, 2, patches.shape)
    soft = [Image.fromarray(p).filter(ImageFilter.GaussianBlur(um / mpp)) for p in patches]
    return np.clip(np.stack([np.asarray(p) for p in soft]) + noise, 0, 255).astype(np.uint8)


@pytest.mark.slide
def test_a_real_slide_is_sharp_and_not_after_a_blur(real_slide: Path) -> None:
    with Slide(real_slide) as slide:
        found = find_patches(slide, None, patch_px=256, mpp=slide.mpp, threshold=0.07)
        patches = np.stack(
            [slide.read_box(x, y, 256, 256, (256, 256)) for x, y in zip(found.x, found.y, strict=True)]
        )
        mpp = slide.mpp
    pale = (255 - (255 - patches.astype(np.float32)) * 0.5).astype(np.uint8)
    for picture in (patches, pale):
        assert out_of_focus(picture, mpp).mean() <= 0.05
        assert out_of_focus(blurred(picture, 1.5, mpp), mpp).mean() >= 0.9
        assert out_of_focus(blurred(picture, 3.0, mpp), mpp).mean() >= 0.9
    large = np.stack([np.asarray(Image.fromarray(p).resize((526, 526))) for p in patches[:20]])
    assert out_of_focus(large, 0.2425).mean() <= 0.05, "a finer model sees it enlarged, and as sharp as it is"


def test_cells_of_a_composite_are_judged_each_for_itself() -> None:
    tissue = look_like_tissue(draw_phantom("2+", seed=1, side=1024), seed=1)[384:640, 384:640]
    picture = np.tile(tissue, (2, 2, 1))
    assert not composite_out_of_focus(picture, 2, 0.5).any()
    picture[:256, 256:] = blurred(tissue[None], 3.0, 0.5)[0]
    assert composite_out_of_focus(picture, 2, 0.5).tolist() == [False, True, False, False]


def test_nothing_is_said_of_what_shows_nothing() -> None:
    glass = np.full((3, 64, 64, 3), 240, dtype=np.uint8)
    assert not out_of_focus(glass, 0.5).any()
    assert not out_of_focus(blurred(np.stack([tissue_picture(64)]), 5.0, 2.0), 2.0).any()
