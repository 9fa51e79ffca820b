"""From predictions and their truth to everything that an evaluation says.

The threshold comes with the predictions: it was chosen on out-of-fold predictions
(:mod:`herohe_model.evaluation.out_of_fold`), and nothing here chooses one on the cases that are evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import TEST_SPLIT, Case, grade_numbers
from herohe_model.dataset.fingerprints import find_twins
from herohe_model.dataset.predictions import EvaluationError, Matched, Predictions
from herohe_model.evaluation import metrics
from herohe_model.evaluation.bootstrap import METHOD, RESAMPLES
from herohe_model.evaluation.confounding import blocks, control, p_of_columns, within_strata
from herohe_model.evaluation.decisions import call_rates, decision_curve, predictive_values
from herohe_model.evaluation.differences import auc_difference
from herohe_model.evaluation.intervals import FEWEST_OF_A_CLASS
from herohe_model.evaluation.leaderboard import CAVEATS, NEGATIVES, POSITIVES, place
from herohe_model.evaluation.measures import grade_measures, group, share, status_measures
from herohe_model.evaluation.metrics import Floats
from herohe_model.evaluation.schema import (
    Abstention,
    Agreement,
    BesideColumns,
    BoardPlace,
    CaseLine,
    Control,
    Evaluation,
    Group,
    LeftOut,
    Measure,
    ReliabilityBin,
    rounded,
)
from herohe_model.grades import GRADES
from herohe_model.notice import RESEARCH_USE_ONLY

FEWEST_KEPT: Final = 10
"""Abstention is followed down to so many cases."""


def evaluate(
    matched: Matched,
    *,
    title: str = "Evaluation",
    resamples: int = RESAMPLES,
    seed: int = 0,
    prevalence: float | None = None,
    folds: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate predictions against their truth.

    Parameters
    ----------
    matched
        Predictions and cases, as :func:`herohe_model.dataset.predictions.match_truth` puts them together; for
        out-of-fold predictions ``Matched(oof.predictions(...), oof.cases)``.
    title
        Of the page.
    resamples, seed
        Of the bootstrap.
    prevalence
        How often HER2-positive comes where one decides; None for the cases' own share.
    folds
        The fold that held each case out, in the order of the cases.

    Returns
    -------
    Evaluation
        Status figures over the cases of known status, grade figures over those of known grade.

    Raises
    ------
    EvaluationError
        If no case has a status and none a grade.
    """
    predictions, cases = matched.predictions, matched.cases
    sample = _Sample(predictions, cases, resamples, seed)
    if not sample.with_status.any() and not sample.with_grade.any():
        raise EvaluationError("No predicted case has a HER2 status or an IHC grade", "Fill in the truth file")
    status = sample.take(np.flatnonzero(sample.with_status))
    graded = sample.take(np.flatnonzero(sample.with_grade))
    how = {"resamples": resamples, "seed": seed}
    measures = status_measures(status.truth, status.called, status.p, **how) if len(status) else ()
    names = np.array([case.id for case in cases])
    controls = _controls(status)
    return rounded(
        Evaluation(
            title=title,
            model=predictions.model,
            note=RESEARCH_USE_ONLY,
            interval_method=METHOD,
            resamples=resamples,
            seed=seed,
            threshold=predictions.decision.threshold,
            cut=predictions.decision.cut,
            threshold_source=predictions.decision.source,
            cases=len(status),
            positive=int(status.truth.sum()),
            negative=int((~status.truth).sum()),
            graded=len(graded),
            status=measures,
            status_counts=_counts(status),
            grade=grade_measures(graded.grades, graded.called_grades, **how) if len(graded) else (),
            grade_confusion=_grade_confusion(graded),
            steps=_steps(sample),
            equivocal=_equivocal(status),
            by_grade=_by_grade(status),
            by_laboratory=_by_laboratory(status),
            roc=_points(metrics.roc_curve(status.truth, status.p)),
            precision_recall=_points(metrics.precision_recall_curve(status.truth, status.p)),
            reliability=_reliability(status),
            abstention=_abstention(status),
            agreement=_agreement(status),
            leaderboard=_board_place(status, measures),
            left_out=LeftOut(
                without_truth=matched.without_truth,
                without_prediction=matched.without_prediction,
                without_status=tuple(names[~sample.with_status].tolist()),
                without_grade=tuple(names[sample.grades < 0].tolist()),
                not_scored=_not_scored(predictions),
            ),
            warnings=(*_warnings(matched, status), *_alarms(controls)),
            lines=sample.lines(),
            by_column=_by_column(status),
            controls=controls,
            beside_columns=_beside_columns(status),
            by_fold=_by_fold(status, () if folds is None else np.array(folds)[sample.with_status].tolist()),
            **_decisions(status, prevalence),
        )
    )


