"""A model worker: a process of the server that holds the model on one device.

Started by :mod:`bridge.server.worker_pool` as ``python -m bridge.server.worker`` with its settings on
standard input. One thread talks to the server, the scorer's own computes; a worker in the middle of a long
forward pass still answers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import numpy as np
import zmq

from bridge.protocol.codec import score_frames
from bridge.protocol.worker_messages import (
    Beat,
    Drop,
    Failed,
    FromWorker,
    Job,
    JobFailed,
    Note,
    Ready,
    Scored,
    Work,
    WorkerSettings,
    decode_to_worker,
    encode_worker,
)
from bridge.transport.loop_calls import LoopCalls, Socket
from herohe_model.child_process import read_settings, when_parent_ends
from herohe_model.errors import HeroheError
from herohe_model.model.machine import wait_passively

if TYPE_CHECKING:
    from herohe_model.model.score import CompositeScore, CompositeScorer

BEAT_S: Final = 1.0
_REPORT_S: Final = 60.0


def run_worker(load: Callable[[WorkerSettings], CompositeScorer]) -> NoReturn:
    """Read the settings, load the model, and work until the server says so or is gone.

    Parameters
    ----------
    load
        Gives the scorer; its errors are reported to the server, and so is what it logs, such as what takes
        long.
    """
    wait_passively()
    settings = msgspec.json.decode(read_settings(), type=WorkerSettings)
    # At once and from any state: nothing of a worker is worth keeping when its server is gone.
    when_parent_ends(lambda: os._exit(0))
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 1000
    socket.sndhwm = socket.rcvhwm = 0
    socket.routing_id = settings.name.encode()
    if settings.server_key:
        socket.curve_serverkey = settings.server_key.encode()
        socket.curve_publickey = settings.public_key.encode()
        socket.curve_secretkey = settings.secret_key.encode()
    socket.connect(settings.endpoint)
    try:
        with _log_sent(socket):
            scorer = load(settings)
    except Exception as error:
        _report_failure(socket, error)
        # Until the server has read it and ends this process: its end must not be noticed before its reason.
        threading.Event().wait(_REPORT_S)
        os._exit(1)
    _Worker(context, socket, settings, scorer).run()


@contextmanager
def _log_sent(socket: Socket) -> Iterator[None]:
    """Within the block, send what is logged: until the model is loaded, nothing else uses the socket."""

    class Sent(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            socket.send(encode_worker(Note(record.getMessage())))

    handler, logger = Sent(), logging.getLogger("herohe_model")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _report_failure(socket: Socket, error: Exception) -> None:
    if isinstance(error, HeroheError):
        failed = Failed(error.code, error.problem, error.remedy)
    else:
        failed = Failed("internal", f"The model cannot be loaded: {type(error).__name__}: {error}", "")
    socket.send(encode_worker(failed))


class _Worker:
    """The talking thread of a worker."""

    def __init__(
        self, context: zmq.Context[Socket], socket: Socket, settings: WorkerSettings, scorer: CompositeScorer
    ) -> None:
        self._context = context
        self._socket = socket
        self._scorer = scorer
        self._loop_calls = LoopCalls(context)
        self._jobs: dict[int, Future[CompositeScore]] = {}

    def run(self) -> NoReturn:
        self._send(Ready(self._scorer.info))
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._loop_calls.socket, zmq.POLLIN)
        beat = time.monotonic()
        while True:
            readable = dict(poller.poll(round(BEAT_S * 1000)))
            if self._loop_calls.socket in readable:
                self._loop_calls.run()
            if self._socket in readable:
                self._obey()
            if time.monotonic() - beat >= BEAT_S:
                beat = time.monotonic()
                self._send(Beat())

    def _obey(self) -> None:
        header, *frames = self._socket.recv_multipart(copy=False)
        order = decode_to_worker(header.bytes)
        if isinstance(order, Drop):
            for number in order.jobs:
                if number in self._jobs:
                    self._jobs[number].cancel()
        if isinstance(order, Work):
            for job, frame in zip(order.jobs, frames, strict=True):
                self._begin(job, frame)

    def _begin(self, job: Job, frame: zmq.Frame) -> None:
        try:
            pixels = np.frombuffer(frame.buffer, np.uint8).reshape(job.array.shape)
            future = self._scorer.submit(pixels)
        except Exception as error:
            self._send(_failure(job.job, error))
            return
        self._jobs[job.job] = future
        future.add_done_callback(lambda done: self._done(job.job, done))

    def _done(self, number: int, future: Future[CompositeScore]) -> None:
        """Take over from the scorer's thread, or from this one when a job is dropped."""
        self._loop_calls.call_soon_threadsafe(lambda: self._answer(number, future))

    def _answer(self, number: int, future: Future[CompositeScore]) -> None:
        del self._jobs[number]
        if future.cancelled():
            self._send(JobFailed(number, "cancelled", "It was dropped", ""))
            return
        error = future.exception()
        if error is not None:
            self._send(_failure(number, error))
            return
        score = future.result()
        cells, bits = score.contributions.shape
        self._send(Scored(number, cells, bits), *score_frames(score))

    def _send(self, message: FromWorker, *frames: bytes) -> None:
        self._socket.send_multipart([encode_worker(message), *frames])


def _failure(number: int, error: BaseException) -> JobFailed:
    if isinstance(error, HeroheError):
        return JobFailed(number, error.code, error.problem, error.remedy)
    return JobFailed(number, "internal", f"Scoring failed: {type(error).__name__}: {error}", "")


def _load(settings: WorkerSettings) -> CompositeScorer:
    from herohe_model.engines.bag_scorer import load_scorer

    return load_scorer(Path(settings.model), settings.compute)


if __name__ == "__main__":
    run_worker(_load)
