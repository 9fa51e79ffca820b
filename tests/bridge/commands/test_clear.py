from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from helpers.example_results import made_result
from helpers.small_slides import small_slide

from bridge.commands.clear import command
from bridge.results.files import write_csv, write_json


def run(*arguments: object) -> str:
    done = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_clear_says_that_result_files_stay_and_takes_them_when_told_to(tmp_path: Path) -> None:
    small_slide(tmp_path / "s.tif")
    out = tmp_path / "herohe-bridge"
    out.mkdir()
    write_csv(out / "results.csv", [made_result()])
    write_json(out / "results.json", [made_result()])
    assert "(results.csv, results.json) stay; --results removes them" in run(tmp_path)
    assert "would be removed" in run(tmp_path, "--results", "--dry-run")
    assert len(list(out.iterdir())) == 2
    assert "were removed" in run(tmp_path, "--results")
    assert not out.exists() and (tmp_path / "s.tif").exists()
    assert "result files" not in run(tmp_path)
