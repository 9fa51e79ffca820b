"""Mean saturation of patches, from the pyramid or from level 0.

Saturation is S of HSV, (max - min) / max over a pixel's channels, 0 for black (Smith 1978, *Color Gamut
Transform Pairs*): 0 for glass, high for stained tissue. Near black, a ratio of noise: such pixels have none.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.read_ahead import read_ahead
from herohe_model.slides.source import SlideSource

PIXELS_ACROSS: Final = 16
"""Width of a patch, px, on the level its saturation is read from: downsample 32 for patches of 512 px."""

COARSEST: Final = math.sqrt(2.0)
"""How much coarser than that a level may be, so that the nearest power of 2 is always taken."""

DARKEST: Final = 32
"""The brightest channel, of 255, below which a pixel is no stain but an edge, a fold or nothing that was
scanned; there, noise of a few levels would be the saturation of tissue."""

_PIECE_PX: Final = 1024
_STRIP_ROWS: Final = 128
_ONE: Final = 1 << 24


@dataclass(frozen=True)
class Piece:
    """Pixels of a level, and the patches that lie in them.

    Attributes
    ----------
    pixels
        Shape (h, w, 3), uint8 RGB.
    which
        Indices of the patches, shape (n,).
    columns, rows
        Where each begins and ends, px of `pixels`, each two arrays of shape (n,), float64.
    saturation
        Mean saturation of each, shape (n,).
    """

    pixels: NDArray[np.uint8]
    which: NDArray[np.int32]
    columns: tuple[NDArray[np.float64], NDArray[np.float64]]
    rows: tuple[NDArray[np.float64], NDArray[np.float64]]
    saturation: NDArray[np.float64]


def _saturation_table() -> NDArray[np.uint32]:
    """Return saturation in units of 2^-24, indexed by max * 256 + min."""
    high, low = np.divmod(np.arange(1 << 16, dtype=np.int64), 256)
    low = np.minimum(low, high)
    table: NDArray[np.uint32] = (((high - low) * _ONE + high // 2) // np.maximum(high, 1)).astype(np.uint32)
    table[high < DARKEST] = 0
    return table


_TABLE: Final = _saturation_table()


def foreground_downsample(downsamples: tuple[float, ...], size: int) -> float:
    """Return the downsample of the pyramid level that patches of `size` level-0 px are judged on.

    The coarsest that shows a patch about :data:`PIXELS_ACROSS` px wide; level 0 where a slide has no pyramid.
    """
    coarsest = COARSEST * size / PIXELS_ACROSS
    return max(d for d in downsamples if d <= max(coarsest, downsamples[0]))


def otsu(saturation: NDArray[np.float64]) -> float:
    """Return what parts mean saturations, (n,), 0 to 1, best into two classes, to a 256th.

    Otsu 1979, *A Threshold Selection Method from Gray-Level Histograms*.
    """
    counts = np.bincount((np.clip(saturation, 0, 1) * 255.999).astype(np.int64), minlength=256)
    below, levels = np.cumsum(counts), np.arange(256)
    sums = np.cumsum(counts * levels)
    above = below[-1] - below
    between = (sums[-1] * below - sums * below[-1]).astype(np.float64) ** 2
    spread = np.where((below > 0) & (above > 0), between / np.maximum(below * above, 1), 0.0)
    # Between the classes lie levels that nothing has: the middle of them.
    best = np.flatnonzero(spread == spread.max())
    return float((best[0] + best[-1]) / 2 + 1) / 256


def mean_saturation(
    source: SlideSource,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    size: int,
    *,
    downsample: float,
    progress: Callable[[int], None] = lambda _: None,
    seen: Callable[[Piece], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Return the mean saturation of square patches, reading nothing but what they touch.

    Parameters
    ----------
    x, y
        Upper left corners, level-0 px, shape (n,), in any order; patches may overlap.
    size
        Side, level-0 px.
    downsample
        Of the pyramid level to read, one of the source's; 1.0 reads level 0.
    progress
        Called between pieces with the number of patches done; may raise to stop.
    seen
        Given each piece, by the thread that read it.

    Returns
    -------
    ndarray
        Shape (n,), float64, 0 to 1. Where a patch's edge cuts a level's pixel, that counts by area. Unscanned
        pixels have the saturation of the background colour.

    Notes
    -----
    Read in pieces of about 1024 x 1024 level px, by as many threads as the source is best read with, so
    memory does not depend on the slide's size. A patch's mean follows from four corners of the piece's
    summed-area table (Crow 1984, *Summed-Area Tables for Texture Mapping*), which holds exact integers: the
    same numbers on every platform.
    """
    result = np.zeros(len(x))
    if len(x) == 0:
        return result
    side = max(1, int(_PIECE_PX * downsample) // size) * size
    pieces = _pieces(x, y, side)
    threads = min(source.readers, len(pieces))
    done = 0
    progress(done)
    strips = deque(_Strip() for _ in range(threads))

    def judge(some: NDArray[np.int32]) -> NDArray[np.float64]:
        strip = strips.pop()
        try:
            return _piece_saturation(source, x, y, some, size, downsample, strip, seen)
        finally:
            strips.append(strip)

    # Twice as many, so that whoever is done finds the next piece while the one before it is waited for.
    with closing(read_ahead(pieces, judge, workers=threads, ahead=2 * (threads - 1))) as judged:
        for some, values in zip(pieces, judged, strict=True):
            result[some] = values
            done += len(some)
            progress(done)
    return result


def _pieces(x: NDArray[np.int64], y: NDArray[np.int64], longest: int) -> list[NDArray[np.int32]]:
    """Return the indices of the patches of each piece, row by row.

    Along each axis the pieces are equally long, so that threads share them out evenly, and at most `longest`
    level-0 px from the beginning of their first patch to that of the next piece's.
    """
    column, row = ((edges // _even(edges, longest)).astype(np.int32) for edges in (x - x.min(), y - y.min()))
    piece = row * (column.max() + 1) + column
    order = np.argsort(piece, kind="stable").astype(np.int32)
    return np.split(order, np.flatnonzero(np.diff(piece[order])) + 1)


def _even(edges: NDArray[np.int64], longest: int) -> int:
    """Return the length of the fewest equally long parts of an axis whose last patch begins at its end."""
    end = int(edges.max()) + 1
    return -(-end // -(-end // longest))


def _piece_saturation(
    source: SlideSource,
    all_x: NDArray[np.int64],
    all_y: NDArray[np.int64],
    which: NDArray[np.int32],
    size: int,
    downsample: float,
    strip: _Strip,
    seen: Callable[[Piece], None],
) -> NDArray[np.float64]:
    """Return the mean saturation of some patches, which lie close together."""
    x, y = all_x[which], all_y[which]
    left, width, columns = _span(int(x.min()), int(x.max()) + size, downsample)
    top, height, rows = _span(int(y.min()), int(y.max()) + size, downsample)
    pixels = source.read_box(left, top, width, height, (columns, rows))
    # Patches mostly stand in rows and columns, whose edges many share.
    (xs, column), (ys, row) = (np.unique(edges, return_inverse=True) for edges in (x, y))
    across, down = _places(xs, size, left, columns / width), _places(ys, size, top, rows / height)
    first = np.minimum(np.concatenate(down).astype(np.int64), rows - 1)
    table = _SummedRows(pixels, np.concatenate([first, first + 1]), strip)
    sides = [table.between_columns(u) for u in across]
    (upper_left, upper_right), (lower_left, lower_right) = (
        [table.between_rows(side, column, v, row) for side in sides] for v in down
    )
    area = (size * columns / width) * (size * rows / height)
    mean: NDArray[np.float64] = (lower_right - lower_left - upper_right + upper_left) / (area * _ONE)
    np.clip(mean, 0.0, 1.0, out=mean)
    left_right = _places(x, size, left, columns / width)
    seen(Piece(pixels, which, left_right, _places(y, size, top, rows / height), mean))
    return mean


def _places(
    edges: NDArray[np.int64], size: int, start: int, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where patches begin and end along an axis, in px of a piece that begins at `start`."""
    begin = (edges - start).astype(np.float64)
    return begin * scale, (begin + size) * scale


def _span(first: int, end: int, downsample: float) -> tuple[int, int, int]:
    """Return start and length in level-0 px, and length in level px, of the level's pixels around a range."""
    start = math.floor(math.floor(first / downsample) * downsample)
    pixels = math.ceil((end - start) / downsample)
    return start, math.ceil(pixels * downsample), pixels


class _SummedRows:
    """Some rows of the summed-area table of saturation, in units of 2^-24.

    Parameters
    ----------
    pixels
        Shape (h, w, 3), uint8 RGB.
    rows
        Rows of the whole table, which has the shape (h + 1, w + 1), from 0 to h; a few more are made.
    strip
        Computes the saturation.
    """

    def __init__(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], strip: _Strip) -> None:
        height, self._columns = pixels.shape[:2]
        self._rows = np.union1d(rows, [*range(0, height, _STRIP_ROWS), height])
        sums = np.empty((len(self._rows) - 1, self._columns), dtype=np.uint32)
        saturation = np.empty((0, 0), dtype=np.uint32)
        top = 0
        for number, (begin, end) in enumerate(itertools.pairwise(self._rows.tolist())):
            if begin % _STRIP_ROWS == 0:
                top, saturation = begin, strip.saturation(pixels[begin : begin + _STRIP_ROWS])
            # A sum of 128 values of at most 2^24 fits.
            part = saturation[begin - top : end - top]
            np.add.reduce(part, axis=0, dtype=np.uint32, out=sums[number])
        self._sums = np.zeros((len(sums), self._columns + 1), dtype=np.int64)
        np.cumsum(sums, axis=1, dtype=np.int64, out=self._sums[:, 1:])

    def between_columns(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the table's rows at places along them, (rows, n): linear between the table's nodes."""
        column = np.minimum(u.astype(np.int64), self._columns - 1)
        right = u - column
        values: NDArray[np.float64] = self._at(column) * (1.0 - right) + self._at(column + 1) * right
        return values

    def _at(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the table's rows at some of its columns."""
        values = np.zeros((len(self._rows), len(columns)), dtype=np.int64)
        np.cumsum(self._sums[:, columns], axis=0, out=values[1:])
        return values

    def between_rows(
        self,
        values: NDArray[np.float64],
        column: NDArray[np.intp],
        v: NDArray[np.float64],
        which: NDArray[np.intp],
    ) -> NDArray[np.float64]:
        """Return the table in columns of what :meth:`between_columns` gave, at the places `v[which]` down it.

        Linear too, and exact where pixels are constant. The rows around each of `v` must have been asked for.
        """
        first = np.minimum(v.astype(np.int64), self._rows[-1] - 1)
        row, below = np.searchsorted(self._rows, first)[which], (v - first)[which]
        between: NDArray[np.float64] = values[row, column] * (1.0 - below) + values[row + 1, column] * below
        return between


class _Strip:
    """Saturation of some rows at a time, in memory that stays in the processor's cache.

    New memory for every step would cost more than what is computed in it.
    """

    def __init__(self) -> None:
        self._make_room(0)

    def _make_room(self, pixels: int) -> None:
        self._channels = np.empty((3, pixels), dtype=np.uint8)
        self._extremes = np.empty((2, pixels), dtype=np.uint8)
        self._short = np.empty(pixels, dtype=np.uint16)
        self._index = np.empty(pixels, dtype=np.intp)
        self._found = np.empty(pixels, dtype=np.uint32)

    def saturation(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Return the saturation of (h, w, 3) pixels in units of 2^-24, (h, w), valid until the next call."""
        count = pixels.shape[0] * pixels.shape[1]
        if count > len(self._found):
            self._make_room(count)
        channels, (high, low) = self._channels[:, :count], self._extremes[:, :count]
        short, index, found = self._short[:count], self._index[:count], self._found[:count]
        # Channel by channel: numpy's reductions over an axis of three are more than ten times slower.
        np.copyto(channels, pixels.reshape(count, 3).T)
        np.maximum.reduce(channels, axis=0, out=high)
        np.minimum.reduce(channels, axis=0, out=low)
        np.copyto(short, high)
        np.left_shift(short, 8, out=short)
        np.bitwise_or(short, low, out=short)
        np.copyto(index, short)
        # No index lies outside the table: "wrap" is what numpy checks at least cost.
        _TABLE.take(index, out=found, mode="wrap")
        return found.reshape(pixels.shape[:2])
