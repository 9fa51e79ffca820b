"""How an extraction of features is shown: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bridge.extraction.run import ExtractedSlide
from bridge.extraction.slide import PatchProgress

_LINE_EVERY_S: Final = 10.0
_NAME_COLUMNS: Final = 40


class ExtractionView:
    """Implements :class:`bridge.extraction.run.ExtractionListener` on a console; a context manager.

    Parameters
    ----------
    console
        Where to show it; its being a terminal decides between a live view and lines.
    clock
        Seconds, never going back.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = self._lined = clock()
        self._total = self._done = self._reused = 0
        self._patches = 0
        self._running: Sequence[tuple[str, PatchProgress]] = ()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> ExtractionView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Print a line above the live view."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def started(self, total: int) -> None:
        """Show how many slides there are."""
        self._total = total
        self._began = self._lined = self._clock()

    def running(self, slides: Sequence[tuple[str, PatchProgress]]) -> None:
        """Show how far the running slides are."""
        self._running = slides
        now = self._clock()
        if not self._console.is_terminal and slides and now - self._lined >= _LINE_EVERY_S:
            self._lined = now
            names = ", ".join(f"{name} {_stage(progress)}" for name, progress in slides)
            self.say(f"{self._done}/{self._total} slides; {names}; {self._pace()}")

    def finished(self, slide: ExtractedSlide) -> None:
        """Print one line for the slide; none for one that was cancelled, as thousands may be at once."""
        self._done += 1
        self._reused += slide.reused
        self._lined = self._clock()
        if not slide.reused:
            self._patches += slide.patches
        self._running = [other for other in self._running if other[0] != slide.slide]
        if slide.outcome == "cancelled":
            return
        known = " (known from an earlier run)" if slide.reused else ""
        count = f", {slide.patches} patches" if slide.patches else ""
        said = f". {slide.message}" if slide.message else ""
        line = f"[{self._done}/{self._total}] {slide.slide}: {slide.outcome}{count}{known}{said}"
        self.say(line if self._console.is_terminal else f"{line} ({self._pace()})")
        for warning in slide.warnings:
            self.say(f"    warning: {warning}")

    def _pace(self) -> str:
        """Return patches a second and the time left, in words."""
        seconds = self._clock() - self._began
        patches = self._patches + sum(progress.done for _, progress in self._running)
        under_way = sum(p.done / p.total for _, p in self._running if p.total)
        fresh = self._done - self._reused + under_way
        if self._done == self._total:
            left = "0:00:00 left"
        elif fresh <= 0 or seconds <= 0:
            left = "time left unknown"
        else:
            whole = round((self._total - self._done - under_way) * seconds / fresh)
            left = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} left"
        return f"{patches / seconds:.1f} patches/s, {left}" if patches and seconds > 0 else left

    def _render(self) -> Group:
        slides = Table.grid(padding=(0, 1))
        slides.add_column(max_width=_NAME_COLUMNS, no_wrap=True, overflow="ellipsis")
        slides.add_column(width=24)
        slides.add_column(no_wrap=True)
        for name, progress in self._running:
            bar = ProgressBar(
                total=max(1, progress.total), completed=progress.done, pulse=progress.total == 0
            )
            slides.add_row(Text(name), bar, Text(_stage(progress)))
        return Group(slides, Text(f"{self._done}/{self._total} slides; {self._pace()}"))


def _stage(progress: PatchProgress) -> str:
    return f"{progress.done}/{progress.total} patches" if progress.total else "finding tissue"
