from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from herohe_model.dataset.cases import Case
from herohe_model.dataset.folds import Fold, stratified_folds
from herohe_model.dataset.predictions import (
    Decision,
    EvaluationError,
    Matched,
    Predictions,
    decision_of_calls,
    match_truth,
)
from herohe_model.errors import OptionError
from herohe_model.evaluation import metrics
from herohe_model.evaluation.evaluate import evaluate
from herohe_model.evaluation.leaderboard import CAVEATS, LEADERBOARD
from herohe_model.evaluation.out_of_fold import (
    OutOfFold,
    choose_temperature,
    choose_threshold,
    pool_folds,
)
from herohe_model.evaluation.page import page
from herohe_model.evaluation.schema import Evaluation, from_json, to_json
from herohe_model.grades import GRADES, Target, bit_probabilities

FOUR = Target.IHC_ISH


def cohort(n: int = 150, split: str = "test", seed: int = 0) -> list[Case]:
    """Cases with HEROHE's shares of grades, from three laboratories; every twentieth has no grade."""
    rng = np.random.default_rng(seed)
    cases = []
    for k in range(n):
        level = FOUR.levels[int(rng.choice(5, p=[0.12, 0.13, 0.35, 0.29, 0.11]))]
        ihc, _, ish = level.partition("/")
        positive = FOUR.levels.index(level) >= 3
        cases.append(
            Case(
                split,
                str(k),
                None if k % 20 == 19 else ihc,
                {"ISH+": "positive", "ISH-": "negative"}.get(ish),
                "HER2-positive" if positive else "HER2-negative",
                f"Lab {'ABC'[k % 3]}",
            )
        )
    return cases


