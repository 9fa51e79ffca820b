"""How a batch is shown: a live view in a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import IO, Final

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bridge.batch.measured_scorer import MeasuredScorer
from bridge.batch.stats import BatchProgress, BatchStatistics, RunningSlide
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.progress import Progress as SlideProgress
from herohe_model.model.score import CompositeScorer, ScorerInfo

_LINE_EVERY_S: Final = 10.0
_LOG_EVERY_S: Final = 2.0
_SHOWN_SLIDES: Final = 16
_NAME_COLUMNS: Final = 40


class BatchView:
    """Implements :class:`bridge.batch.run.Listener` on a console; a context manager.

    Parameters
    ----------
    console
        Where to show it; its being a terminal decides between a live view and lines.
    log
        Also gets the figures as JSON, an object a line: ``event`` is ``started``, ``progress`` (every two
        seconds), ``finished`` (a slide) or ``ended``. A log that cannot be written any more is given up.
    clock
        Seconds, never going back.
    """

    def __init__(
        self, console: Console, log: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._log = log
        self._clock = clock
        self._progress = BatchProgress(clock=clock)
        self._device = ""
        self._lined = self._logged = clock()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=True, screen=False
        )

    def __enter__(self) -> BatchView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._live.stop()
        self._write("ended", self._progress.figures())

    def measure(self, scorer: CompositeScorer) -> CompositeScorer:
        """Return the scorer to run the batch with, so that reading, queue and device can be shown."""
        measured = MeasuredScorer(scorer, self._clock)
        self._progress.counts = measured.counts
        self.name_device(scorer.info)
        return measured

    def name_device(self, scored_by: ScorerInfo) -> None:
        """Show what slides are scored on."""
        self._device = ", ".join((scored_by.device, scored_by.precision, scored_by.engine))

    def say(self, message: str) -> None:
        """Print a line above the live view; a terminal that was closed meanwhile ends nothing."""
        with suppress(OSError):
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def started(self, total: int) -> None:
        """Show how many slides there are."""
        self._progress.started(total)
        self._lined = self._logged = self._clock()
        self._write("started", self._progress.figures(), device=self._device)

    def running(self, slides: Sequence[tuple[str, SlideProgress]]) -> None:
        """Show how far the running slides are."""
        self._progress.running(slides)
        now = self._clock()
        if self._log is not None and now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            self._write("progress", self._progress.figures())
        if not self._console.is_terminal and slides and now - self._lined >= _LINE_EVERY_S:
            self._lined = now
            self.say(progress_line(self._progress.figures()))

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        """Print one line for the slide; none for one that was cancelled, as thousands may be at once."""
        self._progress.finished(result, reused=reused)
        self._lined = self._clock()
        figures = self._progress.figures()
        if result.outcome is not Outcome.CANCELLED:
            known = " (known from an earlier run)" if reused else ""
            rate = "" if self._console.is_terminal else f" ({pace(figures)})"
            self.say(f"[{figures.slides_done}/{figures.slides_total}] {outcome_line(result)}{known}{rate}")
            for warning in result.warnings:
                self.say(f"    warning: {warning}")
        prediction = result.union.prediction if result.union else None
        self._write(
            "finished",
            figures,
            slide=result.slide,
            entry=result.entry,
            outcome=result.outcome.value,
            message=result.message,
            reused=reused,
            call=prediction.call if prediction else None,
            grade=prediction.grade if prediction else None,
            status=prediction.status if prediction else None,
            p_positive=prediction.p_positive if prediction else None,
        )

    def _write(self, event: str, figures: BatchStatistics, **more: object) -> None:
        if self._log is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"event": event, "time": now, **more, **msgspec.to_builtins(figures)}
        try:
            self._log.write(msgspec.json.encode(line).decode() + "\n")
            self._log.flush()
        except (OSError, ValueError) as error:
            # Scoring goes on: the log tells of the work, it is not the work.
            self._log = None
            self.say(f"The JSON log cannot be written any more ({error}); scoring goes on without it.")

    def _render(self) -> Group:
        return render(self._progress.figures(), self._device)


def render(figures: BatchStatistics, device: str) -> Group:
    """Return the live view of a batch."""
    slides = Table.grid(padding=(0, 1))
    slides.add_column(max_width=_NAME_COLUMNS, no_wrap=True, overflow="ellipsis")
    slides.add_column(width=24)
    slides.add_column(no_wrap=True)
    for slide in figures.running[:_SHOWN_SLIDES]:
        bar = ProgressBar(total=max(1, slide.total), completed=slide.done, pulse=slide.stage == "foreground")
        slides.add_row(Text(slide.slide), bar, Text(_stage(slide)))
    hidden = len(figures.running) - _SHOWN_SLIDES
    if hidden > 0:
        slides.add_row(Text(f"and {hidden} more"), "", "")
    under_way = sum(slide.share for slide in figures.running)
    whole = Table.grid(padding=(0, 1))
    whole.add_row(
        Text("all slides"),
        ProgressBar(total=max(1, figures.slides_total), completed=figures.slides_done + under_way, width=40),
        Text(f"{figures.slides_done}/{figures.slides_total}"),
    )
    lines = [pace(figures), _flow(figures), _outcomes(figures)]
    if device:
        lines.insert(1, f"device {device}{_busy(figures)}")
    return Group(slides, whole, *(Text(line) for line in lines if line))


def progress_line(figures: BatchStatistics) -> str:
    """Return the figures as one plain line."""
    names = ", ".join(f"{slide.slide} {_stage(slide)}" for slide in figures.running)
    parts = [f"{figures.slides_done}/{figures.slides_total} slides", names, _flow(figures), pace(figures)]
    return "; ".join(part for part in parts if part)


def outcome_line(result: SlideResult) -> str:
    """Return a slide's outcome in words."""
    line = f"{result.slide}: {result.outcome.value}"
    prediction = result.union.prediction if result.union else None
    if result.outcome is Outcome.SCORED and prediction is not None:
        grade = f"grade {prediction.grade}" if prediction.grade else ""
        p = f"P(positive) {prediction.p_positive:.3f}"
        line = ", ".join(filter(None, (line, prediction.call, grade, prediction.status, p)))
    return f"{line}. {result.message}" if result.message else line


