"""The slides of a folder and of those below it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from herohe_model.errors import ProjectError
from herohe_model.slides.dicom import DICOM_SUFFIXES, dicom_slides
from herohe_model.slides.formats import PICTURE_SUFFIXES, SLIDE_SUFFIXES

OWN_FOLDER: Final = "herohe-bridge"
"""Where runs put their results, by default."""
ZARR: Final = (".ome.zarr", ".zarr")
_MOST_FOLDERS: Final = 20_000


@dataclass(frozen=True)
class FoundFolder:
    """A folder that was looked into.

    Attributes
    ----------
    path
        Where it is.
    listing
        All that is in it, by name.
    slides
        Those of its files that are slides, by name; of a DICOM slide, that of the largest level.
    named
        What DICOM slides are called, by file.
    parts
        All files of DICOM slides.
    below
        Folders in it that were looked into, too.
    unread
        Why it could not be; "" where it was.
    """

    path: Path
    listing: tuple[Path, ...]
    slides: tuple[Path, ...]
    named: Mapping[Path, str] = field(default_factory=dict)
    parts: frozenset[Path] = frozenset()
    below: tuple[Path, ...] = ()
    unread: str = ""


def walk_slides(root: Path, *, results: Path, only: str | None = None) -> list[FoundFolder]:
    """Look for slides in a folder and, unless one alone is meant, in all below it.

    Not looked into: hidden folders, results of runs, QuPath projects, the data folders of MIRAX slides, and
    what is one image that is not read (Zarr). Links to folders are followed, each folder once. Where
    there is no slide at all, pictures stand for slides.

    Parameters
    ----------
    results
        Where results go.
    only
        The name of the one slide that is meant; None for all.

    Returns
    -------
    list
        The root first, then each folder before those below it, by name.

    Raises
    ------
    ProjectError
        If the root cannot be read, or there are too many folders. One below that cannot be read is among
        what is found.
    """
    found = list(_walk(root, list_folder(root), results.resolve(), only, set()))
    if any(folder.slides for folder in found):
        return found
    return [replace(folder, slides=_pictures(folder, only)) for folder in found]


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, of which a slide can be made."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def _pictures(folder: FoundFolder, only: str | None) -> tuple[Path, ...]:
    files = [path for path in folder.listing if is_picture(path) and not path.name.startswith(".")]
    return tuple(path for path in files if path.is_file() and only in (None, path.name))


def list_folder(folder: Path) -> tuple[Path, ...]:
    """Return what is in a folder, by name. Raises a ProjectError if it cannot be read."""
    try:
        return tuple(sorted(folder.iterdir()))
    except OSError as error:
        raise ProjectError(
            f"The folder {folder} cannot be read ({error.strerror or error})", "Check its permissions"
        ) from error


def _walk(
    folder: Path, listing: tuple[Path, ...], results: Path, only: str | None, seen: set[str]
) -> Iterator[FoundFolder]:
    seen.add(os.path.realpath(folder))
    if len(seen) > _MOST_FOLDERS:
        raise ProjectError(
            f"There are more than {_MOST_FOLDERS:,} folders below", "Name one nearer to the slides"
        )
    files = [path for path in listing if not path.name.startswith(".") and not os.path.isdir(path)]
    # A link to nowhere is a slide that cannot be read; so is a file that may not be looked at.
    slides = [
        path for path in files if path.name.lower().endswith(SLIDE_SUFFIXES) and only in (None, path.name)
    ]
    pieces = [path for path in files if path.name.lower().endswith(DICOM_SUFFIXES)]
    series = (
        dicom_slides(pieces) if pieces and (only is None or only.lower().endswith(DICOM_SUFFIXES)) else []
    )
    series = [slide for slide in series if only is None or any(part.name == only for part in slide.parts)]
    slides = sorted([*slides, *(slide.path for slide in series)])
    inner: dict[Path, tuple[Path, ...] | ProjectError] = {}
    for path in listing if only is None else ():
        if not _is_looked_into(path, slides, results) or os.path.realpath(path) in seen:
            continue
        try:
            held = list_folder(path)
        except ProjectError as error:
            inner[path] = error
            continue
        if not any(file.name.endswith(".qpproj") for file in held):
            inner[path] = held
    yield FoundFolder(
        folder,
        listing,
        tuple(slides),
        named={slide.path: slide.name for slide in series},
        parts=frozenset(part for slide in series for part in slide.parts),
        below=tuple(inner),
    )
    for path, found in inner.items():
        if isinstance(found, ProjectError):
            yield FoundFolder(path, (), (), unread=found.problem)
        # By a link it may have been met meanwhile.
        elif os.path.realpath(path) not in seen:
            yield from _walk(path, found, results, only, seen)


def _is_looked_into(path: Path, slides: Sequence[Path], results: Path) -> bool:
    if path.name.startswith(".") or path.name == OWN_FOLDER or path.name.lower().endswith(ZARR):
        return False
    if not path.is_dir() or path.resolve() == results:
        return False
    return not any(slide.suffix.lower() == ".mrxs" and slide.stem == path.name for slide in slides)
