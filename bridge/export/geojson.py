"""A run's results for other tools: the sampled patches as GeoJSON, and what all exports share."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import shapely

from bridge.annotations.classes import MARK, TILE_CLASS, TILE_COLOUR, WHOLE_IMAGE_NAME
from bridge.annotations.geojson_writing import collection_text, feature
from bridge.results.run import ScoredRun
from bridge.results.schema import (
    RESEARCH_USE_ONLY,
    RegionResult,
    SlideResult,
    image_metadata,
    measurements,
    tile_measurements,
    tiles,
)
from herohe_model.errors import SlideError
from herohe_model.files import write_atomically

Coordinates = Literal["qupath", "level0"]

_NAMESPACE: Final = uuid.UUID("8a1d3a0e-55f0-5c0c-8d53-0c3f1d9f7e42")
_STEP_NAMES: Final = {"3+": "3", ">=2+/ISH+": "ge_2_ish_positive", ">=2+": "ge_2", ">=1+": "ge_1"}


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `left_out` names each slide that could not be exported, with the reason."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def step_name(step: str) -> str:
    """Return the name of a step as it stands in columns: ``>=2+`` is ``ge_2``."""
    return _STEP_NAMES[step]


def export_geojson(run: ScoredRun, folder: Path, coordinates: Coordinates = "qupath") -> Exported:
    """Write a GeoJSON file a slide: its sampled patches as tiles, with the measurements QuPath shows.

    Parameters
    ----------
    coordinates
        ``qupath``: as QuPath shows the slide, cropped to its bounds, which are read from the slide.
        ``level0``: as OpenSlide counts; these need no slide.

    Returns
    -------
    Exported
        Slides whose bounds cannot be read are left out, and named.

    Raises
    ------
    ResultFileError, WriteError
        If the results cannot be read or the files not be written.
    """
    files, left_out = [], []
    for number, result in enumerate(run.slides(), start=1):
        if result.union is None or not (result.union.patches or result.union.unsampled):
            continue
        origin = (0, 0)
        if coordinates == "qupath":
            try:
                with run.open_slide(result) as slide:
                    origin = (slide.bounds.x, slide.bounds.y)
            except SlideError as error:
                left_out.append((result.slide, str(error)))
                continue
        path = folder / f"{file_stem(number, result.slide)}.geojson"
        own = {"herohe_bridge": {"slide": result.slide, **image_metadata(result), "note": RESEARCH_USE_ONLY}}
        write_atomically(path, collection_text(_features(result, result.union, origin), **own))
        files.append(path)
    return Exported(tuple(files), tuple(left_out))


def file_stem(number: int, slide: str) -> str:
    """Return a file name that every system takes: the slide's place in the run, and its name made plain."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", slide)[:80].strip("._")
    return f"{number:05d}-{plain}" if plain else f"{number:05d}"


def _features(result: SlideResult, region: RegionResult, origin: tuple[int, int]) -> list[dict[str, Any]]:
    steps = result.provenance.steps if result.provenance else ()
    mark = {MARK: result.provenance.run if result.provenance else ""}
    shown = tiles(region)
    squares = [
        shapely.box(*(t.x - origin[0], t.y - origin[1], t.x + t.size - origin[0], t.y + t.size - origin[1]))
        for t in shown
    ]
    features = [
        feature(
            id=_id(result, "sampled"),
            object_type="annotation",
            geometry=shapely.unary_union(squares),
            name=WHOLE_IMAGE_NAME,
            locked=True,
            measurements=measurements(region),
            metadata=mark,
        )
    ]
    for tile, square in zip(shown, squares, strict=True):
        features.append(
            feature(
                id=_id(result, f"{tile.x} {tile.y} {tile.size}"),
                object_type="tile",
                geometry=square,
                class_name=TILE_CLASS,
                colour=TILE_COLOUR,
                measurements=tile_measurements(tile, steps),
                metadata=mark,
            )
        )
    return features


def _id(result: SlideResult, what: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{result.entry}\n{what}"))
