"""Training by folds: out-of-fold predictions, what is chosen on them, and one file of all members.

::

    foreground/          the patches of every slide, found once
    fold-1/ ...          a run a fold, see :mod:`herohe_model.training.run_folder`
    folds-1-2/ ...       with nested folds, a run without two of them; part of no model
    out-of-fold.json     logits of every case from each network that was trained without it
    out-of-fold.csv      the same as P(HER2-positive) and call, in the challenge's format
    evaluation.json      how good the out-of-fold predictions are
    evaluation.html      the same as a page
    model.safetensors    the ensemble of all folds' networks

With nested folds, all that is chosen is chosen for the ensemble as it is shipped, see
:mod:`herohe_model.training.calibrate`. Without them, threshold and temperature are chosen on predictions of
single networks; the ensemble averages their logits, and neither a calibration nor a call is claimed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from herohe_model.bag.card import with_golden
from herohe_model.dataset.cases import TEST_SPLIT, Case
from herohe_model.dataset.folds import Fold, id_block_folds, leave_one_laboratory_out, stratified_folds
from herohe_model.dataset.predictions import Matched
from herohe_model.dataset.submission import Submission, write_submission
from herohe_model.errors import OptionError
from herohe_model.evaluation.evaluate import evaluate
from herohe_model.evaluation.out_of_fold import pool_folds
from herohe_model.evaluation.page import page
from herohe_model.evaluation.schema import Evaluation, rounded, to_json
from herohe_model.files import write_atomically
from herohe_model.grades import Target
from herohe_model.model.card import FeaturesSeen, Knowledge, StainSeen
from herohe_model.model.checkpoint import join_members, load_model, save_model
from herohe_model.model.new_model import library_versions
from herohe_model.training.calibrate import UnseenLogits, learned_steps
from herohe_model.training.choose import Chosen, choose_nested, choose_single
from herohe_model.training.foreground_cache import Unusable
from herohe_model.training.loop import TrainListener
from herohe_model.training.options import CallOptions
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import MODEL_NAME

Split = Literal["folds", "id blocks", "laboratories", "none"]

EVALUATION_PAGE_NAME: Final = "evaluation.html"

ALL_SLIDES: Final = "all slides"
"""Name of the fold that holds out nothing."""


@dataclass(frozen=True)
class FoldPlan:
    """How slides are split.

    Attributes
    ----------
    split
        ``folds``: stratified; ``id blocks``: neighbouring case IDs together; ``laboratories``: one held out
        after the other; ``none``: train once on all slides, with no out-of-fold predictions and so no chosen
        threshold.
    count
        Of stratified folds, or blocks.
    nested
        Also train without each two of the folds, so that every case has as many networks that have not seen
        it as the ensemble has members; of three folds and more.
    """

    split: Split = "folds"
    count: int = 5
    nested: bool = True

    def of(self, cases: Sequence[Case], seed: int) -> tuple[Fold, ...]:
        """Return the folds of some cases."""
        if self.split == "folds":
            return stratified_folds(cases, self.count, seed=seed)
        if self.split == "id blocks":
            return id_block_folds(cases, self.count)
        if self.split == "laboratories":
            return leave_one_laboratory_out(cases)
        return (Fold(ALL_SLIDES, np.arange(len(cases)), np.empty(0, dtype=np.int64)),)


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes
    ----------
    model
        The model file.
    evaluation
        Of the out-of-fold predictions; None without any.
    left_out
        Slides that were not trained on.
    folds
        All that is known out of fold; None without any.
    """

    model: Path
    evaluation: Evaluation | None
    left_out: tuple[Unusable, ...] = ()
    folds: FoldsRun | None = None


class CaseLogits(msgspec.Struct, frozen=True):
    """Logits of a case by a network trained without it: a row a composite, highest step first.

    ``fold`` names what the network was trained without.
    """

    split: str
    case: str
    fold: str
    logits: list[list[float]]


@dataclass(frozen=True)
class CardFacts:
    """What the card says beside what was chosen."""

    name: str
    trained_on: str
    knowledge: Knowledge
    cohort: str
    learned: tuple[str, ...]
    slides: tuple[str, ...] = ()
    stain: StainSeen | None = None
    features: FeaturesSeen | None = None


