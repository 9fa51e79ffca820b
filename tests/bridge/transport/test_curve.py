from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import zmq.auth

from bridge.transport.curve import (
    KEYS_VARIABLE,
    KeyPair,
    allowed_in,
    keys_directory,
    read_pair,
    read_public,
    trust,
    trusted_key,
    write_pair,
)
from bridge.transport.endpoints import check_endpoint, is_local
from herohe_model.errors import OptionError


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    return tmp_path / "keys"


def test_keys_are_kept_as_zeromq_certificates(keys: Path) -> None:
    pair = KeyPair.new()
    public, secret = write_pair(keys, "client", pair)
    assert zmq.auth.load_certificate(secret) == (pair.public.encode(), pair.secret.encode())
    assert zmq.auth.load_certificate(public) == (pair.public.encode(), None)
    assert read_pair(secret) == pair
    assert read_public(public) == read_public(secret) == pair.public


def test_the_secret_is_in_no_text_but_its_file() -> None:
    pair = KeyPair.new()
    assert pair.secret not in repr(pair)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps profiles private by their ACL")
def test_a_secret_key_is_its_owners_alone(keys: Path) -> None:
    _, secret = write_pair(keys, "client", KeyPair.new())
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.chmod(0o640)
    with pytest.raises(OptionError, match="chmod 600"):
        read_pair(secret)


def test_keys_are_never_overwritten(keys: Path) -> None:
    first = KeyPair.new()
    _, secret = write_pair(keys, "client", first)
    with pytest.raises(OptionError, match="exists"):
        write_pair(keys, "client", KeyPair.new())
    assert read_pair(secret) == first


@pytest.mark.parametrize("name", ["", "../client", "a/b", ".hidden"])
def test_names_of_keys_are_no_paths(keys: Path, name: str) -> None:
    with pytest.raises(OptionError, match="no name"):
        write_pair(keys, name, KeyPair.new())


@pytest.mark.parametrize("text", ["", 'public-key = "short"', f'public-key = "{chr(126) * 40}"'])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.key").write_text(text)
    with pytest.raises(OptionError, match=r"x\.key"):
        read_public(tmp_path / "x.key")


def test_the_folder_of_allowed_keys_is_looked_at_each_time(tmp_path: Path) -> None:
    one, other = KeyPair.new(), KeyPair.new()
    allowed = allowed_in(tmp_path)
    assert not allowed(one.public)
    path, _ = write_pair(tmp_path, "one", one)
    (tmp_path / "broken.key").write_text("nonsense")
    assert allowed(one.public)
    assert not allowed(other.public)
    path.unlink()
    assert not allowed(one.public)


def test_a_trusted_server_is_known_by_its_endpoint() -> None:
    pair = KeyPair.new()
    assert trusted_key("tcp://gpu.example:5555") is None
    trust("tcp://gpu.example:5555", pair.public)
    assert trusted_key("tcp://gpu.example:5555") == pair.public
    assert trusted_key("tcp://gpu.example:5556") is None
    assert keys_directory().joinpath("servers").is_dir()


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.9.9.9:*", True),
        ("tcp://[::1]:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://*:5555", False),
        ("tcp://eth0:5555", False),
        ("tcp://192.168.1.7:5555", False),
        ("tcp://127.0.0.1.example.org:5555", False),
        ("tcp://localhost.example.org:5555", False),
    ],
)
def test_what_only_this_machine_can_reach_is_known_from_the_address(endpoint: str, local: bool) -> None:
    check_endpoint(endpoint)
    assert is_local(endpoint) is local


@pytest.mark.parametrize(
    "endpoint",
    ["", "5555", "http://localhost:80", "tcp://localhost", "tcp://localhost:99999", "ipc://", "pgm://x:1"],
)
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(OptionError, match="no address"):
        check_endpoint(endpoint)
