"""``herohe-bridge evaluate``: how good predictions are, from a file of them and a file of the truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from herohe_model.dataset.labels import Labels
    from herohe_model.dataset.predictions import Matched, Predictions
    from herohe_model.evaluation.compare import Comparison
    from herohe_model.evaluation.schema import Evaluation, LeftOut, Measure, Number


@click.command("evaluate")
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@click.option(
    "--truth",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="HEROHE's label file, or a table with the columns case, ihc, ish, status, laboratory, split.",
)
@click.option("--split", help="Take this split of the truth.  [default: all that the file has]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Call a slide positive from this P(positive) on.  [default: as RESULTS calls them]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the two files.  [default: that of RESULTS]",
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0.001, 0.999),
    help="Share of HER2-positive for predictive values, net benefit and calls; in practice 0.15 to 0.2.  "
    "[default: that of the cases]",
)
@click.option("--title", help="Heading of the page.  [default: the files' names]")
@click.option(
    "--resamples",
    type=click.IntRange(100, 100_000),
    default=2000,
    show_default=True,
    help="Resamples of the bootstrap.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the bootstrap."
)
def command(
    results: Path,
    other: Path | None,
    truth: Path,
    split: str | None,
    threshold: float | None,
    output: Path | None,
    prevalence: float | None,
    title: str | None,
    resamples: int,
    seed: int,
) -> None:
    """Evaluate the predictions in RESULTS against the truth.

    RESULTS is the folder of a run of score or predict, its results.csv or results.json, or a submission of
    the challenge (caseID, soft_prediction, hard_prediction). Slides and cases match by the slide's name
    without its extension. Writes evaluation.html and evaluation.json. A threshold chosen on the slides that
    are evaluated makes every figure too good: choose it on out-of-fold predictions, as train does. Research
    use only.

    With OTHER, predictions of the same slides, the two are compared case by case instead: comparison.html and
    comparison.json hold the differences of AUC and F1 with their intervals, and who was right where.
    """
    from herohe_model.dataset.predictions import match_truth
    from herohe_model.evaluation.evaluate import evaluate
    from herohe_model.evaluation.page import page
    from herohe_model.evaluation.schema import to_json
    from herohe_model.files import write_atomically
    from herohe_model.printable import printable_name

    results, predictions = _predictions(results, threshold)
    labels = _truth(truth, split)
    cases = labels.cases if split is None else labels.of_split(split)
    matched = match_truth(predictions, cases, labels.rows)
    if other is not None:
        other, others = _predictions(other, threshold)
        _compare(matched, match_truth(others, cases, labels.rows), (results, other), truth, output, title)
        return
    named = printable_name(title or f"{results.name} against {truth.name}")
    evaluation = evaluate(matched, title=named, resamples=resamples, seed=seed, prevalence=prevalence)
    folder = output or results.parent
    html = page(evaluation, report=_report(results, folder))
    write_atomically(folder / "evaluation.json", to_json(evaluation))
    write_atomically(folder / "evaluation.html", html.encode())
    for warning in (*evaluation.warnings, *_unmatched(evaluation.left_out)):
        click.echo(f"Warning: {warning}", err=True)
    for line in _summary(evaluation):
        click.echo(line)
    click.echo(f"Page: {folder / 'evaluation.html'}")
    click.echo(evaluation.note)


def _predictions(results: Path, threshold: float | None) -> tuple[Path, Predictions]:
    """Return the file of predictions, of a run's folder its results, and what it says."""
    from bridge.results.predictions import read_predictions
    from bridge.results.run import find_run

    file = results if results.is_file() else find_run(results).results
    predictions = read_predictions(file)
    if threshold is not None:
        predictions = predictions.with_threshold(threshold, "given by hand with --threshold")
    return file, predictions


def _compare(
    first: Matched,
    second: Matched,
    files: tuple[Path, Path],
    truth: Path,
    output: Path | None,
    title: str | None,
) -> None:
    """Write and show how two predictions of the same cases compare."""
    from herohe_model.evaluation.compare import compare
    from herohe_model.evaluation.page import comparison_page
    from herohe_model.evaluation.schema import to_json
    from herohe_model.files import write_atomically
    from herohe_model.printable import printable_name

    # Runs have the same file names; their folders tell them apart.
    names = [
        file.name if files[0].name != files[1].name else f"{file.parent.name}/{file.name}" for file in files
    ]
    named = printable_name(title or f"{names[0]} and {names[1]} against {truth.name}")
    found = compare(first, second, names=(printable_name(names[0]), printable_name(names[1])), title=named)
    folder = output or files[0].parent
    html = comparison_page(found)
    write_atomically(folder / "comparison.json", to_json(found))
    write_atomically(folder / "comparison.html", html.encode())
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    for line in _compared(found):
        click.echo(line)
    click.echo(f"Page: {folder / 'comparison.html'}")
    click.echo(found.note)


