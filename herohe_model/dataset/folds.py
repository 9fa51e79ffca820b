"""Folds for cross-validation: stratified and shuffled, or a laboratory or a block of IDs held out at a time.

HEROHE's case numbers tell the label, so cases are shuffled; which fold a case falls into depends on its key,
its stratum and the seed alone, not on the order in which cases come, and is the same on every platform. All
slides of a patient (:attr:`herohe_model.dataset.cases.Case.owner`) fall into one fold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from herohe_model.dataset.cases import Case, CaseKey
from herohe_model.errors import OptionError


@dataclass(frozen=True)
class Fold:
    """Which cases a model is trained on, and which are kept from it.

    Attributes
    ----------
    name
        Such as ``fold 1 of 5``, or a laboratory.
    train, held_out
        Indices into the cases that the fold was made of, ascending; shape (n,), int64.
    """

    name: str
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def stratified_folds(cases: Sequence[Case], folds: int = 5, *, seed: int = 0) -> tuple[Fold, ...]:
    """Split cases into folds with the same shares of grade, ISH and status, as far as counts allow.

    Parameters
    ----------
    cases
        One may come several times (several slides of a case): all of them fall into one fold.
    seed
        0 to 2^64 - 1.

    Raises
    ------
    OptionError
        If there are fewer than two folds, or fewer cases than folds.
    """
    strata: dict[CaseKey, str] = {}
    of_owner: dict[str, set[CaseKey]] = {}
    for case in cases:
        if strata.setdefault(case.key, case.stratum) != case.stratum:
            raise OptionError(f"The {case.split} case {case.id} comes with two labels", "Give it one")
        of_owner.setdefault(case.owner, set()).add(case.key)
    if not 2 <= folds <= len(of_owner):
        raise OptionError(
            f"{len(of_owner)} {'cases' if len(of_owner) == len(strata) else 'patients'} cannot be split into "
            f"{folds} folds",
            "Ask for at least 2, and for no more than there are",
        )
    # A patient stands where the first of its slides would, with the strata of them all.
    units = sorted(
        (min(keys), "|".join(sorted(strata[key] for key in keys)), owner) for owner, keys in of_owner.items()
    )
    # Raw bits and a stable sort: numpy promises them for every version and platform, unlike its shuffles.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(units)), kind="stable").tolist()
    shuffled = sorted((units[i] for i in order), key=lambda unit: unit[1])
    # Dealing goes on from one stratum to the next, so that the folds' sizes differ by one patient at most.
    number = {owner: position % folds for position, (_, _, owner) in enumerate(shuffled)}
    of_case = np.array([number[case.owner] for case in cases])
    return tuple(_fold(f"fold {k + 1} of {folds}", of_case == k) for k in range(folds))


def id_block_folds(cases: Sequence[Case], folds: int = 5) -> tuple[Fold, ...]:
    """Hold out one block of neighbouring case IDs after the other, in the order of their numbers.

    What drifts along the IDs (stain, scanner, or the label itself, as HEROHE's does) is then not learned from
    neighbours of the case that judges: a figure that holds here does not ride on it. All slides of a patient
    fall into the block of the first.

    Raises
    ------
    OptionError
        If there are fewer than two folds, or fewer patients than folds.
    """
    first: dict[str, CaseKey] = {}
    for case in cases:
        first[case.owner] = min(first.get(case.owner, case.key), case.key, key=_by_number)
    if not 2 <= folds <= len(first):
        raise OptionError(
            f"{len(first)} patients cannot be split into {folds} blocks of IDs",
            "Ask for at least 2, and for no more than there are",
        )
    order = sorted(first, key=lambda owner: _by_number(first[owner]))
    number = {owner: place * folds // len(order) for place, owner in enumerate(order)}
    of_case = np.array([number[case.owner] for case in cases])
    return tuple(_fold(f"ID block {k + 1} of {folds}", of_case == k) for k in range(folds))


def _by_number(key: CaseKey) -> tuple[str, list[tuple[int, str]]]:
    """Order IDs as people do: 9 before 10, wherever the number stands."""
    parts = re.split(r"([0-9]+)", key[1])
    return key[0], [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def leave_one_laboratory_out(cases: Sequence[Case]) -> tuple[Fold, ...]:
    """Hold out one laboratory after the other, by name; cases without one are always trained on.

    Raises
    ------
    OptionError
        If fewer than two laboratories are named.
    """
    laboratories = sorted({case.laboratory for case in cases if case.laboratory is not None})
    if len(laboratories) < 2:
        raise OptionError(
            f"The labels name {len(laboratories)} laboratories", "Leaving one out needs at least two of them"
        )
    split = {(case.owner, case.laboratory) for case in cases}
    if len(split) != len({owner for owner, _ in split}):
        raise OptionError("A case or patient comes from two laboratories", "Give it one")
    of_case = [case.laboratory for case in cases]
    return tuple(_fold(name, np.array([of == name for of in of_case])) for name in laboratories)


def _fold(name: str, held_out: NDArray[np.bool_]) -> Fold:
    return Fold(name, np.flatnonzero(~held_out), np.flatnonzero(held_out))
