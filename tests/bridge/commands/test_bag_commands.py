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
        *("--cohort", "BCNB"),
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


def test_a_trained_model_is_published_got_and_predicts_the_same_by_its_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEROHE_MODELS", str(tmp_path / "models"))
    model, out = trained / "run" / "model.safetensors", tmp_path / "out"
    code, said = run("model", "publish", model, "--to", out)
    assert code == 1 and "licence of small (not known)" in said
    row = '{"name": "small", "said": "drawn", "models": "yes", "facts_from": "here"}'
    (tmp_path / "terms.json").write_text(f'{{"format": 1, "networks": [{row}]}}', encoding="utf-8")
    code, said = run("model", "publish", model, "--to", out, "--terms", tmp_path / "terms.json")
    assert code == 0 and "licence cc-by-nc-4.0" in said, said
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "BCNB, out of fold (cross-validation): 40 cases" in page and "case1" not in page
    assert run("model", "get", out, "--name", "reader")[0] == 0
    said_by = {}
    for named in (model, "reader"):
        csv = tmp_path / "submission.csv"
        assert run("predict", "--features", trained / "features", "--model", named, "--output", csv)[0] == 0
        said_by[str(named)] = csv.read_bytes()
    assert said_by["reader"] == said_by[str(model)]


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
