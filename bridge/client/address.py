"""Address of a server, with what proves the right to use it; and single questions to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec
import zmq

from bridge.protocol.codec import decode_reply, encode
from bridge.protocol.errors import error_from
from bridge.protocol.messages import ErrorReply, Heartbeat, Reply, Request
from bridge.transport.curve import CLIENT_KEY, PLAIN_NAME, KeyPair, keys_directory, read_pair, trusted_key
from bridge.transport.discovery import ServerRecord, running_servers
from bridge.transport.endpoints import check_endpoint, has_ipc, is_local
from bridge.transport.loop_calls import Context, Socket
from herohe_model.errors import OptionError, ServerUnavailableError


@dataclass(frozen=True)
class ServerAddress:
    """Address of a server, and what proves the right to use it.

    Attributes
    ----------
    token
        For local endpoints.
    server_key, key
        For CURVE: the server's public key (Z85), and the client's own pair.
    """

    endpoint: str
    token: str = field(default="", repr=False)
    server_key: str = ""
    key: KeyPair | None = None

    @classmethod
    def of(cls, record: ServerRecord) -> ServerAddress:
        """Return the quickest way to a server of this user on this machine."""
        usable = [e for e in record.endpoints if has_ipc() or not e.startswith("ipc://")]
        return cls(usable[0], token=record.token)

    @classmethod
    def named(cls, endpoint: str) -> ServerAddress:
        """Return the way to a server that a user named: a running one of their own, or one with CURVE.

        Raises
        ------
        OptionError
            If it is no address, or one of another machine without keys.
        ServerUnavailableError
            If it is an address of this machine, and none of this user's servers listens there.
        """
        check_endpoint(endpoint)
        for record in running_servers():
            if endpoint in record.endpoints:
                return cls(endpoint, token=record.token)
        server_key = trusted_key(endpoint)
        if server_key is None and is_local(endpoint):
            raise ServerUnavailableError(
                f"No server of yours listens on {endpoint}", "See 'herohe-bridge status' for those that run"
            )
        if server_key is None:
            raise OptionError(
                f"The key of the server {endpoint} is not known",
                f"Get its .key file and run: herohe-bridge keys trust {endpoint} FILE",
            )
        return cls(
            endpoint, server_key=server_key, key=read_pair(keys_directory() / f"{CLIENT_KEY}.key_secret")
        )

    def connect(self, context: Context) -> Socket:
        """Return a DEALER that is connected, or will be once the server is there."""
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 1000
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 30
        if self.key is not None:
            socket.curve_serverkey = self.server_key.encode()
            socket.curve_publickey = self.key.public.encode()
            socket.curve_secretkey = self.key.secret.encode()
        elif self.token:
            socket.plain_username = PLAIN_NAME
            socket.plain_password = self.token.encode()
        socket.connect(self.endpoint)
        return socket


def ask(address: ServerAddress, question: Request, *, timeout_s: float) -> Reply:
    """Ask one question and return its answer.

    Parameters
    ----------
    question
        Its token is filled in.

    Raises
    ------
    ServerUnavailableError
        If there is no answer in time.
    HeroheError
        If the answer is an error.
    """
    context: Context = zmq.Context()
    try:
        socket = address.connect(context)
        socket.send_multipart([b"", encode(msgspec.structs.replace(question, token=address.token))])
        until = time.monotonic() + timeout_s
        while socket.poll(max(0, round(1000 * (until - time.monotonic())))):
            reply, _ = decode_reply(socket.recv_multipart(copy=False)[1:])
            if isinstance(reply, ErrorReply):
                raise error_from(reply.code, reply.problem, reply.remedy)
            if not isinstance(reply, Heartbeat):
                return reply
        raise ServerUnavailableError(f"The server {address.endpoint} does not answer", "Look whether it runs")
    finally:
        context.destroy(linger=0)
