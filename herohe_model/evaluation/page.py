"""An evaluation as one HTML page that needs nothing else: no script, no network, light, dark and print."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from herohe_model.evaluation.bootstrap import wilson
from herohe_model.evaluation.candidates import Candidates
from herohe_model.evaluation.compare import Comparison, p_words
from herohe_model.evaluation.plots import plots
from herohe_model.evaluation.schema import Abstention, Evaluation, Number
from herohe_model.grades import GRADES
from herohe_model.pages.page import write_page

_KEPT: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_WORST: Final = 12


def page(evaluation: Evaluation, *, report: str = "") -> str:
    """Return the page; the same evaluation gives the same bytes.

    `report` is the address of the run's report seen from the page: a case's slide is then one click away.
    """
    wrong = [
        line
        for line in evaluation.lines
        if line.positive is not None and line.positive != line.called_positive
    ]
    tp, fp, fn, tn = evaluation.status_counts
    context = {
        "e": evaluation,
        "report": report,
        "plots": {name: Markup(svg) for name, svg in plots(evaluation, report=report).items()},
        "grades": [(f"IHC {g}", row) for g, row in zip(GRADES, evaluation.grade_confusion, strict=True)]
        if evaluation.grade_confusion
        else [],
        "called_grades": [f"called {g}" for g in GRADES],
        "statuses": [("HER2-positive", (tp, fn)), ("HER2-negative", (fp, tn))],
        "kept": _kept(evaluation),
        "wrong": sorted(wrong, key=lambda line: (-line.sureness, line.case))[:_WORST],
        "wrong_count": len(wrong),
    }
    return _written("evaluation.html", context)


def comparison_page(comparison: Comparison) -> str:
    """Return the page of a comparison; the same one gives the same bytes."""
    return _written("comparison.html", {"c": comparison})


def candidates_page(candidates: Candidates) -> str:
    """Return the page of candidates; the same ones give the same bytes."""
    first = candidates.measured[0].name
    beside = {pair.second: pair for pair in candidates.pairs if pair.first == first}
    return _written("candidates.html", {"c": candidates, "beside": beside})


def _written(template: str, context: Mapping[str, Any]) -> str:
    file = io.StringIO()
    write_page(
        file,
        template,
        context,
        package="herohe_model.pages",
        styles=("charts.css", "evaluation.css"),
        filters={
            "number": _number,
            "percent": _percent,
            "signed": _signed,
            "p_words": p_words,
            "wilson": _wilson,
        },
    )
    return file.getvalue()


def _kept(evaluation: Evaluation) -> list[Abstention]:
    """Return what is left after abstaining on about a tenth, two tenths... of the cases."""
    chosen: list[Abstention] = []
    for share in _KEPT:
        found = [a for a in evaluation.abstention if a.share <= share + 1e-9]
        if found and found[0] not in chosen:
            chosen.append(found[0])
    return chosen


def _number(value: Number, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _percent(value: Number) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _wilson(hits_of: tuple[float, float]) -> str:
    """Return Wilson's interval of a share in words."""
    low, high = wilson(round(hits_of[0]), round(hits_of[1]))
    return f"{_percent(low)} to {_percent(high)}"


def _signed(value: Number) -> str:
    return "–" if value is None else f"{value:+.3f}"
