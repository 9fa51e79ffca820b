"""What a report says of all slides together: the table's rows, the distributions, agreement with IHC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from bridge.results.predictions import predictions_of
from bridge.results.run import ScoredRun
from bridge.results.schema import Outcome, SlideResult
from herohe_model.dataset.cases import Case, case_id
from herohe_model.dataset.labels import Labels, read_labels
from herohe_model.dataset.predictions import EvaluationError, match_truth
from herohe_model.errors import OptionError
from herohe_model.evaluation.evaluate import evaluate
from herohe_model.evaluation.plots import plots
from herohe_model.evaluation.schema import Evaluation, Measure, Number, Trivial
from herohe_model.grades import GRADES
from herohe_model.model.calibration import CALLS
from herohe_model.pages.svg import Chart, ticks

_BINS: Final = 20
_POSITIVE: Final = "HER2-positive"
_WHISKERS: Final = 400
"""Up to so many slides have a whisker each, and link to their page."""


@dataclass(frozen=True)
class Row:
    """A slide in the report's table.

    Attributes
    ----------
    number
        Its place in the run, from 1.
    grade, status, p, sd
        What was predicted for the union of its regions; "" and None for nothing.
    regions
        Annotations that were sampled; 0 for the whole slide.
    truth
        What a label file says of it.
    """

    number: int
    entry: str
    name: str
    outcome: str
    message: str
    regions: int
    regions_text: str
    call: str
    grade: str
    status: str
    p: float | None
    sd: float
    composites: int
    warnings: int
    truth: Case | None

    @property
    def ihc(self) -> str:
        """The grade that a truth file gives, or ""."""
        return (self.truth.ihc if self.truth is not None else None) or ""

    @property
    def agreement(self) -> str:
        """``agrees`` or ``differs``, of the grades; ``unknown`` where one is missing."""
        if not self.ihc or not self.grade:
            return "unknown"
        return "agrees" if self.ihc == self.grade else "differs"

    @property
    def low(self) -> float:
        """Where the spread begins, percent."""
        return 100 * max(0.0, (self.p or 0.0) - self.sd)

    @property
    def high(self) -> float:
        """Where the spread ends, percent."""
        return 100 * min(1.0, (self.p or 0.0) + self.sd)


class Truth:
    """What a label file says of the slides of a run.

    Parameters
    ----------
    path
        A label file in one of the forms that :func:`herohe_model.dataset.labels.read_labels` takes.
    split
        Which split the run's slides are of; needed where the file has the same case in several.

    Raises
    ------
    LabelError, TableError
        If the file cannot be used.
    OptionError
        If the file has no such split, or repeats a case over splits and none is named.
    """

    def __init__(self, path: Path, split: str | None = None) -> None:
        labels: Labels = read_labels(path)
        cases = labels.cases if split is None else labels.of_split(split)
        if not cases:
            raise OptionError(f"{path} has no case of the split {split!r}", "Name another with --split")
        self.warnings = labels.warnings
        self.cases = cases
        self._rows = labels.rows
        self._cases: dict[str, Case] = {}
        for case in cases:
            if case.id in self._cases:
                splits = ", ".join(dict.fromkeys(c.split for c in cases))
                raise OptionError(
                    f"{path} has the case {case.id} in more than one split, as different slides",
                    f"Say with --split which the run is of: {splits}",
                )
            self._cases[case.id] = case

    def of(self, result: SlideResult) -> Case | None:
        """Return the case whose ID is the name of the slide's file, or of its entry, without extension."""
        return self._cases.get(self._name(result))

    def evaluate(self, run: ScoredRun) -> Evaluation:
        """Evaluate a run's predictions as ``herohe-bridge evaluate`` does.

        Raises
        ------
        EvaluationError
            If there is nothing to compare, or two slides are of one case.
        """
        predictions = predictions_of(run.slides(), run.results, case_of=self._name)
        return evaluate(match_truth(predictions, self.cases, self._rows))

    def _name(self, result: SlideResult) -> str:
        # A Windows path understands both kinds of slashes.
        file = case_id(PureWindowsPath(result.path).name)
        return file if file in self._cases else case_id(result.slide)


def make_row(number: int, result: SlideResult, truth: Truth | None) -> Row:
    """Return a slide's row."""
    union = result.union
    prediction = union.prediction if union else None
    return Row(
        number=number,
        entry=result.entry,
        name=result.slide,
        outcome=result.outcome.value,
        message=result.message,
        regions=len(union.annotations) if union else 0,
        regions_text=_regions_text(result),
        call=prediction.call if prediction else "",
        grade=prediction.grade if prediction else "",
        status=prediction.status if prediction else "",
        p=prediction.p_positive if prediction else None,
        sd=prediction.p_positive_sd if prediction else 0.0,
        composites=len(union.composites) if union else 0,
        warnings=len(result.warnings),
        truth=truth.of(result) if truth is not None else None,
    )


def _regions_text(result: SlideResult) -> str:
    union = result.union
    if union is None:
        return ""
    if not union.annotations:
        return "whole slide"
    return f"{len(union.annotations)} {union.class_name}".strip()


