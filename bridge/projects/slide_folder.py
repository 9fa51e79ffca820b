"""A folder of slides with GeoJSON beside them: the same face as a QuPath project, without Java.

Annotations are read from ``<slide>.geojson`` (``case1.svs.geojson`` or ``case1.geojson``) and its like, see
:mod:`bridge.annotations.files`. Results go into files of their own, ``<slide>.her2-he.geojson``, which QuPath
imports by drag and drop: the sampled annotations, with their identifiers, and their tiles. They belong into
an image that does not show the annotations yet; of those that it has, QuPath would make second ones. What the
user exported is never touched. Only slides directly in the folder count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.annotations.classes import (
    MARK,
)
from bridge.annotations.files import RESULT_SUFFIX, find_annotation_files, read_texts
from bridge.annotations.geojson import DrawnFeature, read_features
from bridge.annotations.geojson_writing import collection_text
from bridge.annotations.regions import area_of
from bridge.annotations.transform import SlideTransform
from bridge.projects.base import Entry, EntryContent
from bridge.projects.result_features import annotated_feature, whole_image_feature
from bridge.projects.surroundings import passed_over
from bridge.qupath.safe_replace import changed_error, replace_file, write_new
from bridge.results.schema import PREFIX, SlideResult, image_metadata
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import WrittenObjects, plan_writing
from herohe_model.dataset.cases import case_id
from herohe_model.errors import (
    ProjectError,
    ProjectNotFoundError,
    RegionError,
    SlideNotFoundError,
    SlideUnreadableError,
    WriteBackError,
)
from herohe_model.files import sha256_of
from herohe_model.printable import is_text, printable_name
from herohe_model.slides.formats import SLIDE_SUFFIXES
from herohe_model.slides.guarded_slide import GuardedSlide

_MOMENT_NS: Final = 2_000_000_000
"""As coarse as any file system keeps times."""
_MEMBER: Final = PREFIX.lower()
"""Member of a result file that says what wrote it."""


class _Written(msgspec.Struct, frozen=True):
    """What a result file says about itself."""

    run: str
    options: WriteOptions
    metadata: dict[str, str]


class _ObjectProperties(msgspec.Struct, frozen=True):
    metadata: dict[str, Any] | None = None
    childObjects: list[msgspec.Raw] = []


class _Object(msgspec.Struct, frozen=True):
    properties: _ObjectProperties


class _ResultFile(msgspec.Struct, frozen=True):
    """A result file, as far as it is ours."""

    written: _Written = msgspec.field(name=_MEMBER)
    features: list[_Object]

    def count(self) -> WrittenObjects:
        """Count what is in it."""
        whole = sum(MARK in (item.properties.metadata or {}) for item in self.features)
        return WrittenObjects(
            tiles=sum(len(item.properties.childObjects) for item in self.features),
            annotations=len(self.features) - whole,
            whole_image=whole,
            metadata=True,
        )


class SlideFolder:
    """A folder of slides, as a :class:`~bridge.projects.base.Collection`.

    Parameters
    ----------
    root
        The folder.
    output
        Where results go, into its folder ``geojson``; ``<root>/herohe-bridge`` by default.
    only
        The name of the one slide that is meant; None for all.
    scales
        µm per level-0 px of slides, by name without extension, in place of what their files say.

    Raises
    ------
    ProjectNotFoundError
        If there is no slide in it.
    """

    def __init__(
        self,
        root: Path,
        *,
        output: Path | None = None,
        only: str | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._root = root
        self._only, self._scales = only, scales or {}
        self._results = (output or root / "herohe-bridge") / "geojson"
        self._seen: dict[str, str | None] = {}
        self._changed = 0
        self._paths = self._listed()
        self._slides: dict[str, Path] = {}
        for path in self._paths:
            # A link to nowhere is a slide that cannot be read; so is a file that may not be looked at.
            named_so = path.name.lower().endswith(SLIDE_SUFFIXES) and not path.name.startswith(".")
            if named_so and only in (None, path.name) and not os.path.isdir(path):
                self._slides[_free(printable_name(path.name), self._slides)] = path
        self._files = find_annotation_files(self._paths, [path.name for path in self._slides.values()])
        if not self._slides:
            raise ProjectNotFoundError(
                " ".join([f"{root} holds no QuPath project and no slide.", *self.warnings]).rstrip("."),
                "Name a project.qpproj or a folder of slides",
            )

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @property
    def warnings(self) -> tuple[str, ...]:
        """What lies in the folder and is not used."""
        if self._only is not None:
            return ()
        files = self._files
        slides = {case_id(path.name) for path in self._slides.values()}
        known = files.used.union(files.strays)
        return (
            *(
                f"The table of scales names {name}, no slide of the folder."
                for name in sorted(self._scales.keys() - slides)
            ),
            *(f"{printable_name(path.name)} belongs to no slide of the folder." for path in files.strays),
            *passed_over(self._paths, list(self._slides.values()), suffixes=SLIDE_SUFFIXES, used=known),
        )

    def entries(self) -> Sequence[Entry]:
        """All slides, by name."""
        return [Entry(name, name) for name in self._slides]

    def read(self, entry: Entry) -> EntryContent:
        """Read one slide's annotations and what an earlier run wrote.

        Raises
        ------
        SlideError
            If the slide is unreadable, or its name is no text.
        RegionError
            If its annotations cannot be read, or two files could be them.
        """
        slide_path = self._slide_path(entry)
        source = self._annotation_file(slide_path)
        before = _digest(source)
        texts = read_texts(source) if source is not None else []
        annotations = tuple(found.annotation for found in _features(texts, _transform(slide_path)))
        self._seen[entry.id] = before
        result = self._result(entry)
        return EntryContent(
            entry=entry,
            slide_path=slide_path,
            mpp=self._scales.get(case_id(slide_path.name)),
            annotations=annotations,
            written_run=result.written.run or None if result else None,
            written_with=result.written.options if result else None,
            warnings=(f"{source.name} holds no GeoJSON and was not used",) if source and not texts else (),
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
        slide_path = self._slide_path(entry)
        source = self._annotation_file(slide_path)
        if entry.id in self._seen and _digest(source) != self._seen[entry.id]:
            raise changed_error(str(source))
        transform = _transform(slide_path)
        drawn = {
            found.annotation.id: found
            for found in _features(read_texts(source) if source is not None else [], transform)
        }
        areas = {id: area for id, d in drawn.items() if (area := area_of(d.annotation, [])) is not None}
        plan = plan_writing(result, options, areas)
        run = result.provenance.run if result.provenance else ""
        features = [
            annotated_feature(drawn[annotation.id].members(), annotation, plan.steps, transform, run)
            for annotation in plan.annotations
        ]
        if plan.whole_image is not None:
            features.append(whole_image_feature(plan.whole_image, plan.steps, transform, run))
        written = _Written(run, options, image_metadata(result))
        text = collection_text(features, **{_MEMBER: msgspec.to_builtins(written)})
        path = self._result_file(entry)

        def verify(new: Path) -> None:
            again = _decoded(new.read_bytes())
            if again is None or again.written != written or again.count().tiles != plan.tile_count:
                raise WriteBackError(f"{path} did not read back as it was written", "Check the disk")

        if path.is_symlink() or path.parent.is_symlink():
            link = path if path.is_symlink() else path.parent
            raise WriteBackError(f"{link} is a link, which is not followed", "Remove it: a run makes its own")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteBackError(
                f"The folder {path.parent} cannot be made ({error.strerror or error})",
                "Allow writing there, or name another --output",
            ) from error
        replace_file(
            path,
            partial(write_new, text),
            verify,
            expected=sha256_of(path),
            what=str(path),
        )

    def written_objects(self, entry: Entry) -> WrittenObjects:
        """Count what is in the result file of a slide."""
        result = self._result(entry)
        return result.count() if result is not None else WrittenObjects()

    def clear(self, entry: Entry) -> bool:
        """Remove the result file of a slide; False when there was none of ours.

        Raises
        ------
        WriteBackError
            If it cannot be removed.
        """
        if self._result(entry) is None:
            return False
        path = self._result_file(entry)
        try:
            path.unlink()
        except OSError as error:
            raise WriteBackError(
                f"{path} cannot be removed ({error.strerror or error})", "Allow writing to its folder"
            ) from error
        return True

    def close(self) -> None:
        """Do nothing: every result is on the disk when it is written."""

    def _listed(self) -> list[Path]:
        try:
            return sorted(self._root.iterdir())
        except OSError as error:
            raise ProjectError(
                f"The folder {self._root} cannot be read ({error.strerror or error})", "Check its permissions"
            ) from error

    def _annotation_file(self, slide_path: Path) -> Path | None:
        """Return the annotations of a slide as they lie there now: a run may take days."""
        changed = os.stat(self._root).st_mtime_ns
        # Two changes within a moment may bear the same time.
        if changed != self._changed or time.time_ns() - changed < _MOMENT_NS:
            self._changed = changed
            self._paths = self._listed()
            self._files = find_annotation_files(self._paths, [path.name for path in self._slides.values()])
        return self._files.of(slide_path.name)

    def _slide_path(self, entry: Entry) -> Path:
        path = self._slides[entry.id]
        if not is_text(path.name):
            raise SlideUnreadableError(
                f"The name of {path} is no text: it is not UTF-8", "Rename it, and what belongs to it"
            )
        if path.is_symlink() and not os.path.exists(path):
            raise SlideNotFoundError(
                f"{path} is a link to {os.readlink(path)}, which is not there", "Bring that file back"
            )
        return path

    def _result_file(self, entry: Entry) -> Path:
        return self._results / f"{self._slides[entry.id].name}{RESULT_SUFFIX}"

    def _result(self, entry: Entry) -> _ResultFile | None:
        """Return the result file of a slide; None when it is not there, or not ours."""
        try:
            return _decoded(self._result_file(entry).read_bytes())
        except OSError:
            return None


def _decoded(text: bytes) -> _ResultFile | None:
    try:
        return msgspec.json.decode(text, type=_ResultFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _free(name: str, taken: Container[str]) -> str:
    """Return a name that none has yet: what cannot be shown may make two names alike."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _digest(source: Path | None) -> str | None:
    """SHA-256 of a slide's annotations; raises RegionError when they cannot be read."""
    if source is None:
        return None
    try:
        found = sha256_of(source)
    except OSError as error:
        raise RegionError(
            f"{source} cannot be read ({error.strerror or error})", "Check its permissions"
        ) from error
    return found


def _features(texts: Sequence[tuple[str, bytes]], transform: SlideTransform) -> list[DrawnFeature]:
    """Return a slide's annotations, level-0 px of the slide."""
    return read_features(texts, (transform.x0, transform.y0))


def _transform(slide_path: Path) -> SlideTransform:
    with GuardedSlide(slide_path) as slide:
        return SlideTransform.at(slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height)
