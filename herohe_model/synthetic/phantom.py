"""Synthetic tissue with known answers, for the demo and for tests of training.

A phantom is a stained-looking picture: pale stroma with scattered nuclei, and tumour inside drawn outlines
whose cells carry a membrane ring that is the darker, the higher the grade. The stroma carries rings of *all*
grades, so only who samples inside the outlines can tell the grade. It resembles no real tissue: what is
learned from phantoms is for show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from herohe_model.grades import GRADES

Outline = tuple[tuple[float, float], ...]
Pixels = NDArray[np.uint8]

_TEXTURE_PX: Final = 160
_TEXTURES: Final = 6
_CELL_PX: Final = 20
_REACH_PX: Final = 30
"""Beyond it, a cell changes a pixel by less than 1e-14."""
_RING_DEPTH: Final = {"0": 0.0, "1+": 0.33, "2+": 0.66, "3+": 1.0}
_GLASS: Final = (244, 243, 245)
_STROMA: Final = (232, 186, 205)
_TUMOUR: Final = (218, 168, 200)
_NUCLEUS: Final = (92, 62, 128)
_RING: Final = (132, 66, 62)
_SPOT: Final = (236, 214, 120)
_SPOT_PX: Final = 2.0


@dataclass(frozen=True)
class Phantom:
    """A synthetic slide's picture and its truth.

    Attributes
    ----------
    picture
        Shape (side, side, 3), uint8 RGB.
    tumour
        Outlines of the tumour, (x, y) in px of the picture, each closed implicitly.
    grade
        The grade that the tumour shows.
    """

    picture: Pixels
    tumour: tuple[Outline, ...]
    grade: str


def draw_phantom(
    grade: str,
    *,
    seed: int,
    side: int = 2048,
    tumours: int = 2,
    amplified: bool = False,
    expressing: float = 1.0,
    square_px: int = _TEXTURE_PX,
) -> Phantom:
    """Draw a slide whose tumour shows `grade`.

    Parameters
    ----------
    grade
        One of :data:`~herohe_model.grades.GRADES`.
    seed
        Decides everything else; the same seed and grade draw the same picture with the same numpy.
    side
        Side of the picture, px.
    tumours
        How many separate outlines.
    amplified
        Cells that show the grade also have a pale spot in their nucleus, which stands for amplification.
    expressing
        Share of the tumour's squares whose cells show the grade; the others look like grade 0.
    square_px
        Side of these squares, px, at most 160.
    """
    rng = np.random.default_rng([seed, GRADES.index(grade)])
    tissue = _blob(rng, (side / 2, side / 2), 0.46 * side)
    angle = rng.uniform(0, 2 * np.pi)
    outlines = []
    for k in range(tumours):
        turn = angle + 2 * np.pi * k / tumours
        away = 0.0 if tumours == 1 else 0.22 * side
        centre = (side / 2 + away * np.cos(turn), side / 2 + away * np.sin(turn))
        outlines.append(_blob(rng, centre, (0.28 if tumours == 1 else 0.19) * side))
    stroma = _layer(rng, side, _Tissue("stroma"), _TEXTURE_PX)
    tumour = _layer(rng, side, _Tissue(grade, amplified, expressing), square_px)
    picture = np.empty((side, side, 3), dtype=np.uint8)
    picture[...] = _GLASS
    inside = _mask((tissue,), side)
    picture[inside] = stroma[inside]
    inside = _mask(tuple(outlines), side)
    picture[inside] = tumour[inside]
    return Phantom(picture, tuple(outlines), grade)


def look_like_tissue(phantom: Phantom, *, seed: int) -> Pixels:
    """Return the picture with what the eye expects of a section, and what no grade depends on.

    Cells that do not stand in rows, stain that varies over the slide, fat cells and clefts outside of the
    tumour, and a frayed margin.

    Returns
    -------
    ndarray
        Shape and type of ``phantom.picture``. Tissue is moved by up to about 15 px; the tumour's stain varies
        by a few percent.
    """
    rng = np.random.default_rng([seed, 31])
    side = len(phantom.picture)
    tumour = _mask(phantom.tumour, side)
    knots = side // 60
    across, down = (np.rint(6 * _smooth_noise(rng, side, knots)).astype(np.int32) for _ in range(2))
    line = np.arange(side, dtype=np.int32)
    places = np.clip(line[:, None] + down, 0, side - 1) * side + np.clip(line + across, 0, side - 1)
    picture = phantom.picture.reshape(-1, 3)[places]
    cloud = _smooth_noise(rng, side, 6) + 0.7 * _smooth_noise(rng, side, 40)
    steps = np.clip(np.rint(8 + 4 * np.where(tumour, 0.3 * cloud, cloud)), 0, 16).astype(np.uint8)
    # Beer and Lambert: light goes with a power of the amount of stain, here 0.76 to 1.24 of it.
    powers = 1 + 0.03 * (np.arange(17) - 8)
    stained = (255 * (np.arange(256) / 255) ** powers[:, None]).astype(np.uint8)
    picture = np.asarray(stained[steps[..., None], picture], dtype=np.uint8)
    holes = Image.new("L", (side, side))
    draw = ImageDraw.Draw(holes)
    for _ in range(9):
        # A lobule of fat: round cells side by side, with thin walls between them.
        middle = rng.uniform(0.05, 0.95, 2) * side
        for _ in range(int(rng.integers(8, 40))):
            x, y = middle + rng.normal(0, 0.035 * side, 2)
            r = rng.uniform(0.006, 0.014) * side
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255, outline=0, width=3)
    for _ in range(14):
        x, y, turn = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0, np.pi)
        along = np.linspace(-0.06, 0.06, 8) * side * rng.uniform(0.4, 1.2)
        bend = rng.normal(0, 0.006 * side, 8).cumsum()
        xs = x + along * np.cos(turn) - bend * np.sin(turn)
        ys = y + along * np.sin(turn) + bend * np.cos(turn)
        width = int(rng.integers(4, 12))
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=255, width=width, joint="curve")
    for angle in np.linspace(0, 2 * np.pi, 90, endpoint=False):
        # Bites out of the margin.
        reach, r = rng.uniform(0.40, 0.49) * side, rng.uniform(0.004, 0.018) * side
        x, y = side / 2 + reach * np.cos(angle), side / 2 + reach * np.sin(angle)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    glass = (phantom.picture == _GLASS).all(axis=-1).reshape(-1)[places]
    picture[((np.asarray(holes) > 0) & ~tumour) | glass] = _GLASS
    return picture


def _smooth_noise(rng: np.random.Generator, side: int, knots: int) -> NDArray[np.float32]:
    """Return a smooth field over a square, of about unit variance, from so many knots a side."""
    coarse = Image.fromarray(rng.normal(0, 1.3, (knots, knots)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def _blob(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Outline:
    """Return a wobbly closed outline of 48 points around a centre."""
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    wobble = sum(
        rng.uniform(0, 0.12 / k) * np.cos(k * turns + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)
    )
    r = radius * (0.88 + wobble)
    xs = centre[0] + r * np.cos(turns)
    ys = centre[1] + r * np.sin(turns)
    return tuple(zip(xs.round(1).tolist(), ys.round(1).tolist(), strict=True))


def _mask(outlines: tuple[Outline, ...], side: int) -> NDArray[np.bool_]:
    image = Image.new("1", (side, side))
    draw = ImageDraw.Draw(image)
    for outline in outlines:
        draw.polygon(outline, fill=1)
    return np.asarray(image)


@dataclass(frozen=True)
class _Tissue:
    """What covers a layer: the stroma, or a tumour that shows a grade in some of its squares."""

    kind: str
    amplified: bool = False
    expressing: float = 1.0


def _layer(rng: np.random.Generator, side: int, tissue: _Tissue, square_px: int) -> Pixels:
    """Cover a square with randomly turned textures of one tissue; the stroma mixes rings of all grades."""
    count = -(-side // square_px)
    layer = np.empty((count * square_px, count * square_px, 3), dtype=np.uint8)
    stroma = tissue.kind == "stroma"
    for row in range(count):
        for column in range(count):
            shows = tissue.expressing >= 1.0 or rng.random() < tissue.expressing
            of = GRADES[int(rng.integers(4))] if stroma else tissue.kind if shows else GRADES[0]
            textures = _textures(of, stroma=stroma, amplified=tissue.amplified and shows)
            texture = np.rot90(textures[int(rng.integers(_TEXTURES))], int(rng.integers(4)))
            y, x = row * square_px, column * square_px
            layer[y : y + square_px, x : x + square_px] = texture[:square_px, :square_px]
    return layer[:side, :side]


@cache
def _textures(grade: str, *, stroma: bool, amplified: bool) -> tuple[Pixels, ...]:
    """Return a few squares of cells whose rings show one grade; always the same ones."""
    rng = np.random.default_rng([7, GRADES.index(grade), stroma])
    depth = _RING_DEPTH[grade]
    return tuple(_texture(rng, depth, stroma=stroma, amplified=amplified) for _ in range(_TEXTURES))


def _texture(rng: np.random.Generator, depth: float, *, stroma: bool, amplified: bool) -> Pixels:
    side = _TEXTURE_PX
    ground = np.array(_STROMA if stroma else _TUMOUR, dtype=np.float64)
    canvas = ground + rng.normal(0, 6, (side, side, 1)) + rng.normal(0, 2, (side, side, 3))
    ys, xs = np.mgrid[0:side, 0:side]
    for cy in range(_CELL_PX // 2, side, _CELL_PX):
        for cx in range(_CELL_PX // 2, side, _CELL_PX):
            if stroma and rng.random() < 0.4:
                continue
            y, x = cy + rng.uniform(-3, 3), cx + rng.uniform(-3, 3)
            window = tuple(slice(max(0, c - _REACH_PX), c + _REACH_PX) for c in (cy, cx))
            distance = np.hypot(ys[window] - y, xs[window] - x)
            nucleus = 1 / (1 + np.exp((distance - rng.uniform(3.5, 5)) / 0.6))
            ring = np.exp(-(((distance - 8.0) / 1.3) ** 2)) * depth * rng.uniform(0.75, 1.0)
            layers = [(ring, _RING), (nucleus, _NUCLEUS)]
            if amplified:
                layers.append((np.exp(-((distance / _SPOT_PX) ** 2)), _SPOT))
            for share, colour in layers:
                canvas[window] += share[..., None] * (np.array(colour) - canvas[window])
    return np.clip(canvas, 0, 255).astype(np.uint8)
