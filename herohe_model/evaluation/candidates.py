"""Several candidates on the same folds: each for itself, each pair, and what choosing among them is worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import msgspec
import numpy as np

from herohe_model.dataset.predictions import EvaluationError, Matched
from herohe_model.evaluation.compare import INTERVAL_METHOD, Gain, compare, too_few
from herohe_model.evaluation.measures import group
from herohe_model.evaluation.schema import Group, Number, plain
from herohe_model.notice import RESEARCH_USE_ONLY

FORMAT: Final = "herohe-bridge candidates"
VERSION: Final = 1
HOLM: Final = "p over all pairs of one measure by Holm (1979, Scandinavian Journal of Statistics 6:65)"


class Pair(msgspec.Struct, frozen=True):
    """Two candidates, by name; gains are of the first less the second, and p are corrected for all pairs."""

    first: str
    second: str
    gains: tuple[Gain, ...]
    holm: tuple[Number, ...]


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, over the cases of known status; every candidate predicts the same ones.

    Attributes
    ----------
    measured
        Each candidate by itself, the highest AUC first; out of fold.
    folders
        Of each, where its run is, as seen from the page.
    chosen
        The candidate that the model is.
    chosen_for
        Of each fold, the candidate that the others choose.
    choice
        How good the choice is: each fold's cases are predicted by the candidate that the others choose.
    pairs
        In the order of `measured`.
    """

    format: str = FORMAT
    version: int = VERSION
    title: str
    note: str
    interval_method: str
    cases: int
    positive: int
    measured: tuple[Group, ...]
    folders: tuple[str, ...]
    chosen: str
    chosen_for: tuple[tuple[str, str], ...]
    choice: Group
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def compare_candidates(
    predicted: Sequence[tuple[str, str, Matched]],
    choice: Matched,
    *,
    chosen: str,
    chosen_for: Sequence[tuple[str, str]],
    title: str,
    warnings: tuple[str, ...] = (),
) -> Candidates:
    """Put candidates beside each other.

    Parameters
    ----------
    predicted
        Name, folder and out-of-fold predictions of each, all of the same cases.
    choice, chosen, chosen_for, title, warnings
        As :class:`Candidates` has them.

    Raises
    ------
    EvaluationError
        If no case has a known status.
    """
    if not any(case.positive is not None for case in choice.cases):
        raise EvaluationError("No case has a known HER2 status", "Check the labels")
    groups = {name: _measured(name, matched) for name, _, matched in predicted}
    order = sorted(predicted, key=lambda one: -(groups[one[0]].auc.value or 0.0))
    found = {
        (first, second): compare(a, b, names=(first, second), title="").gains
        for (first, _, a), (second, _, b) in combinations(order, 2)
    }
    corrected = [
        holm([gains[measure].p_value for gains in found.values()])
        for measure in range(len(next(iter(found.values()), ())))
    ]
    whole = _measured("the choice", choice)
    result = Candidates(
        title=title,
        note=RESEARCH_USE_ONLY,
        interval_method=f"{INTERVAL_METHOD}; {HOLM}",
        cases=whole.cases,
        positive=whole.positive,
        measured=tuple(groups[name] for name, _, _ in order),
        folders=tuple(folder for _, folder, _ in order),
        chosen=chosen,
        chosen_for=tuple(chosen_for),
        choice=whole,
        pairs=tuple(
            Pair(first, second, gains, tuple(of[k] for of in corrected))
            for k, ((first, second), gains) in enumerate(found.items())
        ),
        warnings=(*warnings, *too_few(whole.positive, whole.cases)),
    )
    return msgspec.convert(plain(msgspec.to_builtins(result)), Candidates)


def holm(p_values: Sequence[Number]) -> list[Number]:
    """Return p-values corrected for their number by Holm's step-down method; None stays, uncounted."""
    known = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    corrected: list[Number] = [None] * len(p_values)
    most = 0.0
    for place, (p, k) in enumerate(known):
        most = max(most, min(1.0, (len(known) - place) * p))
        corrected[k] = most
    return corrected


def _measured(name: str, matched: Matched) -> Group:
    known = [i for i, case in enumerate(matched.cases) if case.positive is not None]
    p = matched.predictions.take(known)
    truth = np.array([bool(matched.cases[i].positive) for i in known])
    return group(name, truth, p.called, p.p_positive)
