"""What a TIFF claims about its tiles: where they lie in the file, and whether it can hold them at all.

TIFF 6.0 and BigTIFF, of either byte order; only what it takes to find tiles that are whole JPEG streams, and
claims for which OpenSlide would take memory on trust. tifffile's parser takes three times as long for that.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 277, 284, 322, 323
_STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _JPEG_TABLES = 279, 324, 325, 347
_JPEG, _RGB, _YCBCR, _INTERLEAVED = 7, 2, 6, 1

_TYPES: Final = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}
_MOST_DIRECTORIES: Final = 256
_MOST_ENTRIES: Final = 4096
_LARGEST_TILE_PX: Final = 1 << 28
"""Of any tile; a gibibyte once it is decoded."""

_START: Final = b"\xff\xd8"
_COLOUR_MARKERS: Final[Mapping[str, bytes]] = {
    # A JFIF header says YCbCr, and Adobe's, where no JFIF header stands, RGB: so a decoder takes the colour
    # space from the TIFF, as OpenSlide does.
    "YCbCr": b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00",
    "RGB": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00",
}


@dataclass(frozen=True)
class JpegLevel:
    """The tiles of one level, row by row.

    Attributes
    ----------
    width, height, tile_width, tile_height
        px of the level.
    offsets, counts
        Where each tile's stream lies in the file and how long it is, bytes, shape (rows * columns,), uint64;
        the count of a tile that was not stored is 0.
    head
        What takes the place of a stream's first two bytes: its colour space and the tables that all share.
    colours
        The colour space that the streams are in.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.uint64] = field(repr=False)
    counts: NDArray[np.uint64] = field(repr=False)
    head: bytes = field(repr=False)
    colours: Literal["RGB", "YCbCr"]

    @property
    def columns(self) -> int:
        """Tiles of a row."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.tile_height)


_Directory = dict[int, tuple[str, int, int]]
"""By tag: numpy's type of a value, the number of values, and where they stand in the file."""


class TiffLevels:
    """The levels of a TIFF that hold JPEG tiles.

    Parameters
    ----------
    file
        Open for reading; used by the constructor and by :meth:`level`.
    sizes
        (width, height) of each level of the slide, px.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no TIFF.
    """

    def __init__(self, file: FileIO, sizes: Sequence[tuple[int, int]]) -> None:
        directories = [(_size(file, directory), directory) for directory in _directories(file)]
        self._found = {
            level: same[0]
            for level, size in enumerate(sizes)
            # Several of one size would be focal planes: which is meant is not for this reader to guess.
            if len(same := [directory for its, directory in directories if its == size]) == 1
        }

    def level(self, file: FileIO, level: int) -> JpegLevel | None:
        """Return the tiles of a level; None where they are not interleaved 8-bit JPEG in RGB or YCbCr.

        Raises
        ------
        OSError, ValueError
            If the directory cannot be read.
        """
        directory = self._found.get(level)
        if directory is None:
            return None

        def one(tag: int, default: int = 0) -> int:
            return _one(file, directory, tag, default)

        colours: dict[int, Literal["RGB", "YCbCr"]] = {_RGB: "RGB", _YCBCR: "YCbCr"}
        kind = colours.get(one(_PHOTOMETRIC))
        tile = (one(_TILE_WIDTH), one(_TILE_HEIGHT))
        plain = one(_COMPRESSION) == _JPEG and one(_PLANAR, 1) == _INTERLEAVED and one(_SAMPLES, 1) == 3
        if kind is None or not plain or min(tile) < 1 or _values(file, directory, _BITS).tolist() != [8] * 3:
            return None
        tables = _values(file, directory, _JPEG_TABLES).astype(np.uint8).tobytes()
        found = JpegLevel(
            width=one(_WIDTH),
            height=one(_HEIGHT),
            tile_width=tile[0],
            tile_height=tile[1],
            offsets=_values(file, directory, _TILE_OFFSETS),
            counts=_values(file, directory, _TILE_COUNTS),
            head=_START + _COLOUR_MARKERS[kind] + tables[2:-2],
            colours=kind,
        )
        tiles = found.rows * found.columns
        return found if len(found.offsets) == len(found.counts) == tiles else None


