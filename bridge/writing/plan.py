"""What a result writes onto a slide: which annotation gets which values, and where each tile belongs.

Shared by everything that writes results: QuPath projects, GeoJSON files, and by its rules the script inside
QuPath.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from bridge.results.schema import RegionResult, SlideResult, Tile, measurements, tiles
from bridge.scoring.options import WriteOptions


@dataclass(frozen=True)
class AnnotationPlan:
    """What one annotation gets.

    Attributes
    ----------
    id
        The annotation's id; ``"slide"`` for the annotation that is made over the whole image.
    grade
        The grade that its class is derived with; None to leave the class as the user gave it.
    tiles
        The patches that become its child objects, level-0 px of the slide.
    """

    id: str
    measurements: dict[str, float]
    grade: str | None
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class WritePlan:
    """Everything that a result writes onto one slide.

    ``whole_image`` is there when the whole slide was sampled, and then there are no ``annotations``.
    """

    annotations: tuple[AnnotationPlan, ...] = ()
    whole_image: AnnotationPlan | None = None
    steps: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.annotations) or self.whole_image is not None

    @property
    def tile_count(self) -> int:
        """Number of tiles under all annotations together."""
        whole = (self.whole_image,) if self.whole_image is not None else ()
        return sum(len(annotation.tiles) for annotation in (*self.annotations, *whole))


def kept_result(result: SlideResult) -> str:
    """Return what is kept with an image for QuPath's panel, as JSON: a result without its patches."""
    slim: dict[str, Any] = msgspec.to_builtins(result)
    del slim["outlines"]
    for region in (slim["union"], *slim["annotations"]):
        for bulky in ("composites", "patches", "unsampled") if region else ():
            del region[bulky]
    return msgspec.json.encode({"result": slim}).decode()


def plan_writing(
    result: SlideResult, options: WriteOptions, geometries: Mapping[str, BaseGeometry]
) -> WritePlan:
    """Decide what a result writes.

    Each annotation that was sampled carries the values of the slide's union, or its own where annotations
    were scored for themselves. A tile goes under the smallest annotation that contains its centre, or the
    nearest when none does; an annotation that was scored for itself shows its own tiles only.

    Parameters
    ----------
    geometries
        The areas of the slide's annotations by id, in the same px as the result's patches.
    """
    union = result.union
    if union is None:
        return WritePlan()
    steps = result.provenance.steps if result.provenance else ()
    if not union.annotations:
        whole = AnnotationPlan(
            union.region, measurements(union), _grade(union, options), _shown(union, options)
        )
        return WritePlan(whole_image=whole if union.prediction is not None else None, steps=steps)

    own = {region.region: region for region in result.annotations}
    placed = _place(union, own, options, geometries)
    annotations = []
    for id in union.annotations:
        source = own.get(id, union)
        annotations.append(
            AnnotationPlan(id, measurements(source), _grade(source, options), tuple(placed[id]))
        )
    return WritePlan(annotations=tuple(annotations), steps=steps)


def _grade(region: RegionResult, options: WriteOptions) -> str | None:
    # A model that did not learn grades has "".
    return region.prediction.grade or None if options.classify and region.prediction is not None else None


def _shown(region: RegionResult, options: WriteOptions) -> tuple[Tile, ...]:
    if options.tiles == "none":
        return ()
    return tuple(t for t in tiles(region) if options.tiles == "all" or t.contributions is not None)


def _place(
    union: RegionResult,
    own: Mapping[str, RegionResult],
    options: WriteOptions,
    geometries: Mapping[str, BaseGeometry],
) -> dict[str, list[Tile]]:
    """Return each annotation's tiles; a patch that two of them sampled is shown once, by the smaller one."""
    by_area = sorted(
        (id for id in union.annotations if id in geometries), key=lambda id: (geometries[id].area, id)
    )
    placed: dict[str, list[Tile]] = {id: [] for id in union.annotations}
    seen: set[tuple[int, int, int]] = set()

    def show(tile: Tile, id: str) -> None:
        if (tile.x, tile.y, tile.size) not in seen:
            seen.add((tile.x, tile.y, tile.size))
            placed[id].append(tile)

    scored = {id for id, region in own.items() if region.prediction is not None}
    for id in by_area:
        if id in scored:
            for tile in _shown(own[id], options):
                show(tile, id)
    shared = _shown(union, options)
    for tile, owner in zip(shared, _owners(shared, by_area, geometries), strict=True):
        if by_area[owner] not in scored:
            show(tile, by_area[owner])
    return placed


def _owners(
    shown: Iterable[Tile], by_area: list[str], geometries: Mapping[str, BaseGeometry]
) -> NDArray[np.int64]:
    """Index into `by_area`, smallest first, of the annotation that each tile belongs to."""
    centres = np.array([(t.x + t.size / 2, t.y + t.size / 2) for t in shown]).reshape(-1, 2)
    owners = np.full(len(centres), -1, dtype=np.int64)
    for index, id in enumerate(by_area):
        free = np.flatnonzero(owners < 0)
        if not len(free):
            break
        shapely.prepare(geometries[id])
        inside = shapely.contains_xy(geometries[id], centres[free, 0], centres[free, 1])
        owners[free[inside]] = index
    # A patch is sampled when enough of it is covered, so its centre may lie outside.
    for outside in np.flatnonzero(owners < 0):
        centre = shapely.Point(centres[outside])
        owners[outside] = int(np.argmin([shapely.distance(geometries[id], centre) for id in by_area]))
    return owners


@dataclass(frozen=True)
class WrittenObjects:
    """How much in an entry is ours: what ``clear`` would remove.

    Attributes
    ----------
    annotations
        Annotations of the user's that carry our measurements or a class that we derived.
    whole_image
        Annotations that we made over the whole image.
    proposals
        Annotations that a probe proposed.
    """

    tiles: int = 0
    annotations: int = 0
    whole_image: int = 0
    metadata: bool = False
    proposals: int = 0

    def __bool__(self) -> bool:
        return any((self.tiles, self.annotations, self.whole_image, self.metadata, self.proposals))


class RunMarker(msgspec.Struct, frozen=True):
    """What a run wrote into an image, kept with it: how a result is known to be completely there.

    Attributes
    ----------
    state
        Digest of what every sampled annotation got: its grade's class component and our measurements.
    """

    run: str
    tiles: int
    annotations: tuple[str, ...]
    whole_image: bool
    state: str
    options: dict[str, Any]
