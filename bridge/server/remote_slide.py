"""A slide whose pixels a client has, because the server cannot open its file."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bridge.annotations.transform import SlideTransform
from bridge.protocol.messages import (
    MAX_READ_BOXES,
    MAX_READ_BYTES,
    ImageHeader,
    PixelSource,
    ReadBox,
)
from herohe_model.errors import SlideScaleError, SlideUnreadableError
from herohe_model.slides.source import Box, scale_warning

Fetch = Callable[[Sequence[ReadBox]], list[NDArray[np.uint8]]]

_LONGEST_BOX_PX: Final = 2048
_LEVEL_TOLERANCE: Final = 1.01
_MOST_WINDOW_PX: Final = 1 << 25
"""Pixels of a level in memory at a time, and the most that one box may need; the client's image decides."""


def turned(fetch: Fetch, transform: SlideTransform) -> Fetch:
    """Return how pixels are fetched as they lie on the slide, of an image that is turned or mirrored.

    Parameters
    ----------
    fetch
        Brings boxes in px of the image.
    transform
        Where the image's pixels lie on the slide.
    """

    def upright(boxes: Sequence[ReadBox]) -> list[NDArray[np.uint8]]:
        asked = []
        for box in boxes:
            shown = transform.box_from_slide(Box(box.x, box.y, box.width, box.height))
            out = (box.out_width, box.out_height)
            out = out if transform.xx else (out[1], out[0])
            asked.append(ReadBox(shown.x, shown.y, shown.width, shown.height, *out))
        return [transform.upright(pixels) for pixels in fetch(asked)]

    return upright


