"""A model server with scripted workers as a process of its own, to be attacked and killed.

Run as ``python server_process.py FOLDER OPTIONS``; options are JSON: fields of ServerSettings, and
``descriptors``, the most that the process may have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bridge.client.child_server import StartReport
from bridge.transport.discovery import ServerRecord

MIB = 1 << 20


class ServerProcess:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[bytes], record: ServerRecord) -> None:
        self.process = process
        self.record = record
        self.highest = self.memory

    @property
    def memory(self) -> int:
        """Resident memory of the server without its workers, bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def note_memory(self) -> int:
        """Return the memory, and remember the highest."""
        now = self.memory
        self.highest = max(self.highest, now)
        return now

    @property
    def descriptors(self) -> int:
        """How many file descriptors it has open."""
        return int(psutil.Process(self.process.pid).num_fds())


@contextmanager
def server_process(folder: Path, **options: Any) -> Iterator[ServerProcess]:
    """Run one; it is killed at the end, so whoever wants it to end well says so to it."""
    command = [sys.executable, __file__, str(folder), json.dumps(options)]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    try:
        report = msgspec.json.decode(process.stdout.readline(), type=StartReport)
        assert report.ready is not None, report
        yield ServerProcess(process, report.ready)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Be the server."""
    from bridge.server.server import Server
    from bridge.transport.curve import KeyPair
    from helpers.servers import scripted

    options: dict[str, Any] = json.loads(sys.argv[2])
    descriptors = options.pop("descriptors", None)
    if descriptors is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if "key" in options:
        options |= {"key": KeyPair(*options["key"]), "allow": Path(options["allow"])}
    settings = scripted(Path(sys.argv[1]), **options)
    Server(settings).run(lambda record: os.write(1, StartReport(ready=record).line()))  # type: ignore[arg-type, return-value]


if __name__ == "__main__":
    main()
