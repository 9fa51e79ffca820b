"""The broker: the requests that are open, and what is answered to each message.

Used by the polling thread alone, except for what it hands to the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import zmq

from bridge import __version__
from bridge.protocol.codec import Refusal, decode_request
from bridge.protocol.messages import (
    Cancel,
    ErrorReply,
    Heartbeat,
    Hello,
    Info,
    Limits,
    Load,
    ModelFile,
    Pixels,
    Reply,
    Request,
    Result,
    ScoreComposites,
    ScoreSlide,
    StatusRequest,
    Stop,
)
from bridge.server.composites_request import CompositesRequest
from bridge.server.fair_queue import FairQueue
from bridge.server.frontend import Address, Frontend, Incoming
from bridge.server.pool_scorer import PoolScorer
from bridge.server.reply_cache import ReplyCache
from bridge.server.slide_request import SlideRequest, any_path, paths_below
from bridge.server.worker_pool import WorkerPool
from bridge.transport.discovery import ServerRecord
from bridge.transport.loop_calls import LoopCalls
from herohe_model.errors import OptionError
from herohe_model.model.bag_model import BagModel

HEARTBEAT_S: Final = 1.0
PROGRESS_S: Final = 0.25
"""With the server's tick, at least twice a second."""
GONE_S: Final = 10.0
"""How long the work of a client that is gone goes on, in case it comes back."""

_MAX_SLIDES: Final = 32
"""Slides that one client may have open."""
_MAX_REQUESTS: Final = 1024
"""Requests that all clients together may have open."""
_MAX_BYTES: Final = 768 << 20
"""Memory for pixels and regions of all open requests together; one alone may have more."""
_MAX_ADDRESSES: Final = 4

STOPPED: Final = ErrorReply(id="", code="stopping", problem="The server was stopped", remedy="Start it again")

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Who (a public key, or "" for local clients) and the id: an id is its client's own."""


@dataclass(frozen=True)
class BrokerSettings:
    """Settings of a broker.

    Attributes
    ----------
    record
        The server's discovery record.
    head
        What pools a bag model's patches; None of a model that sees composites.
    in_flight
        Composites that one client may have open.
    slides_at_once
        Slides that are scored at a time.
    slides_roots
        Where clients of other machines may name slides.
    allow_stop
        Whether they may end the server.
    """

    record: ServerRecord
    head: BagModel | None
    in_flight: int
    slides_at_once: int
    slides_roots: tuple[Path, ...]
    allow_stop: bool = False


@dataclass(eq=False)
class OpenRequest:
    """A request that is worked on; `size` is that of its frames, in bytes."""

    key: Key
    client: Hashable
    interim: bool
    work: CompositesRequest | SlideRequest
    size: int
    addresses: dict[Address, None] = field(default_factory=dict)
    spoken: float = 0.0
    gone_since: float | None = None


