"""As much of ZeroMQ's wire protocol (ZMTP 3.0, RFC 23) as it takes to say what no ZeroMQ library would."""

from __future__ import annotations

import socket
import struct

_COMMAND, _LONG, _MORE = 4, 2, 1


class PlainConnection:
    """A TCP connection that says it is a DEALER, with whatever properties it likes."""

    def __init__(self, endpoint: str, **properties: bytes) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
        self._socket.sendall(greeting)
        self._read(64)
        ready = b"\x05READY" + _property("Socket-Type", b"DEALER")
        for name, value in properties.items():
            ready += _property(name.replace("_", "-"), value)
        self._socket.sendall(bytes([_COMMAND, len(ready)]) + ready)
        self.receive()

    def send(self, *frames: bytes) -> None:
        """Send one message."""
        for number, frame in enumerate(frames):
            more = _MORE if number < len(frames) - 1 else 0
            self._socket.sendall(bytes([more | _LONG]) + struct.pack(">Q", len(frame)) + frame)

    def promise(self, size: int) -> None:
        """Begin a frame of any size, and send a little of it."""
        self._socket.sendall(bytes([_LONG]) + struct.pack(">Q", size) + b"a little")

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
            except ConnectionResetError:
                return b""
            if not piece:
                return b""
            data += piece
        return data


def _property(name: str, value: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value
