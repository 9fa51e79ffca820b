"""The server's sockets towards its clients.

Whoever can reach the local sockets must show the token; what comes in over CURVE was let in by its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import zmq

from bridge.protocol.codec import Refusal, encode, split_envelope
from bridge.transport.curve import ZAP_DOMAIN, KeyPair
from bridge.transport.endpoints import check_endpoint, has_ipc, ipc_endpoint, is_local
from bridge.transport.loop_calls import Context, Socket
from herohe_model.errors import OptionError, ServerError

_RECEIVE_AT_ONCE: Final = 16
"""Messages taken from one socket before the others have their turn."""

_HIGH_WATER: Final = 256
"""Messages that wait for one client. It is answered "busy" before it has sent so many; replies that it does
not fetch are dropped beyond it, and kept for a repeated request."""


@dataclass(frozen=True)
class Address:
    """Where a reply goes: a socket, and the envelope that the request came in."""

    socket: int
    envelope: tuple[bytes, ...]


@dataclass(frozen=True)
class Incoming:
    """A message as it came: `who` is the client's public key, or "" where it must show the token."""

    address: Address
    who: str
    body: list[zmq.Frame]


class Frontend:
    """The sockets; used by the polling thread alone.

    Parameters
    ----------
    max_frame_bytes
        Larger frames are refused by ZeroMQ before memory is taken, and their connection is closed.
    """

    def __init__(self, context: Context, max_frame_bytes: int) -> None:
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self.sockets: list[Socket] = []
        self._remote: Socket | None = None
        self.local_endpoints: tuple[str, ...] = ()
        self.remote_endpoints: tuple[str, ...] = ()

    def bind_local(self, directory: Path, more: Sequence[str] = ()) -> None:
        """Listen on ipc where there is ipc, and on a free loopback port, which every client can reach."""
        socket = self._socket()
        here = [ipc_endpoint(directory, "front")] if has_ipc() else []
        self.local_endpoints = _bind(socket, [*here, "tcp://127.0.0.1:*", *more])

    def bind_remote(self, endpoints: Sequence[str], key: KeyPair) -> None:
        """Listen with CURVE; the context's ZapAuthenticator says who is let in."""
        socket = self._socket()
        socket.curve_server = 1
        socket.curve_publickey = key.public.encode()
        socket.curve_secretkey = key.secret.encode()
        socket.zap_domain = ZAP_DOMAIN
        self._remote = socket
        self.remote_endpoints = _bind(socket, endpoints)

    def receive(self, socket: Socket) -> Iterator[Incoming]:
        """Yield what waits in one socket, but not without end."""
        number = self.sockets.index(socket)
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                envelope, body = split_envelope(parts)
            except Refusal as refusal:
                self.send(Address(number, (parts[0].bytes, b"")), refusal.reply)
                continue
            address = Address(number, tuple(part.bytes for part in envelope))
            # Only of this socket is the key's name to be believed: without CURVE, a client can claim any.
            yield Incoming(address, _proven_key(body) if socket is self._remote else "", body)

    def send(self, address: Address, message: msgspec.Struct, frames: Sequence[bytes] = ()) -> bool:
        """Send a reply; False when the client is gone. What it does not fetch in time is dropped."""
        socket = self.sockets[address.socket]
        try:
            socket.send_multipart([*address.envelope, encode(message), *frames], zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        """Close the sockets, giving last replies a moment to leave."""
        for socket in self.sockets:
            socket.close(linger=1000)

    def _socket(self) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.router_mandatory = 1
        socket.maxmsgsize = self._max_frame_bytes
        socket.sndhwm = socket.rcvhwm = _HIGH_WATER
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 30
        socket.tcp_keepalive_intvl = 10
        socket.tcp_keepalive_cnt = 3
        self.sockets.append(socket)
        return socket


def check_binds(endpoints: Sequence[str], *, key: bool) -> None:
    """Refuse addresses that others could reach without a key.

    Raises
    ------
    OptionError
        If one of them is no address, or is not local and there is no key.
    """
    for endpoint in endpoints:
        check_endpoint(endpoint)
        if not key and not is_local(endpoint):
            raise OptionError(
                f"Others can reach {endpoint}, and no keys say who may come in",
                "Make keys with 'herohe-bridge keys new', and give --key and --allow; or bind to 127.0.0.1",
            )


def _bind(socket: Socket, endpoints: Sequence[str]) -> tuple[str, ...]:
    bound = []
    for endpoint in endpoints:
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ServerError(
                f"The server cannot listen on {endpoint} ({error})", "Choose another"
            ) from error
        bound.append(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    return tuple(bound)


def _proven_key(body: Sequence[zmq.Frame]) -> str:
    """Return the public key that CURVE proved, as the ZAP door named it."""
    return str(body[0].get("User-Id")) if body else "nobody"
