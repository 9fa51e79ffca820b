"""Slide: one OpenSlide handle behind bounds, scale, background colour and reopening after errors.

Everything is in level-0 pixels of the slide as OpenSlide counts them, x to the right and y down.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from herohe_model.errors import SlideScaleError, SlideUnreadableError
from herohe_model.slides.jpeg_tiles import JpegTiles, LeftToOpenSlide
from herohe_model.slides.open_file import COPY_AGAIN, ends_digest, open_slide_file
from herohe_model.slides.openslide_pixels import read_rgb
from herohe_model.slides.source import PLAUSIBLE_MPP, Box, scale_warning

_SQUARE_TOLERANCE: Final = 0.05
_LEVEL_TOLERANCE: Final = 1.01
_LONGEST_READ_PX: Final = 4096
_MOST_READERS: Final = 4


class Slide:
    """A slide file, open for reading from any number of threads. A context manager.

    Parameters
    ----------
    path
        A file that OpenSlide reads as a slide.
    mpp
        µm per level-0 px, overriding what the file says.
    readers
        How many threads one piece of work shall read with; None for the processor's cores, up to 4.
    fast
        Read JPEG tiles past OpenSlide where they were found to be the same, see
        :mod:`herohe_model.slides.jpeg_tiles`. The pixels do not depend on it.

    Attributes
    ----------
    path
        As given.
    size
        (width, height) of level 0, px.
    bounds
        The scanned area (``openslide.bounds-*``, clipped to the slide), or the whole slide.
    level_downsamples
        Level-0 px per px of each level, ascending from 1.0.
    background
        RGB of unscanned pixels: the file's own, or white.
    warnings
        What a user should know before trusting a result.
    fingerprint
        OpenSlide's quickhash-1, which covers the smallest level and the properties; where a format has none,
        SHA-256 over the file's size, its first and its last MiB.
    readers
        How many threads are best to read with.

    Raises
    ------
    SlideNotFoundError
        If there is no such file.
    SlideUnreadableError
        If it may not be read, is no slide, or is truncated or damaged so far that it does not open.
    SlideScaleError
        If `mpp` is no scale.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        mpp: float | None = None,
        readers: int | None = None,
        fast: bool = True,
    ) -> None:
        self.path = Path(path)
        self.readers = readers or min(os.cpu_count() or 1, _MOST_READERS)
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise SlideScaleError(f"{mpp} µm/px, given for {self.path}, is no scale", "Give one above 0")
        handle = open_slide_file(self.path)
        try:
            properties = dict(handle.properties)
            self._level_sizes = handle.level_dimensions
            self.level_downsamples: tuple[float, ...] = handle.level_downsamples
        except openslide.OpenSlideError as error:
            raise SlideUnreadableError(f"{self.path} is damaged ({error})", COPY_AGAIN) from error
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = handle
        self.size = self._level_sizes[0]
        self.bounds = _bounds(properties, self.size)
        self.background = _background(properties)
        quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        self.fingerprint = f"quickhash-1:{quickhash}" if quickhash else ends_digest(self.path)
        self.warnings: tuple[str, ...] = ()
        self._mpp = mpp
        self._scale_problem = ""
        if mpp is None:
            self._mpp, self._scale_problem, self.warnings = _scale(properties, self.path)
        self._tiles: JpegTiles | None = None
        if fast:
            self._tiles = JpegTiles(
                self.path,
                properties.get(openslide.PROPERTY_NAME_VENDOR, ""),
                self._level_sizes,
                self.level_downsamples,
            )

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({str(self.path)!r}, size={self.size})"

    def close(self) -> None:
        """Let go of the file, once the reads under way have ended; may be called twice."""
        # A handle is closed with its last reference: closing it under a reading thread would crash.
        with self._lock:
            self._handle = None
        if self._tiles is not None:
            self._tiles.close()

    @property
    def mpp(self) -> float:
        """µm per level-0 px: the override, or the mean of ``openslide.mpp-x`` and ``mpp-y``.

        Raises
        ------
        SlideScaleError
            If the file says nothing, or nothing that a microscope slide can have.
        """
        if self._mpp is None:
            raise SlideScaleError(self._scale_problem, "Give the slide's scale with --mpp")
        return self._mpp

    def scale_warning(self, model_mpp: float) -> str | None:
        """Return a warning when the slide is coarser than `model_mpp` by more than a quarter."""
        return scale_warning(self.path.name, self.mpp, model_mpp)

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
        if min(width, height, *out) < 1:
            raise ValueError(f"a box of {width} x {height} px into {out} px is empty")
        wanted = min(width / out[0], height / out[1]) * _LEVEL_TOLERANCE
        level = max(i for i, ds in enumerate(self.level_downsamples) if i == 0 or ds <= wanted)
        return self._resampled(level, (x, y, x + width, y + height), out)

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels of several boxes in their order, each as :meth:`read_box` gives them."""
        for box in boxes:
            yield self.read_box(box.x, box.y, box.width, box.height, out)

    def thumbnail(self, max_side: int) -> NDArray[np.uint8]:
        """Return the bounds as (h, w, 3) uint8 RGB, the longer side at most `max_side` px."""
        box = self.bounds
        shrink = max(1.0, max(box.width, box.height) / max_side)
        out = (max(1, round(box.width / shrink)), max(1, round(box.height / shrink)))
        return self.read_box(box.x, box.y, box.width, box.height, out)

    def _resampled(
        self, level: int, edges: tuple[float, float, float, float], out: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read (left, top, right, bottom), in level-0 px, from one level, in pieces of bounded size."""
        ds = self.level_downsamples[level]
        left, top, right, bottom = (edge / ds for edge in edges)
        x, y = math.floor(left), math.floor(top)
        size = (math.ceil(right) - x, math.ceil(bottom) - y)
        for axis in (0, 1):
            if size[axis] > _LONGEST_READ_PX and out[axis] > 1:
                first = out[axis] // 2
                cut = edges[axis] + (edges[axis + 2] - edges[axis]) * first / out[axis]
                before, after = list(edges), list(edges)
                before[axis + 2] = after[axis] = cut
                halves = [
                    self._resampled(
                        level, (e[0], e[1], e[2], e[3]), (n, out[1]) if axis == 0 else (out[0], n)
                    )
                    for e, n in ((before, first), (after, out[axis] - first))
                ]
                return np.concatenate(halves, axis=1 - axis)
        pixels = self._level_pixels(level, x, y, size)
        box = (left - x, top - y, right - x, bottom - y)
        if size == out and box == (0, 0, *size):
            return pixels
        return np.array(Image.fromarray(pixels).resize(out, Image.Resampling.BICUBIC, box=box))

    def _level_pixels(self, level: int, x: int, y: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the RGB pixels of one level, (x, y) and `size` in its px, background beyond its edges."""
        x0, y0 = max(x, 0), max(y, 0)
        x1 = min(x + size[0], self._level_sizes[level][0])
        y1 = min(y + size[1], self._level_sizes[level][1])
        width, height = x1 - x0, y1 - y0
        if (width, height) == size:
            return self._inner_pixels(level, x, y, size)
        pixels = np.full((size[1], size[0], 3), self.background, dtype=np.uint8)
        if min(width, height) > 0:
            inner = self._inner_pixels(level, x0, y0, (width, height))
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = inner
        return pixels

    def _inner_pixels(self, level: int, x: int, y: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the RGB pixels of a part of one level, whichever way is faster."""
        if self._tiles is not None and not self._closed():
            with contextlib.suppress(LeftToOpenSlide):
                return self._tiles.region(level, x, y, *size, self._through_openslide)
        return self._through_openslide(level, x, y, size)

    def _through_openslide(self, level: int, x: int, y: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the RGB pixels of a part of one level, over the background."""
        ds = self.level_downsamples[level]
        location = (round(x * ds), round(y * ds))
        with self._lock:
            handle = self._handle
        if handle is None:
            raise SlideUnreadableError(f"{self.path} was closed while it was being read", "Open it again")
        with contextlib.suppress(openslide.OpenSlideError):
            return read_rgb(handle, location, level, size, self.background)
        # The handle is dead from its first error on, which may have been another thread's. A fresh one that
        # no other thread has seen tells whether these very pixels are damaged.
        fresh = open_slide_file(self.path)
        try:
            pixels = read_rgb(fresh, location, level, size, self.background)
        except openslide.OpenSlideError as error:
            width, height = (round(n * ds) for n in size)
            raise SlideUnreadableError(
                f"{self.path} is damaged: {width} x {height} px at {location} cannot be read ({error})",
                COPY_AGAIN,
            ) from error
        with self._lock:
            if self._handle is handle:
                self._handle = fresh
        return pixels

    def _closed(self) -> bool:
        with self._lock:
            return self._handle is None


def _bounds(properties: Mapping[str, str], size: tuple[int, int]) -> Box:
    """Return the scanned area, clipped to the slide; the whole slide when that leaves nothing."""
    try:
        x, y, width, height = (
            int(properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return Box(0, 0, *size)
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, size[0]), min(y + height, size[1])
    return Box(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else Box(0, 0, *size)


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    """Return the background colour, white where the file names none."""
    try:
        value = int(properties[openslide.PROPERTY_NAME_BACKGROUND_COLOR], 16)
    except (KeyError, ValueError):
        return 255, 255, 255
    return value >> 16 & 255, value >> 8 & 255, value & 255


def _scale(properties: Mapping[str, str], path: Path) -> tuple[float | None, str, tuple[str, ...]]:
    """Return the file's µm/px or None, what is wrong when it is None, and warnings about it."""
    found = []
    for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y):
        with contextlib.suppress(KeyError, ValueError):
            value = float(properties[name])
            if math.isfinite(value) and value > 0:
                found.append(value)
    if not found:
        return None, f"{path} does not say its µm/px", ()
    mean = sum(found) / len(found)
    low, high = PLAUSIBLE_MPP
    if not low <= mean <= high:
        return None, f"{path} claims {mean:.4g} µm/px, which no microscope slide has", ()
    if max(found) - min(found) <= _SQUARE_TOLERANCE * mean:
        return mean, "", ()
    warning = (
        f"The pixels of {path.name} are not square ({found[0]:.4g} x {found[1]:.4g} µm); "
        f"the mean, {mean:.4g} µm, is used as their scale."
    )
    return mean, "", (warning,)