def predicted(cases: list[Case], *, skill: float = 1.5, seed: int = 1, composites: int = 4) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = np.array([bool(case.positive) for case in cases])
    p = np.round(1 / (1 + np.exp(-(skill * (truth - 0.5) * 2 + rng.normal(0, 1, len(cases))))), 6)
    each = tuple(np.clip(np.round(v + rng.normal(0, 0.1, composites), 6), 0, 1) for v in p)
    at_least = np.sort(np.stack([p / 2, p, (1 + p) / 2]), axis=0)[::-1].T
    return Predictions(
        tuple(case.id for case in cases),
        p,
        p >= 0.45,
        Decision(0.45, 0.45, 0.45, "chosen out of fold"),
        grades=(at_least >= 0.5).sum(axis=1),
        at_least=at_least,
        composites=each,
        model="trial 0123456789ab",
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    cases = cohort()
    return evaluate(match_truth(predicted(cases), cases), title="Trial", resamples=300)


# Out-of-fold predictions, and what is chosen on them.


def out_of_fold(cases: list[Case], scale: float = 1.0, seed: int = 0, composites: int = 2) -> OutOfFold:
    """Noisy logits of each case from the model that was trained without it; `scale` makes them too sure."""
    rng = np.random.default_rng(seed)
    folds = stratified_folds(cases, 5)
    z = {
        k: scale
        * (np.array([-2.0, -0.5, 1.0, 2.0]) + 2.5 * bool(case.positive) + rng.normal(0, 1, (composites, 1)))
        for k, case in enumerate(cases)
    }
    return pool_folds(cases, folds, [{k: z[k] for k in fold.held_out.tolist()} for fold in folds], FOUR)


def test_only_out_of_fold_predictions_choose() -> None:
    p = np.array([0.1, 0.9])
    for choose in (choose_threshold, choose_temperature):
        for other in (p, predicted(cohort(10)), None):
            with pytest.raises(TypeError, match="OutOfFold"):
                choose(other)


def test_a_case_that_its_model_was_trained_on_is_refused() -> None:
    cases = cohort(10, "train")
    z = np.zeros((1, 4))
    for keys in ([case.key for case in cases], []):
        with pytest.raises(OptionError, match="trained on"):
            OutOfFold(tuple(cases[:1]), (z,), (frozenset(keys),), FOUR, ">=2+/ISH+")
    folds = stratified_folds(cases, 2)
    with pytest.raises(OptionError, match="does not hold out"):
        pool_folds(cases, folds, [{int(folds[0].train[0]): z}, {}], FOUR)
    # The same case once more, as another slide in the training part.
    leak = Fold("leak", np.array([0, 1]), np.array([2]))
    with pytest.raises(OptionError, match="model was trained on"):
        pool_folds([cases[0], cases[1], cases[0]], [leak], [{2: z}], FOUR)


def test_the_test_split_chooses_nothing() -> None:
    cases = cohort(10, "test")
    with pytest.raises(OptionError, match="test set chooses nothing"):
        out_of_fold(cases)


def test_predictions_that_make_no_sense_are_refused() -> None:
    cases = tuple(cohort(2, "train"))
    trained = (frozenset([("train", "other")]),) * 2
    good = np.zeros((1, 4))
    for bad in (np.zeros((1, 3)), np.zeros((0, 4)), np.full((1, 4), np.nan)):
        with pytest.raises(OptionError):
            OutOfFold(cases, (good, bad), trained, FOUR, ">=2+/ISH+")
    with pytest.raises(OptionError, match="predicted twice"):
        OutOfFold((cases[0], cases[0]), (good, good), trained, FOUR, ">=2+/ISH+")
    with pytest.raises(OptionError, match="no out-of-fold predictions"):
        pool_folds(cases, stratified_folds(cases, 2), [{}, {}], FOUR)


def test_no_threshold_has_a_greater_f1_than_the_chosen_one() -> None:
    for seed in range(20):
        cases = cohort(60, "train", seed)
        oof = out_of_fold(cases, seed=seed)
        chosen = choose_threshold(oof)
        truth = np.array([bool(case.positive) for case in cases])
        order = {case.key: k for k, case in enumerate(oof.cases)}
        p = oof.p_positive()[[order[case.key] for case in cases]]
        best = max(float(metrics.f1_score(truth, p >= t)) for t in [0.0, *p.tolist()])
        assert chosen.f1 == pytest.approx(best)
        assert float(metrics.f1_score(truth, p >= chosen.value)) == pytest.approx(best)
        assert chosen.value == round(chosen.value, 6) and f"{best:.4f}" in chosen.chosen


def simple(p: list[float], truth: list[bool]) -> OutOfFold:
    cases = tuple(
        Case("train", str(k), status="HER2-positive" if t else "HER2-negative") for k, t in enumerate(truth)
    )
    logits = tuple(np.array([[-9.0, math.log(v / (1 - v)), 9.0, 9.0]]) for v in p)
    return OutOfFold(cases, logits, (frozenset([("train", "x")]),) * len(p), FOUR, ">=2+/ISH+")


def test_the_threshold_lies_midway_in_the_gap() -> None:
    chosen = choose_threshold(simple([0.1, 0.2, 0.6, 0.9], [False, False, True, True]))
    assert chosen.value == 0.4 and chosen.f1 == 1.0


def test_among_equal_f1_the_widest_gap_is_taken_and_then_the_lowest() -> None:
    # F1 is 2/3 from 0.15 (1 of 1 hit, 1 false alarm) and from 0.55 (1 hit of 2 positive, none false).
    truth = [True, False, True]
    assert choose_threshold(simple([0.2, 0.5, 0.9], truth)).value == 0.1
    two_of_three = [True, False, False, True]
    chosen = choose_threshold(simple([0.1, 0.2, 0.3, 0.9], two_of_three))
    assert chosen.value == 0.6 and chosen.f1 == pytest.approx(2 / 3)
    equal_gaps = choose_threshold(simple([0.25, 0.5, 0.625, 0.875], [True, False, False, True]))
    assert equal_gaps.value == 0.125


def test_a_threshold_separates_what_differs_in_the_last_stored_digit() -> None:
    oof = simple([0.5, 0.500001], [False, True])
    chosen = choose_threshold(oof)
    assert (oof.p_positive() >= chosen.value).tolist() == [False, True] and chosen.f1 == 1.0


def test_a_threshold_that_calls_everything_positive_says_so() -> None:
    chosen = choose_threshold(simple([0.9, 0.2], [False, True]))
    assert chosen.f1 == chosen.always_positive_f1 and "no threshold is better" in chosen.chosen


def test_a_threshold_needs_a_positive_case() -> None:
    with pytest.raises(OptionError, match="No out-of-fold case is HER2-positive"):
        choose_threshold(simple([0.1, 0.2], [False, False]))


def test_cases_of_unknown_status_do_not_move_the_threshold() -> None:
    known = simple([0.1, 0.2, 0.6, 0.9], [False, False, True, True])
    more = OutOfFold(
        (*known.cases, Case("train", "u", "2+")),
        (*known.logits, np.array([[-9.0, 0.0, 9.0, 9.0]])),
        (*known.trained_on, known.trained_on[0]),
        FOUR,
        ">=2+/ISH+",
    )
    assert choose_threshold(more).value == choose_threshold(known).value


def loss_at(oof: OutOfFold, temperature: float) -> float:
    from herohe_model.dataset.cases import target_arrays

    bits, known = target_arrays(oof.cases, oof.target)
    q = np.clip(oof.bit_probabilities(temperature), 1e-12, 1 - 1e-12)
    return float(-np.where(bits == 1, np.log(q), np.log(1 - q))[known].mean())


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_has_the_least_negative_log_likelihood(scale: float) -> None:
    oof = out_of_fold(cohort(120, "train"), scale)
    chosen = choose_temperature(oof)
    least = loss_at(oof, chosen)
    for other in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert loss_at(oof, chosen * other) >= least - 1e-9


def test_logits_that_are_too_sure_get_a_temperature_as_many_times_higher() -> None:
    cases = cohort(200, "train")
    once, thrice = (choose_temperature(out_of_fold(cases, scale)) for scale in (1.0, 3.0))
    assert thrice == pytest.approx(3 * once, rel=1e-3)


def test_probabilities_are_those_that_scoring_would_store() -> None:
    oof = out_of_fold(cohort(30, "train"), composites=3)
    p = oof.p_positive(1.7)
    for value, z in zip(p, oof.logits, strict=True):
        assert value == round(float(bit_probabilities(z, temperature=1.7)[:, 1].mean()), 6)


def test_out_of_fold_predictions_can_be_evaluated() -> None:
    cases = cohort(100, "train")
    oof = out_of_fold(cases)
    threshold = choose_threshold(oof, temperature=1.2)
    predictions = oof.predictions(1.2, threshold)
    made = evaluate(Matched(predictions, oof.cases), resamples=100)
    assert made.measure("f1").value == pytest.approx(threshold.f1, abs=1e-6)
    assert made.threshold == threshold.value and made.agreement is not None


# Matching.


def test_predictions_meet_their_truth_in_any_order_and_the_rest_is_named() -> None:
    cases = cohort(6)
    predictions = predicted(cases).take([5, 3, 1, 0])
    predictions = Predictions(
        ("5", "3", "1", "stray"), predictions.p_positive, predictions.called, predictions.decision,
        not_scored=(("2", "unreadable: cut off"),),
    )  # fmt: skip
    matched = match_truth(predictions, cases)
    assert [case.id for case in matched.cases] == ["5", "3", "1"]
    assert matched.predictions.p_positive.tolist() == predictions.p_positive[:3].tolist()
    assert matched.without_truth == ("stray",)
    assert dict(matched.without_prediction) == {
        "0": "no such slide in the results",
        "2": "unreadable: cut off",
        "4": "no such slide in the results",
    }


def test_nothing_matched_is_an_error_that_shows_both_sides() -> None:
    cases = cohort(3)
    with pytest.raises(EvaluationError, match=r"Slides: 0, 1, 2\. Cases: 900"):
        match_truth(predicted(cases), [Case("test", "900", "0")])
    with pytest.raises(EvaluationError, match="in the splits test and train"):
        match_truth(predicted(cases), [Case("test", "1", "0"), Case("train", "1", "0")])


def test_predictions_refuse_what_does_not_fit_together() -> None:
    p, called = np.array([0.5, 0.6]), np.array([True, True])
    decision = decision_of_calls(p, called, "")
    with pytest.raises(EvaluationError, match="two predictions of a"):
        Predictions(("a", "a"), p, called, decision)
    with pytest.raises(EvaluationError, match="not from 0 to 1 for b"):
        Predictions(("a", "b"), np.array([0.5, np.nan]), called, decision)
    with pytest.raises(EvaluationError, match="differ in length"):
        Predictions(("a", "b"), p, called[:1], decision)


def test_calls_tell_between_which_values_the_threshold_was() -> None:
    p = np.array([0.2, 0.4, 0.7])
    decision = decision_of_calls(p, p >= 0.5, "")
    assert (decision.threshold, decision.above, decision.up_to) == (None, 0.4, 0.7)
    assert decision.consistent and decision.cut == pytest.approx(0.55)
    mixed = decision_of_calls(p, np.array([True, False, True]), "")
    assert not mixed.consistent and mixed.cut == 0.5


# The evaluation.


def test_measures_are_those_of_the_cases(evaluation: Evaluation) -> None:
    cases = cohort()
    predictions = predicted(cases)
    truth = np.array([case.positive for case in cases])
    expected = {
        "f1": metrics.f1_score(truth, predictions.called),
        "precision": metrics.precision(truth, predictions.called),
        "recall": metrics.recall(truth, predictions.called),
        "auc": metrics.roc_auc(truth, predictions.p_positive),
        "brier": metrics.brier_score(truth, predictions.p_positive),
    }
    for name, value in expected.items():
        measure = evaluation.measure(name)
        assert measure.value == pytest.approx(float(value), abs=1e-6)
        assert measure.low is not None and measure.high is not None
        assert measure.low < measure.value < measure.high
    graded = np.array([case.ihc is not None for case in cases])
    assert evaluation.graded == graded.sum() == 143
    grades = np.array([GRADES.index(case.ihc or "0") for case in cases])[graded]
    kappa = metrics.quadratic_kappa(grades, predictions.grades[graded])
    assert evaluation.measure("quadratic_kappa").value == pytest.approx(float(kappa), abs=1e-6)
    assert np.sum(evaluation.grade_confusion) == 143
    tp, fp, fn, tn = evaluation.status_counts
    assert tp + fn == evaluation.positive and fp + tn == evaluation.negative


def test_trivial_answers_stand_beside_every_measure(evaluation: Evaluation) -> None:
    share = evaluation.positive / evaluation.cases
    always = {m.name: m.trivial[0] for m in evaluation.status}
    assert {t.answer for t in always.values()} == {"always positive"}
    assert always["f1"].value == pytest.approx(2 * share / (1 + share), abs=1e-6)
    assert always["auc"].value == 0.5 and always["recall"].value == 1.0
    assert always["accuracy"].value == pytest.approx(share, abs=1e-6)
    brier = {t.answer: t.value for t in evaluation.measure("brier").trivial}
    assert brier["the prevalence for all"] == pytest.approx(share * (1 - share), abs=1e-6)
    assert {t.answer for m in evaluation.grade for t in m.trivial} == {"always 2+"}
    for measure in (*evaluation.status, *evaluation.grade):
        for trivial in measure.trivial:
            sign = 1 if measure.better == "higher" else -1
            assert trivial.gain == pytest.approx(sign * (measure.value - trivial.value), abs=2e-6)


def test_a_gain_is_compared_within_each_resample(evaluation: Evaluation) -> None:
    """Paired differences vary less than the intervals of the two, taken apart, would allow."""
    accuracy = evaluation.measure("accuracy")
    trivial = accuracy.trivial[0]
    assert trivial.gain_low > 0 and trivial.gain_low < trivial.gain < trivial.gain_high


def test_chance_does_not_gain_on_the_trivial_answer() -> None:
    cases = cohort()
    made = evaluate(match_truth(predicted(cases, skill=0.0), cases), resamples=300)
    auc = made.measure("auc")
    assert auc.low < 0.5 < auc.high
    assert made.measure("f1").trivial[0].gain_low < 0


def test_groups_add_up(evaluation: Evaluation) -> None:
    cases = cohort()
    for groups, names in (
        (evaluation.by_laboratory, ["Lab A", "Lab B", "Lab C"]),
        (evaluation.by_grade, [*GRADES, "not known"]),
    ):
        assert [g.name for g in groups] == names
        assert sum(g.cases for g in groups) == evaluation.cases
        assert sum(g.sensitivity.hits for g in groups) == evaluation.status_counts[0]
        assert sum(g.specificity.hits for g in groups) == evaluation.status_counts[3]
    at_2 = evaluation.equivocal
    assert at_2 is not None and at_2.cases == sum(case.ihc == "2+" for case in cases)
    assert at_2.sensitivity.of == sum(case.ihc == "2+" and bool(case.positive) for case in cases)
    assert [g.name for g in evaluation.steps] == [">=1+", ">=2+", "3+"]


def test_agreement_counts_composites_that_are_called_as_the_slide(evaluation: Evaluation) -> None:
    cases = cohort()
    predictions = predicted(cases)
    shares = [
        np.mean((p >= 0.45) == c) for p, c in zip(predictions.composites, predictions.called, strict=True)
    ]
    agreement = evaluation.agreement
    assert agreement is not None and agreement.slides == 150
    assert agreement.mean_share == pytest.approx(np.mean(shares), abs=1e-6)
    assert agreement.unanimous.hits == sum(s == 1 for s in shares)
    assert agreement.right_when_unanimous.of + agreement.right_otherwise.of == 150


def test_single_composites_agree_with_nobody() -> None:
    cases = cohort(40)
    assert evaluate(match_truth(predicted(cases, composites=1), cases), resamples=100).agreement is None


def test_abstention_leaves_out_the_least_sure_first(evaluation: Evaluation) -> None:
    first, last = evaluation.abstention[0], evaluation.abstention[-1]
    assert (first.kept, first.share) == (150, 1.0)
    assert first.f1 == evaluation.measure("f1").value
    assert first.accuracy == evaluation.measure("accuracy").value
    kept = [a.kept for a in evaluation.abstention]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept) and last.kept >= 10
    for point in evaluation.abstention[1:]:
        assert point.kept == sum(line.sureness >= point.least_sureness for line in evaluation.lines)
    assert last.accuracy > first.accuracy


