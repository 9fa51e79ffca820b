"""A folder of slides with GeoJSON beside them: the same face as a QuPath project, without Java.

Annotations are read from ``<slide>.geojson`` (``case1.svs.geojson`` or ``case1.geojson``), as QuPath exports
them. Results go into files of their own, ``<slide>.her2-he.geojson``, which QuPath imports by drag and drop:
the sampled annotations, with their identifiers, and their tiles. They belong into an image that does not show
the annotations yet; of those that it has, QuPath would make second ones. What the user exported is never
touched. Only slides directly in the folder count.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
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
from bridge.annotations.geojson import (
    class_name_of,
    classification,
    collection_text,
    feature,
    read_features,
    read_text,
)
from bridge.annotations.regions import Annotation, area_of
from bridge.annotations.transform import SlideTransform
from bridge.projects.base import Entry, EntryContent
from bridge.qupath.safe_replace import changed_error, replace_file, write_new
from bridge.results.schema import PREFIX, SlideResult, image_metadata, tile_measurements
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import AnnotationPlan, WrittenObjects, plan_writing
from herohe_model.errors import ProjectNotFoundError, RegionError, WriteBackError
from herohe_model.files import sha256_of
from herohe_model.slides.guarded_slide import GuardedSlide

SLIDE_SUFFIXES: Final = (
    ".bif",
    ".czi",
    ".mrxs",
    ".ndpi",
    ".scn",
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
)
"""Suffixes of the slide formats that OpenSlide reads and that are one file to the user."""

RESULT_SUFFIX: Final = ".her2-he.geojson"
_ANNOTATION_SUFFIX: Final = ".geojson"
_MEMBER: Final = PREFIX.lower()
"""Member of a result file that says what wrote it."""


class _Written(msgspec.Struct, frozen=True):
    """What a result file says about itself."""

    run: str
    options: WriteOptions
    metadata: dict[str, str]


class SlideFolder:
    """A folder of slides, as a :class:`~bridge.projects.base.Collection`.

    Parameters
    ----------
    root
        The folder.
    output
        Where results go, into its folder ``geojson``; ``<root>/herohe-bridge`` by default.

    Raises
    ------
    ProjectNotFoundError
        If there is no slide in it.
    """

    def __init__(self, root: Path, *, output: Path | None = None) -> None:
        self._root = root
        self._results = (output or root / "herohe-bridge") / "geojson"
        self._seen: dict[str, str | None] = {}
        self._slides = {
            path.name: path
            for path in sorted(root.iterdir())
            if path.suffix.lower() in SLIDE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        }
        if not self._slides:
            raise ProjectNotFoundError(
                f"{root} holds no QuPath project and no slide", "Name a project.qpproj or a folder of slides"
            )

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @property
    def warnings(self) -> tuple[str, ...]:
        """GeoJSON files that belong to no slide."""
        expected = {path for slide in self._slides.values() for path in _candidates(slide)}
        return tuple(
            f"{path.name} belongs to no slide of the folder."
            for path in sorted(self._root.glob(f"*{_ANNOTATION_SUFFIX}"))
            if path not in expected and not path.name.endswith(RESULT_SUFFIX)
        )

    def entries(self) -> Sequence[Entry]:
        """All slides, by name."""
        return [Entry(name, name) for name in self._slides]

    def read(self, entry: Entry) -> EntryContent:
        """Read one slide's annotations and what an earlier run wrote.

        Raises
        ------
        SlideError
            If the slide is unreadable.
        RegionError
            If its GeoJSON is malformed, or two files could be it.
        """
        slide_path = self._slides[entry.id]
        source = self._annotation_file(entry)
        before = sha256_of(source) if source is not None else None
        annotations = tuple(annotation for annotation, _ in self._features(slide_path, source))
        self._seen[entry.id] = before
        written = self._written(entry)
        return EntryContent(
            entry=entry,
            slide_path=slide_path,
            mpp=None,
            annotations=annotations,
            written_run=written.run or None if written else None,
            written_with=written.options if written else None,
        )

    def write(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        """Replace the result file of a slide; that of one that could not be scored stays as it is.

        Raises
        ------
        EntryChangedError
            If the slide's GeoJSON is not what :meth:`read` read.
        WriteBackError
            If the file could not be written; the one before is as it was.
        """
        if result.outcome.is_failure:
            return
        source = self._annotation_file(entry)
        now = sha256_of(source) if source is not None else None
        if entry.id in self._seen and now != self._seen[entry.id]:
            raise changed_error(str(source))
        slide_path = self._slides[entry.id]
        drawn = {annotation.id: (annotation, item) for annotation, item in self._features(slide_path, source)}
        areas = {id: area for id, (a, _) in drawn.items() if (area := area_of(a, [])) is not None}
        plan = plan_writing(result, options, areas)
        transform = _transform(slide_path)
        run = result.provenance.run if result.provenance else ""
        features = [
            _annotated(drawn[annotation.id][1], annotation, plan.steps, transform, run)
            for annotation in plan.annotations
        ]
        if plan.whole_image is not None:
            features.append(_whole_image(plan.whole_image, plan.steps, transform, run))
        written = _Written(run, options, image_metadata(result))
        text = collection_text(features, **{_MEMBER: msgspec.to_builtins(written)})
        path = self._result_file(entry)
        path.parent.mkdir(parents=True, exist_ok=True)

        def verify(new: Path) -> None:
            if new.read_bytes() != text:
                raise WriteBackError(f"{path} did not read back as it was written", "Check the disk")

        replace_file(
            path,
            partial(write_new, text),
            verify,
            expected=sha256_of(path),
            what=str(path),
        )

    def written_objects(self, entry: Entry) -> WrittenObjects:
        """Count what is in the result file of a slide."""
        if self._written(entry) is None:
            return WrittenObjects()
        document = msgspec.json.decode(read_text(self._result_file(entry)))
        whole = [item for item in document["features"] if MARK in item["properties"].get("metadata", {})]
        return WrittenObjects(
            tiles=sum(len(item["properties"].get("childObjects", ())) for item in document["features"]),
            annotations=len(document["features"]) - len(whole),
            whole_image=len(whole),
            metadata=True,
        )

    def clear(self, entry: Entry) -> bool:
        """Remove the result file of a slide; False when there was none of ours."""
        if self._written(entry) is None:
            return False
        self._result_file(entry).unlink()
        return True

    def close(self) -> None:
        """Do nothing: every result is on the disk when it is written."""

    def _annotation_file(self, entry: Entry) -> Path | None:
        """Return the GeoJSON of a slide, None without one."""
        slide = self._slides[entry.id]
        found = [path for path in _candidates(slide) if path.is_file()]
        if len(found) > 1:
            raise RegionError(f"Both {found[0]} and {found[1]} could be the annotations", "Keep one of them")
        if found and found[0].stem == slide.stem:
            twins = [other for other in self._slides.values() if other.stem == slide.stem]
            if len(twins) > 1:
                raise RegionError(
                    f"{found[0]} could belong to {twins[0].name} and to {twins[1].name}",
                    f"Rename it to {twins[0].name}{_ANNOTATION_SUFFIX}, or to that of the other",
                )
        return found[0] if found else None

    def _features(self, slide_path: Path, source: Path | None) -> list[tuple[Annotation, dict[str, Any]]]:
        """Return a slide's annotations, level-0 px of the slide, each with its GeoJSON."""
        if source is None:
            return []
        transform = _transform(slide_path)
        return read_features(read_text(source), (transform.x0, transform.y0), source=str(source))

    def _result_file(self, entry: Entry) -> Path:
        return self._results / f"{self._slides[entry.id].name}{RESULT_SUFFIX}"

    def _written(self, entry: Entry) -> _Written | None:
        """Return what a result file says about itself; None when it is not there, or not ours."""
        try:
            document = msgspec.json.decode(self._result_file(entry).read_bytes(), type=dict[str, Any])
            return msgspec.convert(document.get(_MEMBER), _Written)
        except (OSError, msgspec.MsgspecError):
            return None


def _candidates(slide: Path) -> tuple[Path, Path]:
    """Return the two names that a slide's GeoJSON may have."""
    return slide.with_name(slide.name + _ANNOTATION_SUFFIX), slide.with_suffix(_ANNOTATION_SUFFIX)


def _transform(slide_path: Path) -> SlideTransform:
    with GuardedSlide(slide_path) as slide:
        return SlideTransform.at(slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height)


def _annotated(
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
    return {name: value for name, value in given.items() if not name.startswith(MEASUREMENT_PREFIX)}


def _whole_image(
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
