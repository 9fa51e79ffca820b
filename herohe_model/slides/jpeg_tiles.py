"""Pixels of JPEG-tiled TIFF slides, several times faster than OpenSlide gives them, and the same.

libjpeg-turbo, which OpenSlide uses too, decodes each tile once, straight into RGB, into a cache of bounded
size that all threads share. Whatever is out of the ordinary, a tile that was not stored, or one on which the
decoder has so much as a warning, is left to OpenSlide.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from herohe_model.slides.tiff_levels import JpegLevel, TiffLevels, bytes_at

_T = TypeVar("_T")

Reference = Callable[[int, int, int, tuple[int, int]], NDArray[np.uint8]]
"""OpenSlide's pixels of (level, x, y, (width, height)), px of the level; may raise a HeroheError."""

_FORMATS: Final = ("aperio", "generic-tiff")
CACHE_BYTES: Final = 32 << 20
"""Decoded tiles that a slide keeps, for neighbouring patches and pieces that share them."""

_BLOCKS: Final = 8
"""How many times the cache is given memory: 4 MiB or more each, for which numpy asks Linux for huge pages."""

_LARGEST_STREAM: Final = 64 << 20
_LARGEST_TILE_PX: Final = 4096
_MANY_TILES: Final = 64
_MOST_COMPARED: Final = 3
_COMPARED_PX: Final = 1 << 16

_Level = tuple[JpegLevel | None, Sequence[Future[bool]]]
"""A level's tiles, None where this reader cannot read them, and whether those compared are as OpenSlide's."""


class LeftToOpenSlide(Exception):
    """These pixels are not for this reader."""


