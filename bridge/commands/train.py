"""``herohe-bridge train``: slides and labels in, a model file out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands.train_bags import say_candidates, train_bags
from bridge.commands.training_options import (
    MATCHING_NAME,
    BagChoice,
    DataOptions,
    bag_options,
    call_options,
    data_options,
    fold_options,
    match_labels,
    read_split,
    resource_options,
    training_options,
)
from herohe_model.printable import printable_name

if TYPE_CHECKING:
    from herohe_model.training.cross_validation import FoldPlan, Trained
    from herohe_model.training.options import CallOptions, TrainOptions
    from herohe_model.training.step import Resources


@click.command("train")
@click.argument("slides", required=False, type=click.Path(path_type=Path))
@data_options
@bag_options
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; one that was stopped goes on.",
)
@fold_options
@click.option("--name", help="Name of the model in every result.  [default: backbone, target and folder]")
@click.option("--cohort", default="", help="Name of the slides' cohort, for the card.  [default: not stated]")
@call_options
@training_options
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Begin with the backbone's weights in this safetensors file.",
)
@click.option(
    "--normalisation",
    metavar="timm|imagenet|half|R,G,B/R,G,B",
    help="Mean/standard deviation, 0 to 1, that --weights were trained with.  "
    "[default: what config.json beside them says]",
)
@click.option(
    "--device", default="auto", show_default=True, help="Where it computes: auto, cpu, cuda[:n] or mps."
)
@resource_options
def command(
    slides: Path | None,
    data: DataOptions,
    bag: BagChoice,
    output: Path,
    plan: FoldPlan,
    name: str | None,
    cohort: str,
    call: CallOptions,
    options: TrainOptions,
    weights: Path | None,
    normalisation: str | None,
    device: str,
    resources: Resources,
) -> None:
    """Train a model on SLIDES and save it as OUTPUT/model.safetensors.

    SLIDES is a QuPath project or a folder of slides, as for score; a slide's name without its extension is
    its case in the labels. A network is trained for each fold; calibration, threshold and call are chosen on
    slides that the networks were trained without. A run that was stopped or killed goes on when the same
    command is given again. Several GPUs: torchrun --nproc-per-node N -m bridge train ... Research use only.

    With --features DIR and without SLIDES, a bag model is trained on features of patches, as TRIDENT, STAMP,
    CLAM or herohe-bridge features extract wrote them: in seconds to minutes, on the CPU. With --compare,
    several encoders, poolings or heads are trained on the same folds, compared in pairs in
    OUTPUT/candidates.html, and the best is the model.
    """
    if (slides is None) == (not bag.features):
        raise click.UsageError("Name either SLIDES or --features DIR.")
    if slides is None:
        trained, candidates = train_bags(bag, data, output, plan, name, cohort, call, options)
        if candidates is not None:
            say_candidates(candidates, output / "candidates.html", click.echo)
        _report(trained)
        return
    if bag.compare:
        raise click.UsageError("--compare goes with --features: it compares bag models.")
    if weights is not None:
        import msgspec

        from herohe_model.model.checkpoint import load_tensors
        from herohe_model.training.weights_normalisation import normalisation_of

        options = msgspec.structs.replace(
            options,
            pretrained=False,
            weights_sha256=load_tensors(weights)[2],
            normalisation=normalisation_of(weights, options.backbone, normalisation),
        )
    elif normalisation is not None:
        raise click.UsageError("--normalisation goes with --weights: else timm's weights say theirs.")
    trained = _train(
        slides,
        data,
        output,
        plan,
        printable_name(name or f"{options.backbone} {options.target} {output.name}"),
        printable_name(cohort),
        call,
        options,
        weights,
        device,
        resources,
    )
    if os.environ.get("RANK", "0") == "0":
        _report(trained)


def _train(
    slides: Path,
    data: DataOptions,
    output: Path,
    plan: FoldPlan,
    name: str,
    cohort: str,
    call: CallOptions,
    options: TrainOptions,
    weights: Path | None,
    device: str,
    resources: Resources,
) -> Trained:
    from contextlib import nullcontext

    from rich.console import Console

    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.console.training_view import TrainingView
    from bridge.projects.open import open_collection
    from bridge.projects.training_slides import label_slides
    from herohe_model.run_lock import only_run
    from herohe_model.training.affordable import check_affordable
    from herohe_model.training.composite_folds import train_folds
    from herohe_model.training.foreground_cache import unusable_error
    from herohe_model.training.options import check_options
    from herohe_model.training.processes import join_processes

    with (
        join_processes(device) as processes,
        only_run(output) if processes.first else nullcontext(),
        until_interrupted() as interrupted,
    ):
        options = check_options(options, processes=processes.count)
        slow = check_affordable(options, processes.device, threads=resources.threads)
        with TrainingView(Console(stderr=True, quiet=not processes.first)) as view, log_shown(view.say):
            if slow:
                view.say(f"Warning: {slow}")
            labels = read_split(data.label_files, data.split, view)
            collection = open_collection(
                slides, slides_root=data.slides_root, output=output, mpp_table=data.mpp_table
            )
            try:
                names = [entry.name for entry in collection.entries()]
                file = output / MATCHING_NAME if processes.first else None
                matching = match_labels(labels, names, data.split, view, file)
                view.begin("reading regions", len(matching.matched), "slides")
                labelled = label_slides(
                    collection,
                    matching,
                    region_classes=data.region_classes,
                    exclude_classes=data.exclude_classes,
                    progress=view.advance,
                    stop=interrupted,
                )
            finally:
                collection.close()
            if labelled.unusable and not data.skip_unusable:
                raise unusable_error(labelled.unusable, len(labelled.slides) + len(labelled.unusable))
            for note in labelled.notes:
                view.say(f"Warning: {note}")
            for slide in labelled.unusable:
                view.say(f"Left out: {slide.name} ({slide.path}): {slide.reason}")
            return train_folds(
                labelled.slides,
                plan,
                options,
                output,
                name=name,
                trained_on=cohort,
                call=call,
                processes=processes,
                resources=resources,
                weights=weights,
                skip_unusable=data.skip_unusable,
                listener=view,
                stop=interrupted,
            )


def _report(trained: Trained) -> None:
    """Say how good the model is, and where it lies."""
    from herohe_model.model.card import read_card
    from herohe_model.training.cross_validation import EVALUATION_PAGE_NAME

    card, _ = read_card(trained.model)
    if trained.evaluation is not None:
        for measure in trained.evaluation.status:
            if measure.value is not None and measure.low is not None and measure.high is not None:
                click.echo(
                    f"{measure.label}: {measure.value:.3f} (95% {measure.low:.3f} to {measure.high:.3f})"
                )
        click.echo(f"Page: {trained.model.with_name(EVALUATION_PAGE_NAME)}")
    click.echo(f"Threshold: {card.decision_threshold:.4f}, {card.threshold_chosen}")
    if card.call is None:
        click.echo("Call: none is claimed; it takes nested folds, and enough cases of both statuses.")
    else:
        click.echo(f"Call: {card.call.negative_chosen}; {card.call.positive_chosen}")
    if set(card.claimed_steps) != set(card.steps):
        click.echo(f"Says nothing of {', '.join(s for s in card.steps if s not in card.claimed_steps)}.")
    click.echo(f"Model: {trained.model}")
    click.echo(card.note)
