"""The server's workers as a scorer for the server's own threads."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future

import numpy as np
import zmq
from numpy.typing import NDArray

from bridge.protocol.codec import score_from
from bridge.protocol.errors import error_from
from bridge.protocol.messages import ArrayHeader
from bridge.server.tasks import CompositeTask, TaskFailure, TaskScore
from bridge.server.worker_pool import WorkerPool
from bridge.transport.loop_calls import LoopCalls
from herohe_model.errors import ServerUnavailableError
from herohe_model.model.score import BagHead, CompositeScore, ScorerInfo


class PoolScorer:
    """The worker pool as a :class:`herohe_model.model.score.CompositeScorer`, for threads of the server.

    Parameters
    ----------
    client
        Whose turn the composites take.
    head
        Of a bag model, what pools its patches.
    """

    def __init__(
        self,
        pool: WorkerPool,
        loop_calls: LoopCalls,
        *,
        client: Hashable,
        info: ScorerInfo,
        head: BagHead | None,
    ) -> None:
        self._pool = pool
        self._loop_calls = loop_calls
        self._client = client
        self.info = info
        self.head = head

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite; see :class:`herohe_model.model.score.CompositeScorer`."""
        future: Future[CompositeScore] = Future()
        height, width, channels = pixels.shape
        assert channels == 3
        composite = CompositeTask(
            client=self._client,
            array=ArrayHeader((height, width, 3)),
            frame=zmq.Frame(np.ascontiguousarray(pixels), copy=False),
            done=lambda end: _settle(future, end),
        )

        def dropped(ended: Future[CompositeScore]) -> None:
            if ended.cancelled():
                self._loop_calls.call_soon_threadsafe(lambda: self._pool.drop(composite))

        if not self._loop_calls.call_soon_threadsafe(lambda: self._pool.put(composite)):
            raise ServerUnavailableError("The server is stopping", "Start it again")
        future.add_done_callback(dropped)
        return future

    def close(self) -> None:
        """Do nothing: the pool is the server's."""


def _settle(future: Future[CompositeScore], end: TaskScore | TaskFailure) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(end, TaskScore):
        future.set_result(score_from(end.frames, end.cells, end.bits))
    else:
        future.set_exception(error_from(end.code, end.problem, end.remedy))