class Broker:
    """The open requests of one server."""

    def __init__(
        self, frontend: Frontend, pool: WorkerPool, loop_calls: LoopCalls, settings: BrokerSettings
    ) -> None:
        self._frontend = frontend
        self._pool = pool
        self._loop_calls = loop_calls
        self._settings = settings
        self._began = time.monotonic()
        self._last_used = self._began
        self._open: dict[Key, OpenRequest] = {}
        self._kept = ReplyCache()
        self._slides: FairQueue[OpenRequest] = FairQueue()
        self._finishing = False
        self._closed = False

    @property
    def record(self) -> ServerRecord:
        """What the server tells its user's other processes."""
        return self._settings.record

    @property
    def idle_since(self) -> float | None:
        """When the last request was, on the monotonic clock; None while one is open."""
        return None if self._open else self._last_used

    @property
    def may_end(self) -> bool:
        """Whether the server was told to stop, and nothing is open any more."""
        return self._finishing and not self._open

    def take(self, incoming: Incoming) -> None:
        """Act upon one message; whatever is wrong with it is answered, and nothing is raised."""
        token = None if incoming.who else self._settings.record.token
        id = ""
        try:
            request, frames = decode_request(incoming.body, token=token)
            id = request.id
            self._act(incoming, request, frames)
        except Refusal as refusal:
            reply = refusal.reply
            self._frontend.send(incoming.address, msgspec.structs.replace(reply, id=id) if id else reply)
        except Exception as error:
            _log.exception("a message cannot be acted upon")
            problem = f"The server failed: {type(error).__name__}: {error}"
            self._frontend.send(
                incoming.address,
                ErrorReply(id=id, code="internal", problem=problem, remedy="Please report it"),
            )

    def tick(self) -> None:
        """Speak to clients that wait; to be called several times a second."""
        now = time.monotonic()
        for opened in list(self._open.values()):
            self._speak(opened, now)

    def close(self, last: ErrorReply) -> None:
        """Answer everything that is open with `last`, and let slides' threads end."""
        self._closed = True
        for opened in list(self._open.values()):
            self._end(opened, msgspec.structs.replace(last, id=opened.key[1]), ())
            if not isinstance(opened.work, CompositesRequest):
                opened.work.cancel()

    def _act(self, incoming: Incoming, request: Request, frames: Sequence[zmq.Frame]) -> None:
        address, key = incoming.address, (incoming.who, request.id)
        if not isinstance(request, StatusRequest):
            self._last_used = time.monotonic()
        if isinstance(request, (Hello, StatusRequest)):
            self._frontend.send(address, self._info(request.id, incoming))
        elif isinstance(request, (ScoreComposites, ScoreSlide)):
            if not self._answered_before(key, address, request):
                self._begin(key, incoming, request, frames)
        elif isinstance(request, Pixels):
            opened = self._open.get((incoming.who, request.request))
            if opened is None or isinstance(opened.work, CompositesRequest):
                raise Refusal("unknown_request", f"No slide {request.request} is being scored")
            opened.work.take_pixels(request, list(frames))
        elif isinstance(request, Cancel):
            self._cancel(incoming, request)
        elif isinstance(request, ModelFile):
            self._send_file(incoming, request)
        else:
            self._stop(incoming, request)

    def _answered_before(self, key: Key, address: Address, request: ScoreComposites | ScoreSlide) -> bool:
        """Whether a request is a repeated one, which joins what is open or gets what was kept."""
        kept = self._kept.find(key)
        if kept is not None:
            self._frontend.send(address, *kept)
            return True
        opened = self._open.get(key)
        if opened is None:
            return False
        if type(opened.work.request) is not type(request):
            raise Refusal("malformed", f"The id {request.id} is another request's", "Use a new one each time")
        opened.addresses.pop(address, None)
        opened.addresses[address] = None
        while len(opened.addresses) > _MAX_ADDRESSES:
            del opened.addresses[next(iter(opened.addresses))]
        opened.gone_since = None
        if not isinstance(opened.work, CompositesRequest):
            for read in opened.work.open_reads():
                self._frontend.send(address, read)
        return True

    def _begin(
        self, key: Key, incoming: Incoming, request: ScoreComposites | ScoreSlide, frames: Sequence[zmq.Frame]
    ) -> None:
        record = self._settings.record
        if self._finishing or self._closed:
            raise Refusal("stopping", "The server is stopping", "Start it again, or use another")
        if request.model_sha256 not in ("", record.model_sha256):
            raise Refusal(
                "wrong_model",
                f"This server has {record.model_name} ({record.model_sha256[:12]}), "
                f"not the model {request.model_sha256[:12]}",
                "Start one with that model: herohe-bridge serve --model ...",
            )
        size = sum(frame.buffer.nbytes for frame in frames)
        if len(self._open) >= _MAX_REQUESTS:
            raise Refusal("busy", f"{_MAX_REQUESTS} requests are open", "Wait for answers")
        if self._open and sum(o.size for o in self._open.values()) + size > _MAX_BYTES:
            raise Refusal("busy", "The server's memory for pixels and regions is full", "Wait for answers")
        opened = (
            self._open_composites(key, incoming, request, frames, size)
            if isinstance(request, ScoreComposites)
            else self._open_slide(key, incoming, request, frames[0].bytes)
        )
        opened.addresses[incoming.address] = None
        opened.spoken = time.monotonic()
        self._open[key] = opened
        if isinstance(opened.work, CompositesRequest):
            opened.work.start(self._pool)
        else:
            self._slides.put(incoming.client, opened)
            self._start_slides()

    def _open_composites(
        self, key: Key, incoming: Incoming, request: ScoreComposites, frames: Sequence[zmq.Frame], size: int
    ) -> OpenRequest:
        assert self._pool.info is not None
        try:
            for array in request.composites:
                self._pool.info.check_shape(array.shape)
        except OptionError as error:
            remedy = "Take patch_px and grid from the model card, or side_px and batch of what embeds"
            raise Refusal("wrong_shape", error.problem, remedy) from error
        mine = [o.work for o in self._open.values() if o.client == incoming.client]
        composites = sum(len(w.composites) for w in mine if isinstance(w, CompositesRequest))
        if composites + len(request.composites) > self._settings.in_flight:
            raise Refusal(
                "busy",
                f"{composites} composites of this client have no answer yet",
                f"Wait for answers: at most {self._settings.in_flight} may be open",
            )
        deadline = time.monotonic() + request.deadline_s if request.deadline_s is not None else None
        work = CompositesRequest(
            request,
            list(frames),
            client=incoming.client,
            deadline=deadline,
            end=lambda reply, frames=(): self._end_by_key(key, reply, frames),
        )
        return OpenRequest(key, incoming.client, request.interim, work, size)

    def _open_slide(self, key: Key, incoming: Incoming, request: ScoreSlide, regions: bytes) -> OpenRequest:
        mine = [o.work for o in self._open.values() if o.client == incoming.client]
        if sum(not isinstance(work, CompositesRequest) for work in mine) >= _MAX_SLIDES:
            raise Refusal("busy", f"{_MAX_SLIDES} slides of this client are open", "Wait for answers")

        def say(reply: Reply, frames: Sequence[bytes] = ()) -> None:
            self._loop_calls.call_soon_threadsafe(lambda: self._say(key, reply, frames))

        def end(reply: Reply, frames: Sequence[bytes] = ()) -> None:
            self._loop_calls.call_soon_threadsafe(lambda: self._end_by_key(key, reply, frames))

        paths = paths_below(self._settings.slides_roots) if incoming.who else any_path
        work = SlideRequest(request, regions, paths=paths, say=say, end=end)
        return OpenRequest(key, incoming.client, request.interim, work, len(regions))

    def _start_slides(self) -> None:
        """Start waiting slides, one of each client in turn."""
        if self._closed:
            return
        running = sum(
            not isinstance(o.work, CompositesRequest) and o.work.started for o in self._open.values()
        )
        while running < self._settings.slides_at_once:
            opened = self._slides.take()
            if opened is None:
                return
            assert not isinstance(opened.work, CompositesRequest)
            opened.work.start(self._scorer(opened.client))
            running += 1

    def _scorer(self, client: Hashable) -> PoolScorer:
        assert self._pool.info is not None
        return PoolScorer(
            self._pool, self._loop_calls, client=client, info=self._pool.info, head=self._settings.head
        )

    def _send_file(self, incoming: Incoming, request: ModelFile) -> None:
        head = self._settings.head
        if head is None:
            raise Refusal("wrong_model", "This server's model is no bag model", "Send it composites")
        self._frontend.send(incoming.address, Result(id=request.id, file=len(head.data)), [head.data])

    def _cancel(self, incoming: Incoming, request: Cancel) -> None:
        opened = self._open.get((incoming.who, request.request))
        if opened is None:
            raise Refusal("unknown_request", f"No request {request.request} is open any more")
        self._cancel_work(opened)
        self._frontend.send(incoming.address, Result(id=request.id))

    def _cancel_work(self, opened: OpenRequest) -> None:
        if isinstance(opened.work, CompositesRequest):
            opened.work.cancel(self._pool)
            return
        self._slides.remove(lambda other: other is opened)
        opened.work.cancel()

    def _stop(self, incoming: Incoming, request: Stop) -> None:
        if incoming.who and not self._settings.allow_stop:
            raise Refusal(
                "not_allowed",
                "Clients of other machines may not stop this server",
                "Stop it on its own machine, or start it with --allow-stop",
            )
        _log.info("a client said stop")
        self._finishing = True
        if not request.finish:
            self.close(STOPPED)
        self._frontend.send(incoming.address, Result(id=request.id))

    def _speak(self, opened: OpenRequest, now: float) -> None:
        """Say that a request is not forgotten, and notice when nobody hears it."""
        if not opened.interim:
            return
        slide = None if isinstance(opened.work, CompositesRequest) else opened.work
        if now - opened.spoken >= (PROGRESS_S if slide else HEARTBEAT_S):
            opened.spoken = now
            self._say(opened.key, slide.progress() if slide else Heartbeat(id=opened.key[1]))
        if not opened.addresses and opened.gone_since is None:
            opened.gone_since = now
        if opened.gone_since is not None and now - opened.gone_since > GONE_S:
            self._cancel_work(opened)

    def _say(self, key: Key, reply: Reply, frames: Sequence[bytes] = ()) -> None:
        opened = self._open.get(key)
        if opened is None:
            return
        for address in list(opened.addresses):
            if not self._frontend.send(address, reply, frames):
                del opened.addresses[address]

    def _end_by_key(self, key: Key, reply: Reply, frames: Sequence[bytes]) -> None:
        opened = self._open.get(key)
        if opened is not None:
            self._end(opened, reply, frames)

    def _end(self, opened: OpenRequest, reply: Reply, frames: Sequence[bytes]) -> None:
        """Give the last answer; results are kept for whoever did not hear it."""
        self._say(opened.key, reply, frames)
        self._open.pop(opened.key, None)
        self._last_used = time.monotonic()
        if isinstance(reply, Result):
            self._kept.keep(opened.key, reply, frames)
        self._start_slides()

    def _info(self, id: str, incoming: Incoming) -> Info:
        record, info = self._settings.record, self._pool.info
        assert info is not None
        return Info(
            id=id,
            version=__version__,
            instance=record.instance,
            pid=record.pid,
            model=record.model_name,
            model_sha256=record.model_sha256,
            card=msgspec.to_builtins(info.card),
            device=record.device,
            precision=record.precision,
            engine=record.engine,
            embeds=info.embeds,
            paths=not incoming.who or bool(self._settings.slides_roots),
            limits=Limits(in_flight=self._settings.in_flight),
            load=Load(
                uptime_s=round(time.monotonic() - self._began, 3),
                requests=len(self._open),
                queued=self._pool.queued,
                in_work=self._pool.in_work,
                scored=self._pool.scored,
                slides=sum(not isinstance(o.work, CompositesRequest) for o in self._open.values()),
            ),
            workers=self._pool.workers(),
        )
