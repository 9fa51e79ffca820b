"""What is known of a slide's file once it is open, however its pixels are read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import SlideScaleError
from herohe_model.slides.source import Box, scale_warning

COPY_AGAIN: Final = "Copy it again from where it was scanned"

_MOST_READERS: Final = 4

_Self = TypeVar("_Self", bound="SlideFile")


@dataclass(frozen=True)
class SlideFacts:
    """What a slide's file says about itself.

    Attributes
    ----------
    size
        (width, height) of level 0, px.
    bounds
        The scanned area (``openslide.bounds-*``, clipped to the slide), or the whole slide.
    level_downsamples
        Level-0 px per px of each level, ascending from 1.0.
    background
        RGB of unscanned pixels: the file's own, or white.
    fingerprint
        OpenSlide's quickhash-1, which covers the smallest level and the properties; where a format has none,
        SHA-256 over the file's size, its first and its last MiB.
    mpp
        µm per level-0 px; None where that is not known.
    scale_problem
        What is wrong with the scale where it is not known.
    warnings
        What a user should know before trusting a result.
    sparse
        Whether tiles of a level are known to be missing.
    """

    size: tuple[int, int]
    bounds: Box
    level_downsamples: tuple[float, ...]
    background: tuple[int, int, int]
    fingerprint: str
    mpp: float | None
    scale_problem: str
    warnings: tuple[str, ...]
    sparse: bool


class SlideFile(ABC):
    """A slide's file that is open, and implements :class:`~herohe_model.slides.source.SlideSource`.

    For any number of threads. A context manager.

    Attributes
    ----------
    path
        As given.
    readers
        How many threads are best to read with.
    facts
        What the file says; most of it has a property here.
    """

    def __init__(self, path: Path, facts: SlideFacts, readers: int | None) -> None:
        self.path = path
        self.facts = facts
        self.readers = readers or min(os.cpu_count() or 1, _MOST_READERS)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, size={self.size})"

    @abstractmethod
    def close(self) -> None:
        """Let go of the file, once the reads under way have ended; may be called twice."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0, px."""
        return self.facts.size

    @property
    def bounds(self) -> Box:
        """The scanned area (``openslide.bounds-*``, clipped to the slide), or the whole slide."""
        return self.facts.bounds

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 px per px of each level, ascending from 1.0."""
        return self.facts.level_downsamples

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB of unscanned pixels: the file's own, or white."""
        return self.facts.background

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before trusting a result."""
        return self.facts.warnings

    @property
    def fingerprint(self) -> str:
        """A string that changes with the slide's content; see :class:`SlideFacts`."""
        return self.facts.fingerprint

    @property
    def mpp(self) -> float:
        """µm per level-0 px: the override, or the mean of ``openslide.mpp-x`` and ``mpp-y``.

        Raises
        ------
        SlideScaleError
            If the file says nothing, or nothing that a microscope slide can have.
        """
        if self.facts.mpp is None:
            raise SlideScaleError(self.facts.scale_problem, "Give the slide's scale with --mpp")
        return self.facts.mpp

    def scale_warning(self, model_mpp: float) -> str | None:
        """Return a warning when the slide's scale is far from `model_mpp`, µm/px."""
        return scale_warning(self.path.name, self.mpp, model_mpp)

    @abstractmethod
    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a box of the slide at any scale.

        The pixels come from the coarsest pyramid level that is not coarser than asked, lie over the
        background colour, and are then resampled (bicubic, antialiased). Where box and `out` coincide with
        a level's pixels, they are returned as stored.

        Parameters
        ----------
        x, y, width, height
            Level-0 px; the box may reach beyond the slide, where it is background.
        out
            (width, height) of the result, px.

        Returns
        -------
        ndarray
            Shape (out height, out width, 3), uint8 RGB, writable.

        Raises
        ------
        SlideUnreadableError
            If these pixels are damaged, or the slide was closed. Other boxes can still be read.
        ValueError
            If the box or `out` is empty.
        """

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels of several boxes in their order, each as :meth:`read_box` gives them."""
        for box in boxes:
            yield self.read_box(box.x, box.y, box.width, box.height, out)

    @abstractmethod
    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        """Whether squares lie over tiles that were not stored on the level that they are read from.

        Coarser levels may show something there, which nobody sees who looks closer.

        Parameters
        ----------
        x, y
            Upper left corners, level-0 px, shape (n,).
        size, out
            Side, level-0 px, and px that they are read into.

        Returns
        -------
        ndarray
            Shape (n,); False where it is not known.
        """

    def thumbnail(self, max_side: int) -> NDArray[np.uint8]:
        """Return the bounds as (h, w, 3) uint8 RGB, the longer side at most `max_side` px."""
        box = self.bounds
        shrink = max(1.0, max(box.width, box.height) / max_side)
        out = (max(1, round(box.width / shrink)), max(1, round(box.height / shrink)))
        return self.read_box(box.x, box.y, box.width, box.height, out)
