"""The thread of a client: it sends, listens, repeats, and looks for a server that is gone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from bridge.client.address import ServerAddress
from bridge.client.locate import FixedServer, ServerLocator
from bridge.protocol.codec import decode_reply, encode, new_id
from bridge.protocol.errors import error_from
from bridge.protocol.messages import (
    Cancel,
    ErrorReply,
    Heartbeat,
    ProgressReply,
    Read,
    Reply,
    Request,
    ScoreComposites,
)
from bridge.transport.loop_calls import Context, LoopCalls
from herohe_model.errors import (
    CancelledError,
    HeroheError,
    ProtocolError,
    ServerBusyError,
    ServerUnavailableError,
)

SILENT_S: Final = 3.0
"""Silence after which a client looks whether its server is still there; heartbeats come every second."""

GIVE_UP_S: Final = 30.0
"""Silence, or absence, after which a client gives up."""

REPEAT_S: Final = 10.0
"""Silence about one request, while the server speaks of others, after which it is sent again."""

_TICK_S: Final = 0.2
_BUSY_S: Final = 0.5


Sendable = bytes | memoryview


@dataclass(eq=False)
class PendingRequest:
    """A request without an answer.

    Attributes
    ----------
    request
        Without its token, which is the server's.
    answered
        Makes the future's result of the reply.
    told
        Hears what comes before that.
    pixels, frames
        What follows the header: one composite, or ready frames.
    heard
        When the server last spoke of it.
    ended
        The future has come to its end; the server may not know yet.
    """

    request: Request
    future: Future[Any]
    answered: Callable[[Reply, Sequence[zmq.Frame]], object]
    told: Callable[[Reply], None] = lambda _: None
    pixels: NDArray[np.uint8] | None = None
    frames: list[bytes] = field(default_factory=list)
    heard: float = 0.0
    deadline: float | None = None
    not_before: float = 0.0
    ended: bool = False

    def claim(self) -> bool:
        """Whether the future still wants a result; true once, and then it must get one."""
        if self.ended:
            return False
        self.ended = True
        return self.future.set_running_or_notify_cancel()


class Connection:
    """What the client's thread does; all but :meth:`run` is called by that thread alone, through its loop.

    Parameters
    ----------
    address
        Where the server is now.
    """

    def __init__(
        self, context: Context, loop_calls: LoopCalls, locator: ServerLocator, address: ServerAddress
    ) -> None:
        self._context = context
        self._loop_calls = loop_calls
        self._locator = locator
        self._address = address
        self._socket = address.connect(context)
        self._waiting: deque[PendingRequest] = deque()
        self._sent: dict[str, PendingRequest] = {}
        self._window = 1
        self._heard = time.monotonic()
        self._lost_since: float | None = None
        self._stopping = False

    def run(self) -> None:
        """Talk until told to stop; whatever has no answer then gets an error."""
        try:
            while not self._stopping:
                poller = zmq.Poller()
                poller.register(self._socket, zmq.POLLIN)
                poller.register(self._loop_calls.socket, zmq.POLLIN)
                readable = dict(poller.poll(round(_TICK_S * 1000)))
                if self._loop_calls.socket in readable:
                    self._loop_calls.run()
                if self._socket in readable:
                    self._receive()
                self._tick(time.monotonic())
        except Exception as error:
            problem = f"The client failed: {type(error).__name__}: {error}"
            self._fail_all(HeroheError(problem, "Please report it"))
            raise
        finally:
            self._lost_since = time.monotonic()
            # What was put in meanwhile must not wait for ever.
            for call in self._loop_calls.close():
                call()
            self._fail_all(CancelledError("The connection to the server was closed"))
            # Long enough for the cancels to leave.
            self._socket.close(linger=500)

    def open(self, window: int) -> None:
        """Go on after ``hello``, with so many composites under way."""
        self._window = window

    def stop(self) -> None:
        """Cancel everything, and end the thread."""
        for pending in [*self._sent.values(), *self._waiting]:
            pending.future.cancel()
        for id in self._sent:
            self.send(Cancel(id=new_id(), request=id))
        self._stopping = True

    def accept(self, pending: PendingRequest) -> None:
        """Send a request as soon as there is room."""
        if not self._sent:
            # Silence counts from now on: before, there was nothing to hear.
            self._heard = time.monotonic()
        self._waiting.append(pending)
        self._pump()

    def drop(self, pending: PendingRequest) -> None:
        """Tell the server that nobody waits for an answer any more."""
        pending.claim()
        if pending.request.id in self._sent:
            self.send(Cancel(id=new_id(), request=pending.request.id))

    def send(self, request: Request, frames: Sequence[Sendable] = ()) -> None:
        """Send a message without copying its frames; when nothing can be sent, the repetition will."""
        header = encode(msgspec.structs.replace(request, token=self._address.token))
        try:
            self._socket.send_multipart([b"", header, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return

    def _pump(self) -> None:
        """Send what waits, as far as the window allows."""
        now = time.monotonic()
        for _ in range(len(self._waiting)):
            if self._lost_since is not None:
                return
            pending = self._waiting.popleft()
            if pending.ended:
                continue
            if pending.deadline is not None and now > pending.deadline:
                self._fail(pending)
            elif pending.not_before > now or (pending.pixels is not None and self._in_flight >= self._window):
                self._waiting.append(pending)
            else:
                self._send_pending(pending, now)

    @property
    def _in_flight(self) -> int:
        return sum(pending.pixels is not None for pending in self._sent.values())

    def _send_pending(self, pending: PendingRequest, now: float) -> None:
        request = pending.request
        frames: list[Sendable] = list(pending.frames)
        if isinstance(request, ScoreComposites) and pending.pixels is not None:
            frames.append(pending.pixels.data)
            pending.deadline = pending.deadline or now + (request.deadline_s or 0.0)
        pending.heard = now
        self._sent[request.id] = pending
        self.send(request, frames)

    def _receive(self) -> None:
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            try:
                reply, frames = decode_reply(parts[1:])
            except ProtocolError as error:
                self._fail_all(error)
                return
            self._heard = time.monotonic()
            pending = self._sent.get(reply.id)
            if pending is None:
                continue
            pending.heard = self._heard
            if isinstance(reply, (Heartbeat, ProgressReply, Read)):
                self._tell(pending, reply)
            elif not isinstance(reply, ErrorReply) or not self._try_again(pending, reply):
                self._settle(pending, reply, frames)
        self._pump()

    def _tell(self, pending: PendingRequest, reply: Reply) -> None:
        if pending.ended:
            return
        try:
            pending.told(reply)
        except Exception as error:
            # The caller's own error: it ends the caller's request and no other.
            if pending.claim():
                pending.future.set_exception(error)
            self.drop(pending)

    def _try_again(self, pending: PendingRequest, error: ErrorReply) -> bool:
        """Whether an error is one that the same request may get over."""
        if pending.ended or error.code not in ("busy", "stopping", "unauthorized"):
            return False
        if error.code in ("stopping", "unauthorized"):
            # It is ending, or was restarted: with luck it can be found anew.
            if self._locator.is_gone() or isinstance(self._locator, FixedServer):
                return False
            self._lose()
            return True
        pending.not_before = time.monotonic() + _BUSY_S
        self._take_back(pending)
        return True

    def _settle(self, pending: PendingRequest, reply: Reply, frames: Sequence[zmq.Frame]) -> None:
        del self._sent[pending.request.id]
        if not pending.claim():
            return
        if isinstance(reply, ErrorReply):
            pending.future.set_exception(error_from(reply.code, reply.problem, reply.remedy))
            return
        try:
            pending.future.set_result(pending.answered(reply, frames))
        except Exception as error:
            pending.future.set_exception(ProtocolError(f"The server's answer is not valid: {error}"))

    def _tick(self, now: float) -> None:
        for pending in list(self._sent.values()):
            if pending.deadline is not None and now > pending.deadline and not pending.ended:
                self._fail(pending)
            elif now - pending.heard > REPEAT_S and pending.ended:
                # Nobody waits any more.
                del self._sent[pending.request.id]
            elif now - pending.heard > REPEAT_S:
                self._send_pending(pending, now)
        if self._lost_since is None and self._sent and now - self._heard > SILENT_S:
            self._look_around(now)
        elif self._lost_since is not None:
            self._look_for(now)
        self._pump()

    def _look_around(self, now: float) -> None:
        """Find out what a server's silence means."""
        address = self._locator.find()
        if address == self._address:
            if now - self._heard > GIVE_UP_S:
                self._fail_all(self._unavailable("does not answer any more"))
        else:
            self._lose()
            self._look_for(now)

    def _look_for(self, now: float) -> None:
        """Go to where the server is now, if it is anywhere, and send everything again."""
        assert self._lost_since is not None
        address = self._locator.find()
        if address is not None and address != self._address:
            self._socket.close(linger=0)
            self._address = address
            self._socket = address.connect(self._context)
            self._lost_since = None
            self._heard = now
        elif self._locator.is_gone():
            self._fail_all(self._unavailable("has ended"))
        elif now - self._lost_since > GIVE_UP_S:
            self._fail_all(self._unavailable("is gone"))

    def _lose(self) -> None:
        """Take everything back until the server is found again."""
        self._lost_since = self._lost_since or time.monotonic()
        for pending in reversed(list(self._sent.values())):
            self._take_back(pending)

    def _take_back(self, pending: PendingRequest) -> None:
        del self._sent[pending.request.id]
        if not pending.ended:
            self._waiting.appendleft(pending)

    def _unavailable(self, what: str) -> ServerUnavailableError:
        return ServerUnavailableError(
            f"The model server {self._address.endpoint} {what}", "Look at its log, and give the command again"
        )

    def _fail(self, pending: PendingRequest) -> None:
        """End a request after its deadline."""
        if pending.claim():
            pending.future.set_exception(
                ServerBusyError("The server did not answer before the deadline", "Try again later")
            )
        self.drop(pending)

    def _fail_all(self, error: HeroheError) -> None:
        for pending in [*self._sent.values(), *self._waiting]:
            if pending.claim():
                pending.future.set_exception(error)
        self._sent.clear()
        self._waiting.clear()
