"""A MIRAX slide, written tile by tile: the ``.mrxs`` file, and beside it the folder with the pixels.

The format as OpenSlide's format notes and its reader describe it; one camera image a tile, no overlap.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class MiraxWriter:
    """A slide being written. A context manager, at whose end the index and the description are written.

    Parameters
    ----------
    path
        The ``.mrxs`` file; the folder beside it gets its name.
    grid
        (columns, rows) of level-0 tiles that the whole slide would have.
    tile
        Side of a tile, px, on every level.
    levels
        Zoom levels, each half the scale of the one before.
    mpp
        µm per level-0 px.
    background
        RGB of what was not scanned.
    quality
        JPEG quality without chroma subsampling; None for lossless PNG.
    """

    def __init__(
        self,
        path: Path,
        *,
        grid: tuple[int, int],
        tile: int,
        levels: int,
        mpp: float,
        background: tuple[int, int, int],
        quality: int | None,
    ) -> None:
        self._path = path
        self._grid = grid
        self._tile = tile
        self._mpp = mpp
        self._background = background
        self._quality = quality
        self._pages: list[list[tuple[int, int, int]]] = [[] for _ in range(levels)]
        self._digest = hashlib.sha256(repr((grid, mpp)).encode())
        self._folder = path.with_suffix("")
        self._folder.mkdir(exist_ok=True)
        self._data = (self._folder / "Data0000.dat").open("wb")

    def __enter__(self) -> MiraxWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        if error is not None:
            return
        slide_id = self._digest.hexdigest()[:32].upper()
        (self._folder / "Index.dat").write_bytes(_index(slide_id, self._pages))
        (self._folder / "Slidedat.ini").write_bytes(self._description(slide_id).encode("ascii"))
        # Scanners leave a small picture in the .mrxs itself, so without its folder it opens as that picture.
        Image.new("RGB", (64, 64), self._background).save(self._path, "JPEG")

    def add_tile(self, level: int, column: int, row: int, pixels: NDArray[np.uint8]) -> None:
        """Store a tile of shape (tile, tile, 3), uint8 RGB, at (column, row) of the level's own grid."""
        stream = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if self._quality is None:
            image.save(stream, "PNG")
        else:
            image.save(stream, "JPEG", quality=self._quality, subsampling=0)
        encoded = stream.getvalue()
        number = (row << level) * self._grid[0] + (column << level)
        self._pages[level].append((number, self._data.tell(), len(encoded)))
        self._data.write(encoded)
        self._digest.update(struct.pack("<iq", level, number) + encoded)

    def _description(self, slide_id: str) -> str:
        """Return Slidedat.ini."""
        levels = len(self._pages)
        red, green, blue = self._background
        sections: dict[str, dict[str, object]] = {
            "GENERAL": {
                "SLIDE_VERSION": "01.02",
                "SLIDE_ID": slide_id,
                "IMAGENUMBER_X": self._grid[0],
                "IMAGENUMBER_Y": self._grid[1],
                "OBJECTIVE_MAGNIFICATION": 20,
                "CameraImageDivisionsPerSide": 1,
            },
            "HIERARCHICAL": {
                "HIER_COUNT": 1,
                "NONHIER_COUNT": 0,
                "INDEXFILE": "Index.dat",
                "HIER_0_NAME": "Slide zoom level",
                "HIER_0_COUNT": levels,
                **{f"HIER_0_VAL_{level}": f"ZoomLevel_{level}" for level in range(levels)},
                **{
                    f"HIER_0_VAL_{level}_SECTION": f"LAYER_0_LEVEL_{level}_SECTION" for level in range(levels)
                },
            },
            "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
        }
        for level in range(levels):
            sections[f"LAYER_0_LEVEL_{level}_SECTION"] = {
                "OVERLAP_X": 0,
                "OVERLAP_Y": 0,
                "MICROMETER_PER_PIXEL_X": repr(self._mpp * 2**level),
                "MICROMETER_PER_PIXEL_Y": repr(self._mpp * 2**level),
                "IMAGE_FORMAT": "PNG" if self._quality is None else "JPEG",
                "IMAGE_FILL_COLOR_BGR": blue << 16 | green << 8 | red,
                "DIGITIZER_WIDTH": self._tile,
                "DIGITIZER_HEIGHT": self._tile,
                "IMAGE_CONCAT_FACTOR": 1 if level else 0,
            }
        lines = []
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), ""]
        return "\r\n".join(lines)


def _index(slide_id: str, pages: Sequence[Sequence[tuple[int, int, int]]]) -> bytes:
    """Return Index.dat: version, id, two roots, a pointer a level to its record, and the records' pages.

    `pages` holds for each level the (image number, offset, length) of its tiles in data file 0.
    """
    head = f"01.02{slide_id}".encode("ascii")
    pointers = len(head) + 8
    position = pointers + 4 * len(pages)
    table, records = [], []
    for page in pages:
        table.append(struct.pack("<i", position))
        entries = b"".join(struct.pack("<iiii", *tile, 0) for tile in sorted(page))
        records.append(struct.pack("<iiii", 0, position + 8, len(page), 0) + entries)
        position += len(records[-1])
    return head + struct.pack("<ii", pointers, 0) + b"".join(table + records)
