"""How a running server is found: a small JSON file in a directory that only its user can read.

Each server writes one file and removes it when it ends. Several may run side by side, with different models.
A file whose process is gone (its pid may belong to another process by now, so the time it was started is
compared too) is removed by whoever looks next.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import platformdirs
import psutil

from herohe_model.errors import ServerError
from herohe_model.files import replacing

DIRECTORY_VARIABLE: Final = "HEROHE_RUNTIME_DIR"
"""Environment variable that names another runtime directory."""

_SAME_PROCESS_S: Final = 60.0
"""How far apart two readings of a process's start may be: the system's clock may have been set in between."""

_LONGEST_SOCKET_PATH: Final = 100
"""Bytes; the systems' limits for Unix sockets begin at 104."""

PRIVATE_PREFIX: Final = "herohe-"
"""Begins the names of directories that are made for one server, and that may be removed with it."""


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a server tells its user's other processes.

    Attributes
    ----------
    instance
        Random; changes with every start.
    pid, started
        Its process, and when that was started, in s since 1970.
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
    slots
        Directory for shared pixels (:mod:`bridge.transport.shared_pixels`); "" where there are none.
    owned
        It belongs to the process that started it and ends with that: not to be used by others.
    """

    format: Literal[1] = 1
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
    slots: str = ""
    owned: bool = False
    engine: str = ""
    engine_asked: str = "auto"

    @property
    def computes_on(self) -> str:
        """Device, precision and engine in words."""
        return f"{self.device} ({', '.join(filter(None, (self.precision, self.engine)))})"


def runtime_directory() -> Path:
    """Return the directory of the discovery files, made when absent.

    Raises
    ------
    ServerError
        If it cannot be made, or others than its user can read or replace it.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        path = Path(named).absolute()
    else:
        with warnings.catch_warnings():
            # platformdirs warns where XDG_RUNTIME_DIR is not set, and falls back well.
            warnings.simplefilter("ignore")
            path = platformdirs.user_runtime_path("herohe-bridge", appauthor=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        _check_private(path)
    except OSError as error:
        raise ServerError(
            f"The runtime directory {path} cannot be used ({error.strerror or error})",
            f"Set {DIRECTORY_VARIABLE} to a directory of your own",
        ) from error
    return path


def _check_private(path: Path) -> None:
    """Refuse a directory that others could read or plant files in; on Windows, profiles are private."""
    if sys.platform == "win32":
        return
    own, found = os.geteuid(), path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != own or path.parent.stat().st_uid not in (0, own):
        raise ServerError(
            f"The runtime directory {path} belongs to somebody else",
            f"Set {DIRECTORY_VARIABLE} to a directory of your own",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ServerError(f"Others can read the runtime directory {path}", f"Run: chmod 700 '{path}'")


def private_directory() -> Path:
    """Make a new directory for one server's sockets, for its user alone."""
    directory = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX, dir=runtime_directory()))
    if len(os.fsencode(directory)) + len("/front.ipc") > _LONGEST_SOCKET_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX))
    return directory


def remove_private_directory(path: str | Path) -> None:
    """Remove such a directory with the files in it, if it is one; what cannot be removed is left."""
    path = Path(path)
    with contextlib.suppress(OSError):
        found = path.lstat()
        own = sys.platform == "win32" or found.st_uid == os.geteuid()
        if not path.name.startswith(PRIVATE_PREFIX) or not stat.S_ISDIR(found.st_mode) or not own:
            return
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def write_record(record: ServerRecord) -> Path:
    """Write the discovery file, whole or not at all, readable by its user alone."""
    path = _record_path(record)
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
    """Remove the discovery file and the directories of a server that has ended."""
    with contextlib.suppress(OSError):
        _record_path(record).unlink()
    for directory in (record.directory, record.slots):
        if directory:
            remove_private_directory(directory)


def _record_path(record: ServerRecord) -> Path:
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
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - record.started) < _SAME_PROCESS_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def own_start_time() -> float:
    """Return when this process was started, in s since 1970."""
    return float(psutil.Process().create_time())
