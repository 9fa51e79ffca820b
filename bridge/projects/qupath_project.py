"""QuPath projects: their images and annotations, and results written back into them.

Nothing is saved through QuPath's own save, which stores what is in memory: an image's data are replaced by
:mod:`bridge.qupath.image_data`, the project file is edited by :mod:`bridge.qupath.project_file`. QuPath's
classes, reached through paquo (:mod:`bridge.qupath.jvm`), read the project, read and write the objects, and
check what was written. An object of this module belongs to one thread.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.geojson import read_features
from bridge.annotations.regions import Annotation, area_of
from bridge.annotations.transform import SlideTransform
from bridge.projects.base import Entry, EntryContent
from bridge.projects.new_qupath_project import NewImage, create_project
from bridge.projects.project_images import ProjectImages
from bridge.qupath.image_data import ImageData
from bridge.qupath.image_source import SlideFinder
from bridge.qupath.jvm import NEWEST_TESTED, qupath_facts, start_qupath
from bridge.qupath.processes import open_project_warnings
from bridge.qupath.project_file import (
    add_classes,
    image_metadata,
    read_project,
    remove_classes,
    repeated_images,
    update_metadata,
)
from bridge.qupath.safe_replace import Backups, changed_error
from bridge.results.schema import Outcome, SlideResult
from bridge.results.schema import image_metadata as result_metadata
from bridge.scoring.options import WriteOptions
from bridge.scoring.suitability import check_image_type
from bridge.writing.plan import RunMarker, WrittenObjects, kept_result, plan_writing
from herohe_model.errors import EntryChangedError, SlideError, WriteBackError
from herohe_model.printable import printable_name

__all__ = ["NewImage", "QuPathProject", "create_project", "qupath_facts"]

OWN_FOLDER: Final = "herohe-bridge"
"""Folder within a project that holds backups, and by default the results."""

_METADATA: Final = result_metadata(SlideResult("", "", "", Outcome.SCORED))
_OUTCOME_KEY, _RUN_KEY = next(iter(_METADATA)), next(reversed(_METADATA))
_FLUSH_SHARE: Final = 0.05
"""Share of a batch's time that writing the project file may take."""


@dataclass(frozen=True)
class _Seen:
    """An image's data as they were read: their digest, and the identifiers of its annotations in order."""

    sha256: str | None
    ids: tuple[str, ...]


