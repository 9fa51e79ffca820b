"""How training is shown: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY_S: Final = 15.0


class TrainingView:
    """Implements :class:`herohe_model.training.loop.TrainListener` on a console.

    Parameters
    ----------
    console
        Where to show it; its being a terminal decides between a bar and lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} {task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, unit="", left="", detail="", visible=False)
        self._what, self._unit, self._total, self._start = "", "", 0, 0
        self._began = self._lined = time.monotonic()

    def __enter__(self) -> TrainingView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar; a terminal that was closed meanwhile ends nothing."""
        with suppress(OSError):
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Show a new stage."""
        self._what, self._unit, self._total, self._start = what, unit, total, done
        self._began = self._lined = time.monotonic()
        self._bar.reset(
            self._task,
            total=total,
            completed=done,
            description=what,
            unit=unit,
            left="",
            detail="",
            visible=True,
        )
        if not self._console.is_terminal:
            self.say(f"{what}: {total} {unit}" + (f", {done} of them done before" if done else ""))

    def advance(self, done: int, detail: str = "") -> None:
        """Show how far the stage is, with its rate and the time left."""
        now = time.monotonic()
        left = remaining(done - self._start, self._total - self._start, now - self._began, self._unit)
        self._bar.update(self._task, completed=done, left=left, detail=detail)
        if self._console.is_terminal:
            return
        if done == self._total or now - self._lined > _LINE_EVERY_S:
            self._lined = now
            parts = [f"{self._what}: {done}/{self._total} {self._unit}", left, detail]
            self.say(", ".join(part for part in parts if part))


def remaining(done: int, total: int, elapsed_s: float, unit: str) -> str:
    """Return rate and time left: ``12.0 steps/min, 0:05:10 left``; seconds where less than a minute's."""
    if done <= 0 or elapsed_s <= 0:
        return ""
    seconds = round((total - done) * elapsed_s / done)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    rate = done / elapsed_s
    speed = f"{rate:.1f} {unit}/s" if rate >= 1 else f"{60 * rate:.1f} {unit}/min"
    return f"{speed}, {hours}:{minutes:02d}:{seconds:02d} left"
