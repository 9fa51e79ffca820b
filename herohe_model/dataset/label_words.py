"""What people write in the cells of a table of labels, and what they mean by it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final, TypeVar

from herohe_model.dataset.cases import Ish, split_name
from herohe_model.grades import GRADES, Status

_MISSING: Final = frozenset(
    [
        "",
        "?",
        "na",
        "n/a",
        "n.a.",
        "nan",
        "nd",
        "n.d.",
        "none",
        "null",
        "unknown",
        "missing",
        "not available",
        "not applicable",
        "not done",
        "not performed",
    ]
)
# A dash stands for "nothing" as often as for "negative". Taking it for nothing never makes a wrong label
# where the status tells the rest; in the status itself it has to be written out.
_DASHES: Final = frozenset(["-", "--", "–", "—"])
# What stands behind a grade must be what the guideline calls it.
_GRADE: Final = re.compile(
    r"(?:her2)?\s*(?:ihc|score)?[\s:=]*([0-3])(?:[.,]0+)?\s*(\+?)\s*(?:\(([^()]*)\)|([a-z][a-z -]*))?",
    re.IGNORECASE,
)
_CALLED: Final = {
    "0": ("negative", "null", "zero", "ultralow", "ultra-low"),
    "1+": ("negative", "low", "her2-low"),
    "2+": ("equivocal", "borderline"),
    "3+": ("positive",),
}
_ISH_METHODS: Final = ("ish", "fish", "cish", "sish", "dish")
_ULTRALOW: Final = frozenset(["ultralow", "ultra-low", "ultra low", "her2-ultralow", "her2 ultralow"])
_LOW: Final = frozenset(["low", "her2-low", "her2 low"])
_STATUS: Final[dict[str, Status]] = {
    "positive": "HER2-positive",
    "pos": "HER2-positive",
    "her2+": "HER2-positive",
    "her2-": "HER2-negative",
    # HER2-low and ultralow are negative; which grade of theirs it is, they do not tell.
    "low": "HER2-negative",
    "ultralow": "HER2-negative",
    "zero": "HER2-negative",
    "1": "HER2-positive",
    "true": "HER2-positive",
    "negative": "HER2-negative",
    "neg": "HER2-negative",
    "0": "HER2-negative",
    "false": "HER2-negative",
}
# Groups of dual-probe ISH (Wolff et al. 2018, ASCO/CAP guideline): 1 is positive, 5 negative; 2 to 4 are
# settled by more work, whose outcome only the status tells.
_ISH: Final[dict[str, Ish | None]] = {
    "positive": "positive",
    "pos": "positive",
    "ish+": "positive",
    "ish-": "negative",
    "amplified": "positive",
    "1": "positive",
    "group 1": "positive",
    "negative": "negative",
    "neg": "negative",
    "not amplified": "negative",
    "non-amplified": "negative",
    "0": "negative",
    "5": "negative",
    "group 5": "negative",
    "equivocal": None,
    **{f"{prefix}{number}": None for prefix in ("", "group ") for number in (2, 3, 4)},
}

_T = TypeVar("_T")


class RefusedWordError(ValueError):
    """What a cell says is known, but does not belong there; the message is the remedy."""


def plain(text: str) -> str:
    """Return a cell without what makes no difference: capitals, and how much white space there is."""
    return " ".join(text.replace("_", " ").split()).casefold()


def read_split(text: str) -> str:
    """Return a split's name; "" where none is given."""
    word = plain(text)
    return "" if word in _MISSING else split_name(word)


def read_words(text: str) -> str | None:
    """Return a name as it is written; None where none is given."""
    missing = plain(text) in _MISSING | _DASHES
    return None if missing else unicodedata.normalize("NFC", " ".join(text.split()))


def is_ultralow(text: str) -> bool:
    """Whether a grade is 0+, by whatever name."""
    word = plain(text)
    match = _GRADE.fullmatch(word)
    if match is None:
        return word in _ULTRALOW
    return match[1] == "0" and (bool(match[2]) or (match[3] or match[4] or "").strip() in _ULTRALOW)


def names_no_grade(text: str) -> bool:
    """Whether a status is one of HER2-negative's, from which no grade follows: low, or ultralow."""
    return plain(text) in _LOW | _ULTRALOW


def read_grade(text: str) -> str | None:
    """Return the IHC grade that a cell says; None where it says none. Raises a ValueError if it is none."""
    word = plain(text)
    if word in _MISSING | _DASHES:
        return None
    if word in _ULTRALOW:
        return "0"
    if word in _LOW:
        raise RefusedWordError(
            "HER2-low is 1+, or 2+ with negative ISH: write which, or give it as the status"
        )
    match = _GRADE.fullmatch(word)
    if match is None:
        raise ValueError(text)
    grade = GRADES[int(match[1])]
    called = (match[3] or match[4] or "").strip()
    if called and called not in _CALLED[grade]:
        raise RefusedWordError(
            f"IHC {grade} is called {_CALLED[grade][0]}: correct the grade or what stands behind it"
        )
    return grade


def read_ish(text: str) -> Ish | None:
    """Return what a cell says of ISH; None where nothing. Raises a ValueError if it cannot be that."""
    word = plain(text)
    return None if word in _MISSING | _DASHES else _meant(_ISH, word, _ISH_METHODS)


def read_status(text: str) -> Status | None:
    """Return the HER2 status that a cell says; None where it says none. Raises a ValueError if it is none."""
    word = plain(text)
    if word.startswith(_ISH_METHODS):
        raise RefusedWordError("A result of ISH belongs into a column 'ish'")
    return None if word in _MISSING else _meant(_STATUS, word, ("her2",))


def _meant(meanings: Mapping[str, _T], said: str, prefixes: tuple[str, ...]) -> _T:
    """Return what a word means, with or without a prefix such as "HER2-"."""
    word = re.sub(r"[.,]0+$", "", said)
    if word not in meanings:
        prefix = next((p for p in prefixes if word.startswith(p)), "")
        word = word.removeprefix(prefix).strip(" :-")
    if word not in meanings:
        raise ValueError(said)
    return meanings[word]
