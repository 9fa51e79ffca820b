"""The client of a model server: scores composites as if the model were in this process.

A request that the server has not spoken of for a while is sent again under its id, so nothing is lost when
messages, connections or the server itself are; when the server is gone for good, every request ends with an
error in bounded time (:mod:`bridge.client.connection`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from bridge import __version__
from bridge.client.address import ServerAddress
from bridge.client.child_server import ChildServer
from bridge.client.connection import Connection, PendingRequest
from bridge.client.locate import DiscoveredServer, FixedServer, ServerLocator, ServerRequirements, find_server
from bridge.protocol.codec import new_id, score_from
from bridge.protocol.messages import (
    ArrayHeader,
    Hello,
    ImageHeader,
    Info,
    ModelFile,
    Pixels,
    ProgressReply,
    Read,
    ReadBox,
    Reply,
    Result,
    ScoreComposites,
    ScoreSlide,
)
from bridge.transport.loop_calls import Context, LoopCalls
from bridge.versions import is_older
from herohe_model.errors import (
    CancelledError,
    OptionError,
    ProtocolError,
    ServerError,
    ServerUnavailableError,
)
from herohe_model.model.bag_model import BagModel, bag_model_of
from herohe_model.model.card import ModelCard, read_card
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.score import CompositeScore, ScorerInfo

_log = logging.getLogger(__name__)

_WINDOW: Final = 8
"""Composites on their way to the server and back at a time; others wait here."""


@dataclass(frozen=True)
class SlideAnswer:
    """The answer to a ``score_slide``.

    Attributes
    ----------
    result
        JSON of a :class:`bridge.results.schema.SlideResult`.
    plan
        What QuPath's script has to write, b"" unless it was asked for.
    origin
        Where the image's (0, 0) lies on the slide, level-0 px (x, y).
    """

    result: bytes
    plan: bytes
    origin: tuple[int, int]


class Client:
    """A connection to a model server; implements :class:`~herohe_model.model.score.CompositeScorer`.

    Thread-safe.

    Parameters
    ----------
    locator
        Where the server is.
    deadline_s
        How long one composite may take from when it was sent.
    hello_s
        How long the server may take to say who it is.

    Attributes
    ----------
    server_info
        What the server said of itself.
    info
        What scores there.
    head
        Of a bag model, what pools its patches: its file is fetched, and the SHA-256 checked.

    Raises
    ------
    ServerUnavailableError
        If it does not answer.
    ProtocolError
        If it speaks another protocol, or is of another version.
    """

    def __init__(
        self,
        locator: ServerLocator,
        *,
        name: str = "python",
        deadline_s: float = 3600.0,
        hello_s: float = 15.0,
    ) -> None:
        address = locator.find()
        if address is None:
            raise ServerUnavailableError("The server is not running any more", "Start it again")
        self._deadline_s = deadline_s
        self._context: Context = zmq.Context()
        self._loop_calls = LoopCalls(self._context)
        self._connection = Connection(self._context, self._loop_calls, locator, address)
        self._thread = threading.Thread(target=self._connection.run, name="herohe-client", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            server = self.server_info = self._hello(name, hello_s, address)
            card = msgspec.convert(server.card, ModelCard)
        except BaseException:
            self.close()
            raise
        self.info = ScorerInfo(
            card, server.model_sha256, server.device, server.precision, server.engine, server.embeds
        )
        window = min(_WINDOW, server.limits.in_flight)
        self._loop_calls.call_soon_threadsafe(lambda: self._connection.open(window))
        try:
            self.head = None if server.embeds is None else self._fetch_head(address)
        except BaseException:
            self.close()
            raise

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Score one composite in the background.

        Parameters
        ----------
        pixels
            Shape (side, side, 3), uint8, R, G, B; of a bag model (n * side, side, 3). It must not change
            until the future is done.

        Returns
        -------
        Future
            Its errors are HeroheErrors. Cancelling it stops the work in the server, if it was not begun.

        Raises
        ------
        OptionError
            If the array is not of that shape and type.
        CancelledError
            If the client is closed.
        """
        self.info.check_shape(pixels.shape, str(pixels.dtype))
        height, width, _ = pixels.shape
        request = ScoreComposites(
            id=new_id(),
            composites=(ArrayHeader((height, width, 3)),),
            model_sha256=self.info.model_sha256,
            deadline_s=self._deadline_s,
        )
        future: Future[CompositeScore] = Future()
        pending = PendingRequest(request, future, _composite_score, pixels=np.ascontiguousarray(pixels))
        self._put(pending)
        return future

    def score_slide(
        self,
        request: ScoreSlide,
        regions: bytes,
        *,
        progress: Callable[[ProgressReply], None] = lambda _: None,
        read: Callable[[ReadBox], NDArray[np.uint8]] | None = None,
    ) -> Future[SlideAnswer]:
        """Have the server score a slide.

        Parameters
        ----------
        regions
            GeoJSON; see :mod:`bridge.protocol.codec`.
        progress
            Told how far it is; called from the client's thread.
        read
            Reads a box of the image, for a request with a ``source``; called from a thread of its own.
        """
        future: Future[SlideAnswer] = Future()

        def told(reply: Reply) -> None:
            if isinstance(reply, ProgressReply):
                progress(reply)
            if isinstance(reply, Read) and read is not None:
                answer = (request.id, reply, read)
                threading.Thread(target=self._answer_read, args=answer, daemon=True).start()

        self._put(PendingRequest(request, future, _slide_answer, told=told, frames=[regions]))
        return future

    def close(self) -> None:
        """Cancel what has no answer, and disconnect; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._loop_calls.call_soon_threadsafe(self._connection.stop)
        self._thread.join()
        self._loop_calls.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, pending: PendingRequest) -> None:
        if not self._loop_calls.call_soon_threadsafe(lambda: self._connection.accept(pending)):
            raise CancelledError("The connection to the server is closed")

        def dropped(future: Future[Any]) -> None:
            if future.cancelled():
                self._loop_calls.call_soon_threadsafe(lambda: self._connection.drop(pending))

        pending.future.add_done_callback(dropped)

    def _hello(self, name: str, hello_s: float, address: ServerAddress) -> Info:
        future: Future[Info] = Future()
        hello = Hello(id=new_id(), client=name, version=__version__)
        self._put(PendingRequest(hello, future, lambda reply, _: reply))
        try:
            info = future.result(timeout=hello_s)
        except FutureTimeoutError as error:
            curve = " and whether your public key is allowed there" if address.key else ""
            raise ServerUnavailableError(
                f"The server {address.endpoint} does not answer", f"Look whether it runs{curve}"
            ) from error
        if info.version != __version__:
            older = "this client" if is_older(__version__, info.version) else "the server"
            raise ProtocolError(
                f"The server {address.endpoint} is herohe-bridge {info.version}, this client {__version__}",
                f"Update {older}, and restart the server",
            )
        return info

    def _fetch_head(self, address: ServerAddress) -> BagModel:
        """Fetch a bag model's file, and load its head."""
        future: Future[bytes] = Future()
        self._put(PendingRequest(ModelFile(id=new_id()), future, lambda _, frames: frames[0].bytes))
        try:
            head = bag_model_of(future.result(timeout=self._deadline_s), f"The model of {address.endpoint}")
        except FutureTimeoutError as error:
            raise ServerUnavailableError(
                f"The server {address.endpoint} does not send its model", "Look whether it runs"
            ) from error
        if head.sha256 != self.info.model_sha256:
            raise ProtocolError(f"The server {address.endpoint} sent another model", "Restart the server")
        return head

    def _answer_read(self, request: str, asked: Read, read: Callable[[ReadBox], NDArray[np.uint8]]) -> None:
        images: list[NDArray[np.uint8]] = []
        try:
            images = [np.ascontiguousarray(read(box)) for box in asked.boxes]
        except Exception as error:
            answer = Pixels(id=new_id(), request=request, read=asked.read, problem=str(error) or repr(error))
        else:
            shapes = tuple(ImageHeader((box.out_height, box.out_width, 3)) for box in asked.boxes)
            answer = Pixels(id=new_id(), request=request, read=asked.read, images=shapes)
        self._loop_calls.call_soon_threadsafe(
            lambda: self._connection.send(answer, [image.tobytes() for image in images])
        )


