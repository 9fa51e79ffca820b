"""Annotations, and the sampling regions made of them.

Geometry is in level-0 pixels of the slide as OpenSlide counts them; :mod:`bridge.projects.qupath_project` and
:mod:`bridge.annotations.geojson` convert QuPath's coordinates once, when they read.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.classes import chooses, composed, user_class
from herohe_model.errors import RegionError
from herohe_model.printable import printable_name
from herohe_model.sampling.coverage import polygons, valid_area

if TYPE_CHECKING:
    from herohe_model.slides.source import Box

SLIDE: Final = "slide"
"""Id of the union of a slide's regions."""

_NAMESPACE: Final = uuid.UUID("0a6b8d1c-5d0f-5a1e-8f43-2b9c7e60d3a5")


@dataclass(frozen=True)
class Annotation:
    """Something that somebody drew.

    Attributes
    ----------
    id
        QuPath's UUID of the object; stable across runs, and unique within a slide (:func:`distinct_ids`).
    name
        Its name, or "".
    class_name
        Its class as QuPath writes it (``Tumor``, ``Tumor: HER2-HE 2+``), or "" for none.
    geometry
        As it was drawn, level-0 px of the slide: an area (that may cross itself), a line or points.
    """

    id: str
    name: str
    class_name: str
    geometry: BaseGeometry


def distinct_ids(ids: Iterable[str]) -> list[str]:
    """Tell apart annotations whose identifiers are the same: QuPath allows several objects of one.

    The first keeps it, and each that follows gets one that is made of it and of their number, so that the
    same annotations in the same order have the same ones every time.
    """
    given = list(ids)
    taken, found = set(given), []
    for id, number in zip(given, _occurrences(given), strict=True):
        own = id
        while number and own in taken:
            own = str(uuid.uuid5(_NAMESPACE, f"{own} {number}"))
        taken.add(own)
        found.append(own)
    return found


def _occurrences(given: Iterable[str]) -> Iterator[int]:
    """Yield for each value how many of its kind came before."""
    seen: Counter[str] = Counter()
    for value in given:
        yield seen[value]
        seen[value] += 1


@dataclass(frozen=True)
class Region:
    """Where sampling is allowed: the union of a slide's annotations, one annotation, or the whole slide.

    Attributes
    ----------
    id
        ``"slide"`` for the union or the whole slide, an annotation's id otherwise.
    class_name
        The user's class, without a grade that an earlier run derived from it.
    annotations
        Ids of the annotations it is made of; empty for the whole slide.
    geometry
        Valid polygon or multi-polygon, level-0 px; empty when everything was cut out of it.
    """

    id: str
    name: str
    class_name: str
    annotations: tuple[str, ...]
    geometry: BaseGeometry


@dataclass(frozen=True)
class SlideRegions:
    """The regions of one slide; made by :func:`build_regions`.

    Attributes
    ----------
    union
        All sampled annotations as one region, or the whole slide; None when no annotation matched.
    annotations
        One region an annotation, in the annotations' order.
    warnings
        What was left out or repaired, naming the annotation.
    classes_present
        Each of the user's classes on this slide ("" for none) with its number of annotations.
    wanted
        The classes that were asked for.
    """

    union: Region | None
    annotations: tuple[Region, ...]
    warnings: tuple[str, ...]
    classes_present: tuple[tuple[str, int], ...]
    wanted: tuple[str, ...]
    sha256: str

    def digest(self) -> str:
        """SHA-256 of what was drawn: ids, names, the user's classes and geometry; hexadecimal.

        It does not depend on the grades that an earlier run derived, so scoring twice gives it twice.
        """
        return self.sha256

    def no_match_message(self) -> str:
        """Say that nothing matched, and what could have been asked for."""
        asked = " or ".join(self.wanted) or "asked for"
        present = printable_name(
            ", ".join(f"{name or 'unclassified'} ({count})" for name, count in self.classes_present)
        )
        if not present:
            return f"No annotation of the class {asked}: the slide has no annotations. Draw one in QuPath."
        return (
            f"No annotation with an area has the class {asked}. Classes present: {present}. "
            "Name one of them with --region-class, or classify the annotations in QuPath."
        )


_Item = TypeVar("_Item")


