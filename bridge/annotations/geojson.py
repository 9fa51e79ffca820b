"""Annotations as QuPath's GeoJSON: read from a file or a message, written as QuPath would export them.

QuPath writes a FeatureCollection, a list of Features or a single Feature; child objects are nested in their
parent's properties. Versions differ in how they write classes and object types; all since 0.2 are read. A
text is parsed into the types below; what they do not name is kept as it stands, and geometry is built for
annotations alone, so that an export of a million cells takes little more memory than its text.
"""

from __future__ import annotations

import codecs
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
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
from bridge.annotations.regions import Annotation, distinct_ids
from herohe_model.errors import RegionError
from herohe_model.files import write_atomically

MAX_BYTES: Final = 1 << 30
"""Larger texts are refused: a slide's annotations take a few MB, a million exported cells less than this."""

_MAX_GEOMETRY_BYTES: Final = 1 << 26
"""Text of one annotation's geometry; three million corners."""
_MAX_DEPTH: Final = 100
"""Objects within objects; QuPath's own nest a handful."""
_MAX_COORDINATE: Final = 2**31
_UNCLASSIFIED: Final[Colour] = (128, 128, 128)
_NAMESPACE: Final = uuid.UUID("d6a8b1f0-6d52-5b0e-9c53-5f3a1f7c2b11")
_OTHER_TYPES: Final = frozenset(
    [
        *("detection", "cell", "tile", "tmaCore", "tma_core", "root"),
        *("PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject"),
    ]
)
"""Types of objects that are no annotations; QuPath makes annotations of any type that it does not know."""
_EXPORT_AGAIN: Final = "Export it again from QuPath (File > Export objects as GeoJSON)"
_ELLIPSE_CORNERS: Final = 100
"""As QuPath draws an ellipse; one with clearly fewer was written by its bounds."""
_NOT_FINITE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b', re.DOTALL)

_T = TypeVar("_T")
_NULL: Final = msgspec.Raw(b"null")
_Place = Annotated[list[float], msgspec.Meta(max_length=4)]


class _Class(msgspec.Struct, frozen=True):
    name: str | None = None
    names: tuple[str, ...] | None = None
    parentClass: _Class | str | None = None


class _Properties(msgspec.Struct, frozen=True):
    """What is understood of an object's properties; older versions have the second names."""

    objectType: Any = None
    object_type: Any = None
    type: Any = None
    name: str | int | float | bool | None = None
    classification: _Class | str | None = None
    metadata: Any = None
    childObjects: list[msgspec.Raw] | None = None
    children: list[msgspec.Raw] | None = None


class _Feature(msgspec.Struct, frozen=True, tag_field="type", tag="Feature"):
    id: Any = None
    geometry: msgspec.Raw = _NULL
    properties: _Properties | None = None


class _Collection(msgspec.Struct, frozen=True, tag_field="type", tag="FeatureCollection"):
    features: list[msgspec.Raw]


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
    geometries: list[_Geometry]


_Geometry = (
    _Point | _MultiPoint | _LineString | _MultiLineString | _Polygon | _MultiPolygon | _GeometryCollection
)

_DOCUMENT: Final = msgspec.json.Decoder(list[msgspec.Raw] | _Collection | _Feature)
_FEATURE: Final = msgspec.json.Decoder(_Feature)
_GEOMETRY: Final = msgspec.json.Decoder(_Geometry)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True)
class DrawnFeature:
    """An annotation with the text that it was read from, which holds more than is understood here."""

    annotation: Annotation
    text: msgspec.Raw

    def members(self) -> dict[str, Any]:
        """Return all members of the feature, children included.

        Raises
        ------
        RegionError
            If one that is not understood otherwise is no value, such as a number without end.
        """
        what = f"The annotation {self.annotation.name or self.annotation.id} cannot be copied"
        return _decoded(_MEMBERS, self.text, what)


