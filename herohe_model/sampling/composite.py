"""Composites: which patches, in which cell, and the picture itself.

The composite patch of the HEROHE method: foreground patches joined to one large square picture.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import Box, SlideSource

CELLS: Final = 25


def draw_composites(
    patches: int, *, composites: int | None, seed: int, cells: int = CELLS
) -> NDArray[np.int64]:
    """Draw patches for composites; the same on every platform and version of numpy.

    Parameters
    ----------
    patches
        How many there are to draw from, at least 1.
    composites
        How many to draw; None for as few as show every patch at least once, ceil(patches / cells).
    seed
        Seed of the sampler, 0 or above.
    cells
        Cells of a composite.

    Returns
    -------
    ndarray
        Shape (composites, cells), int64, indices of patches; a row holds the cells in row-major order.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The rules:

    - Composites take the next patches of a seeded random permutation of all. When it is used up, a new one
      follows. So the first N composites hold min(N * cells, patches) different patches, and patches are used
      equally often, give or take one, whenever a permutation ends.
    - With at least `cells` patches, no composite holds a patch twice: where a new permutation begins inside a
      composite, patches that it already holds wait for the next.
    - With fewer, each composite holds every patch equally often, give or take one, in random order; the
      patches that stand once more are the next of the running permutation.

    Permutations are stable sorts of the raw 64-bit output of PCG64, which numpy guarantees not to change
    (NEP 19), unlike the methods of its ``Generator``.
    """
    if patches < 1 or cells < 1 or seed < 0 or (composites is not None and composites < 1):
        raise ValueError(
            f"cannot draw {composites} composites of {cells} from {patches} patches, seed {seed}"
        )
    bits = np.random.PCG64(seed)

    def permutation() -> list[int]:
        order: list[int] = np.argsort(bits.random_raw(patches), kind="stable").tolist()
        return order

    count = -(-patches // cells) if composites is None else composites
    repeats, rest = divmod(cells, patches)
    queue: list[int] = []
    drawn = np.empty((count, cells), dtype=np.int64)
    for row in drawn:
        whole = [index for _ in range(repeats) for index in permutation()]
        some, queue = queue[:rest], queue[rest:]
        if len(some) < rest:
            held = set(some)
            fresh = permutation()
            more = [index for index in fresh if index not in held][: rest - len(some)]
            some += more
            taken = set(more)
            queue = [index for index in fresh if index not in taken]
        row[:] = whole + some
    return drawn


def assemble(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Join patches to a composite, row by row from the upper left.

    Parameters
    ----------
    patches
        Shape (cells, side, side, 3), uint8 RGB; cells is a square number.

    Returns
    -------
    ndarray
        Shape (grid * side, grid * side, 3), uint8, for a grid of grid * grid cells.

    Raises
    ------
    ValueError
        If the number of cells is no square.
    """
    cells, height, width, channels = patches.shape
    grid = _grid(cells)
    rows = patches.reshape(grid, grid, height, width, channels).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(grid * height, grid * width, channels))


def read_composite(
    source: SlideSource, patches: PatchSet, cells: NDArray[np.int64], *, patch_px: int
) -> NDArray[np.uint8]:
    """Read the patches of one composite at the model's scale, and join them.

    Parameters
    ----------
    source
        The slide that `patches` were found in.
    cells
        Index into `patches` for each cell, row-major, as :func:`draw_composites` gives a row.
    patch_px
        Side of a patch in the picture, px.

    Returns
    -------
    ndarray
        Shape (grid * patch_px, grid * patch_px, 3), uint8 RGB.

    Raises
    ------
    SlideUnreadableError
        If pixels are damaged.
    """
    grid = _grid(len(cells))
    picture = np.empty((grid * patch_px, grid * patch_px, 3), dtype=np.uint8)
    places = cell_views(picture, grid)
    distinct = np.unique(cells)
    boxes = [Box(int(patches.x[i]), int(patches.y[i]), patches.size, patches.size) for i in distinct]
    for index, pixels in zip(distinct, source.read_boxes(boxes, (patch_px, patch_px)), strict=True):
        for cell in np.flatnonzero(cells == index):
            places[cell][...] = pixels
    return picture


def cell_views(picture: NDArray[np.uint8], grid: int) -> list[NDArray[np.uint8]]:
    """Return the cells of a composite of grid * grid cells, row by row: views of (side, side, 3)."""
    side = len(picture) // grid
    places = picture.reshape(grid, side, grid, side, 3).swapaxes(1, 2)
    return [places[row, column] for row in range(grid) for column in range(grid)]


def _grid(cells: int) -> int:
    """Return the side of a square of cells."""
    grid = math.isqrt(cells)
    if grid * grid != cells or cells == 0:
        raise ValueError(f"{cells} cells do not make a square")
    return grid
