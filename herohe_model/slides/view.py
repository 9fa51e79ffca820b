"""How a slide is shown: the part of it, and its colours, where they are others than the file's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from herohe_model.errors import SlideUnreadableError
from herohe_model.slides.icc import ColourTransform
from herohe_model.slides.open_file import open_slide_file
from herohe_model.slides.source import Box, SlideSource

ICC_WARNING: Final = (
    "The colours were transformed by the slide's own ICC profile, as this image is set up in QuPath: they "
    "are not those that a model saw which was trained on the files."
)

_LEVEL_TOLERANCE: Final = 1.01


@dataclass(frozen=True)
class SlideView:
    """What of a slide is shown, and how; nothing by default but what the file says.

    Attributes
    ----------
    part
        The part that is shown, level-0 px; None for all that was scanned.
    icc
        Whether colours are transformed by the embedded ICC profile.
    """

    part: Box | None = None
    icc: bool = False

    def of(self, slide: SlideSource) -> SlideSource:
        """Return the slide as it is shown; the caller keeps the slide open.

        Raises
        ------
        SlideUnreadableError
            If its ICC profile is asked for, and there is none that can be used.
        """
        return slide if self == SlideView() else _ShownSlide(slide, self)


class _ShownSlide:
    """Implements :class:`~herohe_model.slides.source.SlideSource` over another."""

    def __init__(self, slide: SlideSource, view: SlideView) -> None:
        self._slide = slide
        self.path: Path = slide.path
        self.size = slide.size
        self.bounds = _common(view.part, slide.bounds)
        self.level_downsamples = slide.level_downsamples
        self.background = slide.background
        self.warnings = slide.warnings
        self.fingerprint = slide.fingerprint
        self.readers = slide.readers
        self._colours: ColourTransform | None = None
        if view.icc:
            profile = _profile(slide.path)
            self._colours = ColourTransform(profile, slide.path.name)
            self.fingerprint += f" icc:{hashlib.sha256(profile).hexdigest()[:16]}"
            self.warnings = (*self.warnings, ICC_WARNING)

    @property
    def mpp(self) -> float:
        return self._slide.mpp

    def scale_warning(self, model_mpp: float) -> str | None:
        return self._slide.scale_warning(model_mpp)

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a box; colours are transformed on the pyramid level, before anything is resampled."""
        if self._colours is None:
            return self._slide.read_box(x, y, width, height, out)
        wanted = min(width / out[0], height / out[1]) * _LEVEL_TOLERANCE
        ds = max(d for d in self.level_downsamples if d == 1.0 or d <= wanted)
        left, top = x / ds, y / ds
        u, v = math.floor(left), math.floor(top)
        size = (math.ceil(left + width / ds) - u, math.ceil(top + height / ds) - v)
        corner, end = (round(u * ds), round(v * ds)), (round((u + size[0]) * ds), round((v + size[1]) * ds))
        stored = self._slide.read_box(*corner, end[0] - corner[0], end[1] - corner[1], size)
        pixels = self._colours.apply(stored)
        part = (left - u, top - v, left - u + width / ds, top - v + height / ds)
        if size == out and part == (0, 0, *size):
            return pixels
        return np.array(Image.fromarray(pixels).resize(out, Image.Resampling.BICUBIC, box=part))

    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        return self._slide.lacks_pixels(x, y, size, out)

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterable[NDArray[np.uint8]]:
        for box in boxes:
            yield self.read_box(box.x, box.y, box.width, box.height, out)


def _common(part: Box | None, bounds: Box) -> Box:
    """Return what of a part was scanned; the part itself where that is nothing."""
    if part is None:
        return bounds
    left, top = max(part.x, bounds.x), max(part.y, bounds.y)
    right = min(part.x + part.width, bounds.x + bounds.width)
    bottom = min(part.y + part.height, bounds.y + bounds.height)
    if right <= left or bottom <= top:
        return part
    return replace(part, x=left, y=top, width=right - left, height=bottom - top)


def _profile(path: Path) -> bytes:
    """Return the ICC profile in a slide's file, as it stands there."""
    with open_slide_file(path) as handle:
        try:
            found = handle.color_profile
        except (openslide.OpenSlideError, OSError):
            found = None
    if found is None:
        raise SlideUnreadableError(
            f"{path} holds no ICC profile that can be used, though QuPath is told to use it",
            "Import it into QuPath without ICC profiles",
        )
    return found.tobytes()
