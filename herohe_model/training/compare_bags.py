"""Several bag models on the same folds, and the best of them as one model.

::

    candidate-1/ ...     a run of :mod:`herohe_model.training.bag_folds` each
    candidates.json      each for itself and in pairs
    candidates.html      the same as a page

and beside them what a run leaves: the model that was chosen, and an evaluation of the choice.

Who takes the best of several by figures of the same cases has a figure that is too good. So the choice is
judged by nested folds (Varma and Simon 2006, *BMC Bioinformatics* 7:91): a fold's cases are predicted by the
candidate that is best on the other folds, by networks that have seen neither these nor the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from herohe_model.dataset.cases import CaseKey
from herohe_model.dataset.fingerprints import Twins, find_twins
from herohe_model.dataset.predictions import Matched, Predictions
from herohe_model.errors import OptionError
from herohe_model.evaluation.candidates import Candidates, compare_candidates
from herohe_model.evaluation.page import candidates_page
from herohe_model.evaluation.schema import to_json
from herohe_model.files import write_atomically
from herohe_model.training.bag_folds import FeatureSlide, train_bag_folds, usable_cases
from herohe_model.training.bag_loop import BagOptions
from herohe_model.training.cross_validation import FoldPlan, FoldsRun, Trained, finish
from herohe_model.training.foreground_cache import Unusable
from herohe_model.training.loop import NullListener, TrainListener
from herohe_model.training.options import CallOptions
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import MODEL_NAME

PAGE_NAME: Final = "candidates.html"
_ENOUGH_FOLDS: Final = 4


@dataclass(frozen=True)
class BagCandidate:
    """A way to make a model: a name for people, features of the slides, and options."""

    name: str
    slides: tuple[FeatureSlide, ...]
    options: BagOptions


def train_candidates(
    candidates: Sequence[BagCandidate],
    plan: FoldPlan,
    folder: Path,
    *,
    name: str,
    trained_on: str = "",
    call: CallOptions | None = None,
    skip_unusable: bool = False,
    listener: TrainListener | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Trained, Candidates]:
    """Train all candidates on the cases that all of them have, compare them, and save the best.

    A run that was stopped goes on when it is called again in the same way.

    Parameters
    ----------
    candidates
        Two and more, of different names and of one seed.
    plan
        Of nested folds.
    name, trained_on, call, skip_unusable, stop
        As in :func:`~herohe_model.training.bag_folds.train_bag_folds`.

    Raises
    ------
    SlideError
        If features cannot be used.
    OptionError
        If the folds are not nested, there are too few cases to choose by, or the folder holds another run.
    CancelledError
        When `stop` said so.
    """
    listener, stop = listener or NullListener(), stop or (lambda: False)
    if not plan.nested or plan.split == "none" or (plan.split != "laboratories" and plan.count < 3):
        raise OptionError(
            "The best of several candidates is chosen by nested folds", "Ask for three folds or more"
        )
    common, twins, left_out = _common(candidates, skip_unusable, listener, stop)
    runs: list[FoldsRun] = []
    for number, candidate in enumerate(candidates, start=1):
        listener.say(f"Candidate {number} of {len(candidates)}: {candidate.name}")
        trained = train_bag_folds(
            [slide for slide in candidate.slides if slide.case.key in common],
            plan,
            candidate.options,
            folder / f"candidate-{number}",
            name=f"{name}: {candidate.name}"[:100],
            trained_on=trained_on,
            call=call,
            twins=twins,
            listener=listener,
            stop=stop,
        )
        if trained.folds is None or trained.folds.unseen is None:
            raise OptionError(
                "The best of several candidates is chosen by nested folds", "Ask for more folds"
            )
        runs.append(trained.folds)
    best, of_fold = choose_candidate(runs)
    names = [candidate.name for candidate in candidates]
    chosen = _as_chosen(runs, best, of_fold)
    facts = replace(
        chosen.facts, name=name, trained_on=f"{chosen.facts.trained_on}; chosen among {len(names)} candidates"
    )
    alone = Processes(0, 1, torch.device("cpu"))
    few: tuple[str, ...] = ()
    if len(runs[0].folds) < _ENOUGH_FOLDS:
        few = (
            f"With {len(runs[0].folds)} folds, the networks that judge the choice learned from few of the "
            "cases: it is better than its figures. Ask for five folds or more.",
        )
    warning = (
        f"The model is the best of {len(names)} candidates ({names[best]}). The figures are of that choice, "
        "made for each fold without its cases; what the call claims is of the chosen one alone, and a little "
        "too good."
    )
    evaluation = finish(replace(chosen, facts=facts), folder, alone, warnings=(warning, *few))
    found = compare_candidates(
        [
            (names[k], f"candidate-{k + 1}", Matched(run.chosen.predictions, run.chosen.cases))
            for k, run in enumerate(runs)
        ],
        Matched(chosen.chosen.predictions, chosen.chosen.cases),
        chosen=names[best],
        chosen_for=[(fold.name, names[k]) for fold, k in zip(chosen.folds, of_fold, strict=True)],
        title=f"{name}: candidates",
        warnings=few,
    )
    write_atomically(folder / "candidates.json", to_json(found))
    write_atomically(folder / PAGE_NAME, candidates_page(found).encode())
    return Trained(folder / MODEL_NAME, evaluation, left_out, chosen), found


def _common(
    candidates: Sequence[BagCandidate],
    skip_unusable: bool,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> tuple[set[CaseKey], list[Twins], tuple[Unusable, ...]]:
    """Return the cases that all candidates can use, those that are one slide by any, and what is left out."""
    read: dict[tuple[FeatureSlide, ...], set[CaseKey]] = {}
    twins: list[Twins] = []
    left_out: list[Unusable] = []
    for candidate in candidates:
        if candidate.slides in read:
            continue
        digests, unusable = usable_cases(
            candidate.slides, candidate.options, skip_unusable=skip_unusable, listener=listener, stop=stop
        )
        read[candidate.slides] = set(digests)
        left_out += unusable
        cases = [slide.case for slide in candidate.slides if slide.case.key in digests]
        twins += find_twins(cases, [digests[case.key] for case in cases])
    common = set.intersection(*read.values())
    missing = sorted(set.union(*read.values()) - common)
    if missing:
        named = ", ".join(f"{split}/{case}" for split, case in missing)
        listener.say(f"Left out, as not all candidates have features of them ({len(missing)}): {named}")
    return common, twins, tuple(left_out)


def choose_candidate(runs: Sequence[FoldsRun]) -> tuple[int, list[int]]:
    """Return the best of some candidates, and for each fold the one that the others choose.

    A candidate is judged by the share of pairs of a positive and a negative case of the same fold that it
    puts in order: networks of different folds need not be on one scale. The first of equals is taken.

    Parameters
    ----------
    runs
        By nested folds of the same cases.
    """
    folds = range(len(runs[0].folds))
    best = _first_best([_ordered(run, folds, without=None) for run in runs])
    return best, [
        _first_best([_ordered(run, [j for j in folds if j != k], without=k) for run in runs]) for k in folds
    ]


def _first_best(shares: Sequence[float]) -> int:
    return int(np.argmax(np.round(shares, 9)))


def _ordered(run: FoldsRun, folds: Sequence[int], *, without: int | None) -> float:
    """Return the share of pairs within folds that are in order, by networks that did not see `without`."""
    unseen = run.unseen
    assert unseen is not None
    right = pairs = 0.0
    for fold in folds:
        cases = [
            i for i in np.flatnonzero(unseen.folds == fold).tolist() if unseen.cases[i].positive is not None
        ]
        # A case's networks: the one of its fold, then those of its fold and another, in the others' order.
        pair = None if without is None else 1 + without - (without > fold)
        which = slice(None) if pair is None else slice(pair, pair + 1)
        z = np.array([unseen.logits[i][:, which, unseen.positive_bit].mean() for i in cases])
        truth = np.array([bool(unseen.cases[i].positive) for i in cases], dtype=np.bool_)
        differences = z[truth][:, None] - z[~truth][None]
        right += float((differences > 0).sum() + 0.5 * (differences == 0).sum())
        pairs += differences.size
    if not pairs:
        raise OptionError(
            "No fold has both HER2-positive and HER2-negative cases to choose a candidate by",
            "Ask for fewer folds, or for stratified ones",
        )
    return right / pairs


def _as_chosen(runs: Sequence[FoldsRun], best: int, of_fold: Sequence[int]) -> FoldsRun:
    """Return the best candidate's run with the predictions of the choice: each fold's by its candidate."""
    run = runs[best]
    assert run.unseen is not None
    fold = {case.key: int(k) for case, k in zip(run.unseen.cases, run.unseen.folds, strict=True)}
    cases = run.chosen.cases
    places = [{case.key: i for i, case in enumerate(other.chosen.cases)} for other in runs]
    taken = [of_fold[fold[case.key]] for case in cases]
    each = [
        runs[k].chosen.predictions.take([places[k][case.key]]) for k, case in zip(taken, cases, strict=True)
    ]
    own = run.chosen.predictions
    mixed = replace(
        own,
        p_positive=_all(each, "p_positive"),
        called=_all(each, "called"),
        grades=_all(each, "grades"),
        at_least=_all(each, "at_least"),
        composites=tuple(one.composites[0] for one in each if one.composites is not None) or None,
        decision=replace(
            own.decision, source=f"{own.decision.source}, and by the candidate that they choose"
        ),
    )
    return replace(run, chosen=replace(run.chosen, predictions=mixed))


def _all(each: Sequence[Predictions], field: str) -> Any:
    arrays = [getattr(one, field) for one in each]
    return None if any(array is None for array in arrays) else np.concatenate(arrays)
