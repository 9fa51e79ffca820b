"""Records by which running servers are found: small JSON files in a directory of their user alone.

Each server writes one file and removes it when it ends. Several may run side by side, with different models.
A file whose process is gone (its pid may belong to another process by now, so the time it was started is
compared too) is removed by whoever looks next. A server writes its file again when that is gone: the system
removes the directory when its user logs out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import psutil

from bridge.transport.endpoints import ipc_path
from bridge.transport.runtime_directory import remove_socket_directory, runtime_directory
from herohe_model.errors import ServerError
from herohe_model.files import replacing

_SAME_PROCESS_S: Final = 0.5
"""How far apart two readings of a process's start may be."""


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Record of a server, for its user's other processes.

    Attributes
    ----------
    instance
        Random; changes with every start.
    pid, started
        Its process, and when that was started (:func:`process_start`).
    device, precision, engine
        As they stand in results.
    devices_asked, precision_asked, engine_asked
        As the server was told, such as ``auto``.
    endpoints
        Where it listens on this machine; ipc comes first where there is ipc.
    token
        What each request at these endpoints must carry.
    remote_endpoints, public_key
        Where it listens with CURVE, and its key; empty without.
    directory
        Holds its ipc sockets.
    owned
        It belongs to the process that started it and ends with that: not to be used by others.
    """

    format: Literal[2] = 2
    instance: str
    pid: int
    started: float
    protocol: int
    version: str
    model_name: str
    model_path: str
    model_sha256: str
    device: str
    precision: str
    devices_asked: tuple[str, ...]
    precision_asked: str
    endpoints: tuple[str, ...]
    token: str
    remote_endpoints: tuple[str, ...] = ()
    public_key: str = ""
    directory: str = ""
    owned: bool = False
    engine: str = ""
    engine_asked: str = "auto"

    @property
    def computes_on(self) -> str:
        """Device, precision and engine in words."""
        return f"{self.device} ({', '.join(filter(None, (self.precision, self.engine)))})"


def write_record(record: ServerRecord) -> Path:
    """Write the discovery file, whole or not at all, readable by its user alone."""
    path = record_path(record)
    try:
        with replacing(path) as part:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
    except OSError as error:
        raise ServerError(
            f"The discovery file {path} cannot be written ({error.strerror})", "Check the disk"
        ) from error
    return path


def remove_record(record: ServerRecord) -> None:
    """Remove the discovery file and the sockets of a server that has ended."""
    with contextlib.suppress(OSError):
        record_path(record).unlink()
    if record.directory:
        remove_socket_directory(record.directory)


def restore_record(record: ServerRecord) -> ServerRecord:
    """Write the discovery file again if somebody removed it, without the sockets that went with it.

    Returns
    -------
    ServerRecord
        What the file says now.

    Raises
    ------
    ServerError
        If it cannot be written.
    """
    if record_path(record).exists():
        return record
    left = tuple(e for e in record.endpoints if (path := ipc_path(e)) is None or path.exists())
    restored = msgspec.structs.replace(record, endpoints=left)
    write_record(restored)
    return restored


def record_path(record: ServerRecord) -> Path:
    """Return where the discovery file of a server is now."""
    return runtime_directory() / f"server-{record.pid}-{record.instance[:8]}.json"


def running_servers() -> Iterator[ServerRecord]:
    """Yield every running server of this user, oldest first, and clear away what dead ones left."""
    found = []
    for path in sorted(runtime_directory().glob("server-*.json")):
        # A file may vanish between listing and reading, or be another version's.
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=ServerRecord))
    for record in sorted(found, key=lambda r: (r.started, r.instance)):
        if is_running(record):
            yield record
        else:
            remove_record(record)


def is_running(record: ServerRecord) -> bool:
    """Whether the server's process still exists."""
    try:
        if psutil.Process(record.pid).status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process_start(record.pid) - record.started) < _SAME_PROCESS_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def process_start(pid: int) -> float:
    """Return when a process was started, in s: since the system's start on Linux, since 1970 elsewhere.

    That is what the system itself keeps, and a step of its clock does not change it.

    Raises
    ------
    psutil.Error
        If there is no such process, or it may not be asked.
    """
    if sys.platform != "linux":
        return float(psutil.Process(pid).create_time())
    try:
        # proc(5): the name, in parentheses, may hold anything; the start is field 22, in clock ticks.
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except PermissionError as error:
        raise psutil.AccessDenied(pid) from error
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")
