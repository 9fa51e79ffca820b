"""The model server: one process that answers clients, and a process for each device that computes.

One thread polls all sockets and never computes; slides that are scored as a whole have a thread each. The
server takes everything in at once and answers "busy" beyond a client's share, rather than let its sockets
fill up, so that it always hears a ``cancel``.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from bridge import __version__
from bridge.protocol.errors import error_from
from bridge.protocol.messages import (
    MAX_READ_BYTES,
    MAX_REGIONS_BYTES,
    MAX_SIDE_PX,
    PROTOCOL,
    ErrorReply,
)
from bridge.server.broker import STOPPED, Broker, BrokerSettings
from bridge.server.connections import most_connections, raise_descriptor_limit
from bridge.server.frontend import Frontend, check_binds
from bridge.server.worker_pool import PoolSettings, WorkerPool
from bridge.transport.curve import (
    LOCAL_DOMAIN,
    WORKER_DOMAIN,
    ZAP_DOMAIN,
    KeyPair,
    ZapAuthenticator,
    allowed_in,
    same_secret,
)
from bridge.transport.discovery import (
    ServerRecord,
    process_start,
    remove_record,
    restore_record,
    write_record,
)
from bridge.transport.endpoints import has_ipc
from bridge.transport.loop_calls import Context, LoopCalls
from bridge.transport.runtime_directory import SocketDirectory
from herohe_model.ending_signals import ending_signals
from herohe_model.errors import ModelFileError, OptionError, ServerError
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.compute import AUTO, Compute

TICK_S: Final = 0.2

RECORD_S: Final = 5.0
"""How often a server looks whether it can still be found."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes
    ----------
    model, workers
        The model, and what computes it in each worker; precision and engine are the same in all.
    binds
        Further addresses; with `key`, they want CURVE.
    key, allow
        The server's keys, and the directory of the public keys that may come in.
    slides_roots
        Folders of slides that clients of other machines may name.
    allow_stop
        Whether those clients may end the server.
    max_batch, max_wait_s
        See :class:`bridge.server.worker_pool.PoolSettings`.
    idle_timeout_s
        End after so long without a request; None never.
    in_flight
        Composites that one client may have sent without an answer.
    slides_at_once
        Slides that are read at a time.
    owned
        See :class:`bridge.transport.discovery.ServerRecord`.
    worker_silence_s, worker_arguments, workers_over_tcp
        See :class:`bridge.server.worker_pool.PoolSettings`.
    """

    model: Path
    workers: tuple[Compute, ...] = (AUTO,)
    binds: tuple[str, ...] = ()
    key: KeyPair | None = None
    allow: Path | None = None
    slides_roots: tuple[Path, ...] = ()
    allow_stop: bool = False
    max_batch: int = 4
    max_wait_s: float = 0.0
    idle_timeout_s: float | None = None
    in_flight: int = 32
    slides_at_once: int = 4
    owned: bool = False
    worker_silence_s: float = 30.0
    worker_arguments: tuple[str, ...] = ("-m", "bridge.server.worker")
    workers_over_tcp: bool = False

    def __post_init__(self) -> None:
        """Refuse a server that strangers could use, and numbers that mean nothing."""
        if not self.model.is_file():
            raise ModelFileError(f"There is no file {self.model}", "Name one made by herohe-bridge train")
        check_binds(self.binds, key=self.key is not None)
        if (self.key is None) != (self.allow is None):
            raise OptionError("--key and --allow belong together", "Give both or none")
        if self.key is not None and not self.binds:
            raise OptionError(
                "Keys are for further addresses", "Name one with --bind, such as tcp://0.0.0.0:5555"
            )
        if self.allow is not None and not self.allow.is_dir():
            raise OptionError(f"{self.allow} is no folder", "Name the folder of the clients' public keys")
        if not self.workers:
            raise OptionError("A server needs a device", "Name one with --device")


class Server:
    """One server; :meth:`run` it in one thread.

    Parameters
    ----------
    settings
        What it is.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._context: Context = zmq.Context()
        self._loop_calls = LoopCalls(self._context)
        self._signals = 0
        self._cut_off = threading.Event()

    def cut_off(self) -> None:
        """Stop soon, cancelling what runs; may be called from any thread."""
        self._cut_off.set()
        self._loop_calls.call_soon_threadsafe(lambda: None)

    def run(self, started: Callable[[ServerRecord], None] = lambda _: None) -> None:
        """Serve until stopped: by a ``stop`` message, a signal, :meth:`cut_off`, or idleness.

        Parameters
        ----------
        started
            Called when clients can come.

        Raises
        ------
        HeroheError
            If the model cannot be loaded, an address cannot be had, or no worker is left.
        """
        directory = SocketDirectory()
        try:
            with ending_signals(self._signalled):
                self._serve(directory.path, started)
        finally:
            self._loop_calls.close()
            self._context.destroy(linger=1000)
            directory.remove()

    def _serve(
        self,
        directory: Path,
        started: Callable[[ServerRecord], None],
    ) -> None:
        s = self._settings
        pool = WorkerPool(
            self._context,
            PoolSettings(
                model=s.model,
                directory=directory,
                workers=s.workers,
                max_batch=s.max_batch,
                max_wait_s=s.max_wait_s,
                silence_s=s.worker_silence_s,
                arguments=s.worker_arguments,
                over_tcp=s.workers_over_tcp or not has_ipc(),
            ),
            self._loop_calls,
        )
        token = secrets.token_urlsafe(32)
        authenticator = ZapAuthenticator(
            self._context,
            {
                WORKER_DOMAIN: lambda key: key == pool.worker_key,
                LOCAL_DOMAIN: same_secret(token),
                ZAP_DOMAIN: allowed_in(s.allow) if s.allow else lambda _: False,
            },
        )
        try:
            pool.start()
            if not self._wait_for(pool, authenticator):
                return
            self._open_to_clients(pool, authenticator, directory, token, started)
        finally:
            pool.close()
            authenticator.close()

    def _wait_for(self, pool: WorkerPool, authenticator: ZapAuthenticator) -> bool:
        """Wait until every worker is ready; False when the server shall stop before."""
        poller = _poller(pool, authenticator, self._loop_calls)
        while not pool.complete:
            self._poll(poller, pool, authenticator)
            if pool.failure is not None:
                raise error_from(pool.failure.code, pool.failure.problem, pool.failure.remedy)
            if self._told_to_stop:
                return False
        return True

    def _open_to_clients(
        self,
        pool: WorkerPool,
        authenticator: ZapAuthenticator,
        directory: Path,
        token: str,
        started: Callable[[ServerRecord], None],
    ) -> None:
        s, info = self._settings, pool.info
        assert info is not None
        head = None if info.embeds is None else load_bag_model(s.model)
        if head is not None and head.sha256 != info.model_sha256:
            raise ModelFileError(f"{s.model} was changed while it was loaded", "Start the server again")
        side = info.card.side_px if info.embeds is None else info.embeds.side_px
        if side > MAX_SIDE_PX:
            raise ModelFileError(
                f"{s.model} takes composites of {side} px; a server takes up to {MAX_SIDE_PX}",
                "Use a model with smaller patches",
            )
        # A little more than the largest frame: ZeroMQ counts some overhead.
        largest = max(3 * info.largest_rows * side, MAX_REGIONS_BYTES, MAX_READ_BYTES) + (1 << 20)
        frontend = Frontend(self._context, largest, most_connections(raise_descriptor_limit()))
        record = None
        try:
            frontend.bind_local(directory, s.binds if s.key is None else ())
            if s.key is not None:
                frontend.bind_remote(s.binds, s.key)
            record = ServerRecord(
                instance=secrets.token_hex(16),
                pid=os.getpid(),
                started=process_start(os.getpid()),
                protocol=PROTOCOL,
                version=__version__,
                model_name=info.card.name,
                model_path=str(s.model.resolve()),
                model_sha256=info.model_sha256,
                device=info.device,
                precision=info.precision,
                devices_asked=tuple(compute.device for compute in s.workers),
                precision_asked=s.workers[0].precision,
                engine=info.engine,
                engine_asked=s.workers[0].engine,
                endpoints=frontend.local_endpoints,
                token=token,
                remote_endpoints=frontend.remote_endpoints,
                public_key=s.key.public if s.key else "",
                directory=str(directory),
                owned=s.owned,
            )
            broker = Broker(
                frontend,
                pool,
                self._loop_calls,
                BrokerSettings(record, head, s.in_flight, s.slides_at_once, s.slides_roots, s.allow_stop),
            )
            write_record(record)
            started(record)
            _log.info("%s is ready on %s", record.model_name, record.computes_on)
            self._loop(pool, authenticator, frontend, broker)
        finally:
            if record is not None:
                remove_record(record)
            frontend.close()

    def _loop(
        self, pool: WorkerPool, authenticator: ZapAuthenticator, frontend: Frontend, broker: Broker
    ) -> None:
        poller = _poller(pool, authenticator, self._loop_calls)
        for socket in frontend.pollable:
            poller.register(socket, zmq.POLLIN)
        idle = self._settings.idle_timeout_s
        looked = time.monotonic()
        while True:
            self._poll(poller, pool, authenticator)
            for incoming in frontend.receive():
                broker.take(incoming)
            broker.tick()
            if pool.failure is not None:
                broker.close(ErrorReply(id="", **vars(pool.failure)))
                raise error_from(pool.failure.code, pool.failure.problem, pool.failure.remedy)
            if time.monotonic() - looked > RECORD_S:
                looked = time.monotonic()
                _restore(broker.record)
            if broker.may_end or self._told_to_stop:
                broker.close(STOPPED)
                _log.info("stopped")
                return
            if (
                idle is not None
                and broker.idle_since is not None
                and time.monotonic() - broker.idle_since > idle
            ):
                _log.info("nobody asked for %.0f s: stopping", idle)
                return

    def _poll(self, poller: zmq.Poller, pool: WorkerPool, authenticator: ZapAuthenticator) -> None:
        """Wait for something, and do what all states of the server have in common."""
        wait_s = min(TICK_S, pool.patience_s or TICK_S)
        # Rounded up: a poll that ends just too early would only be repeated.
        readable: dict[object, int] = dict(poller.poll(math.ceil(wait_s * 1000)))
        if self._loop_calls.socket in readable:
            self._loop_calls.run(_log_failure)
        if authenticator.socket in readable:
            authenticator.answer()
        if pool.socket in readable:
            pool.receive()
        pool.tick()

    @property
    def _told_to_stop(self) -> bool:
        return self._cut_off.is_set() or self._signals > 0

    def _signalled(self, *_: object) -> None:
        self._signals += 1


def _log_failure(error: Exception) -> None:
    _log.error("a call failed", exc_info=error)


def _restore(record: ServerRecord) -> None:
    try:
        restore_record(record)
    except ServerError as error:
        _log.warning("%s", error)


def _poller(pool: WorkerPool, authenticator: ZapAuthenticator, loop_calls: LoopCalls) -> zmq.Poller:
    poller = zmq.Poller()
    for socket in (pool.socket, authenticator.socket, loop_calls.socket):
        poller.register(socket, zmq.POLLIN)
    return poller
