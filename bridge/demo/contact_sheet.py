"""A contact sheet of results: thumbnails with regions, sampled patches by contribution, and grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from bridge.results.schema import SlideResult, tiles
from herohe_model.slides.guarded_slide import GuardedSlide

_THUMBNAIL_PX: Final = 300
_CAPTION_PX: Final = 44
_GAP_PX: Final = 12
_OUTLINE: Final = (255, 230, 0)
# Ends and middle of ColorBrewer's RdBu, which colour-blind readers can tell apart.
_AGAINST, _NEUTRAL, _FOR = (33, 102, 172), (247, 247, 247), (178, 24, 43)


@dataclass(frozen=True)
class SheetItem:
    """One slide of a sheet; `regions` in level-0 px of the slide."""

    slide_path: Path
    regions: BaseGeometry
    result: SlideResult
    caption: str


def draw_sheet(items: Sequence[SheetItem], step: int, *, legend: str = "", columns: int = 4) -> Image.Image:
    """Draw the slides side by side.

    Parameters
    ----------
    items
        What to show, in order.
    step
        Index of the logit (highest step first) whose contributions colour the patches: red speaks for it,
        blue against it, on one scale for the whole sheet.
    legend
        A line below the slides.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    shares = [
        t.contributions[step]
        for item in items
        if item.result.union is not None
        for t in tiles(item.result.union)
        if t.contributions is not None
    ]
    scale = float(np.percentile(np.abs(shares), 98)) if shares else 1.0
    rows = -(-len(items) // columns)
    width = columns * (_THUMBNAIL_PX + _GAP_PX) + _GAP_PX
    height = rows * (_THUMBNAIL_PX + _CAPTION_PX + _GAP_PX) + _GAP_PX + (_CAPTION_PX if legend else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        x = _GAP_PX + column * (_THUMBNAIL_PX + _GAP_PX)
        y = _GAP_PX + row * (_THUMBNAIL_PX + _CAPTION_PX + _GAP_PX)
        sheet.paste(_thumbnail(item, step, scale or 1.0), (x, y))
        draw.multiline_text((x, y + _THUMBNAIL_PX + 4), item.caption, fill="black", font=font)
    if legend:
        draw.text((_GAP_PX, height - _CAPTION_PX), legend, fill="black", font=font)
    return sheet


def _thumbnail(item: SheetItem, step: int, scale: float) -> Image.Image:
    with GuardedSlide(item.slide_path) as slide:
        box = slide.bounds
        side = max(box.width, box.height)
        zoom = _THUMBNAIL_PX / side
        pixels = slide.read_box(box.x, box.y, side, side, (_THUMBNAIL_PX, _THUMBNAIL_PX))
    image = Image.fromarray(pixels)
    overlay = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(overlay)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - box.x) * zoom, (y - box.y) * zoom

    if item.result.union is not None:
        for tile in tiles(item.result.union):
            if tile.contributions is not None:
                corners = [place(tile.x, tile.y), place(tile.x + tile.size, tile.y + tile.size)]
                draw.rectangle(corners, fill=(*_colour(tile.contributions[step] / scale), 170))
    for polygon in _polygons(item.regions):
        for ring in (polygon.exterior, *polygon.interiors):
            draw.line([place(px, py) for px, py in ring.coords], fill=_OUTLINE, width=2)
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _colour(share: float) -> tuple[int, int, int]:
    """Return the diverging colour of a share of -1 to 1."""
    end: NDArray[np.float64] = np.array(_FOR if share > 0 else _AGAINST, dtype=np.float64)
    mixed = np.array(_NEUTRAL) + min(abs(share), 1.0) * (end - np.array(_NEUTRAL))
    r, g, b = mixed.round().astype(int).tolist()
    return r, g, b


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    if isinstance(geometry, Polygon):
        return [geometry]
    return list(geometry.geoms) if isinstance(geometry, MultiPolygon) else []
