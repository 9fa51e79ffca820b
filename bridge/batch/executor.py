"""Where the slides of a batch get scored: by threads here, or on a cluster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Protocol

from bridge.results.schema import SlideResult
from bridge.scoring.job import Opener, SlideJob, score_job
from bridge.scoring.progress import Progress
from herohe_model.model.score import CompositeScorer, ScorerInfo, ScoringModel


class SlideExecutor(Protocol):
    """Scores slides somewhere. Used by one thread, the batch's.

    Every job that was submitted comes back by :meth:`finished`, once, whatever becomes of it.
    """

    @property
    def info(self) -> ScorerInfo:
        """What scores all slides."""
        ...

    @property
    def model(self) -> ScoringModel:
        """What scores, as far as it is known before anything is computed."""
        ...

    @property
    def capacity(self) -> int:
        """How many slides it may have in hand at a time now; at least 1."""
        ...

    def check(self) -> None:
        """Raise the HeroheError for which no further slide can be scored, if there is one."""
        ...

    def submit(self, job: SlideJob, opener: Opener | None = None) -> None:
        """Begin a slide as soon as there is room; `opener` opens it, by default its file."""
        ...

    def finished(self, timeout_s: float) -> list[SlideResult]:
        """Return results not returned before; wait up to `timeout_s` for the first."""
        ...

    def progress(self) -> Sequence[tuple[str, Progress]]:
        """How far the running slides are, with their names."""
        ...

    def cancel(self) -> None:
        """Have everything in hand finish soon, with the outcome ``cancelled``; may be called often."""
        ...


class ThreadExecutor:
    """Implements :class:`SlideExecutor` by threads of this process that share a scorer. A context manager.

    While one slide is scored, the next is being read.

    Parameters
    ----------
    scorer
        A model in this process, or the client of servers.
    slides_at_once
        How many slides are read and scored at a time.
    """

    def __init__(self, scorer: CompositeScorer, slides_at_once: int) -> None:
        self._scorer = scorer
        self.capacity = slides_at_once
        self._pool = ThreadPoolExecutor(slides_at_once, thread_name_prefix="slide")
        self._cancelled = threading.Event()
        self._running: set[Future[SlideResult]] = set()
        self._progress: dict[str, tuple[str, Progress]] = {}

    def __enter__(self) -> ThreadExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Running slides poll this; without it the pool would wait for whole slides.
        self.cancel()
        self._pool.shutdown()

    @property
    def info(self) -> ScorerInfo:
        """What scores."""
        return self._scorer.info

    @property
    def model(self) -> ScoringModel:
        """The scorer's model."""
        return self._scorer.info.model

    def check(self) -> None:
        """Do nothing: a scorer that is gone says so for each slide."""

    def submit(self, job: SlideJob, opener: Opener | None = None) -> None:
        """Begin a slide in a thread."""
        self._progress[job.entry] = (job.slide, Progress("foreground", 0, 1))
        self._running.add(self._pool.submit(self._score, job, opener))

    def finished(self, timeout_s: float) -> list[SlideResult]:
        """Return what has come to its end."""
        done, self._running = wait(self._running, timeout=timeout_s, return_when=FIRST_COMPLETED)
        results = [future.result() for future in done]
        for result in results:
            del self._progress[result.entry]
        return results

    def progress(self) -> Sequence[tuple[str, Progress]]:
        """How far the running slides are."""
        return list(self._progress.values())

    def cancel(self) -> None:
        """End every running slide within one composite."""
        self._cancelled.set()

    def _score(self, job: SlideJob, opener: Opener | None) -> SlideResult:
        def progress(now: Progress) -> None:
            self._progress[job.entry] = (job.slide, now)

        return score_job(
            job, self._scorer, opener=opener, progress=progress, cancelled=self._cancelled.is_set
        )
