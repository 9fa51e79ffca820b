"""The images of a QuPath project: which file each is, and where its pixels lie on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bridge.annotations.transform import SlideTransform
from bridge.projects.base import Entry
from bridge.qupath.image_data import DATA_NAME, ImageData
from bridge.qupath.image_source import (
    ImageSource,
    SlideFinder,
    frame_of,
    parse_builder,
    users_mpp,
    view_of,
)
from bridge.qupath.jvm import QuPath
from bridge.qupath.pixels import QuPathPixels
from herohe_model.errors import ProjectError, SlideError, WriteBackError
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.view import SlideView

_NOT_COMPARED: Final = (
    "QuPath reads this image by another reader than OpenSlide, which could not be asked whether it shows the "
    "same: {why}."
)


@dataclass(frozen=True)
class ShownImage:
    """How an image lies on its file; of one by QuPath's own pixels, the image is the slide.

    Attributes
    ----------
    path
        The file, where it is now.
    transform
        Where the image's pixels lie on the slide.
    mpp
        µm per level-0 px as the user set it; None where that is the file's.
    view
        What of the slide is shown, and in which colours.
    pixels
        QuPath's own; None where the file's are the same.
    """

    path: Path
    transform: SlideTransform
    mpp: float | None = None
    view: SlideView = field(default_factory=SlideView)
    pixels: QuPathPixels | None = None
    warnings: tuple[str, ...] = ()


class ProjectImages:
    """The images of a project as QuPath lists them.

    Parameters
    ----------
    path
        The ``.qpproj`` file.
    finder
        Finds files that were moved.

    Raises
    ------
    ProjectError
        If QuPath cannot open the project.
    """

    def __init__(self, qupath: QuPath, path: Path, finder: SlideFinder) -> None:
        self._qupath, self._path, self._finder = qupath, path, finder
        self.images: Mapping[str, Any] = {str(image.entry_id): image for image in _open(qupath, path)}
        self._shown: dict[str, ShownImage] = {}

    def data_path(self, entry: Entry) -> Path:
        """Return the file of an image's data; it need not be there."""
        folder: Path = self.images[entry.id].entry_path
        return folder / DATA_NAME

    def shown(self, entry: Entry, *, again: bool = False) -> ShownImage:
        """Return how an image lies on its slide, as it was found the last time, or look again.

        Raises
        ------
        SlideError
            If the slide is missing, unreadable, or cannot be matched to what QuPath shows.
        """
        if again or entry.id not in self._shown:
            self._shown[entry.id] = self._look(entry)
        return self._shown[entry.id]

    def blank(self, entry: Entry) -> ImageData:
        """Return the data that QuPath would save for an image that has none."""
        if not self._qupath.openslide:
            raise WriteBackError("QuPath's OpenSlide does not load", "Install QuPath again")
        builder = self._builder(entry, *self._locate(entry))
        return ImageData.blank(self._qupath, builder, entry.name, f"{self._path}::{entry.id}")

    def _look(self, entry: Entry) -> ShownImage:
        source, path = self._locate(entry)
        plain = source.by_openslide or bool(source.steps)
        try:
            with GuardedSlide(path) as slide:
                transform = frame_of(source, slide, entry.name)
                view = view_of(source, transform, entry.name)
                found = ShownImage(path, transform, users_mpp(source, slide), view)
                if plain:
                    return found
                try:
                    pixels = self._pixels(entry, source, path)
                except SlideError as error:
                    return replace(found, warnings=(_NOT_COMPARED.format(why=error.problem),))
                if pixels.are_those_of(slide):
                    return found
                why = "it shows others when it is read by OpenSlide"
        except SlideError as error:
            if plain:
                raise
            pixels, why = self._pixels(entry, source, path), error.problem
        whole = SlideTransform.at(0, 0, pixels.source.width, pixels.source.height)
        return ShownImage(path, whole, pixels=pixels, warnings=(pixels.warning(why),))

    def _pixels(self, entry: Entry, source: ImageSource, path: Path) -> QuPathPixels:
        return QuPathPixels(self._qupath, self._builder(entry, source, path), entry.name)

    def _locate(self, entry: Entry) -> tuple[ImageSource, Path]:
        """Return what the project says about an image, and its slide's file."""
        java = self._qupath.java
        builder = self.images[entry.id].java_object.getServerBuilder()
        kind = java("qupath.lib.images.servers.ImageServerBuilder.ServerBuilder").class_
        text = java("qupath.lib.io.GsonTools").getInstance().toJson(builder, kind)
        source = parse_builder(json.loads(str(text)), entry.name)
        return source, self._finder.find(source.uri, entry.name)

    def _builder(self, entry: Entry, source: ImageSource, path: Path) -> Any:
        """Return what QuPath opens an image with, where its file lies now."""
        java = self._qupath.java
        found = java("java.nio.file.Paths").get(str(path)).toUri()
        builder = self.images[entry.id].java_object.getServerBuilder()
        return builder.updateURIs({java("java.net.URI")(source.uri): found})


def _open(qupath: QuPath, path: Path) -> list[Any]:
    """Return paquo's image entries of a project."""
    classifiers = path.parent / "classifiers"
    existed = classifiers.is_dir()
    try:
        project = qupath.open_project(path)
        return list(project.images)
    except (qupath.throwable, ValueError, OSError) as error:
        raise ProjectError(
            f"QuPath cannot open {path} ({error})",
            f"Restore it: QuPath keeps the one before as {path.name}.backup",
        ) from error
    finally:
        # QuPath makes this folder when it only looks for the list of classes.
        if not existed and classifiers.is_dir() and not any(classifiers.iterdir()):
            classifiers.rmdir()
