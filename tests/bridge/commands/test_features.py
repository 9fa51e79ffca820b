"""``features extract|check``, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.feature_files import bag, write_stamp, write_trident
from helpers.small_encoders import small, write_table, write_weights
from helpers.small_slides import drawn, small_slide

from bridge.annotations.geojson_writing import write_annotations
from bridge.cli import cli
from herohe_model.errors import ModelFileError


def features(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["features", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[object, ...]:
    """Options that name a small encoder and its weights."""
    table = write_table(tmp_path / "table.json", small())
    weights = write_weights(tmp_path / "w.safetensors", small())
    return ("--encoder", "kaiko-vits16", "--encoder-table", table, "--weights", weights)


def test_slides_become_files_that_check_finds_good(tmp_path: Path, encoder: tuple[object, ...]) -> None:
    slides, out = tmp_path / "slides", tmp_path / "features"
    slides.mkdir()
    for name in "ab":
        write_annotations(small_slide(slides / f"{name}.tif", seed=ord(name)), [drawn(64, 64, 256, 320)])
    before = sorted(slides.iterdir())
    done = features(
        "extract", slides, *encoder, "--output", out, "--region-class", "Tumor", "--device", "cpu"
    )
    assert done.exit_code == 0 and "2 extracted; 0 known before." in done.output
    assert "a.tif: extracted, 80 patches" in done.stderr and "kaiko-vits16 on cpu (fp32, torch" in done.stderr
    again = features(
        "extract", slides, *encoder, "--output", out, "--region-class", "Tumor", "--device", "cpu"
    )
    assert again.exit_code == 0 and "2 extracted; 2 known before." in again.output
    assert sorted(slides.iterdir()) == before
    checked = features("check", out, "--encoder", "kaiko-vits16", "--encoder-table", encoder[3])
    assert checked.exit_code == 0
    assert "a: trident, kaiko-vits16, 80 patches of 48 numbers, 16 µm (32 px)" in checked.output
    assert "2 files can be used, with 160 patches." in checked.output


def test_weights_of_another_encoder_extract_nothing(tmp_path: Path, encoder: tuple[object, ...]) -> None:
    small_slide(tmp_path / "a.tif")
    wrong = write_weights(tmp_path / "wrong.safetensors", small("virchow2"))
    with pytest.raises(ModelFileError, match=r"wrong\.safetensors are no weights of kaiko-vits16"):
        features("extract", tmp_path, *encoder[:-1], wrong, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_tools_is_checked_where_it_is(tmp_path: Path) -> None:
    write_trident(tmp_path / "a.h5", *bag())
    write_stamp(tmp_path / "b.h5", *bag(), convention="2.0")
    (tmp_path / "c.h5").write_bytes(b"no")
    done = features("check", tmp_path, "--encoder", "uni_v1")
    assert done.exit_code == 1
    assert "a: trident, uni_v1, 6 patches of 4 numbers, 128 µm (256 px), coordinates in px" in done.output
    assert "b: stamp, uni, 6 patches of 4 numbers, 128 µm, coordinates in µm" in done.output
    problems = [line for line in done.output.splitlines() if line.startswith("PROBLEM")]
    assert any("c.h5 is damaged" in line for line in problems)
    assert any("a is not of uni_v1, which has 1024 numbers" in line for line in problems)
