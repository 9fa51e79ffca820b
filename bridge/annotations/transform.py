"""Where QuPath's pixels lie on the slide.

QuPath crops a slide to the area that was scanned (``openslide.bounds-*``), and may show it rotated by quarter
turns, mirrored, or cut out a part. All of that is one map with whole-numbered coefficients, so a square patch
stays a square patch and nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry

from herohe_model.slides.source import Box

QuarterTurns = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class SlideTransform:
    """The map from QuPath's pixels to level-0 pixels of the slide as OpenSlide counts them.

    ``x_slide = xx * x + xy * y + x0`` and ``y_slide = yx * x + yy * y + y0``, where one of ``xx`` and ``xy``
    is 1 or -1 and the other is 0.

    Attributes
    ----------
    width, height
        Size of the image as QuPath shows it, px.
    """

    width: int
    height: int
    xx: int = 1
    xy: int = 0
    yx: int = 0
    yy: int = 1
    x0: int = 0
    y0: int = 0

    @classmethod
    def at(cls, x: int, y: int, width: int, height: int) -> SlideTransform:
        """Make the frame of an upright image whose (0, 0) lies at (x, y) of the slide, level-0 px."""
        return cls(width, height, x0=x, y0=y)

    def turned(self, turns: QuarterTurns) -> SlideTransform:
        """Return the frame of the same image after clockwise quarter turns."""
        transform = self
        for _ in range(turns):
            # A point (x, y) of the turned image is the point (y, height - x) of the image before.
            transform = SlideTransform(
                width=transform.height,
                height=transform.width,
                xx=-transform.xy,
                xy=transform.xx,
                yx=-transform.yy,
                yy=transform.yx,
                x0=transform.x0 + transform.xy * transform.height,
                y0=transform.y0 + transform.yy * transform.height,
            )
        return transform

    def flipped(self, *, horizontal: bool, vertical: bool) -> SlideTransform:
        """Return the transform of the same image mirrored from left to right, from top to bottom, or both."""
        left, top = self._point(self.width if horizontal else 0, self.height if vertical else 0)
        across, down = -1 if horizontal else 1, -1 if vertical else 1
        return SlideTransform(
            self.width,
            self.height,
            xx=across * self.xx,
            xy=down * self.xy,
            yx=across * self.yx,
            yy=down * self.yy,
            x0=left,
            y0=top,
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> SlideTransform:
        """Return the frame of the part of this image with its upper left at (x, y), px of this image."""
        left, top = self._point(x, y)
        return SlideTransform(width, height, self.xx, self.xy, self.yx, self.yy, left, top)

    def to_slide(self, geometry: BaseGeometry) -> BaseGeometry:
        """Bring a geometry from QuPath's pixels to level-0 pixels of the slide."""
        return affine_transform(geometry, [self.xx, self.xy, self.yx, self.yy, self.x0, self.y0])

    def from_slide(self, geometry: BaseGeometry) -> BaseGeometry:
        """Bring a geometry from level-0 pixels of the slide to QuPath's pixels."""
        # The inverse of a matrix of quarter turns and reflections is its transpose.
        x0 = -(self.xx * self.x0 + self.yx * self.y0)
        y0 = -(self.xy * self.x0 + self.yy * self.y0)
        return affine_transform(geometry, [self.xx, self.yx, self.xy, self.yy, x0, y0])

    def square_from_slide(self, x: int, y: int, size: int) -> tuple[int, int]:
        """Return the upper left in QuPath's pixels of a square whose upper left on the slide is (x, y)."""
        corners = [self._inverse(x, y), self._inverse(x + size, y + size)]
        return min(c[0] for c in corners), min(c[1] for c in corners)

    @property
    def is_upright(self) -> bool:
        """Whether the image is neither turned nor mirrored."""
        return self.xx == self.yy == 1

    @property
    def box(self) -> Box:
        """What of the slide the image shows, level-0 px of the slide."""
        ends = (self._point(0, 0), self._point(self.width, self.height))
        (left, right), (top, bottom) = (sorted(end[axis] for end in ends) for axis in (0, 1))
        return Box(left, top, right - left, bottom - top)

    def box_from_slide(self, box: Box) -> Box:
        """Bring a box from level-0 pixels of the slide to QuPath's pixels."""
        ends = (self._inverse(box.x, box.y), self._inverse(box.x + box.width, box.y + box.height))
        (left, right), (top, bottom) = (sorted(end[axis] for end in ends) for axis in (0, 1))
        return Box(left, top, right - left, bottom - top)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn pixels of QuPath's image, (h, w, 3), as they lie on the slide."""
        if self.xx == 0:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: self.yx + self.yy, :: self.xx + self.xy]

    def _point(self, x: int, y: int) -> tuple[int, int]:
        return self.xx * x + self.xy * y + self.x0, self.yx * x + self.yy * y + self.y0

    def _inverse(self, x: int, y: int) -> tuple[int, int]:
        dx, dy = x - self.x0, y - self.y0
        return self.xx * dx + self.yx * dy, self.xy * dx + self.yy * dy