def test_equally_sure_cases_are_left_out_together() -> None:
    cases = cohort(40)
    p = np.where(np.arange(40) < 25, 0.6, 0.9)
    predictions = Predictions(
        tuple(case.id for case in cases), p, p >= 0.5, Decision(0.5, 0.5, 0.5, "by hand")
    )
    made = evaluate(match_truth(predictions, cases), resamples=100)
    assert [a.kept for a in made.abstention] == [40, 15]


def test_reliability_bins_hold_every_case(evaluation: Evaluation) -> None:
    assert sum(b.positive.of for b in evaluation.reliability) == evaluation.cases
    for b in evaluation.reliability:
        assert b.start <= b.mean_p <= b.end
        assert b.positive.low <= b.positive.value <= b.positive.high


def test_only_the_challenges_own_counts_have_a_place_on_the_leaderboard() -> None:
    cases = [Case("test", str(k), status="HER2-positive" if k < 60 else "HER2-negative") for k in range(150)]
    for these, has in (
        (cases, True),
        ([Case("train", c.id, status=c.status) for c in cases], False),
        (cases[1:], False),
    ):
        made = evaluate(match_truth(predicted(these), these), resamples=100)
        assert (made.leaderboard is not None) is has
        assert ("leaderboard" in page(made)) is has
        if made.leaderboard is not None:
            board, f1 = made.leaderboard, made.measure("f1").value
            assert board.rank == 1 + sum(s.f1 > f1 for s in LEADERBOARD)
            assert board.best_rank <= board.rank <= board.worst_rank
            assert board.caveats == CAVEATS


