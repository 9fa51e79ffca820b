"""The directory of a user's running servers, and in it one for each server's sockets; their user's alone.

On Linux it lies in memory and vanishes when the user logs out: whoever needs it makes it again, or one beside
the temporary files where the system's cannot be made.
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
from typing import Final

import platformdirs

from herohe_model.errors import ServerError

if sys.platform != "win32":
    import fcntl

DIRECTORY_VARIABLE: Final = "HEROHE_RUNTIME_DIR"
"""Environment variable that names another runtime directory."""

_NAME: Final = "herohe-bridge"
_PREFIX: Final = "herohe-"
_LOCK: Final = "lock"

_LONGEST_SOCKET_PATH: Final = 100
"""Bytes; the systems' limits for Unix sockets begin at 104."""


def runtime_directory() -> Path:
    """Return the directory of the discovery files, made when absent.

    Raises
    ------
    ServerError
        If it cannot be made, or others than its user can read or replace it.
    """
    *others, last = _candidates()
    for path in others:
        with contextlib.suppress(OSError):
            return _made(path)
    try:
        return _made(last)
    except OSError as error:
        raise ServerError(
            f"The runtime directory {last} cannot be used ({error.strerror or error})",
            f"Set {DIRECTORY_VARIABLE} to a directory of your own",
        ) from error


def _candidates() -> Iterator[Path]:
    """Yield where the directory may be, the best place first."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        yield Path(named).absolute()
        return
    with warnings.catch_warnings():
        # platformdirs warns where XDG_RUNTIME_DIR is not set, and falls back well.
        warnings.simplefilter("ignore")
        yield platformdirs.user_runtime_path(_NAME, appauthor=False)
    if sys.platform != "win32":
        # The name that platformdirs, and the Groovy side, fall back to.
        yield Path(tempfile.gettempdir()) / f"runtime-{os.geteuid()}" / _NAME


def _made(path: Path) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    _check_private(path)
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


class SocketDirectory:
    """A new directory for one server's sockets; those of servers that were killed are removed on the way.

    A lock tells whether its server is alive: unlike a process id, it means the same in every container that
    shares the directory, and the system takes it back however the server ends. On Windows, which has no such
    sockets, the directory stays empty.
    """

    def __init__(self) -> None:
        base = runtime_directory()
        if len(os.fsencode(base)) + len("/herohe-12345678/workers.ipc") > _LONGEST_SOCKET_PATH:
            base = Path(tempfile.gettempdir())
        _remove_abandoned(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._lock = -1
        if sys.platform != "win32":
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Remove it with the files in it; may be called twice."""
        remove_socket_directory(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(base: Path) -> None:
    """Remove the socket directories of servers that have ended without doing so."""
    for directory in base.glob(f"{_PREFIX}*"):
        # Without a lock file it is of another version, or just being made.
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                directory.rmdir()
                continue
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_socket_directory(directory)
            finally:
                os.close(lock)


def remove_socket_directory(path: str | Path) -> None:
    """Remove such a directory with the files in it, if it is one; what cannot be removed is left."""
    path = Path(path)
    with contextlib.suppress(OSError):
        found = path.lstat()
        own = sys.platform == "win32" or found.st_uid == os.geteuid()
        if not path.name.startswith(_PREFIX) or not stat.S_ISDIR(found.st_mode) or not own:
            return
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
