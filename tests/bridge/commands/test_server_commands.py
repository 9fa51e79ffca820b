"""``serve``, ``status``, ``stop`` and ``keys`` as a user gives them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from helpers.servers import PATIENCE_S, all_gone
from helpers.small_slides import small_model

from bridge.transport.discovery import (
    ServerRecord,
    process_start,
    running_servers,
    write_record,
)


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEROHE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HEROHE_KEYS_DIR", str(tmp_path / "keys"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


def herohe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "bridge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@contextmanager
def a_server(model: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Run ``serve`` until the end of the block; yields it, and all its processes."""
    command = [sys.executable, "-m", "bridge", "serve", "--model", str(model), "--device", "cpu", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            # Its addresses, when clients can come.
            assert re.match(r"(ipc|tcp)://", server.stdout.readline())
            process = psutil.Process(server.pid)
            yield server, [process, *process.children(recursive=True)]
        finally:
            server.kill()


def test_a_server_can_be_looked_at_and_stopped(model: Path) -> None:
    with a_server(model) as (server, processes):
        shown = herohe("status")
        assert shown.returncode == 0
        assert f"Process {server.pid}: small 0" in shown.stdout
        assert "worker     cpu, ready" in shown.stdout
        (row,) = json.loads(herohe("status", "--json").stdout)
        assert (row["pid"], row["model"], row["device"], row["problem"]) == (server.pid, "small 0", "cpu", "")
        assert row["load"]["queued"] == 0
        assert [worker["state"] for worker in row["workers"]] == ["ready"]
        stopped = herohe("stop")
        assert stopped.returncode == 0
        assert f"Process {server.pid} (small 0) has ended." in stopped.stdout
        assert server.wait(PATIENCE_S) == 0
        assert all_gone(processes)
    assert list(running_servers()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_a_server_that_is_told_to_terminate_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    with a_server(model) as (server, processes):
        (record,) = running_servers()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0
        assert not Path(record.directory).exists()
        assert all_gone(processes)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = herohe("serve", "--model", tmp_path / "absent.safetensors")
    assert done.returncode == 1
    assert "absent.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_others_can_reach_is_refused_without_keys(model: Path) -> None:
    done = herohe("serve", "--model", model, "--bind", "tcp://0.0.0.0:5555")
    assert done.returncode == 2
    assert "herohe-bridge keys new" in done.stderr


def test_no_server_is_no_error_but_a_named_one_that_is_not_there_is() -> None:
    status = herohe("status")
    assert (status.returncode, "No model server is running" in status.stdout) == (0, True)
    assert json.loads(herohe("status", "--json").stdout) == []
    assert herohe("stop").returncode == 0
    assert herohe("stop", "123456").returncode == 1


def test_a_server_that_does_not_answer_is_a_problem() -> None:
    # This process has the record's number, and nobody listens.
    record = ServerRecord(
        instance="0" * 32,
        pid=os.getpid(),
        started=process_start(os.getpid()),
        protocol=1,
        version="0.1.0",
        model_name="mute",
        model_path="m",
        model_sha256="0" * 64,
        device="cpu",
        precision="fp32",
        devices_asked=("cpu",),
        precision_asked="auto",
        endpoints=("tcp://127.0.0.1:9",),
        token="t",
    )
    write_record(record)
    status = herohe("status")
    assert status.returncode == 1
    assert "PROBLEM" in status.stdout


def test_keys_are_made_remembered_and_shown(tmp_path: Path) -> None:
    made = herohe("keys", "new")
    assert made.returncode == 0
    assert str(tmp_path / "keys" / "client.key_secret") in made.stdout
    assert herohe("keys", "new").returncode == 2
    assert herohe("keys", "new", "server", "--directory", tmp_path / "gpu").returncode == 0
    trusted = herohe("keys", "trust", "tcp://gpu.example:5555", tmp_path / "gpu" / "server.key")
    assert trusted.returncode == 0
    shown = herohe("keys", "show").stdout
    public = re.search(r'public-key = "(.{40})"', (tmp_path / "gpu" / "server.key").read_text())
    assert public is not None
    assert public[1] in shown
    assert "secret" not in shown
