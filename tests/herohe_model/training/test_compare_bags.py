"""Several bag models on the same folds, and what the best of them is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.drawn_bags import drawn_bag, read_labels, write_cohort, write_drawn
from helpers.simulated_logits import statuses
from sklearn.metrics import roc_auc_score

from herohe_model.dataset.cases import Case
from herohe_model.dataset.folds import Fold, stratified_folds
from herohe_model.dataset.predictions import Decision, Predictions
from herohe_model.errors import CancelledError, OptionError
from herohe_model.evaluation.candidates import Candidates, holm
from herohe_model.evaluation.out_of_fold import Threshold
from herohe_model.features.find import find_features
from herohe_model.grades import Target
from herohe_model.model.card import read_card
from herohe_model.training.bag_folds import FeatureSlide
from herohe_model.training.bag_loop import BagOptions
from herohe_model.training.calibrate import UnseenLogits
from herohe_model.training.choose import Chosen
from herohe_model.training.compare_bags import BagCandidate, choose_candidate, train_candidates
from herohe_model.training.cross_validation import CardFacts, FoldPlan, FoldsRun, pairs_of

OPTIONS = BagOptions(width=24, epochs=20, batch=4, lr=5e-3, weight_decay=0.01)
POSITIVE = Target.IHC_ISH.steps.index(Target.IHC_ISH.default_positive_step)


def slides_of(folder: Path, labels: Path) -> tuple[FeatureSlide, ...]:
    found = find_features(folder)
    return tuple(FeatureSlide(case, found[case.id]) for case in read_labels(labels).cases if case.id in found)


def noise_run(cases: tuple[Case, ...], folds: tuple[Fold, ...], rng: np.random.Generator) -> FoldsRun:
    """Return a run whose networks know nothing; each network has its own scale, and its own noise."""
    pairs = pairs_of(folds)
    by_network = []
    for held_out in [fold.held_out for fold in (*folds, *pairs.values())]:
        z = rng.normal(rng.normal(0, 3), 1, (len(held_out), 4))
        by_network.append(dict(zip(held_out.tolist(), z, strict=True)))
    number = np.empty(len(cases), dtype=np.int64)
    for k, fold in enumerate(folds):
        number[fold.held_out] = k
    logits = tuple(np.stack([said[i] for said in by_network if i in said])[None] for i in range(len(cases)))
    unseen = UnseenLogits(cases, logits, number, Target.IHC_ISH)
    p = 1 / (1 + np.exp(-np.array([z[..., POSITIVE].mean() for z in logits])))
    predictions = Predictions(tuple(c.id for c in cases), p, p >= 0.5, Decision(0.5, 0.5, 0.5, ""))
    chosen = Chosen(cases, predictions, Threshold(0.5, 0.0, 0.0, ""))
    return FoldsRun(cases, folds, (), CardFacts("n", "", "trained", "", ()), chosen, unseen)


def test_the_best_of_many_that_know_nothing_is_worth_nothing() -> None:
    """The trap of every comparison: among twenty coins the best looks good on the cases that chose it."""
    cases = tuple(
        Case("train", f"{k:03d}", status="HER2-positive" if k % 2 else "HER2-negative") for k in range(40)
    )
    folds = stratified_folds(cases, 5)
    apparent, honest = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        runs = [noise_run(cases, folds, rng) for _ in range(20)]
        best, of_fold = choose_candidate(runs)
        unseen = runs[best].unseen
        assert unseen is not None
        truth = statuses(unseen)

        def within(which: list[int], runs: list[FoldsRun] = runs, truth: np.ndarray = truth) -> float:
            found = []
            for k, fold in enumerate(folds):
                other = runs[which[k]].unseen
                assert other is not None
                z = [other.logits[i][..., POSITIVE].mean() for i in fold.held_out.tolist()]
                found.append(roc_auc_score(truth[fold.held_out], z))
            return float(np.mean(found))

        apparent.append(within([best] * 5))
        honest.append(within(of_fold))
    assert np.mean(apparent) > 0.62
    assert abs(np.mean(honest) - 0.5) < 3 * np.std(honest) / np.sqrt(len(honest)), np.mean(honest)
    assert abs(np.mean(honest) - 0.5) < 0.05


def test_a_fold_is_chosen_for_by_networks_that_have_not_seen_it() -> None:
    """One candidate is right of the other folds only where its networks have seen fold 1: that is a leak."""
    cases = tuple(
        Case("train", f"{k:03d}", status="HER2-positive" if k % 2 else "HER2-negative") for k in range(30)
    )
    folds = stratified_folds(cases, 3)
    rng = np.random.default_rng(0)
    fair, leaking = noise_run(cases, folds, rng), noise_run(cases, folds, rng)
    assert fair.unseen is not None and leaking.unseen is not None
    for k, case in enumerate(cases):
        truth = 9.0 if case.positive else -9.0
        fair.unseen.logits[k][...] = truth * 0.05 + rng.normal(0, 0.1, fair.unseen.logits[k].shape)
        # Member 0 is the fold's own network, which was trained on both other folds.
        leaking.unseen.logits[k][:, 0] = 10 * truth
        leaking.unseen.logits[k][:, 1:] = rng.normal(0, 1, leaking.unseen.logits[k][:, 1:].shape)
    best, of_fold = choose_candidate([leaking, fair])
    assert of_fold == [1, 1, 1] and best == 0


def test_candidates_share_folds_are_compared_in_pairs_and_the_best_is_the_model(tmp_path: Path) -> None:
    labels = write_cohort(tmp_path, 60, share=0.1)
    # Another encoder: to it, the level shows nowhere. It lacks two slides, and one case is there twice.
    rng = np.random.default_rng(1)
    (tmp_path / "blind").mkdir()
    for k in range(58):
        bag = drawn_bag(0, rng, share=0.1)
        write_drawn(tmp_path / "blind" / f"case{k}.h5", bag, encoder="blind")
    twin = (tmp_path / "blind" / "case5.h5").read_bytes()
    (tmp_path / "blind" / "case10.h5").write_bytes(twin)
    seeing, blind = slides_of(tmp_path / "features", labels), slides_of(tmp_path / "blind", labels)
    candidates = [
        BagCandidate("blind, attention", blind, OPTIONS),
        BagCandidate("seeing, mean", seeing, msgspec.structs.replace(OPTIONS, pooling="mean")),
        BagCandidate("seeing, attention", seeing, OPTIONS),
    ]
    said: list[str] = []

    def train(stop_after: int | None = None) -> Candidates:
        asked = iter(range(10**9))
        return train_candidates(
            candidates,
            FoldPlan("folds", 3),
            tmp_path / "run",
            name="three",
            trained_on="drawn",
            listener=_Listener(said),
            stop=lambda: stop_after is not None and next(asked) >= stop_after,
        )[1]

    with pytest.raises(CancelledError):
        train(stop_after=600)
    found = train()
    assert found.chosen == "seeing, attention" and len(found.chosen_for) == 3
    assert not any("blind" in name for _, name in found.chosen_for)
    assert found.measured[0].name == "seeing, attention" and found.cases == 58
    assert any("train/case58, train/case59" in line for line in said)
    (pair,) = [p for p in found.pairs if p.second == "blind, attention" and p.first == found.chosen]
    assert pair.gains[0].low is not None and pair.gains[0].low > 0
    assert pair.holm[0] is not None and pair.gains[0].p_value is not None
    assert pair.gains[0].p_value <= pair.holm[0] < 0.05
    folds = {(tmp_path / "run" / f"candidate-{k}" / "out-of-fold.csv").read_text() for k in (1, 2, 3)}
    ids = {tuple(line.split(",")[0] for line in text.splitlines()) for text in folds}
    assert len(folds) == 3 and len(ids) == 1
    card, sha256 = read_card(tmp_path / "run" / "model.safetensors")
    assert card.bag is not None and card.bag.pooling == "attention" and card.bag.encoder == "small"
    assert "chosen among 3 candidates" in card.trained_on and card.metrics["out_of_fold"]
    own = read_card(tmp_path / "run" / "candidate-3" / "model.safetensors")[0]
    assert own.decision_threshold == card.decision_threshold and own.calibration == card.calibration
    page = (tmp_path / "run" / "evaluation.html").read_text(encoding="utf-8")
    assert "best of 3 candidates" in page
    assert train() == found and read_card(tmp_path / "run" / "model.safetensors")[1] == sha256


def test_without_nested_folds_nothing_is_chosen(tmp_path: Path) -> None:
    candidates = [BagCandidate("a", (), OPTIONS), BagCandidate("b", (), OPTIONS)]
    for plan in (FoldPlan("folds", 5, nested=False), FoldPlan("folds", 2), FoldPlan("none")):
        with pytest.raises(OptionError, match="nested folds"):
            train_candidates(candidates, plan, tmp_path, name="x")


def test_of_two_laboratories_there_is_no_pair_to_leave_out(tmp_path: Path) -> None:
    """Each laboratory's cases have one network that has not seen them, and none without another one."""
    slides = slides_of(tmp_path / "features", write_cohort(tmp_path, 20))
    halves = tuple(
        replace(slide, case=replace(slide.case, laboratory="AB"[k % 2])) for k, slide in enumerate(slides)
    )
    options = msgspec.structs.replace(OPTIONS, epochs=1)
    candidates = [
        BagCandidate("a", halves, options),
        BagCandidate("b", halves, msgspec.structs.replace(options, pooling="mean")),
    ]
    with pytest.raises(OptionError, match="nested folds"):
        train_candidates(candidates, FoldPlan("laboratories"), tmp_path / "run", name="x")


def test_holm_is_that_of_the_paper() -> None:
    statsmodels = [0.04, None, 0.01, 0.03, 0.005]
    assert holm(statsmodels) == pytest.approx([0.06, None, 0.03, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([None]) == [None]


class _Listener:
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def begin(self, *_: object) -> None: ...

    def advance(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        self._said.append(text)
