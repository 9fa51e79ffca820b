"""Open a QuPath project or a folder of slides: whichever a path names."""

from __future__ import annotations

from pathlib import Path

from bridge.projects.base import Collection
from bridge.projects.scales import read_scales
from herohe_model.errors import OptionError, ProjectNotFoundError
from herohe_model.slides.dicom import DICOM_SUFFIXES
from herohe_model.slides.formats import PICTURE_SUFFIXES, SLIDE_SUFFIXES


def open_collection(
    path: Path | str,
    *,
    slides_root: Path | None = None,
    output: Path | None = None,
    mpp_table: Path | None = None,
) -> Collection:
    """Open a QuPath project, a folder of slides, or a single slide of one.

    Parameters
    ----------
    path
        A ``.qpproj`` file, the folder of one, a folder of slides, or a slide.
    slides_root
        A folder to look for a project's slides in, when they were moved.
    output
        Where a folder of slides gets its results; a project holds its own.
    mpp_table
        A table with the scale of slides of a folder; see :mod:`bridge.projects.scales`.

    Raises
    ------
    ProjectNotFoundError
        If there is neither a project nor a slide.
    ProjectError
        If the project cannot be read.
    QuPathNotFoundError
        If it is a project and there is no QuPath.
    OptionError
        If scales are given for a project, which has its own.
    TableError
        If they cannot be read.
    """
    path = Path(path)
    a_slide = path.name.lower().endswith((*SLIDE_SUFFIXES, *DICOM_SUFFIXES, *PICTURE_SUFFIXES))
    only = path.name if a_slide and path.is_file() else None
    path = path.parent if only is not None else path
    if path.is_file() and path.suffix == ".qpproj":
        projects = [path]
    elif path.is_dir():
        default = path / "project.qpproj"
        projects = [default] if default.is_file() else sorted(path.glob("*.qpproj"))
    else:
        raise ProjectNotFoundError(
            f"{path} is neither a QuPath project nor a folder", "Name a project.qpproj or a folder of slides"
        )
    projects = [] if only is not None else projects
    if len(projects) > 1:
        raise ProjectNotFoundError(
            f"{path} holds {len(projects)} projects", f"Name one, such as {projects[0]}"
        )
    if projects and mpp_table is not None:
        raise OptionError(
            f"{projects[0]} is a QuPath project, whose images have scales of their own",
            "Set the pixel size in QuPath's Image tab",
        )
    if projects:
        from bridge.projects.qupath_project import QuPathProject

        return QuPathProject(projects[0], slides_root=slides_root)
    from bridge.projects.slide_folder import SlideFolder

    scales = {} if mpp_table is None else read_scales(mpp_table)
    return SlideFolder(path, output=output, only=only, scales=scales)
