"""A finished run on disk: its results, one slide at a time, and where its slides are now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

import msgspec

from bridge.results.files import JSON_FORMAT, JSON_VERSION, ResultFileError, read_json
from bridge.results.schema import SlideResult
from herohe_model.errors import SlideError, SlideNotFoundError
from herohe_model.slides.guarded_slide import GuardedSlide

RESULTS_NAME: Final = "results.json"
DEFAULT_FOLDER: Final = "herohe-bridge"
"""What ``score`` calls its output folder, inside the collection, when no other is named."""

_OPENING: Final = b',"slides":['
"""Ends the first line of a file as we lay it out: one slide a line."""

_WHERE: Final = "Name the folder of the slides with --slides-root"


_ABOVE: Final = 4
"""How many folders above a run are looked into for slides that were moved together with it."""


class _Head(msgspec.Struct):
    format: str
    version: int
    collection: str = ""


@dataclass(frozen=True)
class ScoredRun:
    """What ``herohe-bridge score`` left behind; made by :func:`find_run`.

    Attributes
    ----------
    results
        Its ``results.json``.
    slides_root
        Where to look for slides first; None to look only where the run found them.
    """

    results: Path
    slides_root: Path | None = None

    @property
    def folder(self) -> Path:
        """The output folder of the run."""
        return self.results.parent

    @property
    def title(self) -> str:
        """A name to show: of the collection where it is known, or else of the run's folder."""
        folder = self.folder.resolve()
        known = read_head(self.results).collection or folder.name == DEFAULT_FOLDER
        return (self._collection.name if known else "") or folder.name

    @cached_property
    def _collection(self) -> Path:
        """Folder that recorded paths are relative to; above the run where its file does not say."""
        folder = self.folder.resolve()
        try:
            return (folder / (read_head(self.results).collection or "..")).resolve()
        except (OSError, ValueError):
            return folder.parent

    def slides(self) -> Iterator[SlideResult]:
        """Yield the slides' results in the run's order, one in memory at a time.

        Raises
        ------
        ResultFileError
            If the file is not one of ours.
        """
        return _read(self.results)

    def open_slide(self, result: SlideResult) -> GuardedSlide:
        """Open the very slide that was scored; the caller closes it.

        A slide is looked for below ``slides_root`` first (by its whole recorded path, then by ever fewer of
        its folders), then where the run found it, and then where it is if it was moved together with the run.

        Raises
        ------
        SlideNotFoundError
            If it is not there, or only another slide of its name is.
        SlideUnreadableError
            If it is there and damaged.
        """
        if result.provenance is None:
            raise SlideNotFoundError(f"{result.slide} was not opened by the run", "Score it again")
        other: Path | None = None
        unreadable: SlideError | None = None
        for path in self._places(result.path):
            if not path.is_file():
                continue
            try:
                slide = GuardedSlide(path)
            except SlideError as error:
                unreadable = unreadable or error
                continue
            if slide.fingerprint == result.provenance.slide_fingerprint:
                return slide
            slide.close()
            other = other or path
        if unreadable is not None:
            raise unreadable
        if other is not None:
            raise SlideNotFoundError(
                f"{other} is not the slide that was scored as {result.slide}: its content differs", _WHERE
            )
        raise SlideNotFoundError(f"{result.path} is not there", _WHERE)

    def _places(self, recorded: str) -> Iterator[Path]:
        """Yield where a slide may be, likeliest first."""
        windows = "\\" in recorded or recorded[1:2] == ":"
        pure = PureWindowsPath(recorded) if windows else PurePosixPath(recorded)
        parts = pure.parts[1:] if pure.anchor else pure.parts
        if self.slides_root is not None:
            for first in range(len(parts)):
                yield self.slides_root.joinpath(*parts[first:])
        given = Path(recorded)
        if given.is_absolute():
            yield given
        elif not pure.anchor:
            # Paths below the collection are relative to it.
            yield self._collection.joinpath(*parts)
            yield self.folder.joinpath(*parts)
        for folder in self.folder.resolve().parents[:_ABOVE]:
            for first in range(len(parts)):
                yield folder.joinpath(*parts[first:])


def find_run(where: Path | str, *, slides_root: Path | None = None) -> ScoredRun:
    """Find the results of a run.

    Parameters
    ----------
    where
        The output folder of ``score``, its ``results.json``, or the collection that holds the folder under
        its default name.

    Raises
    ------
    ResultFileError
        If there are none.
    """
    where = Path(where)
    for path in (where, where / RESULTS_NAME, where / DEFAULT_FOLDER / RESULTS_NAME):
        if path.is_file():
            return ScoredRun(path, slides_root)
    raise ResultFileError(
        f"There is no {RESULTS_NAME} in {where}", "Name the output folder of a run of score"
    )


def read_head(path: Path) -> _Head:
    """Return what a file says of all its slides; an empty one where :func:`_read` will say what is wrong."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            if first.rstrip().endswith(_OPENING):
                return _head(first)
            file.seek(0)
            return msgspec.json.decode(file.read(), type=_Head)
    except (OSError, msgspec.MsgspecError):
        return _Head("", 0)


def _head(first: bytes) -> _Head:
    return msgspec.json.decode(first.rstrip().removesuffix(_OPENING) + b"}", type=_Head)


def _read(path: Path) -> Iterator[SlideResult]:
    try:
        with path.open("rb") as file:
            first = file.readline()
            if not first.rstrip().endswith(_OPENING):
                # Not as we lay it out, one slide a line, but perhaps still the same content.
                yield from read_json(path)
                return
            head = _head(first)
            if head.format != JSON_FORMAT or head.version != JSON_VERSION:
                raise ResultFileError(
                    f"{path} holds '{head.format}' version {head.version}",
                    f"Version {JSON_VERSION} is understood",
                )
            decoder = msgspec.json.Decoder(SlideResult)
            for line in file:
                text = line.strip().removesuffix(b",")
                if text == b"]}":
                    return
                yield decoder.decode(text)
    except (OSError, msgspec.MsgspecError) as error:
        raise ResultFileError(f"{path} cannot be read as results: {error}", "Name a results.json") from error
    raise ResultFileError(f"{path} is cut short", "Let herohe-bridge score finish, or copy it again")
