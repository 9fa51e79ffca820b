"""Synthetic slides that OpenSlide opens: pyramidal TIFF, and MIRAX with a scanned area inside a canvas.

The demo and the tests make their slides here, so that neither needs a download. A level is the one below it
averaged over 2 × 2 px, as a scanner makes it. The same call writes the same bytes with the same versions of
Pillow and zlib.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.synthetic.mirax_writer import MiraxWriter
from herohe_model.synthetic.tiff_writer import TiffWriter, TileGrid

SMALLEST_LEVEL_PX: Final = 128
"""Levels are added by default until the longer side is at most this."""

Pixels = NDArray[np.uint8]
TilePixels = Callable[[int, int], Pixels]
Colour = tuple[int, int, int]

_WHITE: Final = (255, 255, 255)


def write_tiff(
    path: Path | str,
    picture: Pixels,
    *,
    mpp: float | None = 0.2425,
    tile: int = 256,
    levels: int | None = None,
    quality: int | None = 90,
    icc: bytes = b"",
) -> None:
    """Write a picture as a pyramidal tiled TIFF.

    Parameters
    ----------
    path
        File to write, usually ``*.tif`` or ``*.tiff``; an existing one is replaced.
    picture
        Level 0, shape (height, width, 3), uint8 RGB.
    mpp
        µm per level-0 px; None writes no resolution, so that OpenSlide knows no mpp.
    tile
        Side of a tile, px, a multiple of 16.
    levels
        Pyramid levels, each half the size of the one before; None for as many as it takes until the longer
        side is at most :data:`SMALLEST_LEVEL_PX`. Choose a picture whose sides are multiples of
        ``2 ** (levels - 1)`` where downsamples must be exact powers of 2.
    quality
        JPEG quality, 1 to 95, without chroma subsampling; None for lossless deflate.
    icc
        A profile of the colours to embed.

    Raises
    ------
    ValueError
        If the picture is no such array, or `tile`, `levels` or `mpp` mean nothing.
    """
    height, width = _picture_size(picture)

    def cut(column: int, row: int) -> Pixels:
        part = picture[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        return _padded(part, tile, _WHITE)

    write_tiled_tiff(path, (width, height), cut, mpp=mpp, tile=tile, levels=levels, quality=quality, icc=icc)


def write_tiled_tiff(
    path: Path | str,
    size: tuple[int, int],
    tile_pixels: TilePixels,
    *,
    mpp: float | None = 0.2425,
    tile: int = 256,
    levels: int | None = None,
    quality: int | None = 90,
    icc: bytes = b"",
) -> None:
    """Write a pyramidal tiled TIFF too large to be held in memory, tile by tile.

    Parameters
    ----------
    size
        (width, height) of level 0, px.
    tile_pixels
        Called once for each level-0 tile with (column, row), in no order to rely on; returns the tile's
        pixels, shape (tile, tile, 3), uint8 RGB, whole tiles also at the right and lower edges.
    path, mpp, tile, levels, quality, icc
        As for :func:`write_tiff`.
    """
    count = _level_count(size, levels)
    with TiffWriter(Path(path), tile, quality) as tiff:
        grids = [TileGrid.of(size, level, tile) for level in range(count)]
        for node in _pyramid((0, 0), grids[0].shape, count, tile_pixels, _blank(tile, _WHITE)):
            grids[node.level].put(node.column, node.row, tiff.add_tile(node.pixels))
        tiff.finish(grids, mpp, icc)


def write_mirax(
    path: Path | str,
    picture: Pixels,
    *,
    mpp: float = 0.2425,
    origin: tuple[int, int] = (0, 0),
    canvas: tuple[int, int] | None = None,
    tile: int = 256,
    levels: int | None = None,
    quality: int | None = 90,
    background: Colour = _WHITE,
    unscanned: Collection[tuple[int, int]] = (),
) -> None:
    """Write a picture as a MIRAX slide: the file and, beside it, the folder of the same name.

    Parameters
    ----------
    path
        File to write, ``*.mrxs``. It is a small JPEG picture, as scanners leave one there.
    picture
        The scanned area at level 0, shape (height, width, 3), uint8 RGB. OpenSlide reports it, rounded up to
        whole tiles (filled with `background`), as ``openslide.bounds-*``.
    mpp
        µm per level-0 px.
    origin
        (x, y) of the picture's upper left corner on the canvas, level-0 px, multiples of `tile`. Everything
        outside the scanned tiles reads as transparent at level 0.
    canvas
        (width, height) of the whole slide, level-0 px, rounded up to whole tiles; by default the picture with
        a margin as wide as `origin` on each side.
    tile
        Side of a tile, px, even.
    levels
        As for :func:`write_tiff`; MIRAX downsamples are exact powers of 2 whatever the size.
    quality
        JPEG quality; None for lossless PNG.
    background
        Fill colour, which OpenSlide reports as ``openslide.background-color``.
    unscanned
        (column, row) of picture tiles that were not scanned either: holes inside the bounds.

    Raises
    ------
    ValueError
        If `origin` lies between tiles, the picture does not fit the canvas, or `path` is not ``*.mrxs``.
    """
    path = Path(path)
    height, width = _picture_size(picture)
    if path.suffix != ".mrxs":
        raise ValueError(f"a MIRAX slide is named *.mrxs, not {path.name}")
    if origin[0] % tile or origin[1] % tile or min(origin) < 0:
        raise ValueError(f"origin {origin} is not a multiple of the tile side, {tile} px")
    if canvas is None:
        canvas = (width + 2 * origin[0], height + 2 * origin[1])
    if canvas[0] < origin[0] + width or canvas[1] < origin[1] + height:
        raise ValueError(f"a picture of {width} x {height} px at {origin} does not fit a canvas of {canvas}")
    count = _level_count((width, height), levels)
    first = (origin[0] // tile, origin[1] // tile)
    end = (-(-(origin[0] + width) // tile), -(-(origin[1] + height) // tile))

    def cut(column: int, row: int) -> Pixels | None:
        column, row = column - first[0], row - first[1]
        if (column, row) in unscanned:
            return None
        part = picture[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        return _padded(part, tile, background)

    with MiraxWriter(
        path,
        grid=(-(-canvas[0] // tile), -(-canvas[1] // tile)),
        tile=tile,
        levels=count,
        mpp=mpp,
        background=background,
        quality=quality,
    ) as mirax:
        for node in _pyramid(first, end, count, cut, _blank(tile, background)):
            mirax.add_tile(node.level, node.column, node.row, node.pixels)


def _picture_size(picture: Pixels) -> tuple[int, int]:
    """Return (height, width) of a picture, refusing what is none."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise ValueError(f"a picture is uint8 (height, width, 3), not {picture.dtype} {picture.shape}")
    return picture.shape[0], picture.shape[1]


