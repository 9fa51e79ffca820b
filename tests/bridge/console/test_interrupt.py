from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest
from helpers.small_slides import small_model, small_slide


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_a_run_whose_terminal_is_closed_writes_its_result_files(tmp_path: Path) -> None:
    import pty

    (tmp_path / "slides").mkdir()
    for number in range(3):
        small_slide(tmp_path / "slides" / f"s{number}.tif")
    model = small_model(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "bridge", "score", str(tmp_path / "slides"), "--model", str(model)]
    options = ["--device", "cpu", "--composites", "400", "--output", str(tmp_path / "out")]
    environment = {**os.environ, "HEROHE_RUNTIME_DIR": str(tmp_path / "run")}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [*command, *options], environment)
    shown = b""
    while b"/400 composites" not in shown:
        # Raises OSError when the command has ended before.
        shown += os.read(terminal, 4096)
    # The system sends SIGHUP, and nothing can be printed any more.
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8-sig", newline="") as table:
        assert [row["outcome"] for row in csv.DictReader(table)] == ["cancelled"] * 3
