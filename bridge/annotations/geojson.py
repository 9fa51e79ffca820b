"""Annotations as QuPath's GeoJSON: read from a file or a message, written as QuPath would export them.

QuPath writes a FeatureCollection, a list of Features or a single Feature; child objects are nested in their
parent's properties. Versions differ in how they write classes and object types; all since 0.2 are read.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from bridge.annotations.classes import (
    MARK,
    WHOLE_IMAGE_NAME,
    Colour,
    components,
    is_own_class,
    own_colour,
    user_class,
)
from bridge.annotations.regions import Annotation
from herohe_model.errors import RegionError
from herohe_model.files import write_atomically

MAX_BYTES: Final = 1 << 30
"""Larger texts are refused: a slide's annotations take a few MB, a million exported cells less than this."""

_MAX_COORDINATE: Final = 2**31
_UNCLASSIFIED: Final[Colour] = (128, 128, 128)
_NAMESPACE: Final = uuid.UUID("d6a8b1f0-6d52-5b0e-9c53-5f3a1f7c2b11")
_LEGACY_ANNOTATION: Final = "PathAnnotationObject"
_EXPORT_AGAIN: Final = "Export it again from QuPath (File > Export objects as GeoJSON)"


def annotations_from_geojson(
    text: str | bytes, origin: tuple[float, float] = (0, 0), *, source: str = "The GeoJSON"
) -> tuple[Annotation, ...]:
    """Read the annotations of a GeoJSON text, in its order, parents before their children.

    Detections, cells, tiles and TMA cores are passed over, and so is whatever an earlier run of ours wrote. A
    feature without an identifier gets one that follows from its place and shape.

    Parameters
    ----------
    text
        UTF-8, with or without a byte order mark.
    origin
        Level-0 px of the slide where the text's (0, 0) lies: the slide's bounds, as QuPath crops to them.
    source
        What to call the text in errors.

    Raises
    ------
    RegionError
        If it is no GeoJSON, or a feature of it cannot be understood; names the place.
    """
    return tuple(annotation for annotation, _ in read_features(text, origin, source=source))


def read_features(
    text: str | bytes, origin: tuple[float, float], *, source: str, own: bool = False
) -> list[tuple[Annotation, dict[str, Any]]]:
    """Read annotations, each with the feature it comes from; see :func:`annotations_from_geojson`.

    With `own`, nothing is passed over as ours: what is read was sorted before.
    """
    try:
        features = list(enumerate(_features(_parse(text, source), source)))
        features = [item for item in features if own or not is_own_feature(item[1][1])]
        found = [
            (_annotation(item, origin, number, f"{source}, {path}"), item)
            for number, (path, item) in features
        ]
    except RecursionError as error:
        raise RegionError(f"{source} is nested too deeply", _EXPORT_AGAIN) from error
    return [(annotation, item) for annotation, item in found if annotation is not None]


def read_text(path: Path) -> bytes:
    """Return the bytes of a GeoJSON file; raises RegionError when it cannot be read or is absurdly large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RegionError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "Export the annotations only")
        return path.read_bytes()
    except OSError as error:
        raise RegionError(f"{path} cannot be read ({error.strerror})", "Check its permissions") from error


def write_annotations(
    slide_path: Path, annotations: Sequence[Annotation], origin: tuple[int, int] | None = None
) -> Path:
    """Write annotations into ``<slide>.geojson`` beside a slide, as QuPath would export them.

    Parameters
    ----------
    annotations
        Geometry in level-0 px of the slide.
    origin
        Where QuPath's (0, 0) lies; by default the upper left of the slide's bounds.
    """
    if origin is None:
        from herohe_model.slides.guarded_slide import GuardedSlide

        with GuardedSlide(slide_path) as slide:
            origin = (slide.bounds.x, slide.bounds.y)
    features = [
        feature(
            id=annotation.id,
            object_type="annotation",
            geometry=shapely.transform(annotation.geometry, lambda points: points - np.array(origin)),
            name=annotation.name,
            class_name=annotation.class_name,
        )
        for annotation in annotations
    ]
    path = slide_path.with_name(slide_path.name + ".geojson")
    write_atomically(path, collection_text(features))
    return path


def feature(
    *,
    id: str,
    object_type: str,
    geometry: BaseGeometry,
    name: str = "",
    class_name: str = "",
    colour: Colour | None = None,
    locked: bool = False,
    measurements: Mapping[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return one object as QuPath writes it; geometry in QuPath's px."""
    properties: dict[str, Any] = {"objectType": object_type}
    if name:
        properties["name"] = name
    if class_name:
        properties["classification"] = classification(class_name, colour)
    if locked:
        properties["isLocked"] = True
    if measurements:
        properties["measurements"] = dict(measurements)
    if metadata:
        properties["metadata"] = dict(metadata)
    return {
        "type": "Feature",
        "id": id,
        "geometry": shapely.geometry.mapping(geometry),
        "properties": properties,
    }


