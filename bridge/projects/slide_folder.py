"""A folder of slides with GeoJSON beside them: the same face as a QuPath project, without Java.

Annotations are read from ``<slide>.geojson`` (``case1.svs.geojson`` or ``case1.geojson``) and its like, see
:mod:`bridge.annotations.files`. Results go into files of their own, ``<slide>.her2-he.geojson``, which QuPath
imports by drag and drop: the sampled annotations, with their identifiers, and their tiles. They belong into
an image that does not show the annotations yet; of those that it has, QuPath would make second ones. What the
user exported is never touched. Slides in folders below count, too; annotations lie beside each. Of a folder
of pictures, slides are made once, beside the results.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.annotations.classes import (
    MARK,
)
from bridge.annotations.files import RESULT_SUFFIX, AnnotationFiles, find_annotation_files, read_texts
from bridge.annotations.geojson import DrawnFeature, read_features
from bridge.annotations.geojson_writing import collection_text
from bridge.annotations.regions import area_of
from bridge.annotations.transform import SlideTransform
from bridge.projects.base import Entry, EntryContent
from bridge.projects.result_features import annotated_feature, whole_image_feature
from bridge.projects.surroundings import passed_over
from bridge.projects.walk import OWN_FOLDER, FoundFolder, is_picture, list_folder, walk_slides
from bridge.qupath.safe_replace import changed_error, replace_file, write_new
from bridge.results.schema import PREFIX, SlideResult, image_metadata
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import WrittenObjects, plan_writing
from herohe_model.dataset.cases import case_id
from herohe_model.errors import (
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
from herohe_model.slides.pictures import convert_picture

_log = logging.getLogger(__name__)

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
        output = output or root / OWN_FOLDER
        self._results = output / "geojson"
        self._seen: dict[str, str | None] = {}
        self._folders = walk_slides(root, results=output, only=only)
        self._slides: dict[str, Path] = {}
        for folder in self._folders:
            for path in folder.slides:
                within = printable_name(path.relative_to(root).as_posix())
                self._slides[_free(within, self._slides)] = path
        self._names = _distinct(self._slides, self._folders)
        self._files = {folder.path: _annotation_files(folder) for folder in self._folders}
        self._changed: dict[Path, int] = {}
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
        slides = {case_id(name) for name in self._names.values()}
        strays = [path for files in self._files.values() for path in files.strays]
        used = {path for files in self._files.values() for path in files.used.union(files.strays)}
        return (
            *(
                f"The table of scales names {name}, no slide of the folder."
                for name in sorted(self._scales.keys() - slides)
            ),
            *(
                f"{printable_name(name)} belongs to no slide of the folder."
                for name in (path.relative_to(self._root).as_posix() for path in strays)
            ),
            *passed_over(self._folders, suffixes=SLIDE_SUFFIXES, used=used),
        )

    def entries(self) -> Sequence[Entry]:
        """All slides, by name, those of the folder itself first; each by its place in it."""
        return [Entry(id, self._names[id]) for id in self._slides]

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
        source = self._annotation_file(self._slides[entry.id])
        before = _digest(source)
        texts = read_texts(source) if source is not None else []
        annotations = tuple(found.annotation for found in _features(texts, _transform(slide_path)))
        self._seen[entry.id] = before
        result = self._result(entry)
        return EntryContent(
            entry=entry,
            slide_path=slide_path,
            mpp=self._scales.get(case_id(entry.name)),
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
        source = self._annotation_file(self._slides[entry.id])
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

        made = (path, *(folder for folder in path.parents if folder.is_relative_to(self._results)))
        for link in (place for place in made if place.is_symlink()):
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

    def _annotation_file(self, slide_path: Path) -> Path | None:
        """Return the annotations of a slide as they lie there now: a run may take days."""
        folder = slide_path.parent
        changed = os.stat(folder).st_mtime_ns
        # Two changes within a moment may bear the same time.
        if changed != self._changed.get(folder) or time.time_ns() - changed < _MOMENT_NS:
            self._changed[folder] = changed
            slides = [path.name for path in self._slides.values() if path.parent == folder]
            self._files[folder] = find_annotation_files(list_folder(folder), slides)
        return self._files[folder].of(slide_path.name)

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
        return self._converted(entry, path) if is_picture(path) else path

    def _converted(self, entry: Entry, picture: Path) -> Path:
        """Return the slide that was made of a picture, and make it where it is not there or older."""
        within = picture.relative_to(self._root)
        slide = self._results.with_name("slides") / within.with_name(f"{within.name}.tif")
        if not slide.is_file() or slide.stat().st_mtime_ns < picture.stat().st_mtime_ns:
            _log.info("%s: a slide is made of it, once", entry.name)
            convert_picture(picture, slide, mpp=self._scales.get(case_id(entry.name)))
        return slide

    def _result_file(self, entry: Entry) -> Path:
        within = self._slides[entry.id].relative_to(self._root)
        return self._results / within.with_name(f"{within.name}{RESULT_SUFFIX}")

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


def _annotation_files(folder: FoundFolder) -> AnnotationFiles:
    return find_annotation_files(folder.listing, [path.name for path in folder.slides])


def _distinct(slides: Mapping[str, Path], folders: Sequence[FoundFolder]) -> dict[str, str]:
    """Return what each slide is called: its file's name, and where that is another's, too, its folder."""
    named = {path: name for folder in folders for path, name in folder.named.items()}
    plain = {id: printable_name(named.get(path, path.name)) for id, path in slides.items()}
    times, names = Counter(plain.values()), dict[str, str]()
    taken: set[str] = set()
    for id, path in slides.items():
        within = path.relative_to(folders[0].path).parts[:-1]
        name = plain[id]
        if times[name] > 1 and within:
            name = f"{name} (in {printable_name(' in '.join(reversed(within)))})"
        names[id] = _free(name, taken)
        taken.add(names[id])
    return names


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
