"""What an evaluation says, as values that travel to JSON and to the page.

Intervals are 95%, see :data:`herohe_model.evaluation.bootstrap.METHOD`. None stands for what is not defined.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from herohe_model.model.calibration import CallRule, Platt

FORMAT: Final = "herohe-bridge evaluation"
VERSION: Final = 1
DECIMALS: Final = 6

Number = float | None
TrivialName = Literal["always positive", "always 2+", "the prevalence for all"]


class Trivial(msgspec.Struct, frozen=True):
    """A trivial answer's value of a measure, and how much the model's is better (negative: worse)."""

    answer: TrivialName
    value: Number
    gain: Number
    gain_low: Number
    gain_high: Number


class Measure(msgspec.Struct, frozen=True):
    """A measure over all cases that it is defined for."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    value: Number
    low: Number
    high: Number
    trivial: tuple[Trivial, ...] = ()


class Share(msgspec.Struct, frozen=True):
    """`hits` of `of` cases, with Wilson's interval."""

    hits: int
    of: int
    value: Number
    low: Number
    high: Number


class Group(msgspec.Struct, frozen=True):
    """Cases of known status that have something in common. See :mod:`herohe_model.evaluation.measures`."""

    name: str
    cases: int
    positive: int
    called_positive: int
    sensitivity: Share
    specificity: Share
    accuracy: Share
    f1: Measure
    auc: Measure
    mean_p: Number


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Cases whose P(positive) lies between `start` and `end`: their mean, and the share of positives."""

    start: float
    end: float
    mean_p: Number
    positive: Share


class Abstention(msgspec.Struct, frozen=True):
    """What is left after abstaining on the least sure cases."""

    kept: int
    share: float
    least_sureness: float
    f1: Number
    accuracy: Number
    sensitivity: Number
    specificity: Number


class Agreement(msgspec.Struct, frozen=True):
    """How far the composites of a slide agree, over slides with two or more.

    Attributes
    ----------
    mean_share
        Mean over slides of the share of composites that are called as the slide is.
    unanimous
        Slides all of whose composites are called alike.
    right_when_unanimous, right_otherwise
        Slides called right among these, and among the others.
    mean_sd
        Mean over slides of the standard deviation of P(positive) between composites.
    """

    slides: int
    mean_share: float
    unanimous: Share
    right_when_unanimous: Share
    right_otherwise: Share
    mean_sd: float


class BoardPlace(msgspec.Struct, frozen=True):
    """Where the F1 would stand on the public leaderboard, and how little that means."""

    rank: int
    teams: int
    best_rank: int
    worst_rank: int
    alike: tuple[str, ...]
    caveats: tuple[str, ...]


class Control(msgspec.Struct, frozen=True):
    """How well something other than the picture tells the status, see ``evaluation.confounding``.

    ``auc`` is of the share of positives among the other cases of the same group; ``p_value`` by permutation.
    """

    name: str
    cases: int
    groups: int
    auc: Number
    p_value: float
    flagged: bool


class BesideColumns(msgspec.Struct, frozen=True):
    """The model beside what the labels' columns tell by themselves.

    Attributes
    ----------
    columns
        Their names.
    columns_auc
        Of a logistic regression of them, each case by one that has not seen it.
    gain, gain_low, gain_high, p_value
        How much higher the model's AUC is, see :mod:`herohe_model.evaluation.differences`.
    within_strata_p
        Share of permutations of the status within the columns' joint values whose AUC is as high as the
        model's; None where no stratum has both.
    """

    columns: tuple[str, ...]
    columns_auc: Number
    gain: Number
    gain_low: Number
    gain_high: Number
    p_value: Number
    within_strata_p: Number


class DecisionPoint(msgspec.Struct, frozen=True):
    """Net benefit of calling positive from a threshold on, and of calling all cases positive."""

    threshold: float
    model: Number
    all_positive: Number


class Predictive(msgspec.Struct, frozen=True):
    """A predictive value at the stated prevalence; None where nothing is called so."""

    name: str
    value: Number
    low: Number
    high: Number


class CaseLine(msgspec.Struct, frozen=True):
    """One case: truth and prediction; `number` is its slide's place in the run, from 1."""

    case: str
    split: str
    laboratory: str | None
    ihc: str | None
    ish: str | None
    positive: bool | None
    p_positive: float
    called_positive: bool
    grade: str | None
    sureness: float
    composites_agreeing: float | None
    number: int | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """Who takes no part in the figures, and why.

    ``not_scored`` counts the slides of the run without a prediction by their outcome, labelled or not.
    """

    without_truth: tuple[str, ...] = ()
    without_prediction: tuple[tuple[str, str], ...] = ()
    without_status: tuple[str, ...] = ()
    without_grade: tuple[str, ...] = ()
    not_scored: tuple[tuple[str, int], ...] = ()


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes
    ----------
    threshold, cut
        The decision threshold, None when only the calls are known; and where P(positive) is cut in plots and
        for the sureness, which is then the middle of what the calls leave open.
    status_counts
        TP, FP, FN, TN of the status.
    grade_confusion
        Cases by true grade (rows, 0 to 3+) and called grade (columns).
    steps
        Of the grade: here "positive" means to reach the step, and called so with a probability of one half.
    equivocal
        The cases of IHC 2+, whose status only ISH tells.
    roc, precision_recall
        (1 - specificity, sensitivity), and (recall, precision), at every threshold.
    lines
        Every case with a prediction and a label, in the order of the predictions.
    by_column
        For each column of the labels that divides the cases, its groups.
    controls
        What should not tell the status: laboratory, case number, number of patches.
    by_fold
        Of a training, the groups of its folds.
    apparent_f1
        Of a training with nested folds, the F1 at a threshold chosen on these very cases; what it is above
        the F1 is optimism.
    prevalence, predictive, decision_curve
        How often HER2-positive is said to come (the cases' own share where nobody said), and predictive
        values and net benefit there.
    call_rates
        How the model's calls in three fall on these cases, see ``evaluation.decisions``; empty without calls.
    calibration, call
        Of a training with nested folds: the lines of each step with the calibration slope and intercept that
        they have on the cases of other folds, and the call's thresholds with its rates on these.
    """

    format: str = FORMAT
    version: int = VERSION
    title: str
    model: str
    note: str
    interval_method: str
    resamples: int
    seed: int
    threshold: Number
    cut: float
    threshold_source: str
    cases: int
    positive: int
    negative: int
    graded: int
    status: tuple[Measure, ...]
    status_counts: tuple[int, int, int, int]
    grade: tuple[Measure, ...]
    grade_confusion: tuple[tuple[int, ...], ...]
    steps: tuple[Group, ...]
    equivocal: Group | None
    by_grade: tuple[Group, ...]
    by_laboratory: tuple[Group, ...]
    roc: tuple[tuple[float, float], ...]
    precision_recall: tuple[tuple[float, float], ...]
    reliability: tuple[ReliabilityBin, ...]
    abstention: tuple[Abstention, ...]
    agreement: Agreement | None
    leaderboard: BoardPlace | None
    left_out: LeftOut
    warnings: tuple[str, ...]
    lines: tuple[CaseLine, ...]
    by_column: tuple[tuple[str, tuple[Group, ...]], ...] = ()
    controls: tuple[Control, ...] = ()
    beside_columns: BesideColumns | None = None
    by_fold: tuple[Group, ...] = ()
    apparent_f1: Number = None
    prevalence: Number = None
    predictive: tuple[Predictive, ...] = ()
    decision_curve: tuple[DecisionPoint, ...] = ()
    call_rates: dict[str, Number] = {}
    calibration: dict[str, Platt] = {}
    call: CallRule | None = None

    def figures(self) -> dict[str, Any]:
        """Return the measures with their intervals, as a model's card keeps them."""

        def of(measures: tuple[Measure, ...]) -> dict[str, Any]:
            return {m.name: {"value": m.value, "low": m.low, "high": m.high} for m in measures}

        return {
            "cases": self.cases,
            "positive": self.positive,
            "status": of(self.status),
            "grade": of(self.grade),
        }

    def measure(self, name: str) -> Measure:
        """Return a measure by its name, such as ``f1`` or ``quadratic_kappa``."""
        return next(m for m in (*self.status, *self.grade) if m.name == name)


def to_json(found: msgspec.Struct) -> bytes:
    """Return an evaluation, or what compares some, as JSON; the same one gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def from_json(data: bytes) -> Evaluation:
    """Read what :func:`to_json` wrote; raises ``msgspec.MsgspecError`` otherwise."""
    return msgspec.json.decode(data, type=Evaluation)


def rounded(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with numbers of 6 decimals, and None where they are not finite.

    So what the last bits of a platform's arithmetic differ in is not seen.
    """
    return msgspec.convert(plain(msgspec.to_builtins(evaluation)), Evaluation)


def plain(value: Any) -> Any:
    """Return builtins with numbers of 6 decimals, and None where they are not finite."""
    if isinstance(value, float):
        # Adding 0.0 turns -0.0 into 0.0.
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
