"""The server's sockets towards its clients.

Nothing comes through them but from who has proved himself when he connected: at the local socket by the
token, which a message must carry too, since a proxy may stand between; over CURVE by his key.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec
import zmq

from bridge.protocol.codec import Refusal, encode, split_envelope
from bridge.protocol.messages import ErrorReply, Reply
from bridge.server.connections import MOST, ConnectionLimit
from bridge.transport.curve import LOCAL_DOMAIN, ZAP_DOMAIN, KeyPair
from bridge.transport.endpoints import check_endpoint, has_ipc, ipc_endpoint, is_local
from bridge.transport.loop_calls import Context, Socket
from herohe_model.errors import OptionError, ServerError

_RECEIVE_AT_ONCE: Final = 16
"""Messages taken from one socket before the others have their turn."""

_UNREAD: Final = 8
"""Messages of one client that wait to be read, which they are at once."""

_UNSENT: Final = 64
"""Replies that wait for one client. Those that it does not fetch are dropped beyond it, and kept for a
repeated request."""

_SILENT_BYTES: Final = 512 << 20
"""Memory that peers may take before they have proved themselves: each can have sent most of one frame."""

_HANDSHAKE_MS: Final = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a reply goes: a socket, and the envelope that the request came in."""

    socket: int
    envelope: tuple[bytes, ...]

    @property
    def connection(self) -> tuple[int, bytes]:
        """The connection that leads there; a proxy's leads to many addresses."""
        return self.socket, self.envelope[0]


@dataclass(frozen=True)
class Incoming:
    """A message as it came: `who` is the client's public key, or "" where it must show the token."""

    address: Address
    who: str
    body: list[zmq.Frame]

    @property
    def client(self) -> Hashable:
        """Who is served in turn and has a share: a key, or a connection, whatever addresses are behind."""
        return self.who or self.address.connection


class SendReply(Protocol):
    """Sends a reply to the request that its owner works on; who gives it away says from which threads."""

    def __call__(self, reply: Reply, frames: Sequence[bytes] = ()) -> None:
        """Send a reply with its frames."""
        ...


class Frontend:
    """The sockets; used by the polling thread alone.

    Parameters
    ----------
    max_frame_bytes
        Larger frames are refused by ZeroMQ before memory is taken, and their connection is closed.
    connections
        How many each socket may hold.

    Attributes
    ----------
    pollable
        To be polled; :meth:`receive` is to be called when one is readable.
    """

    def __init__(self, context: Context, max_frame_bytes: int, connections: int = MOST) -> None:
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self._connections = connections
        self._sockets: list[tuple[Socket, ConnectionLimit]] = []
        self._remote: Socket | None = None
        self.local_endpoints: tuple[str, ...] = ()
        self.remote_endpoints: tuple[str, ...] = ()

    def bind_local(self, directory: Path, more: Sequence[str] = ()) -> None:
        """Listen on ipc where there is ipc, and on a free loopback port, which every client can reach."""
        socket = self._socket()
        socket.plain_server = 1
        socket.zap_domain = LOCAL_DOMAIN
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

    @property
    def pollable(self) -> list[Socket]:
        """The sockets for clients, and those that tell who connects."""
        return [either for socket, limit in self._sockets for either in (socket, limit.socket)]

    def receive(self) -> Iterator[Incoming]:
        """Yield what waits in all sockets, but not without end."""
        for number, (socket, limit) in enumerate(self._sockets):
            limit.look()
            yield from self._receive(number, socket, limit)

    def _receive(self, number: int, socket: Socket, limit: ConnectionLimit) -> Iterator[Incoming]:
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            limit.spoke(parts[-1])
            try:
                envelope, body = split_envelope(parts)
            except Refusal as refusal:
                self.send(Address(number, (parts[0].bytes, b"")), refusal.reply)
                continue
            address = Address(number, tuple(part.bytes for part in envelope))
            # Only of this socket is the key's name to be believed: without CURVE, a client can claim any.
            yield Incoming(address, _proven_key(body) if socket is self._remote else "", body)

    def send(self, address: Address, message: msgspec.Struct, frames: Sequence[bytes] = ()) -> bool:
        """Send a reply; False when the client is gone. What it does not fetch in time is dropped.

        What cannot be sent for its own sake is answered by an error, so that nobody waits for ever.
        """
        if isinstance(message, ErrorReply):
            message = message.presentable()
        try:
            header = encode(message)
        except Exception as error:
            _log.exception("a reply cannot be sent")
            problem = f"The server's answer cannot be sent: {type(error).__name__}: {error}"
            failed = ErrorReply(id=getattr(message, "id", ""), code="internal", problem=problem)
            header, frames = encode(failed.presentable()), ()
        socket, _ = self._sockets[address.socket]
        try:
            socket.send_multipart([*address.envelope, header, *frames], zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        """Close the sockets, giving last replies a moment to leave."""
        for socket, limit in self._sockets:
            limit.close()
            socket.close(linger=1000)

    def _socket(self) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.router_mandatory = 1
        socket.maxmsgsize = self._max_frame_bytes
        socket.rcvhwm, socket.sndhwm = _UNREAD, _UNSENT
        socket.handshake_ivl = _HANDSHAKE_MS
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 30
        socket.tcp_keepalive_intvl = 10
        socket.tcp_keepalive_cnt = 3
        silent = max(2, _SILENT_BYTES // self._max_frame_bytes)
        limit = ConnectionLimit(self._context, socket, most=self._connections, most_silent=silent)
        self._sockets.append((socket, limit))
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
    """Return the public key that CURVE proved, as the authenticator named it."""
    return str(body[0].get("User-Id")) if body else "nobody"
