"""Pixels that need not travel: files in memory, shared by a client and the workers of a server beside it.

A composite of 2560 x 2560 px has 19.7 MB, and through two sockets they are copied four times on their way to
a worker. A client on the server's machine (and of its user) can put them into a file that it has mapped, send
the file's name in the header, and have them read from where they are. Nothing else changes: where no file can
be shared, or all are in use, pixels travel as frames.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.protocol.messages import ArrayHeader
from bridge.transport.runtime_directory import remove_socket_directory, runtime_directory

if sys.platform != "win32":
    import fcntl

_ZEROS: Final = bytes(1 << 20)
_SHARED_MEMORY: Final = Path("/dev/shm")
_PREFIX: Final = "herohe-slots-"
_LOCK: Final = "lock"


class SharedPixelsDirectory:
    """A server's directory for them, in memory where there is a file system in memory.

    A lock tells whether its server is alive: unlike a process id, it means the same in every container that
    shares the memory.

    Attributes
    ----------
    path
        "" where there are no slots: Windows cannot remove a file that somebody has mapped.
    """

    def __init__(self) -> None:
        self.path = ""
        self._lock = -1
        if sys.platform != "win32":
            in_memory = os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
            base = _SHARED_MEMORY if in_memory else runtime_directory()
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
            self._lock = os.open(Path(self.path) / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for other in base.glob(f"{_PREFIX}*"):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(other)

    def remove(self) -> None:
        """Remove it with all files; may be called twice."""
        if self.path:
            remove_socket_directory(self.path)
            os.close(self._lock)
            self.path = ""


def _remove_if_abandoned(directory: Path) -> None:
    """Remove what a server that was killed left behind; raises OSError when it is alive."""
    if sys.platform != "win32" and directory.lstat().st_uid == os.geteuid():
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_socket_directory(directory)
        finally:
            os.close(lock)


class SharedPixelsWriter:
    """A client's files, each for one composite at a time. Not thread-safe.

    Parameters
    ----------
    directory
        The server's directory for them.
    slot_bytes
        Size of each.
    most
        How many there may be; they are made as they are needed, and used again.
    """

    def __init__(self, directory: Path, slot_bytes: int, most: int) -> None:
        self._directory = directory
        self._bytes = slot_bytes
        self._most = most
        self._files: dict[str, mmap.mmap] = {}
        self._free: list[str] = []

    def put(self, pixels: NDArray[np.uint8]) -> str | None:
        """Copy pixels into a free file and return its name; None when there is none, or no room for one."""
        if pixels.nbytes != self._bytes:
            return None
        if not self._free and len(self._files) < self._most:
            try:
                self._free.append(self._make())
            except OSError:
                self._most = len(self._files)
        if not self._free:
            return None
        name = self._free.pop()
        np.copyto(np.frombuffer(self._files[name], np.uint8).reshape(pixels.shape), pixels)
        return name

    def release(self, name: str) -> None:
        """Let a file be used again, once nobody reads it any more."""
        if name in self._files:
            self._free.append(name)

    def close(self) -> None:
        """Remove the files; readers keep what they have mapped. May be called twice."""
        for name, memory in self._files.items():
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()
            with contextlib.suppress(BufferError):
                memory.close()
        self._files.clear()
        self._free.clear()
        self._most = 0

    def _make(self) -> str:
        name = secrets.token_hex(16)
        path = self._directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Written, not merely extended: a hole that cannot be filled later would kill the writer.
            for start in range(0, self._bytes, len(_ZEROS)):
                os.write(descriptor, memoryview(_ZEROS)[: self._bytes - start])
            self._files[name] = mmap.mmap(descriptor, self._bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return name


@dataclass
class _Mapped:
    descriptor: int
    memory: mmap.mmap


class SharedPixelsReader:
    """The files of all clients, as a worker reads them. Not thread-safe.

    Parameters
    ----------
    directory
        The server's directory for them; "" when there is none.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory) if directory else None
        self._files: dict[str, _Mapped] = {}

    def read(self, header: ArrayHeader) -> NDArray[np.uint8]:
        """Return the pixels of a slot without copying them, read-only.

        Raises
        ------
        OSError
            If there is no such file, or it is too short.
        """
        if header.slot is None or self._directory is None:
            raise FileNotFoundError("no slots here")
        file = self._files.get(header.slot)
        if file is None:
            file = self._files[header.slot] = self._open(self._directory / header.slot)
        height, width, channels = header.shape
        size = height * width * channels
        # Asked of the system each time: reading beyond a file that was cut short would kill this process.
        if min(os.fstat(file.descriptor).st_size, len(file.memory)) < size:
            raise OSError("the shared file is too short")
        return np.frombuffer(file.memory, np.uint8, size).reshape(header.shape)

    def forget_removed(self) -> None:
        """Give back the memory of files whose client removed them."""
        for name, file in list(self._files.items()):
            if os.fstat(file.descriptor).st_nlink == 0:
                self._forget(name)

    def close(self) -> None:
        """Let go of all files."""
        for name in list(self._files):
            self._forget(name)

    def _forget(self, name: str) -> None:
        file = self._files.pop(name)
        os.close(file.descriptor)
        # Pixels that are still being read keep the memory until they are let go.
        with contextlib.suppress(BufferError):
            file.memory.close()

    @staticmethod
    def _open(path: Path) -> _Mapped:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            return _Mapped(descriptor, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise OSError(f"{path.name} cannot be mapped") from error
