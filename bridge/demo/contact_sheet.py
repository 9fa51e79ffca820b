"""A contact sheet of results: slides with their annotations, sampled patches by contribution, and grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bridge.report.slide import colour_scale
from bridge.results.schema import SlideResult, tiles
from herohe_model.slides.guarded_slide import GuardedSlide

_THUMBNAIL_PX: Final = 320
_CAPTION_PX: Final = 60
_GAP_PX: Final = 18
_HEAD_PX: Final = 84
_FOOT_PX: Final = 92
_BAR_PX: Final = (300, 16)
_ALPHA: Final = 110
_INK, _QUIET, _OUTLINE = (27, 29, 33), (87, 93, 102), (20, 20, 20)
# Ends and middle of ColorBrewer's RdBu, which colour-blind readers can tell apart.
_AGAINST, _NEUTRAL, _FOR = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_CHIPS: Final = {
    "0": ((236, 238, 241), _INK),
    "1+": ((250, 219, 178), _INK),
    "2+": ((240, 147, 79), _INK),
    "3+": ((150, 27, 30), (255, 255, 255)),
}
"""Ground and ink of each grade, the darker the higher."""


@dataclass(frozen=True)
class SheetItem:
    """One slide of a sheet: its file, the grade that is true of it, and its result."""

    slide_path: Path
    grade: str
    result: SlideResult


def draw_sheet(
    items: Sequence[SheetItem], step: int, *, title: str, note: str, columns: int = 4
) -> Image.Image:
    """Draw the slides side by side, under a title and over a bar of colours.

    Parameters
    ----------
    items
        What to show, in order.
    step
        Index of the logit (highest step first) whose contributions colour the patches: red speaks for it,
        blue against it, on one scale for the whole sheet, as in the report.
    note
        A sentence below the slides.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    patches = [p for item in items if item.result.union for p in item.result.union.patches]
    shares = np.array([p.contributions[step] for p in patches], dtype=np.float32)
    scale = colour_scale(shares, 1 + max((p.cell for p in patches), default=0))
    names = [item.result.provenance.steps[step] for item in items if item.result.provenance]
    columns = min(columns, max(len(items), 1))
    rows = -(-len(items) // columns)
    width = max(columns * (_THUMBNAIL_PX + _GAP_PX) + _GAP_PX, 720)
    height = _HEAD_PX + rows * (_THUMBNAIL_PX + _CAPTION_PX + _GAP_PX) + _FOOT_PX
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, 16), title, fill=_INK, font=ImageFont.load_default(26))
    right = sum(_grade(item) == item.grade for item in items)
    counted = f"{right} of {len(items)} slides are given the grade that was drawn."
    draw.text((_GAP_PX, 52), counted, fill=_QUIET, font=ImageFont.load_default(15))
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        x = _GAP_PX + column * (_THUMBNAIL_PX + _GAP_PX)
        y = _HEAD_PX + row * (_THUMBNAIL_PX + _CAPTION_PX + _GAP_PX)
        sheet.paste(_thumbnail(item, step, scale), (x, y))
        draw.rectangle((x, y, x + _THUMBNAIL_PX - 1, y + _THUMBNAIL_PX - 1), outline=(213, 216, 221))
        _caption(draw, x, y + _THUMBNAIL_PX + 6, item)
    _colour_bar(draw, _GAP_PX, height - _FOOT_PX + 4, scale, names[0] if names else "the step")
    draw.text((_GAP_PX, height - 30), note, fill=_QUIET, font=ImageFont.load_default(14))
    return sheet


def _grade(item: SheetItem) -> str:
    union = item.result.union
    return union.prediction.grade if union is not None and union.prediction is not None else "none"


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, item: SheetItem) -> None:
    """Write a slide's name and P(positive), and its true and its scored grade on grounds of their own."""
    union = item.result.union
    p = union.prediction.p_positive if union is not None and union.prediction is not None else None
    draw.text((x, y), item.slide_path.name, fill=_INK, font=ImageFont.load_default(16))
    said = "not scored" if p is None else f"P(positive) {p:.2f}"
    font = ImageFont.load_default(14)
    draw.text((x + _THUMBNAIL_PX, y + 2), said, fill=_QUIET, font=font, anchor="ra")
    for word, grade in (("drawn", item.grade), ("scored", _grade(item))):
        draw.text((x, y + 34), word, fill=_QUIET, font=font, anchor="lm")
        x += round(draw.textlength(word, font=font)) + 6
        ground, ink = _CHIPS.get(grade, ((255, 255, 255), _INK))
        draw.rounded_rectangle((x, y + 23, x + 44, y + 45), radius=5, fill=ground, outline=_QUIET)
        draw.text((x + 22, y + 34), grade, fill=ink, font=ImageFont.load_default(15), anchor="mm")
        x += 62


def _colour_bar(draw: ImageDraw.ImageDraw, x: int, y: int, scale: float, step: str) -> None:
    width, height = _BAR_PX
    for k in range(width):
        draw.line((x + k, y, x + k, y + height), fill=_colour(2 * k / (width - 1) - 1))
    draw.rectangle((x, y, x + width - 1, y + height), outline=_QUIET)
    font = ImageFont.load_default(14)
    for share, text in ((-1, f"{-scale:.3g}"), (0, "0"), (1, f"+{scale:.3g}")):
        at = x + (share + 1) * width / 2
        draw.text((at, y + height + 4), text, fill=_INK, font=font, anchor=f"{'lmr'[share + 1]}a")
    said = f"A patch's share of the logit of {step}: red speaks for it, blue against it."
    draw.text((x + width + 18, y + height / 2), said, fill=_INK, font=font, anchor="lm")


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

    for tile in tiles(item.result.union) if item.result.union is not None else ():
        if tile.contributions is not None:
            corners = [place(tile.x, tile.y), place(tile.x + tile.size, tile.y + tile.size)]
            draw.rectangle(corners, fill=(*_colour(tile.contributions[step] / scale), _ALPHA))
    for outline in item.result.outlines:
        for ring in outline.rings:
            points = [place(x, y) for x, y in zip(ring[::2], ring[1::2], strict=True)]
            draw.line([*points, points[0]], fill=_OUTLINE, width=2)
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _colour(share: float) -> tuple[int, int, int]:
    """Return the diverging colour of a share of -1 to 1."""
    end = np.array(_FOR if share > 0 else _AGAINST, dtype=np.float64)
    mixed = np.array(_NEUTRAL) + min(abs(share), 1.0) * (end - np.array(_NEUTRAL))
    r, g, b = mixed.round().astype(int).tolist()
    return r, g, b