class RemoteSlide:
    """Implements :class:`herohe_model.slides.source.SlideSource` over a client's image.

    What is asked for are always pixels of one of the image's levels; they are put over the background and
    resampled here, as :class:`herohe_model.slides.slide.Slide` does with a file's.

    Parameters
    ----------
    source
        What the client said of the image. Coordinates here are the slide's: the image's plus its origin.
    fetch
        Brings boxes, in px of the image, as uint8 (out_height, out_width, 3); raises a HeroheError.
    mpp
        µm per level-0 px, overriding what the client said.
    """

    def __init__(self, source: PixelSource, fetch: Fetch, *, mpp: float | None = None) -> None:
        self._fetch = fetch
        self._width, self._height = source.width, source.height
        self._mpp = mpp or source.mpp
        self.path = Path(source.name)
        self.bounds = Box(source.origin_x, source.origin_y, source.width, source.height)
        self.size = (source.origin_x + source.width, source.origin_y + source.height)
        self.level_downsamples = source.level_downsamples
        self.background = source.background
        self.warnings: tuple[str, ...] = ()
        self.readers = 1
        described = hashlib.sha256(msgspec.json.encode(source)).hexdigest()
        self.fingerprint = source.fingerprint or f"described:{described}"

    @property
    def mpp(self) -> float:
        """µm per level-0 px. Raises SlideScaleError when nobody knows."""
        if self._mpp is None:
            raise SlideScaleError(
                f"{self.path} does not say its µm/px", "Set the pixel size in QuPath's Image tab"
            )
        return self._mpp

    def scale_warning(self, model_mpp: float) -> str | None:
        """Return a warning when the image is coarser than `model_mpp` by more than a quarter."""
        return scale_warning(self.path.name, self.mpp, model_mpp)

    def lacks_pixels(
        self, x: NDArray[np.int64], y: NDArray[np.int64], size: int, out: int
    ) -> NDArray[np.bool_]:
        """Which squares lack pixels is the client's to know: none."""
        return np.zeros(len(x), np.bool_)

    def read_box(self, x: int, y: int, width: int, height: int, out: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a box as :meth:`herohe_model.slides.slide.Slide.read_box` does."""
        return self.read_boxes([Box(x, y, width, height)], out)[0]

    def read_boxes(self, boxes: Sequence[Box], out: tuple[int, int]) -> list[NDArray[np.uint8]]:
        """Read several boxes, each resampled to `out`, (width, height), with as few questions as possible.

        Raises
        ------
        SlideUnreadableError
            If the client cannot read them.
        SlideScaleError
            If a box is far larger than what it is wanted for, on the image's nearest level.
        ValueError
            If a box or `out` is empty.
        """
        if any(min(box.width, box.height, *out) < 1 for box in boxes):
            raise ValueError(f"a box into {out} px is empty")
        found: list[NDArray[np.uint8]] = []
        group: list[_Window] = []
        for window in [self._window(box, out) for box in boxes]:
            if group and sum(w.pixels for w in group) + window.pixels > _MOST_WINDOW_PX:
                found += self._read(group, out)
                group = []
            group.append(window)
        return found + self._read(group, out)

    def _read(self, windows: Sequence[_Window], out: tuple[int, int]) -> list[NDArray[np.uint8]]:
        pieces = [piece for window in windows for piece in window.pieces]
        pixels = iter(self._fetch_all([piece.asked for piece in pieces]))
        return [window.resampled([next(pixels) for _ in window.pieces], out) for window in windows]

    def _window(self, box: Box, out: tuple[int, int]) -> _Window:
        """Choose the level and the pixels of it that a box needs."""
        wanted = min(box.width / out[0], box.height / out[1]) * _LEVEL_TOLERANCE
        ds = max(d for d in self.level_downsamples if d == 1.0 or d <= wanted)
        left, top = (box.x - self.bounds.x) / ds, (box.y - self.bounds.y) / ds
        right, bottom = left + box.width / ds, top + box.height / ds
        x, y = math.floor(left), math.floor(top)
        size = (math.ceil(right) - x, math.ceil(bottom) - y)
        if size[0] * size[1] > _MOST_WINDOW_PX:
            raise SlideScaleError(
                f"{self.path}: {size[0]:,} x {size[1]:,} px would be read for {out[0]} x {out[1]} px",
                "Check the pixel size in QuPath's Image tab; large images need a pyramid",
            )
        limits = (max(1, int(self._width / ds)), max(1, int(self._height / ds)))
        pieces = [
            _Piece(
                (u, v), self._asked(ds, (u, v), (min(_LONGEST_BOX_PX, u1 - u), min(_LONGEST_BOX_PX, v1 - v)))
            )
            for u0, u1 in [(max(x, 0), min(x + size[0], limits[0]))]
            for v0, v1 in [(max(y, 0), min(y + size[1], limits[1]))]
            for v in range(v0, v1, _LONGEST_BOX_PX)
            for u in range(u0, u1, _LONGEST_BOX_PX)
        ]
        return _Window((x, y), size, (left - x, top - y, right - x, bottom - y), self.background, pieces)

    def _asked(self, ds: float, at: tuple[int, int], size: tuple[int, int]) -> ReadBox:
        """Return the level-0 box of a piece of a level."""
        x, y = round(at[0] * ds), round(at[1] * ds)
        right = min(round((at[0] + size[0]) * ds), self._width)
        bottom = min(round((at[1] + size[1]) * ds), self._height)
        return ReadBox(x, y, right - x, bottom - y, *size)

    def _fetch_all(self, boxes: Sequence[ReadBox]) -> list[NDArray[np.uint8]]:
        """Bring boxes in as few batches as the protocol's limits allow."""
        found: list[NDArray[np.uint8]] = []
        batch: list[ReadBox] = []
        room = MAX_READ_BYTES
        for box in boxes:
            size = 3 * box.out_width * box.out_height
            if batch and (len(batch) == MAX_READ_BOXES or size > room):
                found += self._fetch(batch)
                batch, room = [], MAX_READ_BYTES
            batch.append(box)
            room -= size
        return found + (self._fetch(batch) if batch else [])


class _Piece:
    """A part of a window: where it lies on the level, and what to ask for."""

    def __init__(self, at: tuple[int, int], asked: ReadBox) -> None:
        self.at = at
        self.asked = asked


class _Window:
    """Pixels of one level around a box; `box` is in px of the level from `corner` on."""

    def __init__(
        self,
        corner: tuple[int, int],
        size: tuple[int, int],
        box: tuple[float, float, float, float],
        background: tuple[int, int, int],
        pieces: list[_Piece],
    ) -> None:
        self.corner = corner
        self.size = size
        self.box = box
        self.background = background
        self.pieces = pieces

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def resampled(self, pixels: list[NDArray[np.uint8]], out: tuple[int, int]) -> NDArray[np.uint8]:
        image = Image.new("RGB", self.size, self.background)
        for piece, found in zip(self.pieces, pixels, strict=True):
            place = (piece.at[0] - self.corner[0], piece.at[1] - self.corner[1])
            image.paste(Image.fromarray(found), place)
        if self.size != out or self.box != (0, 0, *self.size):
            image = image.resize(out, Image.Resampling.BICUBIC, box=self.box)
        return np.array(image)


def decode_image(header: ImageHeader, data: memoryview, name: str) -> NDArray[np.uint8]:
    """Return the pixels of one box from its frame, uint8 of the header's shape.

    Raises
    ------
    SlideUnreadableError
        If the frame holds no such image.
    """
    height, width, _ = header.shape
    if header.encoding == "raw":
        return np.frombuffer(data, np.uint8).reshape(header.shape)
    try:
        with Image.open(io.BytesIO(data), formats=[header.encoding]) as image:
            # Only now that its size is known may it be unpacked.
            if image.size == (width, height):
                return np.asarray(image.convert("RGB"))
            problem = f"of {image.size[0]} x {image.size[1]} px instead of {width} x {height}"
    except Exception as error:
        problem = f"that cannot be decoded ({error})"
    raise SlideUnreadableError(f"{name}: the client sent a {header.encoding} image {problem}", "Try it again")
