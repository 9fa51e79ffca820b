"""Statistics of a running batch: counted once, for the terminal, for plain lines and for JSON lines."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bridge.batch.measured_scorer import Counts
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.progress import Progress

_LEAST_S: Final = 1.0
"""Of shorter runs no rate is given."""
WINDOW_S: Final = 30.0
"""Rates are those of so many last seconds."""


class RunningSlide(msgspec.Struct, frozen=True):
    """A slide at work; see :class:`bridge.scoring.progress.Progress`."""

    slide: str
    stage: str
    done: int
    total: int

    @property
    def share(self) -> float:
        """Share of it that is scored, 0 to 1."""
        return self.done / self.total if self.stage != "foreground" and self.total else 0.0


class BatchStatistics(msgspec.Struct, frozen=True):
    """How a batch goes.

    Attributes
    ----------
    slides_done, slides_reused, slides_scored, slides_waiting
        With an outcome; of these, known from an earlier run, and scored by this one; not begun.
    composites_scored
        By this run, of finished and running slides; of a bag model, here and below, patches.
    composites_per_s, read_per_s
        Scored, and read from slides, in the last :data:`WINDOW_S` seconds; `read_per_s` is None where
        nothing counts it.
    composites_queued
        Read and waiting for the scorer, or in it.
    device_busy
        Share of the last seconds in which the scorer had work, 0 to 1: at 1, reading keeps up with it.
    left_s
        Seconds left, from the pace of this run so far; None while nothing is known.
    """

    elapsed_s: float
    slides_total: int
    slides_done: int
    slides_reused: int
    slides_scored: int
    slides_waiting: int
    running: tuple[RunningSlide, ...]
    outcomes: dict[str, int]
    composites_scored: int
    composites_per_s: float
    read_per_s: float | None
    composites_queued: int | None
    device_busy: float | None
    left_s: float | None

    @property
    def slides_per_min(self) -> float:
        """Slides scored a minute by this run so far; 0 before there is anything to measure.

        Slides that end without being scored take no time to speak of, and count for none.
        """
        return 60 * self.slides_scored / self.elapsed_s if self.elapsed_s >= _LEAST_S else 0.0


@dataclass(frozen=True)
class _Sample:
    at: float
    scored: int
    counts: Counts


class BatchProgress:
    """Keeps count of a batch from what a :class:`bridge.batch.run.Listener` is told.

    Parameters
    ----------
    counts
        Where the scorer's own counts come from; None when nothing counts them.
    clock
        Seconds, never going back.
    """

    def __init__(
        self, counts: Callable[[], Counts] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts = counts
        self._clock = clock
        self._began = clock()
        self._total = 0
        self._done = 0
        self._reused = 0
        self._scored = 0
        self._outcomes: Counter[str] = Counter()
        self._running: tuple[RunningSlide, ...] = ()
        self._finished = 0
        self._samples: deque[_Sample] = deque()

    def started(self, total: int) -> None:
        """Begin a batch of so many slides."""
        self._total = total
        self._began = self._clock()
        self._samples = deque([self._sample()])

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None:
        """Take up how far the running slides are."""
        self._running = tuple(RunningSlide(name, p.stage, p.done, p.total) for name, p in slides)
        now = self._sample()
        self._samples.append(now)
        while len(self._samples) > 2 and now.at - self._samples[1].at >= WINDOW_S:
            self._samples.popleft()

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        """Take up the outcome of a slide."""
        self._done += 1
        self._reused += reused
        self._outcomes[result.outcome.value] += 1
        if not reused:
            self._scored += result.outcome is Outcome.SCORED
            regions = [result.union, *result.annotations] if result.union else []
            self._finished += sum(r.patches_sampled if r.is_bag else len(r.composites) for r in regions)
        # Its composites must not count twice until the next report of what runs.
        self._running = tuple(slide for slide in self._running if slide.slide != result.slide)

    def figures(self) -> BatchStatistics:
        """Return how the batch goes now."""
        now = self._sample()
        before = self._samples[0] if self._samples else now
        seconds = now.at - before.at
        elapsed = now.at - self._began

        def rate(count: float) -> float:
            return round(max(0.0, count) / seconds, 3) if seconds > 0 else 0.0

        measured = self.counts is not None
        return BatchStatistics(
            elapsed_s=round(elapsed, 3),
            slides_total=self._total,
            slides_done=self._done,
            slides_reused=self._reused,
            slides_scored=self._scored,
            slides_waiting=max(0, self._total - self._done - len(self._running)),
            running=self._running,
            outcomes=dict(sorted(self._outcomes.items())),
            composites_scored=now.scored,
            composites_per_s=rate(now.scored - before.scored),
            read_per_s=rate(now.counts.read - before.counts.read) if measured else None,
            composites_queued=now.counts.queued if measured else None,
            device_busy=min(1.0, rate(now.counts.busy_s - before.counts.busy_s)) if measured else None,
            left_s=self._left(elapsed),
        )

    def _left(self, elapsed: float) -> float | None:
        under_way = sum(slide.share for slide in self._running)
        fresh = self._scored + under_way
        if self._total and self._done == self._total:
            return 0.0
        if fresh <= 0 or elapsed <= 0:
            return None
        return round((self._total - self._done - under_way) * elapsed / fresh, 1)

    def _sample(self) -> _Sample:
        scored = self._finished + sum(slide.done for slide in self._running if slide.stage != "foreground")
        return _Sample(self._clock(), scored, self.counts() if self.counts is not None else Counts())
