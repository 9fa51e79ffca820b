"""Classes that were asked for and that no slide has: mostly a name that was typed in another way."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from bridge.annotations.classes import chooses, components, composed
from herohe_model.printable import printable_name

_NAMED: Final = 10
"""Classes that are named where none is alike."""
_ALIKE: Final = 0.6
"""Least similarity of what may have been meant, as :mod:`difflib` measures it."""


class ClassTally:
    """Counts the classes of a collection's annotations, slide by slide."""

    def __init__(self) -> None:
        self._present: Counter[str] = Counter()
        self._slides = 0

    def add(self, present: Iterable[tuple[str, int]]) -> None:
        """Count a slide, by its classes with their numbers of annotations; "" is no class."""
        self._slides += 1
        self._present.update(dict(present))

    def unmatched(self, wanted: Sequence[str], option: str) -> tuple[str, ...]:
        """Return a sentence for each class that was asked for and that none of the slides has.

        Empty also when no slide could be looked at: nothing is known then.

        Parameters
        ----------
        option
            That asked for it.
        """
        if not self._slides:
            return ()
        missed = [name for name in wanted if not any(chooses(name, there) for there in self._present)]
        where = f"{self._slides} slide{'s' if self._slides > 1 else ''} looked at"
        return tuple(
            f"No annotation has the class {printable_name(name)} ({option}; {where}): {self._meant(name)}"
            for name in missed
        )

    def _meant(self, wanted: str) -> str:
        """Say which class was probably meant, or which there are."""
        there = {name: count for name, count in self._present.items() if name}
        if not there:
            count = self._present.total()
            return f"the {count} annotations there have no class." if count else "there are no annotations."
        parts: dict[str, list[str]] = {}
        for name in there:
            for part in dict.fromkeys((name.casefold(), *map(str.casefold, components(name)))):
                parts.setdefault(part, []).append(name)
        alike = difflib.get_close_matches(composed(wanted).casefold(), parts, n=3, cutoff=_ALIKE)
        if alike:
            names = dict.fromkeys(name for part in alike for name in parts[part])
            return f"did you mean {' or '.join(map(printable_name, names))}?"
        most = sorted(there, key=lambda name: (-there[name], name))
        more = f" and {len(most) - _NAMED} others" if len(most) > _NAMED else ""
        return f"the classes there are {', '.join(map(printable_name, most[:_NAMED]))}{more}."
