"""As much of ZeroMQ's wire protocol (ZMTP 3.0, RFC 23) as it takes to say what no ZeroMQ library would."""

from __future__ import annotations

import socket
import struct

_COMMAND, _LONG, _MORE = 4, 2, 1


class RawConnection:
    """A TCP connection to a ZeroMQ socket that has sent nothing but its greeting.

    Parameters
    ----------
    mechanism
        What the greeting says that follows.
    greet
        False to send nothing at all.
    """

    def __init__(self, endpoint: str, mechanism: bytes = b"PLAIN", *, greet: bool = True) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)
        if greet:
            self.send_raw(greeting)

    def log_in(self, token: str, *, wait: bool = True, **properties: bytes) -> bytes:
        """Shake hands by PLAIN (RFC 24) as a DEALER with whatever properties; return the last command.

        That is b"" when the other side has closed, and when its answer is not waited for.
        """
        if wait:
            self._read(64)
        self.command(b"\x05HELLO" + _short(b"herohe") + _short(token.encode()))
        if not wait:
            return b""
        if not self.receive().startswith(b"\x07WELCOME"):
            return b""
        ready = b"".join(_property(name.replace("_", "-"), value) for name, value in properties.items())
        self.command(b"\x08INITIATE" + _property("Socket-Type", b"DEALER") + ready)
        return self.receive()

    def command(self, body: bytes) -> None:
        """Send a command of the handshake."""
        self.send_raw(bytes([_COMMAND, len(body)]) + body)

    def send_raw(self, data: bytes) -> bool:
        """Send bytes as they are; False when the other side has closed."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def send(self, *frames: bytes) -> None:
        """Send one message."""
        for number, frame in enumerate(frames):
            more = _MORE if number < len(frames) - 1 else 0
            self.send_raw(bytes([more | _LONG]) + struct.pack(">Q", len(frame)) + frame)

    def promise(self, size: int, sent: bytes = b"a little", *, command: bool = False) -> None:
        """Begin a frame of any size, and send a part of it."""
        self.send_raw(bytes([_LONG | (_COMMAND if command else 0)]) + struct.pack(">Q", size) + sent)

    def receive(self) -> bytes:
        """Return the next frame or command; b"" when the other side has closed."""
        flags = self._read(1)
        if not flags:
            return b""
        size = struct.unpack(">Q", self._read(8))[0] if flags[0] & _LONG else self._read(1)[0]
        return self._read(size)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except OSError:
                return b""
            if not piece:
                return b""
            data += piece
        return data


def _short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _property(name: str, value: bytes) -> bytes:
    return _short(name.encode()) + struct.pack(">I", len(value)) + value
