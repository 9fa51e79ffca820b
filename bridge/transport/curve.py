"""CURVE keys: made, kept in files, and asked for when somebody connects; and the token of local clients.

Key files are ZeroMQ certificates (ZPL), as every ZeroMQ library reads them: ``NAME.key`` with the public key,
to be given away, and ``NAME.key_secret`` with both, readable by its owner alone.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import platformdirs
import zmq
from zmq.utils import z85

from bridge.transport.endpoints import check_endpoint
from herohe_model.errors import OptionError

KEYS_VARIABLE: Final = "HEROHE_KEYS_DIR"
"""Environment variable that names another directory of keys."""

CLIENT_KEY: Final = "client"
"""Name of the key pair that clients of this user prove themselves by."""

PLAIN_NAME: Final = b"herohe"
"""User name of local clients; the password is the token."""

LOCAL_DOMAIN: Final = b"herohe-local"
ZAP_DOMAIN: Final = b"herohe"
WORKER_DOMAIN: Final = b"herohe-worker"

_FIELD: Final = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]{40})"\s*$', re.MULTILINE)
_MAKE: Final = "Make keys with: herohe-bridge keys new"


@dataclass(frozen=True)
class KeyPair:
    """Both keys in Z85, the text form of ZeroMQ."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> KeyPair:
        """Draw a pair."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


def keys_directory() -> Path:
    """Return the directory of this user's keys; it need not exist."""
    named = os.environ.get(KEYS_VARIABLE)
    return (
        Path(named).absolute()
        if named
        else platformdirs.user_config_path("herohe-bridge", appauthor=False) / "keys"
    )


def write_pair(directory: Path, name: str, pair: KeyPair) -> tuple[Path, Path]:
    """Write both files of a pair and return their paths, the public one first.

    Raises
    ------
    OptionError
        If one of them exists: keys are never overwritten.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("."):
        raise OptionError(f"{name!r} is no name for keys", "Use letters, digits and - _ .")
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists():
            raise OptionError(
                f"{path} exists", "Keys are never overwritten: choose another name, or remove it"
            )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(secret, f'curve\n    public-key = "{pair.public}"\n    secret-key = "{pair.secret}"\n', 0o600)
        _write(public, f'curve\n    public-key = "{pair.public}"\n', 0o644)
    except OSError as error:
        raise OptionError(f"Keys cannot be written to {directory} ({error.strerror})") from error
    return public, secret


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="ascii", newline="\n") as file:
        file.write(text)


def read_public(path: Path) -> str:
    """Return the public key of either file of a pair; raises OptionError when there is none."""
    return _fields(path, "public-key")[0]


def read_pair(path: Path) -> KeyPair:
    """Read the secret file of a pair.

    Raises
    ------
    OptionError
        If it is none, or others can read it.
    """
    if os.name != "nt" and path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise OptionError(f"Others can read the secret key {path}", f"Run: chmod 600 '{path}'")
    return KeyPair(*_fields(path, "public-key", "secret-key"))


def _fields(path: Path, *names: str) -> tuple[str, ...]:
    try:
        found = dict(_FIELD.findall(path.read_text(encoding="ascii")))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"The key file {path} cannot be read ({error})", _MAKE) from error
    try:
        return tuple(_z85(found[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise OptionError(f"{path} holds no {' and '.join(names)}", _MAKE) from error


def _z85(key: str) -> str:
    if len(z85.decode(key.encode())) != 32:
        raise ValueError(key)
    return key


def trust(endpoint: str, public: str) -> Path:
    """Remember the key of a remote server, so that clients can name it by its endpoint alone."""
    check_endpoint(endpoint)
    path = _trusted_path(endpoint)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(f'curve\n    public-key = "{public}"\n', encoding="ascii")
    return path


def trusted_key(endpoint: str) -> str | None:
    """Return the remembered key of a remote server."""
    path = _trusted_path(endpoint)
    return read_public(path) if path.exists() else None


def _trusted_path(endpoint: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]", "_", endpoint.removeprefix("tcp://"))
    return keys_directory() / "servers" / f"{name}.key"


def allowed_in(directory: Path) -> Callable[[str], bool]:
    """Return a function that says whether a public key stands in a file ``*.key`` of a directory.

    It looks each time, so clients can be let in and shut out while a server runs.
    """

    def allowed(key: str) -> bool:
        for path in directory.glob("*.key"):
            try:
                if read_public(path) == key:
                    return True
            except OptionError:
                continue
        return False

    return allowed


class ZapAuthenticator:
    """Answers libzmq's questions whether a CURVE key, or a PLAIN password, may come in (ZeroMQ RFC 27, ZAP).

    Without it, libzmq lets everybody in. It must exist before the sockets that it guards, one a context.

    Parameters
    ----------
    allowed
        For each ZAP domain, whether a public key (Z85) or a password is let in.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], allowed: dict[bytes, Callable[[str], bool]]
    ) -> None:
        self._allowed = allowed
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")

    def answer(self) -> None:
        """Answer the question that is waiting."""
        self.socket.send_multipart(self._judge(self.socket.recv_multipart()))

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def _judge(self, question: Sequence[bytes]) -> list[bytes]:
        if len(question) < 6 or question[0] != b"1.0":
            return [b"1.0", question[1] if len(question) > 1 else b"", b"500", b"Not understood", b"", b""]
        _, number, domain, _, _, mechanism, *proof = question
        who = shown = ""
        if mechanism == b"CURVE" and len(proof) == 1 and len(proof[0]) == 32:
            who = shown = z85.encode(proof[0]).decode()
        elif mechanism == b"PLAIN" and len(proof) == 2:
            shown = proof[1].decode("latin-1")
        allowed = self._allowed.get(domain)
        if shown and allowed is not None and allowed(shown):
            return [b"1.0", number, b"200", b"OK", who.encode(), b""]
        return [b"1.0", number, b"400", b"This key is not allowed", b"", b""]


def same_secret(token: str) -> Callable[[str], bool]:
    """Return a function that says whether a password is the token, and takes as long for each."""
    return lambda shown: hmac.compare_digest(shown.encode(), token.encode())
