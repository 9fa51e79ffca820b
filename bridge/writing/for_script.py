"""What QuPath's script has to write: the same plan as for a project, as JSON.

The script only puts names and numbers onto objects: which annotation gets which values, where each tile goes
and what everything is called is decided by :func:`bridge.writing.plan.plan_writing` for every way in.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bridge.annotations.classes import (
    GRADE_COLOURS,
    MARK,
    TILE_COLOUR,
    WHOLE_IMAGE_NAME,
    grade_component,
)
from bridge.annotations.regions import Annotation, area_of
from bridge.annotations.transform import SlideTransform
from bridge.results.schema import SlideResult, image_metadata, tile_measurements
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import AnnotationPlan, RunMarker, WritePlan, plan_writing


def plan_for_script(
    result: SlideResult,
    options: WriteOptions,
    annotations: Iterable[Annotation],
    transform: SlideTransform,
) -> bytes:
    """Return a result as instructions for the script, JSON in UTF-8.

    Parameters
    ----------
    annotations
        Those that were sent with the request, in its order, level-0 px of the slide.
    transform
        Where QuPath's pixels lie on the slide.

    Returns
    -------
    bytes
        An object with ``annotations``, ``whole_image`` (or null), ``metadata`` of the image, ``mark`` (the
        text of the image's property that says what was written), and ``layout``, see
        :func:`composite_layout`. An annotation has an ``id``, its place in what was ``sent`` (in QuPath,
        several may have one id), ``measurements``, ``component`` and ``colour`` of its derived class (or
        null), and ``tiles``: ``ids``, ``squares`` as (x, y, size) in QuPath's px, ``names`` of measurements
        and ``values``, a row a tile, null where a tile has no such measurement.
    """
    geometries, sent = {}, {}
    for number, annotation in enumerate(annotations):
        sent[annotation.id] = number
        area = area_of(annotation, [])
        if area is not None:
            geometries[annotation.id] = area
    plan = plan_writing(result, options, geometries)
    run = result.provenance.run if result.provenance is not None else ""
    planned = [
        {**_annotation(item, item.id, plan.steps, transform, run), "sent": sent[item.id]}
        for item in plan.annotations
    ]
    whole = None
    if plan.whole_image is not None:
        id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{MARK} {run}"))
        whole = {
            **_annotation(plan.whole_image, id, plan.steps, transform, run),
            "name": WHOLE_IMAGE_NAME,
            "run": run,
        }
    document = {
        "annotations": planned,
        "whole_image": whole,
        "tile_colour": TILE_COLOUR,
        "metadata": image_metadata(result),
        "mark": msgspec.json.encode(_mark(plan, planned, options, run)).decode(),
        "layout": composite_layout(result, transform),
    }
    return msgspec.json.encode(document)


def composite_layout(result: SlideResult, transform: SlideTransform) -> dict[str, Any]:
    """Say which patch lies in which cell of which composite.

    Returns
    -------
    dict
        ``size``: side of a patch in QuPath's px; ``patch_px``: its side in a composite; ``regions``: for each
        region's id its composites, each a list of the cells' (x, y) in QuPath's px, row by row; none of a
        bag model, which sees no composites.
    """
    regions = [*((result.union,) if result.union is not None else ()), *result.annotations]
    layout: dict[str, list[list[tuple[int, int]]]] = {}
    size = 0
    for region in (region for region in regions if not region.is_bag):
        composites: list[list[tuple[int, int]]] = [[] for _ in region.composites]
        for patch in region.patches:
            size = patch.size
            composites[patch.composite].append(transform.square_from_slide(patch.x, patch.y, patch.size))
        # Annotations of one identifier share a place: what is looked for in it is told by its patches.
        layout.setdefault(region.region, []).extend(composites)
    patch_px = result.provenance.patch_px if result.provenance is not None else 0
    return {"size": size, "patch_px": patch_px, "regions": layout}


def _annotation(
    item: AnnotationPlan, id: str, steps: Sequence[str], transform: SlideTransform, run: str
) -> dict[str, Any]:
    rows = [tile_measurements(tile, steps) for tile in item.tiles]
    names = list(dict.fromkeys(name for row in rows for name in row))
    namespace = uuid.UUID(id)
    return {
        "id": id,
        "measurements": item.measurements,
        "component": None if item.grade is None else grade_component(item.grade),
        "colour": None if item.grade is None else GRADE_COLOURS[item.grade],
        "tiles": {
            "ids": [str(uuid.uuid5(namespace, f"{run} {t.x} {t.y}")) for t in item.tiles],
            "squares": [(*transform.square_from_slide(t.x, t.y, t.size), t.size) for t in item.tiles],
            "names": names,
            "values": [[row.get(name) for name in names] for row in rows],
        },
    }


def _mark(
    plan: WritePlan, planned: Sequence[Mapping[str, Any]], options: WriteOptions, run: str
) -> RunMarker:
    rows = sorted((a["id"], a["component"] or "", sorted(a["measurements"].items())) for a in planned)
    return RunMarker(
        run=run,
        tiles=plan.tile_count,
        annotations=tuple(annotation["id"] for annotation in planned),
        whole_image=plan.whole_image is not None,
        state=hashlib.sha256(msgspec.json.encode(rows)).hexdigest(),
        options=msgspec.to_builtins(options),
    )