@dataclass(frozen=True)
class MissingTiles:
    """Which tiles of a level were not stored.

    Attributes
    ----------
    tile_width, tile_height
        px of the level.
    above_left
        How many are missing above and left of each corner of the tiles, shape (rows + 1, columns + 1).
    """

    tile_width: int
    tile_height: int
    above_left: NDArray[np.int64] = field(repr=False)

    def touched(self, left: NDArray[np.float64], top: NDArray[np.float64], side: float) -> NDArray[np.bool_]:
        """Whether squares lie over any of them; corners and side in px of the level."""
        rows, columns = (n - 1 for n in self.above_left.shape)
        c0, r0 = (left // self.tile_width).astype(np.int64), (top // self.tile_height).astype(np.int64)
        c1 = np.ceil((left + side) / self.tile_width).astype(np.int64)
        r1 = np.ceil((top + side) / self.tile_height).astype(np.int64)
        (c0, c1), (r0, r1) = (np.clip(pair, 0, end) for pair, end in (((c0, c1), columns), ((r0, r1), rows)))
        n = self.above_left
        touched: NDArray[np.bool_] = n[r1, c1] - n[r0, c1] - n[r1, c0] + n[r0, c0] > 0
        return touched


def missing_tiles(file: FileIO, size: tuple[int, int]) -> MissingTiles | None:
    """Return which tiles of the level of `size`, (width, height) px, are missing; None for none."""
    with contextlib.suppress(OSError, ValueError):
        found = [directory for directory in _directories(file) if _size(file, directory) == size]
        if len(found) == 1:
            width, height = (_one(file, found[0], tag) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
            missing = _values(file, found[0], _TILE_COUNTS) == 0
            if missing.any() and min(width, height) > 0:
                missing = missing.reshape(-(-size[1] // height), -(-size[0] // width))
                return MissingTiles(width, height, np.pad(missing.cumsum(0).cumsum(1), ((1, 0), (1, 0))))
    return None


def false_claim(file: FileIO) -> str | None:
    """Return what a TIFF claims that its file cannot hold, None where nothing is wrong with its claims.

    OpenSlide takes memory for what a file says before it reads, and aborts the process where there is none.
    What cannot be parsed here is not judged.
    """
    with contextlib.suppress(OSError, ValueError):
        length = file.seek(0, os.SEEK_END)
        for directory in _directories(file):
            for tag in (_TILE_COUNTS, _STRIP_COUNTS):
                counts = _values(file, directory, tag)
                if len(counts) and int(counts.max()) > length:
                    return f"a tile of {int(counts.max())} bytes in a file of {length}"
            if _TILE_COUNTS in directory:
                width, height = _one(file, directory, _TILE_WIDTH), _one(file, directory, _TILE_HEIGHT)
                if width * height > _LARGEST_TILE_PX:
                    return f"tiles of {width} x {height} px"
    return None


def _directories(file: FileIO) -> list[_Directory]:
    """Return the directories of the file's main chain."""
    head = bytes_at(file, 0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise ValueError("no TIFF")
    (magic,) = struct.unpack_from(order + "H", head, 2)
    if magic not in (42, 43):
        raise ValueError("no TIFF")
    word, number, entry = ("I", "H", 12) if magic == 42 else ("Q", "Q", 20)
    width = struct.calcsize(word)
    (position,) = struct.unpack_from(order + word, head, 4 if magic == 42 else 8)
    found: list[_Directory] = []
    while position:
        count_bytes = struct.calcsize("=" + number)
        (count,) = struct.unpack(order + number, bytes_at(file, position, count_bytes))
        if count > _MOST_ENTRIES or len(found) == _MOST_DIRECTORIES:
            raise ValueError("a TIFF that does not end")
        start = position + count_bytes
        block = bytes_at(file, start, count * entry + width)
        directory: _Directory = {}
        for index in range(count):
            tag, kind, length = struct.unpack_from(order + "HH" + word, block, index * entry)
            if kind not in _TYPES:
                continue
            dtype = order + _TYPES[kind]
            where = start + index * entry + 4 + width
            if length * np.dtype(dtype).itemsize > width:
                (where,) = struct.unpack_from(order + word, block, index * entry + 4 + width)
            directory[tag] = (dtype, length, where)
        found.append(directory)
        (position,) = struct.unpack_from(order + word, block, count * entry)
    return found


def _size(file: FileIO, directory: _Directory) -> tuple[int, int] | None:
    """Return (width, height) of a tiled directory, px; None for one that is not tiled."""
    if _TILE_OFFSETS not in directory:
        return None
    return _one(file, directory, _WIDTH), _one(file, directory, _HEIGHT)


def _one(file: FileIO, directory: _Directory, tag: int, default: int = 0) -> int:
    """Return a tag's first value, or `default` where the directory lacks it."""
    values = _values(file, directory, tag)
    return int(values[0]) if len(values) else default


def _values(file: FileIO, directory: _Directory, tag: int) -> NDArray[np.uint64]:
    """Return a tag's values, none where the directory lacks it."""
    dtype, count, position = directory.get(tag, ("u1", 0, 0))
    data = bytes_at(file, position, count * np.dtype(dtype).itemsize) if count else b""
    return np.frombuffer(data, dtype).astype(np.uint64)


def bytes_at(file: FileIO, position: int, count: int) -> bytes:
    """Return bytes of a file, as many as asked for; a ValueError says that it ends before."""
    # Before memory is taken for it; and no system reads at places beyond 63 bits.
    if position + count > file.seek(0, os.SEEK_END):
        raise ValueError("a TIFF that is truncated")
    file.seek(position)
    data = file.read(count)
    if len(data) != count:
        raise ValueError("a TIFF that is truncated")
    return data
