"""Patches lie in the region and on tissue, and small regions get theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from helpers.damaged_slides import claim
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from herohe_model.errors import CancelledError, RegionError, SlideScaleError
from herohe_model.sampling.patches import PatchGrid, PatchSet, find_patches
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box
from herohe_model.synthetic.slides import write_mirax, write_tiff

STAINED = (190, 95, 140)


@pytest.fixture(scope="module")
def stained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 2048 × 1536 px, all of it tissue, 0.5 µm/px."""
    path = tmp_path_factory.mktemp("slides") / "stained.tif"
    write_tiff(path, np.full((1536, 2048, 3), STAINED, dtype=np.uint8), mpp=0.5)
    return path


def find(
    path: Path, geometry: object, *, patch_px: int = 64, mpp: float = 0.5, **options: object
) -> PatchSet:
    with Slide(path) as slide:
        return find_patches(slide, geometry, patch_px=patch_px, mpp=mpp, **{"threshold": 0.1, **options})


def squares(found: PatchSet) -> NDArray[np.object_]:
    return shapely.box(found.x, found.y, found.x + found.size, found.y + found.size)


# The grid


def test_the_whole_slide_is_covered_edge_to_edge(stained: Path) -> None:
    found = find(stained, None)
    assert found.size == 64
    assert len(found) == found.covered == 32 * 24
    assert found.x.reshape(24, 32)[0].tolist() == list(range(0, 2048, 64))
    assert found.y.reshape(24, 32)[:, 0].tolist() == list(range(0, 1536, 64))
    assert (found.coverage == 1).all()
    assert found.x.dtype == found.y.dtype == np.int64
    assert found.saturation.dtype == found.coverage.dtype == np.float64


@pytest.mark.parametrize("patch_px", [64, 100, 512])
def test_an_outline_around_everything_means_the_whole_slide(stained: Path, patch_px: int) -> None:
    whole, outlined = (
        find(stained, None, patch_px=patch_px),
        find(stained, box(-10, -10, 3000, 3000), patch_px=patch_px),
    )
    for name in ("x", "y", "saturation", "coverage"):
        assert np.array_equal(getattr(whole, name), getattr(outlined, name))
    assert whole.covered == outlined.covered


def test_patches_keep_the_models_scale_without_drifting(stained: Path) -> None:
    found = find(stained, None, mpp=0.512)  # a step of 65.536 px
    assert found.size == 66
    columns = np.unique(found.x)
    assert np.abs(columns - np.arange(len(columns)) * 65.536).max() <= 0.5
    assert len(columns) == 31
    assert columns[-1] + 66 <= 2048


def test_a_finer_model_takes_smaller_patches(stained: Path) -> None:
    assert find(stained, None, mpp=0.25).size == 32


def test_the_grid_starts_at_the_bounds_of_the_slide(tmp_path: Path) -> None:
    picture = np.full((640, 640, 3), STAINED, dtype=np.uint8)
    write_mirax(tmp_path / "a.mrxs", picture, mpp=0.5, origin=(1280, 640), tile=160)
    found = find(tmp_path / "a.mrxs", None, patch_px=100)
    assert sorted(set(found.x.tolist())) == [1280 + 100 * i for i in range(6)]
    assert sorted(set(found.y.tolist())) == [640 + 100 * i for i in range(6)]


def test_a_slide_without_scale_cannot_be_sampled(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.full((64, 64, 3), STAINED, dtype=np.uint8), mpp=None)
    with pytest.raises(SlideScaleError, match="--mpp"):
        find(tmp_path / "a.tif", None)


@pytest.mark.parametrize(
    ("mpp", "said"), [(2.5, "enlarged 5 times"), (0.05, "shrunk 10 times"), (20.0, "enlarged 40 times")]
)
def test_a_scale_far_from_the_models_is_refused_on_both_sides(stained: Path, mpp: float, said: str) -> None:
    with Slide(stained, mpp=mpp) as slide, pytest.raises(SlideScaleError, match=f"{said}.*--mpp"):
        find_patches(slide, None, patch_px=64, mpp=0.5, threshold=0.1)


