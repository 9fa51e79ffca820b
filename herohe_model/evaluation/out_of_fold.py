"""Decision threshold and temperature, chosen on out-of-fold predictions and on nothing else.

An :class:`OutOfFold` cannot be made without saying what the model behind each prediction was trained on, and
refuses a case that its own model has seen, and the test split. The functions here take nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import TEST_SPLIT, Case, CaseKey, target_arrays
from herohe_model.dataset.folds import Fold
from herohe_model.dataset.predictions import Decision, Predictions
from herohe_model.errors import OptionError
from herohe_model.evaluation.metrics import Floats
from herohe_model.grades import (
    GRADES,
    Target,
    bit_probabilities,
    grade_of,
    ihc_probabilities,
)

TEMPERATURES: Final = (0.05, 20.0)
_GRID: Final = 97
_DECIMALS: Final = 6
"""Of stored probabilities; what is chosen here must hold for what a result file says."""


@dataclass(frozen=True)
class OutOfFold:
    """Logits of cases from models that were trained without them.

    Attributes
    ----------
    cases
        The cases predicted.
    logits
        Of each case's composites, each of shape (composites, bits), highest step first.
    trained_on
        For each case, the keys of all cases that its model was trained on.
    target
        What the models learned.
    positive_step
        The bit that is read as P(HER2-positive), one of ``target.steps``.
    """

    cases: tuple[Case, ...]
    logits: tuple[NDArray[np.float64], ...]
    trained_on: tuple[frozenset[CaseKey], ...]
    target: Target
    positive_step: str

    def __post_init__(self) -> None:
        """Refuse what is not out of fold."""
        if not len(self.cases) == len(self.logits) == len(self.trained_on):
            raise OptionError("Cases, logits and folds differ in number")
        seen = [c.key for c, keys in zip(self.cases, self.trained_on, strict=True) if c.key in keys]
        if seen:
            raise OptionError(
                f"{len(seen)} predictions are of cases that their model was trained on, such as {seen[0]}",
                "Predict each case with the model of the fold that holds it out",
            )
        if not all(self.trained_on):
            raise OptionError("A model is said to be trained on no case", "Name its training cases")
        if any(case.split == TEST_SPLIT for case in self.cases):
            raise OptionError(
                "Out-of-fold predictions hold cases of the test split",
                "The test set chooses nothing; take the training split",
            )
        if len({case.key for case in self.cases}) != len(self.cases):
            raise OptionError("A case is predicted twice", "Predict each case in one fold")
        bits = len(self.target.steps)
        if any(z.ndim != 2 or not len(z) or z.shape[1] != bits for z in self.logits):
            raise OptionError(f"Logits do not have the shape (composites, {bits})")
        if not all(np.isfinite(z).all() for z in self.logits):
            raise OptionError("Logits are not finite", "Look at the training's losses")

    def bit_probabilities(self, temperature: float = 1.0) -> Floats:
        """Return the mean over composites of the bits' probabilities, as scoring does: (cases, bits)."""
        every = bit_probabilities(np.concatenate(self.logits), temperature=temperature)
        counts = np.array([len(z) for z in self.logits])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return np.asarray(np.add.reduceat(every, starts, axis=0) / counts[:, None], dtype=np.float64)

    def p_positive(self, temperature: float = 1.0) -> Floats:
        """Return P(HER2-positive) of each case with the decimals that results store: (cases,)."""
        positive = self.target.steps.index(self.positive_step)
        return _stored(self.bit_probabilities(temperature)[:, positive])

    def predictions(self, temperature: float, threshold: Threshold) -> Predictions:
        """Return the predictions as ``evaluate`` takes them, with `cases`."""
        q = self.bit_probabilities(temperature)
        grades = [ihc_probabilities(_stored(row), self.target.steps) for row in q]
        positive = self.target.steps.index(self.positive_step)
        p = self.p_positive(temperature)
        return Predictions(
            case_ids=tuple(case.id for case in self.cases),
            p_positive=p,
            called=p >= threshold.value,
            decision=Decision(threshold.value, threshold.value, threshold.value, threshold.chosen),
            grades=np.array([GRADES.index(grade_of(g)) for g in grades], dtype=np.int64),
            at_least=np.array([[g[name] for name in GRADES[1:]] for g in grades]),
            composites=tuple(
                _stored(bit_probabilities(z, temperature=temperature)[:, positive]) for z in self.logits
            ),
            model="out-of-fold models",
        )


def pool_folds(
    cases: Sequence[Case],
    folds: Sequence[Fold],
    logits: Sequence[Mapping[int, NDArray[np.floating]]],
    target: Target,
    *,
    positive_step: str | None = None,
) -> OutOfFold:
    """Put the predictions of all folds together.

    Parameters
    ----------
    cases
        What the folds were made of.
    logits
        For each fold, the logits (composites, bits) of its held-out cases, by their index in `cases`. Slides
        that could not be scored may be missing.
    positive_step
        Defaults to the target's own.

    Raises
    ------
    OptionError
        If a prediction is of a case that its fold does not hold out, or was trained on.
    """
    found: list[tuple[Case, NDArray[np.float64], frozenset[CaseKey]]] = []
    for fold, predicted in zip(folds, logits, strict=True):
        trained_on = frozenset(cases[i].key for i in fold.train.tolist())
        held_out = set(fold.held_out.tolist())
        for index in sorted(predicted):
            if index not in held_out:
                case = cases[index]
                raise OptionError(
                    f"{fold.name} predicts the {case.split} case {case.id}, which it does not hold out",
                    "Give each fold's predictions of its held-out cases",
                )
            found.append((cases[index], np.asarray(predicted[index], dtype=np.float64), trained_on))
    if not found:
        raise OptionError("There are no out-of-fold predictions", "Score the held-out slides of each fold")
    return OutOfFold(
        cases=tuple(case for case, _, _ in found),
        logits=tuple(z for _, z, _ in found),
        trained_on=tuple(keys for _, _, keys in found),
        target=target,
        positive_step=positive_step or target.default_positive_step,
    )


