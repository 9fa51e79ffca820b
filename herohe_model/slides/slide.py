"""Slide: one OpenSlide handle behind bounds, scale, background colour and reopening after errors.

A damaged file can end the process that has it open: see :mod:`herohe_model.slides.guarded_slide`.

Everything is in level-0 pixels of the slide as OpenSlide counts them, x to the right and y down.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from herohe_model.errors import SlideScaleError, SlideUnreadableError
from herohe_model.slides.jpeg_tiles import JpegTiles, LeftToOpenSlide
from herohe_model.slides.open_file import ends_digest, open_slide_file
from herohe_model.slides.openslide_pixels import read_rgb
from herohe_model.slides.slide_file import COPY_AGAIN, SlideFacts, SlideFile
from herohe_model.slides.source import PLAUSIBLE_MPP, Box, level_read
from herohe_model.slides.tiff_levels import MissingTiles, missing_tiles

_SQUARE_TOLERANCE: Final = 0.05
_SHAPE_TOLERANCE: Final = 0.02
_SPARSE: Final = ("aperio", "generic-tiff")
_LEVEL_TOLERANCE: Final = 1.01
_LONGEST_READ_PX: Final = 4096


class Slide(SlideFile):
    """A slide file, open in this process.

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
        path = Path(path)
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise SlideScaleError(f"{mpp} µm/px, given for {path}, is no scale", "Give one above 0")
        handle = open_slide_file(path)
        try:
            properties = dict(handle.properties)
            self._levels = _pyramid(handle.level_dimensions)
            self._level_sizes = tuple(handle.level_dimensions[level] for level in self._levels)
            downsamples = tuple(float(handle.level_downsamples[level]) for level in self._levels)
        except openslide.OpenSlideError as error:
            raise SlideUnreadableError(f"{path} is damaged ({error})", COPY_AGAIN) from error
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = handle
        size = self._level_sizes[0]
        quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        self._missing = self._missing_tiles(path, vendor)
        own_mpp, scale_problem, warnings = (mpp, "", ()) if mpp else _scale(properties, path)
        facts = SlideFacts(
            size=size,
            bounds=_bounds(properties, size),
            level_downsamples=downsamples,
            background=_background(properties),
            fingerprint=f"quickhash-1:{quickhash}" if quickhash else ends_digest(path),
            mpp=own_mpp,
            scale_problem=scale_problem,
            warnings=warnings,
            sparse=any(self._missing),
        )
        super().__init__(path, facts, readers)
        self._tiles: JpegTiles | None = None
        if fast:
            self._tiles = JpegTiles(path, vendor, self._level_sizes, downsamples)

    def close(self) -> None:
        """Let go of the file, once the reads under way have ended; may be called twice."""
        # A handle is closed with its last reference: closing it under a reading thread would crash.
        with self._lock:
            self._handle = None
        if self._tiles is not None:
            self._tiles.close()

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a box at any scale; see :meth:`SlideFile.read_box`."""
        if min(width, height, *out) < 1:
            raise ValueError(f"a box of {width} x {height} px into {out} px is empty")
        level = level_read(self.level_downsamples, min(width / out[0], height / out[1]))
        return self._resampled(level, (x, y, x + width, y + height), out)

    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        """Whether squares lack pixels; see :meth:`SlideFile.lacks_pixels`."""
        level = level_read(self.level_downsamples, size / out)
        missing, ds = self._missing[level], self.level_downsamples[level]
        return np.zeros(len(x), np.bool_) if missing is None else missing.touched(x / ds, y / ds, size / ds)

    def _missing_tiles(self, path: Path, vendor: str) -> list[MissingTiles | None]:
        """Return which tiles of each level are missing, None for a level where that is not known."""
        if vendor not in _SPARSE:
            return [None] * len(self._levels)
        with FileIO(path) as file:
            levels = [missing_tiles(file, size) for size in self._level_sizes]
        # OpenSlide draws a missing tile of an Aperio's pyramid from the level below.
        return levels if vendor != "aperio" else [levels[0], *[None] * len(levels[1:])]

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
            return read_rgb(handle, location, self._levels[level], size, self.background)
        # The handle is dead from its first error on, which may have been another thread's. A fresh one that
        # no other thread has seen tells whether these very pixels are damaged.
        fresh = open_slide_file(self.path)
        try:
            pixels = read_rgb(fresh, location, self._levels[level], size, self.background)
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


def _pyramid(sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return which of a file's levels are its pyramid: each smaller than the last, of the shape of level 0.

    Others are focal planes, or pictures of the label or of the whole glass.
    """
    levels, last = [0], 1.0
    for level, (width, height) in enumerate(sizes[1:], start=1):
        across, down = sizes[0][0] / max(width, 1), sizes[0][1] / max(height, 1)
        # Sides are rounded to whole px.
        alike = abs(across - down) <= across * (_SHAPE_TOLERANCE + 2 / max(1, min(width, height)))
        if min(across, down) > last * _LEVEL_TOLERANCE and alike:
            levels.append(level)
            last = max(across, down)
    return tuple(levels)


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
