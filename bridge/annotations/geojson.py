"""Annotations of QuPath's GeoJSON, read from a file or a message.

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
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.classes import (
    MARK,
    WHOLE_IMAGE_NAME,
    components,
    is_own_class,
    user_class,
)
from bridge.annotations.geojson_geometry import EXPORT_AGAIN, Geometry, build_geometry
from bridge.annotations.regions import Annotation, distinct_ids
from herohe_model.errors import RegionError

MAX_BYTES: Final = 1 << 30
"""Larger texts are refused: a slide's annotations take a few MB, a million exported cells less than this."""

_MAX_GEOMETRY_BYTES: Final = 1 << 26
"""Text of one annotation's geometry; three million corners."""
_MAX_DEPTH: Final = 100
"""Objects within objects; QuPath's own nest a handful."""
_NAMESPACE: Final = uuid.UUID("d6a8b1f0-6d52-5b0e-9c53-5f3a1f7c2b11")
_OTHER_TYPES: Final = frozenset(
    [
        *("detection", "cell", "tile", "tmaCore", "tma_core", "root"),
        *("PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject"),
    ]
)
"""Types of objects that are no annotations; QuPath makes annotations of any type that it does not know."""
_NOT_FINITE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b', re.DOTALL)

_T = TypeVar("_T")
_NULL: Final = msgspec.Raw(b"null")


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


_DOCUMENT: Final = msgspec.json.Decoder(list[msgspec.Raw] | _Collection | _Feature)
_FEATURE: Final = msgspec.json.Decoder(_Feature)
_GEOMETRY: Final = msgspec.json.Decoder(Geometry)
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
            raise RegionError(f"{source} is nested too deeply", EXPORT_AGAIN)
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
            f"{EXPORT_AGAIN}, or move it away if it is something else",
        ) from error
    except msgspec.DecodeError as error:
        raise RegionError(f"{source} is not JSON: {_with_place(error, text)}", EXPORT_AGAIN) from error
    except UnicodeDecodeError as error:
        raise RegionError(f"{source} is not UTF-8 text", EXPORT_AGAIN) from error
    except RecursionError as error:
        raise RegionError(f"{source} is nested too deeply", EXPORT_AGAIN) from error
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
        raise RegionError(f"{problem} ({error})", EXPORT_AGAIN) from error
    except RecursionError as error:
        raise RegionError(f"{problem}: it is nested too deeply", EXPORT_AGAIN) from error


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
        geometry = build_geometry(read, np.array(origin, dtype=np.float64), where)
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
