"""The place of one worker in the pool: its process, and the composites in its hands."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bridge.protocol.messages import WorkerInfo
from bridge.protocol.worker_messages import WorkerSettings
from bridge.server.tasks import CompositeTask
from herohe_model.child_process import start_child
from herohe_model.model.compute import Compute


@dataclass(eq=False)
class WorkerSlot:
    """The place of one worker, on one device.

    ``name`` is that of the worker that has it now; ``not_before``, on the monotonic clock, when the next is
    started after one that could not be.
    """

    index: int
    compute: Compute
    device: str
    name: bytes = b""
    child: subprocess.Popen[bytes] | None = None
    state: Literal["loading", "ready", "failed"] = "loading"
    heard: float = 0.0
    in_work: dict[int, CompositeTask] = field(default_factory=dict)
    scored: int = 0
    restarts: int = -1
    failures: int = 0
    not_before: float = 0.0

    def start(self, arguments: Sequence[str], settings: WorkerSettings, ended: Callable[[], None]) -> None:
        """Start a process, and have `ended` called from a thread when it has ended.

        Raises
        ------
        OSError, RuntimeError
            If the system gives no process, or no thread.
        """
        child = start_child(arguments, settings=msgspec.json.encode(settings), stdout=subprocess.DEVNULL)
        self.child = child

        def watch() -> None:
            child.wait()
            ended()

        threading.Thread(target=watch, name=f"worker {settings.name}", daemon=True).start()

    def let_go(self) -> None:
        """Close the worker's input, if there is one: it ends at once, whatever it is doing."""
        if self.child is not None and self.child.stdin is not None:
            with contextlib.suppress(OSError):
                self.child.stdin.close()

    def info(self) -> WorkerInfo:
        """Describe the worker to clients."""
        return WorkerInfo(
            device=self.device,
            state=self.state,
            pid=self.child.pid if self.child else 0,
            in_work=len(self.in_work),
            scored=self.scored,
            restarts=max(0, self.restarts),
        )
