"""Cases with their truth and predictions as arrays, and groups of them measured for themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case, grade_numbers
from herohe_model.dataset.predictions import EvaluationError, Predictions
from herohe_model.evaluation.confounding import blocks
from herohe_model.evaluation.measures import group
from herohe_model.evaluation.metrics import Floats
from herohe_model.evaluation.schema import CaseLine, Group
from herohe_model.grades import GRADES


class Sample:
    """Some cases with truth and predictions as arrays, and how to resample them."""

    def __init__(self, predictions: Predictions, cases: Sequence[Case], resamples: int, seed: int) -> None:
        if len(predictions.case_ids) != len(cases):
            raise EvaluationError("There are not as many cases as predictions", "Match them first")
        self.predictions, self.cases = predictions, tuple(cases)
        self.resamples, self.seed = resamples, seed
        self.with_status = np.array([case.positive is not None for case in cases], dtype=np.bool_)
        self.truth = np.array([bool(case.positive) for case in cases], dtype=np.bool_)
        self.p, self.called = predictions.p_positive, predictions.called
        self.grades = grade_numbers(cases)
        unknown = np.full(len(cases), -1, dtype=np.int64)
        self.called_grades = unknown if predictions.grades is None else predictions.grades
        self.with_grade = (self.grades >= 0) & (self.called_grades >= 0)

    def __len__(self) -> int:
        return len(self.cases)

    def take(self, indices: NDArray[np.int64]) -> Sample:
        """Return some of the cases, in the order given."""
        chosen = indices.tolist()
        cases = [self.cases[i] for i in chosen]
        return Sample(self.predictions.take(chosen), cases, self.resamples, self.seed)

    @property
    def sureness(self) -> Floats:
        """Distance of P(positive) from the cut, as a share of what is possible on its side; 0 to 1."""
        cut = self.predictions.decision.cut
        # A cut of 0 or 1 leaves nothing on one of its sides.
        room = np.where(self.p >= cut, 1.0 - cut, cut)
        return np.divide(np.abs(self.p - cut), room, out=np.zeros(len(self)), where=room > 0)

    @property
    def agreeing(self) -> list[float | None]:
        """Share of each slide's composites that are called as the slide; None where there is just one."""
        composites = self.predictions.composites
        if composites is None:
            return [None] * len(self)
        cut = self.predictions.decision.cut
        return [
            float(np.mean((p >= cut) == called)) if len(p) > 1 else None
            for p, called in zip(composites, self.called.tolist(), strict=True)
        ]

    def lines(self) -> tuple[CaseLine, ...]:
        """Return a line a case, as an evaluation lists them."""
        return tuple(
            CaseLine(
                case=case.id,
                split=case.split,
                laboratory=case.laboratory,
                ihc=case.ihc,
                ish=case.ish,
                positive=case.positive,
                p_positive=p,
                called_positive=called,
                grade=GRADES[grade] if grade >= 0 else None,
                sureness=sure,
                composites_agreeing=agreeing,
                number=number,
            )
            for case, p, called, grade, sure, agreeing, number in zip(
                self.cases,
                self.p.tolist(),
                self.called.tolist(),
                self.called_grades.tolist(),
                self.sureness.tolist(),
                self.agreeing,
                self.predictions.numbers or [None] * len(self),
                strict=True,
            )
        )


def group_of(name: str, s: Sample) -> Group:
    """Measure some cases for themselves."""
    return group(name, s.truth, s.called, s.p, resamples=s.resamples, seed=s.seed)


def by_step(s: Sample) -> tuple[Group, ...]:
    """Return how well each step of the grade is told, over the cases of known grade."""
    known = np.flatnonzero(s.grades >= 0)
    if s.predictions.at_least is None or not len(known):
        return ()
    p, steps = s.predictions.at_least[known], enumerate((">=1+", ">=2+", "3+"))
    return tuple(
        group(name, s.grades[known] > k, p[:, k] >= 0.5, p[:, k], resamples=s.resamples, seed=s.seed)
        for k, name in steps
    )


def equivocal(s: Sample) -> Group | None:
    """Return the cases of IHC 2+; None without any."""
    chosen = np.flatnonzero(s.grades == GRADES.index("2+"))
    return group_of("IHC 2+", s.take(chosen)) if len(chosen) else None


def by_grade(s: Sample) -> tuple[Group, ...]:
    """Return the cases of each grade, and those of unknown grade."""
    names = ((-1, "not known"), *enumerate(GRADES))
    groups = [(name, np.flatnonzero(s.grades == number)) for number, name in (*names[1:], names[0])]
    # They count among the 0, too: no target learns the difference.
    faint = np.flatnonzero([case.ultralow for case in s.cases])
    groups.insert(1, ("0+, of these", faint))
    return tuple(group_of(name, s.take(chosen)) for name, chosen in groups if len(chosen))


def by_laboratory(s: Sample) -> tuple[Group, ...]:
    """Return the cases of each laboratory; none where no label names one."""
    of_case = [case.laboratory for case in s.cases]
    names = sorted({name for name in of_case if name is not None})
    if not names:
        return ()
    labelled: list[tuple[str, str | None]] = [(name, name) for name in names]
    if None in of_case:
        labelled.append(("not known", None))
    return tuple(
        group_of(label, s.take(np.flatnonzero(np.array([of == name for of in of_case]))))
        for label, name in labelled
    )


def values_of(s: Sample, column: str) -> list[str | None]:
    """Return what a column of the labels says of each case."""
    return [dict(case.columns).get(column) for case in s.cases]


def dividing_columns(s: Sample) -> list[str]:
    """Return the labels' columns that divide the cases."""
    names = dict.fromkeys(name for case in s.cases for name, _ in case.columns)
    return [name for name in names if len(set(values_of(s, name))) > 1]


def by_column(s: Sample) -> tuple[tuple[str, tuple[Group, ...]], ...]:
    """Return for each column that divides the cases a group a value, or a range of values."""
    found = []
    for column in dividing_columns(s):
        values = values_of(s, column)
        known = [k for k, value in enumerate(values) if value is not None]
        block = blocks([value for value in values if value is not None])
        groups = []
        for number in range(int(block.max()) + 1):
            chosen = [k for k, of in zip(known, block.tolist(), strict=True) if of == number]
            words = sorted({values[k] or "" for k in chosen}, key=_in_order)
            name = words[0] if len(words) == 1 else f"{words[0]} to {words[-1]}"
            groups.append(group_of(name, s.take(np.array(chosen))))
        missing = [k for k, value in enumerate(values) if value is None]
        groups += [group_of("not known", s.take(np.array(missing)))] if missing else []
        found.append((column, tuple(groups)))
    return tuple(found)


def _in_order(text: str) -> tuple[float, str]:
    try:
        return (float(text), text)
    except ValueError:
        return (0.0, text)


def by_fold(s: Sample, folds: Sequence[str]) -> tuple[Group, ...]:
    """Return the cases of each fold; `folds` names that of each case."""
    of = np.array(folds)
    return tuple(group_of(name, s.take(np.flatnonzero(of == name))) for name in sorted(set(folds)))
