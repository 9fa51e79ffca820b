"""From features on disk to a bag model, and from that to predictions."""

from __future__ import annotations

from pathlib import Path

import anndata
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.drawn_bags import DIMENSION, write_cohort, write_drawn
from helpers.small_encoders import small, write_table, write_weights
from helpers.small_slides import drawn, small_slide

from bridge.annotations.geojson_writing import write_annotations
from bridge.cli import cli
from bridge.results.files import read_json
from bridge.results.schema import SlideResult
from herohe_model.dataset.submission import read_submission
from herohe_model.features.read import read_features
from herohe_model.files import sha256_of

TRAINING = ("--width", 16, "--epochs", 25, "--batch", 4, "--lr", 0.005, "--folds", 3)


def read_results(folder: Path) -> list[SlideResult]:
    return list(read_json(folder / "results.json"))


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


def test_from_slides_to_features_to_a_model_to_results_that_agree_on_every_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user does, with an encoder of his own in a file: train on features, and score slides."""
    encoder = msgspec.structs.replace(small(), name="mine", source="")
    monkeypatch.setenv("HEROHE_ENCODER_TABLE", str(write_table(tmp_path / "table.json", encoder)))
    weights = write_weights(tmp_path / "weights.safetensors", encoder)
    slides, features = tmp_path / "slides", tmp_path / "features"
    slides.mkdir()
    lines = ["case,ihc,ish,status"]
    for number, row in enumerate(("0,,", "1,,", "2,negative,", "2,positive,", "3,,") * 2):
        slide = small_slide(slides / f"s{number}.tif", seed=number)
        write_annotations(slide, [drawn(64, 64, 256, 320)])
        lines.append(f"s{number},{row}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    inside = ("--region-class", "Tumor")
    extracted = ("--encoder", "mine", "--weights", weights, "--output", features, "--patch-px", 32)
    code, said = run("features", "extract", slides, *extracted, *inside)
    assert code == 0, said
    labelled = ("--features", features, "--labels", tmp_path / "labels.csv", "--output", tmp_path / "run")
    code, said = run("train", *labelled, "--width", 8, "--epochs", 2, "--folds", 2)
    assert code == 0, said

    model = tmp_path / "run" / "model.safetensors"
    one = ("--model", model, *inside, "--device", "cpu", "--precision", "fp32", "--engine", "torch")
    code, said = run("score", slides, *one)
    assert code == 0 and "10 scored" in said, said
    code, said = run("predict", slides, *one, "--output", tmp_path / "slides.csv")
    assert code == 0, said
    code, said = run(
        "predict", "--features", features, "--model", model, "--output", tmp_path / "features.csv"
    )
    assert code == 0, said
    of_slides, of_features = (read_submission(tmp_path / f"{name}.csv") for name in ("slides", "features"))
    assert of_slides.case_ids == of_features.case_ids
    # The encoder may compute in another engine or precision than when its features were extracted.
    np.testing.assert_allclose(of_slides.soft, of_features.soft, atol=2e-3)
    results = read_json(slides / "herohe-bridge" / "results.json")
    by_name = {Path(result.slide).stem: result for result in results}
    for name, soft in zip(of_slides.case_ids, of_slides.soft, strict=True):
        union = by_name[name].union
        assert union is not None and union.prediction is not None and union.is_bag
        assert union.prediction.p_positive == pytest.approx(soft, abs=1e-6)
        assert union.patches_sampled == 80
    made = by_name["s0"].provenance
    assert made is not None and (made.encoder, made.encoder_sha256) == ("mine", sha256_of(weights))
    assert run("report", slides / "herohe-bridge")[0] == 0

    # The same from the files alone: the slides' pixels are not read, and the encoder is not there.
    weights.rename(tmp_path / "gone.safetensors")
    disk = ("--features", features, "--output", tmp_path / "disk")
    code, said = run("score", slides, "--model", model, *inside, *disk)
    assert code == 0 and "10 scored" in said, said
    for result in read_results(tmp_path / "disk"):
        union, embedded = result.union, by_name[Path(result.slide).stem].union
        assert union is not None and union.prediction is not None and embedded is not None
        assert [(p.x, p.y) for p in union.patches] == [(p.x, p.y) for p in embedded.patches]
        soft = dict(zip(of_features.case_ids, of_features.soft, strict=True))[Path(result.slide).stem]
        assert union.prediction.p_positive == pytest.approx(soft, abs=1e-6)
        assert union.artefacts is None and union.out_of_focus is None and union.patches[0].saturation is None
        assert result.provenance is not None and len(result.provenance.features_sha256) == 64
        assert any("no pixel was read" in warning for warning in result.warnings)
    assert run("report", tmp_path / "disk")[0] == 0
    assert run("export", tmp_path / "disk", "--to", tmp_path / "tables")[0] == 0
    exported = ("export", tmp_path / "disk", "--to", tmp_path / "tables", "--format", "anndata")
    assert run(*exported, "--feature-files", features)[0] == 0
    first = read_results(tmp_path / "disk")[0]
    table = anndata.read_h5ad(tmp_path / "tables" / "anndata" / "00001-s0.tif.h5ad")
    assert first.union is not None and table.shape == (80, encoder.dimension)
    held = read_features(features / "s0.h5")
    assert held.coords is not None
    order = {tuple(corner): k for k, corner in enumerate(held.coords.tolist())}
    rows = [order[x, y] for x, y in zip(table.obs["x"], table.obs["y"], strict=True)]
    np.testing.assert_array_equal(table.X, held.features[rows])
    half = first.union.patches[0].size / 2
    np.testing.assert_array_equal(table.obsm["spatial"] - half, table.obs[["x", "y"]].to_numpy())
    assert table.obs["attention"].sum() == pytest.approx(1, abs=1e-4)
    assert "esearch use only" in table.uns["herohe_bridge"]["note"]
    code, said = run("score", slides, "--model", model, *inside, *disk)
    assert code == 0 and "10 known before, 0 written back" in said, said
    # Of a slide without features, that is said; the others are scored. Other features are scored again.
    (features / "s3.h5").unlink()
    (features / "s4.h5").write_bytes((features / "s5.h5").read_bytes())
    code, said = run("score", slides, "--model", model, *inside, *disk)
    assert code == 1 and "There are no features of s3.tif" in said and "8 known before" in said, said


def test_a_bag_model_is_verified_by_its_golden_logits(trained: Path) -> None:
    code, said = run("model", "verify", trained / "run" / "model.safetensors")
    assert code == 0 and "golden logits" in said


def test_slides_or_features_are_named_and_not_both(trained: Path, tmp_path: Path) -> None:
    labels = ("--labels", trained / "labels.csv", "--output", tmp_path / "run")
    for command in (("train", *labels), ("predict", "--model", trained / "run" / "model.safetensors")):
        for both in ((), (tmp_path, "--features", trained / "features")):
            code, said = run(*command, *both)
            assert code == 2 and "Name either SLIDES or --features DIR" in said


def test_candidates_are_compared_by_one_command(trained: Path, tmp_path: Path) -> None:
    labels = ("--labels", trained / "labels.csv", "--output", tmp_path / "run")
    code, said = run(
        *("train", "--features", trained / "features", "--compare", "pooling", "--compare", "head"),
        *labels,
        *TRAINING,
        *("--epochs", 6),
    )
    assert code == 0, said
    for name in ("attention, ordered", "attention, free", "mean, ordered", "mean, free"):
        assert f"features, {name}: AUC" in said
    assert "of 6 pairs" in said and "Chosen: features, " in said and "candidates.html" in said
    page = (tmp_path / "run" / "candidates.html").read_text(encoding="utf-8")
    assert 'href="candidate-4/evaluation.html"' in page and "All pairs (6)" in page
    assert run("model", "verify", tmp_path / "run" / "model.safetensors")[0] == 0


def test_what_cannot_be_compared_is_a_wrong_usage(trained: Path, tmp_path: Path) -> None:
    labels = ("--labels", trained / "labels.csv", "--output", tmp_path / "run")
    here = ("--features", trained / "features")
    for given, expected in (
        ((*here, "--features", tmp_path), "add --compare features"),
        ((*here, "--compare", "features"), "two folders or more"),
        ((*here, *here, "--compare", "features"), "given twice"),
        ((tmp_path, "--compare", "head"), "goes with --features"),
    ):
        code, said = run("train", *given, *labels)
        assert code == 2 and expected in said, said