def labelled(goes_with_the_label: float, seed: int = 0) -> list[Case]:
    """Cases whose laboratory, of three, is that of their status with a probability; else it is any."""
    rng = np.random.default_rng(seed)
    cases = []
    for case in cohort(120, seed=seed):
        told = rng.random() < goes_with_the_label
        where = ("A" if case.positive else "B") if told else "ABC"[int(rng.integers(3))]
        cases.append(replace(case, laboratory=where, id=str(rng.integers(1_000_000))))
    return cases


def test_a_laboratory_that_goes_with_the_label_raises_the_flag() -> None:
    cases = labelled(0.6)
    made = evaluate(match_truth(predicted(cases), cases), resamples=100)
    assert [c.name for c in made.controls if c.flagged] == ["laboratory"]
    said = next(w for w in made.warnings if w.startswith("The laboratory alone tells the HER2 status"))
    assert said in page(made)


def test_a_laboratory_that_does_not_raises_none() -> None:
    flagged = 0
    for seed in range(20):
        cases = labelled(0.0, seed)
        made = evaluate(match_truth(predicted(cases), cases), resamples=100)
        flagged += any(c.flagged for c in made.controls if c.name == "laboratory")
    assert flagged <= 2


def test_case_numbers_that_tell_the_label_raise_the_flag() -> None:
    cases = sorted(cohort(120), key=lambda case: bool(case.positive))
    cases = [replace(case, id=str(k)) for k, case in enumerate(cases)]
    made = evaluate(match_truth(predicted(cases), cases), resamples=100)
    assert [c.name for c in made.controls if c.flagged] == ["block of case numbers"]