def _level_count(size: tuple[int, int], levels: int | None) -> int:
    """Return how many levels a pyramid has."""
    if levels is None:
        levels = 1
        while max(size) > SMALLEST_LEVEL_PX << (levels - 1):
            levels += 1
    if levels < 1:
        raise ValueError(f"a slide has at least one level, not {levels}")
    return levels


def _blank(side: int, colour: Colour) -> Pixels:
    """Return a square of one colour, shape (side, side, 3)."""
    return np.full((side, side, 3), colour, dtype=np.uint8)


def _padded(part: Pixels, side: int, colour: Colour) -> Pixels:
    """Return `part` in the upper left corner of a square of `colour`."""
    if part.shape[:2] == (side, side):
        return part
    square = _blank(side, colour)
    square[: part.shape[0], : part.shape[1]] = part
    return square


def _half(pixels: NDArray[np.uint8]) -> Pixels:
    """Average over 2 × 2 px; shape (2a, 2b, 3) becomes (a, b, 3)."""
    p = pixels.astype(np.uint16)
    total = p[0::2, 0::2] + p[1::2, 0::2] + p[0::2, 1::2] + p[1::2, 1::2]
    # Halves are rounded to even: rounded up, each level would be brighter than the one below.
    return ((total + 1 + (total >> 2 & 1)) >> 2).astype(np.uint8)


@dataclass(frozen=True)
class _Node:
    """One tile of a pyramid."""

    level: int
    column: int
    row: int
    pixels: Pixels


def _pyramid(
    first: tuple[int, int],
    end: tuple[int, int],
    levels: int,
    leaf: Callable[[int, int], Pixels | None],
    blank: Pixels,
) -> Iterator[_Node]:
    """Yield the tiles of all levels, children before their parent, holding a few tiles a level at a time.

    Parameters
    ----------
    first, end
        (column, row) of the first level-0 tile, and one past the last.
    leaf
        Pixels of a level-0 tile, or None where there is none.
    blank
        What stands in a parent for a missing child.
    """
    half = blank.shape[0] // 2

    def build(level: int, column: int, row: int) -> Iterator[_Node]:
        if level == 0:
            pixels = leaf(column, row)
            if pixels is not None:
                yield _Node(0, column, row, pixels)
            return
        merged: Pixels | None = None
        for dy, dx in np.ndindex(2, 2):
            child = (2 * column + dx, 2 * row + dy)
            if not all(first[i] >> (level - 1) <= child[i] <= (end[i] - 1) >> (level - 1) for i in (0, 1)):
                continue
            for node in build(level - 1, *child):
                yield node
                if node.level == level - 1:
                    merged = blank.copy() if merged is None else merged
                    merged[dy * half : (dy + 1) * half, dx * half : (dx + 1) * half] = _half(node.pixels)
        if merged is not None:
            yield _Node(level, column, row, merged)

    top = levels - 1
    for row in range(first[1] >> top, ((end[1] - 1) >> top) + 1):
        for column in range(first[0] >> top, ((end[0] - 1) >> top) + 1):
            yield from build(top, column, row)
