"""GuardedSlide: a slide that is read by another process, since a damaged one can end who reads it.

OpenSlide takes sizes that a file claims on trust; one flipped bit can make it ask for so much memory that it
aborts the process. No check beforehand can promise that this is the last such case.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import (
    SlideError,
    SlideFatalError,
    SlideNotFoundError,
    SlideScaleError,
    SlideUnreadableError,
)
from herohe_model.slides.reader_messages import Lacks, Open, Read
from herohe_model.slides.reader_pool import ReaderEnded, ReaderProcess, Refused, reader_pool
from herohe_model.slides.slide_file import COPY_AGAIN, SlideFacts, SlideFile

_T = TypeVar("_T")

_ERRORS: Final = {kind.code: kind for kind in (SlideNotFoundError, SlideScaleError, SlideUnreadableError)}


@dataclass(frozen=True)
class _Place:
    """Where a slide is open: in which process, by which number, and whether nothing else is read there."""

    process: ReaderProcess
    slide: int
    alone: bool


class GuardedSlide(SlideFile):
    """A slide file, open in a process that reads it for this one.

    As :class:`~herohe_model.slides.slide.Slide`, and the pixels are the same. A reader that ends while it
    reads a slide was not necessarily ended by that: what it was asked is asked once more, of a new process
    with this slide alone.

    Parameters
    ----------
    path
        A file that OpenSlide reads as a slide.
    mpp
        µm per level-0 px, overriding what the file says.
    readers
        How many threads one piece of work shall read with; None for the processor's cores, up to 4.

    Raises
    ------
    SlideNotFoundError
        If there is no such file.
    SlideUnreadableError
        If it may not be read, is no slide, or is truncated or damaged so far that it does not open.
    SlideFatalError
        If it ends the process that opens it, twice.
    SlideScaleError
        If `mpp` is no scale.
    """

    def __init__(self, path: Path | str, *, mpp: float | None = None, readers: int | None = None) -> None:
        self.path = Path(path)
        self._mpp = mpp
        self._lock = Lock()
        self._fatal: SlideUnreadableError | None = None
        try:
            place, facts = self._open(alone=False)
        except ReaderEnded:
            place, facts = self._open_alone()
        self._place: _Place | None = place
        super().__init__(self.path, facts, readers)
        self._forget = weakref.finalize(self, reader_pool().leave, place.process, place.slide)
        self._forget.atexit = False

    def close(self) -> None:
        """Let go of the file, once the reads under way have ended; may be called twice."""
        with self._lock:
            place, self._place = self._place, None
            self._forget.detach()
        if place is not None:
            reader_pool().give_back(place.process, place.slide)

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a box at any scale; see :meth:`SlideFile.read_box`.

        Raises
        ------
        SlideFatalError
            If it ends the process that reads it, twice; then for every other box, too.
        """
        if min(width, height, *out) < 1:
            raise ValueError(f"a box of {width} x {height} px into {out} px is empty")
        box = (int(x), int(y), int(width), int(height))
        return self._ask(lambda place: place.process.read(Read(place.slide, *box, out)))

    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        """Whether squares lack pixels; see :meth:`SlideFile.lacks_pixels`."""
        if not self.facts.sparse:
            return np.zeros(len(x), np.bool_)
        corners = x.tolist(), y.tolist()
        return self._ask(lambda place: place.process.lacks(Lacks(place.slide, *corners, size, out)))

    def _ask(self, ask: Callable[[_Place], _T]) -> _T:
        """Ask where the slide is open, and once more where its reader ended."""
        while True:
            with self._lock:
                place, fatal = self._place, self._fatal
            if fatal is not None:
                raise fatal
            if place is None:
                raise SlideUnreadableError(f"{self.path} was closed while it was being read", "Open it again")
            try:
                return ask(place)
            except Refused as refused:
                raise _error(refused) from None
            except ReaderEnded as end:
                self._move(place, end)

    def _move(self, place: _Place, end: ReaderEnded) -> None:
        """Open the slide in a process of its own, unless another thread did, or it was already."""
        with self._lock:
            if self._place is not place or self._fatal is not None:
                return
            if place.alone or end.status is None:
                self._fatal = self._fatal_error(end)
                return
            try:
                new, facts = self._open_alone()
                if facts != self.facts:
                    new.process.end()
                    raise SlideUnreadableError(f"{self.path} changed while it was being read", "Run again")
            except SlideUnreadableError as error:
                self._fatal = error
                return
            self._place = new
            self._forget.detach()
            self._forget = weakref.finalize(self, reader_pool().leave, new.process, new.slide)
            self._forget.atexit = False
        reader_pool().give_back(place.process, place.slide)

    def _open_alone(self) -> tuple[_Place, SlideFacts]:
        try:
            return self._open(alone=True)
        except ReaderEnded as end:
            raise self._fatal_error(end) from None

    def _open(self, *, alone: bool) -> tuple[_Place, SlideFacts]:
        """Open the slide; raises a SlideError, or ReaderEnded."""
        try:
            process, slide = reader_pool().take(alone=alone)
        except OSError as error:
            raise SlideUnreadableError(
                f"{self.path}: no process can be started to read it ({error})", "Close other programs"
            ) from error
        try:
            # The reader may have begun in another directory than this process is in now.
            file = str(self.path.absolute())
            return _Place(process, slide, alone), process.open(Open(slide, file, self._mpp))
        except BaseException as error:
            reader_pool().give_back(process, slide)
            if isinstance(error, Refused):
                raise _error(error) from None
            raise

    def _fatal_error(self, end: ReaderEnded) -> SlideUnreadableError:
        if end.by_fault:
            return SlideFatalError(
                f"{self.path} is damaged: it ends every process that reads it ({end.how})",
                COPY_AGAIN,
                path=str(self.path),
            )
        if end.status is None:
            return SlideUnreadableError(
                f"{self.path} cannot be read: {end.how}", "Look at its disk, and run again"
            )
        return SlideUnreadableError(
            f"What reads {self.path} was ended twice ({end.how})",
            "Close programs that take much memory, or score fewer slides at once; 'herohe-bridge doctor' "
            "says whether slides can be read at all",
        )


def _error(refused: Refused) -> SlideError:
    found = refused.problem
    return _ERRORS.get(found.code, SlideError)(found.problem, found.remedy)