class _Sample:
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

    def take(self, indices: NDArray[np.int64]) -> _Sample:
        chosen = indices.tolist()
        cases = [self.cases[i] for i in chosen]
        return _Sample(self.predictions.take(chosen), cases, self.resamples, self.seed)

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


def _not_scored(predictions: Predictions) -> tuple[tuple[str, int], ...]:
    """Count the run's slides without a prediction by the outcome that begins their reason."""
    outcomes = Counter(reason.partition(":")[0] for _, reason in predictions.not_scored)
    return tuple(sorted(outcomes.items()))


def _counts(s: _Sample) -> tuple[int, int, int, int]:
    n = metrics.count(s.truth, s.called)
    return (int(n.tp), int(n.fp), int(n.fn), int(n.tn))


def _grade_confusion(s: _Sample) -> tuple[tuple[int, ...], ...]:
    if not len(s):
        return ()
    return tuple(tuple(int(n) for n in row) for row in metrics.confusion(s.grades, s.called_grades).tolist())


def _steps(s: _Sample) -> tuple[Group, ...]:
    """Return how well each step of the grade is told, over the cases of known grade."""
    known = np.flatnonzero(s.grades >= 0)
    if s.predictions.at_least is None or not len(known):
        return ()
    p, steps = s.predictions.at_least[known], enumerate((">=1+", ">=2+", "3+"))
    return tuple(
        group(name, s.grades[known] > k, p[:, k] >= 0.5, p[:, k], resamples=s.resamples, seed=s.seed)
        for k, name in steps
    )


def _equivocal(s: _Sample) -> Group | None:
    chosen = np.flatnonzero(s.grades == GRADES.index("2+"))
    return _group_of("IHC 2+", s.take(chosen)) if len(chosen) else None


def _by_grade(s: _Sample) -> tuple[Group, ...]:
    names = ((-1, "not known"), *enumerate(GRADES))
    groups = [(name, np.flatnonzero(s.grades == number)) for number, name in (*names[1:], names[0])]
    # They count among the 0, too: no target learns the difference.
    faint = np.flatnonzero([case.ultralow for case in s.cases])
    groups.insert(1, ("0+, of these", faint))
    return tuple(_group_of(name, s.take(chosen)) for name, chosen in groups if len(chosen))


def _by_laboratory(s: _Sample) -> tuple[Group, ...]:
    of_case = [case.laboratory for case in s.cases]
    names = sorted({name for name in of_case if name is not None})
    if not names:
        return ()
    labelled: list[tuple[str, str | None]] = [(name, name) for name in names]
    if None in of_case:
        labelled.append(("not known", None))
    return tuple(
        _group_of(label, s.take(np.flatnonzero(np.array([of == name for of in of_case]))))
        for label, name in labelled
    )


def _values(s: _Sample, column: str) -> list[str | None]:
    return [dict(case.columns).get(column) for case in s.cases]


def _columns(s: _Sample) -> list[str]:
    """Return the labels' columns that divide the cases."""
    names = dict.fromkeys(name for case in s.cases for name, _ in case.columns)
    return [name for name in names if len(set(_values(s, name))) > 1]


