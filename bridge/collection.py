"""The face that a QuPath project and a folder of slides with GeoJSON share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bridge.options import WriteOptions
from bridge.regions import Annotation
from bridge.results import SlideResult
from herohe_model.errors import ProjectNotFoundError


@dataclass(frozen=True)
class Entry:
    """One image of a collection; ``id`` is stable across runs and unique within the collection."""

    id: str
    name: str


@dataclass(frozen=True)
class EntryContent:
    """What an entry holds when it is read.

    Attributes
    ----------
    slide_path
        The slide's file on this machine; it exists.
    mpp
        µm per level-0 px as the user set it in QuPath, when it differs from the file's; None otherwise.
    annotations
        Everything that a user drew, in its order; nothing that an earlier run of ours wrote.
    written_run
        ``HER2-HE run`` of the result that is completely present in the entry, or None: a result of which
        something is missing (cleared, partly deleted) does not count.
    written_with
        The write options of that result; None without one, and for a result of which the entry holds nothing
        but its outcome.
    """

    entry: Entry
    slide_path: Path
    mpp: float | None
    annotations: tuple[Annotation, ...]
    written_run: str | None
    written_with: WriteOptions | None = None
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class OwnWork:
    """How much in an entry is ours: what ``clear`` would remove.

    Attributes
    ----------
    annotations
        Annotations of the user's that carry our measurements or a class that we derived.
    whole_image
        Annotations that we made over the whole image.
    """

    tiles: int = 0
    annotations: int = 0
    whole_image: int = 0
    metadata: bool = False

    def __bool__(self) -> bool:
        return bool(self.tiles or self.annotations or self.whole_image or self.metadata)


class Collection(Protocol):
    """Slides with annotations, that results can be written back into.

    ``read`` remembers the state of the entry's data; ``write`` refuses with
    :class:`~herohe_model.errors.EntryChangedError` if they changed since.
    """

    @property
    def root(self) -> Path:
        """The folder that holds it."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before writing, such as a QuPath that has the project open."""
        ...

    def entries(self) -> Sequence[Entry]:
        """All entries, in the collection's own order."""
        ...

    def read(self, entry: Entry) -> EntryContent:
        """Read one entry. Raises a HeroheError that names the slide when it cannot be used."""
        ...

    def write(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        """Replace what an earlier run wrote by this result; checked by reading it again.

        The objects that an earlier run wrote stay when the slide could not be scored this time.
        """
        ...

    def own_work(self, entry: Entry) -> OwnWork:
        """Count what is ours in an entry; changes nothing, and needs no slide."""
        ...

    def clear(self, entry: Entry) -> bool:
        """Remove everything we wrote and restore classes; False when there was nothing."""
        ...

    def close(self) -> None:
        """Write what is still to be written for the collection as a whole; may be called twice."""
        ...


def open_collection(path: Path, *, slides_root: Path | None = None, output: Path | None = None) -> Collection:
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
        from bridge.project import QuPathProject

        return QuPathProject(projects[0], slides_root=slides_root)
    from bridge.slide_folder import SlideFolder

    return SlideFolder(path, output=output)
