"""Pictures of one scored slide: overview, close-up, telling patches and composites, as JPEG.

Everything is read from the slide again: results hold places and shares, no pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import Polygon, box, unary_union
from shapely.geometry.base import BaseGeometry

from bridge.results.schema import RegionResult, Tile
from herohe_model.errors import SlideError
from herohe_model.sampling.composite import assemble
from herohe_model.slides.slide_file import SlideFile
from herohe_model.slides.source import Box

_QUALITY: Final = 72
_OUTLINE: Final = (20, 20, 60)
_CLOSER: Final = 1.5
"""A close-up is worth its bytes when it shows the sampled area this much larger than the overview."""


@dataclass(frozen=True)
class PictureSizes:
    """How much of a slide is shown.

    Attributes
    ----------
    thumbnail, overview, patch
        Longest side, px.
    patches
        How many patches are shown of those that speak most for, and of those that speak most against.
    cell
        Side of a patch in a composite's picture, px.
    composites
        How many composites are shown, the first ones.
    """

    thumbnail: int
    overview: int
    patch: int
    patches: int
    cell: int
    composites: int


FINE: Final = PictureSizes(thumbnail=112, overview=1280, patch=224, patches=6, cell=96, composites=8)
COMPACT: Final = PictureSizes(thumbnail=88, overview=480, patch=128, patches=4, cell=44, composites=3)
"""Measured on dense tissue: about 0.1 MB a slide, so that 400 slides fit into one page of 60 MB."""


@dataclass(frozen=True)
class Layer:
    """A picture of a level-0 box of the slide."""

    box: Box
    jpeg: bytes


@dataclass(frozen=True)
class SlidePictures:
    """What is shown of one slide.

    Attributes
    ----------
    thumbnail
        The overview in small, with the outline of what was sampled; None when the slide cannot be read.
    size
        (width, height) of the thumbnail, px.
    layers
        The slide's bounds, then perhaps a close-up of what was sampled.
    speaking_for, speaking_against
        (index into ``bridge.results.schema.tiles`` of the region, JPEG), the most telling first.
    composites
        The first composites, in order.
    problem
        Why something is missing; "" when nothing is.
    """

    thumbnail: bytes | None = None
    size: tuple[int, int] = (0, 0)
    layers: tuple[Layer, ...] = ()
    speaking_for: tuple[tuple[int, bytes], ...] = ()
    speaking_against: tuple[tuple[int, bytes], ...] = ()
    composites: tuple[bytes, ...] = ()
    problem: str = ""


def draw_pictures(
    slide: SlideFile, region: RegionResult | None, shown: Sequence[Tile], step: int, sizes: PictureSizes
) -> SlidePictures:
    """Read and draw everything that is shown of a slide.

    Parameters
    ----------
    region
        The slide's union; None when nothing matched.
    shown
        Its ``tiles``.
    step
        Index of the logit by which patches are ranked.

    Returns
    -------
    SlidePictures
        What could be read; a damaged part is left out, and named in ``problem``.
    """
    reader = _Reader(slide)
    bounds = slide.bounds
    sampled = unary_union([box(t.x, t.y, t.x + t.size, t.y + t.size) for t in shown if t.contributions])
    layers, thumbnail, size = [], None, (0, 0)
    overview = reader.read(bounds, sizes.overview)
    if overview is not None:
        layers.append(Layer(bounds, _jpeg(overview)))
        small = _thumbnail(overview, bounds, sampled, sizes.thumbnail)
        thumbnail, size = _jpeg(np.asarray(small)), small.size
    closer = _close_up(bounds, sampled)
    close_up = reader.read(closer, sizes.overview) if closer is not None else None
    if closer is not None and close_up is not None:
        layers.append(Layer(closer, _jpeg(close_up)))

    def patches(indices: Sequence[int]) -> tuple[tuple[int, bytes], ...]:
        read = ((i, reader.read(_box(shown[i]), sizes.patch)) for i in indices)
        return tuple((i, _jpeg(pixels)) for i, pixels in read if pixels is not None)

    highest, lowest = telling_tiles(shown, step, sizes.patches)
    return SlidePictures(
        thumbnail=thumbnail,
        size=size,
        layers=tuple(layers),
        speaking_for=patches(highest),
        speaking_against=patches(lowest),
        composites=reader.composites(region, sizes) if region is not None and not region.is_bag else (),
        problem=reader.problem,
    )


def rank_tiles(shown: Sequence[Tile], step: int) -> list[int]:
    """Return the indices of the sampled tiles, those that speak most for a step first."""
    shares = [(-t.contributions[step], i) for i, t in enumerate(shown) if t.contributions is not None]
    return [i for _, i in sorted(shares)]


def telling_tiles(shown: Sequence[Tile], step: int, count: int) -> tuple[list[int], list[int]]:
    """Return the indices of the tiles with the highest and with the lowest shares, the most telling first.

    Of the highest, none speaks against the step as long as one speaks for it, and the other way round. Where
    there are few, none is on both sides.
    """
    ranked = rank_tiles(shown, step)
    count = min(count, (len(ranked) + 1) // 2)

    def speaks_for(index: int) -> bool:
        shares = shown[index].contributions
        return shares is not None and shares[step] > 0

    def of_one_sign(indices: Sequence[int]) -> list[int]:
        return [i for i in indices if speaks_for(i) == speaks_for(indices[0])]

    return of_one_sign(ranked[:count]), of_one_sign(ranked[::-1][: min(count, len(ranked) - count)])


class _Reader:
    """Reads what can be read, and keeps the first reason why something could not."""

    def __init__(self, slide: SlideFile) -> None:
        self._slide = slide
        self.problem = ""

    def read(self, box: Box, longest: int) -> NDArray[np.uint8] | None:
        """Read a level-0 box, never enlarged; None when it is damaged."""
        shrink = max(1.0, max(box.width, box.height) / longest)
        out = (max(1, round(box.width / shrink)), max(1, round(box.height / shrink)))
        try:
            return self._slide.read_box(box.x, box.y, box.width, box.height, out)
        except SlideError as error:
            self.problem = self.problem or str(error)
            return None

    def composites(self, region: RegionResult, sizes: PictureSizes) -> tuple[bytes, ...]:
        """Return the first composites, small; up to the first that is damaged."""
        cells: dict[int, dict[int, Box]] = {}
        for patch in region.patches:
            if patch.composite < sizes.composites:
                place = Box(patch.x, patch.y, patch.size, patch.size)
                cells.setdefault(patch.composite, {})[patch.cell] = place
        drawn: list[bytes] = []
        for number in sorted(cells):
            places = [place for _, place in sorted(cells[number].items())]
            read = [self.read(place, sizes.cell) for place in places]
            whole = [pixels for pixels in read if pixels is not None]
            if number != len(drawn) or len(whole) < len(read) or math.isqrt(len(read)) ** 2 != len(read):
                break
            drawn.append(_jpeg(assemble(np.stack(whole))))
        return tuple(drawn)


def _box(tile: Tile) -> Box:
    return Box(tile.x, tile.y, tile.size, tile.size)


def _close_up(bounds: Box, sampled: BaseGeometry) -> Box | None:
    """Return the box of what was sampled and a margin, where that is much smaller than the slide."""
    if sampled.is_empty:
        return None
    left, top, right, bottom = sampled.bounds
    margin = 0.05 * max(right - left, bottom - top)
    x, y = max(bounds.x, math.floor(left - margin)), max(bounds.y, math.floor(top - margin))
    x1 = min(bounds.x + bounds.width, math.ceil(right + margin))
    y1 = min(bounds.y + bounds.height, math.ceil(bottom + margin))
    if x1 <= x or y1 <= y or max(bounds.width, bounds.height) < _CLOSER * max(x1 - x, y1 - y):
        return None
    return Box(x, y, x1 - x, y1 - y)


def _thumbnail(overview: NDArray[np.uint8], bounds: Box, sampled: BaseGeometry, longest: int) -> Image.Image:
    """Return the overview in small, with the outline of what was sampled."""
    height, width = overview.shape[:2]
    shrink = max(1.0, max(width, height) / longest)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small = Image.fromarray(overview).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(small)
    for polygon in getattr(sampled, "geoms", [sampled]):
        if isinstance(polygon, Polygon) and not polygon.is_empty:
            points = [
                ((x - bounds.x) * size[0] / bounds.width, (y - bounds.y) * size[1] / bounds.height)
                for x, y in polygon.exterior.coords
            ]
            draw.line(points, fill=_OUTLINE, width=1)
    return small


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