def _by_column(s: _Sample) -> tuple[tuple[str, tuple[Group, ...]], ...]:
    found = []
    for column in _columns(s):
        values = _values(s, column)
        known = [k for k, value in enumerate(values) if value is not None]
        block = blocks([value for value in values if value is not None])
        groups = []
        for number in range(int(block.max()) + 1):
            chosen = [k for k, of in zip(known, block.tolist(), strict=True) if of == number]
            words = sorted({values[k] or "" for k in chosen}, key=_in_order)
            name = words[0] if len(words) == 1 else f"{words[0]} to {words[-1]}"
            groups.append(_group_of(name, s.take(np.array(chosen))))
        missing = [k for k, value in enumerate(values) if value is None]
        groups += [_group_of("not known", s.take(np.array(missing)))] if missing else []
        found.append((column, tuple(groups)))
    return tuple(found)


def _in_order(text: str) -> tuple[float, str]:
    try:
        return (float(text), text)
    except ValueError:
        return (0.0, text)


def _controls(s: _Sample) -> tuple[Control, ...]:
    """Ask what should not tell the status whether it does."""
    numbers = [case.id if case.id.isdecimal() else None for case in s.cases]
    composites = s.predictions.composites
    asked: list[tuple[str, list[str | None]]] = [
        ("laboratory", [case.laboratory for case in s.cases]),
        ("block of case numbers", list(numbers)),
    ]
    if composites is not None:
        asked.append(("number of composites", [str(len(p)) for p in composites]))
    asked += [(name, [f"{value:.9g}" for value in values]) for name, values in s.predictions.measured]
    made = [control(name, values, s.truth, seed=s.seed) for name, values in asked]
    return tuple(
        Control(c.name, c.cases, c.groups, c.auc, c.p_value, c.flagged) for c in made if c is not None
    )


def _alarms(controls: Sequence[Control]) -> list[str]:
    return [
        f"The {c.name} alone tells the HER2 status (AUC {c.auc:.3f}, p {c.p_value:.3f} by permutation): a "
        "model may have learned that instead, and its figures do not carry over to other places."
        for c in controls
        if c.flagged
    ]


def _beside_columns(s: _Sample) -> BesideColumns | None:
    columns = {name: _values(s, name) for name in _columns(s)}
    if not columns or min(int(s.truth.sum()), int((~s.truth).sum())) < FEWEST_OF_A_CLASS:
        return None
    alone = p_of_columns(columns, s.truth, seed=s.seed)
    gain = auc_difference(s.truth, s.p, alone)
    groups = []
    for values in columns.values():
        known = iter(blocks([value for value in values if value is not None]).tolist())
        groups.append([-1 if value is None else next(known) for value in values])
    strata = ["/".join(map(str, row)) for row in zip(*groups, strict=True)]
    return BesideColumns(
        columns=tuple(columns),
        columns_auc=float(metrics.roc_auc(s.truth, alone)),
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
        p_value=gain.p_value,
        within_strata_p=within_strata(s.truth, s.p, strata, seed=s.seed),
    )


def _by_fold(s: _Sample, folds: Sequence[str]) -> tuple[Group, ...]:
    of = np.array(folds)
    return tuple(_group_of(name, s.take(np.flatnonzero(of == name))) for name in sorted(set(folds)))


def _decisions(s: _Sample, prevalence: float | None) -> dict[str, Any]:
    """Return what holds at a prevalence; nothing where all cases have one status."""
    if not 0 < int(s.truth.sum()) < len(s):
        return {}
    at = float(s.truth.mean()) if prevalence is None else prevalence
    calls = s.predictions.calls
    return {
        "prevalence": at,
        "predictive": predictive_values(*_counts(s), at),
        "decision_curve": decision_curve(s.truth, s.p, at),
        "call_rates": {} if calls is None else call_rates(s.truth, np.array(calls, dtype=object), at),
    }


def _group_of(name: str, s: _Sample) -> Group:
    return group(name, s.truth, s.called, s.p, resamples=s.resamples, seed=s.seed)


def _points(curve: tuple[Floats, Floats]) -> tuple[tuple[float, float], ...]:
    """Return a curve's points; none where all cases have the same status and it is not defined."""
    if np.isnan(curve).any():
        return ()
    return tuple(zip(curve[0].tolist(), curve[1].tolist(), strict=True))


