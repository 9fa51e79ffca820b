"""Label files: both kinds that HEROHE's organisers gave out, and a plain table of one's own.

======================  ===========================================================================
what                    columns understood, in any order; capitals and white space are no matter
======================  ===========================================================================
2019                    ``Case``, ``HER2 Status``
later                   ``Case``, ``Immunohistochemistry``, ``ISH Group``,
                        ``Final Result (Ground truth)``, ``Laboratory``
one's own               ``case``, ``ihc``, ``ish``, ``status``, ``laboratory``, ``split``,
                        ``patient``; ``er``, ``pr``, ``tumour grade``, ``scanner``, ``site``, ``age``
======================  ===========================================================================

Other columns are passed over, and every column but the case may be missing or have empty cells. All that is
wrong with a file is found in one reading. What cannot be true together is an error (3+ called negative, ISH
of 2+ against the status); what is only unusual is a warning (0 or 1+ called positive, as ISH may have told).
A column ``grade`` is the IHC grade, unless another column is: then it is the tumour's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from herohe_model.dataset.cases import Case, CaseKey, case_id, split_name
from herohe_model.dataset.label_words import (
    RefusedWordError,
    is_ultralow,
    names_no_grade,
    plain,
    read_grade,
    read_ish,
    read_split,
    read_status,
    read_words,
)
from herohe_model.dataset.tables import Problem, Row, Table, explain, read_table
from herohe_model.errors import HeroheError

DEFAULT_SPLIT: Final = "train"
_T = TypeVar("_T")

_COLUMNS: Final = {
    "case": ("case", "case id", "caseid", "slide", "slide id"),
    "ihc": ("immunohistochemistry", "ihc", "ihc score", "ihc grade", "grade"),
    "ish": ("ish group", "ish", "ish status", "ish result", "fish"),
    "status": (
        "her2 status",
        "her2",
        "status",
        "final result (ground truth)",
        "final result",
        "ground truth",
    ),
    "laboratory": ("laboratory", "lab"),
    "split": ("split", "set"),
    "patient": ("patient", "patient id", "patientid", "participant"),
    "er": ("er", "er status", "estrogen receptor", "oestrogen receptor"),
    "pr": ("pr", "pgr", "pr status", "progesterone receptor"),
    "tumour grade": (
        "tumour grade",
        "tumor grade",
        "histological grade",
        "histologic grade",
        "nottingham grade",
        "nottingham",
    ),
    "scanner": ("scanner",),
    "site": ("site",),
    "age": ("age", "age at diagnosis"),
}
COVARIATES: Final = ("er", "pr", "tumour grade", "scanner", "site", "age")
"""Columns that may tell the status by themselves; an evaluation looks into each."""


class LabelError(HeroheError):
    """Label files cannot be used.

    Attributes
    ----------
    problems
        All that is wrong with them, warnings included.
    """

    code = "labels"

    def __init__(self, problem: str, remedy: str = "", *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(problem, remedy)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Labels:
    """The cases of one or more label files, in the order of the files, and what is worth knowing of them.

    Attributes
    ----------
    rows
        Where each case stands, such as ``labels.csv, row 7``; in the first of several files.
    """

    cases: tuple[Case, ...]
    warnings: tuple[str, ...]
    rows: Mapping[CaseKey, str]

    def of_split(self, split: str) -> tuple[Case, ...]:
        """Return the cases of one split."""
        return tuple(case for case in self.cases if case.split == split_name(split))


def read_labels(path: Path, *, split: str = DEFAULT_SPLIT) -> Labels:
    """Read a label file.

    Parameters
    ----------
    split
        The split of cases of which the file names none.

    Raises
    ------
    TableError
        If it cannot be read as a table at all.
    LabelError
        If anything in it is wrong. Its message names every problem with its row and its remedy.
    """
    table = read_table(path)
    columns, problems = _columns(table)
    problems = [*table.problems, *problems]
    cases: list[tuple[Row, Case]] = []
    if "case" in columns:
        for row in table.rows:
            case, found = _case(table, row, columns, split_name(split))
            problems += found
            if case is not None:
                cases.append((row, case))
        problems += _repetitions(path, cases)
        if not table.rows and not problems:
            problems.append(Problem(path, None, "It holds no case", "Give it a row a case"))
    _refuse(problems)
    return Labels(
        tuple(case for _, case in cases),
        tuple(explain(problems)),
        {case.key: f"{path.name}, row {row.number}" for row, case in cases},
    )


def read_label_files(files: Iterable[tuple[Path, str]]) -> Labels:
    """Read several label files and join what they say of the same case.

    Parameters
    ----------
    files
        Each with the split of cases of which it names none. The two kinds that the organisers gave out may be
        given together: each tells of a case what the other leaves open.

    Raises
    ------
    TableError, LabelError
        As :func:`read_labels`; and if two files say different things of one case.
    """
    joined: dict[CaseKey, tuple[Path, Case]] = {}
    rows: dict[CaseKey, str] = {}
    warnings: list[str] = []
    problems: list[Problem] = []
    for path, split in files:
        try:
            labels = read_labels(path, split=split)
        except LabelError as error:
            problems += error.problems
            continue
        warnings += labels.warnings
        rows = {**labels.rows, **rows}
        for case in labels.cases:
            before, known = joined.get(case.key, (path, case))
            both, differing = _joined(known, case)
            if differing:
                said = f"{case.split} case {case.id} has another {differing} than in {before}"
                problems.append(Problem(path, None, said, "Correct one of them"))
            else:
                problems += [
                    replace(p, problem=f"{case.split} case {case.id}, with {before}: {p.problem}")
                    for p in _contradictions(path, None, both)
                    if p.fatal
                ]
            joined[case.key] = (before, both)
    _refuse(problems)
    return Labels(tuple(case for _, case in joined.values()), tuple(warnings), rows)


def _refuse(problems: Sequence[Problem]) -> None:
    fatal = [p for p in problems if p.fatal]
    if fatal:
        lines = explain(fatal)
        text = lines[0] if len(lines) == 1 else "\n  ".join(["The labels cannot be used:", *lines])
        raise LabelError(text.removesuffix("."), problems=problems)


def _joined(first: Case, second: Case) -> tuple[Case, str]:
    """Return what two files say of one case, and the name of what they differ about."""
    for name in ("ihc", "ish", "status", "laboratory", "patient"):
        a, b = getattr(first, name), getattr(second, name)
        if a is not None and b is not None and a != b:
            return first, name
    columns = dict(first.columns)
    for name, value in second.columns:
        if columns.setdefault(name, value) != value:
            return first, name
    return (
        Case(
            first.split,
            first.id,
            first.ihc or second.ihc,
            first.ish or second.ish,
            first.status or second.status,
            first.laboratory or second.laboratory,
            first.patient or second.patient,
            first.ultralow or second.ultralow,
            tuple(columns.items()),
        ),
        "",
    )


def _columns(table: Table) -> tuple[dict[str, int], list[Problem]]:
    """Return the index of each column that is understood."""
    names = [plain(name) for name in table.header]
    if set(names) & (set(_COLUMNS["ihc"]) - {"grade"}):
        names = ["tumour grade" if name == "grade" else name for name in names]
    found: dict[str, int] = {}
    problems = []
    for meaning, spellings in _COLUMNS.items():
        places = [i for i, name in enumerate(names) if name in spellings]
        if places:
            found[meaning] = places[0]
        if len(places) > 1:
            twice = " and ".join(f"'{table.header[i]}'" for i in places)
            problems.append(
                Problem(table.path, 1, f"The columns {twice} both mean the {meaning}", "Keep one of them")
            )
    headers = ", ".join(f"'{name}'" for name in table.header)
    if "case" not in found:
        problems.append(
            Problem(
                table.path, 1, f"No column names the case; there are {headers}", "Name one of them 'Case'"
            )
        )
    if not found.keys() & {"ihc", "ish", "status"}:
        remedy = "Name a column 'ihc', 'ish' or 'status'"
        problems.append(
            Problem(table.path, 1, f"No column has grade, ISH or status; there are {headers}", remedy)
        )
    return found, problems


def _case(
    table: Table, row: Row, columns: dict[str, int], default_split: str
) -> tuple[Case | None, list[Problem]]:
    """Return the case of a row, unless it has none, and all that is wrong with it."""
    problems: list[Problem] = []

    def cell(name: str) -> str:
        return row.cells[columns[name]] if name in columns else ""

    def understood(name: str, parse: Callable[[str], _T | None], allowed: str) -> _T | None:
        try:
            return parse(cell(name))
        except ValueError as error:
            said = f"'{cell(name)}' is no {table.header[columns[name]]}"
            known = isinstance(error, RefusedWordError)
            meant = str(error) if known else f"Write {allowed}, or leave it empty"
            problems.append(Problem(table.path, row.number, said, meant))
            return None

    name = case_id(cell("case"))
    if not name:
        return None, [
            Problem(table.path, row.number, "It names no case", "Fill in the case, or delete the row")
        ]
    case = Case(
        split=read_split(cell("split")) or default_split,
        id=name,
        ihc=understood("ihc", read_grade, "0, 1+, 2+ or 3+"),
        ish=understood("ish", read_ish, "Positive or Negative, or an ISH group of 1 to 5"),
        status=understood("status", read_status, "Positive or Negative"),
        laboratory=read_words(cell("laboratory")),
        patient=read_words(cell("patient")),
        ultralow=is_ultralow(cell("ihc")),
        columns=tuple((name, value) for name in COVARIATES if (value := read_words(cell(name))) is not None),
    )
    if problems:
        return case, problems
    problems = _contradictions(table.path, row.number, case)
    if case.ultralow:
        remedy = "It is counted, and learned as 0"
        problems.append(Problem(table.path, row.number, "IHC 0+ (ultralow)", remedy, False))
    if case.ihc is None and names_no_grade(cell("status")):
        remedy = "HER2-negative is learned, and no grade follows"
        problems.append(Problem(table.path, row.number, f"The status is '{cell('status')}'", remedy, False))
    elif case.ihc is None and "ihc" in columns and case.status is not None:
        remedy = "Only what the status says of it is learned and evaluated"
        problems.append(Problem(table.path, row.number, "There is no grade", remedy, False))
    return case, problems


def _contradictions(path: Path, row: int | None, case: Case) -> list[Problem]:
    """Return what cannot be true together, and what is only unusual."""
    positive = None if case.status is None else case.status == "HER2-positive"
    amplified = None if case.ish is None else case.ish == "positive"
    correct = "Correct the grade, the ISH or the status, or leave empty what is in doubt"
    found: list[tuple[str, str, bool]] = []
    if case.ihc == "3+" and positive is False:
        found.append((f"IHC 3+ is called {case.status}", correct, True))
    if case.ihc == "3+" and amplified is False:
        found.append(("IHC 3+ with negative ISH", "The grade decides; check it", False))
    if case.ihc == "2+" and None not in (amplified, positive) and amplified != positive:
        found.append((f"IHC 2+ with {case.ish} ISH is called {case.status}", correct, True))
    if case.ihc in ("0", "1+") and positive and amplified is False:
        found.append((f"IHC {case.ihc} with negative ISH is called {case.status}", correct, True))
    elif case.ihc in ("0", "1+") and (positive or amplified):
        ish = f" with {case.ish} ISH" if case.ish else ""
        called = f" is called {case.status}" if case.status else ""
        stands = "The status stands, else the grade; check it"
        found.append((f"IHC {case.ihc}{ish}{called}", stands, False))
    if case.ihc == "2+" and case.positive is None:
        found.append(("IHC 2+ has neither ISH nor status", "Its status is not learned or evaluated", False))
    if case.ihc is None and case.status is None:
        found.append(
            ("There is neither grade nor status", "The case takes no part until one is there", False)
        )
    return [Problem(path, row, problem, remedy, fatal) for problem, remedy, fatal in found]


def _repetitions(path: Path, cases: Sequence[tuple[Row, Case]]) -> list[Problem]:
    first: dict[CaseKey, int] = {}
    problems = []
    for row, case in cases:
        before = first.setdefault(case.key, row.number)
        if before != row.number:
            said = f"The {case.split} case {case.id} stands in row {before} already"
            remedy = "Keep one row a case, or tell the splits apart in a column 'split'"
            problems.append(Problem(path, row.number, said, remedy))
    return problems
