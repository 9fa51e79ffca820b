"""Making a QuPath project, as QuPath would: for the demo and for trying things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.annotations.geojson_writing import collection_text, feature
from bridge.annotations.regions import Annotation
from bridge.annotations.transform import SlideTransform
from bridge.qupath.jvm import start_qupath
from herohe_model.errors import ProjectError
from herohe_model.slides.guarded_slide import GuardedSlide


@dataclass(frozen=True)
class NewImage:
    """A slide that goes into a new project; the annotations' geometry is in level-0 px of the slide."""

    slide_path: Path
    name: str
    annotations: tuple[Annotation, ...] = ()


def create_project(folder: Path, images: Sequence[NewImage]) -> None:
    """Make a QuPath project of H&E slides with annotations.

    Parameters
    ----------
    folder
        Where it is made; empty, or not there yet.

    Raises
    ------
    QuPathNotFoundError
        If there is no QuPath.
    ProjectError
        If the folder is not empty, or QuPath cannot open a slide.
    """
    qupath = start_qupath()
    if not qupath.openslide:
        raise ProjectError("QuPath's OpenSlide does not load", "Install QuPath again")
    path_io = qupath.java("qupath.lib.io.PathIO")
    try:
        project = qupath.new_project(folder)
        for image in images:
            with GuardedSlide(image.slide_path) as slide:
                box = slide.bounds
            transform = SlideTransform.at(box.x, box.y, box.width, box.height)
            entry = project.add_image(image.slide_path, image_type=qupath.brightfield_he)
            entry.image_name = image.name
            features = [
                feature(
                    id=annotation.id,
                    object_type="annotation",
                    geometry=transform.from_slide(annotation.geometry),
                    name=annotation.name,
                    class_name=annotation.class_name,
                )
                for annotation in image.annotations
            ]
            stream = qupath.java("java.io.ByteArrayInputStream")(collection_text(features))
            entry.hierarchy.java_object.addObjects(path_io.readObjectsFromGeoJSON(stream))
        project.save()
    except (qupath.throwable, ValueError, OSError) as error:
        raise ProjectError(
            f"No project could be made in {folder} ({error})", "Name an empty folder"
        ) from error
