"""Addresses of sockets: which exist on this platform, and which only this machine can reach."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Final

import zmq

from herohe_model.errors import OptionError

_TCP: Final = re.compile(r"^tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/]+):(?P<port>\d{1,5}|\*)$")


def has_ipc() -> bool:
    """Whether there are Unix sockets that ZeroMQ can use."""
    return os.name != "nt" and bool(zmq.has("ipc"))


def ipc_endpoint(directory: Path, name: str) -> str:
    """Return the endpoint of a Unix socket in a directory."""
    return f"ipc://{directory / name}.ipc"


def ipc_path(endpoint: str) -> Path | None:
    """Return the file of a Unix socket, None for an endpoint of another kind."""
    return Path(endpoint.removeprefix("ipc://")) if endpoint.startswith("ipc://") else None


def check_endpoint(endpoint: str) -> None:
    """Refuse what is no address.

    Raises
    ------
    OptionError
        If it is neither ``tcp://host:port`` nor ``ipc://path``.
    """
    match = _TCP.match(endpoint)
    if match is not None and (match["port"] == "*" or int(match["port"]) < 65536):
        return
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://") and has_ipc():
        return
    raise OptionError(f"{endpoint!r} is no address", "Use tcp://host:port, such as tcp://127.0.0.1:5555")


def is_local(endpoint: str) -> bool:
    """Whether only this machine can reach an endpoint: ipc, or tcp on a loopback address.

    Names are not resolved, so that nothing depends on a name server: of names, only ``localhost`` is local.
    """
    if endpoint.startswith("ipc://"):
        return True
    match = _TCP.match(endpoint)
    if match is None:
        return False
    host = match["host"].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
