"""Calls from any thread into the thread that polls sockets."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import zmq

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class LoopCalls:
    """A queue of calls with a socket that becomes readable when one waits.

    Parameters
    ----------
    context
        That of the polling thread.

    Attributes
    ----------
    socket
        To be polled; :meth:`run` is to be called when it is readable.
    """

    def __init__(self, context: Context) -> None:
        self.socket: Socket = context.socket(zmq.PAIR)
        self._bell: Socket = context.socket(zmq.PAIR)
        endpoint = f"inproc://calls-{id(self)}"
        self.socket.bind(endpoint)
        self._bell.connect(endpoint)
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._rung = False
        self._open = True

    def call_soon_threadsafe(self, call: Callable[[], None]) -> bool:
        """Have `call` called by the polling thread; False once this is closed."""
        with self._lock:
            if not self._open:
                return False
            self._calls.append(call)
            if not self._rung:
                # Under the lock, a ZeroMQ socket may be used by one thread after the other.
                self._bell.send(b"")
                self._rung = True
            return True

    def run(self, failed: Callable[[Exception], None] | None = None) -> None:
        """Make the calls that wait, in their order.

        Parameters
        ----------
        failed
            Told what a call raised, and the next is made; without it, that is raised here.
        """
        with self._lock:
            calls, self._calls = self._calls, deque()
            if self._rung:
                self.socket.recv()
                self._rung = False
        for call in calls:
            try:
                call()
            except Exception as error:
                if failed is None:
                    raise
                failed(error)

    def close(self) -> list[Callable[[], None]]:
        """Refuse further calls, and return those that wait; may be called twice."""
        with self._lock:
            self._open = False
            left = list(self._calls)
            self._calls.clear()
            self._bell.close(linger=0)
            self.socket.close(linger=0)
            return left
