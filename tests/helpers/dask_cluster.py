"""Dask clusters of real processes for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from helpers import dask_process
from helpers.dask_process import Part
from herohe_model.child_process import end_child, start_child


@dataclass
class Peer:
    """A scheduler or worker; `address` waits until it is there."""

    process: subprocess.Popen[bytes]
    _address: str = ""

    @property
    def address(self) -> str:
        if not self._address:
            assert self.process.stdout is not None
            self._address = self.process.stdout.readline().decode().strip()
            assert self._address, "the peer ended before it was there"
        return self._address

    def kill(self) -> None:
        """End it at once, as if its machine had failed."""
        self.process.kill()
        self.process.wait()


@dataclass
class Dask:
    """A scheduler and its workers."""

    folder: Path
    scheduler: Peer
    tls: dict[str, str]
    workers: list[Peer] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.scheduler.address

    def add_worker(self, **more: Any) -> Peer:
        """Start a worker; without waiting for it."""
        part = Part(str(self.folder), self.scheduler.address, tls=self.tls, **more)
        self.workers.append(start(part))
        return self.workers[-1]

    def has_begun(self, worker: Peer) -> bool:
        """Whether a worker waits at the gate with a slide, or has."""
        return (self.folder / f"begun-{worker.process.pid}").exists()

    def open_gate(self) -> None:
        """Let slides that wait be scored."""
        (self.folder / "gate").touch()


def start(part: Part) -> Peer:
    """Start a peer."""
    return Peer(
        start_child([dask_process.__file__], settings=msgspec.json.encode(part), stdout=subprocess.PIPE)
    )


@contextmanager
def dask_cluster(
    folder: Path, workers: int, *, tls: dict[str, str] | None = None, allowed_failures: int = 3
) -> Iterator[Dask]:
    """Run a scheduler and workers of one thread each; all are gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    scheduler = start(Part(str(folder), tls=tls or {}, allowed_failures=allowed_failures))
    dask = Dask(folder, scheduler, tls or {})
    try:
        for _ in range(workers):
            dask.add_worker()
        for worker in dask.workers:
            assert worker.address
        yield dask
    finally:
        for peer in [*dask.workers, dask.scheduler]:
            end_child(peer.process)
