"""Outlines that others drew, in their own files: BCNB's JSON, and the XML of Aperio's ImageScope.

Both hold rings of corners in level-0 px of the slide, and tell what is tumour from what is cut out of it.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from bridge.annotations.regions import Annotation
from herohe_model.errors import HeroheError, os_problem

MAX_BYTES: Final = 64 << 20
_AGAIN: Final = "Get it again from where it came"
_NAMESPACE: Final = uuid.UUID("6f1c7a7e-8f6f-4b38-9f5c-3b0a4a6b7c11")


class OutlineFileError(HeroheError):
    """A file of outlines cannot be read."""

    code = "outlines"


class _Ring(msgspec.Struct):
    vertices: list[tuple[float, float]]


class _Bcnb(msgspec.Struct):
    positive: list[_Ring] = []
    negative: list[_Ring] = []


def read_bcnb(path: Path, *, class_name: str) -> tuple[list[Annotation], list[str]]:
    """Read BCNB's JSON: ``positive`` rings, out of which the ``negative`` ones are cut.

    Returns
    -------
    annotations, warnings
        In level-0 px; a sentence for each ring that is no area.

    Raises
    ------
    OutlineFileError
        If it cannot be read.
    """
    try:
        found = msgspec.json.decode(_bytes(path), type=_Bcnb)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OutlineFileError(f"{path} holds no outlines: {error}", _AGAIN) from error
    warnings: list[str] = []
    positive = _areas([ring.vertices for ring in found.positive], path, warnings)
    negative = _areas([ring.vertices for ring in found.negative], path, warnings)
    return _annotations(path, positive, negative, class_name), warnings


def read_aperio(path: Path, *, class_name: str) -> tuple[list[Annotation], list[str]]:
    """Read ImageScope's XML; regions marked as negative are cut out of their layer's others.

    An island within a hole stays: of each negative region, the positive ones that lie within it are spared.

    Returns
    -------
    annotations, warnings
        As of :func:`read_bcnb`. Rings are closed where they were left open.

    Raises
    ------
    OutlineFileError
        If it cannot be read, or declares entities.
    """
    data = _bytes(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise OutlineFileError(f"{path} declares entities, which are not read", "Save it again in ImageScope")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise OutlineFileError(f"{path} is no XML: {error}", _AGAIN) from error
    warnings: list[str] = []
    annotations: list[Annotation] = []
    for layer in root.iter("Annotation"):
        rings: dict[bool, list[list[tuple[float, float]]]] = {False: [], True: []}
        for region in layer.iter("Region"):
            try:
                ring = [(float(v.get("X", "")), float(v.get("Y", ""))) for v in region.iter("Vertex")]
            except ValueError:
                warnings.append(f"{path.name}: a region has corners that are no numbers, and is left out.")
                continue
            rings[region.get("NegativeROA", "0") == "1"].append(ring)
        positive, negative = (_areas(rings[kind], path, warnings) for kind in (False, True))
        annotations += _annotations(path, positive, negative, class_name, first=len(annotations))
    return annotations, warnings


def _annotations(
    path: Path,
    positive: Sequence[BaseGeometry],
    negative: Sequence[BaseGeometry],
    class_name: str,
    first: int = 0,
) -> list[Annotation]:
    found = []
    for number, area in enumerate(positive, start=first + 1):
        for hole in negative:
            if not hole.contains(area):
                area = area.difference(hole)
        if not area.is_empty:
            # The same file gives the same identifiers, and two files never do.
            id = str(uuid.uuid5(_NAMESPACE, f"{path.name}/{number}"))
            found.append(Annotation(id, f"outline {number}", class_name, area))
    return found


def _areas(
    rings: Sequence[Sequence[tuple[float, float]]], path: Path, warnings: list[str]
) -> list[BaseGeometry]:
    areas = []
    for ring in rings:
        area = shapely.make_valid(Polygon(ring)) if len(ring) >= 3 else Polygon()
        area = shapely.union_all([part for part in shapely.get_parts(area) if part.area > 0])
        if area.is_empty:
            warnings.append(f"{path.name}: an outline of {len(ring)} corners is no area, and is left out.")
        else:
            areas.append(area)
    return areas


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OutlineFileError(f"{path} is too large for outlines", "Check that it is the right file")
        return path.read_bytes()
    except OSError as error:
        raise OutlineFileError(os_problem(error), "Check its permissions") from error
