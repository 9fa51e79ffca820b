"""Annotations and tiles as QuPath would export them to GeoJSON, so that it reads them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.classes import Colour, components, own_colour
from bridge.annotations.regions import Annotation
from herohe_model.files import write_atomically

_UNCLASSIFIED: Final[Colour] = (128, 128, 128)


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
