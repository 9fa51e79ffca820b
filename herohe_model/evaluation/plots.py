"""The plots of an evaluation, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from herohe_model.evaluation.leaderboard import (
    ALWAYS_POSITIVE,
    LEADERBOARD,
    counts_interval,
    counts_of,
)
from herohe_model.evaluation.schema import CaseLine, Evaluation
from herohe_model.grades import GRADES
from herohe_model.pages.svg import Chart, ticks

_FIFTHS: Final = tuple((k / 5, f"{k / 5:.1f}") for k in range(6))
_DOT: Final = 3.0
_ROW_PX: Final = 78


def plots(evaluation: Evaluation, *, report: str = "") -> dict[str, str]:
    """Draw what the evaluation has the data for.

    Parameters
    ----------
    report
        Address of the report of the same run, to which each case is linked; "" without one.

    Returns
    -------
    dict
        SVG by name: ``cases``, ``roc``, ``precision_recall``, ``reliability``, ``abstention``, ``board``.
    """
    drawn = {"cases": _cases(evaluation, report)} if evaluation.lines else {}
    if evaluation.roc:
        drawn["roc"] = _roc(evaluation)
    if evaluation.precision_recall:
        drawn["precision_recall"] = _precision_recall(evaluation)
    if evaluation.reliability:
        drawn["reliability"] = _reliability(evaluation)
    if evaluation.decision_curve:
        drawn["decision"] = _decision(evaluation)
    if len(evaluation.abstention) > 1:
        drawn["abstention"] = _abstention(evaluation)
    if evaluation.leaderboard is not None:
        drawn["board"] = _board(evaluation)
    return drawn


def _cases(e: Evaluation, report: str) -> str:
    """Draw every case by its grade: what a threshold can and cannot tell apart."""
    names = {grade: f"IHC {grade}" for grade in reversed(GRADES)} | {None: "no grade"}
    rows = [(grade, name) for grade, name in names.items() if any(line.ihc == grade for line in e.lines)]
    chart = Chart(
        "P(positive) of every case, in rows by IHC grade",
        y=(0, len(rows)),
        width=900,
        height=_ROW_PX * len(rows) + 56,
        margins=(70, 10, 12, 46),
    )
    chart.x_axis("P(HER2-positive)", _FIFTHS)
    middles = {grade: len(rows) - 0.5 - k for k, (grade, _) in enumerate(rows)}
    chart.y_axis("", [(middles[grade], name) for grade, name in rows])
    for grade, middle in middles.items():
        _swarm(chart, [line for line in e.lines if line.ihc == grade], middle, report)
    chart.line([(e.cut, 0), (e.cut, len(rows))], "cut", note=f"called positive from {e.cut:.3f}")
    return chart.svg()


def _swarm(chart: Chart, lines: Sequence[CaseLine], middle: float, report: str) -> None:
    """Place dots side by side in lanes, so that none hides another as long as there is room."""
    lanes = [sign * k for k in range(6) for sign in ((1, -1) if k else (1,))]
    ends = dict.fromkeys(lanes, float("-inf"))
    for line in sorted(lines, key=lambda line: (line.p_positive, line.case)):
        x, _ = chart.place(line.p_positive, middle)
        lane = next((k for k in lanes if ends[k] + 2 * _DOT < x), min(lanes, key=lambda k: ends[k]))
        ends[lane] = x
        kind = {True: "pos", False: "neg", None: "unknown"}[line.positive]
        called = "positive" if line.called_positive else "negative"
        truth = {True: "positive", False: "negative", None: "of unknown status"}[line.positive]
        note = f"{line.case}: {truth}, called {called}, P(positive) {line.p_positive:.3f}"
        href = f"{report}#slide-{line.number}" if report and line.number is not None else ""
        up = lane * (2 * _DOT + 0.5)
        chart.dot(line.p_positive, middle, f"dot {kind}", radius=_DOT, note=note, up=up, href=href)


def _roc(e: Evaluation) -> str:
    chart = _square("ROC curve", "1 - specificity", "Sensitivity")
    chart.line([(0, 0), (1, 1)], "guide", note="chance")
    chart.line(e.roc, "curve model")
    tp, fp, fn, tn = e.status_counts
    here = (fp / (fp + tn), tp / (tp + fn))
    chart.dot(
        *here, "here", radius=5.5, note=f"as called: sensitivity {here[1]:.3f}, specificity {1 - here[0]:.3f}"
    )
    chart.words(*here, "as called", dx=9, dy=14)
    return chart.svg()


def _precision_recall(e: Evaluation) -> str:
    chart = _square("Precision-recall curve", "Recall (sensitivity)", "Precision")
    prevalence = e.positive / e.cases
    chart.line([(0, prevalence), (1, prevalence)], "guide", note="calling every case positive")
    chart.words(0, prevalence, "always positive", dx=6, dy=-6 if prevalence < 0.9 else 16, kind="faint")
    chart.line(e.precision_recall, "curve model")
    tp, fp, fn, _ = e.status_counts
    if tp + fp:
        here = (tp / (tp + fn), tp / (tp + fp))
        chart.dot(*here, "here", radius=5.5, note=f"as called: recall {here[0]:.3f}, precision {here[1]:.3f}")
        chart.words(*here, "as called", anchor="end", dx=-9, dy=14)
    return chart.svg()


def _reliability(e: Evaluation) -> str:
    chart = _square(
        "Reliability: share of positive cases by predicted probability", "Mean P(positive)", "Share positive"
    )
    chart.line([(0, 0), (1, 1)], "guide", note="calibrated")
    seen = [b for b in e.reliability if b.mean_p is not None and b.positive.value is not None]
    for b in seen:
        if b.mean_p is not None and b.positive.low is not None and b.positive.high is not None:
            chart.line([(b.mean_p, b.positive.low), (b.mean_p, b.positive.high)], "whisker")
    chart.line([(b.mean_p or 0.0, b.positive.value or 0.0) for b in seen], "curve model")
    for b in seen:
        at = (b.mean_p or 0.0, b.positive.value or 0.0)
        note = f"{b.positive.hits} of {b.positive.of} positive at a mean probability of {at[0]:.3f}"
        chart.dot(*at, "spot model", radius=4.5, note=note)
        chart.words(*at, str(b.positive.of), dx=7, dy=14 if at[1] > 0.5 else -8, kind="faint")
    return chart.svg()


def _decision(e: Evaluation) -> str:
    """Draw net benefit up to where even a perfect model has none to give; losses are cut off."""
    most = e.prevalence or 0.0
    floor = -0.15 * most
    chart = Chart("Decision curve: net benefit by threshold", y=(floor, 1.1 * most))
    chart.x_axis("Threshold on P(HER2-positive)", _FIFTHS)
    chart.y_axis("Net benefit", [(value, f"{value:.2f}") for value in ticks(0, most, 5)])
    chart.line([(0, 0), (1, 0)], "guide", note="calling no case positive")
    for kind, points in (
        ("second", [(d.threshold, d.all_positive) for d in e.decision_curve]),
        ("model", [(d.threshold, d.model) for d in e.decision_curve]),
    ):
        shown = [(x, y) for x, y in points if y is not None and y >= floor]
        if shown:
            chart.line(shown, f"curve {kind}")
    chart.words(1, most, "model", anchor="end", dy=4, kind="label model-text")
    chart.words(1, most, "all positive", anchor="end", dy=20, kind="label second-text")
    return chart.svg()


def _abstention(e: Evaluation) -> str:
    ticks = [(k / 5, f"{k * 20}%") for k in range(6)]
    chart = Chart("F1 and accuracy when abstaining on the least sure cases", x=(1.0, 0.0))
    chart.x_axis("Cases kept, the surest last", ticks)
    chart.y_axis("", _FIFTHS)
    for kind, label, points in (
        ("second", "accuracy", [(a.share, a.accuracy) for a in e.abstention if a.accuracy is not None]),
        ("model", "F1", [(a.share, a.f1) for a in e.abstention if a.f1 is not None]),
    ):
        if points:
            chart.line(points, f"curve {kind}", note=label)
            below = 0.12 if label == "accuracy" else 0.05
            chart.words(1.0, below, label, dx=8, kind=f"label {kind}-text")
    return chart.svg()


def _board(e: Evaluation) -> str:
    """Draw the leaderboard with everybody's interval, and this result among them."""
    here = e.measure("f1")
    rows = [(s.team, s.f1, *counts_interval(counts_of(s)), "team") for s in LEADERBOARD]
    rows.append(("this result", here.value or 0.0, here.low or 0.0, here.high or 0.0, "here"))
    rows.sort(key=lambda row: (-row[1], row[4] != "here"))
    chart = Chart(
        "F1 of the leaderboard's teams and of this result, with 95% bootstrap intervals",
        y=(0, len(rows)),
        width=900,
        height=20 * len(rows) + 60,
        margins=(210, 6, 12, 46),
    )
    chart.x_axis("F1 of HER2-positive, with 95% bootstrap interval", _FIFTHS)
    always = next(s.f1 for s in LEADERBOARD if s.team == ALWAYS_POSITIVE)
    chart.line([(always, 0), (always, len(rows))], "guide", note="calling every slide positive")
    for k, (team, f1, low, high, kind) in enumerate(rows):
        y = len(rows) - 0.5 - k
        note = f"{team}: {f1:.5f} ({low:.3f} to {high:.3f})"
        name = f"{team} (always positive)" if team == ALWAYS_POSITIVE else team
        chart.line([(low, y), (high, y)], f"whisker {kind}-line", note=note)
        chart.dot(f1, y, f"spot {kind}", radius=5 if kind == "here" else 3.5, note=note)
        chart.words(0, y, name, dx=-8, dy=4, anchor="end", kind=f"tick {kind}-text")
    return chart.svg()


def _square(title: str, x: str, y: str) -> Chart:
    chart = Chart(title)
    chart.x_axis(x, _FIFTHS)
    chart.y_axis(y, _FIFTHS)
    return chart