def _composite_score(reply: Reply, frames: Sequence[zmq.Frame]) -> CompositeScore:
    if not isinstance(reply, Result) or reply.scores is None:
        raise ValueError(f"a {type(reply).__name__} instead of scores")
    return score_from([frame.bytes for frame in frames], reply.scores.cells, reply.scores.bits)


def _slide_answer(reply: Reply, frames: Sequence[zmq.Frame]) -> SlideAnswer:
    if not isinstance(reply, Result) or reply.slide is None:
        raise ValueError(f"a {type(reply).__name__} instead of a slide's result")
    plan = frames[1].bytes if len(frames) > 1 else b""
    return SlideAnswer(frames[0].bytes, plan, (reply.slide.origin_x, reply.slide.origin_y))


@contextmanager
def connect_named(endpoint: str, sha256: str) -> Iterator[Client]:
    """Connect to a running server that was named.

    Raises
    ------
    ServerUnavailableError
        If it does not answer.
    OptionError
        If it has another model than that of the SHA-256; "" for any.
    """
    with Client(FixedServer(ServerAddress.named(endpoint))) as client:
        if sha256 not in ("", client.info.model_sha256):
            raise OptionError(
                f"The server {endpoint} has the model {client.info.card.name}, not that of --model",
                "Leave --model out, or name the server of that model",
            )
        yield client


@contextmanager
def connect_or_start(
    model: Path | None,
    compute: Compute = AUTO,
    *,
    server: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Client]:
    """Connect to a server: the named one, a running one that fits, or one that is started for this and ended.

    Parameters
    ----------
    model
        Model file; may be None when a server is named.
    compute
        What a server must have, or is started with.
    server
        Endpoint of a running server.
    cancelled
        Asked while a server is starting; a true answer ends it.

    Raises
    ------
    HeroheError
        If there is no server, and none can be started.
    OptionError
        If the named server has another model.
    CancelledError
        When `cancelled` said so.
    """
    sha256 = read_card(model)[1] if model is not None else ""
    with ExitStack() as stack:
        if server is not None:
            yield stack.enter_context(connect_named(server, sha256))
            return
        if model is None:
            raise OptionError("There is no model", "Name a model file, or a running server")
        wanted = ServerRequirements(sha256, compute)
        found = find_server(wanted)
        if found is not None:
            try:
                client = stack.enter_context(Client(DiscoveredServer(wanted)))
            except ServerError as error:
                _log.warning("%s Going on without it.", error)
            else:
                _log.info("Using the model server of process %d: %s", found.pid, found.computes_on)
                yield client
                return
        own = stack.enter_context(closing(ChildServer(model, compute, cancelled)))
        yield stack.enter_context(Client(own))