def annotations_from_geojson(
    text: str | bytes, origin: tuple[float, float] = (0, 0), *, source: str = "The GeoJSON"
) -> tuple[Annotation, ...]:
    """Read the annotations of a GeoJSON text, in its order, parents before their children.

    Detections, cells, tiles and TMA cores are passed over, and so is whatever an earlier run of ours wrote;
    objects of any other type are annotations, as in QuPath. A feature without an identifier gets one that
    follows from its place and shape, and one whose identifier another has already, one that follows from it.

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
    return tuple(found.annotation for found in read_features([(source, text)], origin))


def read_features(
    texts: Sequence[tuple[str, str | bytes]], origin: tuple[float, float], *, own: bool = False
) -> list[DrawnFeature]:
    """Read annotations, each with its text; see :func:`annotations_from_geojson`.

    Parameters
    ----------
    texts
        What belongs to one slide, each text with its name for errors; mostly one.
    own
        Pass over nothing as ours: what is read was sorted before.
    """
    found: list[tuple[Annotation, msgspec.Raw]] = []
    number = 0
    for source, text in texts:
        for place, feature, raw in _features(_encoded(text, source), source):
            if not own and _is_own(feature):
                continue
            if _object_type(feature) not in _OTHER_TYPES:
                found.append((_annotation(feature, origin, number, f"{source}, {place}"), raw))
            number += 1
    ids = distinct_ids([annotation.id for annotation, _ in found])
    return [
        DrawnFeature(replace(annotation, id=id), raw)
        for id, (annotation, raw) in zip(ids, found, strict=True)
    ]


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
    return msgspec.json.encode(document)


def class_name_of(properties: Mapping[str, Any]) -> str:
    """Return the class of a feature's properties as QuPath writes it, "" for none."""
    given = msgspec.convert(properties.get("classification"), _Class | str | None)
    return ": ".join(_class_components(given))


def _encoded(text: str | bytes, source: str) -> bytes:
    if len(text) > MAX_BYTES:
        raise RegionError(f"{source} is larger than {MAX_BYTES >> 20} MiB", "Export the annotations only")
    if isinstance(text, str):
        # A lone half of a pair of code units has no place in UTF-8.
        text = text.encode("utf-8", "replace")
    return text.removeprefix(codecs.BOM_UTF8)


def _features(text: bytes, source: str) -> Iterator[tuple[str, _Feature, msgspec.Raw]]:
    """Yield all features with their place and text, children after their parents."""
    waiting = [(f"feature {number}", raw, 1) for number, raw in enumerate(_top_level(text, source), start=1)][
        ::-1
    ]
    while waiting:
        place, raw, depth = waiting.pop()
        where = f"{source}, {place}"
        if depth > _MAX_DEPTH:
            raise RegionError(f"{source} is nested too deeply", _EXPORT_AGAIN)
        feature = _decoded(_FEATURE, raw, f"{where}, is not a GeoJSON feature")
        yield place, feature, raw
        if feature.properties is not None:
            children = feature.properties.childObjects or feature.properties.children or []
            named = [(f"{place}, child {n}", child, depth + 1) for n, child in enumerate(children, start=1)]
            waiting += named[::-1]


