"""What a report says of all slides together: the table's rows, the distributions, agreement with IHC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from bridge.results.schema import Outcome, SlideResult
from herohe_model.dataset.cases import Case, case_id
from herohe_model.dataset.labels import Labels, read_labels
from herohe_model.errors import OptionError
from herohe_model.evaluation.bootstrap import METHOD, bootstrap, interval
from herohe_model.evaluation.metrics import (
    Floats,
    accuracy,
    confusion,
    count,
    f1_score,
    mean_absolute_error,
    precision,
    quadratic_kappa,
    recall,
    roc_auc,
    specificity,
)
from herohe_model.grades import GRADES

_BINS: Final = 20
_POSITIVE: Final = "HER2-positive"
_PLOT: Final = (480, 150)
"""Width and height of the plot of spreads, in the units of its SVG."""


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
        # A Windows path understands both kinds of slashes.
        file = PureWindowsPath(result.path).name
        return self._cases.get(case_id(file)) or self._cases.get(case_id(result.slide))


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


def summarise(rows: Sequence[Row], made_by: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the figures and charts of a cohort, for ``templates/report.html``."""
    outcomes = Counter(row.outcome for row in rows)
    grades = Counter(row.grade for row in rows)
    scored = sorted((row.p, row.low / 100, row.high / 100) for row in rows if row.p is not None)
    p = np.array([value for value, _, _ in scored])
    bins = np.bincount(np.minimum((p * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS).tolist()
    summary: dict[str, Any] = {
        "scored": len(scored),
        "positive": sum(row.status == _POSITIVE for row in rows),
        "made_by": made_by,
        "outcomes": [
            (o.value.replace("_", " "), outcomes[o.value], "mark") for o in Outcome if outcomes[o.value]
        ]
        or [("no slides", 0, "mark")],
        "grades": [(grade, grades[grade], "mark") for grade in GRADES],
        "histogram": bins,
        "histogram_text": f"Slides in {_BINS} bins of P(positive) from 0 to 1: {', '.join(map(str, bins))}.",
    }
    if scored:
        width, height = _PLOT
        places = np.linspace(0, width, len(scored)) if len(scored) > 1 else np.array([width / 2])

        def points(values: Iterable[float], xs: Iterable[float]) -> list[str]:
            return [f"{x:.1f},{height * (1 - v):.1f}" for x, v in zip(xs, values, strict=True)]

        upper = points((high for _, _, high in scored), places)
        lower = points((low for _, low, _ in scored), places)
        median, spread = float(np.median(p)), float(np.median([row.sd for row in rows if row.p is not None]))
        summary |= {
            "band": " ".join(upper + lower[::-1]),
            "curve": " ".join(points(p.tolist(), places)),
            "curve_text": f"Sorted P(positive); median {median:.3f}, median spread {spread:.3f}.",
        }
    return summary


def agreement(rows: Sequence[Row]) -> dict[str, Any]:
    """Compare grades and statuses with the truth, for ``templates/report.html``."""
    known = [row for row in rows if row.truth is not None]
    graded = [(row, row.ihc) for row in known if row.ihc and row.grade]
    judged = [(row, row.truth.positive) for row in known if row.truth and row.p is not None]
    called = [(row, bool(positive)) for row, positive in judged if positive is not None]
    tables, figures = [], []
    if graded:
        truth = [GRADES.index(ihc) for _, ihc in graded]
        grades = [GRADES.index(row.grade) for row, _ in graded]
        table = confusion(truth, grades).astype(int).tolist()
        tables.append(
            {
                "caption": "Grade: IHC in rows, scored in columns",
                "names": [f"scored {g}" for g in GRADES],
                "rows": [(f"IHC {g}", counts) for g, counts in zip(GRADES, table, strict=True)],
            }
        )
        figures += _figures(
            len(graded),
            {
                "Same grade": lambda w: accuracy(truth, grades, w),
                "Quadratic-weighted kappa": lambda w: quadratic_kappa(truth, grades, w),
                "Mean distance, grades": lambda w: mean_absolute_error(truth, grades, w),
            },
        )
    if called:
        positive = [is_positive for _, is_positive in called]
        said = [row.status == _POSITIVE for row, _ in called]
        p = [row.p for row, _ in called if row.p is not None]
        n = count(positive, said)
        tables.append(
            {
                "caption": "HER2 status: truth in rows, scored in columns",
                "names": ["scored positive", "scored negative"],
                "rows": [("positive", [int(n.tp), int(n.fn)]), ("negative", [int(n.fp), int(n.tn)])],
            }
        )
        figures += _figures(
            len(called),
            {
                "F1 of HER2-positive": lambda w: f1_score(positive, said, w),
                "F1 of calling all positive": lambda w: f1_score(positive, [True] * len(said), w),
                "Precision": lambda w: precision(positive, said, w),
                "Sensitivity": lambda w: recall(positive, said, w),
                "Specificity": lambda w: specificity(positive, said, w),
                "AUC": lambda w: roc_auc(positive, p, w),
            },
        )
    return {
        "sentence": f"The truth file knows {len(known)} of {len(rows)} slides; {len(graded)} have both an "
        f"IHC grade and a scored one, {len(called)} both a HER2 status and a scored one.",
        "tables": tables,
        "figures": figures,
        "notes": [f"Intervals: {METHOD}."] if figures else [],
    }


def _figures(
    cases: int, measures: Mapping[str, Callable[[ArrayLike | None], Floats]]
) -> list[tuple[str, str, str, str]]:
    """Return name, value and interval of each measure as text."""
    drawn = bootstrap(measures, cases)
    rows = []
    for name, measure in measures.items():
        low, high = interval(drawn[name])
        rows.append((name, _text(float(measure(None))), _text(low), _text(high)))
    return rows


def _text(value: float) -> str:
    return "not defined" if np.isnan(value) else f"{value:.3f}"
