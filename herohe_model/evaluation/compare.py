"""Two predictions of the same cases side by side: which is better, by how much, and which cases tell."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from herohe_model.dataset.predictions import EvaluationError, Matched
from herohe_model.evaluation.differences import Difference, auc_difference, f1_difference, mcnemar
from herohe_model.evaluation.intervals import FEWEST_OF_A_CLASS
from herohe_model.evaluation.measures import group
from herohe_model.evaluation.schema import Group, Number, plain
from herohe_model.notice import RESEARCH_USE_ONLY

FORMAT: Final = "herohe-bridge comparison"
VERSION: Final = 1
INTERVAL_METHOD: Final = (
    "95%: of a difference, the two single intervals put together by the correlation of the estimates (Zou "
    "2007), and p where it ends at 0"
)


class Gain(msgspec.Struct, frozen=True):
    """How much higher a measure of A is than that of B; None where there are too few cases for it."""

    name: str
    label: str
    value: Number
    low: Number
    high: Number
    p_value: Number


class Disagreement(msgspec.Struct, frozen=True):
    """A case that one of the two calls right and the other wrong."""

    case: str
    ihc: str | None
    ish: str | None
    positive: bool
    p_first: float
    p_second: float
    first_right: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, over the cases of known status that both predict.

    Attributes
    ----------
    first, second
        The names of A and B.
    models
        What made them, in words.
    measured
        A and B, each for itself.
    gains
        A less B.
    right
        Cases that both, A alone, B alone, and neither called right.
    mcnemar_p
        Exact, two-sided: whether A alone and B alone are as many.
    only_first, only_second, without_truth, without_status
        Cases that take no part: of one file alone, of neither's label file, without a HER2 status.
    """

    format: str = FORMAT
    version: int = VERSION
    title: str
    first: str
    second: str
    models: tuple[str, str]
    note: str
    interval_method: str
    cases: int
    positive: int
    measured: tuple[Group, Group]
    gains: tuple[Gain, ...]
    right: tuple[int, int, int, int]
    mcnemar_p: float
    disagreements: tuple[Disagreement, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    without_truth: tuple[str, ...]
    without_status: tuple[str, ...]
    warnings: tuple[str, ...]


def compare(first: Matched, second: Matched, *, names: tuple[str, str], title: str) -> Comparison:
    """Compare two predictions of the same truth, case by case.

    Parameters
    ----------
    first, second
        As :func:`herohe_model.dataset.predictions.match_truth` puts each together with the same cases.
    names
        What to call A and B.

    Raises
    ------
    EvaluationError
        If no case of known HER2 status is predicted by both.
    """
    place = {case.key: k for k, case in enumerate(second.cases)}
    both = [(i, place[case.key]) for i, case in enumerate(first.cases) if case.key in place]
    known = [(i, j) for i, j in both if first.cases[i].positive is not None]
    if not known:
        raise EvaluationError("No case of known HER2 status is in both", "Compare runs of the same slides")
    cases = [first.cases[i] for i, _ in known]
    a, b = first.predictions.take([i for i, _ in known]), second.predictions.take([j for _, j in known])
    truth = np.array([bool(case.positive) for case in cases])
    right = [a.called == truth, b.called == truth]
    counts = tuple(
        int((x & y).sum())
        for x, y in (
            (right[0], right[1]),
            (right[0], ~right[1]),
            (~right[0], right[1]),
            (~right[0], ~right[1]),
        )
    )
    f1 = f1_difference(truth, a.called, b.called)
    if np.array_equal(a.called, b.called) and np.array_equal(a.p_positive, b.p_positive):
        f1 = Difference(0.0, 0.0, 0.0, 1.0)
    mine = {case.key for case in first.cases}
    found = Comparison(
        title=title,
        first=names[0],
        second=names[1],
        models=(a.model, b.model),
        note=RESEARCH_USE_ONLY,
        interval_method=INTERVAL_METHOD,
        cases=len(cases),
        positive=int(truth.sum()),
        measured=(
            group(names[0], truth, a.called, a.p_positive),
            group(names[1], truth, b.called, b.p_positive),
        ),
        gains=(
            _gain("auc", "AUC", auc_difference(truth, a.p_positive, b.p_positive)),
            _gain("f1", "F1", f1),
        ),
        right=(counts[0], counts[1], counts[2], counts[3]),
        mcnemar_p=mcnemar(counts[1], counts[2]),
        disagreements=tuple(
            Disagreement(case.id, case.ihc, case.ish, t, p, q, x)
            for case, t, p, q, x, y in zip(
                cases,
                truth.tolist(),
                a.p_positive.tolist(),
                b.p_positive.tolist(),
                right[0].tolist(),
                right[1].tolist(),
                strict=True,
            )
            if x != y
        ),
        only_first=tuple(case.id for case in first.cases if case.key not in place),
        only_second=tuple(case.id for case in second.cases if case.key not in mine),
        without_truth=tuple(dict.fromkeys((*first.without_truth, *second.without_truth))),
        without_status=tuple(first.cases[i].id for i, _ in both if first.cases[i].positive is None),
        warnings=_warnings(first, second, names, int(truth.sum()), len(cases)),
    )
    return msgspec.convert(plain(msgspec.to_builtins(found)), Comparison)


def _gain(name: str, label: str, d: Difference) -> Gain:
    return Gain(name, label, d.value, d.low, d.high, d.p_value)


def _warnings(
    first: Matched, second: Matched, names: tuple[str, str], positive: int, cases: int
) -> tuple[str, ...]:
    found = [
        f"{name}: {warning}"
        for name, matched in zip(names, (first, second), strict=True)
        for warning in matched.predictions.warnings
    ]
    return (*found, *too_few(positive, cases))


def too_few(positive: int, cases: int) -> tuple[str, ...]:
    """Return a warning for each status of which there are too few cases to compare by."""
    return tuple(
        f"There are {number} {kind} cases, fewer than {FEWEST_OF_A_CLASS}: a difference says little."
        for number, kind in ((positive, "positive"), (cases - positive, "negative"))
        if number < FEWEST_OF_A_CLASS
    )


def p_words(p_value: Number) -> str:
    """Return a p-value in words, with three decimals: ``p 0.042``, ``p < 0.001``."""
    if p_value is None:
        return "p not defined"
    return "p < 0.001" if p_value < 0.0005 else f"p {p_value:.3f}"


def from_json(data: bytes) -> Comparison:
    """Read what ``evaluation.schema.to_json`` wrote; raises ``msgspec.MsgspecError`` otherwise."""
    return msgspec.json.decode(data, type=Comparison)