def _top_level(text: bytes, source: str) -> list[msgspec.Raw]:
    try:
        try:
            document = _DOCUMENT.decode(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Some programs write measurements that are not numbers as no JSON may have them.
            text = _NOT_FINITE.sub(_finite, text)
            document = _DOCUMENT.decode(text)
    except msgspec.ValidationError as error:
        raise RegionError(
            f"{source} is JSON, but no GeoJSON of features",
            f"{_EXPORT_AGAIN}, or move it away if it is something else",
        ) from error
    except msgspec.DecodeError as error:
        raise RegionError(f"{source} is not JSON: {_with_place(error, text)}", _EXPORT_AGAIN) from error
    except UnicodeDecodeError as error:
        raise RegionError(f"{source} is not UTF-8 text", _EXPORT_AGAIN) from error
    except RecursionError as error:
        raise RegionError(f"{source} is nested too deeply", _EXPORT_AGAIN) from error
    if isinstance(document, _Feature):
        return [msgspec.Raw(text)]
    return document.features if isinstance(document, _Collection) else document


def _finite(token: re.Match[bytes]) -> bytes:
    return token[0] if token[0].startswith(b'"') else b"null"


def _with_place(error: msgspec.DecodeError, text: bytes) -> str:
    """Return what is wrong with a text, by line and column instead of by byte."""
    found = re.search(r"\(byte (\d+)\)", str(error))
    if found is None:
        return str(error)
    before = text[: int(found[1])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"{str(error)[: found.start()].strip()} at line {line}, column {column}"


def _decoded(decoder: msgspec.json.Decoder[_T], raw: msgspec.Raw, problem: str) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RegionError(f"{problem} ({error})", _EXPORT_AGAIN) from error
    except RecursionError as error:
        raise RegionError(f"{problem}: it is nested too deeply", _EXPORT_AGAIN) from error


def _object_type(feature: _Feature) -> str:
    """Return what QuPath takes for the type; before version 0.3 it was in the place of the identifier."""
    given = feature.properties
    named = (given.objectType or given.object_type or given.type) if given is not None else None
    kind = named or feature.id
    return kind if isinstance(kind, str) else ""


def _is_own(feature: _Feature) -> bool:
    """Whether an object is one that we made: a patch's tile, or the annotation over the whole image.

    One that was given another name or a class is the user's: they made it their own.
    """
    given = feature.properties
    if given is None:
        return False
    class_name = ": ".join(_class_components(given.classification))
    if _object_type(feature) in _OTHER_TYPES:
        return is_own_class(class_name)
    marked = isinstance(given.metadata, dict) and MARK in given.metadata
    return marked and given.name == WHOLE_IMAGE_NAME and not user_class(class_name)


def _annotation(feature: _Feature, origin: tuple[float, float], number: int, where: str) -> Annotation:
    given = feature.properties or _Properties()
    if len(bytes(feature.geometry)) > _MAX_GEOMETRY_BYTES:
        raise RegionError(f"{where}, has more corners than can be used", "Simplify it in QuPath")
    geometry: BaseGeometry = shapely.Polygon()
    if bytes(feature.geometry).strip() not in (b"null", b"{}"):
        read = _decoded(_GEOMETRY, feature.geometry, f"{where}, has a geometry that cannot be used")
        geometry = _geometry(read, np.array(origin, dtype=np.float64), where)
    return Annotation(
        id=_identifier(feature.id, number, geometry),
        name="" if given.name is None else str(given.name),
        class_name=": ".join(_class_components(given.classification)),
        geometry=geometry,
    )


def _identifier(given: Any, number: int, geometry: BaseGeometry) -> str:
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        return str(uuid.uuid5(_NAMESPACE, f"{number}:{shapely.to_wkb(geometry, hex=True)}"))


def _class_components(given: _Class | str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return components(given)
    if given.names is not None:
        return given.names
    return (*_class_components(given.parentClass), *components(given.name or ""))


def _geometry(given: _Geometry, origin: NDArray[np.float64], where: str) -> BaseGeometry:
    """Build a geometry, moved by `origin`; rings and lines too short to be one are left out."""

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
            return shapely.GeometryCollection([_geometry(part, origin, where) for part in given.geometries])


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
        raise RegionError(f"{where}, has coordinates that are no pairs of numbers", _EXPORT_AGAIN)
    points = np.array([place[:2] for place in places], dtype=np.float64).reshape(-1, 2)
    far = np.flatnonzero((np.abs(points) >= _MAX_COORDINATE).any(axis=1))
    if len(far):
        x, y = points[far[0]].tolist()
        raise RegionError(f"{where}, has the coordinates ({x}, {y}), which no slide holds", _EXPORT_AGAIN)
    return points + origin
