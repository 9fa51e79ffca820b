"""Whatever is wrong with a slide, it can be read or there is an error that names it."""

from __future__ import annotations

from pathlib import Path

from helpers.slide_mutants import mutants, write_originals

from herohe_model.errors import SlideError
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.guarded_slide import GuardedSlide


def test_three_hundred_damaged_slides_are_read_or_named(tmp_path: Path) -> None:
    originals = write_originals(tmp_path)
    (tmp_path / "mutants").mkdir()
    named = 0
    for path in mutants(originals, tmp_path / "mutants", 300, seed=23):
        try:
            with GuardedSlide(path) as slide:
                slide.thumbnail(64)
                find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.07)
        except SlideError as error:
            assert path.stem in str(error)
            named += 1
    assert 30 < named < 270
