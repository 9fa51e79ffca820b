"""Training of bag models by folds."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
from helpers.drawn_bags import DIMENSION, read_labels, write_cohort, write_drawn

from herohe_model.errors import CancelledError, OptionError, SlideError
from herohe_model.features.find import find_features
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.card import read_card
from herohe_model.training.bag_folds import FeatureSlide, train_bag_folds
from herohe_model.training.bag_loop import BagOptions
from herohe_model.training.cross_validation import FoldPlan, Trained

OPTIONS = BagOptions(width=24, epochs=12, batch=4, lr=5e-3, weight_decay=0.01)
PLAN = FoldPlan("folds", 3)


def slides_of(folder: Path, labels: Path) -> list[FeatureSlide]:
    found = find_features(folder / "features")
    return [FeatureSlide(case, found[case.id]) for case in read_labels(labels).cases]


def train(slides: list[FeatureSlide], folder: Path, options: BagOptions = OPTIONS, **more: object) -> Trained:
    return train_bag_folds(slides, PLAN, options, folder, name="small", trained_on="drawn", **more)  # type: ignore[arg-type]


def auc(trained: Trained) -> float:
    assert trained.evaluation is not None
    (value,) = [m.value for m in trained.evaluation.status if m.name == "auc"]
    assert value is not None
    return value


def test_attention_finds_nests_that_a_mean_drowns(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 60, share=0.1))
    longer = BagOptions(width=24, epochs=24, batch=4, lr=5e-3, weight_decay=0.01)
    attention = auc(train(slides, tmp_path / "attention", longer))
    mean = auc(train(slides, tmp_path / "mean", msgspec.structs.replace(longer, pooling="mean")))
    assert attention > 0.85 and attention > mean + 0.05, (attention, mean)


def test_a_run_leaves_what_a_training_on_slides_leaves_and_the_same_bytes_again(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 15))
    trained = train(slides, tmp_path / "run")
    card, sha256 = read_card(trained.model)
    assert card.bag is not None and card.bag.encoder == "small" and card.bag.dimension == DIMENSION
    assert card.members == 3 and card.patch_px == 256 and card.mpp == 0.5
    assert "15 cases" in card.trained_on and "have not seen it" in card.threshold_chosen
    for name in ("out-of-fold.json", "out-of-fold.csv", "evaluation.json", "evaluation.html"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert load_bag_model(trained.model).sha256 == sha256
    assert read_card(train(slides, tmp_path / "again").model)[1] == sha256


def test_a_run_that_was_stopped_goes_on_and_ends_alike(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 15))
    whole = read_card(train(slides, tmp_path / "whole").model)[1]
    for asked in (20, 60):
        calls = iter(range(10_000))
        with pytest.raises(CancelledError):
            train(slides, tmp_path / "run", stop=lambda calls=calls, asked=asked: next(calls) >= asked)
    assert read_card(train(slides, tmp_path / "run").model)[1] == whole


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 15))
    train(slides, tmp_path / "run")
    with pytest.raises(OptionError, match="holds a run with other options"):
        train(slides, tmp_path / "run", BagOptions(width=8))
    write_drawn(slides[0].path, np.ones((30, DIMENSION), np.float32))
    with pytest.raises(OptionError, match="other slides, labels or features"):
        train(slides, tmp_path / "run")


def test_features_that_cannot_be_used_are_all_named_and_may_be_left_out(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 15))
    write_drawn(slides[3].path, np.ones((30, DIMENSION), np.float32), encoder="other")
    write_drawn(slides[4].path, np.ones((3, DIMENSION), np.float32))
    with h5py.File(slides[5].path, "r+") as file:
        file["features"][2, 1] = np.nan
    slides[6].path.write_bytes(b"nothing")
    with pytest.raises(SlideError) as refused:
        train(slides, tmp_path / "run")
    for word in (
        "case3",
        "of other, not of small",
        "case4",
        "It has 3 patches",
        "case5",
        "case6",
        "no HDF5 file",
    ):
        assert word in str(refused.value)
    assert not (tmp_path / "run").exists()
    trained = train(slides, tmp_path / "run", skip_unusable=True)
    assert [p.name for p in trained.left_out] == ["case3", "case4", "case5", "case6"]


def test_labels_that_were_shuffled_teach_nothing(tmp_path: Path) -> None:
    slides = slides_of(tmp_path, write_cohort(tmp_path, 45))
    order = np.random.default_rng(5).permutation(len(slides))
    for place, source in enumerate(order):
        shutil.copy(slides[source].path, tmp_path / f"{place}.h5")
    for place, slide in enumerate(slides):
        shutil.move(tmp_path / f"{place}.h5", slide.path)
    trained = train(slides, tmp_path / "run")
    assert trained.evaluation is not None
    (measure,) = [m for m in trained.evaluation.status if m.name == "auc"]
    assert measure.low is not None and measure.high is not None
    assert measure.low < 0.5 < measure.high


def test_a_number_of_patches_that_tells_the_status_is_said_on_the_page(tmp_path: Path) -> None:
    """Whoever scans positive slides larger teaches a model to count; the page of the training must tell."""
    rng = np.random.default_rng(0)
    for name, telling in (("telling", True), ("not", False)):
        labels = write_cohort(tmp_path / name, 60)
        for k in range(60):
            positive = k % 5 >= 3
            count = int(rng.integers(60, 80)) if positive and telling else int(rng.integers(20, 80))
            write_drawn(
                tmp_path / name / "features" / f"case{k}.h5",
                rng.normal(size=(count, DIMENSION)).astype(np.float32),
            )
        trained = train(slides_of(tmp_path / name, labels), tmp_path / name / "run")
        assert trained.evaluation is not None
        (control,) = [c for c in trained.evaluation.controls if c.name == "number of foreground patches"]
        assert control.flagged == telling, control
        said = any("number of foreground patches alone tells" in w for w in trained.evaluation.warnings)
        assert said == telling
