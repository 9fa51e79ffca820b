from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import __version__


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_version_is_the_packages() -> None:
    assert __version__ in run("--version").stdout


def test_help_names_every_command_without_loading_torch() -> None:
    done = run("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert {"demo", "score", "serve", "status", "stop", "clear", "model", "doctor"} <= set(
        done.stdout.split()
    )
    assert "| torch" not in done.stderr and "| paquo" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_offered(shell: str) -> None:
    done = run("--help", env={"_HEROHE_BRIDGE_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0 and "herohe" in done.stdout.lower()


def test_score_without_model_or_server_is_wrong_usage(tmp_path: Path) -> None:
    done = run("score", str(tmp_path))
    assert done.returncode == 2 and "--model" in done.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("sore").returncode == 2


def test_an_error_is_one_sentence_with_its_remedy_and_no_traceback(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.qpproj"
    done = run("score", str(missing), "--model", str(tmp_path / "no.safetensors"))
    assert done.returncode == 1
    assert "nothing.qpproj" in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--debug", "score", str(tmp_path / "nothing.qpproj"), "--model", "no.safetensors")
    assert done.returncode == 1 and "Traceback" in done.stderr
