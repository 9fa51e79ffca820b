"""Small charts as SVG text: a frame with axes, and marks placed by data coordinates.

Colours are left to the page's style sheet (classes such as ``pos``, ``neg``, ``model``, ``guide``), so that
one chart does for light, dark and print. Places have one decimal, so equal data give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]


class Chart:
    """A chart that is filled with marks and then written.

    Parameters
    ----------
    title
        What the chart shows, for readers that cannot see it.
    x, y
        Ends of the axes, in data coordinates; x may run from high to low.
    width, height
        Of the whole picture, px.
    margins
        Left, top, right and bottom of the frame, px.
    """

    def __init__(
        self,
        title: str,
        *,
        x: Point = (0.0, 1.0),
        y: Point = (0.0, 1.0),
        width: int = 440,
        height: int = 380,
        margins: tuple[int, int, int, int] = (52, 12, 12, 44),
    ) -> None:
        self._title = title
        self._x, self._y = x, y
        self.width, self.height = width, height
        self.left, self.top, right, bottom = margins
        self.right, self.bottom = width - right, height - bottom
        self._marks: list[str] = []

    def place(self, x: float, y: float) -> Point:
        """Return where data coordinates lie in the picture, px."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def x_axis(self, label: str, ticks: Sequence[tuple[float, str]]) -> None:
        """Draw the x axis: a grid line and a word for each tick."""
        for value, word in ticks:
            x, _ = self.place(value, self._y[0])
            self._line("grid", (x, self.top), (x, self.bottom))
            self._text(x, self.bottom + 16, word, "middle", "tick")
        self._text((self.left + self.right) / 2, self.bottom + 35, label, "middle", "axis")

    def y_axis(self, label: str, ticks: Sequence[tuple[float, str]]) -> None:
        """Draw the y axis: a grid line and a word for each tick."""
        for value, word in ticks:
            _, y = self.place(self._x[0], value)
            self._line("grid", (self.left, y), (self.right, y))
            self._text(self.left - 7, y + 4, word, "end", "tick")
        if label:
            middle = (self.top + self.bottom) / 2
            turn = f' transform="rotate(-90 14 {middle:.1f})"'
            self._text(14, middle, label, "middle", "axis", turn)

    def line(self, points: Sequence[Point], kind: str, *, note: str = "") -> None:
        """Draw a line through points."""
        placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*p) for p in points))
        self._marks.append(f'<polyline class="{kind}" points="{placed}">{_note(note)}</polyline>')

    def dot(
        self,
        x: float,
        y: float,
        kind: str,
        *,
        radius: float = 4.0,
        note: str = "",
        up: float = 0.0,
        href: str = "",
    ) -> None:
        """Draw a dot, `up` px above its place; with `href`, a link."""
        px, py = self.place(x, y)
        mark = (
            f'<circle class="{kind}" cx="{px:.1f}" cy="{py - up:.1f}" r="{radius:.1f}">{_note(note)}</circle>'
        )
        # The table of the page holds the same links for the keyboard.
        self._marks.append(f'<a href="{escape(href)}" tabindex="-1">{mark}</a>' if href else mark)

    def bar(self, start: float, end: float, height: float, kind: str, *, note: str = "") -> None:
        """Draw a bar from the x axis up, between two places on it."""
        left, top = self.place(start, height)
        right, bottom = self.place(end, self._y[0])
        self._marks.append(
            f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 1):.1f}" '
            f'height="{bottom - top:.1f}">{_note(note)}</rect>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        kind: str = "label",
        dx: float = 0,
        dy: float = 0,
    ) -> None:
        """Write words at a place, moved by (`dx`, `dy`) px."""
        px, py = self.place(x, y)
        self._text(px + dx, py + dy, text, anchor, kind)

    def svg(self) -> str:
        """Return the chart as an ``<svg>`` element."""
        title = escape(self._title)
        return "\n".join(
            [
                f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{title}">',
                *self._marks,
                "</svg>",
            ]
        )

    def _line(self, kind: str, start: Point, end: Point) -> None:
        (x1, y1), (x2, y2) = start, end
        self._marks.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, x: float, y: float, text: str, anchor: str, kind: str, more: str = "") -> None:
        self._marks.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
        )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about so many, evenly spaced."""
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(n * power for n in (1, 2, 5, 10) if (high - low) / (n * power) <= about)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _note(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
