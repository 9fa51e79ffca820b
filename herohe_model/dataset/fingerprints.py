"""Leaks that only a slide's content shows: one file under two cases, and slides that a model has seen.

A fingerprint is that of a slide's pixels or file (:class:`~herohe_model.slides.slide_file.SlideFile`), or of
its features; names do not enter into it. A model's card keeps a short digest of each slide that it learned
from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from herohe_model.dataset.cases import Case
from herohe_model.dataset.predictions import some


@dataclass(frozen=True)
class Twins:
    """Cases, two or more, whose slides are one and the same."""

    cases: tuple[Case, ...]

    @property
    def contradicting(self) -> bool:
        """Whether their labels cannot be true together."""
        return any(
            len({value for value in values if value is not None}) > 1
            for values in ([c.positive for c in self.cases], [c.ihc for c in self.cases])
        )

    def __str__(self) -> str:
        """Name them in a sentence."""
        named = some([f"{case.split}/{case.id}" for case in self.cases])
        label = "other labels" if self.contradicting else "the same label"
        return f"The cases {named} have one and the same slide, by its fingerprint, with {label}."


def find_twins(cases: Sequence[Case], fingerprints: Sequence[str]) -> tuple[Twins, ...]:
    """Return the cases that share a slide, in the order of the cases; "" is no fingerprint."""
    found: dict[str, list[Case]] = {}
    for case, fingerprint in zip(cases, fingerprints, strict=True):
        if fingerprint:
            found.setdefault(fingerprint, []).append(case)
    return tuple(Twins(tuple(same)) for same in found.values() if len(same) > 1)


def together(cases: Sequence[Case], twins: Sequence[Twins]) -> list[Case]:
    """Return the cases so that no two folds share a slide: twins become slides of one patient."""
    # Owners by the first of those that are one: a twin brings all slides of its patient, and their twins.
    first = {case.owner: case.owner for case in cases}
    joined: set[str] = set()
    for pair in twins:
        same = {first.get(case.owner, case.owner) for case in pair.cases}
        head = next((owner for owner in first.values() if owner in same), None)
        if head is not None:
            first = {owner: head if of in same else of for owner, of in first.items()}
            joined.add(head)
    return [
        replace(case, patient=_as_patient(first[case.owner])) if first[case.owner] in joined else case
        for case in cases
    ]


def _as_patient(owner: str) -> str:
    """Return the patient that gives a case this owner, or, of one without a patient, the like of it."""
    return owner.removeprefix("patient ") if owner.startswith("patient ") else f"of {owner}"


def short_digest(fingerprint: str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a fingerprint; "" of none."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:16] if fingerprint else ""
