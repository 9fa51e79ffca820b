"""What a model says of some slides, as plain arrays, and the truth that goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case, CaseKey
from herohe_model.errors import HeroheError

_SHOWN: Final = 5

PATCHES: Final = "number of foreground patches"
SATURATION: Final = "mean saturation of the stain"
"""Of a slide, what should not tell its status."""


class EvaluationError(HeroheError):
    """Predictions and truth cannot be evaluated."""

    code = "evaluation"


@dataclass(frozen=True)
class Decision:
    """Where P(HER2-positive) becomes a call.

    Attributes
    ----------
    threshold
        The least probability that is called positive; None when only the calls are known, and then any value
        between `above` and `up_to` gives them. `up_to` is below `above` when none does.
    source
        Who chose it and on what, in words.
    """

    threshold: float | None
    above: float
    up_to: float
    source: str

    @property
    def consistent(self) -> bool:
        """Whether one threshold gives all calls."""
        return self.above < self.up_to

    @property
    def cut(self) -> float:
        """The threshold, or the middle of what is known of it; one half when no threshold gives the calls."""
        if self.threshold is not None:
            return self.threshold
        return (self.above + self.up_to) / 2 if self.consistent else 0.5


@dataclass(frozen=True)
class Predictions:
    """Predictions of slides, one a case.

    Attributes
    ----------
    case_ids
        Distinct; a slide's extension does not belong to them.
    p_positive
        P(HER2-positive), shape (cases,), float64, 0 to 1.
    called
        Called HER2-positive, shape (cases,), bool.
    decision
        What the calls follow from.
    grades
        IHC grades as called, 0 to 3, shape (cases,), int64; None when the model gave none.
    at_least
        P(>=1+), P(>=2+) and P(3+), shape (cases, 3), float64; None when they are not known.
    composites
        P(HER2-positive) of each composite of each case; None when they are not known.
    not_scored
        Slides for which there is no prediction, with the reason.
    model
        What made them, in words.
    warnings
        What is odd about them.
    calls
        The calls in three; None where the model has none.
    measured
        What else is known of each slide that should not tell its status, by name; each of shape (cases,).
    numbers
        Each slide's place in its run, from 1; None where there is no run.
    fingerprints
        Of the slides' content; "" where it is not known. None when none is.
    """

    case_ids: tuple[str, ...]
    p_positive: NDArray[np.float64]
    called: NDArray[np.bool_]
    decision: Decision
    grades: NDArray[np.int64] | None = None
    at_least: NDArray[np.float64] | None = None
    composites: tuple[NDArray[np.float64], ...] | None = None
    not_scored: tuple[tuple[str, str], ...] = ()
    model: str = ""
    warnings: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] | None = None
    calls: tuple[str, ...] | None = None
    numbers: tuple[int, ...] | None = None
    measured: tuple[tuple[str, NDArray[np.float64]], ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n = len(self.case_ids)
        twice = [name for name, times in Counter(self.case_ids).items() if times > 1]
        if twice:
            raise EvaluationError(
                f"There are two predictions of {some(twice)}", "Keep one a case: rename or remove a slide"
            )
        shapes = [self.p_positive.shape == (n,), self.called.shape == (n,)]
        shapes += [self.grades is None or self.grades.shape == (n,)]
        shapes += [self.at_least is None or self.at_least.shape == (n, 3)]
        shapes += [self.composites is None or len(self.composites) == n]
        shapes += [self.fingerprints is None or len(self.fingerprints) == n]
        shapes += [self.numbers is None or len(self.numbers) == n]
        shapes += [self.calls is None or len(self.calls) == n]
        shapes += [values.shape == (n,) for _, values in self.measured]
        if not all(shapes):
            raise EvaluationError("The arrays of the predictions differ in length")
        bad = ~((self.p_positive >= 0) & (self.p_positive <= 1))
        if bad.any():
            names = [name for name, b in zip(self.case_ids, bad.tolist(), strict=True) if b]
            raise EvaluationError(
                f"P(positive) is not from 0 to 1 for {some(names)}", "Score the slides again"
            )

    def with_threshold(self, threshold: float, source: str) -> Predictions:
        """Return the same predictions, called by another threshold."""
        return replace(
            self,
            called=self.p_positive >= threshold,
            decision=Decision(threshold, threshold, threshold, source),
        )

    def take(self, indices: Sequence[int]) -> Predictions:
        """Return the predictions of some cases, in the order given."""
        where = np.array(indices, dtype=np.int64)
        return replace(
            self,
            case_ids=tuple(self.case_ids[i] for i in indices),
            p_positive=self.p_positive[where],
            called=self.called[where],
            grades=None if self.grades is None else self.grades[where],
            at_least=None if self.at_least is None else self.at_least[where],
            composites=None if self.composites is None else tuple(self.composites[i] for i in indices),
            numbers=None if self.numbers is None else tuple(self.numbers[i] for i in indices),
            calls=None if self.calls is None else tuple(self.calls[i] for i in indices),
            measured=tuple((name, values[where]) for name, values in self.measured),
            fingerprints=None if self.fingerprints is None else tuple(self.fingerprints[i] for i in indices),
        )


def decision_of_calls(p: NDArray[np.float64], called: NDArray[np.bool_], source: str) -> Decision:
    """Return what calls tell of the threshold that they were made with."""
    above = float(p[~called].max()) if not called.all() else 0.0
    up_to = float(p[called].min()) if called.any() else 1.0
    return Decision(None, above, up_to, source)


@dataclass(frozen=True)
class Matched:
    """Predictions with their truth, and what has only one of the two.

    Attributes
    ----------
    predictions, cases
        The same slides in the same order.
    without_truth
        Predicted slides that no label names.
    without_prediction
        Cases that no prediction names, with the reason if there is one.
    """

    predictions: Predictions
    cases: tuple[Case, ...]
    without_truth: tuple[str, ...] = ()
    without_prediction: tuple[tuple[str, str], ...] = ()


def match_truth(
    predictions: Predictions, truth: Sequence[Case], rows: Mapping[CaseKey, str] | None = None
) -> Matched:
    """Put each prediction beside its case.

    Parameters
    ----------
    truth
        Cases of one split: IDs occur in several splits as different slides.
    rows
        Where each case stands, to be told of one without a prediction.

    Raises
    ------
    EvaluationError
        If an ID stands in two splits, or no prediction has a case.
    """
    by_id: dict[str, Case] = {}
    for case in truth:
        other = by_id.setdefault(case.id, case)
        if other is not case:
            raise EvaluationError(
                f"Case {case.id} is in the splits {other.split} and {case.split}, as different slides",
                "Say which split the predictions are of",
            )
    names = predictions.case_ids
    found = [i for i, name in enumerate(names) if name in by_id]
    if not found:
        raise EvaluationError(
            f"No slide has a truth. Slides: {some(names) or 'none'}. Cases: {some(list(by_id)) or 'none'}",
            "A case is named as its slide's file is, without the extension",
        )
    reasons = dict(predictions.not_scored)
    predicted = set(names)
    return Matched(
        predictions=predictions.take(found),
        cases=tuple(by_id[names[i]] for i in found),
        without_truth=tuple(name for name in names if name not in by_id),
        without_prediction=tuple(
            (name, _where(case, rows) + reasons.get(name, "no such slide in the results"))
            for name, case in by_id.items()
            if name not in predicted
        ),
    )


def _where(case: Case, rows: Mapping[CaseKey, str] | None) -> str:
    row = (rows or {}).get(case.key)
    return f"{row}: " if row else ""


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
