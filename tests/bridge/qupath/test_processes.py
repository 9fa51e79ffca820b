from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.qupath.processes import open_project_warnings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be renamed by a link there")


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[int]:
    """A process that is called QuPath, and waits."""
    program = folder / "QuPath"
    program.symlink_to(sys.executable)
    code = "print(flush=True); input()"
    process = subprocess.Popen(
        [str(program), "-S", "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
    finally:
        process.communicate(b"\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that was saved long ago."""
    path = tmp_path / "study" / "project.qpproj"
    path.parent.mkdir()
    path.write_text("{}")
    os.utime(path, (1e9, 1e9))
    return path


def warning(project: Path, pid: int) -> str:
    """What is said about one process; another QuPath may well run on this machine."""
    (found,) = [w for w in open_project_warnings(project) if f"(process {pid})" in w]
    return found


def test_a_qupath_that_was_started_with_the_project_is_named(project: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(project)) as pid:
        assert "was started with this project" in warning(project, pid)


def test_a_qupath_that_runs_is_named(project: Path, tmp_path: Path) -> None:
    with running(tmp_path) as pid:
        assert f"QuPath (process {pid}) runs. If it has this project open" in warning(project, pid)
        data = project.parent / "data" / "1" / "data.qpdata"
        data.parent.mkdir(parents=True)
        data.touch()
        os.utime(data, (4e9, 4e9))
        assert "this project was saved since it started" in warning(project, pid)


def test_other_programs_are_none(project: Path) -> None:
    assert not any(f"(process {os.getpid()})" in w for w in open_project_warnings(project))
