from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import psutil
import pytest

from bridge.transport.discovery import (
    ServerRecord,
    process_start,
    remove_record,
    restore_record,
    running_servers,
    write_record,
)
from bridge.transport.runtime_directory import DIRECTORY_VARIABLE, SocketDirectory, runtime_directory
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
        started=process_start(os.getpid()),
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
    parent = os.getppid()
    old, new = a_record("a" * 32, pid=parent, started=process_start(parent)), a_record("b" * 32)
    for record in (new, old):
        write_record(record)
    assert list(running_servers()) == [old, new]


def test_what_a_dead_server_left_is_removed(home: Path) -> None:
    sockets = SocketDirectory().path
    (sockets / "front.ipc").touch()
    path = write_record(a_record(pid=ended_process(), directory=str(sockets)))
    assert list(running_servers()) == []
    assert not path.exists()
    assert not sockets.exists()


def test_another_process_with_the_servers_number_is_not_the_server() -> None:
    path = write_record(a_record(started=process_start(os.getpid()) - 3600))
    assert list(running_servers()) == []
    assert not path.exists()


def test_a_record_cannot_have_other_directories_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    remove_record(a_record(directory=str(precious)))
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
    assert stat.S_IMODE(SocketDirectory().path.stat().st_mode) == 0o700


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
    directory = SocketDirectory()
    assert len(str(directory.path / "workers.ipc")) < 104
    directory.remove()
    assert not directory.path.exists()


def test_a_step_of_the_clock_does_not_make_a_server_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(a_record())
    # On Linux, psutil reckons a process's start from the system's, which follows the clock.
    then = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: then + 7200, raising=False)
    monkeypatch.setattr("psutil._pslinux.BOOT_TIME", then + 7200, raising=False)
    assert list(running_servers()) == [a_record()]


@POSIX
def test_a_directory_that_a_killed_server_left_is_removed_by_the_next() -> None:
    child = (
        "from bridge.transport.runtime_directory import SocketDirectory;"
        "import os; print(SocketDirectory().path, flush=True); os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
    left, alive = Path(ended.stdout.strip()), SocketDirectory()
    assert left.name.startswith("herohe-") and not left.exists()
    SocketDirectory()
    assert alive.path.exists()


@POSIX
def test_a_record_that_was_removed_is_written_again_without_the_sockets_that_went_with_it(home: Path) -> None:
    record = a_record(endpoints=(f"ipc://{home}/gone.ipc", "tcp://127.0.0.1:5555"))
    write_record(record)
    assert restore_record(record) == record
    shutil.rmtree(home)
    restore_record(record)
    assert list(running_servers()) == [a_record()]


@POSIX
def test_where_the_systems_directory_cannot_be_made_there_is_one_beside_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE)
    (tmp_path / "a file").touch()
    gone = tmp_path / "a file" / "herohe-bridge"
    monkeypatch.setattr("platformdirs.user_runtime_path", lambda *_, **__: gone)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = runtime_directory()
    assert found == tmp_path / f"runtime-{os.geteuid()}" / "herohe-bridge"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (found, found.parent)} == {0o700}