def test_a_model_is_set_beside_what_the_columns_tell_alone() -> None:
    rng = np.random.default_rng(3)
    cases = [
        replace(case, columns=(("er", "pos" if rng.random() < (0.2 if case.positive else 0.8) else "neg"),))
        for case in cohort(200)
    ]
    good = evaluate(match_truth(predicted(cases, skill=2.0), cases), resamples=100)
    beside = good.beside_columns
    assert beside.columns == ("er",) and beside.gain_low > 0 and beside.within_strata_p < 0.01
    assert 0.65 < beside.columns_auc < 0.9
    # A score that is the column and noise: high, but nothing of its own.
    full = predicted(cases, skill=0.0)
    er = np.array([case.columns[0][1] == "neg" for case in cases])
    p = np.round(np.clip(0.2 + 0.5 * er + rng.normal(0, 0.05, len(cases)), 0, 1), 6)
    copied = evaluate(match_truth(replace(full, p_positive=p), cases), resamples=100)
    assert copied.measure("auc").low > 0.6
    assert copied.beside_columns.gain_low < 0.02 and copied.beside_columns.within_strata_p > 0.05
    ((name, groups),) = good.by_column
    assert name == "er" and [g.name for g in groups] == ["neg", "pos"]
    assert sum(g.cases for g in groups) == 200 and "By er" in page(good)


