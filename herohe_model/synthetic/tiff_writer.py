"""A pyramidal, tiled BigTIFF, written tile by tile; tiles may be shared between places and levels.

TIFF 6.0 with the 64-bit structures of BigTIFF, little-endian, as libtiff and OpenSlide read it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 3, 4, 5, 7, 16
_JPEG, _DEFLATE = 7, 8
_YCBCR, _RGB = 6, 2

_Tag = tuple[int, int, int, bytes]


@dataclass
class TileGrid:
    """Where the tiles of one level lie in the file; `width` and `height` are px of that level.

    `offsets` and `counts` have the shape (rows, columns).
    """

    width: int
    height: int
    offsets: NDArray[np.uint64] = field(repr=False)
    counts: NDArray[np.uint64] = field(repr=False)

    @classmethod
    def of(cls, size: tuple[int, int], level: int, tile: int) -> TileGrid:
        """Return the empty grid of a level of a slide of `size`, (width, height) in level-0 px."""
        # Rounded up, so that each tile of a level has a parent.
        width, height = (-(-n // (1 << level)) for n in size)
        shape = (-(-height // tile), -(-width // tile))
        return cls(width, height, np.zeros(shape, np.uint64), np.zeros(shape, np.uint64))

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, rows)."""
        return self.offsets.shape[1], self.offsets.shape[0]

    def put(self, column: int, row: int, place: tuple[int, int]) -> None:
        """Note the (offset, count) of a tile."""
        self.offsets[row, column], self.counts[row, column] = place


class TiffWriter:
    """A file being written: tiles first, the levels' directories last. A context manager.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    tile
        Side of a tile, px, a multiple of 16.
    quality
        JPEG quality without chroma subsampling; None for lossless deflate.

    Raises
    ------
    ValueError
        If `tile` is no multiple of 16.
    """

    def __init__(self, path: Path, tile: int, quality: int | None) -> None:
        if tile < 16 or tile % 16:
            raise ValueError(f"a TIFF tile's side is a multiple of 16 px, not {tile}")
        self._tile = tile
        self._quality = quality
        self._file = path.open("wb")
        self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))

    def __enter__(self) -> TiffWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_tile(self, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        """Store a tile of shape (tile, tile, 3), uint8 RGB, and return its (offset, count) in bytes."""
        side = self._tile
        if pixels.shape != (side, side, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"a tile is uint8 ({side}, {side}, 3), not {pixels.dtype} {pixels.shape}")
        pixels = np.ascontiguousarray(pixels)
        if self._quality is None:
            encoded = zlib.compress(pixels.tobytes(), 6)
        else:
            # A whole JPEG stream with its own tables, so no JPEGTables tag is needed.
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=self._quality, subsampling=0)
            encoded = stream.getvalue()
        offset = self._file.tell()
        self._file.write(encoded)
        return offset, len(encoded)

    def finish(self, grids: Sequence[TileGrid], mpp: float | None, icc: bytes = b"") -> None:
        """Write a directory for each level, level 0 first.

        Parameters
        ----------
        mpp
            µm per level-0 px, None for unknown.
        icc
            A profile of the colours to embed.
        """
        link = 8
        for level, grid in enumerate(grids):
            tags = self._tags(grid, level, mpp)
            if icc:
                tags = sorted([*tags, (34675, _UNDEFINED, len(icc), icc)])
            entries = b"".join(struct.pack("<HHQ", *tag[:3]) + self._value(tag[3]) for tag in tags)
            position = self._file.tell()
            self._file.write(struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", 0))
            self._file.seek(link)
            self._file.write(struct.pack("<Q", position))
            self._file.seek(0, io.SEEK_END)
            link = position + 8 + len(entries)

    def _value(self, data: bytes) -> bytes:
        """Return what stands in a directory entry: the data, or where they were put."""
        if len(data) <= 8:
            return data.ljust(8, b"\0")
        position = self._file.tell()
        self._file.write(data)
        return struct.pack("<Q", position)

    def _tags(self, grid: TileGrid, level: int, mpp: float | None) -> list[_Tag]:
        """Return a level's directory as (tag, type, count, data), in the ascending order TIFF demands."""
        jpeg = self._quality is not None
        tags = [
            _long(254, 1 if level else 0),  # NewSubfileType: a reduced-resolution version
            _long(256, grid.width),
            _long(257, grid.height),
            _short(258, 8, 8, 8),  # BitsPerSample
            _short(259, _JPEG if jpeg else _DEFLATE),
            _short(262, _YCBCR if jpeg else _RGB),
            _short(277, 3),  # SamplesPerPixel
            _short(284, 1),  # PlanarConfiguration: interleaved
            _long(322, self._tile),
            _long(323, self._tile),
            _long8(324, grid.offsets),
            _long8(325, grid.counts),
        ]
        if mpp is not None:
            if not mpp > 0:
                raise ValueError(f"a scale is above 0 µm/px, not {mpp}")
            per_cm = 10_000 / (Fraction(mpp).limit_denominator(100_000) * (1 << level))
            resolution = struct.pack("<II", per_cm.numerator, per_cm.denominator)
            tags += [(282, _RATIONAL, 1, resolution), (283, _RATIONAL, 1, resolution), _short(296, 3)]
        if jpeg:
            tags.append(_short(530, 1, 1))  # YCbCrSubSampling: none
        return sorted(tags)


def _short(tag: int, *values: int) -> _Tag:
    return tag, _SHORT, len(values), struct.pack(f"<{len(values)}H", *values)


def _long(tag: int, value: int) -> _Tag:
    return tag, _LONG, 1, struct.pack("<I", value)


def _long8(tag: int, values: NDArray[np.uint64]) -> _Tag:
    return tag, _LONG8, values.size, values.astype("<u8").tobytes()