@dataclass(frozen=True)
class FoldsRun:
    """Networks by folds, and what they say of the cases that they were trained without.

    Attributes
    ----------
    cases, folds
        The folds' indices are those of the cases.
    networks
        The file of each fold's network; together they are the model.
    unseen
        None without nested folds, of which there are three at least.
    """

    cases: tuple[Case, ...]
    folds: tuple[Fold, ...]
    networks: tuple[Path, ...]
    facts: CardFacts
    chosen: Chosen
    unseen: UnseenLogits | None


def run_folds(
    cases: Sequence[Case],
    folds: Sequence[Fold],
    plan: FoldPlan,
    target: Target,
    folder: Path,
    facts: CardFacts,
    call: CallOptions | None,
    train: Callable[[Fold, Path], Path],
    predict: Callable[[Fold, Path], list[CaseLogits]],
    processes: Processes,
    listener: TrainListener,
    *,
    measured: Mapping[str, Sequence[float]],
) -> Trained:
    """Train a network a fold, of whatever kind; choose what is chosen out of fold, and save the ensemble.

    Parameters
    ----------
    folds
        Of `cases`, by `plan`.
    train
        Makes the network of a fold in a folder of its own, and returns its file; what is there already stays.
    predict
        Returns the logits of the cases that a fold holds out, by the network in a file.
    measured
        What of each case's slide should not tell its status, by name; the page asks whether it does.
    """
    networks: list[Path] = []
    predicted: list[list[CaseLogits]] = []
    for number, fold in enumerate(folds, start=1):
        home = folder if fold.name == ALL_SLIDES else folder / f"fold-{number}"
        networks.append(train(fold, home))
        if len(fold.held_out):
            predicted.append(predict(fold, networks[-1]))
    if not predicted:
        return Trained(networks[0], None)
    pairs = pairs_of(folds) if plan.nested else {}
    for (first, second), pair in pairs.items():
        predicted.append(predict(pair, train(pair, folder / f"folds-{first + 1}-{second + 1}")))
    by_network = [
        {index: np.array(line.logits) for index, line in zip(fold.held_out.tolist(), lines, strict=True)}
        for fold, lines in zip((*folds, *pairs.values()), predicted, strict=True)
    ]
    unseen = _unseen(cases, folds, by_network, target)
    oof = pool_folds(
        cases,
        folds,
        [{i: unseen.logits[i].mean(axis=1) for i in fold.held_out.tolist()} for fold in folds],
        target,
    )
    if processes.first:
        write_atomically(
            folder / "out-of-fold.json", msgspec.json.encode([x for lines in predicted for x in lines])
        )
    ensemble = choose_nested(oof, unseen, call or CallOptions(), listener.say) if pairs else None
    chosen = ensemble or choose_single(oof, facts.learned)
    place = {case.key: index for index, case in enumerate(cases)}
    where = np.array([place[case.key] for case in chosen.cases])
    beside = tuple((name, np.array(values, dtype=np.float64)[where]) for name, values in measured.items())
    chosen = replace(chosen, predictions=replace(chosen.predictions, measured=beside))
    run = FoldsRun(tuple(cases), tuple(folds), tuple(networks), facts, chosen, unseen if pairs else None)
    return Trained(folder / MODEL_NAME, finish(run, folder, processes), folds=run)


def pairs_of(folds: Sequence[Fold]) -> dict[tuple[int, int], Fold]:
    """Return, for each two of three folds and more, what is left to train on without both.

    Every case is then unseen by as many networks as there are folds: that of its own fold, and those of the
    pairs that its fold is in.
    """
    if len(folds) < 3:
        return {}
    return {
        (i, j): Fold(
            f"{folds[i].name} and {folds[j].name}",
            np.setdiff1d(folds[i].train, folds[j].held_out),
            np.sort(np.concatenate([folds[i].held_out, folds[j].held_out])),
        )
        for i, j in combinations(range(len(folds)), 2)
    }


