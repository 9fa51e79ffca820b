"""Predictions from ``results.csv`` and ``results.json`` of ``score``, and from submission files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.results.files import ResultFileError, read_json
from bridge.results.schema import Outcome, SlideResult
from herohe_model.dataset.cases import case_id
from herohe_model.dataset.predictions import (
    PATCHES,
    SATURATION,
    Decision,
    Predictions,
    decision_of_calls,
    some,
)
from herohe_model.dataset.submission import read_submission
from herohe_model.dataset.tables import Problem, Row, Table, explain, read_table
from herohe_model.grades import GRADES
from herohe_model.notice import SEEN_IN_TRAINING, TOY_NOTICES
from herohe_model.printable import printable_name

_NEEDED: Final = ("slide", "region", "outcome", "status", "grade", "p_positive", "p_ge_1", "p_ge_2", "p_3")
_STATUSES: Final = {"HER2-positive": True, "HER2-negative": False}


def read_predictions(path: Path) -> Predictions:
    """Read the predictions of slides, whichever of the three kinds of file it is.

    Slides that were not scored are kept with their outcome; single annotations are passed over.

    Raises
    ------
    HeroheError
        If it is none of them, or cannot be understood; every bad row is named.
    """
    if path.suffix.lower() == ".json":
        return predictions_of(read_json(path), path)
    table = read_table(path)
    names = [name.casefold() for name in table.header]
    if "soft_prediction" in names:
        return _from_submission(path)
    if all(name in names for name in _NEEDED):
        return _from_table(table, {name: names.index(name) for name in names})
    missing = [name for name in _NEEDED if name not in names]
    raise ResultFileError(
        f"{path} is neither a results.csv (it lacks {', '.join(missing)}) nor a submission",
        "Name a results.csv or results.json of herohe-bridge score, or a file with the header "
        "caseID,soft_prediction,hard_prediction",
    )


def _from_submission(path: Path) -> Predictions:
    submission, name = read_submission(path), printable_name(path.name)
    return Predictions(
        case_ids=submission.case_ids,
        p_positive=submission.soft,
        called=submission.hard,
        decision=decision_of_calls(submission.soft, submission.hard, f"hard_prediction of {name}"),
        model=f"submission {name}",
        warnings=submission.warnings,
    )


def _case_of_slide(result: SlideResult) -> str:
    return case_id(result.slide)


def predictions_of(
    results: Iterable[SlideResult],
    path: Path,
    *,
    case_of: Callable[[SlideResult], str] = _case_of_slide,
) -> Predictions:
    """Return the predictions of a run's results, which are read once.

    Parameters
    ----------
    path
        Where they are from, for messages.
    case_of
        Names a slide's case.

    Raises
    ------
    ResultFileError
        If a status or a grade is none of ours.
    """
    scored = []
    not_scored = []
    models = []
    seen: list[str] = []
    fingerprints: list[str] = []
    foreground: list[int] = []
    numbers: list[int] = []
    saturation: list[float] = []
    thresholds: set[tuple[float | None, str]] = set()
    for number, result in enumerate(results, start=1):
        if result.provenance is not None:
            models.append(
                (_named(result.provenance.model, result.provenance.knowledge), result.provenance.model_sha256)
            )
            thresholds.add((result.provenance.decision_threshold, result.provenance.threshold_chosen))
        prediction = result.union.prediction if result.union is not None else None
        if result.outcome is Outcome.SCORED and result.union is not None and prediction is not None:
            if prediction.status not in _STATUSES or prediction.grade not in ("", *GRADES):
                raise ResultFileError(
                    f"{path}: {result.slide} has the status '{prediction.status}' and the grade "
                    f"'{prediction.grade}'",
                    "Use the file as herohe-bridge score wrote it",
                )
            made = result.provenance
            numbers.append(number)
            foreground.append(result.union.patches_foreground)
            known = [patch.saturation for patch in result.union.patches if patch.saturation is not None]
            saturation.append(float(np.mean(known or [0.0])))
            fingerprints.append("" if made is None else made.slide_fingerprint)
            scored.append((case_of(result), prediction, result.union.composites))
            if SEEN_IN_TRAINING in result.warnings:
                seen.append(case_of(result))
        else:
            not_scored.append((case_of(result), _reason(result.outcome.value, result.message)))
    p = np.array([prediction.p_positive for _, prediction, _ in scored], dtype=np.float64)
    called = np.array([_STATUSES[prediction.status] for _, prediction, _ in scored], dtype=np.bool_)
    # A grade is told of all slides or of none: it is the model that learned to.
    graded = all(prediction.grade for _, prediction, _ in scored)
    at_least = [[prediction.at_least[g] for g in GRADES[1:]] for _, prediction, _ in scored if graded]
    model, warnings = _models(models, path)
    return Predictions(
        case_ids=tuple(name for name, _, _ in scored),
        p_positive=p,
        called=called,
        decision=_decision(p, called, thresholds, path),
        grades=np.array([GRADES.index(prediction.grade) for _, prediction, _ in scored], dtype=np.int64)
        if graded
        else None,
        at_least=np.array(at_least, dtype=np.float64).reshape(len(scored), len(GRADES) - 1)
        if graded
        else None,
        composites=tuple(np.array([c.p_positive for c in composites]) for _, _, composites in scored),
        not_scored=tuple(not_scored),
        model=model,
        warnings=(*warnings, *_seen(seen)),
        fingerprints=tuple(fingerprints),
        numbers=tuple(numbers),
        calls=tuple(prediction.call for _, prediction, _ in scored)
        if scored and all(prediction.call for _, prediction, _ in scored)
        else None,
        measured=(
            (PATCHES, np.array(foreground, dtype=np.float64)),
            (SATURATION, np.array(saturation, dtype=np.float64)),
        ),
    )


def _seen(names: Sequence[str]) -> list[str]:
    """Say of which slides the figures mean nothing."""
    if not names:
        return []
    return [
        f"The model was trained on {len(names)} of these slides, by their fingerprints: {some(names)}. "
        "Figures that count them are too good."
    ]


def _from_table(table: Table, columns: dict[str, int]) -> Predictions:
    problems = list(table.problems)
    names, numbers, called, grades = [], [], [], []
    not_scored = []
    models = []
    seen = []
    thresholds: set[tuple[float | None, str]] = set()

    def cell(row: Row, name: str) -> str:
        return row.cells[columns[name]] if name in columns else ""

    for row in table.rows:
        if cell(row, "region") != "slide":
            continue
        name = case_id(cell(row, "slide"))
        models.append((_named(cell(row, "model"), cell(row, "knowledge")), cell(row, "model_sha256")))
        if cell(row, "outcome") != Outcome.SCORED.value:
            not_scored.append((name, _reason(cell(row, "outcome"), cell(row, "message"))))
            continue
        try:
            given_grade = cell(row, "grade")
            keys = ("p_positive", "p_ge_1", "p_ge_2", "p_3") if given_grade else ("p_positive",)
            values = [float(cell(row, key)) for key in keys] + [float("nan")] * (4 - len(keys))
            status = _STATUSES[cell(row, "status")]
            grade = GRADES.index(given_grade) if given_grade else -1
        except (ValueError, KeyError) as error:
            remedy = "Use the file as herohe-bridge score wrote it, or results.json"
            said = f"The result of {name or 'a slide without a name'} cannot be understood ({error})"
            problems.append(Problem(table.path, row.number, said, remedy))
            continue
        given = cell(row, "threshold")
        try:
            thresholds.add((float(given) if given else None, cell(row, "threshold_chosen")))
        except ValueError:
            thresholds.add((None, ""))
        if SEEN_IN_TRAINING in cell(row, "warnings"):
            seen.append(name)
        names.append(name)
        numbers.append(values)
        called.append(status)
        grades.append(grade)
    fatal = [p for p in problems if p.fatal]
    if fatal:
        raise ResultFileError("\n  ".join(explain(fatal)).removesuffix("."))
    p = np.array(numbers, dtype=np.float64).reshape(len(names), 4)
    calls = np.array(called, dtype=np.bool_)
    model, warnings = _models([(m, s) for m, s in models if m], table.path)
    return Predictions(
        case_ids=tuple(names),
        p_positive=p[:, 0],
        called=calls,
        decision=_decision(p[:, 0], calls, thresholds, table.path),
        grades=np.array(grades, dtype=np.int64) if min(grades, default=0) >= 0 else None,
        at_least=p[:, 1:] if min(grades, default=0) >= 0 else None,
        not_scored=tuple(not_scored),
        model=model,
        warnings=(*explain([p for p in problems if not p.fatal]), *warnings, *_seen(seen)),
    )


def _decision(
    p: NDArray[np.float64], called: NDArray[np.bool_], thresholds: set[tuple[float | None, str]], path: Path
) -> Decision:
    """Return the model's own threshold; what the calls tell of it where it is not known, or not one."""
    if len(thresholds) == 1:
        ((threshold, chosen),) = thresholds
        if threshold is not None:
            return Decision(threshold, threshold, threshold, f"the model's own, {chosen}".removesuffix(", "))
    return decision_of_calls(
        p, called, f"status in {printable_name(path.name)}, by the model's own threshold"
    )


def _models(models: Sequence[tuple[str, str]], path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the models' names, and a warning if there are several."""
    distinct = sorted({f"{name} {sha256[:12]}".strip() for name, sha256 in models})
    warnings: tuple[str, ...] = tuple(
        notice
        for kind, notice in TOY_NOTICES.items()
        if any(name.startswith(_named("", kind)) for name, _ in models)
    )
    if len(distinct) > 1:
        warnings = (
            *warnings,
            f"{printable_name(path.name)} holds results of {len(distinct)} models, evaluated as one.",
        )
    return ", ".join(distinct), warnings


def _named(model: str, knowledge: str) -> str:
    """Return a model's name, after what a demo or random one is."""
    return f"[{knowledge}] {model}" if knowledge in TOY_NOTICES else model


def _reason(outcome: str, message: str) -> str:
    return f"{outcome}: {message}" if message else outcome
