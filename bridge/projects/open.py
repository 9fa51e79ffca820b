"""Open a QuPath project or a folder of slides: whichever a path names."""

from __future__ import annotations

from pathlib import Path

from bridge.projects.base import Collection
from herohe_model.errors import ProjectNotFoundError


def open_collection(
    path: Path | str, *, slides_root: Path | None = None, output: Path | None = None
) -> Collection:
    """Open a QuPath project, or a folder of slides.

    Parameters
    ----------
    path
        A ``.qpproj`` file, the folder of one, or a folder of slides.
    slides_root
        A folder to look for a project's slides in, when they were moved.
    output
        Where a folder of slides gets its results; a project holds its own.

    Raises
    ------
    ProjectNotFoundError
        If there is neither a project nor a slide.
    ProjectError
        If the project cannot be read.
    QuPathNotFoundError
        If it is a project and there is no QuPath.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".qpproj":
        projects = [path]
    elif path.is_dir():
        default = path / "project.qpproj"
        projects = [default] if default.is_file() else sorted(path.glob("*.qpproj"))
    else:
        raise ProjectNotFoundError(
            f"{path} is neither a QuPath project nor a folder", "Name a project.qpproj or a folder of slides"
        )
    if len(projects) > 1:
        raise ProjectNotFoundError(
            f"{path} holds {len(projects)} projects", f"Name one, such as {projects[0]}"
        )
    if projects:
        from bridge.projects.qupath_project import QuPathProject

        return QuPathProject(projects[0], slides_root=slides_root)
    from bridge.projects.slide_folder import SlideFolder

    return SlideFolder(path, output=output)
