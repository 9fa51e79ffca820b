"""Coverage of squares is exact, whatever a region looks like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry

from herohe_model.errors import CancelledError, RegionError
from herohe_model.sampling.coverage import grid_coverage, polygons, valid_area


def star(seed: int, centre: tuple[float, float], radius: float, points: int = 40) -> Polygon:
    """A frayed outline around a centre, with a hole."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    radii = radius * rng.uniform(0.4, 1.0, points)
    outline = np.column_stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)])
    hole = np.array(centre) + (outline - centre) * 0.3
    return Polygon(outline, [hole])


def edges(start: int, step: float, count: int) -> NDArray[np.int64]:
    return start + np.floor(np.arange(count) * step + 0.5).astype(np.int64)


# What a geometry means


def test_a_bow_tie_means_both_its_lobes() -> None:
    assert valid_area(Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])).area == pytest.approx(50)


def test_an_outline_that_crosses_over_itself_counts_once() -> None:
    # A square of 20 whose last stroke runs through its inside.
    loop = Polygon([(0, 0), (20, 0), (20, 10), (5, 10), (5, -5), (10, -5), (10, 20), (0, 20)])
    assert not loop.is_valid
    area = valid_area(loop)
    assert area.is_valid
    assert area.contains(Point(7, 5))
    assert area.area == pytest.approx(20 * 10 + 10 * 10 + 5 * 5)


def test_overlapping_polygons_count_once() -> None:
    overlapping = MultiPolygon([box(0, 0, 10, 10), box(5, 0, 15, 10)])
    assert not overlapping.is_valid
    assert valid_area(overlapping).area == pytest.approx(150)


def test_a_hole_that_leaves_its_polygon_still_is_a_hole() -> None:
    shape = Polygon([(0, 0), (10, 0), (10, 10), (0, 10)], [[(5, 5), (15, 5), (15, 8), (5, 8)]])
    assert valid_area(shape).area == pytest.approx(85)


def test_points_and_lines_have_no_area() -> None:
    mixed = GeometryCollection([box(0, 0, 2, 2), LineString([(0, 0), (50, 50)]), Point(9, 9)])
    assert valid_area(mixed).area == pytest.approx(4)
    assert valid_area(LineString([(0, 0), (5, 5)])).is_empty
    assert valid_area(Polygon()).is_empty


def test_polygons_are_found_in_nested_collections() -> None:
    nested = GeometryCollection([GeometryCollection([MultiPolygon([box(0, 0, 1, 1), box(2, 2, 3, 3)])])])
    assert sorted(p.bounds for p in polygons(nested)) == [(0, 0, 1, 1), (2, 2, 3, 3)]


def test_coordinates_that_are_no_numbers_are_refused() -> None:
    for odd in (math.nan, math.inf, -math.inf):
        with np.errstate(invalid="ignore"):  # shapely warns when such a polygon is made
            shape = Polygon([(0, 0), (odd, 5), (5, 5)])
        with pytest.raises(RegionError, match="not finite"):
            valid_area(shape)


# Shares of squares

REGIONS = {
    "rectangle": box(100, 130, 700, 555),
    "ellipse": shapely.affinity.scale(Point(500, 420).buffer(100, quad_segs=16), 4.0, 3.0),
    "star with a hole": star(1, (500, 400), 380),
    "many parts": MultiPolygon(
        [box(x, y, x + 61, y + 47) for x in range(0, 900, 97) for y in range(0, 800, 83)]
    ),
    "overlapping parts": MultiPolygon([star(s, (300 + 90 * s, 400), 250) for s in range(4)]),
    "thin diagonal": LineString([(0, 0), (1000, 800)]).buffer(7),
    "larger than the grid": box(-500, -500, 5000, 5000),
    "elsewhere": box(5000, 5000, 6000, 6000),
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS.keys())
@pytest.mark.parametrize("step", [32.0, 33.3, 97.75])
def test_shares_are_those_of_one_square_at_a_time(region: BaseGeometry, step: float) -> None:
    area = valid_area(region)
    size = round(step)
    x, y = edges(3, step, int(900 / step)), edges(-20, step, int(800 / step))
    share = grid_coverage(area, x, y, size)
    expected = [[area.intersection(box(a, b, a + size, b + size)).area / size**2 for a in x] for b in y]
    assert share.shape == (len(y), len(x))
    assert np.abs(share - expected).max() < 1e-9


@pytest.mark.parametrize("name", ["star with a hole", "overlapping parts"])
def test_shares_are_those_of_counted_pixels(name: str) -> None:
    area = valid_area(REGIONS[name])
    size, count = 50, 16
    grid = edges(0, size, count)
    share = grid_coverage(area, grid, grid, size)
    centres = np.arange(size * count) + 0.5
    inside = shapely.contains_xy(area, *np.meshgrid(centres, centres))
    counted = inside.reshape(count, size, count, size).mean(axis=(1, 3))
    assert np.abs(share - counted).max() < 0.02
    assert abs(share.sum() - counted.sum()) < 0.05


def test_an_empty_grid_or_region_has_no_shares() -> None:
    none = np.empty(0, dtype=np.int64)
    assert grid_coverage(box(0, 0, 1, 1), none, none, 10).shape == (0, 0)
    assert not grid_coverage(Polygon(), edges(0, 10, 3), edges(0, 10, 2), 10).any()


def test_cutting_can_be_stopped() -> None:
    def stop() -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        grid_coverage(REGIONS["star with a hole"], edges(0, 10, 80), edges(0, 10, 80), 10, stop)
