"""A case and what is known of it: IHC grade, ISH, HER2 status, laboratory; and the bits that follow.

Five levels are possible, in order: 0, 1+, 2+/ISH-, 2+/ISH+, 3+; the last two are HER2-positive. What a label
file says leaves some of them possible, and a bit of a target is known when all of these agree about it. So a
missing grade hides only the bits that nothing else tells.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from herohe_model.grades import GRADES, Status, Target, bits_of_level
from herohe_model.slides.formats import without_suffix


def case_id(name: str) -> str:
    """Return the case that a slide's name stands for: the name without a slide's extension.

    A dot that begins no such extension belongs to the ID. Letters that may be composed of two characters are
    one (Unicode's NFC), as they look the same.
    """
    return without_suffix(unicodedata.normalize("NFC", name.strip()))


Ish = Literal["positive", "negative"]
CaseKey = tuple[str, str]

TEST_SPLIT: Final = "test"
"""The split that chooses nothing."""

# Project, site and participant; what follows names samples and slides of the same participant.
_TCGA: Final = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)
_LEVELS: Final = Target.IHC_ISH.levels
_BY_STATUS: Final[dict[Status, tuple[str, ...]]] = {
    "HER2-negative": _LEVELS[:3],
    "HER2-positive": _LEVELS[3:],
}


@dataclass(frozen=True)
class Case:
    """One case of a split. The same ID in two splits is two cases, with different slides.

    Attributes
    ----------
    split
        Such as ``train`` or ``test``.
    id
        The case's ID: the name of its slide file without the extension.
    ihc
        One of :data:`~herohe_model.grades.GRADES`, or None when it is not known.
    ish
        Result of in-situ hybridisation; None when it was not done or is not known.
    status
        The HER2 status that the label file gives; None when it gives none. See `positive`.
    laboratory
        Where it was stained and scanned; None when it is not known.
    patient
        Whose slide it is; None when that is not known. See `owner`.
    ultralow
        Whether the grade 0 was written as 0+, faint staining in up to 10% of the tumour. No target learns the
        difference; an evaluation counts these cases for themselves.
    columns
        What else the labels say that may tell the status by itself, such as ``("er", "positive")``.
    """

    split: str
    id: str
    ihc: str | None = None
    ish: Ish | None = None
    status: Status | None = None
    laboratory: str | None = None
    patient: str | None = None
    ultralow: bool = False
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def owner(self) -> str:
        """What no two folds may share: the patient, a TCGA barcode's participant, else the case itself."""
        if self.patient is not None:
            return f"patient {self.patient}"
        barcode = _TCGA.match(self.id)
        return f"patient {barcode[0].upper()}" if barcode else f"{self.split} {self.id}"

    @property
    def key(self) -> CaseKey:
        """What tells cases apart: (split, ID)."""
        return (self.split, self.id)

    @property
    def positive(self) -> bool | None:
        """HER2 status: what the file says, else what grade and ISH say, else None."""
        if self.status is not None:
            return self.status == "HER2-positive"
        if self.ihc == "2+":
            return None if self.ish is None else self.ish == "positive"
        return None if self.ihc is None else self.ihc == "3+"

    @property
    def stratum(self) -> str:
        """Grade, ISH inside 2+ and status as one word; folds keep its shares."""
        ish = (
            {"positive": "ISH+", "negative": "ISH-", None: "ISH?"}[self._ish_of_2] if self.ihc == "2+" else ""
        )
        status = {True: "positive", False: "negative", None: "?"}[self.positive]
        return "/".join(filter(None, (self.ihc or "?", ish, status)))

    @property
    def possible_levels(self) -> tuple[str, ...]:
        """Which of the five levels the labels leave possible, lowest first; never empty.

        Where grade and status contradict each other (an amplified 1+ that is called positive), the levels of
        either stay possible, so that only what both agree on counts as known.
        """
        by_grade = self._levels_by_grade
        by_status = _LEVELS if self.status is None else _BY_STATUS[self.status]
        both = [level for level in by_grade if level in by_status]
        return tuple(both or (level for level in _LEVELS if level in by_grade or level in by_status))

    @property
    def _ish_of_2(self) -> Ish | None:
        """ISH of a 2+ case; the status tells it where the file does not."""
        if self.ish is not None or self.status is None:
            return self.ish
        return "positive" if self.status == "HER2-positive" else "negative"

    @property
    def _levels_by_grade(self) -> tuple[str, ...]:
        if self.ihc is None:
            return _LEVELS
        if self.ihc != "2+":
            return (self.ihc,)
        if self._ish_of_2 is None:
            return ("2+/ISH-", "2+/ISH+")
        return ("2+/ISH+",) if self._ish_of_2 == "positive" else ("2+/ISH-",)


def split_name(text: str) -> str:
    """Return a split as it is written here: in small letters, with ``train`` for training."""
    plain = " ".join(text.split()).casefold()
    return {"training": "train", "testing": TEST_SPLIT}.get(plain, plain)


def level_of(case: Case, target: Target) -> str | None:
    """Return the target's level of a case, or None when more than one is possible."""
    possible = _levels_of(case, target)
    return possible[0] if len(possible) == 1 else None


def target_bits(case: Case, target: Target) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the bits that a network shall learn from a case, and which of them are known.

    Returns
    -------
    bits, known
        One for each of ``target.steps``, highest step first; a bit that is not known is 0.

    Notes
    -----
    Of ``ihc+ish``, a positive case without a grade gives ``?111``, a negative one ``00??``, and a 2+ case
    without ISH and status ``0?11``. Of ``ihc``, a grade gives all bits whatever the status; without a grade,
    positive gives ``?11`` and negative ``0??``: a negative case may be 2+, a positive one may not be 1+.
    """
    rows = [bits_of_level(level, target) for level in _levels_of(case, target)]
    known = tuple(len(set(column)) == 1 for column in zip(*rows, strict=True))
    return tuple(bit if sure else 0 for bit, sure in zip(rows[0], known, strict=True)), known


def target_arrays(cases: Sequence[Case], target: Target) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return :func:`target_bits` of many cases.

    Returns
    -------
    bits, known
        Shape (cases, bits), highest step first; a bit that is not known is 0.
    """
    shape = (len(cases), len(target.steps))
    both = [target_bits(case, target) for case in cases]
    bits = np.array([bits for bits, _ in both], dtype=np.int64).reshape(shape)
    known = np.array([known for _, known in both], dtype=np.bool_).reshape(shape)
    return bits, known


def grade_numbers(cases: Sequence[Case]) -> NDArray[np.int64]:
    """Return the IHC grades as 0 to 3, and -1 where there is none; shape (cases,)."""
    return np.array([-1 if c.ihc is None else GRADES.index(c.ihc) for c in cases], dtype=np.int64)


def _levels_of(case: Case, target: Target) -> tuple[str, ...]:
    """Return the target's levels that are possible for a case, lowest first."""
    if target is Target.IHC_ISH:
        return case.possible_levels
    if case.ihc is not None:
        return (case.ihc,)
    # dict.fromkeys keeps the order and drops the second 2+.
    return tuple(dict.fromkeys(level.partition("/")[0] for level in case.possible_levels))