def test_nothing_is_sure_of_a_few_cases_that_are_all_right() -> None:
    cases = [Case("test", str(k), "3+" if k < 5 else "0") for k in range(12)]
    truth = np.arange(12) < 5
    right = Predictions(
        tuple(case.id for case in cases), np.where(truth, 0.9, 0.1), truth, Decision(0.5, 0.5, 0.5, "hand"),
        grades=np.where(truth, 3, 0),
    )  # fmt: skip
    made = evaluate(match_truth(right, cases), resamples=100)
    for measure in (*made.status, *made.grade):
        assert measure.low is None or (measure.low < 1.0 and measure.low < measure.high)
    assert made.measure("auc").low < 0.9 and made.measure("f1").low < 0.8
    assert "1.000 to 1.000" not in page(made)
    assert any("5 positive cases, fewer than 10" in w for w in made.warnings)
    assert any("7 negative cases, fewer than 10" in w for w in made.warnings)


def test_cases_without_status_or_grade_take_part_where_they_can() -> None:
    cases = [*cohort(30), Case("test", "no status", "2+"), Case("test", "nothing")]
    made = evaluate(match_truth(predicted(cases), cases), resamples=100)
    assert made.cases == 30 and made.graded == 30
    assert made.left_out.without_status == ("no status", "nothing")
    assert made.left_out.without_grade == ("19", "nothing")
    assert len(made.lines) == 32


def test_one_status_alone_gives_what_is_defined() -> None:
    for status in ("HER2-positive", "HER2-negative"):
        cases = [Case("test", str(k), status=status) for k in range(20)]
        made = evaluate(match_truth(predicted(cases), cases), resamples=100)
        assert made.measure("auc").value is None and made.roc == ()
        assert any("same status" in w for w in made.warnings)
        assert "Trial" not in page(made) and "<html" in page(made)
        assert from_json(to_json(made)) == made


