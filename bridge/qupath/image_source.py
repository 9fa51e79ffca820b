"""What a project says about an image: which file it is, how QuPath shows it, and where its pixels lie in it.

A project keeps a *server builder* for each image, as JSON: a file with arguments, possibly wrapped into turns
and crops. Projects and slides get moved; then the file is looked for.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from bridge.annotations.transform import QuarterTurns, SlideTransform
from herohe_model.errors import ProjectError, SlideError, SlideNotFoundError, SlideScaleError
from herohe_model.slides.slide_file import SlideFile
from herohe_model.slides.source import PLAUSIBLE_MPP
from herohe_model.slides.view import SlideView

_TURNS: Final[dict[str, QuarterTurns]] = {
    "ROTATE_NONE": 0,
    "ROTATE_90": 1,
    "ROTATE_180": 2,
    "ROTATE_270": 3,
}
_FLIPS: Final = {
    "NONE": (False, False),
    "HORIZONTAL": (True, False),
    "VERTICAL": (False, True),
    "BOTH": (True, True),
}
_SAME_PIXELS: Final = "pyramidize"
_ICC: Final = "--icc-profile"
_OTHER_ICC: Final = ("--icc-profile-source", "--icc-profile-dest")
_FROM_QUPATH: Final = "Score it from inside QuPath, whose script sends the pixels"
_MPP_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class Turn:
    """The image was turned clockwise."""

    quarter_turns: QuarterTurns


@dataclass(frozen=True)
class Flip:
    """The image was mirrored."""

    horizontal: bool
    vertical: bool


@dataclass(frozen=True)
class Crop:
    """A part of the image, px before the crop."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class ImageSource:
    """An image as a project knows it.

    Attributes
    ----------
    uri, provider, arguments
        The file, QuPath's class that reads it, and what that was told.
    steps
        What was done to the file's image, in that order.
    size
        (width, height) of the image as QuPath shows it, px; None when the project does not say.
    mpp
        µm/px as the project has it, None when it has none.
    """

    uri: str
    provider: str
    arguments: tuple[str, ...]
    steps: tuple[Turn | Flip | Crop, ...]
    size: tuple[int, int] | None
    mpp: float | None

    @property
    def icc(self) -> bool:
        """Whether QuPath transforms colours by ICC profiles."""
        return self.by_openslide and _ICC in self.arguments

    @property
    def by_openslide(self) -> bool:
        """Whether QuPath reads the file by OpenSlide."""
        return "openslide" in self.provider.lower()


def parse_builder(builder: Mapping[str, Any], name: str) -> ImageSource:
    """Read a server builder.

    Raises
    ------
    SlideError
        If the image is made in a way that cannot be followed back to one slide's pixels.
    """
    try:
        return _parsed(builder, name)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SlideError(
            f"What the project says of {name} cannot be understood ({type(error).__name__}: {error})",
            "Add the slide to the project again",
        ) from error


def _parsed(builder: Mapping[str, Any], name: str) -> ImageSource:
    metadata = builder.get("metadata") or {}
    size = (int(metadata["width"]), int(metadata["height"])) if "width" in metadata else None
    mpp = _calibration(metadata)
    steps: list[Turn | Flip | Crop] = []
    inner = builder
    while (kind := inner.get("builderType")) != "uri":
        if kind == "rotated" and inner.get("rotation") in _TURNS:
            steps.append(Turn(_TURNS[inner["rotation"]]))
        elif kind == "flipped" and inner.get("flip") in _FLIPS:
            steps.append(Flip(*_FLIPS[inner["flip"]]))
        elif kind == "cropped" and isinstance(inner.get("region"), dict):
            region = inner["region"]
            steps.append(Crop(*(int(region[key]) for key in ("x", "y", "width", "height"))))
        elif kind != _SAME_PIXELS:
            raise SlideError(
                f"{name} is no slide's own image in QuPath but one of the kind '{kind}'", _FROM_QUPATH
            )
        inner = inner["builder"]
    arguments = tuple(str(argument) for argument in inner.get("args") or ())
    return ImageSource(
        uri=str(inner.get("uri", "")),
        provider=str(inner.get("providerClassName") or ""),
        arguments=arguments,
        steps=tuple(reversed(steps)),
        size=size,
        mpp=mpp,
    )


def frame_of(source: ImageSource, slide: SlideFile, name: str) -> SlideTransform:
    """Return where QuPath's pixels lie on the slide.

    ``--background-color`` changes nothing here: it is what QuPath shows where nothing was scanned, and the
    slide's own background is what a model is shown there.

    Raises
    ------
    SlideError
        If that is not known for sure: an annotation in the wrong place is worse than none.
    """
    box, size = slide.bounds, slide.size
    cropped = source.by_openslide and "--no-crop" not in source.arguments
    if not source.by_openslide:
        _refuse_series(source, name)
    transform = (
        SlideTransform.at(box.x, box.y, box.width, box.height) if cropped else SlideTransform.at(0, 0, *size)
    )
    for step in source.steps:
        if isinstance(step, Turn):
            transform = transform.turned(step.quarter_turns)
        elif isinstance(step, Flip):
            transform = transform.flipped(horizontal=step.horizontal, vertical=step.vertical)
        else:
            transform = transform.cropped(step.x, step.y, step.width, step.height)
    if source.size is not None and source.size != (transform.width, transform.height):
        raise SlideError(
            f"QuPath shows {name} with {source.size[0]} x {source.size[1]} px, but by {slide.path} it has "
            f"{transform.width} x {transform.height} px, so its annotations cannot be placed",
            f"Look whether it is the right file. {_FROM_QUPATH}",
        )
    return transform