class JpegTiles:
    """The tiles of one slide; for any number of threads.

    Parameters
    ----------
    path
        A slide that OpenSlide has open.
    vendor
        What OpenSlide calls its format.
    sizes, downsamples
        (width, height) in px, and level-0 px per px, of each level, as OpenSlide counts them.

    Notes
    -----
    Before pixels of a level are first given, its richest tile and its last, of many tiles also the one in the
    middle, are compared with what OpenSlide gives: whole where tiles have up to 256 x 256 px, else as many px
    at the tile's end, since what goes wrong in a stream goes on to there. If a pixel differs, this reader is
    not used for the slide again.
    """

    def __init__(
        self,
        path: Path,
        vendor: str,
        sizes: Sequence[tuple[int, int]],
        downsamples: Sequence[float],
    ) -> None:
        self._files = _Files(path)
        self._cache = _TileCache(CACHE_BYTES)
        self._beginning = Lock()
        self._levels: dict[int, _Level] = {}
        # Elsewhere OpenSlide interpolates between pixels, since it places every read by its level-0 corner.
        self._open = {level for level, ds in enumerate(downsamples) if ds == int(ds)}
        self._tiff: TiffLevels | None = None
        if vendor in _FORMATS and _decoder_is_there():
            with contextlib.suppress(OSError, ValueError):
                self._tiff = self._files.use(lambda file: TiffLevels(file, sizes))

    def close(self) -> None:
        """Close the file, once the reads under way have ended."""
        self._files.close()

    def region(
        self, level: int, x: int, y: int, width: int, height: int, reference: Reference
    ) -> NDArray[np.uint8]:
        """Return pixels of a level, (height, width, 3) uint8 RGB; the box, px of the level, lies inside it.

        `reference` reads through OpenSlide, for a level that nobody has used yet.

        Raises
        ------
        LeftToOpenSlide
            If OpenSlide is to read them.
        """
        if self._tiff is None or level not in self._open:
            raise LeftToOpenSlide
        with contextlib.ExitStack() as until_compared:
            with self._beginning:
                if level not in self._levels:
                    pool = ThreadPoolExecutor(_MOST_COMPARED, thread_name_prefix="herohe-check")
                    until_compared.enter_context(pool)
                    self._levels[level] = self._begin(self._tiff, level, reference, pool)
            tiles, compared = self._levels[level]
            if tiles is None:
                raise LeftToOpenSlide
            # While they are compared, so that nobody waits idly; for nothing where they differ.
            pixels = self._joined(level, tiles, x, y, width, height)
            if not all(same.result() for same in compared):
                raise LeftToOpenSlide
            return pixels

    def _begin(self, tiff: TiffLevels, level: int, reference: Reference, pool: Executor) -> _Level:
        """Find a level's tiles, and let `pool` compare some of them with OpenSlide's."""
        tiles = self._found(tiff, level)
        if tiles is None:
            return None, []
        stored = np.flatnonzero(tiles.counts)
        middle = [int(stored[len(stored) // 2])] if len(stored) >= _MANY_TILES else []
        some = sorted({int(np.argmax(tiles.counts)), int(stored[-1]), *middle})
        try:
            return tiles, [pool.submit(self._same, level, tiles, tile, reference) for tile in some]
        except RuntimeError:
            # The system gives no more threads.
            return None, []

    def _found(self, tiff: TiffLevels, level: int) -> JpegLevel | None:
        """Return the tiles of a level, None where there are none that can be read here."""
        try:
            tiles = self._files.use(lambda file: tiff.level(file, level))
        except (OSError, ValueError):
            return None
        if tiles is None or max(tiles.tile_width, tiles.tile_height) > _LARGEST_TILE_PX:
            return None
        return tiles if tiles.counts.any() else None

    def _same(self, level: int, tiles: JpegLevel, tile: int, reference: Reference) -> bool:
        """Whether a tile is as OpenSlide reads it; this reader serves no more where a pixel differs."""
        x, y, width, height = _end_of_tile(tiles, tile)
        try:
            expected = reference(level, x, y, (width, height))
            same = np.array_equal(self._joined(level, tiles, x, y, width, height), expected)
        except Exception:
            # Whatever keeps one of them from reading it: OpenSlide's word counts, when it is asked.
            return False
        if not same:
            self._open = set()
        return same

    def _joined(
        self, level: int, found: JpegLevel, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        """Return a box's pixels, put together from tiles."""
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        across, down = found.tile_width, found.tile_height
        for row in range(y // down, (y + height - 1) // down + 1):
            for column in range(x // across, (x + width - 1) // across + 1):
                left, top = column * across, row * down
                x0, x1 = max(x, left), min(x + width, left + across)
                y0, y1 = max(y, top), min(y + height, top + down)
                part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
                out = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
                self._read_tile(level, found, row * found.columns + column, part, out)
        return pixels

    def _read_tile(
        self, level: int, found: JpegLevel, index: int, part: tuple[slice, slice], out: NDArray[np.uint8]
    ) -> None:
        """Copy a part of a tile, decoded by the first who asks for it; others wait."""
        self._cache.use(
            (level, index),
            3 * found.tile_width * found.tile_height,
            lambda room: self._decoded(found, index, room),
            lambda tile: np.copyto(out, tile[part]),
        )

    def _decoded(self, found: JpegLevel, index: int, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels of a whole tile, decoded from the file into `room`."""
        import simplejpeg

        count, offset = int(found.counts[index]), int(found.offsets[index])
        if not 2 < count <= _LARGEST_STREAM:
            raise LeftToOpenSlide
        try:
            stream = found.head + self._files.use(lambda file: bytes_at(file, offset, count))[2:]
            height, width, colours, _ = simplejpeg.decode_jpeg_header(stream)
            if (width, height, colours) == (found.tile_width, found.tile_height, found.colours):
                # Strict: as for OpenSlide, what libjpeg only warns of is damage.
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                    stream, "RGB", fastdct=False, fastupsample=False, buffer=room, strict=True
                )
                return pixels
        except (OSError, ValueError) as error:
            raise LeftToOpenSlide from error
        raise LeftToOpenSlide


def _end_of_tile(level: JpegLevel, index: int) -> tuple[int, int, int, int]:
    """Return (x, y, width, height) of the last rows of a tile that the level shows, px of the level."""
    row, column = divmod(index, level.columns)
    x, y = column * level.tile_width, row * level.tile_height
    width, end = min(level.tile_width, level.width - x), min(y + level.tile_height, level.height)
    height = min(end - y, max(1, _COMPARED_PX // width))
    return x, end - height, width, height


_Key = tuple[int, int]


@dataclass
class _Block:
    """A piece of memory that tiles are put into one after the other, and how many threads are using it."""

    room: NDArray[np.uint8]
    used: int = 0
    keys: list[_Key] = field(default_factory=list)
    users: int = 0


class _TileCache:
    """Decoded tiles, for any number of threads.

    They lie in blocks, since the system hands out a large piece of memory several times faster than the same
    in small ones. The block least recently asked for is dropped first, with all of its tiles, and its memory
    used again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._tiles: dict[_Key, tuple[Future[NDArray[np.uint8]], int]] = {}
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._newest = 0
        self._held = 0

    def use(
        self,
        key: _Key,
        size: int,
        decode: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
        read: Callable[[NDArray[np.uint8]], None],
    ) -> None:
        """Let `read` see a tile of `size` bytes, which may change when it has returned.

        `decode` puts the tile into the memory that it is given; raises LeftToOpenSlide as that does.
        """
        with self._lock:
            known = self._tiles.get(key)
            tile, number = known or (Future(), self._block_for(size))
            block = self._blocks[number]
            self._blocks.move_to_end(number)
            block.users += 1
            if known is None:
                room = block.room[block.used : block.used + size]
                block.used += size
                block.keys.append(key)
                self._tiles[key] = tile, number
        try:
            if known is None:
                self._fill(tile, key, lambda: decode(room))
            read(tile.result())
        finally:
            with self._lock:
                block.users -= 1

    def _fill(
        self, tile: Future[NDArray[np.uint8]], key: _Key, decode: Callable[[], NDArray[np.uint8]]
    ) -> None:
        try:
            tile.set_result(decode())
        except BaseException:
            with self._lock:
                self._tiles.pop(key, None)
            tile.set_exception(LeftToOpenSlide())
            raise

    def _block_for(self, size: int) -> int:
        """Return the number of the newest block, a new one where that has no room for a tile."""
        newest = self._blocks.get(self._newest)
        if newest is None or newest.used + size > len(newest.room):
            length = -(-self._limit // (_BLOCKS * size)) * size
            room = None
            while self._blocks and self._held + length > self._limit:
                _, dropped = self._blocks.popitem(last=False)
                self._held -= len(dropped.room)
                for key in dropped.keys:
                    self._tiles.pop(key, None)
                if dropped.users == 0 and len(dropped.room) == length:
                    room = dropped.room
            self._newest += 1
            self._blocks[self._newest] = _Block(np.empty(length, dtype=np.uint8) if room is None else room)
            self._held += length
        return self._newest


class _Files:
    """A file, opened as often as threads read from it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[FileIO] = deque()
        self._closed = False
        # A slide may be forgotten, not closed.
        self._close = weakref.finalize(self, _close_all, self._idle)

    def use(self, read: Callable[[FileIO], _T]) -> _T:
        """Return what `read` makes of the file; raises OSError when closed, or as `read` does."""
        try:
            file = self._idle.pop()
        except IndexError:
            if self._closed:
                raise OSError(f"{self._path} was closed") from None
            file = FileIO(self._path)
        try:
            return read(file)
        finally:
            self._idle.append(file)
            if self._closed:
                _close_all(self._idle)

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        self._closed = True
        _close_all(self._idle)


def _decoder_is_there() -> bool:
    try:
        import simplejpeg
    except ImportError:
        return False
    return bool(simplejpeg)


def _close_all(files: deque[FileIO]) -> None:
    while files:
        with contextlib.suppress(IndexError):
            files.pop().close()
