"""Networks of composites by folds, from slides; see :mod:`herohe_model.training.cross_validation`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from herohe_model.dataset.cases import target_bits
from herohe_model.dataset.fingerprints import short_digest
from herohe_model.dataset.folds import Fold
from herohe_model.dataset.predictions import PATCHES, SATURATION
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import CancelledError, OptionError
from herohe_model.files import write_atomically
from herohe_model.grades import Target
from herohe_model.model.card import Knowledge
from herohe_model.model.compute import Compute
from herohe_model.model.device import choose_precision
from herohe_model.read_ahead import read_ahead
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.likeness import stain_seen
from herohe_model.sampling.patches import PatchSet
from herohe_model.training.calibrate import learned_steps
from herohe_model.training.cross_validation import (
    ALL_SLIDES,
    CardFacts,
    CaseLogits,
    FoldPlan,
    Trained,
    check_cases,
    counts_in_words,
    run_folds,
)
from herohe_model.training.data import CompositeReader, TrainingSlide
from herohe_model.training.foreground_cache import Unusable, find_foreground, unusable_error
from herohe_model.training.loop import NullListener, TrainListener, train_network
from herohe_model.training.options import CallOptions, TrainOptions
from herohe_model.training.processes import Processes
from herohe_model.training.step import Resources, TrainingSet

SCORING_SEED: Final = 0
"""Seed of scoring's sampler; out-of-fold composites are those that scoring would draw."""