def choices(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return what the table can be filtered by."""
    rows = list(rows)
    return {
        "outcomes": sorted({row.outcome for row in rows}),
        "grades": sorted({row.grade for row in rows if row.grade}),
        "statuses": sorted({row.status for row in rows if row.status}),
    }


def summarise(rows: Sequence[Row], made_by: Sequence[tuple[str, str]], cut: Number) -> dict[str, Any]:
    """Return the figures and charts of a cohort, for ``templates/report.html``.

    `cut` is the least P(positive) that the model calls positive; None where that is not known.
    """
    outcomes = Counter(row.outcome for row in rows)
    grades = Counter(row.grade for row in rows)
    calls = Counter(row.call for row in rows)
    scored = [row for row in rows if row.p is not None]
    return {
        "scored": len(scored),
        "positive": sum(row.status == _POSITIVE for row in rows),
        "made_by": made_by,
        "outcomes": [
            (o.value.replace("_", " "), outcomes[o.value], "mark") for o in Outcome if outcomes[o.value]
        ]
        or [("no slides", 0, "mark")],
        "grades": [(grade, grades[grade], "mark") for grade in GRADES]
        if any(map(grades.get, GRADES))
        else [],
        "calls": [(call, calls[call], "mark") for call in CALLS] if any(map(calls.get, CALLS)) else [],
        # A histogram of one slide would only repeat its figure.
        "histogram": Markup(_histogram(scored)) if len(scored) > 1 else "",
        "points": Markup(_points(scored, cut)) if scored else "",
    }


_TENTHS: Final = tuple((k / 10, f"{k / 10:.1f}") for k in range(0, 11, 2))


def _histogram(scored: Sequence[Row]) -> str:
    p = np.array([row.p for row in scored])
    bins = np.bincount(np.minimum((p * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS).tolist()
    most = max(bins)
    chart = Chart(
        f"Slides in {_BINS} bins of P(positive) from 0 to 1: {', '.join(map(str, bins))}.",
        y=(0, most),
        height=250,
    )
    chart.x_axis("P(HER2-positive)", _TENTHS)
    chart.y_axis("slides", [(n, f"{n:.0f}") for n in ticks(0, most, 4) if n == round(n)])
    for k, count in enumerate(bins):
        if count:
            start, end = k / _BINS, (k + 1) / _BINS
            chart.bar(start, end, count, "column", note=f"{start:.2f} to {end:.2f}: {count}")
    return chart.svg()


def _points(scored: Sequence[Row], cut: Number) -> str:
    """Draw a point a slide, from the least to the most likely positive."""
    ordered = sorted(scored, key=lambda row: (row.p or 0.0, row.number))
    median = np.median([row.p for row in scored])
    chart = Chart(
        f"P(positive) of {len(scored)} slides in order; median {median:.3f}.",
        x=(0, len(ordered)),
        height=250,
    )
    chart.x_axis("slides, from the least to the most likely positive", [])
    chart.y_axis("P(HER2-positive)", _TENTHS)
    if cut is not None:
        note = f"called positive from {cut:.3f}"
        chart.line([(0, cut), (len(ordered), cut)], "cut", note=note)
    each = len(ordered) <= _WHISKERS
    radius = 4.0 if len(ordered) <= 60 else 2.5
    for k, row in enumerate(ordered):
        p, x = row.p or 0.0, k + 0.5
        if each and row.sd:
            chart.line([(x, row.low / 100), (x, row.high / 100)], "whisker")
        kind = "pos" if row.status == _POSITIVE else "neg"
        note = f"{row.name}: P(positive) {p:.3f}, SD {row.sd:.3f} over {row.composites} composites"
        chart.dot(
            x,
            p,
            f"dot {kind}",
            radius=radius,
            note=note if each else "",
            href=f"#slide-{row.number}" if each else "",
        )
    return chart.svg()


def agreement(run: ScoredRun, rows: Sequence[Row], truth: Truth) -> dict[str, Any]:
    """Compare grades and statuses with the truth, for ``templates/report.html``."""
    known = [row for row in rows if row.truth is not None]
    graded = sum(bool(row.ihc and row.grade) for row in known)
    called = [row for row in known if row.truth is not None and row.truth.positive is not None]
    shown: dict[str, Any] = {
        "sentence": f"The truth file knows {len(known)} of {len(rows)} slides; {graded} have both an "
        f"IHC grade and a scored one, {sum(row.p is not None for row in called)} both a HER2 status and a "
        "scored one.",
        "tables": [],
        "figures": [],
        "notes": [],
        "roc": "",
    }
    try:
        found = truth.evaluate(run)
    except EvaluationError as error:
        return shown | {"notes": [str(error)]}
    if found.graded:
        table = {
            "caption": "Grade: IHC in rows, scored in columns",
            "names": [f"scored {g}" for g in GRADES],
            "rows": [(f"IHC {g}", row) for g, row in zip(GRADES, found.grade_confusion, strict=True)],
        }
        shown["tables"].append(table)
    if found.cases:
        tp, fp, fn, tn = found.status_counts
        table = {
            "caption": "HER2 status: truth in rows, scored in columns",
            "names": ["scored positive", "scored negative"],
            "rows": [("positive", (tp, fn)), ("negative", (fp, tn))],
        }
        shown["tables"].append(table)
    shown["figures"] = [
        (
            m.label,
            _text(m.value),
            "" if m.low is None else f"{_text(m.low)} to {_text(m.high)}",
            _trivial(m.trivial),
        )
        for m in (*found.grade, *found.status)
    ]
    shown["notes"] = [f"Intervals: {found.interval_method}.", *found.warnings]
    shown["roc"] = Markup(plots(found).get("roc", ""))
    return shown


def _within(measure: Measure) -> str:
    return "" if measure.low is None else f"{_text(measure.low)} to {_text(measure.high)}"


def _trivial(answers: Sequence[Trivial]) -> str:
    return ", ".join(f"{answer.answer}: {_text(answer.value)}" for answer in answers)


def _text(value: Number) -> str:
    return "not defined" if value is None else f"{value:.3f}"
