"""Mean saturation of patches, from the pyramid or from level 0.

Saturation is S of HSV, (max - min) / max over a pixel's channels, 0 for black (Smith 1978, *Color Gamut
Transform Pairs*): 0 for glass, high for stained tissue.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import closing
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.read_ahead import read_ahead
from herohe_model.slide import SlideSource

PIXELS_ACROSS: Final = 16
"""Width of a patch, px, on the level its saturation is read from: downsample 32 for patches of 512 px."""

COARSEST: Final = math.sqrt(2.0)
"""How much coarser than that a level may be, so that the nearest power of 2 is always taken."""

_PIECE_PX: Final = 1024
_STRIP_PX: Final = 64
_ONE: Final = 1 << 24


def _saturation_table() -> NDArray[np.uint32]:
    """Return saturation in units of 2^-24, indexed by max * 256 + min."""
    high, low = np.divmod(np.arange(1 << 16, dtype=np.int64), 256)
    low = np.minimum(low, high)
    table: NDArray[np.uint32] = (((high - low) * _ONE + high // 2) // np.maximum(high, 1)).astype(np.uint32)
    return table


_TABLE: Final = _saturation_table()


def foreground_downsample(downsamples: tuple[float, ...], size: int) -> float:
    """Return the downsample of the pyramid level that patches of `size` level-0 px are judged on.

    The coarsest that shows a patch about :data:`PIXELS_ACROSS` px wide; level 0 where a slide has no pyramid.
    """
    coarsest = COARSEST * size / PIXELS_ACROSS
    return max(d for d in downsamples if d <= max(coarsest, downsamples[0]))


def mean_saturation(
    source: SlideSource,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    size: int,
    *,
    downsample: float,
    progress: Callable[[int], None] = lambda _: None,
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

    Returns
    -------
    ndarray
        Shape (n,), float64, 0 to 1. Where a patch's edge cuts a level's pixel, that counts by area. Unscanned
        pixels have the saturation of the background colour.

    Notes
    -----
    Read in pieces of about 1024 x 1024 level px, by as many threads as the source is best read with, so
    memory does not depend on the slide's size. A patch's
    mean follows from four corners of the piece's summed-area table (Crow 1984, *Summed-Area Tables for
    Texture Mapping*), which holds exact integers: the same numbers on every platform.
    """
    result = np.zeros(len(x))
    if len(x) == 0:
        return result
    side = max(1, int(_PIECE_PX * downsample) // size) * size
    pieces = _pieces(x, y, side)
    done = 0
    progress(done)

    def judge(some: NDArray[np.int32]) -> NDArray[np.float64]:
        return _piece_saturation(source, x[some], y[some], size, downsample)

    threads = min(source.readers, len(pieces))
    with closing(read_ahead(pieces, judge, workers=threads, ahead=threads - 1)) as judged:
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
    source: SlideSource, x: NDArray[np.int64], y: NDArray[np.int64], size: int, downsample: float
) -> NDArray[np.float64]:
    """Return the mean saturation of patches that lie close together."""
    left, width, columns = _span(int(x.min()), int(x.max()) + size, downsample)
    top, height, rows = _span(int(y.min()), int(y.max()) + size, downsample)
    pixels = source.read_box(left, top, width, height, (columns, rows))
    across, down = _places(x, size, left, columns / width), _places(y, size, top, rows / height)
    first = np.minimum(np.concatenate(down).astype(np.int64), rows - 1)
    table = _SummedRows(pixels, np.concatenate([first, first + 1]))
    corners = [[table.at(u, v) for u in across] for v in down]
    area = (size * columns / width) * (size * rows / height)
    (upper_left, upper_right), (lower_left, lower_right) = corners
    mean: NDArray[np.float64] = (lower_right - lower_left - upper_right + upper_left) / (area * _ONE)
    np.clip(mean, 0.0, 1.0, out=mean)
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
    """

    def __init__(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        height, self._columns = pixels.shape[:2]
        self._rows = np.union1d(rows, [*range(0, height, _STRIP_PX), height])
        self._table = np.zeros((len(self._rows), self._columns + 1), dtype=np.int64)
        edges = self._rows.tolist()
        strip = np.empty((0, 0), dtype=np.uint32)
        top = 0
        for number, (begin, end) in enumerate(itertools.pairwise(edges), start=1):
            # By strips that stay in the processor's cache: new memory costs more than the sums.
            if begin % _STRIP_PX == 0:
                top, strip = begin, _saturation(pixels[begin : begin + _STRIP_PX])
            # A sum of 64 values of at most 2^24 fits.
            self._table[number, 1:] = np.add.reduce(strip[begin - top : end - top], axis=0, dtype=np.uint32)
        np.cumsum(self._table, axis=0, out=self._table)
        np.cumsum(self._table, axis=1, out=self._table)

    def at(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values between the table's nodes: bilinear, exact for pixels of constant value.

        The rows around each of `v` must have been asked for.
        """
        column = np.minimum(u.astype(np.int64), self._columns - 1)
        first = np.minimum(v.astype(np.int64), self._rows[-1] - 1)
        right, below = u - column, v - first
        row = np.searchsorted(self._rows, first)
        table = self._table
        upper: NDArray[np.float64] = table[row, column] * (1.0 - right) + table[row, column + 1] * right
        lower: NDArray[np.float64] = (
            table[row + 1, column] * (1.0 - right) + table[row + 1, column + 1] * right
        )
        between: NDArray[np.float64] = upper * (1.0 - below) + lower * below
        return between


def _saturation(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the saturation of (h, w, 3) pixels in units of 2^-24, (h, w)."""
    # Channel by channel: numpy's reductions over an axis of three are more than ten times slower.
    red, green, blue = (np.ascontiguousarray(pixels[..., channel]) for channel in range(3))
    index = np.maximum(np.maximum(red, green), blue).astype(np.uint16)
    index <<= 8
    index |= np.minimum(np.minimum(red, green), blue)
    return _TABLE[index]
