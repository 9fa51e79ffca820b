"""Pictures become slides that OpenSlide reads, with the same tissue on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.small_slides import tissue_picture
from PIL import Image

from bridge.cli import cli
from herohe_model.errors import CancelledError, HeroheError, SlideError
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.pictures import convert_picture
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiff


def a_picture(path: Path, *, mode: str = "RGB", **options: object) -> Path:
    picture = np.full((700, 900, 3), 244, dtype=np.uint8)
    picture[100:612, 200:712] = tissue_picture(512)
    Image.fromarray(picture).convert(mode).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a b.JPEG"])
def test_a_picture_has_the_tissue_of_its_slide(tmp_path: Path, name: str) -> None:
    picture = a_picture(tmp_path / name)
    told: list[float] = []
    convert_picture(picture, tmp_path / "out" / "s.tif", mpp=0.5, progress=told.append)
    write_tiff(tmp_path / "t.tif", np.asarray(Image.open(picture).convert("RGB")), mpp=0.5, quality=90)
    with Slide(tmp_path / "out" / "s.tif") as slide, Slide(tmp_path / "t.tif") as other:
        assert slide.size == (900, 700) and slide.mpp == pytest.approx(0.5)
        assert len(slide.level_downsamples) >= 2
        found, wanted = (find_patches(s, None, patch_px=32, mpp=0.5, threshold=0.07) for s in (slide, other))
        assert (found.x.tolist(), found.y.tolist()) == (wanted.x.tolist(), wanted.y.tolist())
        box = slide.read_box(200, 100, 512, 512, (512, 512)).astype(int)
        assert np.abs(box - tissue_picture(512)).mean() < 12
    assert told and told == sorted(told) and picture.is_file()


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((300, 300, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    convert_picture(tmp_path / "a.png", tmp_path / "s.tif", mpp=0.5)
    with Slide(tmp_path / "s.tif") as slide:
        assert slide.read_box(0, 0, 300, 300, (300, 300)).min() >= 250


def test_what_is_damaged_or_grey_or_no_picture_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = a_picture(tmp_path / "a.jpg")
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[:20_000])
    a_picture(tmp_path / "grey.png", mode="L")
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("half.jpg", "grey.png", "text.jpg", "nowhere.jpg"):
        with pytest.raises(SlideError, match=name):
            convert_picture(tmp_path / name, tmp_path / "out" / "s.tif", mpp=0.5)
    with pytest.raises(HeroheError, match="no scale"):
        convert_picture(whole, tmp_path / "out" / "s.tif", mpp=0.0)
    with pytest.raises(CancelledError):
        convert_picture(whole, tmp_path / "out" / "s.tif", mpp=0.5, stop=lambda: True)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_folder_of_pictures_is_converted_and_one_bad_picture_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    a_picture(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").write_text("no picture")
    a_picture(tmp_path / "in" / "c.png")
    arguments = ["slides", "convert", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--mpp", "0.5"]
    for made, known in ((2, 0), (0, 2)):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 1 and "b.jpg" in done.output
        assert f"{made} converted, {known} known before, 1 not" in done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "c.tif"]
