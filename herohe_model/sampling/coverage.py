"""How much of each square of a grid a region covers: exact areas, computed only where its outline passes.

Geometry is shapely's, in level-0 px, (x, y).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from herohe_model.errors import RegionError

_BLOCKS = (64, 16, 4, 1)


def polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    """Return the non-empty polygons that a geometry is made of, however deep in collections they lie."""
    if geometry.geom_type == "Polygon":
        return [] if geometry.is_empty else [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in polygons(part)]


def valid_area(geometry: BaseGeometry) -> BaseGeometry:
    """Return the area that a geometry means, as a valid polygon or multi-polygon, which may be empty.

    Each polygon is made valid for itself, as one who drew it expects: both lobes of a bow tie count, an
    outline that crosses over itself counts once, holes stay holes. Overlapping polygons are united. Points
    and lines have no area and vanish.

    Raises
    ------
    RegionError
        If it has coordinates that are no finite numbers, or cannot be made valid.
    """
    if not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise RegionError("A region has coordinates that are not finite numbers", "Draw it again")
    try:
        if geometry.geom_type in ("Polygon", "MultiPolygon") and geometry.is_valid:
            return geometry
        valid = shapely.make_valid(polygons(geometry), method="structure", keep_collapsed=False)
        return shapely.union_all([part for area in valid for part in polygons(area)])
    except shapely.errors.GEOSException as error:
        raise RegionError(f"A region's outline cannot be made valid ({error})", "Draw it again") from error


def clipped_area(region: BaseGeometry, box: BaseGeometry) -> BaseGeometry:
    """Return the part of a valid area inside a box, as a valid multi-polygon, which may be empty.

    Raises
    ------
    RegionError
        If GEOS cannot clip it.
    """
    try:
        return MultiPolygon(polygons(shapely.intersection(region, box)))
    except shapely.errors.GEOSException as error:
        raise RegionError(f"A region's outline cannot be clipped ({error})", "Draw it again") from error


def grid_coverage(
    region: BaseGeometry,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    size: int,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """Return the share of each square's area that lies inside a region.

    Parameters
    ----------
    region
        A valid polygon or multi-polygon, as :func:`valid_area` returns it.
    x, y
        Left edges of the columns and upper edges of the rows, ascending, level-0 px.
    size
        Side of a square, level-0 px.
    check
        Called often; may raise to stop.

    Returns
    -------
    ndarray
        Shape (rows, columns), float64, 0 to 1.

    Notes
    -----
    Blocks of squares that the outline does not touch are decided at once; to the others the region is
    clipped, and they are divided into smaller blocks, down to squares. So the time does not grow with the
    number of the outline's points times the number of squares.
    """
    share = np.zeros((len(y), len(x)))
    try:
        _fill(share, region, x, y, size, _BLOCKS, check)
    except shapely.errors.GEOSException as error:
        raise RegionError(
            f"A region's outline cannot be cut into patches ({error})", "Draw it again"
        ) from error
    return np.clip(share, 0.0, 1.0, out=share)


def _fill(
    share: NDArray[np.float64],
    region: BaseGeometry,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    size: int,
    blocks: tuple[int, ...],
    check: Callable[[], None],
) -> None:
    """Fill in `share`, (rows, columns), by blocks of the first of `blocks` squares a side, then the next."""
    if share.size == 0 or region.is_empty:
        return
    block, *smaller = blocks
    left, top = x[::block], y[::block]
    right, bottom = (
        np.append(edges[block - 1 :: block], edges[-1:])[: len(first)] + size
        for edges, first in ((x, left), (y, top))
    )
    extents = shapely.box(left, top[:, None], right, bottom[:, None])
    shapely.prepare(region)
    inside = shapely.covers(region, extents)
    border = shapely.intersects(region, extents) & ~inside
    share[np.repeat(np.repeat(inside, block, axis=0), block, axis=1)[: len(y), : len(x)]] = 1.0
    if not smaller:
        share[border] = shapely.area(shapely.intersection(region, extents[border])) / float(size) ** 2
        return
    for i, j in np.argwhere(border).tolist():
        check()
        rows, columns = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
        part = clipped_area(region, extents[i, j])
        _fill(share[rows, columns], part, x[columns], y[rows], size, tuple(smaller), check)
