"""What a result writes onto a slide, as features of GeoJSON that QuPath imports by drag and drop."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import shapely

from bridge.annotations.classes import (
    MARK,
    MEASUREMENT_PREFIX,
    TILE_CLASS,
    WHOLE_IMAGE_NAME,
    derived_class,
    grade_component,
    own_colour,
    user_class,
)
from bridge.annotations.geojson import class_name_of
from bridge.annotations.geojson_writing import classification, feature
from bridge.annotations.transform import SlideTransform
from bridge.results.schema import tile_measurements
from bridge.writing.plan import AnnotationPlan


def annotated_feature(
    item: Mapping[str, Any],
    annotation: AnnotationPlan,
    steps: Sequence[str],
    transform: SlideTransform,
    run: str,
) -> dict[str, Any]:
    """Return a user's feature with our measurements, class and tiles; its other children are left out."""
    properties = dict(item.get("properties") or {})
    properties.pop("children", None)
    theirs = user_class(class_name_of(properties))
    if annotation.grade is not None:
        properties["classification"] = classification(derived_class(theirs, annotation.grade))
    elif theirs != class_name_of(properties):
        properties["classification"] = classification(theirs) if theirs else None
    properties["measurements"] = {**_measurements(properties), **annotation.measurements}
    properties["childObjects"] = _tiles(annotation, steps, transform, run)
    return {**item, "id": annotation.id, "properties": properties}


def _measurements(properties: Mapping[str, Any]) -> dict[str, float]:
    """Return the user's measurements; QuPath before 0.4 wrote them as a list."""
    given = properties.get("measurements") or {}
    if isinstance(given, list):
        given = {
            row["name"]: row["value"]
            for row in given
            if isinstance(row, dict) and {"name", "value"} <= row.keys()
        }
    if not isinstance(given, dict):
        return {}
    return {
        name: value
        for name, value in given.items()
        if value is not None and not name.startswith(MEASUREMENT_PREFIX)
    }


def whole_image_feature(
    annotation: AnnotationPlan, steps: Sequence[str], transform: SlideTransform, run: str
) -> dict[str, Any]:
    """Return the annotation over the whole image; locked, because it lies over everything."""
    made = feature(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{MARK} {run}")),
        object_type="annotation",
        geometry=shapely.box(0, 0, transform.width, transform.height),
        name=WHOLE_IMAGE_NAME,
        class_name=grade_component(annotation.grade) if annotation.grade is not None else "",
        locked=True,
        measurements=annotation.measurements,
        metadata={MARK: run},
    )
    made["properties"]["childObjects"] = _tiles(
        AnnotationPlan(made["id"], {}, None, annotation.tiles), steps, transform, run
    )
    return made


def _tiles(
    annotation: AnnotationPlan, steps: Sequence[str], transform: SlideTransform, run: str
) -> list[dict[str, Any]]:
    namespace = uuid.UUID(annotation.id)
    made = []
    for tile in annotation.tiles:
        x, y = transform.square_from_slide(tile.x, tile.y, tile.size)
        made.append(
            feature(
                id=str(uuid.uuid5(namespace, f"{run} {tile.x} {tile.y}")),
                object_type="tile",
                geometry=shapely.box(x, y, x + tile.size, y + tile.size),
                class_name=TILE_CLASS,
                colour=own_colour(TILE_CLASS),
                measurements=tile_measurements(tile, steps),
            )
        )
    return made
