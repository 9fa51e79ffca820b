"""A server that is started for one run, and ends with it however the run ends."""

from __future__ import annotations

import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bridge.client.address import ServerAddress
from bridge.protocol.errors import error_from
from bridge.transport.discovery import ServerRecord
from herohe_model.child_process import end_child, start_child
from herohe_model.errors import CancelledError, HeroheError, ServerUnavailableError
from herohe_model.model.compute import Compute

_NOTICE_S: Final = 10.0
_POLL_S: Final = 0.2

_log = logging.getLogger(__name__)


class StartReport(msgspec.Struct, frozen=True):
    """A line that a server writes to its standard output for the process that owns it.

    Either what takes long before it is ready, in words; or, as the last one, the record or why there is none.
    """

    note: str = ""
    ready: ServerRecord | None = None
    code: str = ""
    problem: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: HeroheError) -> StartReport:
        """Say why the server did not start."""
        return cls(code=error.code, problem=error.problem, remedy=error.remedy)

    def line(self) -> bytes:
        """Return it as it is written."""
        return msgspec.json.encode(self) + b"\n"

    def error(self) -> HeroheError:
        """Return the error that it stands for."""
        return error_from(self.code, self.problem, self.remedy)


class ChildServer:
    """A server process of this process. Implements :class:`bridge.client.locate.ServerLocator`.

    Parameters
    ----------
    cancelled
        Asked several times a second until it is ready.

    Raises
    ------
    HeroheError
        If it cannot load the model, or ends before it is ready.
    CancelledError
        When `cancelled` said so.
    """

    def __init__(self, model: Path, compute: Compute, cancelled: Callable[[], bool] = lambda: False) -> None:
        _log.info("Starting a model server for %s", model.name)
        asked = ("--device", compute.device, "--precision", compute.precision, "--engine", compute.engine)
        self._child = start_child(
            ["-m", "bridge", "serve", "--owned", "--model", str(model), *asked], stdout=subprocess.PIPE
        )
        try:
            self.record = self._wait(model, cancelled)
        except BaseException:
            end_child(self._child)
            raise
        self._address = ServerAddress.of(self.record)
        _log.info("%s is ready on %s", self.record.model_name, self.record.computes_on)

    def find(self) -> ServerAddress | None:
        """Return its address while it lives."""
        return None if self.is_gone() else self._address

    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._child.poll() is not None

    def close(self) -> None:
        """End the process, and its workers with it; may be called twice."""
        end_child(self._child)

    def _wait(self, model: Path, cancelled: Callable[[], bool]) -> ServerRecord:
        """Wait for the server's report."""
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._child.stdout
        assert stdout is not None

        def listen() -> None:
            # In a thread: a blocking read cannot be interrupted everywhere.
            threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()

        listen()
        began = noticed = time.monotonic()
        while True:
            if cancelled():
                raise CancelledError("Starting a model server was stopped", "Give the same command again")
            try:
                line = lines.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() - noticed > _NOTICE_S:
                    noticed = time.monotonic()
                    _log.info("Loading %s: %.0f s", model.name, noticed - began)
                continue
            if not line:
                code = self._child.wait()
                raise ServerUnavailableError(
                    f"The model server ended with exit code {code} before it was ready",
                    "See its messages",
                )
            report = msgspec.json.decode(line, type=StartReport)
            if report.note:
                _log.info("%s", report.note)
                listen()
                continue
            if report.ready is None:
                raise report.error()
            return report.ready