def test_a_slide_longer_than_any_glass_is_refused() -> None:
    claimed = SimpleNamespace(path=Path("a.tif"), mpp=0.5, bounds=Box(0, 0, 1 << 20, 64))
    with pytest.raises(SlideScaleError, match=r"524 mm long.*--mpp"):
        PatchGrid.over(claimed, patch_px=64, mpp=0.5)


# Regions

OUTLINES = {
    "ellipse": shapely.affinity.scale(Point(1000, 700).buffer(100, quad_segs=16), 7.0, 5.0),
    "with a hole": Polygon(
        [(100, 100), (1900, 100), (1900, 1400), (100, 1400)],
        [[(600, 500), (1400, 500), (1400, 900), (600, 900)]],
    ),
    "bow tie": Polygon([(100, 100), (1900, 1400), (1900, 100), (100, 1400)]),
    "overlapping": MultiPolygon([box(100, 100, 1000, 900), box(700, 500, 1800, 1400)]),
    "partly beyond the slide": box(-500, -500, 900, 900),
}


@pytest.mark.parametrize("outline", OUTLINES.values(), ids=OUTLINES.keys())
@pytest.mark.parametrize("min_coverage", [0.25, 0.5, 1.0])
def test_patches_are_those_whose_pixels_the_region_covers(
    stained: Path, outline: Polygon, min_coverage: float
) -> None:
    found = find(stained, outline, min_coverage=min_coverage)
    centres = np.arange(2048) + 0.5
    inside = shapely.contains_xy(
        shapely.make_valid(
            shapely.union_all(
                shapely.get_parts(shapely.make_valid(outline, method="structure", keep_collapsed=False))
            )
        ),
        *np.meshgrid(centres, centres[:1536]),
    )
    counted = inside.reshape(24, 64, 32, 64).mean(axis=(1, 3))
    sure = np.abs(counted - min_coverage) > 0.02
    taken = np.zeros((24, 32), dtype=bool)
    taken[found.y // 64, found.x // 64] = True
    if min_coverage == 1.0:
        assert (counted[taken] > 0.98).all()
    assert np.array_equal(taken[sure], (counted >= min_coverage)[sure])
    assert np.abs(found.coverage - counted[found.y // 64, found.x // 64]).max() < 0.02
    assert found.covered == len(found) >= 25


def test_patches_are_in_row_major_order_and_each_once(stained: Path) -> None:
    found = find(stained, OUTLINES["overlapping"])
    places = list(zip(found.y.tolist(), found.x.tolist(), strict=True))
    assert places == sorted(set(places))


def test_a_patch_covered_by_exactly_half_counts(stained: Path) -> None:
    found = find(stained, box(32, 0, 1984, 1504))
    # The first column and the last row are covered by half, the corner they share by a quarter.
    assert len(found) == 31 * 24 - 1
    assert found.coverage.min() == pytest.approx(0.5)


def test_a_region_without_area_or_outside_the_slide_has_no_patches(stained: Path) -> None:
    for geometry in (LineString([(0, 0), (2000, 1500)]), Polygon(), box(5000, 5000, 6000, 6000)):
        found = find(stained, geometry)
        assert len(found) == found.covered == 0
        assert found.size == 64


def test_a_region_of_impossible_coordinates_is_refused(stained: Path) -> None:
    with pytest.raises(RegionError, match="not finite"):
        find(stained, Polygon([(0, 0), (float("inf"), 100), (100, 100)]))


# Foreground


def island(path: Path, x: int, y: int, width: int, height: int) -> Path:
    """Write a slide of glass with a rectangle of tissue."""
    picture = np.full((1024, 1024, 3), 244, dtype=np.uint8)
    picture[y : y + height, x : x + width] = STAINED
    write_tiff(path, picture, mpp=0.5)
    return path


@pytest.mark.parametrize("exact", [False, True])
def test_only_tissue_is_foreground(tmp_path: Path, exact: bool) -> None:
    path = island(tmp_path / "a.tif", 256, 384, 320, 192)
    found = find(path, None, threshold=0.2, exact=exact)
    assert found.covered == 256
    assert len(found) == 5 * 3
    assert set(found.x.tolist()) == {256, 320, 384, 448, 512}
    assert set(found.y.tolist()) == {384, 448, 512}
    assert np.abs(found.saturation - 0.5).max() < 0.01


def test_a_patch_at_the_threshold_is_foreground(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.full((64, 64, 3), STAINED, dtype=np.uint8), mpp=0.5, quality=None)
    assert len(find(tmp_path / "a.tif", None, threshold=0.5)) == 1
    assert len(find(tmp_path / "a.tif", None, threshold=0.5000001)) == 0


def test_tissue_that_only_the_pyramid_shows_is_no_foreground(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, np.full((1024, 1024, 3), STAINED, dtype=np.uint8), mpp=0.5, tile=128)
    for row in range(4):
        for column in range(3):
            claim(path, 325, 0, index=row * 8 + column)
    found = find(path, None)
    kept = set(zip(found.x.tolist(), found.y.tolist(), strict=True))
    assert kept == {(x, y) for x in range(0, 1024, 64) for y in range(0, 1024, 64) if x >= 384 or y >= 512}
    exact = find(path, None, exact=True)
    assert np.array_equal(found.x, exact.x) and np.array_equal(found.y, exact.y)
    # A patch half over pixels that are there has half of its tissue.
    half = find(path, box(320, 0, 448, 128), patch_px=128, threshold=0.2, min_coverage=0.9)
    assert half.saturation == pytest.approx([0.25], abs=0.01)
    # Where a model reads from a level that has them, they are there.
    coarser = find(path, None, patch_px=32, mpp=1.0)
    assert len(coarser) == 256


def test_unscanned_area_is_no_foreground(tmp_path: Path) -> None:
    picture = np.full((512, 512, 3), STAINED, dtype=np.uint8)
    hole = {(column, row) for column in range(2, 6) for row in range(2, 6)}
    write_mirax(tmp_path / "a.mrxs", picture, mpp=0.5, origin=(128, 192), tile=64, unscanned=hole)
    found = find(tmp_path / "a.mrxs", box(0, 0, 2000, 2000), threshold=0.2)
    assert found.covered == 64
    assert len(found) == 64 - 16
    inside = (found.x >= 128 + 128) & (found.x < 128 + 384) & (found.y >= 192 + 128) & (found.y < 192 + 384)
    assert not inside.any()


# Regions smaller than the grid


def test_a_region_off_the_grid_gets_a_grid_of_its_own(stained: Path) -> None:
    # Two patches by two, where the slide's grid would find one.
    region = box(96, 96, 96 + 128, 96 + 128)
    found = find(stained, region, min_coverage=0.6)
    assert sorted(zip(found.x.tolist(), found.y.tolist(), strict=True)) == [
        (96, 96),
        (96, 160),
        (160, 96),
        (160, 160),
    ]
    assert (found.coverage == 1).all()


def test_a_region_smaller_than_a_patch_gets_one_around_it(stained: Path) -> None:
    found = find(stained, Point(500, 700).buffer(14))
    assert (found.x.tolist(), found.y.tolist()) == ([468], [668])
    assert found.coverage[0] == pytest.approx(np.pi * 14**2 / 64**2, rel=0.02)


def test_a_patch_around_a_region_at_the_edge_stays_in_the_slide(stained: Path) -> None:
    found = find(stained, box(0, 0, 20, 24))
    assert (found.x.tolist(), found.y.tolist()) == ([0], [0])
    found = find(stained, box(2028, 1512, 2048, 1536))
    assert (found.x.tolist(), found.y.tolist()) == ([2048 - 64], [1536 - 64])


def test_a_narrow_strip_is_sampled_along_its_length(stained: Path) -> None:
    # A core biopsy of 30 px: no patch of the slide's grid is half covered.
    strip = box(200, 401, 200 + 6 * 64, 431)
    found = find(stained, strip)
    assert found.x.tolist() == [200 + 64 * i for i in range(6)]
    assert set(found.y.tolist()) == {384}


def test_a_slip_of_the_pen_gets_no_patch(stained: Path) -> None:
    assert len(find(stained, box(300, 300, 310, 310))) == 0
    both = MultiPolygon([box(300, 300, 310, 310), box(600, 600, 640, 640)])
    assert find(stained, both).x.tolist() == [588]


def test_each_small_part_gets_its_patch_and_none_overlap(stained: Path) -> None:
    parts = [Point(150 + 173 * i, 160 + 211 * j).buffer(25) for i in range(6) for j in range(4)]
    found = find(stained, MultiPolygon(parts))
    assert len(found) == 24
    assert all(
        square.contains(part.centroid)
        for square in squares(found)
        for part in parts
        if square.intersects(part)
    )


def test_of_neighbouring_parts_the_upper_keeps_its_patch(stained: Path) -> None:
    near = MultiPolygon([box(500, 540, 540, 580), box(500, 500, 540, 530)])
    found = find(stained, near)
    assert (found.x.tolist(), found.y.tolist()) == ([488], [483])


def test_a_region_with_a_composite_of_patches_stays_on_the_slides_grid(stained: Path) -> None:
    found = find(stained, box(30, 30, 30 + 6 * 64, 30 + 6 * 64), min_coverage=0.4)
    assert len(found) >= 25
    assert (found.x % 64 == 0).all()
    assert (found.y % 64 == 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_grid_of_its_own_never_gives_fewer_patches_nor_leaves_the_slide(stained: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        centre = rng.uniform((0, 0), (2048, 1536))
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radii = rng.uniform(20, 140, 12)
        parts.append(
            Polygon(np.column_stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)]))
        )
    region = shapely.union_all(parts)
    found = find(stained, region)
    grid = [box(x, y, x + 64, y + 64) for y in range(0, 1536, 64) for x in range(0, 2048, 64)]
    on_grid = sum(region.intersection(square).area >= 0.5 * 64**2 for square in grid)
    assert len(found) >= on_grid
    for square in squares(found):
        assert box(0, 0, 2048, 1536).covers(square)
        assert square.intersects(region)
    overlaps = shapely.area(shapely.intersection(squares(found)[:, None], squares(found)))
    assert (overlaps[~np.eye(len(found), dtype=bool)] == 0).all()


# Progress and cancelling


def test_progress_ends_at_one(stained: Path) -> None:
    told: list[float] = []
    find(stained, None, patch_px=16, exact=True, progress=told.append)
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] == 1.0
    assert len(told) > 2


@pytest.mark.parametrize("after", [0, 1, 2])
def test_it_stops_when_cancelled(stained: Path, after: int) -> None:
    answers = iter([False] * after + [True])
    with pytest.raises(CancelledError, match=r"stained\.tif was cancelled"):
        find(stained, None, patch_px=16, exact=True, cancelled=lambda: next(answers))


@pytest.mark.slide
def test_the_real_slide_has_tissue_where_one_sees_it(real_slide: Path) -> None:
    found = find(real_slide, None, patch_px=256, mpp=0.499, threshold=0.07)
    assert found.covered == 8 * 11
    with Slide(real_slide) as slide:
        glass = slide.read_box(0, 0, 256, 256, (256, 256))
    assert glass.mean() > 220
    assert not ((found.x == 0) & (found.y == 0)).any()
    assert 30 < len(found) < 60
