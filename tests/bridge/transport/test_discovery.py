from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bridge.transport.discovery import (
    DIRECTORY_VARIABLE,
    ServerRecord,
    own_start_time,
    private_directory,
    remove_record,
    running_servers,
    runtime_directory,
    write_record,
)
from herohe_model.errors import ServerError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps profiles private by their ACL")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return tmp_path / "run"


def a_record(instance: str = "0" * 32, **changes: object) -> ServerRecord:
    record = ServerRecord(
        instance=instance,
        pid=os.getpid(),
        started=own_start_time(),
        protocol=1,
        version="0.1.0",
        model_name="m",
        model_path="/models/m.safetensors",
        model_sha256="1" * 64,
        device="cpu",
        precision="fp32",
        devices_asked=("auto",),
        precision_asked="auto",
        endpoints=("tcp://127.0.0.1:5555",),
        token="secret",
    )
    return msgspec.structs.replace(record, **changes)


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_running_server_is_found() -> None:
    write_record(a_record())
    assert list(running_servers()) == [a_record()]
    remove_record(a_record())
    assert list(running_servers()) == []


def test_several_servers_are_found_oldest_first() -> None:
    old, new = a_record("a" * 32, started=own_start_time() - 5), a_record("b" * 32)
    for record in (new, old):
        write_record(record)
    assert list(running_servers()) == [old, new]


def test_what_a_dead_server_left_is_removed(home: Path) -> None:
    sockets = private_directory()
    (sockets / "front.ipc").touch()
    path = write_record(a_record(pid=ended_process(), directory=str(sockets)))
    assert list(running_servers()) == []
    assert not path.exists()
    assert not sockets.exists()


def test_another_process_with_the_servers_number_is_not_the_server() -> None:
    path = write_record(a_record(started=own_start_time() - 3600))
    assert list(running_servers()) == []
    assert not path.exists()


def test_a_record_cannot_have_other_directories_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    remove_record(a_record(directory=str(precious), slots=str(tmp_path)))
    assert precious.exists()


def test_files_that_are_no_records_are_passed_over_and_kept(home: Path) -> None:
    write_record(a_record())
    for name, text in (("server-1-x.json", "{"), ("server-2-y.json", '{"format": 2}')):
        (home / name).write_text(text)
    assert list(running_servers()) == [a_record()]
    assert len(list(home.iterdir())) == 3


@POSIX
def test_directory_and_record_are_for_their_user_alone(home: Path) -> None:
    path = write_record(a_record())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(private_directory().stat().st_mode) == 0o700


@POSIX
def test_a_directory_that_others_can_read_is_refused(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    with pytest.raises(ServerError, match="chmod 700"):
        runtime_directory()


@POSIX
def test_a_link_in_place_of_the_directory_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServerError, match="belongs to somebody else"):
        runtime_directory()


@POSIX
def test_sockets_get_a_short_path_where_the_runtime_directory_is_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / ("deep" * 20)))
    directory = private_directory()
    assert len(str(directory / "workers.ipc")) < 104
    directory.rmdir()
