"""What is known of the public cohorts, as data: ``cohorts.json`` here."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import msgspec

from herohe_model.publishing.terms import cohort_terms


class Cohort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public cohort.

    Attributes
    ----------
    where
        Where it is had; read its terms there, they may have changed.
    counts
        By split (``all`` for a cohort as a whole), the published numbers of slides, of HER2-positive and
        -negative ones, and of grades; empty where none are published that could be compared.
    """

    name: str
    title: str
    where: str
    counts: dict[str, dict[str, int]]

    @property
    def terms(self) -> str:
        """On which terms it is had, in a few words."""
        return cohort_terms(self.name).said


class _Cohorts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    cohorts: tuple[Cohort, ...]


def known_cohorts() -> dict[str, Cohort]:
    """Return the cohorts by name."""
    data = (resources.files(__package__) / "cohorts.json").read_bytes()
    return {cohort.name: cohort for cohort in msgspec.json.decode(data, type=_Cohorts).cohorts}
