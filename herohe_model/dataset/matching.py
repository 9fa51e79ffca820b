"""Slides matched to cases by their names, with a table of what is missing on either side."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from herohe_model.dataset.cases import Case, CaseKey, case_id, split_name
from herohe_model.dataset.tables import CsvWriter

WITHOUT_SLIDE: Final = "case without slide"
WITHOUT_LABEL: Final = "slide without label"
SEVERAL_SLIDES: Final = "case with several slides"

_DECIMALS: Final = re.compile(r"[.,]0+$")
MEANT: Final = "did you mean"

_HEADER: Final = ("what", "name", "label", "why")


@dataclass(frozen=True)
class Unmatched:
    """A case or a slide that found no partner.

    Attributes
    ----------
    kind
        :data:`WITHOUT_SLIDE`, :data:`WITHOUT_LABEL` or :data:`SEVERAL_SLIDES`.
    name
        The case's ID, or the slide's name.
    label
        File and row of the case's label; empty for a slide without one.
    reason
        Why, and what was probably meant.
    """

    kind: str
    name: str
    label: str
    reason: str


@dataclass(frozen=True)
class Matching:
    """Which slide is which case's.

    Attributes
    ----------
    split
        The split that was looked at.
    matched
        Cases with the index of their slide, in the order of the slides.
    unmatched
        Cases first, in the order of the labels; then slides, in their own.
    """

    split: str
    matched: tuple[tuple[Case, int], ...]
    unmatched: tuple[Unmatched, ...]

    def lines(self, shown: int) -> list[str]:
        """Return the counts, and a table of up to `shown` that found no partner, as lines of text."""
        counts = [f"Slides and labels of the split {self.split}: {len(self.matched)} matched"]
        for kind in (WITHOUT_SLIDE, WITHOUT_LABEL, SEVERAL_SLIDES):
            number = sum(u.kind == kind for u in self.unmatched)
            counts += [f"{number} × {kind}"] if number else []
        rows = [(u.kind, u.name, u.label, u.reason) for u in self.unmatched[:shown]]
        lines = ["; ".join(counts) + ".", *(_aligned([_HEADER, *rows]) if rows else [])]
        more = len(self.unmatched) - shown
        return [*lines, f"and {more} more"] if more > 0 else lines

    def table(self, slides: Sequence[str], labels: Mapping[CaseKey, str]) -> bytes:
        """Return everything as CSV: a line a slide or case, the matched ones with their slide's name."""
        text = io.StringIO()
        writer = CsvWriter(text)
        writer.writerow(_HEADER)
        for case, index in self.matched:
            writer.writerow(("matched", slides[index], labels.get(case.key, ""), ""))
        for unmatched in self.unmatched:
            writer.writerow((unmatched.kind, unmatched.name, unmatched.label, unmatched.reason))
        return text.getvalue().encode()


def match_slides(
    cases: Sequence[Case], slides: Sequence[str], *, split: str, labels: Mapping[CaseKey, str]
) -> Matching:
    """Find the slide of each case of a split.

    Parameters
    ----------
    cases
        Of any splits: the same ID in another split is another case, which is only pointed to.
    slides
        Names of slide files or of a project's images. A slide is the case whose ID is its name without the
        extension; two slides of one case match nothing.
    labels
        File and row of each case, as :class:`~herohe_model.dataset.labels.Labels` has them.
    """
    split = split_name(split)
    found: dict[str, list[int]] = {}
    for index, name in enumerate(slides):
        found.setdefault(case_id(name), []).append(index)
    of_split = {case.id: case for case in cases if case.split == split}
    elsewhere = {case.id: case.split for case in cases if case.split != split}
    matched: list[tuple[Case, int]] = []
    unmatched: list[Unmatched] = []
    for name, case in of_split.items():
        indices, label = found.get(name, []), labels.get(case.key, "")
        if len(indices) == 1:
            matched.append((case, indices[0]))
        elif indices:
            several = ", ".join(slides[i] for i in indices)
            unmatched.append(Unmatched(SEVERAL_SLIDES, name, label, f"{several}; keep one"))
        else:
            reason = "no slide of that name" + _near(name, found.keys() - of_split.keys())
            unmatched.append(Unmatched(WITHOUT_SLIDE, name, label, reason))
    free = of_split.keys() - found.keys()
    for slide in slides:
        name = case_id(slide)
        if name not in of_split:
            reason = f"no label of that name in the split {split}"
            reason += f"; there is one in {elsewhere[name]}" if name in elsewhere else _near(name, free)
            unmatched.append(Unmatched(WITHOUT_LABEL, slide, "", reason))
    return Matching(split, tuple(sorted(matched, key=lambda pair: pair[1])), tuple(unmatched))


def _near(name: str, others: Iterable[str]) -> str:
    """Point to what was probably meant: the same ID but for capitals, zeros in front or ``.0`` at the end."""
    alike = [other for other in sorted(others) if _bare(other) == _bare(name)]
    return f"; {MEANT} {alike[0]}?" if alike else ""


def _bare(name: str) -> str:
    # A column of numbers with a gap in it is written with decimals by many programs.
    return _DECIMALS.sub("", name.casefold()).lstrip("0")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