def pace(figures: BatchStatistics) -> str:
    """Return slides a minute, or an hour, and the time left, in words."""
    if figures.left_s is None:
        return "time left unknown"
    minutes, seconds = divmod(round(figures.left_s), 60)
    hours, minutes = divmod(minutes, 60)
    rate = figures.slides_per_min
    text = f"{rate:.1f} slides/min, " if rate >= 1 else f"{60 * rate:.1f} slides/h, "
    return f"{text if rate else ''}{hours}:{minutes:02d}:{seconds:02d} left"


def _flow(figures: BatchStatistics) -> str:
    """Return rates and queues in words."""
    parts = []
    if figures.read_per_s is not None:
        parts.append(f"read {figures.read_per_s:.2f}/s")
    parts.append(f"scored {figures.composites_per_s:.2f}/s")
    if figures.composites_queued is not None:
        parts.append(f"{figures.composites_queued} queued")
    what = "patches" if any(slide.stage == "patches" for slide in figures.running) else "composites"
    return f"{what}: {', '.join(parts)}; {figures.slides_waiting} slides waiting"


def _busy(figures: BatchStatistics) -> str:
    return "" if figures.device_busy is None else f", has work {figures.device_busy:.0%} of the time"


def _outcomes(figures: BatchStatistics) -> str:
    counts = [f"{count} {outcome}" for outcome, count in figures.outcomes.items()]
    if figures.slides_reused:
        counts.append(f"{figures.slides_reused} of them known before")
    return ", ".join(counts)


def _stage(slide: RunningSlide) -> str:
    return "finding tissue" if slide.stage == "foreground" else f"{slide.done}/{slide.total} {slide.stage}"
