"""Slides larger than memory, made of a few tiles that repeat: for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from herohe_model.synthetic.slides import _WHITE, Pixels, _blank, _half, _level_count, _picture_size
from herohe_model.synthetic.tiff_writer import TiffWriter, TileGrid


def write_mosaic_tiff(
    path: Path | str,
    tiles: Sequence[Pixels],
    layout: NDArray[np.integer],
    *,
    mpp: float | None = 0.2425,
    levels: int | None = None,
    quality: int | None = 90,
) -> None:
    """Write a slide of any size from a few distinct tiles, each stored once however often it is shown.

    A slide of 160,000 × 160,000 px with a periodic layout takes seconds and a few megabytes.

    Parameters
    ----------
    tiles
        Distinct tiles, each of shape (side, side, 3), uint8 RGB, side a multiple of 16.
    layout
        Shape (rows, columns), indices into `tiles`. The slide measures (columns × side, rows × side) px.
        What must be stored grows with the number of distinct 2 × 2, 4 × 4, ... blocks of it.
    path, mpp, levels, quality
        As for :func:`write_tiff`.
    """
    current = [np.asarray(t) for t in tiles]
    side = _picture_size(current[0])[0]
    index = np.asarray(layout, dtype=np.int64)
    if index.ndim != 2 or index.size == 0 or index.min() < 0 or index.max() >= len(current):
        raise ValueError("a layout has two axes and holds indices into the tiles")
    size = (index.shape[1] * side, index.shape[0] * side)
    count = _level_count(size, levels)
    grids = []
    with TiffWriter(Path(path), side, quality) as tiff:
        for level in range(count):
            grid = TileGrid.of(size, level, side)
            stored = np.array([tiff.add_tile(pixels) for pixels in current], dtype=np.uint64)
            grid.offsets[...], grid.counts[...] = stored[index, 0], stored[index, 1]
            grids.append(grid)
            if level + 1 < count:
                current, index = _halve_mosaic(current, index, side)
        tiff.finish(grids, mpp)


def _halve_mosaic(
    tiles: Sequence[Pixels], index: NDArray[np.int64], side: int
) -> tuple[list[Pixels], NDArray[np.int64]]:
    """Return the distinct tiles of the next level, and their layout."""
    rows, columns = (-(-n // 2) for n in index.shape)
    padded = np.full((2 * rows, 2 * columns), -1, dtype=np.int64)
    padded[: index.shape[0], : index.shape[1]] = index
    blocks = padded.reshape(rows, 2, columns, 2).swapaxes(1, 2).reshape(-1, 4)
    distinct, inverse = np.unique(blocks, axis=0, return_inverse=True)
    # Index -1, a child beyond the edge, takes the white tile appended last.
    halves = [*(_half(t) for t in tiles), _blank(side // 2, _WHITE)]
    merged = [
        np.vstack([np.hstack([halves[a], halves[b]]), np.hstack([halves[c], halves[d]])])
        for a, b, c, d in distinct.tolist()
    ]
    return merged, inverse.reshape(rows, columns)