def train_folds(
    slides: Sequence[TrainingSlide],
    plan: FoldPlan,
    options: TrainOptions,
    folder: Path,
    *,
    name: str,
    trained_on: str = "",
    knowledge: Knowledge = "trained",
    call: CallOptions | None = None,
    processes: Processes,
    resources: Resources | None = None,
    weights: Path | None = None,
    skip_unusable: bool = False,
    listener: TrainListener | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trained:
    """Train a network a fold, calibrate and choose thresholds out of fold, and save the ensemble.

    A run that was stopped goes on when it is called again in the same way.

    Parameters
    ----------
    slides
        One a case.
    name, trained_on, knowledge
        For the model card; `trained_on` names the cohort, to which the counts are added; "" where nobody
        said which it is.
    call
        What the call's thresholds are chosen for.
    weights
        The safetensors file that ``options.weights_sha256`` names.
    skip_unusable
        Leave out slides that cannot be read or have too little tissue, instead of raising.
    stop
        Asked often; a true answer ends the run so that it can go on.

    Raises
    ------
    SlideError
        If slides cannot be used; its message names them all.
    OptionError
        If the slides cannot be split so, or the folder holds another run.
    CancelledError
        When `stop` said so.
    """
    resources, stop = resources or Resources(), stop or (lambda: False)
    listener = listener if listener is not None and processes.first else NullListener()
    slides, foreground, left_out = _usable(
        slides, options, folder / "foreground", processes, resources, skip_unusable, listener, stop
    )
    cases = [slide.case for slide in slides]
    folds = plan.of(cases, options.seed)
    check_cases(cases, plan, Target(options.target))
    digest = _digest(slides, foreground)
    described = f"{trained_on or 'cohort not stated'}: {counts_in_words(cases)}"
    learned = learned_steps(cases, Target(options.target))
    digests = [short_digest(slide.fingerprint) for slide in slides]

    def train(fold: Fold, home: Path) -> Path:
        data = TrainingSet(slides, foreground, fold.train.tolist(), fold.held_out.tolist())
        return train_network(
            data,
            options,
            home,
            slides_sha256=digest,
            processes=processes,
            resources=resources,
            weights=weights,
            name=name if fold.name == ALL_SLIDES else f"{name}, {fold.name}",
            trained_on=f"{described}; {len(fold.train)} of them",
            knowledge=knowledge,
            cohort=trained_on,
            learned=learned,
            slides=tuple(sorted({digests[i] for i in fold.train.tolist()} - {""})),
            listener=listener,
            stop=stop,
        )

    def predict(fold: Fold, network: Path) -> list[CaseLogits]:
        data = TrainingSet(slides, foreground, fold.train.tolist(), fold.held_out.tolist())
        return _predict(network, data, options, fold, processes, resources, listener, stop)

    known = tuple(sorted({*digests} - {""}))
    seen = stain_seen([patches.stain for patches in foreground])
    facts = CardFacts(name, described, knowledge, trained_on, learned, known, seen)
    trained = run_folds(
        cases,
        folds,
        plan,
        Target(options.target),
        folder,
        facts,
        call,
        train,
        predict,
        processes,
        listener,
        measured={
            PATCHES: [len(patches) for patches in foreground],
            SATURATION: [float(patches.saturation.mean()) for patches in foreground],
        },
    )
    return replace(trained, left_out=left_out)


def _usable(
    slides: Sequence[TrainingSlide],
    options: TrainOptions,
    folder: Path,
    processes: Processes,
    resources: Resources,
    skip_unusable: bool,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> tuple[list[TrainingSlide], list[PatchSet], tuple[Unusable, ...]]:
    """Find the tissue of all slides; return those that can be used, with their patches, and the others."""

    def find(some: Sequence[TrainingSlide]) -> list[PatchSet | Unusable]:
        listener.begin("finding tissue", len(some), "slides")
        return find_foreground(
            some, options, folder, workers=resources.workers, progress=listener.advance, cancelled=stop
        )

    if processes.count > 1:
        # Each process finds a part; then all take everything from the folder.
        find(slides[processes.rank :: processes.count])
        processes.wait()
    found = find(slides)
    problems = [patches for patches in found if isinstance(patches, Unusable)]
    problems += [
        Unusable(slide.name, slide.path, "Its labels tell no bit of the target.")
        for slide, patches in zip(slides, found, strict=True)
        if isinstance(patches, PatchSet) and not any(target_bits(slide.case, Target(options.target))[1])
    ]
    if problems and not skip_unusable:
        raise unusable_error(problems, len(slides))
    for problem in problems:
        listener.say(f"Left out: {problem.name} ({problem.path}): {problem.reason}")
    bad = {problem.name for problem in problems}
    kept = [
        (slide, patches)
        for slide, patches in zip(slides, found, strict=True)
        if slide.name not in bad and isinstance(patches, PatchSet)
    ]
    if not kept:
        raise OptionError("There is no slide to train on", "Check the labels and the folder of slides")
    return [slide for slide, _ in kept], [patches for _, patches in kept], tuple(problems)


def _digest(slides: Sequence[TrainingSlide], foreground: Sequence[PatchSet]) -> str:
    """SHA-256 of labels and patches: of all that training knows of its slides but their pixels."""
    digest = hashlib.sha256()
    for slide, patches in zip(slides, foreground, strict=True):
        digest.update(msgspec.json.encode(slide.case))
        for array in (patches.x, patches.y, np.array([patches.size])):
            digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def _predict(
    network: Path,
    data: TrainingSet,
    options: TrainOptions,
    fold: Fold,
    processes: Processes,
    resources: Resources,
    listener: TrainListener,
    stop: Callable[[], bool],
) -> list[CaseLogits]:
    """Score the held-out slides of a fold as scoring does, in the fold's order."""
    file = network.with_name("held-out.json")
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=list[CaseLogits])
    slides, foreground = data.part(data.held_out)
    reader = CompositeReader(slides, foreground, options, open_slides=resources.open_slides)
    draws = [
        draw_composites(
            len(patches), composites=options.final_composites, seed=SCORING_SEED, cells=options.cells
        )
        for patches in foreground
    ]
    mine = range(processes.rank, len(slides), processes.count)
    tasks = [(slide, k) for slide in mine for k in range(options.final_composites)]
    bits = len(Target(options.target).steps)
    logits = torch.zeros((len(slides), options.final_composites, bits), dtype=torch.float64)
    listener.begin(f"predicting {fold.name}", len(tasks), "composites")
    with (
        # By PyTorch, and nothing measured: a training that is run again must come out alike.
        Scorer.load(
            network,
            Compute(str(processes.device), choose_precision(options.precision, processes.device), "torch"),
            resources.threads,
        ) as scorer,
        closing(
            read_ahead(
                tasks,
                lambda task: (task, reader.read_held_out(task[0], draws[task[0]][task[1]])),
                workers=resources.workers,
                ahead=resources.ahead,
            )
        ) as composites,
    ):
        for done, ((slide, k), composite) in enumerate(composites, start=1):
            if stop():
                raise CancelledError(
                    f"Predicting {fold.name} was stopped", "Give the same command again to go on from there"
                )
            score = scorer.score(composite.pixels.numpy()[None])[0]
            logits[slide, k] = torch.from_numpy(score.logits.astype(np.float64))
            listener.advance(done)
    for problem in reader.damage():
        listener.say(problem)
    everything = processes.total(logits).tolist()
    lines = [
        CaseLogits(slide.case.split, slide.case.id, fold.name, rows)
        for slide, rows in zip(slides, everything, strict=True)
    ]
    if processes.first:
        write_atomically(file, msgspec.json.encode(lines))
    processes.wait()
    return lines