def _compared(found: Comparison) -> list[str]:
    """Return the comparison in words."""
    from herohe_model.evaluation.compare import p_words

    a, b = found.measured
    lines = [
        f"A: {found.first}. B: {found.second}. {found.cases} cases of known status in both, "
        f"{found.positive} positive."
    ]
    for gain, one, two in zip(found.gains, (a.auc, a.f1), (b.auc, b.f1), strict=True):
        within = "no interval of so few cases"
        if gain.low is not None and gain.high is not None:
            within = f"95% {gain.low:+.3f} to {gain.high:+.3f}, {p_words(gain.p_value)}"
        less = "-" if gain.value is None else f"{gain.value:+.3f}"
        lines.append(
            f"{gain.label}: A {_number(one.value)}, B {_number(two.value)}; A less B {less} ({within})"
        )
    lines.append(
        f"Right: both {found.right[0]}, A alone {found.right[1]}, B alone {found.right[2]}, neither "
        f"{found.right[3]}; McNemar's exact {p_words(found.mcnemar_p)}."
    )
    for names, what in (
        (found.only_first, "predicted by A alone"),
        (found.only_second, "predicted by B alone"),
        (found.without_truth, "without a truth"),
        (found.without_status, "without a HER2 status"),
    ):
        lines += [f"{len(names)} cases {what} take no part."] if names else []
    return lines


def _report(results: Path, folder: Path) -> str:
    """Return the address of the run's report, seen from a page in the folder; "" without one."""
    from urllib.parse import quote

    report = results.with_name("report.html")
    if not report.is_file():
        return ""
    try:
        return quote(Path(os.path.relpath(report, folder)).as_posix())
    except ValueError:
        # On another drive of Windows.
        return ""


def _truth(path: Path, split: str | None) -> Labels:
    """Read the truth file; it must have the split, if one is named."""
    from herohe_model.dataset.cases import TEST_SPLIT
    from herohe_model.dataset.labels import read_labels
    from herohe_model.dataset.predictions import EvaluationError

    labels = read_labels(path, split=split or TEST_SPLIT)
    for warning in labels.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if split is not None and not labels.of_split(split):
        splits = ", ".join(sorted({case.split for case in labels.cases}))
        raise EvaluationError(f"{path} has no case of the split {split}", f"It has {splits}")
    return labels


def _unmatched(left_out: LeftOut) -> list[str]:
    """Name what takes no part."""
    from herohe_model.dataset.predictions import some

    found = []
    if left_out.without_truth:
        found.append(f"{len(left_out.without_truth)} slides have no truth: {some(left_out.without_truth)}.")
    if left_out.without_prediction:
        named = some([f"{name} ({reason})" for name, reason in left_out.without_prediction])
        found.append(f"{len(left_out.without_prediction)} cases have no prediction: {named}.")
    if left_out.without_status:
        named = some(left_out.without_status)
        found.append(f"{len(left_out.without_status)} cases have no HER2 status: {named}.")
    return found


def _summary(evaluation: Evaluation) -> list[str]:
    """Return the figures as a table."""
    rows = [("", "value", "95% interval", "trivial")]
    rows += [_row(measure) for measure in (*evaluation.status, *evaluation.grade)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{evaluation.cases} cases of known status, {evaluation.positive} positive; "
        f"{evaluation.graded} of known grade."
    ]
    lines += [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
    at_2 = evaluation.equivocal
    if at_2 is not None:
        positive, negative = at_2.sensitivity, at_2.specificity
        lines.append(
            f"At IHC 2+, called right: {positive.hits} of {positive.of} positive and {negative.hits} of "
            f"{negative.of} negative cases; AUC {_number(at_2.auc.value)}."
        )
    board = evaluation.leaderboard
    if board is not None:
        lines.append(
            f"Leaderboard: place {board.rank} of {board.teams + 1}; the interval reaches from "
            f"{board.best_rank} to {board.worst_rank}. {board.caveats[0]}"
        )
    return lines


def _row(measure: Measure) -> tuple[str, str, str, str]:
    trivial = ", ".join(f"{t.answer}: {_number(t.value)}" for t in measure.trivial)
    within = "-" if measure.low is None else f"{_number(measure.low)} to {_number(measure.high)}"
    return (measure.label, _number(measure.value), within, trivial)


def _number(value: Number) -> str:
    return "-" if value is None else f"{value:.3f}"
