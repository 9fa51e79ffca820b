"""Several model servers as one scorer: composites go to the least busy, elsewhere when it dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.client.client import connect_named
from herohe_model.errors import HeroheError, OptionError, ProtocolError, ServerUnavailableError
from herohe_model.model.card import read_card
from herohe_model.model.score import CompositeScore, CompositeScorer

_GONE: Final = (ServerUnavailableError, ProtocolError)
"""Errors after which a server is not asked any more; one that was restarted does not know our token."""

_Scores = Future[CompositeScore]
_log = logging.getLogger(__name__)


class SpreadScorer:
    """Implements :class:`~herohe_model.model.score.CompositeScorer` by others, by name. Thread-safe.

    Raises OptionError if they differ in model, device, precision or engine: results would depend on which of
    them was free.
    """

    def __init__(self, servers: dict[str, CompositeScorer]) -> None:
        self._servers = servers
        # Of those that are still there, the composites without an answer.
        self._in_hand = dict.fromkeys(servers, 0)
        self._lock = threading.Lock()
        has = [f"{s.info.model_sha256[:12]} on {s.info.computes_on}" for s in servers.values()]
        if len({(words, s.info.embeds) for words, s in zip(has, servers.values(), strict=True)}) > 1:
            raise OptionError(
                f"The servers {', '.join(servers)} are not alike: they have {', '.join(has)}",
                "Start them with one model file, device, precision and engine, on machines that are alike",
            )
        first = next(iter(servers.values()))
        self.info, self.head = first.info, first.head

    def submit(self, pixels: NDArray[np.uint8]) -> _Scores:
        """Score one composite; see :class:`~herohe_model.model.score.CompositeScorer`."""
        self._hand_on(pixels, future := _Scores())
        return future

    def close(self) -> None:
        """Close all connections; may be called twice."""
        for scorer in self._servers.values():
            scorer.close()

    def _hand_on(self, pixels: NDArray[np.uint8], future: _Scores) -> None:
        """Give a composite to the server that has the fewest."""
        with self._lock:
            if not self._in_hand:
                gone = f"None of the model servers {', '.join(self._servers)} is there any more"
                raise ServerUnavailableError(gone, "Look at their logs, start them again, and try again")
            name = min(self._in_hand, key=self._in_hand.__getitem__)
            self._in_hand[name] += 1
        asked = self._servers[name].submit(pixels)
        future.add_done_callback(lambda done: asked.cancel() if done.cancelled() else None)
        asked.add_done_callback(lambda done: self._answered(pixels, future, name, done))

    def _answered(self, pixels: NDArray[np.uint8], future: _Scores, name: str, done: _Scores) -> None:
        """Pass an answer on, or the composite if its server is gone; in that server's thread."""
        error = None if done.cancelled() else done.exception()
        lost = isinstance(error, _GONE)
        with self._lock:
            first = lost and self._in_hand.pop(name, None) is not None
            if name in self._in_hand:
                self._in_hand[name] -= 1
        if first:
            _log.warning("%s Going on without %s.", error, name)
        if lost and not future.cancelled():
            try:
                return self._hand_on(pixels, future)
            except HeroheError as none_left:
                error = none_left
        if future.set_running_or_notify_cancel():
            future.set_exception(error) if error is not None else future.set_result(done.result())


@contextmanager
def connect_servers(endpoints: Sequence[str], model: Path | None) -> Iterator[SpreadScorer]:
    """Connect to several running servers; those of `model`, if one is named."""
    sha256 = read_card(model)[1] if model is not None else ""
    with ExitStack() as stack:
        each = {e: stack.enter_context(connect_named(e, sha256)) for e in dict.fromkeys(endpoints)}
        yield SpreadScorer(dict(each))
