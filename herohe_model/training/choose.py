"""Threshold, calibration and call of a model, chosen out of fold, with the predictions that judge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case
from herohe_model.dataset.predictions import Decision, Predictions
from herohe_model.errors import OptionError
from herohe_model.evaluation.out_of_fold import (
    OutOfFold,
    Threshold,
    choose_temperature,
    choose_threshold,
    threshold_of,
)
from herohe_model.grades import GRADES, grade_of, ihc_probabilities
from herohe_model.model.calibration import CallRule, Floats, Platt, around, sigmoid
from herohe_model.training.calibrate import Calibrated, UnseenLogits, calibrate, choose_call
from herohe_model.training.options import CallOptions


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a model, and what it makes of the cases that it was chosen on.

    Attributes
    ----------
    predictions
        Of nested folds cross-fitted: each fold's cases have the calibration and the threshold of the others,
        so that figures on them are not optimistic by the choice.
    calibrated_for
        In words, for the card; "" without a calibration.
    """

    cases: tuple[Case, ...]
    predictions: Predictions
    threshold: Threshold
    temperature: float = 1.0
    lines: dict[str, Platt] = field(default_factory=dict)
    calibrated_for: str = ""
    call: CallRule | None = None


def choose_single(oof: OutOfFold, learned: tuple[str, ...]) -> Chosen:
    """Choose temperature and threshold on predictions of single networks; no calibration, and no call."""
    temperature = choose_temperature(oof)
    threshold = choose_threshold(oof, temperature=temperature)
    predictions = oof.predictions(temperature, threshold)
    if learned != oof.target.steps:
        predictions = replace(predictions, grades=None, at_least=None)
    return Chosen(oof.cases, predictions, threshold, temperature)


def choose_nested(
    oof: OutOfFold, unseen: UnseenLogits, options: CallOptions, say: Callable[[str], None]
) -> Chosen | None:
    """Choose for the ensemble: calibration, threshold and call; None where there are too few cases.

    Parameters
    ----------
    oof
        Mean logits of the networks that have not seen a case.
    unseen
        The same cases, each network for itself.
    say
        Is told why there is none.
    """
    try:
        found = calibrate(unseen)
    except OptionError as error:
        say(f"Neither a calibration nor a call is claimed: {error.problem}.")
        return None
    # pool_folds has its cases by fold.
    order = {case.key: number for number, case in enumerate(unseen.cases)}
    where = np.array([order[case.key] for case in oof.cases])
    positive = unseen.target.default_positive_step
    line = found.lines[positive]
    networks = unseen.logits[0].shape[1]
    on = f"{line.cases} cases, each by the mean of {networks} networks that have not seen it"
    means = np.array([z[..., unseen.positive_bit].mean() for z in unseen.logits])
    shipped = np.round(sigmoid(line.slope * means + line.intercept), 6)
    truth = np.array([bool(case.positive) for case in unseen.cases])
    known = np.array([case.positive is not None for case in unseen.cases])
    threshold = threshold_of(shipped[known], truth[known], on)
    p = np.round(found.held_out[:, found.steps.index(positive)], 6)
    called = _called(p, truth, known, unseen.folds, threshold.value)
    source = f"{threshold.chosen}; here each fold is called by the threshold of the others"
    grades, at_least = _grades(found, positive, where)
    predictions = replace(
        oof.predictions(1.0, threshold),
        p_positive=p[where],
        called=called[where],
        decision=Decision(threshold.value, threshold.value, threshold.value, source),
        composites=tuple(
            np.round(sigmoid(line.slope * z[..., unseen.positive_bit].mean(axis=1) + line.intercept), 6)
            for z in (unseen.logits[i] for i in where.tolist())
        ),
        grades=grades,
        at_least=at_least,
    )
    return Chosen(
        oof.cases,
        predictions,
        threshold,
        lines=found.lines,
        calibrated_for=on,
        call=choose_call(unseen, line, options),
    )


def _called(
    p: Floats,
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_],
    folds: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.bool_]:
    """Call each fold's cases by the threshold of the others; by that of all where these lack positives."""
    called = np.empty(len(p), dtype=np.bool_)
    for fold in np.unique(folds).tolist():
        others = known & (folds != fold)
        at = threshold_of(p[others], truth[others], "").value if truth[others].any() else threshold
        called[folds == fold] = p[folds == fold] >= at
    return called


def _grades(
    found: Calibrated, positive: str, where: NDArray[np.int64]
) -> tuple[NDArray[np.int64] | None, Floats | None]:
    """Return grades and their probabilities as :class:`Predictions` has them; None where none are told."""
    q = around(found.held_out, found.steps.index(positive))
    told = [ihc_probabilities(np.round(row, 6), found.steps) for row in q[where]]
    if not told or not grade_of(told[0]):
        return None, None
    numbers = np.array([GRADES.index(grade_of(g)) for g in told], dtype=np.int64)
    return numbers, np.array([[g[name] for name in GRADES[1:]] for g in told])