def view_of(source: ImageSource, transform: SlideTransform, name: str) -> SlideView:
    """Return what of the slide the image shows, and in which colours.

    Raises
    ------
    SlideError
        If its colours are those of profiles outside the slide.
    """
    others = [option for option in _OTHER_ICC if option in source.arguments]
    if others and source.icc:
        raise SlideError(f"QuPath shows {name} through an ICC profile of its own ({others[0]})", _FROM_QUPATH)
    part = transform.box if any(isinstance(step, Crop) for step in source.steps) else None
    return SlideView(part, icc=source.icc)


def upright_frame(source: ImageSource, width: int, height: int) -> SlideTransform:
    """Return how an image of this size was turned and mirrored, whatever it was cut out of.

    For who has no slide but the image alone: its pixels lie upright in a frame whose upper left is (0, 0).
    """
    steps = [step for step in source.steps if not isinstance(step, Crop)]
    odd = sum(step.quarter_turns for step in steps if isinstance(step, Turn)) % 2
    transform = SlideTransform.at(0, 0, *((height, width) if odd else (width, height)))
    for step in steps:
        if isinstance(step, Turn):
            transform = transform.turned(step.quarter_turns)
        else:
            transform = transform.flipped(horizontal=step.horizontal, vertical=step.vertical)
    return transform


def users_mpp(source: ImageSource, slide: SlideFile) -> float | None:
    """Return the µm/px that the user set in QuPath, None when it is the file's own."""
    low, high = PLAUSIBLE_MPP
    if source.mpp is None or not low <= source.mpp <= high:
        return None
    try:
        own = slide.mpp
    except SlideScaleError:
        return source.mpp
    return source.mpp if abs(source.mpp - own) > _MPP_TOLERANCE * own else None


class SlideFinder:
    """Finds the files of a project's images, also after the project or the slides were moved.

    Parameters
    ----------
    project
        The project file, where it is now.
    previous_uri
        Where the project was when it was saved, None if it does not say.
    slides_root
        A folder to look for slides in, by their name.
    """

    def __init__(self, project: Path, previous_uri: str | None, slides_root: Path | None) -> None:
        self._project = project
        self._previous = _path_of(previous_uri) if previous_uri else None
        self._root = slides_root

    def find(self, uri: str, name: str) -> Path:
        """Return the file of a URI.

        Raises
        ------
        SlideError
            If it is no file, or several could be it.
        SlideNotFoundError
            If it is nowhere.
        """
        path = _path_of(uri)
        if path is None:
            raise SlideError(f"{name} is not a file but {uri}", _FROM_QUPATH)
        given = _local(path)
        if given.is_file():
            return given
        if self._previous is not None:
            # As QuPath does it: where the slide was, seen from where the project was.
            relative = posixpath.relpath(path, posixpath.dirname(self._previous))
            moved = Path(os.path.normpath(self._project.parent / relative))
            if moved.is_file():
                return moved
        found = self._by_name.get(posixpath.basename(path), [])
        if len(found) > 1:
            raise SlideError(
                f"The slide of {name} is not at {given}, and {found[0]} and {found[1]} both could be it",
                "Name a folder with --slides-root that holds one of them, or fix its path in QuPath",
            )
        if found:
            return found[0]
        place = f" nor below {self._root}" if self._root is not None else ""
        raise SlideNotFoundError(
            f"The slide of {name} is not at {given}{place}",
            "Name the folder it was moved to with --slides-root, or fix its path in QuPath",
        )

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """All files below the folder of slides by their name."""
        if self._root is None:
            return {}
        if not self._root.is_dir():
            raise ProjectError(f"{self._root} is no folder", "Name a folder with --slides-root")
        found: dict[str, list[Path]] = defaultdict(list)
        for folder, _, names in os.walk(self._root):
            for name in names:
                found[name].append(Path(folder, name))
        return {name: sorted(paths) for name, paths in found.items()}


def _refuse_series(source: ImageSource, name: str) -> None:
    """Refuse an image that is not the first one in its file: OpenSlide opens the first."""
    for option, value in zip(source.arguments, source.arguments[1:], strict=False):
        if option == "--series" and value not in ("0", "-1"):
            raise SlideError(f"{name} is image {value} of several in {source.uri}", _FROM_QUPATH)


def _calibration(metadata: Mapping[str, Any]) -> float | None:
    """Return the mean of a calibration's pixel width and height in µm, None without one."""
    calibration = metadata.get("pixelCalibration") or {}
    values = []
    for key in ("pixelWidth", "pixelHeight"):
        side = calibration.get(key) or {}
        if side.get("unit") not in ("µm", "um", "\u03bcm"):
            return None
        values.append(float(side["value"]))
    return sum(values) / 2


def _path_of(uri: str) -> str | None:
    """Return the path in a ``file:`` URI with forward slashes, None for any other."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    return f"//{parts.netloc}{path}" if parts.netloc not in ("", "localhost") else path


def _local(path: str) -> Path:
    """Return a URI's path as one of this machine."""
    drive = len(path) > 2 and path[0] == "/" and path[2] == ":"
    return Path(path[1:] if os.name == "nt" and drive else path)