class QuPathProject:
    """A QuPath project, as a :class:`~bridge.projects.base.Collection`.

    Opening and reading change no byte of it. Results are in an image's data when :meth:`write` returns; its
    metadata follow with the project file, which is written every now and then and by :meth:`close`.

    Parameters
    ----------
    path
        The ``.qpproj`` file.
    slides_root
        A folder to look for slides in that are no longer where the project says.

    Raises
    ------
    QuPathNotFoundError
        If there is no QuPath to read it with.
    ProjectError
        If QuPath cannot read it.
    """

    def __init__(self, path: Path, *, slides_root: Path | None = None) -> None:
        self._path = path.resolve()
        document = read_project(self._path)
        self._metadata = image_metadata(document)
        self._qupath = start_qupath()
        self._repeated = repeated_images(document)
        finder = SlideFinder(self._path, str(document.get("uri") or ""), slides_root)
        self._images = ProjectImages(self._qupath, self._path, finder)
        self._backups = Backups(self.root, self.root / OWN_FOLDER / "backups")
        self._seen: dict[str, _Seen] = {}
        self._pending: dict[str, dict[str, str | None]] = {}
        self._classes: set[str] = set()
        self._cleared: set[str] = set()
        self._next_flush = 0.0

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self._path.parent

    @property
    def warnings(self) -> tuple[str, ...]:
        """A QuPath that may have the project open, one newer than any tested, and images it passes over."""
        found = (
            *open_project_warnings(self._path),
            *(
                f"{printable_name(name)} has the id of another image of the project, so QuPath shows one of "
                "them and the other is not scored: add its slide to the project again."
                for name in self._repeated
            ),
        )
        if self._qupath.is_tested:
            return found
        newer = f"QuPath {self._qupath.version} is newer than {NEWEST_TESTED}, the newest tested"
        return (*found, f"{newer}: try it on a copy of the project first.")

    def entries(self) -> Sequence[Entry]:
        """All images, in the project's order."""
        return [Entry(id, printable_name(str(image.image_name))) for id, image in self._images.images.items()]

    def read(self, entry: Entry) -> EntryContent:
        """Read one image's slide, annotations and what an earlier run wrote.

        Raises
        ------
        SlideError
            If its slide is missing, unreadable, or cannot be matched to what QuPath shows.
        EntryDamagedError
            If its data exist but cannot be read.
        """
        data = ImageData.read(self._qupath, self._images.data_path(entry), entry.name)
        image_type = data.image_type if data is not None else ""
        try:
            shown = self._images.shown(entry, again=True)
        except SlideError:
            # What is no H&E slide need not be a slide at all.
            check_image_type(image_type, entry.name)
            raise
        transform = shown.transform
        annotations = _annotations(data, transform, entry)
        self._seen[entry.id] = _Seen(
            data.sha256 if data is not None else None, tuple(annotation.id for annotation in annotations)
        )
        run, options = self._written(entry, data)
        return EntryContent(
            entry=entry,
            slide_path=shown.path,
            mpp=shown.mpp,
            annotations=annotations,
            written_run=run,
            written_with=options,
            warnings=shown.warnings,
            image_type=image_type,
            view=shown.view,
            pixels=shown.pixels,
        )

    def write(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        """Replace what an earlier run wrote by this result.

        The outcome of a slide that could not be scored goes into the image's metadata only.

        Raises
        ------
        EntryChangedError
            If the image's data are not what :meth:`read` read.
        EntryDamagedError
            If they cannot be read.
        WriteBackError
            If they could not be written; they are as they were.
        """
        self._cleared.discard(entry.id)
        if not result.outcome.is_failure:
            self._write_data(entry, result, options)
        self._pending[entry.id] = dict(result_metadata(result))
        if time.monotonic() >= self._next_flush:
            self.flush()

    def written_objects(self, entry: Entry) -> WrittenObjects:
        """Count what is ours in an image.

        Raises
        ------
        EntryDamagedError
            If its data cannot be read.
        """
        data = ImageData.read(self._qupath, self._images.data_path(entry), entry.name)
        found = data.written_objects() if data is not None else WrittenObjects()
        return replace(found, metadata=self._has_metadata(entry))

    def clear(self, entry: Entry) -> bool:
        """Remove everything of ours from an image and restore its classes; False when there was nothing.

        The classes of ours leave the project's list when all images were cleared.

        Raises
        ------
        EntryDamagedError, EntryChangedError, WriteBackError
            As :meth:`write`.
        """
        path = self._images.data_path(entry)
        data = ImageData.read(self._qupath, path, entry.name)
        found = data is not None and (bool(data.written_objects()) or data.has_mark())
        if data is not None and found:
            before = data.user_digest()
            data.clear_proposals()
            data.clear()
            self._backups.keep(path)
            data.save(path, user_digest=before)
            self._seen.pop(entry.id, None)
        had_metadata = self._has_metadata(entry)
        self._pending[entry.id] = dict.fromkeys(_METADATA)
        self._cleared.add(entry.id)
        return found or had_metadata

    def propose(self, entry: Entry, areas: Sequence[BaseGeometry], class_name: str, probe: str) -> bool:
        """Replace what was proposed on an image before; False when there was nothing, and is nothing.

        Parameters
        ----------
        areas
            Valid polygons, level-0 px of the slide.
        class_name, probe
            As of :meth:`bridge.qupath.image_data.ImageData.propose`.

        Raises
        ------
        EntryDamagedError, EntryChangedError, WriteBackError
            As :meth:`write`.
        """
        path = self._images.data_path(entry)
        data = self._unchanged(entry)
        transform = self._images.shown(entry).transform
        if data is None:
            if not areas:
                return False
            data = self._images.blank(entry)
        before = data.user_digest()
        if data.clear_proposals():
            # A result that stood on them is gone with them.
            self._pending[entry.id] = dict.fromkeys(_METADATA)
        elif not areas:
            return False
        names = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{entry.id} {probe} {k}")) for k in range(len(areas))]
        shown = transform.box
        whole = shapely.box(shown.x, shown.y, shown.x + shown.width, shown.y + shown.height)
        shapes = {
            name: transform.from_slide(shapely.intersection(area, whole))
            for name, area in zip(names, areas, strict=True)
            if area.intersects(whole)
        }
        data.propose(shapes, class_name, probe)
        self._backups.keep(path)
        data.save(path, user_digest=before)
        self._seen.pop(entry.id, None)
        return True

    def flush(self) -> None:
        """Bring the project file and its list of classes up to date with what was written.

        Raises
        ------
        ProjectError, WriteBackError
            If that cannot be done; both files are as they were.
        """
        started = time.monotonic()
        if self._pending:
            update_metadata(self._path, self._pending, self._backups, self._verify_project)
            self._metadata = image_metadata(read_project(self._path))
            self._pending = {}
        classes = self.root / "classifiers" / "classes.json"
        if self._classes:
            add_classes(classes, sorted(self._classes), self._backups)
            self._classes = set()
        if self._cleared and self._cleared >= self._images.images.keys():
            remove_classes(classes, self._backups)
        now = time.monotonic()
        self._next_flush = now + (now - started) / _FLUSH_SHARE

    def close(self) -> None:
        """Write what is pending; may be called twice."""
        self.flush()

    def _write_data(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        """Write a result onto an image's objects."""
        path = self._images.data_path(entry)
        data = self._unchanged(entry)
        if result.union is None and (data is None or not (data.written_objects() or data.has_mark())):
            return
        transform = self._images.shown(entry).transform
        annotations = _annotations(data, transform, entry)
        areas = {a.id: area for a in annotations if (area := area_of(a, [])) is not None}
        sampled = result.union.annotations if result.union is not None else ()
        if not areas.keys() >= set(sampled):
            raise EntryChangedError(
                f"{entry.name} no longer has all the annotations that were scored", "Run again"
            )
        plan = plan_writing(result, options, areas)
        if data is None:
            if not plan:
                return  # nothing to be kept but the outcome, which is metadata
            data = self._images.blank(entry)
        elif not plan and not data.written_objects() and not data.has_mark():
            return
        before = data.user_digest()
        data.clear()
        run = result.provenance.run if result.provenance is not None else ""
        self._classes |= data.apply(
            plan, transform, run=run, options=msgspec.to_builtins(options), kept=kept_result(result)
        )
        self._backups.keep(path)
        data.save(path, user_digest=before)
        self._seen[entry.id] = _Seen(data.sha256, tuple(a.id for a in annotations))

    def _unchanged(self, entry: Entry) -> ImageData | None:
        """Read an image's data; raise EntryChangedError if they are not those that :meth:`read` read."""
        path = self._images.data_path(entry)
        data = ImageData.read(self._qupath, path, entry.name)
        seen = self._seen.get(entry.id)
        if seen is not None and seen.sha256 != (data.sha256 if data is not None else None):
            raise changed_error(f"The data of {entry.name} ({path})")
        if seen is not None and data is not None:
            data.keep_ids(seen.ids)
        return data

    def _has_metadata(self, entry: Entry) -> bool:
        return bool(self._metadata.get(entry.id, {}).keys() & _METADATA.keys())

    def _written(self, entry: Entry, data: ImageData | None) -> tuple[str | None, WriteOptions | None]:
        """Return the run whose result is completely here, and the options it was written with."""
        metadata = self._metadata.get(entry.id, {})
        run = metadata.get(_RUN_KEY)
        mark: RunMarker | None = data.complete_mark() if data is not None else None
        if not run or entry.id in self._pending:
            return None, None
        if mark is not None and mark.run == run:
            try:
                return run, msgspec.convert(mark.options, WriteOptions)
            except msgspec.ValidationError:
                return None, None  # another version's options
        bare = data is None or (not data.written_objects() and not data.has_mark())
        if bare and metadata.get(_OUTCOME_KEY) in _WITHOUT_OBJECTS:
            return run, None
        return None, None

    def _verify_project(self, new: Path) -> None:
        """Have QuPath read a new project file."""
        java = self._qupath.java
        try:
            project = java("qupath.lib.projects.ProjectIO").loadProject(
                java("java.io.File")(str(new)), java("java.awt.image.BufferedImage")
            )
            found = {str(image.getID()): image for image in project.getImageList()}
        except self._qupath.throwable as error:
            raise WriteBackError(
                f"QuPath could not read what was written for {self._path}", _REPORT
            ) from error
        for id, changes in self._pending.items():
            for key, value in changes.items():
                if id in found and found[id].getMetadataValue(key) != value:
                    raise WriteBackError(f"{self._path} did not read back as it was written", _REPORT)


_WITHOUT_OBJECTS: Final = tuple(
    outcome.value
    for outcome in (Outcome.NO_MATCHING_ANNOTATION, Outcome.INSUFFICIENT_TISSUE, Outcome.UNSUITABLE)
)
_REPORT: Final = "It is as it was. Please report it"


def _annotations(data: ImageData | None, transform: SlideTransform, entry: Entry) -> tuple[Annotation, ...]:
    """All annotations of the user's, level-0 px of the slide."""
    if data is None:
        return ()
    source = f"The annotations of {entry.name}"
    found = read_features([(source, data.annotations_geojson())], (0, 0), own=True)
    drawn = [item.annotation for item in found]
    return tuple(replace(item, geometry=transform.to_slide(item.geometry)) for item in drawn)
