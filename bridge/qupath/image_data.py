"""An image's ``data.qpdata``: read strictly, changed in memory, written so that nothing can be lost.

QuPath reads such a file leniently: what it cannot read it leaves out, and from two unreadable files it makes
an empty image, which the next save would store. Here a file counts only if it can be read to its end mark. It
is a row of serialised Java objects (the image's server, type, stains, workflow, objects, properties); all of
them are kept as they are read and written back in their order, with our changes made to two: the objects and
the properties. See ``PathIO`` in QuPath's source for the format.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.classes import (
    GRADE_COLOURS,
    MARK,
    PROPOSED_COLOUR,
    TILE_CLASS,
    TILE_COLOUR,
    WHOLE_IMAGE_NAME,
    grade_component,
)
from bridge.annotations.regions import distinct_ids
from bridge.annotations.transform import SlideTransform
from bridge.qupath.jvm import QuPath
from bridge.qupath.safe_replace import replace_file
from bridge.results.schema import tile_measurements
from bridge.writing.plan import AnnotationPlan, RunMarker, WritePlan, WrittenObjects
from herohe_model.errors import EntryDamagedError, WriteBackError
from herohe_model.files import sha256_of

DATA_NAME: Final = "data.qpdata"
_INTERRUPTED_SUFFIX: Final = ".bkp"
_REMEDY: Final = (
    "Open the image in QuPath, look whether its objects are all there, and save it, or restore a backup"
)


class ImageData:
    """The content of one data file, in memory; a thread's own."""

    def __init__(self, qupath: QuPath, items: Any, name: str, sha256: str | None) -> None:
        self._qupath = qupath
        self._data = qupath.data
        self._items = items
        self._name = name
        self.sha256 = sha256
        hierarchy = qupath.java("qupath.lib.objects.hierarchy.PathObjectHierarchy")
        found = [item for item in items if isinstance(item, hierarchy)]
        if len(found) != 1:
            raise EntryDamagedError(f"The data of {name} hold no objects' hierarchy", _REMEDY)
        self._root = found[0].getRootObject()

    @classmethod
    def read(cls, qupath: QuPath, path: Path, name: str) -> ImageData | None:
        """Read a data file; None when the image was never saved.

        Raises
        ------
        EntryDamagedError
            If any of it cannot be read.
        """
        sha256 = sha256_of(path)
        if sha256 is None:
            interrupted = path.with_name(path.name + _INTERRUPTED_SUFFIX)
            if interrupted.exists():
                raise EntryDamagedError(
                    f"QuPath was stopped while it saved {name}: there is {interrupted} but no {path.name}",
                    _REMEDY,
                )
            return None
        try:
            with qupath.file_input(path) as stream:
                items = qupath.data.read(stream)
        except qupath.throwable as error:
            raise EntryDamagedError(
                f"The data of {name} cannot be read to their end ({path}: {_reason(error)})", _REMEDY
            ) from error
        return cls(qupath, items, name, sha256)

    @classmethod
    def blank(cls, qupath: QuPath, builder: Any, name: str, project_id: str) -> ImageData:
        """Return the data that QuPath itself would save for an image that was never saved.

        Parameters
        ----------
        builder
            QuPath's server builder of the image; its slide must be there.
        project_id
            What QuPath knows the image by within its project.
        """
        java = qupath.java
        stream = java("java.io.ByteArrayOutputStream")()
        try:
            server = builder.build()
            try:
                image_data = java("qupath.lib.images.ImageData")(server)
                image_data.setProperty("PROJECT_ENTRY_ID", java("java.lang.String")(project_id))
                java("qupath.lib.io.PathIO").writeImageData(stream, image_data)
            finally:
                server.close()
            items = qupath.data.read(java("java.io.ByteArrayInputStream")(stream.toByteArray()))
        except qupath.throwable as error:
            raise WriteBackError(
                f"QuPath cannot open the slide of {name} ({_reason(error)})",
                "Open it in QuPath once and save it",
            ) from error
        return cls(qupath, items, name, None)

    @property
    def image_type(self) -> str:
        """Name of the image's type as its user set it, such as ``BRIGHTFIELD_H_E``; "" without one."""
        kind = self._qupath.java("qupath.lib.images.ImageData").ImageType
        return next((str(item.name()) for item in self._items if isinstance(item, kind)), "")

    def annotations_geojson(self) -> str:
        """All annotations of the user's as GeoJSON, parents before children, in QuPath's px."""
        return str(self._data.geoJson(self._annotations()))

    def written_objects(self) -> WrittenObjects:
        """Count what is ours among the objects."""
        marked = sum(bool(self._values(o) or str(self._data.ownComponent(o))) for o in self._annotations())
        return WrittenObjects(
            int(self._data.ownTiles(self._root).size()),
            marked,
            int(self._data.ownAnnotations(self._root).size()),
            proposals=int(self._data.proposals(self._root).size()),
        )

    def user_digest(self) -> str:
        """Digest everything that is the user's; the same before and after we wrote."""
        return str(self._data.userDigest(self._root))

    def object_count(self) -> int:
        """Return the number of all objects."""
        return _count(self._root)

    def has_mark(self) -> bool:
        """Whether a run left its mark, even if nothing else of it is there."""
        return bool(self._own_properties())

    def keep_ids(self, ids: Sequence[str]) -> None:
        """Give the annotations the identifiers that an earlier reading of the same file gave them.

        Files of QuPath before 0.4 hold none, and each reading makes new ones; from the next save on they
        are kept. Those of a file that holds them stay, two of the same among them.
        """
        named = self._named_annotations()
        if [id for id, _ in named] != list(ids):
            for id, (_, item) in zip(ids, named, strict=True):
                item.setID(self._uuid(id))

    def clear(self) -> None:
        """Remove what results wrote and restore the classes; what was proposed stays."""
        self._data.remove(self._data.ownTiles(self._root))
        self._data.remove(self._data.ownAnnotations(self._root))
        for item in self._annotations():
            self._data.removeOwnMeasurements(item)
            if str(self._data.ownComponent(item)):
                self._data.derive(item, None, None)
        for key in self._own_properties():
            self._properties().remove(key)

    def clear_proposals(self) -> bool:
        """Remove the regions that a probe proposed, and results that stand on them; False without any."""
        if not self._data.proposals(self._root).size():
            return False
        self.clear()
        self._data.remove(self._data.proposals(self._root))
        return True

    def propose(self, shapes: Mapping[str, BaseGeometry], class_name: str, probe: str) -> None:
        """Add regions that a probe proposes.

        Parameters
        ----------
        shapes
            By identifier, a UUID; QuPath's px.
        class_name
            The class that they are proposed for, such as ``Tumor``.
        probe
            SHA-256 of the probe, which is kept with each.
        """
        made = self._data.propose(
            self._qupath.strings(list(shapes)),
            self._qupath.strings([shapely.to_wkt(shape, rounding_precision=3) for shape in shapes.values()]),
            class_name,
            self._qupath.colour(PROPOSED_COLOUR),
            probe,
        )
        self._root.addChildObjects(made)

    def apply(
        self,
        plan: WritePlan,
        transform: SlideTransform,
        *,
        run: str,
        options: Mapping[str, Any],
        kept: str,
    ) -> set[str]:
        """Write a result onto the objects; return the classes that were used.

        Parameters
        ----------
        plan
            What to write; geometry in level-0 px of the slide.
        transform
            Where QuPath's pixels lie on the slide.
        run, options
            What wrote it, for :class:`RunMarker`.
        kept
            What the panel inside QuPath shows of it; see :func:`bridge.writing.plan.kept_result`.
        """
        objects = dict(self._named_annotations())
        used: set[str] = set()
        for annotation in plan.annotations:
            item = objects[annotation.id]
            used |= self._mark(item, annotation)
            used |= self._add_tiles(item, annotation.id, annotation, plan.steps, transform, run)
        whole = plan.whole_image
        if whole is not None:
            item = self._whole_image_annotation(transform, run)
            used |= self._mark(item, whole)
            used |= self._add_tiles(item, str(item.getID()), whole, plan.steps, transform, run)
        if plan:
            marked = tuple(annotation.id for annotation in plan.annotations)
            mark = RunMarker(
                run=run,
                tiles=plan.tile_count,
                annotations=marked,
                whole_image=whole is not None,
                state=self._own_state(marked),
                options=dict(options),
            )
            self._put_property(MARK, msgspec.json.encode(mark).decode())
            self._put_property(f"{MARK} result", kept)
        return used

    def complete_mark(self) -> RunMarker | None:
        """Return the mark of the run whose result is here completely, None when there is none."""
        properties = self._properties()
        text = properties.get(MARK) if properties is not None else None
        if text is None:
            return None
        try:
            mark = msgspec.json.decode(str(text), type=RunMarker)
        except msgspec.MsgspecError:
            return None
        complete = (
            self._data.ownTiles(self._root).size() == mark.tiles
            and self._data.ownAnnotations(self._root).size() == int(mark.whole_image)
            and self._own_state(mark.annotations) == mark.state
        )
        return mark if complete else None

    def save(self, path: Path, *, user_digest: str) -> None:
        """Put this content in the place of the file it was read from.

        Parameters
        ----------
        user_digest
            What :meth:`user_digest` was when it was read.

        Raises
        ------
        EntryChangedError, WriteBackError
            See :func:`bridge.qupath.safe_replace.replace_file`.
        """
        if self.user_digest() != user_digest:
            raise WriteBackError(
                f"Writing to {self._name} would have changed objects of yours", "Please report it"
            )
        count, own = self.object_count(), self.written_objects()
        not_whole = WriteBackError(
            f"What was written for {self._name} did not read back whole; its data are as they were",
            "Please report it",
        )

        def write(new: Path) -> None:
            try:
                self._data.write(self._qupath.java("java.io.File")(str(new)), self._items)
            except self._qupath.throwable as error:
                raise OSError(_reason(error)) from error

        def verify(new: Path) -> None:
            try:
                again = ImageData.read(self._qupath, new, self._name)
                # QuPath's own reader too: it is what the user will open the file with.
                theirs = self._qupath.java("qupath.lib.io.PathIO").readHierarchy(
                    self._qupath.java("java.io.File")(str(new))
                )
            except (EntryDamagedError, self._qupath.throwable) as error:
                raise not_whole from error
            if (
                again is None
                or again.user_digest() != user_digest
                or again.written_objects() != own
                or (self.complete_mark() is not None and again.complete_mark() is None)
                or not again.object_count() == _count(theirs.getRootObject()) == count
            ):
                raise not_whole

        path.parent.mkdir(parents=True, exist_ok=True)
        self.sha256 = replace_file(
            path, write, verify, expected=self.sha256, what=f"The data of {self._name} ({path})"
        )

    def _annotations(self) -> Any:
        """Return the user's annotations as a Java list, parents before children."""
        return self._data.userAnnotations(self._root)

    def _named_annotations(self) -> list[tuple[str, Any]]:
        """Return the user's annotations by the identifiers that :meth:`annotations_geojson` is read with."""
        items = list(self._annotations())
        return list(zip(distinct_ids(str(item.getID()) for item in items), items, strict=True))

    def _values(self, item: Any) -> dict[str, float]:
        return {str(name): float(value) for name, value in self._data.ownMeasurements(item).items()}

    def _own_state(self, ids: Iterable[str]) -> str:
        """Digest what the annotations of these identifiers hold of ours."""
        wanted = set(ids)
        rows = sorted(
            (id, str(self._data.ownComponent(item)), sorted(self._values(item).items()))
            for id, item in self._named_annotations()
            if id in wanted
        )
        return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()

    def _mark(self, item: Any, annotation: AnnotationPlan) -> set[str]:
        values = item.getMeasurementList()
        for name, value in annotation.measurements.items():
            values.put(name, value)
        values.close()
        if annotation.grade is None:
            return set()
        colour = self._qupath.colour(GRADE_COLOURS[annotation.grade])
        return {str(self._data.derive(item, grade_component(annotation.grade), colour))}

    def _add_tiles(
        self,
        item: Any,
        id: str,
        annotation: AnnotationPlan,
        steps: Sequence[str],
        transform: SlideTransform,
        run: str,
    ) -> set[str]:
        if not annotation.tiles:
            return set()
        qupath, namespace = self._qupath, uuid.UUID(id)
        rows = [tile_measurements(tile, steps) for tile in annotation.tiles]
        names = list(dict.fromkeys(name for row in rows for name in row))
        # A patch that no composite drew has no contributions: not a number is not written.
        values = np.array([[row.get(name, math.nan) for name in names] for row in rows])
        squares = [(*transform.square_from_slide(t.x, t.y, t.size), t.size) for t in annotation.tiles]
        made = self._data.tiles(
            qupath.strings([str(uuid.uuid5(namespace, f"{run} {t.x} {t.y}")) for t in annotation.tiles]),
            qupath.doubles(np.array(squares, dtype=np.float64)),
            qupath.strings(names),
            qupath.doubles(values),
            qupath.colour(TILE_COLOUR),
        )
        item.addChildObjects(made)
        return {TILE_CLASS}

    def _whole_image_annotation(self, transform: SlideTransform, run: str) -> Any:
        java = self._qupath.java
        plane = java("qupath.lib.regions.ImagePlane").getDefaultPlane()
        roi = java("qupath.lib.roi.ROIs").createRectangleROI(
            0.0, 0.0, float(transform.width), float(transform.height), plane
        )
        item = java("qupath.lib.objects.PathObjects").createAnnotationObject(roi)
        item.setID(self._uuid(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{MARK} {run}"))))
        item.setName(WHOLE_IMAGE_NAME)
        item.getMetadata().put(MARK, run)
        # It lies over everything: locked, it cannot be moved by mistake.
        item.setLocked(True)
        self._root.addChildObject(item)
        return item

    def _uuid(self, id: str) -> Any:
        return self._qupath.java("java.util.UUID").fromString(id)

    def _properties(self) -> Any:
        mapping = self._qupath.java("java.util.Map")
        found = [item for item in self._items if isinstance(item, mapping)]
        return found[-1] if found else None

    def _own_properties(self) -> list[str]:
        """Return the names of the image's properties that are ours, the script's among them."""
        properties = self._properties()
        names = [str(key) for key in properties.keySet()] if properties is not None else []
        return [name for name in names if name.startswith(MARK)]

    def _put_property(self, key: str, text: str) -> None:
        properties = self._properties()
        if properties is None:
            properties = self._qupath.java("java.util.HashMap")()
            self._items.add(self._items.size() - 1, properties)
        properties.put(key, self._qupath.java("java.lang.String")(text))


def _count(root: Any) -> int:
    return int(root.getDescendantObjects(None).size())


def _reason(error: Exception) -> str:
    """Return the first line of a Java exception without the name of its class."""
    lines = str(error).splitlines()
    return lines[0].rpartition("Exception: ")[2] if lines else type(error).__name__
