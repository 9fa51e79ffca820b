"""Model servers for tests, and a client that says exactly what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import zmq
from numpy.typing import NDArray

from bridge.client.address import ServerAddress, ask
from bridge.console.log import log_shown
from bridge.protocol.codec import decode_reply, encode, new_id
from bridge.protocol.messages import (
    ArrayHeader,
    ErrorReply,
    Heartbeat,
    Info,
    ProgressReply,
    Reply,
    Request,
    ScoreComposites,
    StatusRequest,
)
from bridge.server.server import Server, ServerSettings
from bridge.transport.discovery import ServerRecord
from helpers import scripted_worker
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute

PATIENCE_S = 60.0
SIDE_PX = 160


@dataclass
class Running:
    """A server in a thread of the test; its workers are processes, as always."""

    server: Server
    thread: threading.Thread
    record: ServerRecord
    folder: Path
    problems: list[BaseException] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def address(self) -> ServerAddress:
        return ServerAddress.of(self.record)

    def begun(self) -> list[int]:
        """The composites that a scripted worker began, by their names."""
        path = self.folder / "begun"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def open_gate(self) -> None:
        """Let scripted workers finish the composites that wait."""
        (self.folder / "gate").touch()

    def info(self) -> Info:
        """What the server says of itself."""
        info = ask(self.address, StatusRequest(id=new_id()), timeout_s=PATIENCE_S)
        assert isinstance(info, Info)
        return info

    def workers(self) -> list[psutil.Process]:
        """The processes of its workers."""
        return [psutil.Process(worker.pid) for worker in self.info().workers]


@contextmanager
def serving(settings: ServerSettings) -> Iterator[Running]:
    """Run a server; at the end it must have stopped in good time."""
    server, ready = Server(settings), threading.Event()
    records: list[ServerRecord] = []
    problems: list[BaseException] = []
    notices: list[str] = []

    def run() -> None:
        try:
            server.run(
                lambda record: (records.append(record), ready.set())  # type: ignore[func-returns-value]
            )
        except BaseException as problem:
            problems.append(problem)
            ready.set()

    thread = threading.Thread(target=run)
    with log_shown(notices.append):
        thread.start()
        assert ready.wait(PATIENCE_S)
    if problems:
        thread.join()
        raise problems[0]
    try:
        yield Running(server, thread, records[0], settings.model.parent, problems, notices)
    finally:
        server.cut_off()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def scripted(folder: Path, **settings: Any) -> ServerSettings:
    """Settings of a server whose workers are scripted."""
    card = ModelCard(
        name="scripted",
        backbone="test_resnet",
        head="free",
        target="ihc",
        patch_px=SIDE_PX // 5,
        mpp=0.5,
        foreground_threshold=0.07,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=">=2+",
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "card.json"
    model.write_bytes(msgspec.json.encode(card))
    return ServerSettings(
        model, workers=(Compute("cpu"),), worker_arguments=(scripted_worker.__file__,), **settings
    )


def composite(what: int = scripted_worker.SCORE, name: int = 0) -> NDArray[np.uint8]:
    """A composite that tells a scripted worker what to do; its logits are (name, 1, 2)."""
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    pixels[0, 0] = what, name, 0
    pixels[0, 1] = name, 1, 2
    return pixels


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return not alive


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own."""
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, "it never came true"
        threading.Event().wait(0.02)


class Peer:
    """A DEALER without any manners of its own."""

    def __init__(self, record: ServerRecord, endpoint: str = "") -> None:
        self.token = record.token
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.plain_username, self.socket.plain_password = b"herohe", record.token.encode()
        self.socket.connect(endpoint or record.endpoints[0])

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def send(self, request: Request, *frames: bytes) -> None:
        """Send a request with the server's token, unless it has one."""
        token = request.token or self.token
        self.socket.send_multipart([b"", encode(msgspec.structs.replace(request, token=token)), *frames])

    def send_raw(self, *parts: bytes) -> None:
        """Send these frames and no other."""
        self.socket.send_multipart(list(parts))

    def receive(self) -> tuple[Reply, list[bytes]]:
        """Return the next reply of any kind."""
        assert self.socket.poll(round(1000 * PATIENCE_S)), "no reply"
        delimiter, *body = self.socket.recv_multipart()
        assert delimiter == b""
        return decode_reply(body)

    def answer(self) -> tuple[Reply, list[bytes]]:
        """Return the next reply that ends a request."""
        while True:
            reply, frames = self.receive()
            if not isinstance(reply, (Heartbeat, ProgressReply)):
                return reply, frames

    def ask(self, request: Request, *frames: bytes) -> tuple[Reply, list[bytes]]:
        """Send a request and return its answer."""
        self.send(request, *frames)
        return self.answer()

    def error(self) -> ErrorReply:
        """Return the next reply, which must be an error."""
        reply, _ = self.answer()
        assert isinstance(reply, ErrorReply), reply
        return reply


def score_request(count: int = 1, **more: Any) -> ScoreComposites:
    """A request for composites of the right shape."""
    arrays = tuple(ArrayHeader((SIDE_PX, SIDE_PX, 3)) for _ in range(count))
    return ScoreComposites(**{"id": new_id(), "composites": arrays, **more})
