"""Whether a prepared cohort is whole: what it holds beside what is published of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.cohorts.known import Cohort
from bridge.cohorts.prepare import LABELS, CohortRecord
from herohe_model.dataset.cases import Case, case_id
from herohe_model.dataset.labels import read_labels
from herohe_model.slides.formats import SLIDE_SUFFIXES


@dataclass(frozen=True)
class CohortCheck:
    """What was found.

    Attributes
    ----------
    counts
        Lines with what there is and, where it is published, what there should be.
    problems
        A sentence for everything that does not fit.
    """

    counts: tuple[str, ...]
    problems: tuple[str, ...]


def check_cohort(cohort: Cohort, folder: Path, record: CohortRecord) -> CohortCheck:
    """Compare a prepared folder with its labels and with the published counts.

    Raises
    ------
    HeroheError
        If the labels cannot be read.
    """
    cases = read_labels(folder / LABELS).cases
    counts, problems = [], [*record.missing, *record.warnings]
    for split in sorted({case.split for case in cases}):
        of_split = [case for case in cases if case.split == split]
        there = {
            case_id(path.name)
            for path in (folder / "slides" / split).glob("*")
            if path.suffix.lower() in SLIDE_SUFFIXES
        }
        lacking = [case.id for case in of_split if case.id not in there]
        problems += [f"The {split} case {id} has no slide in the folder." for id in lacking]
        counts.append(_line(split, of_split, cohort.counts.get(split, {}), problems))
    if "all" in cohort.counts:
        counts.append(_line("all", cases, cohort.counts["all"], problems))
    owners = Counter(case.owner for case in cases)
    several = sum(count > 1 for count in owners.values())
    if several:
        counts.append(f"{several} patients have several slides; folds keep them together.")
    unknown = sum(case.positive is None for case in cases)
    if unknown:
        counts.append(f"{unknown} slides have no HER2 status.")
    return CohortCheck(tuple(counts), tuple(problems))


def _line(name: str, cases: Sequence[Case], published: dict[str, int], problems: list[str]) -> str:
    """Return the counts in words; what differs from the published ones is a problem."""
    found = {
        "slides": len(cases),
        "positive": sum(case.positive is True for case in cases),
        "negative": sum(case.positive is False for case in cases),
        **{grade: sum(case.ihc == grade for case in cases) for grade in ("0", "1+", "2+", "3+")},
    }
    words = []
    for what, count in found.items():
        wanted = published.get(what)
        words.append(f"{what} {count}" + ("" if wanted is None else f" of {wanted}"))
        if wanted is not None and wanted != count:
            problems.append(f"{name}: {count} {what}, and {wanted} are published.")
    return f"{name}: {', '.join(words)}"
