"""The challenge's submission file: ``caseID,soft_prediction,hard_prediction``, a line a slide.

The soft prediction is P(HER2-positive), the hard one 0 or 1; the case is the slide's name without its
extension. The organisers' own files also spell the last column ``hard_preditction``: both are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import case_id
from herohe_model.dataset.tables import CsvWriter, Problem, Row, TableError, explain, read_table
from herohe_model.files import write_atomically

DECIMALS: Final = 6
HardSpelling = Literal["hard_prediction", "hard_preditction"]
_HARD: Final = ("hard_prediction", "hard_preditction")


class SubmissionError(TableError):
    """A submission file, or what shall be written to one, is not valid."""

    code = "submission"


@dataclass(frozen=True)
class Submission:
    """What a submission file says.

    Attributes
    ----------
    case_ids
        In the order of the file.
    soft
        P(HER2-positive), shape (cases,), float64, 0 to 1.
    hard
        Called HER2-positive, shape (cases,), bool.
    warnings
        What is odd about it.
    """

    case_ids: tuple[str, ...]
    soft: NDArray[np.float64]
    hard: NDArray[np.bool_]
    warnings: tuple[str, ...] = ()


def write_submission(
    path: Path, submission: Submission, *, spelling: HardSpelling = "hard_prediction"
) -> None:
    """Write a submission file: UTF-8, commas, line feeds, probabilities with 6 decimals.

    Parameters
    ----------
    spelling
        Name of the last column; the other one is for tools that were made for the organisers' files.

    Raises
    ------
    SubmissionError
        If a case comes twice or has no ID, or a probability is not a number from 0 to 1.
    WriteError
        If the file cannot be written.
    """
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(("caseID", "soft_prediction", spelling))
    problems = []
    seen: dict[str, int] = {}
    rows = zip(submission.case_ids, submission.soft.tolist(), submission.hard.tolist(), strict=True)
    for number, (name, soft, hard) in enumerate(rows, start=2):
        problems += _problems(path, number, name, soft, seen)
        writer.writerow((name, f"{soft:.{DECIMALS}f}", int(hard)))
    _refuse(problems)
    write_atomically(path, text.getvalue().encode())


def read_submission(path: Path) -> Submission:
    """Read a submission file; every problem is named with its row.

    Raises
    ------
    TableError
        If it is no table (:class:`SubmissionError` if it is one, but no valid submission).
    """
    table = read_table(path)
    names = [name.casefold() for name in table.header]
    wanted = {"case": ("caseid",), "soft": ("soft_prediction",), "hard": _HARD}
    columns = {key: [i for i, name in enumerate(names) if name in spelled] for key, spelled in wanted.items()}
    problems = list(table.problems)
    for key, places in columns.items():
        if len(places) != 1:
            said = f"It has {len(places)} columns named {' or '.join(wanted[key])}"
            problems.append(Problem(path, 1, said, "The header is caseID,soft_prediction,hard_prediction"))
    _refuse(problems if not all(len(places) == 1 for places in columns.values()) else [])
    where = {key: places[0] for key, places in columns.items()}
    seen: dict[str, int] = {}
    ids, softs, hards = [], [], []
    for row in table.rows:
        name, soft, hard, found = _parsed(path, row, where)
        problems += [*found, *_problems(path, row.number, name, soft, seen)]
        ids.append(name)
        softs.append(soft)
        hards.append(hard)
    if not table.rows:
        problems.append(Problem(path, None, "It holds no prediction", "Give it a row a slide"))
    _refuse(problems)
    submission = Submission(tuple(ids), np.array(softs), np.array(hards, dtype=np.bool_))
    warnings = explain([p for p in problems if not p.fatal])
    if disordered(submission.soft, submission.hard):
        warnings.append(
            f"{path}: no threshold on soft_prediction gives hard_prediction. Check how it was made."
        )
    return Submission(submission.case_ids, submission.soft, submission.hard, tuple(warnings))


def disordered(soft: NDArray[np.float64], hard: NDArray[np.bool_]) -> bool:
    """Whether a case that is called negative has as high a probability as one that is called positive."""
    return bool(hard.any() and not hard.all() and soft[~hard].max() >= soft[hard].min())


def _parsed(path: Path, row: Row, where: dict[str, int]) -> tuple[str, float, bool, list[Problem]]:
    cells = {key: row.cells[i] for key, i in where.items()}
    problems = []
    try:
        soft = float(cells["soft"])
    except ValueError:
        soft = 0.0
        said = f"The soft_prediction '{cells['soft']}' is no number"
        problems.append(Problem(path, row.number, said, "Write P(HER2-positive) with a decimal point"))
    if cells["hard"] not in ("0", "1"):
        said = f"The hard_prediction '{cells['hard']}' is neither 0 nor 1"
        problems.append(Problem(path, row.number, said, "Write 1 for HER2-positive and 0 for HER2-negative"))
    return case_id(cells["case"]), soft, cells["hard"] == "1", problems


def _problems(path: Path, row: int, name: str, soft: float, seen: dict[str, int]) -> list[Problem]:
    """Say what is wrong with a case's ID and probability; `seen` has the rows of the IDs before."""
    problems = []
    if not name:
        problems.append(
            Problem(path, row, "It has no caseID", "Write the slide's name without its extension")
        )
    elif seen.setdefault(name, row) != row:
        said = f"The caseID {name} stands in row {seen[name]} already"
        problems.append(Problem(path, row, said, "Keep one row a case"))
    if not 0.0 <= soft <= 1.0:
        said = f"The soft_prediction {soft:g} is not from 0 to 1"
        problems.append(Problem(path, row, said, "Write P(HER2-positive) as a share"))
    return problems


def _refuse(problems: Iterable[Problem]) -> None:
    fatal = [p for p in problems if p.fatal]
    if fatal:
        lines = explain(fatal)
        text = lines[0] if len(lines) == 1 else "\n  ".join(["The submission is not valid:", *lines])
        raise SubmissionError(text.removesuffix("."))
