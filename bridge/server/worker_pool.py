"""The pool of model workers: they are started, given composites in turn, watched, and replaced when they die.

Everything here runs in the server's polling thread. A composite that was in a dead worker's hands is given
out again, but from then on alone, so that the next death shows who is to blame: a composite that two workers
die of is answered with an error, and its neighbours are scored.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
import zmq

from bridge.protocol.messages import WorkerInfo
from bridge.protocol.worker_messages import (
    Drop,
    Failed,
    Job,
    JobFailed,
    Note,
    Ready,
    Scored,
    ToWorker,
    Work,
    WorkerSettings,
    decode_from_worker,
    encode_worker,
)
from bridge.server.fair_queue import FairQueue
from bridge.server.tasks import CompositeTask, TaskFailure, TaskScore
from bridge.server.worker_slot import WorkerSlot
from bridge.transport.curve import WORKER_DOMAIN, KeyPair
from bridge.transport.endpoints import has_ipc, ipc_endpoint
from bridge.transport.loop_calls import Context, LoopCalls, Socket
from herohe_model.child_process import end_child
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.score import ScorerInfo

MAX_DEATHS: Final = 2
"""Workers that may die of one composite."""

_MAX_FAILURES: Final = 5
"""Deaths in a row that nothing explains, after which a device is given up."""

_AGAIN_S: Final = 0.5
"""How long to wait, twice as long each time, when a worker could not be started."""

_SMALLER: Final = "Look at the server's log; if memory ran out, use another --device or fewer servers"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolSettings:
    """Settings of the workers, and of how they are given work.

    Attributes
    ----------
    model, workers
        The model, and what computes it in each worker.
    max_batch
        Most composites in one worker's hands: one is computed, the others wait there.
    max_wait_s
        How long an idle worker's first composite may wait for others to go with it.
    silence_s
        A worker that says nothing for so long is killed and replaced.
    directory
        For its sockets.
    arguments
        Of the Python that runs a worker.
    over_tcp
        Use loopback TCP with keys of its own instead of ipc.
    """

    model: Path
    directory: Path
    workers: tuple[Compute, ...] = (AUTO,)
    max_batch: int = 4
    max_wait_s: float = 0.0
    silence_s: float = 30.0
    arguments: tuple[str, ...] = ("-m", "bridge.server.worker")
    over_tcp: bool = field(default_factory=lambda: not has_ipc())


class WorkerPool:
    """The workers of one server. Not thread-safe: everything is called by the polling thread.

    Parameters
    ----------
    loop_calls
        Of the polling thread.

    Attributes
    ----------
    socket
        To be polled; :meth:`receive` is to be called when it is readable.
    failure
        Why no worker is left; None while there is one.
    """

    def __init__(self, context: Context, settings: PoolSettings, loop_calls: LoopCalls) -> None:
        self._settings = settings
        self._loop_calls = loop_calls
        self._queue: FairQueue[CompositeTask] = FairQueue()
        self._slots = [WorkerSlot(n, compute, compute.device) for n, compute in enumerate(settings.workers)]
        self._numbers = 0
        self._closed = False
        self._complete = False
        self._ready: ScorerInfo | None = None
        self.failure: TaskFailure | None = None
        self.socket: Socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.router_mandatory = 1
        # Bounded by max_batch instead.
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self._keys = self._server_keys = None
        if settings.over_tcp:
            self._keys, self._server_keys = KeyPair.new(), KeyPair.new()
            self.socket.curve_server = 1
            self.socket.curve_publickey = self._server_keys.public.encode()
            self.socket.curve_secretkey = self._server_keys.secret.encode()
            self.socket.zap_domain = WORKER_DOMAIN
            self.socket.bind("tcp://127.0.0.1:*")
        else:
            self.socket.bind(ipc_endpoint(settings.directory, "workers"))
        self._endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def worker_key(self) -> str:
        """Public CURVE key of the workers; "" over ipc."""
        return self._keys.public if self._keys else ""

    @property
    def complete(self) -> bool:
        """Whether every worker has loaded the model at least once."""
        return self._complete

    @property
    def queued(self) -> int:
        """Composites that wait."""
        return len(self._queue)

    @property
    def in_work(self) -> int:
        """Composites in the workers' hands."""
        return sum(len(slot.in_work) for slot in self._slots)

    @property
    def scored(self) -> int:
        """Composites scored so far."""
        return sum(slot.scored for slot in self._slots)

    @property
    def info(self) -> ScorerInfo | None:
        """What scores, all devices in one name; None before a worker has loaded the model."""
        if self._ready is None:
            return None
        return replace(self._ready, device=", ".join(dict.fromkeys(slot.device for slot in self._slots)))

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Describe every worker."""
        return tuple(slot.info() for slot in self._slots)

    def start(self) -> None:
        """Start a worker on every device."""
        for slot in self._slots:
            self._fill(slot)

    def put(self, composite: CompositeTask) -> None:
        """Have a composite scored."""
        if self.failure is not None:
            composite.done(self.failure)
            return
        self._numbers += 1
        composite.number = self._numbers
        composite.queued = time.monotonic()
        self._queue.put(composite.client, composite)
        self.give_out()

    def drop(self, composite: CompositeTask) -> None:
        """Do not begin a composite that has not been begun; what it was is answered as cancelled."""
        composite.dropped = True
        if self._queue.remove(lambda other: other is composite):
            composite.done(_CANCELLED)
            return
        for slot in self._slots:
            if composite.number in slot.in_work:
                self._send(slot, Drop((composite.number,)))

    def receive(self) -> None:
        """Take in what workers sent."""
        while True:
            try:
                name, header, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            slot = next((slot for slot in self._slots if slot.name == name), None)
            if slot is not None:
                slot.heard = time.monotonic()
                try:
                    self._take(slot, decode_from_worker(header), frames)
                except (msgspec.DecodeError, LookupError, TypeError):
                    # No worker of ours says that; what it had is given to the one that takes its place.
                    _log.exception("the worker on %s is not understood", slot.device)
                    if slot.child is not None:
                        slot.child.kill()
        self.give_out()

    @property
    def patience_s(self) -> float:
        """How long the first waiting composite still waits for others; 0 when it waits for a worker."""
        if len(self._queue) == 0 or self._settings.max_wait_s == 0:
            return 0.0
        waited = time.monotonic() - min(composite.queued for composite in self._queue)
        return max(0.0, self._settings.max_wait_s - waited)

    def tick(self) -> None:
        """Look after deadlines and silent workers; to be called several times a second."""
        now = time.monotonic()
        for composite in self._queue.remove(lambda c: c.deadline is not None and c.deadline <= now):
            composite.done(
                TaskFailure("deadline", "The deadline passed before a worker was free", "Try again later")
            )
        for slot in self._slots:
            silent = slot.state == "ready" and now - slot.heard > self._settings.silence_s
            if silent and slot.child is not None:
                slot.child.kill()
            if slot.not_before and now > slot.not_before and not self._closed:
                slot.not_before = 0.0
                self._fill(slot)
        self.give_out()

    def close(self) -> None:
        """End all workers, whatever they are doing; may be called twice."""
        self._closed = True
        for slot in self._slots:
            slot.let_go()
        for slot in self._slots:
            if slot.child is not None:
                end_child(slot.child)
        self.socket.close()

    def give_out(self) -> None:
        """Give waiting composites to workers that have room."""
        while (first := self._queue.first()) is not None:
            slot = min(
                (s for s in self._slots if self._has_room(s, first)),
                key=lambda s: len(s.in_work),
                default=None,
            )
            if slot is None or self._should_wait(slot, first):
                return
            ready = sum(s.state == "ready" for s in self._slots)
            room = self._settings.max_batch - len(slot.in_work)
            share = 1 if first.deaths else min(room, -(-len(self._queue) // ready))
            batch: list[CompositeTask] = []
            while len(batch) < share and (following := self._queue.first()) is not None:
                if following.deaths and batch:
                    break
                batch.append(following)
                self._queue.take()
            self._hand_over(slot, batch)

    def _has_room(self, slot: WorkerSlot, composite: CompositeTask) -> bool:
        if slot.state != "ready" or any(other.deaths for other in slot.in_work.values()):
            return False
        return not slot.in_work if composite.deaths else len(slot.in_work) < self._settings.max_batch

    def _should_wait(self, slot: WorkerSlot, first: CompositeTask) -> bool:
        """Whether an idle worker's first composite should wait for company; :meth:`tick` looks again."""
        if slot.in_work or first.deaths or len(self._queue) >= self._settings.max_batch:
            return False
        return time.monotonic() - min(c.queued for c in self._queue) < self._settings.max_wait_s

    def _hand_over(self, slot: WorkerSlot, batch: list[CompositeTask]) -> None:
        slot.in_work.update((composite.number, composite) for composite in batch)
        jobs = tuple(Job(composite.number, composite.array) for composite in batch)
        self._send(slot, Work(jobs), [c.frame for c in batch if c.frame is not None])

    def _send(self, slot: WorkerSlot, message: ToWorker, frames: list[zmq.Frame] | None = None) -> None:
        try:
            # Without copying: frames go on as they came.
            self.socket.send_multipart(
                [slot.name, encode_worker(message), *(frames or [])], zmq.NOBLOCK, copy=False
            )
        except zmq.ZMQError:
            # It is gone; its end is noticed, and what it had is given to another.
            return

    def _take(self, slot: WorkerSlot, message: object, frames: list[bytes]) -> None:
        if isinstance(message, Ready):
            self._welcome(slot, message.info)
        elif isinstance(message, Note):
            _log.info("%s", message.text)
        elif isinstance(message, Failed):
            self._give_up(slot, TaskFailure(message.code, message.problem, message.remedy))
        elif isinstance(message, Scored):
            composite = slot.in_work.pop(message.job)
            slot.scored += 1
            slot.failures = 0
            composite.done(TaskScore(message.cells, message.bits, tuple(frames)))
        elif isinstance(message, JobFailed):
            composite = slot.in_work.pop(message.job)
            composite.done(TaskFailure(message.code, message.problem, message.remedy))

    def _welcome(self, slot: WorkerSlot, ready: ScorerInfo) -> None:
        if self._ready is None:
            self._ready = ready
        elif ready.model_sha256 != self._ready.model_sha256:
            changed = f"The model file {self._settings.model} has changed since the server was started"
            self._give_up(slot, TaskFailure("model_file", changed, "Restart the server"))
            return
        slot.device = ready.device
        slot.state = "ready"
        self._complete = self._complete or all(other.state == "ready" for other in self._slots)

    def _fill(self, slot: WorkerSlot) -> None:
        """Start a worker for a slot that has none."""
        slot.restarts += 1
        slot.state = "loading"
        slot.name = f"{slot.index}.{slot.restarts}".encode()
        settings = WorkerSettings(
            endpoint=self._endpoint,
            name=slot.name.decode(),
            model=str(self._settings.model),
            # One that was replaced goes to the same device: what torch takes is the first word of its name.
            compute=msgspec.structs.replace(slot.compute, device=slot.device.split()[0]),
            server_key=self._server_keys.public if self._server_keys else "",
            public_key=self._keys.public if self._keys else "",
            secret_key=self._keys.secret if self._keys else "",
        )
        name = slot.name

        def ended() -> None:
            self._loop_calls.call_soon_threadsafe(lambda: self._ended(slot, name))

        try:
            slot.start(self._settings.arguments, settings, ended)
        except (OSError, RuntimeError) as error:
            # No memory, process, thread or file descriptor for it: that may pass.
            self._not_started(slot, error)

    def _not_started(self, slot: WorkerSlot, error: Exception) -> None:
        """Let a slot be filled a little later; :meth:`tick` does."""
        if slot.child is not None:
            end_child(slot.child, grace_s=0)
            slot.child = None
        slot.name = b""
        slot.failures += 1
        why = f"No worker can be started on {slot.device} ({error})"
        _log.warning("%s", why)
        if not self._complete or slot.failures >= _MAX_FAILURES:
            self._give_up(slot, TaskFailure("no_worker", why, _SMALLER))
            return
        slot.not_before = time.monotonic() + _AGAIN_S * 2**slot.failures

    def _ended(self, slot: WorkerSlot, name: bytes) -> None:
        """Replace a worker that has ended, and give its composites to others."""
        if self._closed or slot.name != name or slot.state == "failed":
            return
        slot.state = "loading"
        # Its last answers may still be waiting to be read.
        self.receive()
        assert slot.child is not None
        code = slot.child.returncode
        slot.let_go()
        if not self._complete:
            ended = f"The worker on {slot.device} ended with exit code {code} while it loaded the model"
            self._give_up(slot, TaskFailure("no_worker", ended, _SMALLER))
            return
        slot.failures += 1
        lost = list(slot.in_work.values())
        slot.in_work.clear()
        for composite in reversed(lost):
            composite.deaths += 1
            if composite.dropped:
                composite.done(_CANCELLED)
            elif composite.deaths >= MAX_DEATHS:
                # That explains the death; the device is not to blame.
                slot.failures = 0
                died = f"{MAX_DEATHS} workers ended while they scored a composite (exit code {code})"
                composite.done(TaskFailure("worker_died", died, _SMALLER))
            else:
                self._queue.put_back(composite.client, composite)
        if slot.failures >= _MAX_FAILURES:
            often = f"The worker on {slot.device} ended {slot.failures} times in a row (exit code {code})"
            self._give_up(slot, TaskFailure("no_worker", often, _SMALLER))
            return
        self._fill(slot)
        self.give_out()

    def _give_up(self, slot: WorkerSlot, why: TaskFailure) -> None:
        """Leave a slot empty; with the last, everything ends."""
        slot.state = "failed"
        slot.let_go()
        # At the start every failure counts: a device that was asked for must work.
        if self._complete and any(other.state != "failed" for other in self._slots):
            return
        self.failure = why
        for composite in self._queue.remove(lambda _: True):
            composite.done(why)


_CANCELLED: Final = TaskFailure("cancelled", "The composite was dropped")
