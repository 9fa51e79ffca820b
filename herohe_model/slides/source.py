"""What is asked of a slide, whoever has its pixels: a file here, or a client that has it open.

Everything is in level-0 pixels of the slide as OpenSlide counts them, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

PLAUSIBLE_MPP: Final = (0.02, 20.0)
"""µm/px of microscope slides. Pictures with a print resolution (72 to 600 dpi) claim 42 and more."""

COARSER_WARNING: Final = 1.25
"""A slide coarser than the model's scale by more than this factor is scored with a warning."""


@dataclass(frozen=True)
class Box:
    """A rectangle in level-0 px; (x, y) is its upper left corner."""

    x: int
    y: int
    width: int
    height: int


class SlideSource(Protocol):
    """Where the pixels of a slide come from: a file, or a client that has it open."""

    @property
    def path(self) -> Path:
        """The slide's file, for messages."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0, px."""
        ...

    @property
    def bounds(self) -> Box:
        """The scanned area; the whole slide when nothing is known about it."""
        ...

    @property
    def mpp(self) -> float:
        """µm per level-0 px. Raises SlideScaleError when it is not known."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 px per px of each pyramid level, ascending from 1.0."""
        ...

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB of what was not scanned."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was noticed when the slide was opened."""
        ...

    @property
    def fingerprint(self) -> str:
        """A string that changes with the slide's content."""
        ...

    @property
    def readers(self) -> int:
        """How many threads are best to read with; 1 where it is best to ask for much at once."""
        ...

    def scale_warning(self, model_mpp: float) -> str | None:
        """Return a warning when the slide is too coarse for a model at `model_mpp` µm/px."""
        ...

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a level-0 box resampled to `out`, (width, height); see :meth:`Slide.read_box`."""
        ...

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterable[NDArray[np.uint8]]:
        """Read several boxes in their order, each resampled to `out`, (width, height)."""
        ...


def scale_warning(name: str, mpp: float, model_mpp: float) -> str | None:
    """Return a warning when a slide is coarser than the model by more than :data:`COARSER_WARNING`.

    Parameters
    ----------
    name
        The slide's name.
    mpp, model_mpp
        µm per level-0 px, and µm/px that the model was trained at.
    """
    if mpp <= model_mpp * COARSER_WARNING:
        return None
    return (
        f"{name} has {mpp:.4g} µm/px, the model was made for {model_mpp:.4g}: patches are enlarged "
        f"{mpp / model_mpp:.2g} times and hold less detail than it learned from."
    )
