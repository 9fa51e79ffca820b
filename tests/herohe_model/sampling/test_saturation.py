"""Mean saturation equals what one pixel at a time gives, and is read in bounded pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from helpers.mosaic_slides import write_mosaic_tiff
from numpy.typing import NDArray

from herohe_model.errors import CancelledError
from herohe_model.sampling.saturation import foreground_downsample, mean_saturation
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff


def tissue(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Stain that fades from left to right, with texture; black and white and grey among it."""
    rng = np.random.default_rng(seed)
    fade = np.linspace(1, 0, width)[None, :, None]
    picture = 245 - fade * np.array([60, 160, 90]) + rng.normal(0, 12, (height, width, 3))
    picture[: height // 8, : width // 8] = 0
    picture[height // 2 :, : width // 8] = 128
    return np.clip(picture, 0, 255).astype(np.uint8)


def naive(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """S of HSV of every pixel that is not near black."""
    rgb = pixels.astype(np.float64)
    high, low = rgb.max(axis=-1), rgb.min(axis=-1)
    return np.divide(high - low, high, out=np.zeros_like(high), where=high >= 32)


def positions(seed: int, count: int, width: int, height: int, size: int) -> tuple[NDArray[np.int64], ...]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, width - size + 1, count), rng.integers(0, height - size + 1, count)


class Watched:
    """A slide whose reads are written down: (x, y, width, height, out)."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.reads: list[tuple[int, int, int, int, tuple[int, int]]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._slide, name)

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        self.reads.append((x, y, width, height, out))
        return self._slide.read_box(x, y, width, height, out)


def test_level_0_saturation_is_the_mean_over_pixels(tmp_path: Path) -> None:
    picture = tissue(1500, 1300)
    write_tiff(tmp_path / "a.tif", picture, quality=None)
    x, y = positions(0, 60, 1500, 1300, 101)
    with Slide(tmp_path / "a.tif") as slide:
        found = mean_saturation(slide, x, y, 101, downsample=1.0)
    each = naive(picture)
    expected = [each[b : b + 101, a : a + 101].mean() for a, b in zip(x, y, strict=True)]
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("downsample", [2.0, 8.0, 16.0])
def test_pixels_of_a_level_that_a_patch_cuts_count_by_area(tmp_path: Path, downsample: float) -> None:
    picture = tissue(1024, 768)
    write_tiff(tmp_path / "a.tif", picture, levels=5, quality=None)
    level = int(np.log2(downsample))
    with openslide.OpenSlide(tmp_path / "a.tif") as raw:
        stored = np.asarray(raw.read_region((0, 0), level, raw.level_dimensions[level]))[..., :3]
    each = np.kron(naive(stored), np.ones((int(downsample), int(downsample))))
    x, y = positions(1, 60, 1024, 768, 211)
    with Slide(tmp_path / "a.tif") as slide:
        found = mean_saturation(slide, x, y, 211, downsample=downsample)
    expected = [each[b : b + 211, a : a + 211].mean() for a, b in zip(x, y, strict=True)]
    assert np.abs(found - expected).max() < 1e-6


def test_downsamples_that_are_no_whole_numbers_work(tmp_path: Path) -> None:
    # 1000 px halve to 500, 250, 125, 63: a downsample of 15.9.
    picture = tissue(1000, 1000)
    write_tiff(tmp_path / "a.tif", picture, levels=5, quality=None)
    x, y = positions(2, 40, 980, 980, 160)
    with Slide(tmp_path / "a.tif") as slide:
        downsample = slide.level_downsamples[4]
        assert downsample != round(downsample)
        found = mean_saturation(slide, x, y, 160, downsample=downsample)
        near = mean_saturation(slide, x, y, 160, downsample=8.0)
    assert np.abs(found - near).max() < 0.02


def test_the_pyramid_decides_as_level_0_does(tmp_path: Path) -> None:
    picture = tissue(2048, 1024)
    write_tiff(tmp_path / "a.tif", picture)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(0, 1792, 64), np.arange(0, 768, 64)))
    with Slide(tmp_path / "a.tif") as slide:
        quick = mean_saturation(slide, x, y, 256, downsample=16.0)
        exact = mean_saturation(slide, x, y, 256, downsample=1.0)
    for threshold in (0.15, 0.2, 0.3):
        undecided = np.abs(exact - threshold) < 0.05
        assert ((quick >= threshold) == (exact >= threshold))[~undecided].all()
        assert 0 < (exact >= threshold).sum() < len(exact)


def test_unscanned_pixels_have_the_background_saturation(tmp_path: Path) -> None:
    picture = np.full((512, 512, 3), (200, 100, 150), dtype=np.uint8)
    write_mirax(tmp_path / "a.mrxs", picture, origin=(256, 0), tile=256, unscanned={(1, 1)}, quality=None)
    with Slide(tmp_path / "a.mrxs") as slide:
        x, y = np.array([256, 512, 128, 0]), np.array([0, 256, 0, 256])
        found = mean_saturation(slide, x, y, 256, downsample=1.0)
    assert found.tolist() == [0.5, 0.0, 0.25, 0.0]


def test_black_and_grey_have_no_saturation_and_pure_colours_have_all(tmp_path: Path) -> None:
    colours = np.array([[(0, 0, 0), (128, 128, 128), (255, 0, 0), (40, 0, 40)]], dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", np.kron(colours, np.ones((64, 64, 1), dtype=np.uint8)), quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        found = mean_saturation(slide, np.arange(4) * 64, np.zeros(4, dtype=np.int64), 64, downsample=1.0)
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_noise_near_black_has_no_saturation(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 24, (256, 256, 3), dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", noise, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        x = np.array([0, 64, 128])
        assert mean_saturation(slide, x, x, 64, downsample=1.0).tolist() == [0.0, 0.0, 0.0]


def test_patches_in_any_order_get_their_own_saturation(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue(1500, 1250), quality=None, levels=1)
    x, y = positions(3, 50, 1500, 1250, 200)
    with Slide(tmp_path / "a.tif") as slide:
        together = mean_saturation(slide, x, y, 200, downsample=1.0)
        alone = [
            mean_saturation(slide, x[i : i + 1], y[i : i + 1], 200, downsample=1.0)[0] for i in range(50)
        ]
    assert np.allclose(together, alone, rtol=0, atol=1e-12)


def test_only_what_patches_touch_is_read_and_in_bounded_pieces(tmp_path: Path) -> None:
    tiles = [np.full((512, 512, 3), (200, 100, 150), dtype=np.uint8)]
    write_mosaic_tiff(tmp_path / "a.tif", tiles, np.zeros((160, 160), dtype=np.int64))
    columns = np.arange(0, 80_000, 512)
    x = np.concatenate([columns, np.full(len(columns), 40_960)])
    y = np.concatenate([np.full(len(columns), 40_960), columns])
    with Slide(tmp_path / "a.tif") as slide:
        watched = Watched(slide)
        found = mean_saturation(watched, x, y, 512, downsample=32.0)
    assert np.abs(found - 0.5).max() < 0.01
    assert max(width * height for *_, (width, height) in watched.reads) <= 1100**2
    read = sum(width * height for *_, (width, height) in watched.reads)
    # The cross is a 1.25% of the slide; a piece around its middle holds the rectangle it spans there.
    assert read < 0.25 * 2560**2


def test_it_can_be_stopped_between_pieces(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue(2600, 1300), quality=None, levels=1)
    x, y = np.arange(0, 2400, 200), np.zeros(12, dtype=np.int64)
    reported: list[int] = []

    def progress(done: int) -> None:
        reported.append(done)
        if done:
            raise CancelledError("stopped")

    with Slide(tmp_path / "a.tif", readers=1) as slide:
        watched = Watched(slide)
        with pytest.raises(CancelledError):
            mean_saturation(watched, x, y, 200, downsample=1.0, progress=progress)
    assert reported == [0, 4]  # twelve patches, of which five are the most that a piece may hold in a row
    assert len(watched.reads) == 1


def test_more_threads_find_the_same(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue(3000, 2500), quality=80)
    x, y = positions(3, 200, 3000, 2500, 200)
    found = []
    for readers in (1, 3):
        with Slide(tmp_path / "a.tif", readers=readers) as slide:
            found.append(mean_saturation(slide, x, y, 200, downsample=1.0))
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("downsamples", "size", "expected"),
    [
        ((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0), 512, 32.0),
        ((1.0, 4.0, 16.0, 64.0), 512, 16.0),
        ((1.0, 4.0003, 16.0012, 32.0043), 512, 32.0043),
        ((1.0, 40.0), 512, 40.0),
        ((1.0, 4.0, 64.0), 512, 4.0),
        ((1.0,), 512, 1.0),
        ((1.0, 2.0, 4.0), 20, 1.0),
        ((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 1024, 64.0),
        ((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), 256, 16.0),
    ],
)
def test_the_level_shows_a_patch_about_sixteen_pixels_wide(
    downsamples: tuple[float, ...], size: int, expected: float
) -> None:
    assert foreground_downsample(downsamples, size) == expected
