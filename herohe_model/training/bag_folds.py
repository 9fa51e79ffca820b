"""Bag models by folds, from files of features, as :mod:`herohe_model.training.cross_validation` from slides.

::

    config.json          the options, and a digest of labels and features
    fold-1/ ...          model.safetensors of each fold's network, and held-out.json

and beside them the files that a training on slides leaves, made by the same functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from herohe_model.bag.card import check_features, new_bag_card
from herohe_model.dataset.cases import Case, CaseKey, target_arrays, target_bits
from herohe_model.dataset.fingerprints import Twins, find_twins, short_digest, together
from herohe_model.dataset.folds import Fold
from herohe_model.dataset.predictions import PATCHES
from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.features.read import read_facts, read_features
from herohe_model.files import write_atomically
from herohe_model.grades import Target
from herohe_model.model.bag_model import load_bag_model
from herohe_model.model.card import FeaturesSeen, ModelCard, check_card
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import library_versions
from herohe_model.sampling.likeness import features_seen
from herohe_model.training.bag_loop import BagOptions, spread, steps_of, train_bag
from herohe_model.training.calibrate import learned_steps
from herohe_model.training.cross_validation import (
    CardFacts,
    CaseLogits,
    FoldPlan,
    Trained,
    check_cases,
    counts_in_words,
    run_folds,
)
from herohe_model.training.foreground_cache import Unusable, unusable_error
from herohe_model.training.loop import NullListener, TrainListener
from herohe_model.training.options import CallOptions
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import CONFIG_NAME, MODEL_NAME

_HELD_OUT_NAME: Final = "held-out.json"
_LEFT_OUT: Final = 5
"""Parts that slides are measured in where none is held out."""
_GO_ON: Final = "Give the same command again to go on from there"
_MEMORY_SHARE: Final = 0.6
_KEPT_PATCHES: Final = 4096
"""Most patches of a slide that training keeps in memory, drawn once; predictions read all."""


@dataclass(frozen=True)
class FeatureSlide:
    """A case and the file of its slide's features."""

    case: Case
    path: Path


@dataclass(frozen=True)
class _Bag:
    slide: FeatureSlide
    features: NDArray[np.float16]
    sha256: str
    count: int


class _Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is; it goes on only with the same."""

    options: BagOptions
    slides_sha256: str
    versions: dict[str, str]


def train_bag_folds(
    slides: Sequence[FeatureSlide],
    plan: FoldPlan,
    options: BagOptions,
    folder: Path,
    *,
    name: str,
    trained_on: str = "",
    call: CallOptions | None = None,
    skip_unusable: bool = False,
    twins: Sequence[Twins] = (),
    listener: TrainListener | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trained:
    """Train a bag model a fold, choose what is chosen out of fold, and save the ensemble.

    A run that was stopped goes on when it is called again in the same way: folds that are done stay.

    Parameters
    ----------
    slides
        One a case; the first says of which encoder and at what scale all features must be.
    name, trained_on
        For the model card; `trained_on` names the cohort, "" where nobody said which it is.
    call
        What the call's thresholds are chosen for.
    skip_unusable
        Leave out slides whose features cannot be used, instead of raising.
    twins
        Cases that have one slide, beside those that these features show.
    stop
        Asked often; a true answer ends the run so that it can go on.

    Raises
    ------
    SlideError
        If features cannot be used; its message names them all.
    OptionError
        If the slides cannot be split so, the folder holds another run, or memory is too small.
    CancelledError
        When `stop` said so.
    """
    listener, stop = listener or NullListener(), stop or (lambda: False)
    card, bags, left_out = _usable(slides, options, name, skip_unusable, listener, stop)
    cases = [bag.slide.case for bag in bags]
    found = find_twins(cases, [bag.sha256 for bag in bags])
    for pair in found:
        if pair.contradicting:
            raise OptionError(str(pair).removesuffix("."), "Correct the labels, or remove all but one")
        listener.say(f"Warning: {pair} They stay in one fold.")
    cases = together(cases, (*twins, *found))
    target = Target(options.target)
    check_cases(cases, plan, target)
    folds = plan.of(cases, options.seed)
    _begin(folder, options, bags)
    described = f"{trained_on or 'cohort not stated'}: {counts_in_words(cases)}"
    learned = learned_steps(cases, target)
    digests = tuple(sorted({short_digest(f"features:{bag.sha256}") for bag in bags}))

    def train(fold: Fold, home: Path) -> Path:
        network = home / MODEL_NAME
        if not network.exists():
            of_fold = msgspec.structs.replace(card, trained_on=f"{described}; {len(fold.train)} of them")
            _train(of_fold, bags, fold, options, network, listener, stop)
        return network

    def predict(fold: Fold, network: Path) -> list[CaseLogits]:
        return _predict(network, bags, fold, listener, stop)

    seen = _features_seen(bags, folds)
    card = msgspec.structs.replace(card, features=seen)
    facts = CardFacts(name, described, "trained", trained_on, learned, digests, features=seen)
    alone = Processes(0, 1, torch.device("cpu"))
    trained = run_folds(
        cases,
        folds,
        plan,
        target,
        folder,
        facts,
        call,
        train,
        predict,
        alone,
        listener,
        measured={PATCHES: [bag.count for bag in bags]},
    )
    return replace(trained, left_out=left_out)


def _features_seen(bags: Sequence[_Bag], folds: Sequence[Fold]) -> FeaturesSeen | None:
    """Measure each slide's features against those of the slides that its fold is trained on."""
    if len(folds) < 2:
        places = np.arange(len(bags)) % _LEFT_OUT
        folds = [Fold("", np.flatnonzero(places != k), np.flatnonzero(places == k)) for k in range(_LEFT_OUT)]
    centres: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for fold in folds:
        if len(fold.train) and len(fold.held_out):
            centre = spread([bags[i].features for i in fold.train.tolist()])
            centres |= dict.fromkeys(fold.held_out.tolist(), centre)
    measured = sorted(centres)
    return features_seen([bags[i].features for i in measured], [centres[i] for i in measured])


