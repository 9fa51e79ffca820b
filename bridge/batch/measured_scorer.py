"""A scorer that counts: how much was read for it, how much it has scored, and how long it had work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from herohe_model.model.score import BagHead, CompositeScore, CompositeScorer, ScorerInfo


@dataclass(frozen=True)
class Counts:
    """What went through a scorer so far.

    Attributes
    ----------
    read, scored
        Composites handed to it, and composites it is done with; of a bag model, patches.
    busy_s
        Seconds in which it had at least one composite in hand.
    """

    read: int = 0
    scored: int = 0
    busy_s: float = 0.0

    @property
    def queued(self) -> int:
        """Composites that are in its hands."""
        return self.read - self.scored


class MeasuredScorer:
    """Implements :class:`~herohe_model.model.score.CompositeScorer` by another one, and counts.

    Parameters
    ----------
    scorer
        The one that does the work; closed with this one.
    clock
        Seconds, never going back.
    """

    def __init__(self, scorer: CompositeScorer, clock: Callable[[], float] = time.monotonic) -> None:
        self._scorer = scorer
        self._clock = clock
        self._lock = threading.Lock()
        self._read = 0
        self._scored = 0
        self._busy_s = 0.0
        self._since = 0.0

    @property
    def info(self) -> ScorerInfo:
        """What scores."""
        return self._scorer.info

    @property
    def head(self) -> BagHead | None:
        """What pools a bag model's patches."""
        return self._scorer.head

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite; see :class:`~herohe_model.model.score.CompositeScorer`."""
        embeds = self.info.embeds
        count = 1 if embeds is None else len(pixels) // embeds.side_px
        with self._lock:
            if self._read == self._scored:
                self._since = self._clock()
            self._read += count
        try:
            future = self._scorer.submit(pixels)
        except BaseException:
            with self._lock:
                self._read -= count
                self._let_go()
            raise
        future.add_done_callback(lambda _: self._done(count))
        return future

    def close(self) -> None:
        """Close the scorer that does the work."""
        self._scorer.close()

    def counts(self) -> Counts:
        """Return what went through so far."""
        with self._lock:
            running = self._clock() - self._since if self._read > self._scored else 0.0
            return Counts(self._read, self._scored, self._busy_s + running)

    def _done(self, count: int) -> None:
        with self._lock:
            self._scored += count
            self._let_go()

    def _let_go(self) -> None:
        if self._read == self._scored:
            self._busy_s += self._clock() - self._since