def choose_temperature(oof: OutOfFold) -> float:
    """Return the temperature with the least negative log-likelihood of all known bits, with 4 decimals.

    Parameters
    ----------
    oof
        Out-of-fold predictions; nothing else is taken.

    Notes
    -----
    Guo et al. 2017, *On Calibration of Modern Neural Networks*; here over the bits' probabilities as scoring
    averages them over composites. Searched on a logarithmic grid over :data:`TEMPERATURES`, then by golden
    section around the best point of it.
    """
    _must_be_out_of_fold(oof)
    bits, known = target_arrays(oof.cases, oof.target)
    if not known.any():
        raise OptionError("Nothing is known of the out-of-fold cases", "Give them grades or statuses")

    def loss(log_temperature: float) -> float:
        q = np.clip(oof.bit_probabilities(float(np.exp(log_temperature))), 1e-12, 1 - 1e-12)
        return float(-np.where(bits == 1, np.log(q), np.log1p(-q))[known].mean())

    grid = np.linspace(np.log(TEMPERATURES[0]), np.log(TEMPERATURES[1]), _GRID)
    best = int(np.argmin([loss(x) for x in grid.tolist()]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    golden = (np.sqrt(5.0) - 1) / 2
    while high - low > 1e-6:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return round(float(np.exp((low + high) / 2)), 4)


@dataclass(frozen=True)
class Threshold:
    """A decision threshold, and what speaks for it.

    Attributes
    ----------
    value
        The least P(HER2-positive) that is called positive, with 6 decimals.
    f1
        On the out-of-fold cases; optimistic by the choice itself.
    always_positive_f1
        Of calling all of them positive.
    chosen
        How it was chosen, in words, for the model card.
    """

    value: float
    f1: float
    always_positive_f1: float
    chosen: str


def choose_threshold(oof: OutOfFold, *, temperature: float = 1.0) -> Threshold:
    """Return the threshold with the greatest F1 of HER2-positive.

    It lies midway between two neighbouring probabilities. Among thresholds with the same F1, the one in the
    widest gap is taken, and among equal gaps the lowest, which is the more sensitive one.

    Parameters
    ----------
    oof
        Out-of-fold predictions; nothing else is taken. Cases of unknown status are left out.
    temperature
        The one that the model will score with.

    Raises
    ------
    OptionError
        If no case, or none of them positive, has a status.
    """
    _must_be_out_of_fold(oof)
    statuses = [case.positive for case in oof.cases]
    usable = np.array([status is not None for status in statuses])
    truth = np.array([bool(status) for status in statuses])[usable]
    if not truth.any():
        raise OptionError(
            "No out-of-fold case is HER2-positive", "A threshold needs positive and negative cases"
        )
    p = oof.p_positive(temperature)[usable]
    folds = len(set(oof.trained_on))
    return threshold_of(
        p, truth, f"{len(p)} out-of-fold cases of {folds} models at temperature {temperature:g}"
    )


def threshold_of(p: Floats, truth: NDArray[np.bool_], on: str) -> Threshold:
    """Return the threshold with the greatest F1, see :func:`choose_threshold`; `on` names the cases in words.

    Parameters
    ----------
    p, truth
        Shape (cases,), of cases that no model behind `p` was trained on; some of them positive.
    """
    values, group = np.unique(p, return_inverse=True)
    positives = np.bincount(group, weights=truth, minlength=len(values))
    sizes = np.bincount(group, minlength=len(values))
    # Candidate k calls the distinct values from k upwards positive.
    tp = positives[::-1].cumsum()[::-1]
    called = sizes[::-1].cumsum()[::-1]
    f1 = 2 * tp / (called + truth.sum())
    below = np.concatenate([[0.0], values[:-1]])
    equal = np.flatnonzero(f1 == f1.max())
    # Widths of equal gaps differ in the last bits.
    best = int(equal[np.argmax(np.round((values - below)[equal], _DECIMALS))])
    low, high = float(below[best]), float(values[best])
    value = round((low + high) / 2, _DECIMALS)
    if not low < value <= high:
        value = high
    always = float(f1[0])
    chosen = f"greatest F1 ({float(f1[best]):.4f}; always-positive {always:.4f}) on {on}"
    if best == 0:
        chosen += "; no threshold is better than calling every case positive"
    return Threshold(value, float(f1[best]), always, chosen)


def _stored(values: Floats) -> Floats:
    """Return numbers with the decimals of a result file, rounded as it rounds; shape (n,)."""
    return np.array([round(v, _DECIMALS) for v in values.tolist()])


def _must_be_out_of_fold(oof: object) -> None:
    if not isinstance(oof, OutOfFold):
        raise TypeError(
            f"Thresholds and temperatures are chosen on OutOfFold predictions, not {type(oof).__name__}"
        )
