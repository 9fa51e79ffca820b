"""Geometries of GeoJSON: their types, and shapes made of them."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from herohe_model.errors import RegionError

EXPORT_AGAIN: Final = "Export it again from QuPath (File > Export objects as GeoJSON)"
"""Remedy for a text that is no GeoJSON of QuPath's."""

_MAX_COORDINATE: Final = 2**31
_ELLIPSE_CORNERS: Final = 100
"""As QuPath draws an ellipse; one with clearly fewer was written by its bounds."""

_Place = Annotated[list[float], msgspec.Meta(max_length=4)]


class _Point(msgspec.Struct, frozen=True, tag_field="type", tag="Point"):
    coordinates: _Place


class _MultiPoint(msgspec.Struct, frozen=True, tag_field="type", tag="MultiPoint"):
    coordinates: list[_Place]


class _LineString(msgspec.Struct, frozen=True, tag_field="type", tag="LineString"):
    coordinates: list[_Place]


class _MultiLineString(msgspec.Struct, frozen=True, tag_field="type", tag="MultiLineString"):
    coordinates: list[list[_Place]]


class _Polygon(msgspec.Struct, frozen=True, tag_field="type", tag="Polygon"):
    coordinates: list[list[_Place]]
    isEllipse: Any = False


class _MultiPolygon(msgspec.Struct, frozen=True, tag_field="type", tag="MultiPolygon"):
    coordinates: list[list[list[_Place]]]


class _GeometryCollection(msgspec.Struct, frozen=True, tag_field="type", tag="GeometryCollection"):
    geometries: list[Geometry]


Geometry = (
    _Point | _MultiPoint | _LineString | _MultiLineString | _Polygon | _MultiPolygon | _GeometryCollection
)


def build_geometry(given: Geometry, origin: NDArray[np.float64], where: str) -> BaseGeometry:
    """Build a geometry, moved by `origin`, (x, y); rings and lines too short to be one are left out.

    Raises
    ------
    RegionError
        If its coordinates are no pairs of numbers, or lie where no slide reaches; begins with `where`.
    """

    def points(places: list[list[float]]) -> NDArray[np.float64]:
        return _points(places, origin, where)

    match given:
        case _Point():
            return shapely.Point(points([given.coordinates])[0]) if given.coordinates else shapely.Point()
        case _MultiPoint():
            return shapely.MultiPoint(points(given.coordinates))
        case _LineString():
            return _line(points(given.coordinates))
        case _MultiLineString():
            lines = [_line(points(line)) for line in given.coordinates]
            return shapely.MultiLineString([line for line in lines if not line.is_empty])
        case _Polygon():
            polygon = _polygon([points(ring) for ring in given.coordinates])
            return _ellipse(polygon) if given.isEllipse is True else polygon
        case _MultiPolygon():
            parts = [_polygon([points(ring) for ring in rings]) for rings in given.coordinates]
            return shapely.MultiPolygon([part for part in parts if not part.is_empty])
        case _GeometryCollection():
            return shapely.GeometryCollection(
                [build_geometry(part, origin, where) for part in given.geometries]
            )


def _polygon(rings: list[NDArray[np.float64]]) -> BaseGeometry:
    if not rings or len(rings[0]) < 3:
        return shapely.Polygon()
    return shapely.Polygon(rings[0], [ring for ring in rings[1:] if len(ring) >= 3])


def _ellipse(drawn: BaseGeometry) -> BaseGeometry:
    """Return the ellipse that a polygon stands for, as QuPath takes it: the one that fills its bounds."""
    if drawn.is_empty or shapely.get_num_coordinates(drawn) > _ELLIPSE_CORNERS / 2:
        return drawn
    x0, y0, x1, y1 = drawn.bounds
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    half = np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    corners = np.array([x0, y0]) + half + np.stack([np.cos(angles), np.sin(angles)], axis=1) * half
    return shapely.Polygon(corners)


def _line(points: NDArray[np.float64]) -> BaseGeometry:
    return shapely.LineString(points) if len(points) >= 2 else shapely.LineString()


def _points(places: list[list[float]], origin: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Return coordinates as an array of shape (n, 2), moved by `origin`."""
    if any(len(place) < 2 for place in places):
        raise RegionError(f"{where}, has coordinates that are no pairs of numbers", EXPORT_AGAIN)
    points = np.array([place[:2] for place in places], dtype=np.float64).reshape(-1, 2)
    far = np.flatnonzero((np.abs(points) >= _MAX_COORDINATE).any(axis=1))
    if len(far):
        x, y = points[far[0]].tolist()
        raise RegionError(f"{where}, has the coordinates ({x}, {y}), which no slide holds", EXPORT_AGAIN)
    return points + origin
