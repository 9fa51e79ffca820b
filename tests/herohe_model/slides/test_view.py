from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_slides import scanner_profile, tissue_picture
from PIL import Image

from herohe_model.errors import SlideUnreadableError
from herohe_model.slides.icc import ColourTransform, srgb_profile
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.slides.view import ICC_WARNING, SlideView
from herohe_model.synthetic.slides import write_mirax, write_tiff


def test_colours_are_transformed_on_each_level_before_anything_is_resampled(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue_picture(1024), mpp=0.5, tile=128, icc=scanner_profile())
    transform = ColourTransform(scanner_profile(), "a.tif")
    with Slide(tmp_path / "a.tif") as slide:
        shown = SlideView(icc=True).of(slide)
        for box, out in ((Box(100, 60, 300, 200), (300, 200)), (Box(128, 64, 512, 256), (256, 128))):
            stored = slide.read_box(box.x, box.y, box.width, box.height, out)
            found = shown.read_box(box.x, box.y, box.width, box.height, out)
            assert (found == transform.apply(stored)).all() and not (found == stored).all()
        (found,) = shown.read_boxes([Box(100, 60, 300, 300)], (200, 200))
        whole = Image.fromarray(transform.apply(slide.read_box(100, 60, 300, 300, (300, 300))))
        assert (found == np.array(whole.resize((200, 200), Image.Resampling.BICUBIC))).all()
        assert ICC_WARNING in shown.warnings and ICC_WARNING not in slide.warnings
        assert shown.fingerprint.startswith(f"{slide.fingerprint} icc:") and shown.mpp == slide.mpp


def test_a_profile_of_srgb_changes_no_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (ColourTransform(srgb_profile(), "a").apply(pixels) == pixels).all()


def test_a_slide_without_a_usable_profile_is_named(tmp_path: Path) -> None:
    write_tiff(tmp_path / "bare.tif", tissue_picture(256), tile=128)
    with (
        Slide(tmp_path / "bare.tif") as slide,
        pytest.raises(SlideUnreadableError, match="holds no ICC"),
    ):
        SlideView(icc=True).of(slide)
    with pytest.raises(SlideUnreadableError, match="cannot be used"):
        ColourTransform(b"no profile", "a.tif")


def test_a_part_is_what_was_scanned_of_it(tmp_path: Path) -> None:
    write_mirax(tmp_path / "m.mrxs", tissue_picture(256), origin=(256, 512), canvas=(1024, 1024))
    with Slide(tmp_path / "m.mrxs") as slide:
        assert SlideView().of(slide) is slide
        assert SlideView(Box(300, 400, 100, 200)).of(slide).bounds == Box(300, 512, 100, 88)
        assert SlideView(Box(0, 0, 10, 10)).of(slide).bounds == Box(0, 0, 10, 10)
