"""Synthetic slides are what OpenSlide, tifffile and the tests take them for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from helpers.mosaic_slides import write_mosaic_tiff
from numpy.typing import NDArray

from herohe_model.synthetic.slides import write_mirax, write_tiff, write_tiled_tiff


def patchwork(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of coloured squares of 16 px."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    return np.kron(colours, np.ones((16, 16, 1))).astype(np.uint8)[:height, :width]


def stored(slide: openslide.OpenSlide, level: int) -> NDArray[np.uint8]:
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))


def test_lossless_tiff_holds_the_picture_and_its_averages(tmp_path: Path) -> None:
    picture = patchwork(1024, 768)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)
        assert np.array_equal(stored(slide, 0)[..., :3], picture)
        # Squares of one colour stay one pixel of that colour down to downsample 16.
        assert np.array_equal(stored(slide, 3)[..., :3], picture[::8, ::8])


def test_each_level_is_the_one_below_averaged_over_two_by_two(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", picture, tile=64, levels=3, quality=None)
    expected = picture
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        for level in range(3):
            assert np.array_equal(stored(slide, level)[..., :3], expected)
            height, width, _ = expected.shape
            blocks = expected.reshape(height // 2, 2, width // 2, 2, 3)
            expected = np.rint(blocks.mean(axis=(1, 3)))


def test_tifffile_reads_what_openslide_reads(tmp_path: Path) -> None:
    picture = patchwork(500, 300)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), picture)


def test_jpeg_tiles_are_close_to_the_picture(tmp_path: Path) -> None:
    picture = patchwork(1024, 768)
    write_tiff(tmp_path / "a.tif", picture)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert np.abs(stored(slide, 0)[..., :3].astype(int) - picture).max() <= 8


@pytest.mark.parametrize("mpp", [0.2425, 0.499, 1.0, 3.88])
def test_tiff_scale_is_what_was_asked(tmp_path: Path, mpp: float) -> None:
    write_tiff(tmp_path / "a.tif", patchwork(64, 64), mpp=mpp)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(mpp, rel=1e-9)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(mpp, rel=1e-9)


def test_tiff_without_scale_has_none(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", patchwork(64, 64), mpp=None)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert openslide.PROPERTY_NAME_MPP_X not in slide.properties


def test_streamed_tiles_make_the_same_file_as_the_picture(tmp_path: Path) -> None:
    picture = patchwork(512, 256)
    write_tiff(tmp_path / "a.tif", picture, tile=64)
    write_tiled_tiff(
        tmp_path / "b.tif", (512, 256), lambda c, r: picture[r * 64 :, c * 64 :][:64, :64], tile=64
    )
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_mosaic_shows_its_layout_on_every_level(tmp_path: Path) -> None:
    tiles = [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in ((255, 255, 255), (200, 40, 120))]
    layout = np.random.default_rng(2).integers(0, 2, (24, 32))
    write_mosaic_tiff(tmp_path / "a.tif", tiles, layout, quality=None)
    picture = np.array([t[0, 0] for t in tiles])[layout]
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.dimensions == (32 * 64, 24 * 64)
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0, 16.0)
        for level in range(5):
            step = 64 >> level
            assert np.array_equal(stored(slide, level)[::step, ::step, :3], picture)


def test_huge_mosaic_is_a_small_file(tmp_path: Path) -> None:
    tiles = [np.full((512, 512, 3), colour, dtype=np.uint8) for colour in ((255, 255, 255), (200, 40, 120))]
    layout = np.indices((313, 313)).sum(axis=0) // 8 % 2
    write_mosaic_tiff(tmp_path / "a.tif", tiles, layout)
    assert (tmp_path / "a.tif").stat().st_size < 5_000_000
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.dimensions == (313 * 512, 313 * 512)
        for row, column in ((0, 0), (5, 2), (312, 300)):
            pixel = slide.read_region((column * 512 + 100, row * 512 + 100), 0, (1, 1)).getpixel((0, 0))
            assert np.abs(np.subtract(pixel[:3], tiles[layout[row, column]][0, 0])).max() <= 2


@pytest.mark.parametrize("quality", [None, 90])
def test_mirax_has_its_picture_inside_a_canvas(tmp_path: Path, quality: int | None) -> None:
    picture = patchwork(512, 768)
    write_mirax(
        tmp_path / "a.mrxs", picture, origin=(300 * 4, 300 * 7), tile=100, quality=quality, mpp=0.2425
    )
    with openslide.OpenSlide(tmp_path / "a.mrxs") as slide:
        bounds = [int(slide.properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height")]
        assert bounds == [1200, 2100, 600, 800]
        assert slide.dimensions == (3000, 5000)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == 0.2425
        inside = np.asarray(slide.read_region((1200, 2100), 0, (512, 768)))
        assert (inside[..., 3] == 255).all()
        assert np.abs(inside[..., :3].astype(int) - picture).mean() <= (0 if quality is None else 2)
        outside = np.asarray(slide.read_region((1100, 2000), 0, (100, 900)))
        assert (outside == 0).all()


def test_mirax_levels_lie_over_each_other(tmp_path: Path) -> None:
    picture = np.full((1024, 1024, 3), (200, 40, 120), dtype=np.uint8)
    picture[:, 512:] = (40, 90, 200)
    write_mirax(tmp_path / "a.mrxs", picture, origin=(7 * 64, 9 * 64), tile=64, levels=6, quality=None)
    with openslide.OpenSlide(tmp_path / "a.mrxs") as slide:
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
        for level in range(6):
            side = 1024 >> level
            shown = np.asarray(slide.read_region((7 * 64, 9 * 64), level, (side, side)))[..., :3]
            assert np.array_equal(shown, picture[:: 1 << level, :: 1 << level])


def test_mirax_has_holes_and_a_background_colour(tmp_path: Path) -> None:
    write_mirax(
        tmp_path / "a.mrxs",
        patchwork(384, 384),
        tile=128,
        unscanned={(1, 1)},
        background=(250, 240, 230),
        quality=None,
    )
    with openslide.OpenSlide(tmp_path / "a.mrxs") as slide:
        assert slide.properties[openslide.PROPERTY_NAME_BACKGROUND_COLOR] == "FAF0E6"
        alpha = stored(slide, 0)[..., 3]
        assert (alpha[128:256, 128:256] == 0).all()
        assert (alpha == 0).sum() == 128 * 128


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiff(tmp_path / f"{name}.tif", patchwork(300, 200))
        write_mirax(tmp_path / f"{name}.mrxs", patchwork(300, 200))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"picture": np.zeros((8, 8), np.uint8)}, "a picture is uint8"),
        ({"tile": 100}, "multiple of 16"),
        ({"levels": 0}, "at least one level"),
        ({"mpp": 0.0}, "above 0"),
    ],
)
def test_tiff_refuses_what_means_nothing(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_tiff(tmp_path / "a.tif", **{"picture": patchwork(64, 64), **arguments})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a.mrxs", {"origin": (10, 0)}, "not a multiple"),
        ("a.mrxs", {"canvas": (10, 10)}, "does not fit"),
        ("a.tif", {}, "named \\*.mrxs"),
    ],
)
def test_mirax_refuses_what_means_nothing(
    tmp_path: Path, name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_mirax(tmp_path / name, patchwork(64, 64), **arguments)
    assert list(tmp_path.iterdir()) == []
