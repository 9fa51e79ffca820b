"""A composite on its way through the server, and the two ends it can come to."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import zmq

from bridge.protocol.messages import ArrayHeader


@dataclass(frozen=True)
class TaskScore:
    """A composite's score as it travels: frames as :func:`bridge.protocol.codec.score_frames` makes them."""

    cells: int
    bits: int
    frames: tuple[bytes, ...]

    @property
    def members(self) -> int:
        """Networks behind the score."""
        return len(self.frames[2]) // len(self.frames[0]) if len(self.frames) > 2 else 1


@dataclass(frozen=True)
class TaskFailure:
    """Why a composite has none; see :class:`bridge.protocol.messages.ErrorReply`."""

    code: str
    problem: str
    remedy: str = ""


@dataclass(eq=False)
class CompositeTask:
    """A composite on its way through the server.

    Attributes
    ----------
    client
        Who sent it; clients are served in turn.
    array, frame
        Its shape, and its pixels until it is done.
    done
        Called once, in the polling thread, with the end of it.
    deadline
        When it need not be begun any more, on the monotonic clock.
    """

    client: Hashable
    array: ArrayHeader
    frame: zmq.Frame | None
    done: Callable[[TaskScore | TaskFailure], None]
    deadline: float | None = None
    number: int = -1
    queued: float = 0.0
    deaths: int = 0
    dropped: bool = False
