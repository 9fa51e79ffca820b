"""A project's ``project.qpproj`` and list of classes, edited in place of QuPath's own save.

QuPath saves a project by writing down what it has in memory: what somebody else saved meanwhile is lost, and
so is what its version does not know. Here the JSON on the disk is read, our entries are set, everything else
is kept as it stands, and the file is replaced whole. Both files are small, so that takes milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge.annotations.classes import Colour, is_own_class, own_colour
from bridge.qupath.safe_replace import Backups, replace_file, write_new
from herohe_model.errors import EntryChangedError, ProjectError, WriteBackError
from herohe_model.files import sha256_of

_ATTEMPTS: Final = 3
_MAX_BYTES: Final = 1 << 28

_Scalar = str | int | float | bool | None


class _Image(msgspec.Struct):
    """What is used of an image; everything else stays as it stands."""

    entryID: str | int | None = None
    metadata: dict[str, _Scalar] | None = None


class _Project(msgspec.Struct):
    images: list[_Image]
    uri: str | None = None


class _Class(msgspec.Struct):
    name: str | None = None


class _Classes(msgspec.Struct):
    pathClasses: list[_Class]


def read_project(path: Path) -> dict[str, Any]:
    """Return the content of a ``.qpproj`` file.

    Raises
    ------
    ProjectError
        If it is no project file.
    """
    return _read(
        path,
        _Project,
        f"{path} cannot be read as a QuPath project",
        f"Name a project.qpproj, or restore it: QuPath keeps the one before as {path.name}.backup",
    )


def image_metadata(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the metadata of all images by the image's id."""
    return {
        str(image.get("entryID")): {key: str(value) for key, value in (image.get("metadata") or {}).items()}
        for image in document["images"]
    }


def repeated_images(document: Mapping[str, Any]) -> list[str]:
    """Return the names of images that have the id of one before them."""
    seen: set[str] = set()
    found = []
    for image in document["images"]:
        id = str(image.get("entryID"))
        if id in seen:
            found.append(str(image.get("imageName") or id))
        seen.add(id)
    return found


def update_metadata(
    path: Path,
    changes: Mapping[str, Mapping[str, str | None]],
    backups: Backups,
    verify: Callable[[Path], None],
) -> None:
    """Set or remove metadata of images in a project file, keeping everything else.

    Parameters
    ----------
    changes
        By image id: the new value of each key, None to remove it. Images that are gone are passed over.
    verify
        Called with the new file before it takes the old one's place; raises WriteBackError if it is unsound.
    """

    def edit(document: dict[str, Any]) -> None:
        for image in document["images"]:
            values = dict(image.get("metadata") or {})
            for key, value in changes.get(str(image.get("entryID")), {}).items():
                if value is None:
                    values.pop(key, None)
                else:
                    values[key] = value
            if values or image.get("metadata"):
                image["metadata"] = values

    _edit(path, read_project, edit, backups, verify)


def add_classes(path: Path, names: Sequence[str], backups: Backups) -> None:
    """Append classes of ours to a project's list of classes (``classes.json``).

    A project without a list shows QuPath's own; it is not given one, which would replace them all by ours.
    """

    def edit(document: dict[str, Any]) -> None:
        listed = {item.get("name") for item in document["pathClasses"]}
        for name in names:
            colour = own_colour(name)
            if name not in listed and colour is not None:
                document["pathClasses"].append({"name": name, "color": _packed(colour)})

    if sha256_of(path) is not None:
        _edit(path, _read_classes, edit, backups, _readable_classes)


def remove_classes(path: Path, backups: Backups) -> None:
    """Remove the classes of ours from a project's list of classes."""

    def edit(document: dict[str, Any]) -> None:
        document["pathClasses"] = [
            item for item in document["pathClasses"] if not is_own_class(str(item.get("name")))
        ]

    if sha256_of(path) is not None:
        _edit(path, _read_classes, edit, backups, _readable_classes)


def _edit(
    path: Path,
    read: Callable[[Path], dict[str, Any]],
    edit: Callable[[dict[str, Any]], None],
    backups: Backups,
    verify: Callable[[Path], None],
) -> None:
    """Read, edit and replace a JSON file; once more if somebody else saved it in between."""
    for attempt in range(_ATTEMPTS):
        before = sha256_of(path)
        document = read(path)
        plain = json.dumps(document)
        edit(document)
        if json.dumps(document) == plain:
            return
        text = json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
        backups.keep(path)
        try:
            replace_file(path, partial(write_new, text), verify, expected=before, what=str(path))
            return
        except EntryChangedError:
            if attempt == _ATTEMPTS - 1:
                raise


def _read_classes(path: Path) -> dict[str, Any]:
    return _read(path, _Classes, f"The list of classes {path} cannot be read", "Restore it from a backup")


def _read(path: Path, kind: type[_Project | _Classes], problem: str, remedy: str) -> dict[str, Any]:
    """Return a JSON file as it stands, once it is known to be of a kind."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        document: dict[str, Any] = json.loads(path.read_bytes())
        msgspec.convert(document, kind)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise ProjectError(f"{problem} ({error})", remedy) from error
    return document


def _readable_classes(path: Path) -> None:
    try:
        _read_classes(path)
    except ProjectError as error:
        raise WriteBackError(error.problem, error.remedy) from error


def _packed(colour: Colour) -> int:
    """Return a colour as QuPath's JSON holds it: a signed 32-bit integer, opaque."""
    red, green, blue = colour
    return (0xFF << 24 | red << 16 | green << 8 | blue) - (1 << 32)
