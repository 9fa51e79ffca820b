from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from helpers.small_slides import drawn, small_model, small_slide

from bridge.annotations.geojson_writing import write_annotations
from bridge.commands.predict import command as predict
from bridge.commands.score import command as score
from bridge.results.manifest import MANIFEST_NAME, Manifest, ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One slide with a tumour, and a model beside the folder."""
    (tmp_path / "slides").mkdir()
    write_annotations(small_slide(tmp_path / "slides" / "s.tif"), [drawn(64, 64, 256, 320)])
    small_model(tmp_path / "m.safetensors")
    return tmp_path / "slides"


@pytest.mark.parametrize("command", [score, predict])
def test_a_second_run_into_a_folder_is_told_before_anything_is_reached_or_started(
    command: click.Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a server was reached")

    monkeypatch.setattr("bridge.client.client.connect_or_start", reached)
    output = folder.parent / ("out" if command is score else "out.csv")
    held = output if command is score else folder.parent / "out-results"
    held.mkdir()
    arguments = [str(folder), "--server", "tcp://127.0.0.1:9", "--output", str(output)]
    with Manifest(held / MANIFEST_NAME), pytest.raises(ManifestError, match=r"Another run uses .*out"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_dry_run_names_a_class_that_no_slide_has_and_fails(folder: Path) -> None:
    model = str(folder.parent / "m.safetensors")
    asked = [str(folder), "--model", model, "--dry-run", "--region-class"]
    done = CliRunner().invoke(score, [*asked, "tumor"], catch_exceptions=False)
    assert done.exit_code == 1 and done.stderr.endswith("did you mean Tumor?\n")
    assert CliRunner().invoke(score, [*asked, "Tumor"], catch_exceptions=False).exit_code == 0


def test_predict_goes_on_with_what_is_known_and_again_with_restart(folder: Path) -> None:
    model = str(folder.parent / "m.safetensors")
    arguments = [str(folder), "--model", model, "--device", "cpu", "--engine", "torch", "--composites", "1"]
    arguments += ["--region-class", "Tumor", "--output", str(folder.parent / "out.csv")]
    for more, known in ((), False), ((), True), (("--restart",), False):
        done = CliRunner().invoke(predict, [*arguments, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert ("known from an earlier run" in done.stderr) is known
    missed = CliRunner().invoke(predict, [*arguments, "--region-class", "stroma"], catch_exceptions=False)
    assert missed.exit_code == 1
    assert missed.stderr.splitlines()[-1].endswith("the classes there are Tumor.")
