"""Slides that are damaged so that OpenSlide ends the process that reads them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import tifffile

TILE_COUNTS = 325
_BEYOND_MEMORY = 1 << 44


def claim(path: Path, tag: int, value: int, *, page: int = 0, index: int = 0) -> Path:
    """Set one value of a tag of a BigTIFF that was written here."""
    with tifffile.TiffFile(path) as file:
        found = file.pages[page].tags[tag]
        place = found.valueoffset
    size, layout = {3: (2, "<H"), 4: (4, "<I"), 16: (8, "<Q")}[int(found.dtype)]
    with path.open("r+b") as raw:
        raw.seek(place + index * size)
        raw.write(struct.pack(layout, value))
    return path


def flip_a_bit_of_a_count(path: Path, *, page: int = 0, index: int = 0) -> Path:
    """Let a tile be 16 TiB long, in a file that is not: one flipped bit."""
    return claim(path, TILE_COUNTS, _BEYOND_MEMORY, page=page, index=index)


def make_deadly(path: Path, *, index: int = 0) -> Path:
    """Let a tile of level 0 be as long as no memory is, in a file that has as many bytes: zeros, not stored.

    Nothing in the file contradicts another thing, so that no check can find it.
    """
    size = path.stat().st_size
    for length in (1 << 43, 1 << 40, 1 << 37):
        try:
            os.truncate(path, length)
            break
        except OSError:
            # The file system has no files of that size.
            os.truncate(path, size)
    return claim(path, TILE_COUNTS, path.stat().st_size // 2, index=index)
