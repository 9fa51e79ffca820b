"""From features on disk to a bag model, and from that to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.drawn_bags import DIMENSION, write_cohort, write_drawn
from helpers.small_slides import small_slide

from bridge.cli import cli
from herohe_model.dataset.submission import read_submission

TRAINING = ("--width", 16, "--epochs", 25, "--batch", 4, "--lr", 0.005, "--folds", 3)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, f"{result.output}{result.exception or ''}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    labels = write_cohort(folder, 40, share=0.5)
    code, said = run(
        *("train", "--features", folder / "features", "--labels", labels, "--output", folder / "run"),
        *TRAINING,
    )
    assert code == 0, said
    assert "evaluation.html" in said and "Threshold:" in said
    return folder


def test_new_slides_are_predicted_from_their_features(trained: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "new", 20, seed=7, share=0.5)
    features = tmp_path / "new" / "features"
    write_drawn(features / "other.h5", np.ones((20, DIMENSION), np.float32), encoder="other")
    model, output = trained / "run" / "model.safetensors", tmp_path / "submission.csv"
    code, said = run("predict", "--features", features, "--model", model, "--output", output)
    assert code == 1 and "other: " in said and "of other, not of small" in said
    assert "20 of 21 slides predicted" in said and "esearch use only" in said
    submission = read_submission(output)
    assert submission.case_ids[:2] == ("case0", "case1")
    positive = np.array([int(name.removeprefix("case")) % 5 >= 3 for name in submission.case_ids])
    assert submission.soft[positive].mean() > submission.soft[~positive].mean() + 0.2
    before = output.read_bytes()
    run("predict", "--features", features, "--model", model, "--output", output)
    assert output.read_bytes() == before


def test_a_bag_model_is_not_asked_about_slides(trained: Path, tmp_path: Path) -> None:
    small_slide(tmp_path / "slide.tif")
    for command in ("score", "predict"):
        code, said = run(command, tmp_path, "--model", trained / "run" / "model.safetensors")
        assert code == 1 and "is a bag model" in said and "predict --features" in said


def test_a_bag_model_is_verified_by_its_golden_logits(trained: Path) -> None:
    code, said = run("model", "verify", trained / "run" / "model.safetensors")
    assert code == 0 and "golden logits" in said


def test_slides_or_features_are_named_and_not_both(trained: Path, tmp_path: Path) -> None:
    labels = ("--labels", trained / "labels.csv", "--output", tmp_path / "run")
    for command in (("train", *labels), ("predict", "--model", trained / "run" / "model.safetensors")):
        for both in ((), (tmp_path, "--features", trained / "features")):
            code, said = run(*command, *both)
            assert code == 2 and "Name either SLIDES or --features DIR" in said