def build_regions(
    annotations: Sequence[Annotation],
    *,
    region_classes: Sequence[str] = (),
    exclude_classes: Sequence[str] = (),
    slide_box: Box,
    everything: bool = False,
    check: Callable[[], None] = lambda: None,
) -> SlideRegions:
    """Choose the annotations to sample in, and make regions of them.

    Parameters
    ----------
    annotations
        Everything drawn on the slide.
    region_classes
        Classes to sample in. A class matches itself and what is derived from it (``Tumor: Invasive`` is a
        ``Tumor``). Classes that end in ``*`` are ignored, as in QuPath, unless they are named exactly.
        Without any, the whole slide is the region.
    exclude_classes
        Classes whose area is cut out of every region; they win over `region_classes`.
    slide_box
        The scanned area of the slide, level-0 px.
    everything
        Sample in every annotation that is not cut out, whatever its class; `region_classes` do not matter.
    check
        Called before each annotation; may raise to stop.

    Raises
    ------
    RegionError
        If all annotations to sample in, or all to cut out, lie outside of the slide.
    """

    def each(items: Iterable[_Item]) -> Iterator[_Item]:
        for item in items:
            check()
            yield item

    warnings: list[str] = []
    chosen: list[tuple[Annotation, BaseGeometry]] = []
    excluded: list[tuple[Annotation, BaseGeometry]] = []
    for annotation in each(annotations):
        if _is_chosen(annotation, exclude_classes):
            group = excluded
        elif everything or _is_chosen(annotation, region_classes):
            group = chosen
        else:
            continue
        area = area_of(annotation, warnings)
        if area is not None:
            group.append((annotation, area))

    warnings += _outside(chosen, "to sample in", slide_box)
    warnings += _outside(excluded, "to cut out", slide_box)
    hole = shapely.union_all([area for _, area in excluded])
    regions = tuple(
        Region(
            id=annotation.id,
            name=annotation.name,
            class_name=user_class(annotation.class_name),
            annotations=(annotation.id,),
            geometry=_without(area, hole),
        )
        for annotation, area in each(chosen)
    )
    union: Region | None = None
    if not region_classes and not everything:
        x, y = slide_box.x, slide_box.y
        whole = shapely.box(x, y, x + slide_box.width, y + slide_box.height)
        union = Region(SLIDE, "", "", (), _without(whole, hole))
    elif regions:
        union = Region(
            id=SLIDE,
            name="",
            class_name=", ".join(sorted({region.class_name for region in regions})),
            annotations=tuple(region.id for region in regions),
            geometry=_without(shapely.union_all([area for _, area in chosen]), hole),
        )
    present = Counter(composed(user_class(annotation.class_name)) for annotation in annotations)
    return SlideRegions(
        union=union,
        annotations=regions,
        warnings=tuple(warnings),
        classes_present=tuple(sorted(present.items())),
        wanted=tuple(region_classes),
        sha256=_digest([annotation for annotation, _ in chosen], [annotation for annotation, _ in excluded]),
    )


def _outside(group: Sequence[tuple[Annotation, BaseGeometry]], what: str, box: Box) -> list[str]:
    """Return warnings of annotations that lie outside of the slide; raise RegionError when all of them do."""
    scanned = shapely.box(box.x, box.y, box.x + box.width, box.y + box.height)
    outside = [annotation for annotation, area in group if not scanned.intersects(area)]
    where = f"outside of the slide, which has {box.width} x {box.height} px from ({box.x}, {box.y})"
    if outside and len(outside) == len(group):
        first = ", ".join(f"{value:.0f}" for value in outside[0].geometry.bounds[:2])
        raise RegionError(
            f"All annotations {what} lie {where}, such as {_label(outside[0])} at ({first})",
            "Programs count from different corners, for MIRAX slides above all: export the annotations from "
            "QuPath, which counts from the corner of the scanned area, or move them by the slide's offset",
        )
    return [f"Annotation {_label(annotation)} lies {where}" for annotation in outside]


def _is_chosen(annotation: Annotation, classes: Iterable[str]) -> bool:
    return any(chooses(wanted, annotation.class_name) for wanted in classes)


def area_of(annotation: Annotation, warnings: list[str]) -> BaseGeometry | None:
    """Return what an annotation encloses as a valid polygon or multi-polygon, None when that is nothing.

    What had to be left out or repaired is appended to `warnings`.
    """
    geometry = annotation.geometry
    if not geometry.is_empty and geometry.is_valid and geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    label = _label(annotation)
    area = valid_area(geometry)
    if area.is_empty:
        what = "is empty" if geometry.is_empty else f"is a {geometry.geom_type} without an area"
        warnings.append(f"Annotation {label} {what}; it was left out")
        return None
    if any(not polygon.is_valid for polygon in polygons(geometry)):
        warnings.append(f"Annotation {label} crosses itself; the area inside its outline was used")
    if geometry.geom_type == "GeometryCollection":
        warnings.append(f"Annotation {label} is a mixture of shapes; those with an area were used")
    return area


def _without(area: BaseGeometry, hole: BaseGeometry) -> BaseGeometry:
    """Cut the hole out, keeping polygons only: two areas that touch may leave a line."""
    if hole.is_empty or not area.intersects(hole):
        return area
    return shapely.union_all(polygons(shapely.difference(area, hole)))


def _label(annotation: Annotation) -> str:
    """Name an annotation as the user finds it."""
    name = f"'{annotation.name}'" if annotation.name else annotation.id
    return printable_name(f"{name} ({user_class(annotation.class_name) or 'unclassified'})")


def _digest(chosen: Iterable[Annotation], excluded: Iterable[Annotation]) -> str:
    """Digest what was drawn rather than what was computed from it: overlays differ by GEOS's version."""
    sha = hashlib.sha256()
    for kind, group in (("region", chosen), ("excluded", excluded)):
        for drawn in sorted((a.id, a.name, user_class(a.class_name), _wkb(a.geometry)) for a in group):
            # Java's texts may hold halves of pairs of code units.
            texts = (text.encode("utf-8", "surrogatepass") for text in drawn[:3])
            for field in (kind.encode(), *texts, drawn[3]):
                sha.update(len(field).to_bytes(8, "little") + field)
    return sha.hexdigest()


def _wkb(geometry: BaseGeometry) -> bytes:
    wkb: bytes = shapely.to_wkb(shapely.normalize(geometry), output_dimension=2, byte_order=1)
    return wkb
