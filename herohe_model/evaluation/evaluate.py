"""From predictions and their truth to everything that an evaluation says.

The threshold comes with the predictions: it was chosen on out-of-fold predictions
(:mod:`herohe_model.evaluation.out_of_fold`), and nothing here chooses one on the cases that are evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from herohe_model.dataset.cases import TEST_SPLIT
from herohe_model.dataset.fingerprints import find_twins
from herohe_model.dataset.predictions import EvaluationError, Matched, Predictions
from herohe_model.evaluation import metrics
from herohe_model.evaluation.bootstrap import METHOD, RESAMPLES
from herohe_model.evaluation.confounding import blocks, control, p_of_columns, within_strata
from herohe_model.evaluation.decisions import call_rates, decision_curve, predictive_values
from herohe_model.evaluation.differences import auc_difference
from herohe_model.evaluation.intervals import FEWEST_OF_A_CLASS
from herohe_model.evaluation.leaderboard import CAVEATS, NEGATIVES, POSITIVES, place
from herohe_model.evaluation.measures import grade_measures, share, status_measures
from herohe_model.evaluation.metrics import Floats
from herohe_model.evaluation.sample import (
    Sample,
    by_column,
    by_fold,
    by_grade,
    by_laboratory,
    by_step,
    dividing_columns,
    equivocal,
    values_of,
)
from herohe_model.evaluation.schema import (
    Abstention,
    Agreement,
    BesideColumns,
    BoardPlace,
    Control,
    Evaluation,
    LeftOut,
    Measure,
    ReliabilityBin,
    rounded,
)
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
    sample = Sample(predictions, cases, resamples, seed)
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
            steps=by_step(sample),
            equivocal=equivocal(status),
            by_grade=by_grade(status),
            by_laboratory=by_laboratory(status),
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
            by_column=by_column(status),
            controls=controls,
            beside_columns=_beside_columns(status),
            by_fold=by_fold(status, () if folds is None else np.array(folds)[sample.with_status].tolist()),
            **_decisions(status, prevalence),
        )
    )


def _not_scored(predictions: Predictions) -> tuple[tuple[str, int], ...]:
    """Count the run's slides without a prediction by the outcome that begins their reason."""
    outcomes = Counter(reason.partition(":")[0] for _, reason in predictions.not_scored)
    return tuple(sorted(outcomes.items()))


def _counts(s: Sample) -> tuple[int, int, int, int]:
    n = metrics.count(s.truth, s.called)
    return (int(n.tp), int(n.fp), int(n.fn), int(n.tn))


def _grade_confusion(s: Sample) -> tuple[tuple[int, ...], ...]:
    if not len(s):
        return ()
    return tuple(tuple(int(n) for n in row) for row in metrics.confusion(s.grades, s.called_grades).tolist())


def _controls(s: Sample) -> tuple[Control, ...]:
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


def _beside_columns(s: Sample) -> BesideColumns | None:
    columns = {name: values_of(s, name) for name in dividing_columns(s)}
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


def _decisions(s: Sample, prevalence: float | None) -> dict[str, Any]:
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


def _points(curve: tuple[Floats, Floats]) -> tuple[tuple[float, float], ...]:
    """Return a curve's points; none where all cases have the same status and it is not defined."""
    if np.isnan(curve).any():
        return ()
    return tuple(zip(curve[0].tolist(), curve[1].tolist(), strict=True))


def _reliability(s: Sample) -> tuple[ReliabilityBin, ...]:
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


def _abstention(s: Sample) -> tuple[Abstention, ...]:
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


def _agreement(s: Sample) -> Agreement | None:
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


def _board_place(s: Sample, measures: Sequence[Measure]) -> BoardPlace | None:
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


def _warnings(matched: Matched, s: Sample) -> tuple[str, ...]:
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