def classification(class_name: str, colour: Colour | None = None) -> dict[str, Any]:
    """Return a class as QuPath reads it: without a colour it refuses the whole file."""
    names = components(class_name)
    rgb = list(colour or own_colour(class_name) or _UNCLASSIFIED)
    return {"name": names[0], "color": rgb} if len(names) == 1 else {"names": list(names), "color": rgb}


def collection_text(features: Sequence[Mapping[str, Any]], **foreign: Any) -> bytes:
    """Return a FeatureCollection as UTF-8; `foreign` members are passed over by QuPath."""
    document = {"type": "FeatureCollection", **foreign, "features": list(features)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def class_name_of(properties: Mapping[str, Any]) -> str:
    """Return the class of a feature's properties as QuPath writes it, "" for none."""
    return ": ".join(_class_components(properties.get("classification")))


def is_own_feature(feature: Mapping[str, Any]) -> bool:
    """Whether an object is one that we made: a patch's tile, or the annotation over the whole image.

    One that was given another name or a class is the user's: they made it their own.
    """
    properties = feature.get("properties") or {}
    class_name = class_name_of(properties)
    if _object_type(feature) != "annotation":
        return is_own_class(class_name)
    metadata = properties.get("metadata")
    marked = isinstance(metadata, dict) and MARK in metadata
    return marked and properties.get("name") == WHOLE_IMAGE_NAME and not user_class(class_name)


def _parse(text: str | bytes, source: str) -> Any:
    if len(text) > MAX_BYTES:
        raise RegionError(f"{source} is larger than {MAX_BYTES >> 20} MiB", "Export the annotations only")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return json.loads(decoded)
    except UnicodeDecodeError as error:
        raise RegionError(f"{source} is not UTF-8 text (byte {error.start})", _EXPORT_AGAIN) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise RegionError(f"{source} is not JSON: {error.msg} at {place}", _EXPORT_AGAIN) from error
    except ValueError as error:
        # Python reads no integers of more than 4300 digits.
        raise RegionError(f"{source} holds a number without end", _EXPORT_AGAIN) from error


def _features(document: Any, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all features with their place, children after their parents."""
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        top = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        top = [document]
    else:
        top = document
    if not isinstance(top, list):
        raise RegionError(f"{source} is JSON, but no GeoJSON of features", _EXPORT_AGAIN)
    waiting = [(f"feature {number}", item) for number, item in enumerate(top, start=1)][::-1]
    while waiting:
        path, item = waiting.pop()
        if not isinstance(item, dict) or item.get("type") != "Feature":
            raise RegionError(f"{source}, {path}, is not a GeoJSON feature", _EXPORT_AGAIN)
        properties = item.get("properties")
        if properties is not None and not isinstance(properties, dict):
            raise RegionError(f"{source}, {path}, has properties that are no object", _EXPORT_AGAIN)
        yield path, item
        children = (properties or {}).get("childObjects") or (properties or {}).get("children")
        if isinstance(children, list):
            waiting += [(f"{path}, child {n}", child) for n, child in enumerate(children, start=1)][::-1]


def _object_type(feature: Mapping[str, Any]) -> str:
    properties = feature.get("properties") or {}
    kind = properties.get("objectType") or properties.get("object_type") or properties.get("type")
    if isinstance(kind, str):
        return kind
    legacy = feature.get("id")
    if isinstance(legacy, str) and legacy.startswith("Path") and legacy != _LEGACY_ANNOTATION:
        return legacy
    return "annotation"


def _annotation(
    feature: dict[str, Any], origin: tuple[float, float], number: int, where: str
) -> Annotation | None:
    if _object_type(feature) != "annotation":
        return None
    properties = feature.get("properties") or {}
    name = properties.get("name")
    geometry = _geometry(feature.get("geometry"), np.array(origin, dtype=np.float64), where)
    return Annotation(
        id=_identifier(feature.get("id"), number, geometry),
        name=name if isinstance(name, str) else "",
        class_name=class_name_of(properties),
        geometry=geometry,
    )


def _identifier(given: Any, number: int, geometry: BaseGeometry) -> str:
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        return str(uuid.uuid5(_NAMESPACE, f"{number}:{shapely.to_wkb(geometry, hex=True)}"))


def _class_components(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        return components(given)
    if not isinstance(given, dict):
        return ()
    names = given.get("names")
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    name = given.get("name")
    own = components(name) if isinstance(name, str) else ()
    return (*_class_components(given.get("parentClass")), *own)


def _geometry(given: Any, origin: NDArray[np.float64], where: str) -> BaseGeometry:
    """Build a geometry, moved by `origin`; rings and lines too short to be one are left out."""
    if given is None or given == {}:
        return shapely.Polygon()
    if not isinstance(given, dict):
        raise RegionError(f"{where}, has a geometry that is no object", _EXPORT_AGAIN)
    kind = given.get("type")
    if kind == "GeometryCollection":
        members = given.get("geometries")
        if not isinstance(members, list):
            raise RegionError(f"{where}, has a collection without geometries", _EXPORT_AGAIN)
        return shapely.GeometryCollection([_geometry(member, origin, where) for member in members])
    coordinates = given.get("coordinates")
    if not isinstance(coordinates, list):
        raise RegionError(f"{where}, has a geometry without coordinates", _EXPORT_AGAIN)
    if kind == "Polygon":
        return _polygon(coordinates, origin, where)
    if kind == "MultiPolygon":
        return shapely.MultiPolygon([_polygon(_list(c, where), origin, where) for c in coordinates])
    if kind == "Point":
        return shapely.Point(_points([coordinates], origin, where)[0])
    if kind == "MultiPoint":
        return shapely.MultiPoint(_points(coordinates, origin, where))
    if kind == "LineString":
        return _line(coordinates, origin, where)
    if kind == "MultiLineString":
        return shapely.MultiLineString([_line(_list(c, where), origin, where) for c in coordinates])
    raise RegionError(f"{where}, has a geometry of the unknown type {kind!r}", _EXPORT_AGAIN)


def _polygon(rings: list[Any], origin: NDArray[np.float64], where: str) -> BaseGeometry:
    points = [_points(_list(ring, where), origin, where) for ring in rings]
    closed = [ring for ring in points if len(ring) >= 3]
    if not points or len(points[0]) < 3:
        return shapely.Polygon()
    return shapely.Polygon(closed[0], closed[1:])


def _line(coordinates: list[Any], origin: NDArray[np.float64], where: str) -> BaseGeometry:
    points = _points(coordinates, origin, where)
    return shapely.LineString(points) if len(points) >= 2 else shapely.LineString()


def _points(coordinates: list[Any], origin: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Return coordinates as an array of shape (n, 2), moved by `origin`."""
    try:
        flat = [(float(point[0]), float(point[1])) for point in coordinates]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise RegionError(f"{where}, has coordinates that are no pairs of numbers", _EXPORT_AGAIN) from error
    points = np.array(flat, dtype=np.float64).reshape(-1, 2)
    if not np.all(np.abs(points) < _MAX_COORDINATE):
        worst = next(point for point in flat if not all(math.fabs(v) < _MAX_COORDINATE for v in point))
        raise RegionError(f"{where}, has the coordinates {worst}, which no slide holds", _EXPORT_AGAIN)
    return points + origin


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise RegionError(f"{where}, has coordinates that are no list", _EXPORT_AGAIN)
    return given
