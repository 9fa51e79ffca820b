"""A slide gives the asked pixels at any scale, from any thread, or says what is wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from helpers.damaged_slides import claim
from numpy.typing import NDArray
from PIL import Image

from herohe_model.errors import SlideNotFoundError, SlideScaleError, SlideUnreadableError
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth colours, whose mean over any box is the colour at its middle."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 0 * x], axis=-1).astype(np.uint8)


# Pixels


def test_level_0_pixels_come_as_stored(tmp_path: Path) -> None:
    picture = noise(600, 500)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        read = slide.read_box(123, 45, 300, 200, (300, 200))
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert np.array_equal(read, picture[45:245, 123:423])


def test_a_level_that_fits_is_read_as_stored(tmp_path: Path) -> None:
    picture = noise(1024, 1024)
    write_tiff(tmp_path / "a.tif", picture, tile=64, levels=4, quality=None)
    stored = tifffile.imread(tmp_path / "a.tif", key=2)
    with Slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_box(64, 128, 512, 256, (128, 64)), stored[32:96, 16:144])


def test_a_box_between_the_pixels_of_a_level_is_not_moved(tmp_path: Path) -> None:
    picture = ramp(1024, 1024)
    write_tiff(tmp_path / "a.tif", picture, levels=5, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        for x in range(300, 316):
            middle = slide.read_box(x, 405, 160, 160, (10, 10))[4:6, 4:6].mean(axis=(0, 1))
            expected = picture[405:565, x : x + 160].mean(axis=(0, 1))
            # A pixel of level 4 spans 4 grey levels: rounding to it would be off by up to 2.
            assert np.abs(middle - expected).max() < 0.8


@pytest.mark.parametrize("out", [(512, 512), (300, 300), (256, 256), (200, 200), (100, 50), (7, 5), (1, 1)])
def test_any_scale_gives_exactly_the_asked_shape_and_colours(tmp_path: Path, out: tuple[int, int]) -> None:
    picture = ramp(1024, 1024)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        read = slide.read_box(200, 300, 512, 512, out)
    assert read.shape == (out[1], out[0], 3)
    expected = np.asarray(
        Image.fromarray(picture[300:812, 200:712]).resize(out, Image.Resampling.BOX), dtype=float
    )
    assert np.abs(read - expected).max() <= 4
    assert np.abs((read - expected).mean(axis=(0, 1))).max() <= 1


def test_enlarging_works_too(tmp_path: Path) -> None:
    picture = ramp(256, 256)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        read = slide.read_box(64, 64, 100, 100, (211, 211))
    assert read.shape == (211, 211, 3)
    assert np.abs(read.mean(axis=(0, 1)) - picture[64:164, 64:164].mean(axis=(0, 1))).max() < 1


def test_beyond_the_edges_lies_background(tmp_path: Path) -> None:
    picture = noise(300, 200)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    expected = np.full((300, 400, 3), 255, dtype=np.uint8)
    expected[50:250, 50:350] = picture
    with Slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_box(-50, -50, 400, 300, (400, 300)), expected)
        assert (slide.read_box(5000, 5000, 64, 64, (32, 32)) == 255).all()
        assert (slide.read_box(-500, 10, 64, 64, (32, 32)) == 255).all()


@pytest.mark.parametrize("other", ["focal plane", "macro picture"])
def test_pictures_that_are_no_pyramid_level_are_not_read_as_one(tmp_path: Path, other: str) -> None:
    picture = ramp(512, 512)
    beside = 255 - picture if other == "focal plane" else np.zeros((128, 256, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, pixels in enumerate((picture, beside, picture[::4, ::4])):
            file.write(
                pixels, tile=(64, 64), photometric="rgb", compression="zlib", subfiletype=min(number, 1)
            )
    assert len(openslide.OpenSlide(tmp_path / "a.tif").level_dimensions) == 3
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        assert np.array_equal(slide.read_box(64, 64, 128, 128, (128, 128)), picture[64:192, 64:192])
        assert np.array_equal(slide.read_box(0, 0, 512, 512, (128, 128)), picture[::4, ::4])
        half = slide.read_box(0, 0, 512, 512, (256, 256)).astype(int)
    assert np.abs(half - picture[::2, ::2]).max() < 8


def test_boxes_larger_than_one_read_are_put_together(tmp_path: Path) -> None:
    picture = np.repeat(np.repeat(ramp(1250, 40), 4, axis=0), 4, axis=1)
    write_tiff(tmp_path / "a.tif", picture, levels=1, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_box(0, 0, 5000, 160, (5000, 160)), picture)
        small = slide.read_box(0, 0, 5000, 160, (1250, 40))
    assert np.abs(small.astype(int) - ramp(1250, 40)).max() <= 2


def test_unscanned_pixels_take_the_background_colour_before_resampling(tmp_path: Path) -> None:
    colour = (200, 60, 120)
    picture = np.full((512, 512, 3), colour, dtype=np.uint8)
    write_mirax(
        tmp_path / "a.mrxs",
        picture,
        origin=(256, 256),
        tile=128,
        quality=None,
        levels=1,
        background=(240, 230, 220),
    )
    with openslide.OpenSlide(tmp_path / "a.mrxs") as raw:
        assert raw.read_region((0, 0), 0, (1, 1)).convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    with Slide(tmp_path / "a.mrxs") as slide:
        assert slide.background == (240, 230, 220)
        assert (slide.read_box(0, 0, 128, 128, (128, 128)) == (240, 230, 220)).all()
        edge = slide.read_box(128, 300, 256, 128, (37, 19))
    low, high = np.minimum(colour, (240, 230, 220)), np.maximum(colour, (240, 230, 220))
    # Bicubic overshoots by a few grey levels at an edge; black seeping in would be off by a hundred.
    assert (edge >= low - 8).all()
    assert (edge <= high + 8).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 5, (1, 1)), (0, 0, 5, 5, (1, 0)), (0, 0, -1, 5, (1, 1))])
def test_an_empty_box_is_refused(tmp_path: Path, box: tuple[int, int, int, int, tuple[int, int]]) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64))
    with Slide(tmp_path / "a.tif") as slide, pytest.raises(ValueError, match="is empty"):
        slide.read_box(*box)


def test_thumbnail_shows_the_bounds(tmp_path: Path) -> None:
    picture = ramp(1024, 512)
    write_mirax(tmp_path / "a.mrxs", picture, origin=(1280, 512), quality=None)
    with Slide(tmp_path / "a.mrxs") as slide:
        thumbnail = slide.thumbnail(128)
        assert slide.thumbnail(5000).shape == (512, 1024, 3)
    assert thumbnail.shape == (64, 128, 3)
    assert np.abs(thumbnail.astype(int) - picture[4::8, 4::8]).max() <= 3


@pytest.mark.slide
def test_the_real_slide_is_read_as_openslide_reads_it(real_slide: Path) -> None:
    with openslide.OpenSlide(real_slide) as raw:
        expected = np.asarray(raw.read_region((500, 700), 0, (400, 300)).convert("RGB"))
    with Slide(real_slide) as slide:
        assert slide.size == (2220, 2967)
        assert slide.bounds == Box(0, 0, 2220, 2967)
        assert slide.mpp == 0.499
        assert np.array_equal(slide.read_box(500, 700, 400, 300, (400, 300)), expected)


# Bounds and scale


def test_bounds_are_the_scanned_area(tmp_path: Path) -> None:
    write_mirax(tmp_path / "a.mrxs", noise(512, 256), origin=(1024, 768))
    with Slide(tmp_path / "a.mrxs") as slide:
        assert slide.bounds == Box(1024, 768, 512, 256)
        assert slide.size == (2560, 1792)


def test_bounds_without_a_declared_area_are_the_whole_slide(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(300, 200))
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.bounds == Box(0, 0, 300, 200)


def test_a_slide_without_scale_opens_and_names_the_option(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=None)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.read_box(0, 0, 8, 8, (8, 8)).shape == (8, 8, 3)
        with pytest.raises(SlideScaleError, match=r"a\.tif does not say .* --mpp"):
            _ = slide.mpp
    with Slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert slide.mpp == 0.25


@pytest.mark.parametrize("dpi", [72, 96, 300, 600])
def test_a_print_resolution_is_not_taken_for_a_scale(tmp_path: Path, dpi: int) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=25_400 / dpi)
    with Slide(tmp_path / "a.tif") as slide, pytest.raises(SlideScaleError, match="--mpp"):
        _ = slide.mpp


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_an_override_that_is_no_scale_is_refused(tmp_path: Path, mpp: float) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64))
    with pytest.raises(SlideScaleError, match="no scale"):
        Slide(tmp_path / "a.tif", mpp=mpp)


def test_pixels_that_are_not_square_are_warned_of(tmp_path: Path) -> None:
    write_mirax(tmp_path / "a.mrxs", noise(64, 64), mpp=0.25, tile=64)
    description = tmp_path / "a" / "Slidedat.ini"
    text = description.read_text().replace("PIXEL_Y = 0.25", "PIXEL_Y = 0.3")
    description.write_text(text)
    with Slide(tmp_path / "a.mrxs") as slide:
        assert slide.mpp == pytest.approx(0.275)
        assert len(slide.warnings) == 1
        assert "not square (0.25 x 0.3 µm)" in slide.warnings[0]
    with Slide(tmp_path / "a.mrxs", mpp=0.25) as slide:
        assert slide.warnings == ()


def test_a_scale_finer_than_any_scanner_is_refused_and_names_the_option(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=0.025)
    with Slide(tmp_path / "a.tif") as slide, pytest.raises(SlideScaleError, match="--mpp"):
        _ = slide.mpp
    with Slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert slide.mpp == 0.25


def test_a_slide_finer_by_more_than_five_times_is_warned_of(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=0.1)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.scale_warning(0.5) is None
        assert "shrunk 8 times" in (slide.scale_warning(0.8) or "")


def test_a_slide_coarser_by_more_than_a_quarter_is_warned_of(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=0.5)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.scale_warning(0.5) is None
        assert slide.scale_warning(0.41) is None
        warning = slide.scale_warning(0.2425)
    assert warning is not None
    assert "a.tif has 0.5 µm/px" in warning


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(300, 200, seed=1))
    shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif")
    write_tiff(tmp_path / "c.tif", noise(300, 200, seed=2))
    marks = []
    for name in "abc":
        with Slide(tmp_path / f"{name}.tif") as slide:
            marks.append(slide.fingerprint)
    assert marks[0] == marks[1] != marks[2]


def test_a_format_without_quickhash_has_a_fingerprint_too(tmp_path: Path) -> None:
    # OpenSlide gives no hash where the smallest level is large.
    for name, seed in (("a", 1), ("b", 2)):
        write_tiff(tmp_path / f"{name}.tif", noise(1536, 1536, seed=seed), levels=1, quality=None)
    with Slide(tmp_path / "a.tif") as a, Slide(tmp_path / "b.tif") as b:
        assert a.fingerprint.startswith("sha256-ends:")
        assert a.fingerprint != b.fingerprint


# Errors


@pytest.mark.parametrize("compression", [50001, 34712, 52546], ids=["webp", "jpeg 2000", "jpeg xl"])
def test_a_copy_is_no_remedy_for_what_is_not_supported(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, noise(128, 128), tile=64, levels=1)
    claim(path, 259, compression)
    with pytest.raises(SlideUnreadableError, match=r"OpenSlide cannot read.*convert it") as error:
        Slide(path)
    assert "again" not in str(error.value)


def test_capitals_are_named_where_they_are_what_is_wrong(tmp_path: Path) -> None:
    write_mirax(tmp_path / "a.mrxs", noise(128, 128), tile=64)
    (tmp_path / "a.mrxs").rename(tmp_path / "a.MRXS")
    if (tmp_path / "a.mrxs").exists():
        pytest.skip("file names are the same in capitals here")
    with pytest.raises(SlideUnreadableError, match=r"Rename it to a\.mrxs"):
        Slide(tmp_path / "a.MRXS")


@pytest.mark.parametrize(
    ("tag", "value", "said"), [(325, 1 << 44, "a tile of 17592186044416 bytes"), (322, 1 << 31, "tiles of")]
)
def test_what_a_file_cannot_hold_is_not_asked_of_openslide(
    tmp_path: Path, tag: int, value: int, said: str
) -> None:
    write_tiff(tmp_path / "a.tif", noise(256, 256), tile=64)
    claim(tmp_path / "a.tif", tag, value)
    with pytest.raises(SlideUnreadableError, match=said):
        Slide(tmp_path / "a.tif")


def test_a_missing_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError, match=r"no slide .*gone\.svs"):
        Slide(tmp_path / "gone.svs")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.svs").mkdir()
    with pytest.raises(SlideUnreadableError, match=r"a\.svs is a folder"):
        Slide(tmp_path / "a.svs")


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as a user to whom permissions apply."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_slide_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, noise(64, 64))
    path.chmod(0)
    with unprivileged(), pytest.raises(SlideUnreadableError, match=r"a\.tif may not be read .*permissions"):
        Slide(path)


def test_an_mrxs_without_its_folder_is_not_its_preview_picture(tmp_path: Path) -> None:
    write_mirax(tmp_path / "a.mrxs", noise(256, 256))
    shutil.rmtree(tmp_path / "a")
    with openslide.open_slide(tmp_path / "a.mrxs") as preview:
        assert preview.dimensions == (64, 64)
    with pytest.raises(SlideUnreadableError, match=r"a\.mrxs lacks the folder a beside it"):
        Slide(tmp_path / "a.mrxs")


def test_an_mrxs_whose_pixels_are_gone(tmp_path: Path) -> None:
    write_mirax(tmp_path / "a.mrxs", noise(256, 256))
    (tmp_path / "a" / "Data0000.dat").unlink()
    with pytest.raises(SlideUnreadableError, match=r"a\.mrxs does not open as a slide .*Data0000"):
        Slide(tmp_path / "a.mrxs")


def test_a_truncated_slide(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(256, 256))
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideUnreadableError, match=r"a\.tif is truncated"):
        Slide(tmp_path / "a.tif")


@pytest.mark.slide
def test_the_real_slide_truncated(real_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(real_slide.read_bytes()[:500_000])
    with pytest.raises(SlideUnreadableError, match=r"a\.svs is truncated"):
        Slide(tmp_path / "a.svs")


def test_a_text_named_like_a_slide(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("not a slide at all, but long enough for any header")
    with pytest.raises(SlideUnreadableError, match=r"a\.svs is not a slide in a format"):
        Slide(tmp_path / "a.svs")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    with pytest.raises(SlideUnreadableError, match=r"a\.svs is empty"):
        Slide(tmp_path / "a.svs")


def test_a_picture_is_no_slide(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.tif")
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.jpg")
    with pytest.raises(SlideUnreadableError, match=r"a\.tif is a TIFF but no tiled slide"):
        Slide(tmp_path / "a.tif")
    with pytest.raises(SlideUnreadableError, match=r"a\.jpg is not a slide"):
        Slide(tmp_path / "a.jpg")


def test_a_closed_slide_says_so(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(64, 64))
    slide = Slide(tmp_path / "a.tif")
    slide.close()
    slide.close()
    with pytest.raises(SlideUnreadableError, match="was closed"):
        slide.read_box(0, 0, 8, 8, (8, 8))


# Damage and threads


def damaged_slide(path: Path) -> NDArray[np.uint8]:
    """Write a slide of 8 × 8 tiles of 64 px, one of which, (column 3, row 2), is no JPEG any more."""
    picture = noise(512, 512)
    write_tiff(path, picture, tile=64, levels=1)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[2 * 8 + 3], tiff.pages[0].databytecounts[2 * 8 + 3]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    return picture


def test_one_damaged_tile_spoils_only_what_needs_it(tmp_path: Path) -> None:
    damaged_slide(tmp_path / "a.tif")
    failed = []
    with Slide(tmp_path / "a.tif") as slide:
        for row, column in np.ndindex(8, 8):
            try:
                slide.read_box(column * 64, row * 64, 64, 64, (64, 64))
            except SlideUnreadableError as error:
                assert str(tmp_path / "a.tif") in str(error)
                assert "64 x 64 px at (192, 128)" in str(error)
                failed.append((row, column))
    assert failed == [(2, 3)]


def test_threads_reading_a_damaged_slide_fail_only_where_it_is_damaged(tmp_path: Path) -> None:
    damaged_slide(tmp_path / "a.tif")
    boxes = [(row, column) for _ in range(6) for row, column in np.ndindex(8, 8)]
    with Slide(tmp_path / "a.tif") as slide:

        def read(place: tuple[int, int]) -> bytes | None:
            row, column = place
            try:
                return slide.read_box(column * 64, row * 64, 64, 64, (64, 64)).tobytes()
            except SlideUnreadableError:
                return None

        serial = [read(box) for box in boxes]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(read, boxes)) == serial
    assert sum(tile is None for tile in serial) == 6


def test_threads_read_what_one_thread_reads(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(1024, 1024), tile=128)
    rng = np.random.default_rng(0)
    boxes = [(*map(int, rng.integers(-50, 900, 2)), int(rng.integers(40, 300))) for _ in range(80)]
    with Slide(tmp_path / "a.tif") as slide:

        def read(box: tuple[int, int, int]) -> bytes:
            x, y, side = box
            return slide.read_box(x, y, side, side, (96, 96)).tobytes()

        serial = [read(box) for box in boxes]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(read, boxes)) == serial