def test_grades_alone_and_status_alone_can_be_evaluated() -> None:
    cases = [Case("test", str(k), "2+") for k in range(12)]
    made = evaluate(match_truth(predicted(cases), cases), resamples=100)
    assert made.status == () and made.graded == 12 and "Macro-F1" in page(made)
    cases = cohort(30)
    full = predicted(cases)
    plain = Predictions(full.case_ids, full.p_positive, full.called, full.decision)
    made = evaluate(match_truth(plain, cases), resamples=100)
    assert made.grade == () and made.steps == () and "Macro-F1" not in page(made)


def test_nothing_known_is_an_error() -> None:
    cases = [Case("test", "1"), Case("test", "2")]
    with pytest.raises(EvaluationError, match="status or an IHC grade"):
        evaluate(match_truth(predicted(cases), cases))


def test_another_threshold_changes_the_calls_and_not_the_auc() -> None:
    cases = cohort()
    predictions = predicted(cases)
    strict = evaluate(match_truth(predictions.with_threshold(0.9, "by hand"), cases), resamples=100)
    loose = evaluate(match_truth(predictions.with_threshold(0.0, "by hand"), cases), resamples=100)
    assert strict.measure("auc").value == loose.measure("auc").value
    assert strict.measure("recall").value < loose.measure("recall").value == 1.0
    assert loose.measure("f1").trivial[0].gain == 0.0
    assert strict.threshold == 0.9 and strict.threshold_source == "by hand"


# JSON and page.


def test_json_reads_back_the_same(evaluation: Evaluation) -> None:
    assert from_json(to_json(evaluation)) == evaluation


def test_the_same_input_gives_the_same_bytes_in_another_process(evaluation: Evaluation) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import test_evaluate as t;"
        "from herohe_model.evaluation.schema import to_json; from herohe_model.evaluation.page import page;"
        "c = t.cohort(); e = t.evaluate(t.match_truth(t.predicted(c), c), title='Trial', resamples=300);"
        "sys.stdout.buffer.write(to_json(e) + page(e).encode())"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, check=True)
    assert done.stdout == to_json(evaluation) + page(evaluation).encode()


class _Page(HTMLParser):
    VOID = frozenset(["meta", "link", "br", "img", "hr", "input"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(evaluation: Evaluation) -> None:
    html = page(evaluation)
    parser = _Page()
    parser.feed(html)
    assert not parser.open and parser.links == ["data:,"]
    assert "script" not in parser.tags and "http:" not in html and "https:" not in html and "url(" not in html
    assert parser.tags.count("svg") == 6
    assert "nan" not in re.sub(r"<[^>]*>", "", html).lower().split()
    assert "None" not in html


def test_the_page_does_for_light_dark_and_print(evaluation: Evaluation) -> None:
    html = page(evaluation)
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    svgs = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "fill=" not in svgs and "stroke=" not in svgs and "style=" not in svgs


def test_the_page_says_what_is_measured_and_how_little_a_rank_means(evaluation: Evaluation) -> None:
    html = page(evaluation)
    for measure in (*evaluation.status, *evaluation.grade):
        assert measure.label in html and f"{measure.value:.3f}" in html
    for words in (
        "Research use only",
        "plain bootstrap",
        "chosen out of fold",
    ):
        assert words in html
    assert html.count("<circle") >= evaluation.cases


def test_names_cannot_break_the_page() -> None:
    nasty = '<script>alert("x")</script>&'
    cases = [Case("test", f"{nasty}{k}", "2+", None, c.status, nasty) for k, c in enumerate(cohort(30))]
    made = evaluate(match_truth(predicted(cases, skill=0.1), cases), title=nasty, resamples=100)
    html = page(made)
    parser = _Page()
    parser.feed(html)
    assert not parser.open and "script" not in parser.tags


def test_faint_staining_has_a_row_of_its_own_among_the_0() -> None:
    cases = [replace(case, ultralow=case.ihc == "0" and k % 2 == 0) for k, case in enumerate(cohort())]
    made = evaluate(match_truth(predicted(cases), cases), resamples=100)
    names = [g.name for g in made.by_grade]
    assert names == ["0", "0+, of these", "1+", "2+", "3+", "not known"]
    assert made.by_grade[1].cases == sum(case.ultralow for case in cases) < made.by_grade[0].cases
    assert sum(g.cases for g in made.by_grade) - made.by_grade[1].cases == made.cases