def usable_cases(
    slides: Sequence[FeatureSlide],
    options: BagOptions,
    *,
    skip_unusable: bool,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> tuple[dict[CaseKey, str], tuple[Unusable, ...]]:
    """Return the cases that :func:`train_bag_folds` would train on, with their features' digests; and others.

    It raises what that raises, before anything is trained.
    """
    _, bags, left_out = _usable(slides, options, "candidate", skip_unusable, listener, stop)
    return {bag.slide.case.key: bag.sha256 for bag in bags}, left_out


def _usable(
    slides: Sequence[FeatureSlide],
    options: BagOptions,
    name: str,
    skip_unusable: bool,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> tuple[ModelCard, list[_Bag], tuple[Unusable, ...]]:
    """Read the features of all slides; return those that can be used, and the others."""
    listener.begin("reading features", len(slides), "slides")
    card: ModelCard | None = None
    bags: list[_Bag] = []
    problems: list[Unusable] = []
    target = Target(options.target)
    for done, slide in enumerate(slides, start=1):
        if stop():
            raise CancelledError("Training was stopped", _GO_ON)
        try:
            facts = read_facts(slide.path)
            if card is None:
                card = check_card(
                    new_bag_card(
                        name,
                        facts,
                        pooling=options.pooling,
                        head=options.head,
                        target=options.target,
                        positive_step=target.default_positive_step,
                        width=options.width,
                    )
                )
            check_features(card, facts)
            if facts.count < options.min_patches:
                raise OptionError(f"It has {facts.count} patches; at least {options.min_patches} are needed")
            if not any(target_bits(slide.case, target)[1]):
                raise OptionError("Its labels tell no bit of the target")
            bags.append(_read(slide, facts.count, options))
        except HeroheError as error:
            problems.append(Unusable(slide.case.id, slide.path, error.problem))
        listener.advance(done)
    if problems and not skip_unusable:
        raise unusable_error(problems, len(slides))
    for problem in problems:
        listener.say(f"Left out: {problem.name} ({problem.path}): {problem.reason}")
    if card is None or not bags:
        raise OptionError("There is no slide to train on", "Check the labels and the folder of features")
    return card, bags, tuple(problems)


def _read(slide: FeatureSlide, count: int, options: BagOptions) -> _Bag:
    features = read_features(slide.path).features
    digest = hashlib.sha256(features.tobytes()).hexdigest()
    if count > _KEPT_PATCHES:
        draws = np.random.default_rng([options.seed, *slide.case.id.encode()])
        features = features[np.sort(draws.choice(count, _KEPT_PATCHES, replace=False, shuffle=False))]
    needed, free = features.size * 2, psutil.virtual_memory().available
    if needed > _MEMORY_SHARE * free:
        raise OptionError("There is no memory left for its features", "Close other programs")
    return _Bag(slide, features.astype(np.float16), digest, count)


def _begin(folder: Path, options: BagOptions, bags: Sequence[_Bag]) -> None:
    """Write down what the run is, or check that it is the one that was begun here."""
    digest = hashlib.sha256()
    for bag in bags:
        digest.update(msgspec.json.encode(bag.slide.case))
        digest.update(bag.sha256.encode())
    config = _Config(options=options, slides_sha256=digest.hexdigest(), versions=library_versions())
    file = folder / CONFIG_NAME
    if not file.exists():
        write_atomically(file, msgspec.json.format(msgspec.json.encode(config)))
        return
    other = "Give the options and features of before, or name another --output"
    try:
        before = msgspec.json.decode(file.read_bytes(), type=_Config)
    except (msgspec.MsgspecError, ValueError) as error:
        raise OptionError(f"{folder} holds another run, or a damaged one ({error})", other) from error
    if before.options != options or before.slides_sha256 != config.slides_sha256:
        what = "other options" if before.options != options else "other slides, labels or features"
        raise OptionError(f"{folder} holds a run with {what}", other)


def _train(
    card: ModelCard,
    bags: Sequence[_Bag],
    fold: Fold,
    options: BagOptions,
    file: Path,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> None:
    chosen = [bags[i] for i in fold.train.tolist()]
    bits, known = target_arrays([bag.slide.case for bag in chosen], Target(options.target))
    listener.begin(f"training {fold.name}", steps_of(len(chosen), options), "steps")
    card, state = train_bag(
        msgspec.structs.replace(card, versions=library_versions(), knowledge="trained"),
        [bag.features for bag in chosen],
        bits,
        known,
        options,
        progress=listener.advance,
        stop=stop,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(file, card, state)


def _predict(
    network: Path, bags: Sequence[_Bag], fold: Fold, listener: TrainListener, stop: Callable[[], bool]
) -> list[CaseLogits]:
    """Score the held-out slides of a fold, all patches of them, in the fold's order."""
    file = network.with_name(_HELD_OUT_NAME)
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=list[CaseLogits])
    model = load_bag_model(network)
    lines: list[CaseLogits] = []
    listener.begin(f"predicting {fold.name}", len(fold.held_out), "slides")
    for done, index in enumerate(fold.held_out.tolist(), start=1):
        if stop():
            raise CancelledError("Training was stopped", _GO_ON)
        slide = bags[index].slide
        logits = model.score(read_features(slide.path).features).logits.astype(np.float64)
        lines.append(CaseLogits(slide.case.split, slide.case.id, fold.name, logits.tolist()))
        listener.advance(done)
    write_atomically(file, msgspec.json.encode(lines))
    return lines