def _unseen(
    cases: Sequence[Case],
    folds: Sequence[Fold],
    by_network: Sequence[Mapping[int, NDArray[np.float64]]],
    target: Target,
) -> UnseenLogits:
    """Put together what all networks that have not seen a case say of it."""
    number = np.empty(len(cases), dtype=np.int64)
    for k, fold in enumerate(folds):
        number[fold.held_out] = k
    logits = [np.stack([said[i] for said in by_network if i in said], axis=1) for i in range(len(cases))]
    return UnseenLogits(tuple(cases), tuple(logits), number, target)


def check_cases(cases: Sequence[Case], plan: FoldPlan, target: Target) -> None:
    """Refuse at once what would only fail after the training."""
    if len({case.key for case in cases}) != len(cases):
        raise OptionError("A case comes with two slides", "Keep one slide a case")
    if plan.split != "none" and any(case.split == TEST_SPLIT for case in cases):
        raise OptionError(
            "Folds of the test split would choose the threshold on it",
            "Take the training split, or train once on all slides with --folds 0",
        )
    if plan.split != "none" and {True, False} - {case.positive for case in cases}:
        raise OptionError(
            "A decision threshold needs HER2-positive and HER2-negative cases",
            "Check the labels, or train once on all slides with --folds 0",
        )
    if target.default_positive_step not in learned_steps(cases, target):
        raise OptionError(
            f"The labels tell of no case that reaches {target.default_positive_step}, or of none that "
            "does not",
            "A model of the HER2 status learns from positive and negative cases: check the labels",
        )


def counts_in_words(cases: Sequence[Case]) -> str:
    """Return how many cases there are, and of what."""
    positive = sum(case.positive is True for case in cases)
    laboratories = len({case.laboratory for case in cases if case.laboratory})
    text = f"{len(cases)} cases, {positive} HER2-positive"
    return f"{text}, {laboratories} laboratories" if laboratories else text


def finish(
    run: FoldsRun, folder: Path, processes: Processes, *, warnings: tuple[str, ...] = ()
) -> Evaluation:
    """Evaluate out of fold, and write the evaluation and the ensemble into the folder.

    `warnings` are said on the page beside its own.
    """
    chosen, facts, folds = run.chosen, run.facts, run.folds
    held_out_by = {run.cases[i].key: fold.name for fold in folds for i in fold.held_out.tolist()}
    evaluation = evaluate(
        Matched(chosen.predictions, chosen.cases, (), ()),
        title=f"{facts.name}, out of fold",
        prevalence=None if chosen.call is None else chosen.call.prevalence,
        folds=[held_out_by[case.key] for case in chosen.cases],
    )
    evaluation = rounded(
        msgspec.structs.replace(
            evaluation,
            calibration=chosen.lines,
            call=chosen.call,
            apparent_f1=chosen.threshold.f1 if chosen.lines else None,
            warnings=(*warnings, *evaluation.warnings),
        )
    )
    if processes.first:
        loaded = [load_model(network) for network in run.networks]
        card = msgspec.structs.replace(
            loaded[0][0],
            name=facts.name,
            temperature=chosen.temperature,
            decision_threshold=chosen.threshold.value,
            threshold_chosen=chosen.threshold.chosen,
            metrics={"out_of_fold": evaluation.figures(), "folds": [fold.name for fold in folds]},
            trained_on=facts.trained_on,
            knowledge=facts.knowledge,
            cohort=facts.cohort,
            learned=facts.learned,
            slides=facts.slides,
            stain=facts.stain,
            features=facts.features,
            calibration=chosen.lines,
            calibrated_for=chosen.calibrated_for,
            call=chosen.call,
            versions=library_versions(),
            members=len(loaded),
        )
        predictions = chosen.predictions
        calls = Submission(predictions.case_ids, predictions.p_positive, predictions.called)
        write_submission(folder / "out-of-fold.csv", calls)
        write_atomically(folder / "evaluation.json", to_json(evaluation))
        write_atomically(folder / EVALUATION_PAGE_NAME, page(evaluation).encode())
        weights = join_members([state for _, state, _ in loaded])
        card = card if card.bag is None else with_golden(card, weights)
        save_model(folder / MODEL_NAME, card, weights)
    processes.wait()
    return evaluation
