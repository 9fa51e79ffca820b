"""Slide files in folders, matched to cases, with a table of what is missing on either side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from herohe_model.cases import Case, CaseKey, split_name
from herohe_model.errors import SlideNotFoundError
from herohe_model.slide_names import SLIDE_SUFFIXES, case_id


@dataclass(frozen=True)
class Unmatched:
    """A case without a slide, a slide without a case, or a slide that cannot be told or opened.

    Attributes
    ----------
    kind
        ``case`` or ``slide``: what is there.
    split, id
        The case's, or those that the slide's folder and name stand for.
    path
        The slide; None for a case without one.
    reason
        Why they do not match, and what to do.
    """

    kind: str
    split: str
    id: str
    path: Path | None
    reason: str


@dataclass(frozen=True)
class Matching:
    """Cases with their slides, in the order of the cases, and what found no partner."""

    matched: tuple[tuple[Case, Path], ...]
    unmatched: tuple[Unmatched, ...]

    def table(self) -> str:
        """Return the counts of each split and a line for each that found no partner, as plain text."""
        splits = dict.fromkeys([c.split for c, _ in self.matched] + [u.split for u in self.unmatched])
        rows = [("split", "matched", "cases without slide", "slides without case")]
        for split in splits:
            of_split = [u.kind for u in self.unmatched if u.split == split]
            matched = sum(case.split == split for case, _ in self.matched)
            rows.append((split, str(matched), str(of_split.count("case")), str(of_split.count("slide"))))
        lines = _aligned(rows)
        if self.unmatched:
            rows = [("what", "split", "ID", "why")]
            rows += [(u.kind, u.split, u.id, u.reason) for u in self.unmatched]
            lines += ["", *_aligned(rows)]
        return "\n".join(lines)


def match_slides(cases: Sequence[Case], folders: Iterable[tuple[str, Path]]) -> Matching:
    """Find the slide of each case.

    Parameters
    ----------
    cases
        Of any splits; those of a split without a folder stay without slides.
    folders
        Splits with the folders of their slides, which are not searched further down: a MIRAX slide's own
        folder holds no slides. A split may have several.

    Returns
    -------
    Matching
        A slide matches the case of its folder's split whose ID is its name without the extension. A MIRAX
        file without its folder, and two files for one case, match nothing.

    Raises
    ------
    SlideNotFoundError
        If a folder is not there.
    """
    files: dict[CaseKey, list[Path]] = {}
    for name, folder in folders:
        split = split_name(name)
        for path in slides_in(folder):
            files.setdefault((split, case_id(path.name)), []).append(path)
    matched: list[tuple[Case, Path]] = []
    missing: list[Unmatched] = []
    left: list[Unmatched] = []
    known = {case.key for case in cases}
    for case in cases:
        found = files.get(case.key, [])
        problem = _problem(found, case.id)
        if found and not problem:
            matched.append((case, found[0]))
        else:
            reason = problem or "no slide of that name" + _near(case.key, files.keys() - known)
            missing.append(Unmatched("case", case.split, case.id, None, reason))
    for key in sorted(files.keys() - known):
        for path in files[key]:
            reason = "no label of that name" + _near(key, known - files.keys())
            left.append(Unmatched("slide", *key, path, reason))
    return Matching(tuple(matched), (*missing, *left))


def slides_in(folder: Path) -> list[Path]:
    """Return the slide files right inside a folder, by name; hidden ones are passed over.

    Raises
    ------
    SlideNotFoundError
        If the folder is not there, or may not be read.
    """
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        reason = error.strerror or error
        raise SlideNotFoundError(
            f"{folder} cannot be read as a folder of slides ({reason})", "Check it"
        ) from error
    return [
        path
        for path in paths
        if path.name.lower().endswith(SLIDE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
    ]


def _problem(files: Sequence[Path], name: str) -> str:
    """Say why the files of a case cannot be used, if so."""
    if len(files) > 1:
        return "several slides: " + ", ".join(path.name for path in files) + "; keep one"
    if files and files[0].suffix.lower() == ".mrxs" and not files[0].with_suffix("").is_dir():
        return f"{files[0].name} lacks its folder {name}; copy it too"
    return ""


def _near(key: CaseKey, others: Iterable[CaseKey]) -> str:
    """Point to what was probably meant: the same ID but for capitals, zeros in front, or the split."""
    split, name = key
    for other_split, other in sorted(others):
        if other == name:
            return f"; there is one in {other_split}"
        if other_split == split and _bare(other) == _bare(name):
            return f"; did you mean {other}?"
    return ""


def _bare(name: str) -> str:
    return name.casefold().lstrip("0")


def _aligned(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
