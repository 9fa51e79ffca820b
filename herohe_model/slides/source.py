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

from herohe_model.errors import SlideScaleError

PLAUSIBLE_MPP: Final = (0.06, 20.0)
"""µm/px of microscope slides. Pictures with a print resolution (72 to 600 dpi) claim 42 and more; no scanner
is finer than 0.08, and files that claim it are ten times coarser."""

COARSER_WARNING: Final = 1.25
FINER_WARNING: Final = 5.0
"""A slide coarser, or finer, than the model's scale by more than this factor is scored with a warning."""

COARSEST: Final = 4.0
FINEST: Final = 10.0
"""One coarser by more than this, or finer by as much, is not scored."""

_LEVEL_TOLERANCE: Final = 1.01

LONGEST_MM: Final = 300.0
"""Whole-mount slides have 200 mm and less."""


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

    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        """Whether squares lack pixels; see :meth:`SlideFile.lacks_pixels`."""
        ...

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterable[NDArray[np.uint8]]:
        """Read several boxes in their order, each resampled to `out`, (width, height)."""
        ...


def level_read(downsamples: Sequence[float], wanted: float) -> int:
    """Return the level that pixels of `wanted` level-0 px each are read from.

    The coarsest that is not coarser; level 0 where all are.
    """
    return max(i for i, ds in enumerate(downsamples) if i == 0 or ds <= wanted * _LEVEL_TOLERANCE)


def scale_warning(name: str, mpp: float, model_mpp: float) -> str | None:
    """Return a warning when a slide is coarser or finer than the model by more than it should be.

    Parameters
    ----------
    name
        The slide's name.
    mpp, model_mpp
        µm per level-0 px, and µm/px that the model was trained at.
    """
    said = f"{name} has {mpp:.4g} µm/px, the model was made for {model_mpp:.4g}: patches are"
    if mpp > model_mpp * COARSER_WARNING:
        return f"{said} enlarged {mpp / model_mpp:.2g} times and hold less detail than it learned from."
    if mpp < model_mpp / FINER_WARNING:
        shrunk = f"{said} shrunk {model_mpp / mpp:.2g} times."
        return f"{shrunk} If the slide is not as fine, give its scale with --mpp."
    return None


def check_scale(source: SlideSource, model_mpp: float) -> None:
    """Refuse a slide whose scale cannot be true, or is too far from the model's for a result to tell much.

    Raises
    ------
    SlideScaleError
        With the option that mends it.
    """
    mpp, remedy = source.mpp, "Give the slide's true scale with --mpp, or use a model for this one"
    said = f"{source.path} has {mpp:.4g} µm/px, the model was made for {model_mpp:.4g}: patches would be"
    if mpp > model_mpp * COARSEST:
        raise SlideScaleError(f"{said} enlarged {mpp / model_mpp:.2g} times", remedy)
    if mpp <= model_mpp / FINEST:
        raise SlideScaleError(f"{said} shrunk {model_mpp / mpp:.2g} times", remedy)
    millimetres = max(source.bounds.width, source.bounds.height) * mpp / 1000
    if millimetres > LONGEST_MM:
        raise SlideScaleError(
            f"{source.path} would be {millimetres:,.0f} mm long at {mpp:.4g} µm/px, as no slide is", remedy
        )
