"""A limit to the connections of a socket: too many would take the process's file descriptors and memory.

libzmq has no such limit, and aborts where the system gives no more descriptors. A peer that has not said
anything yet may be nobody: of those there are few at a time, and the one that came first makes room. What it
sends before it has proved itself, at most one frame, is given back with its connection.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import sys
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from bridge.transport.loop_calls import Context, Socket

if sys.platform != "win32":
    import resource

MOST: Final = 1000
"""Connections of all peers that a socket holds."""

_RESERVE: Final = 512
"""File descriptors for everything else: slides, workers, ZeroMQ itself, and peers that were just accepted."""

_DESCRIPTORS: Final = 65536
_ENOUGH: Final = 10240
"""What macOS allows where it says that there is no limit."""


def raise_descriptor_limit() -> int:
    """Let this process have as many file descriptors as it may and can use, and return how many."""
    if sys.platform == "win32":
        return _DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (_DESCRIPTORS, _ENOUGH):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                return most
    return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def most_connections(descriptors: int) -> int:
    """Return how many connections a socket may hold in a process of so many file descriptors."""
    return max(16, min(MOST, descriptors - _RESERVE))


class ConnectionLimit:
    """Watches the connections of one bound socket, and closes those beyond the limits.

    Used by the thread that polls the socket. Make it before the socket is bound.

    Parameters
    ----------
    most
        Connections at a time; beyond it, the newest is closed.
    most_silent
        Of them, those that have not said anything yet; beyond it, the oldest is closed.
    """

    def __init__(self, context: Context, watched: Socket, *, most: int, most_silent: int) -> None:
        self._most = most
        self._most_silent = most_silent
        self._watched = watched
        self._silent: dict[int, None] = {}
        self._spoke: set[int] = set()
        endpoint = f"inproc://connections-{id(watched)}"
        watched.monitor(endpoint, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.socket: Socket = context.socket(zmq.PAIR)
        # Without a limit: libzmq's own thread would wait here, and who closes the socket for that thread.
        self.socket.rcvhwm = 0
        self.socket.connect(endpoint)

    def __len__(self) -> int:
        return len(self._silent) + len(self._spoke)

    def look(self) -> None:
        """Take in who came and went; to be called before messages are received."""
        while True:
            try:
                event = parse_monitor_message(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            descriptor = int(event["value"])
            self._silent.pop(descriptor, None)
            self._spoke.discard(descriptor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._silent[descriptor] = None
                if len(self) > self._most:
                    _shut(descriptor)
                elif len(self._silent) > self._most_silent:
                    _shut(self._drop_oldest())

    def spoke(self, message: zmq.Frame) -> None:
        """Take note that the peer of a message has proved itself: nothing comes through before."""
        descriptor = message.get(zmq.SRCFD)
        if descriptor in self._silent:
            del self._silent[int(descriptor)]
            self._spoke.add(int(descriptor))

    def close(self) -> None:
        """Stop watching."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)

    def _drop_oldest(self) -> int:
        oldest = next(iter(self._silent))
        del self._silent[oldest]
        return oldest


def _shut(descriptor: int) -> None:
    """End a connection; libzmq sees that as if the peer had left.

    Should it have left just now, and another have got its descriptor, then that one has to come again.
    """
    with contextlib.suppress(OSError):
        connection = sockets.socket(fileno=descriptor)
        try:
            connection.shutdown(sockets.SHUT_RDWR)
        finally:
            connection.detach()
