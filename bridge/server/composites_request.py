"""``score_composites`` in the server: the composites of one message on their way through the worker pool."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import zmq

from bridge.protocol.messages import ErrorReply, Result, ScoreComposites, Scores
from bridge.server.frontend import SendReply
from bridge.server.tasks import CompositeTask, TaskFailure, TaskScore
from bridge.server.worker_pool import WorkerPool


class CompositesRequest:
    """One ``score_composites``; used by the polling thread alone.

    Parameters
    ----------
    client
        Whose turn the composites take.
    end
        Called once, when all composites have come to their end.
    """

    def __init__(
        self,
        request: ScoreComposites,
        frames: Sequence[zmq.Frame],
        *,
        client: Hashable,
        deadline: float | None,
        end: SendReply,
    ) -> None:
        self.request = request
        self._end = end
        self._ends: list[TaskScore | TaskFailure | None] = [None] * len(request.composites)
        self.composites = [
            CompositeTask(client, array, frame, self._taker(number), deadline)
            for number, (array, frame) in enumerate(zip(request.composites, frames, strict=True))
        ]

    def start(self, pool: WorkerPool) -> None:
        """Put all composites into the queue."""
        for composite in self.composites:
            pool.put(composite)

    def cancel(self, pool: WorkerPool) -> None:
        """Drop what has not begun; the end comes when the rest is done."""
        for composite, end in zip(self.composites, list(self._ends), strict=True):
            if end is None:
                pool.drop(composite)

    def _taker(self, number: int) -> Callable[[TaskScore | TaskFailure], None]:
        def take(end: TaskScore | TaskFailure) -> None:
            self._ends[number] = end
            self.composites[number].frame = None
            if None not in self._ends:
                self._finish()

        return take

    def _finish(self) -> None:
        scores = [end for end in self._ends if isinstance(end, TaskScore)]
        failures = [end for end in self._ends if isinstance(end, TaskFailure)]
        if failures:
            first = failures[0]
            self._end(
                ErrorReply(id=self.request.id, code=first.code, problem=first.problem, remedy=first.remedy)
            )
            return
        one = scores[0]
        shapes = Scores(composites=len(scores), cells=one.cells, bits=one.bits, members=one.members)
        frames = [b"".join(parts) for parts in zip(*(score.frames for score in scores), strict=True)]
        self._end(Result(id=self.request.id, scores=shapes), frames)
