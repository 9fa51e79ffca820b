"""Bag models trained on files of features: one, or several candidates on the same folds."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bridge.commands.training_options import MATCHING_NAME, BagChoice, DataOptions, match_labels, read_split
from herohe_model.printable import printable_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bridge.console.training_view import TrainingView
    from herohe_model.dataset.labels import Labels
    from herohe_model.evaluation.candidates import Candidates
    from herohe_model.training.bag_folds import FeatureSlide
    from herohe_model.training.bag_loop import BagOptions
    from herohe_model.training.compare_bags import BagCandidate
    from herohe_model.training.cross_validation import FoldPlan, Trained
    from herohe_model.training.options import CallOptions, TrainOptions


def train_bags(
    bag: BagChoice,
    data: DataOptions,
    output: Path,
    plan: FoldPlan,
    name: str | None,
    cohort: str,
    call: CallOptions,
    options: TrainOptions,
) -> tuple[Trained, Candidates | None]:
    """Train a bag model on ``bag.features``, or with ``bag.compare`` all that it asks for."""
    from rich.console import Console

    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.console.training_view import TrainingView
    from herohe_model.run_lock import only_run
    from herohe_model.training.bag_folds import train_bag_folds
    from herohe_model.training.compare_bags import train_candidates

    if len(bag.features) > 1 and "features" not in bag.compare:
        raise click.UsageError("Several --features are several candidates: add --compare features.")
    if "features" in bag.compare and len(bag.features) < 2:
        raise click.UsageError("--compare features needs --features of two folders or more.")
    shared = bag.options(options)
    with (
        only_run(output),
        until_interrupted() as interrupted,
        TrainingView(Console(stderr=True)) as view,
        log_shown(view.say),
    ):
        labels = read_split(data.label_files, data.split, view)
        slides = [
            _labelled(folder, labels, data.split, output / _matching_name(k), view)
            for k, folder in enumerate(bag.features)
        ]
        named = f"{shared.pooling} {options.target} {output.name}"
        if not bag.compare:
            trained = train_bag_folds(
                slides[0],
                plan,
                shared,
                output,
                name=printable_name(name or named),
                trained_on=printable_name(cohort),
                call=call,
                skip_unusable=data.skip_unusable,
                listener=view,
                stop=interrupted,
            )
            return trained, None
        return train_candidates(
            _candidates(bag, shared, slides),
            plan,
            output,
            name=printable_name(name or f"{options.target} {output.name}"),
            trained_on=printable_name(cohort),
            call=call,
            skip_unusable=data.skip_unusable,
            listener=view,
            stop=interrupted,
        )


def _matching_name(number: int) -> str:
    return MATCHING_NAME if number == 0 else MATCHING_NAME.replace(".csv", f"-{number + 1}.csv")


def _labelled(
    folder: Path, labels: Labels, split: str, file: Path, view: TrainingView
) -> tuple[FeatureSlide, ...]:
    """Find the features of the cases; write down and say what has no counterpart."""
    from herohe_model.features.find import find_features
    from herohe_model.training.bag_folds import FeatureSlide

    found = find_features(folder)
    names = list(found)
    matching = match_labels(labels, names, split, view, file)
    return tuple(FeatureSlide(case, found[names[index]]) for case, index in matching.matched)


def _candidates(
    bag: BagChoice, shared: BagOptions, slides: Sequence[tuple[FeatureSlide, ...]]
) -> list[BagCandidate]:
    from herohe_model.training.compare_bags import BagCandidate

    folders = list(zip(_distinct(bag.features), slides, strict=True))
    poolings = ("attention", "mean") if "pooling" in bag.compare else (shared.pooling,)
    heads = ("ordered", "free") if "head" in bag.compare else (shared.head,)
    return [
        BagCandidate(
            ", ".join((folder, pooling, head)),
            of_folder,
            msgspec.structs.replace(shared, pooling=pooling, head=head),
        )
        for (folder, of_folder), pooling, head in product(folders, poolings, heads)
    ]


def _distinct(folders: Sequence[Path]) -> list[str]:
    """Return names of folders, with as much of their paths as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise click.UsageError("A folder is given twice with --features.")
    depth = next(d for d in range(1, 1 + max(map(len, parts))) if len({p[-d:] for p in parts}) == len(parts))
    return [printable_name("/".join(p[-depth:])) for p in parts]


def say_candidates(found: Candidates, page: Path, echo: Callable[[str], None]) -> None:
    """Say how the candidates did, and what was chosen."""
    from herohe_model.evaluation.compare import p_words

    for group in found.measured:
        echo(f"{group.name}: AUC {_number(group.auc.value)}, F1 {_number(group.f1.value)}")
    first = found.measured[0].name
    for pair in found.pairs:
        gain, p_value = pair.gains[0], pair.holm[0]
        if pair.first == first and gain.low is not None and gain.high is not None:
            echo(
                f"{pair.first} less {pair.second}: AUC {gain.value:+.3f} "
                f"(95% {gain.low:+.3f} to {gain.high:+.3f}, {p_words(p_value)} of {len(found.pairs)} pairs)"
            )
    echo(f"Chosen: {found.chosen}. Candidates: {page}")
    echo("What follows is of the choice, made for each fold without its cases.")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
