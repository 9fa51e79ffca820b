"""Composites are drawn by the stated rules, the same everywhere, and put together cell by cell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from herohe_model.sampling.composite import assemble, draw_composites, read_composite
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiff

PINNED = [
    [23, 7, 0, 26, 19, 18, 9, 29, 17, 4, 25, 3, 21, 28, 24, 16, 2, 14, 20, 27, 12, 1, 8, 22, 13],
    [5, 15, 6, 11, 10, 28, 17, 0, 14, 12, 9, 4, 21, 27, 22, 7, 24, 23, 19, 26, 16, 3, 20, 25, 13],
]
PINNED_FEW = [[3, 2, 1, 6, 0, 4, 5, 4, 6]]
COUNTS = [1, 2, 7, 12, 24, 25, 26, 49, 50, 51, 60, 137, 1000]


@pytest.mark.parametrize("patches", COUNTS)
@pytest.mark.parametrize("composites", [1, 2, 8, 30])
def test_composites_cover_as_many_patches_as_they_have_cells(patches: int, composites: int) -> None:
    drawn = draw_composites(patches, composites=composites, seed=3)
    assert drawn.shape == (composites, 25)
    assert drawn.dtype == np.int64
    assert len(np.unique(drawn)) == min(patches, composites * 25)
    assert drawn.min() >= 0
    assert drawn.max() < patches


@pytest.mark.parametrize("patches", COUNTS)
def test_all_shows_every_patch_in_as_few_composites_as_can(patches: int) -> None:
    drawn = draw_composites(patches, composites=None, seed=3)
    assert len(drawn) == -(-patches // 25)
    assert set(drawn.ravel().tolist()) == set(range(patches))


@pytest.mark.parametrize("patches", [n for n in COUNTS if n >= 25])
def test_no_composite_holds_a_patch_twice_while_there_are_enough(patches: int) -> None:
    for row in draw_composites(patches, composites=40, seed=1):
        assert len(set(row.tolist())) == 25


@pytest.mark.parametrize("patches", [n for n in COUNTS if n < 25])
def test_with_fewer_patches_each_composite_repeats_them_evenly(patches: int) -> None:
    drawn = draw_composites(patches, composites=12, seed=1)
    for row in drawn:
        counts = Counter(row.tolist())
        assert len(counts) == patches
        assert max(counts.values()) - min(counts.values()) <= 1
    total = Counter(drawn.ravel().tolist())
    assert max(total.values()) - min(total.values()) <= 1


@pytest.mark.parametrize("patches", [26, 60, 137])
def test_patches_are_used_equally_often(patches: int) -> None:
    total = Counter(draw_composites(patches, composites=60, seed=5).ravel().tolist())
    assert max(total.values()) - min(total.values()) <= 2


@pytest.mark.parametrize("patches", [3, 25, 60])
def test_fewer_composites_are_the_first_of_more(patches: int) -> None:
    many = draw_composites(patches, composites=20, seed=9)
    assert np.array_equal(draw_composites(patches, composites=4, seed=9), many[:4])


def test_the_draw_is_this_one_on_every_platform() -> None:
    drawn = draw_composites(30, composites=2, seed=2026)
    assert drawn.tolist() == PINNED
    assert draw_composites(7, composites=1, seed=0, cells=9).tolist() == PINNED_FEW


def test_seeds_differ_and_repeat() -> None:
    first = draw_composites(200, composites=3, seed=1)
    assert np.array_equal(first, draw_composites(200, composites=3, seed=1))
    assert not np.array_equal(first, draw_composites(200, composites=3, seed=2))
    assert draw_composites(200, composites=1, seed=2**63 - 1).shape == (1, 25)


def test_every_patch_is_drawn_as_often_as_another_over_many_seeds() -> None:
    first = np.array([draw_composites(100, composites=1, seed=s)[0] for s in range(2000)])
    counts = np.bincount(first.ravel(), minlength=100)
    # Binomial with mean 500 and standard deviation 19.4.
    assert np.abs(counts - 500).max() < 5 * 19.4


@pytest.mark.parametrize("arguments", [(0, 1, 0, 25), (5, 0, 0, 25), (5, 1, -1, 25), (5, 1, 0, 0)], ids=str)
def test_a_draw_that_means_nothing_is_refused(arguments: tuple[int, int, int, int]) -> None:
    patches, composites, seed, cells = arguments
    with pytest.raises(ValueError, match="cannot draw"):
        draw_composites(patches, composites=composites, seed=seed, cells=cells)


def test_cells_stand_row_by_row() -> None:
    patches = np.arange(25, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), dtype=np.uint8)
    patches[:, 0, :, 0] = 100  # the upper edge of each
    patches[:, :, 0, 1] = 200  # the left edge
    picture = assemble(patches)
    assert picture.shape == (20, 20, 3)
    for cell in range(25):
        row, column = divmod(cell, 5)
        assert np.array_equal(picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4], patches[cell])


def test_cells_that_make_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="do not make a square"):
        assemble(np.zeros((24, 4, 4, 3), dtype=np.uint8))


def test_the_picture_holds_the_drawn_patches_in_their_cells(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (320, 480, 3), dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", picture, mpp=0.5, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        patches = find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.0, artefacts="ignore")
        assert len(patches) == 150
        cells = draw_composites(len(patches), composites=1, seed=4)[0]
        composite = read_composite(slide, patches, cells, patch_px=32)
    assert composite.shape == (160, 160, 3)
    assert composite.dtype == np.uint8
    expected = assemble(
        np.stack(
            [picture[y : y + 32, x : x + 32] for x, y in zip(patches.x[cells], patches.y[cells], strict=True)]
        )
    )
    assert np.array_equal(composite, expected)


def test_a_patch_that_stands_in_several_cells_is_the_same_in_each(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", picture, mpp=0.25, quality=None)
    with Slide(tmp_path / "a.tif") as slide:
        patches = find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.0, artefacts="ignore")
        cells = draw_composites(len(patches), composites=1, seed=4)[0]
        composite = read_composite(slide, patches, cells, patch_px=32)
    assert (len(patches), patches.size) == (4, 64)
    tiles = composite.reshape(5, 32, 5, 32, 3).swapaxes(1, 2).reshape(25, 32, 32, 3)
    for index in range(4):
        same = tiles[cells == index]
        assert len(same) in (6, 7)
        assert (same == same[0]).all()