def _reliability(s: _Sample) -> tuple[ReliabilityBin, ...]:
    bins = metrics.RELIABILITY_BINS
    where = metrics.bin_of(s.p)
    return tuple(
        ReliabilityBin(
            start=k / bins,
            end=(k + 1) / bins,
            mean_p=float(s.p[where == k].mean()),
            positive=share(s.truth[where == k]),
        )
        for k in range(bins)
        if (where == k).any()
    )


def _abstention(s: _Sample) -> tuple[Abstention, ...]:
    """Leave out the least sure cases, more and more; equally sure ones go together."""
    sureness = s.sureness
    levels = [float("-inf"), *np.unique(sureness).tolist()[1:]] if len(s) else []
    found = []
    for least in levels:
        kept = sureness >= least
        if kept.sum() < min(FEWEST_KEPT, len(s)):
            break
        truth, called = s.truth[kept], s.called[kept]
        found.append(
            Abstention(
                kept=int(kept.sum()),
                share=float(kept.mean()),
                least_sureness=max(least, 0.0),
                f1=float(metrics.f1_score(truth, called)),
                accuracy=float(metrics.accuracy(truth, called)),
                sensitivity=float(metrics.recall(truth, called)),
                specificity=float(metrics.specificity(truth, called)),
            )
        )
    return tuple(found)


def _agreement(s: _Sample) -> Agreement | None:
    composites = s.predictions.composites
    shares = s.agreeing
    several = np.array([agreed is not None for agreed in shares], dtype=np.bool_)
    if composites is None or not several.any():
        return None
    agreeing = np.array([agreed for agreed in shares if agreed is not None])
    right = (s.called == s.truth)[several]
    unanimous = agreeing == 1.0
    spread = [float(np.std(p, ddof=1)) for p in composites if len(p) > 1]
    return Agreement(
        slides=int(several.sum()),
        mean_share=float(agreeing.mean()),
        unanimous=share(unanimous),
        right_when_unanimous=share(right[unanimous]),
        right_otherwise=share(right[~unanimous]),
        mean_sd=float(np.mean(spread)),
    )


def _board_place(s: _Sample, measures: Sequence[Measure]) -> BoardPlace | None:
    """Return the place of what can only be the challenge's test slides; None for all else."""
    if not measures or not s.truth.any():
        return None
    f1 = measures[0]
    if f1.value is None or f1.low is None or f1.high is None or np.isnan([f1.value, f1.low, f1.high]).any():
        return None
    positives = int(s.truth.sum())
    tests = all(case.split == TEST_SPLIT for case in s.cases)
    if not (tests and positives == POSITIVES and len(s) - positives == NEGATIVES):
        return None
    where = place(f1.value, f1.low, f1.high)
    return BoardPlace(
        rank=where.rank,
        teams=where.teams,
        best_rank=where.best_rank,
        worst_rank=where.worst_rank,
        alike=where.alike,
        caveats=CAVEATS,
    )


def _warnings(matched: Matched, s: _Sample) -> tuple[str, ...]:
    decision = matched.predictions.decision
    found = list(matched.predictions.warnings)
    if not decision.consistent and decision.threshold is None:
        found.append(
            "No one threshold on P(positive) gives the calls; one half is used for plots and sureness. "
            "Were the slides scored with more than one model?"
        )
    if matched.predictions.fingerprints is not None:
        found += [
            f"{pair} One slide counts as often as it has cases."
            for pair in find_twins(matched.cases, matched.predictions.fingerprints)
        ]
    missing = len(matched.without_prediction)
    if missing:
        found.append(
            f"{missing} cases have no prediction and take no part; the challenge would count them as wrong."
        )
    if len(s) and (s.truth.all() or not s.truth.any()):
        found.append("All cases have the same status: AUC and what compares the two is not defined.")
    elif len(s):
        positive = int(s.truth.sum())
        few = [(positive, "positive"), (len(s) - positive, "negative")]
        found += [
            f"There are {number} {kind} cases, fewer than {FEWEST_OF_A_CLASS}: its figures say little."
            for number, kind in few
            if number < FEWEST_OF_A_CLASS
        ]
    return tuple(found)
