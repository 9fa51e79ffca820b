"""``herohe-bridge train``: slides and labels in, a model file out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from bridge.console.training_view import TrainingView
    from herohe_model.dataset.labels import Labels
    from herohe_model.training.cross_validation import FoldPlan, Trained
    from herohe_model.training.options import TrainOptions
    from herohe_model.training.step import Resources

_SHOWN: Final = 10
_MATCHING_NAME: Final = "slides-and-labels.csv"


def _decides(*names: str, default: str, **settings: Any) -> Callable[[Any], Any]:
    """Make an option of :class:`~herohe_model.training.options.TrainOptions`; None leaves its default.

    `default` is for ``--help`` alone, so that help needs no PyTorch; a test compares both.
    """
    return click.option(*names, show_default=default, **settings)


@click.command("train")
@click.argument("slides", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    "label_files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="HEROHE's label file, or a table with the columns case, ihc, ish, status, laboratory, split; may "
    "be repeated.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; one that was stopped goes on.",
)
@click.option("--split", default="train", show_default=True, help="Train on this split of the labels.")
@click.option("--region-class", "region_classes", multiple=True, metavar="CLASS", help="As for score.")
@click.option("--exclude-class", "exclude_classes", multiple=True, metavar="CLASS", help="As for score.")
@click.option("--slides-root", type=click.Path(path_type=Path), help="Look for moved slides here.")
@click.option(
    "--folds",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Stratified folds, a network each; 0 trains once on all slides and chooses no threshold.",
)
@click.option("--leave-one-laboratory-out", is_flag=True, help="Hold out one laboratory a fold instead.")
@click.option("--name", help="Of the model, in every result.  [default: backbone, target and folder]")
@click.option("--trained-on", default="HEROHE", show_default=True, help="Name of the data, for the card.")
@click.option("--skip-unusable", is_flag=True, help="Leave out slides that cannot be used, by name.")
@_decides("--backbone", default="resnet18", help="Any architecture of timm.")
@_decides("--head", default="ordered", type=click.Choice(["free", "ordered"]))
@_decides("--target", default="ihc+ish", type=click.Choice(["ihc", "ihc+ish"]))
@_decides("--patch-px", default="512", type=int, help="Side of a patch, px.")
@_decides("--mpp", default="0.2425", type=float, help="µm per px that the network sees.")
@_decides("--foreground-threshold", default="0.07", type=float, help="Least mean saturation of a patch.")
@_decides("--min-coverage", default="0.5", type=float, help="Share of a patch that a region must cover.")
@_decides("--min-patches", default="10", type=int, help="Fewest foreground patches of a slide.")
@click.option(
    "--pretrained/--no-pretrained",
    default=None,
    show_default="pretrained",
    help="Begin with timm's published weights, from the Hugging Face hub or (HF_HUB_OFFLINE=1) its cache.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Begin with the backbone's weights in this safetensors file.",
)
@_decides("--epochs", default="40", type=int)
@_decides("--composites-per-slide", default="1", type=int, help="New composites of each slide an epoch.")
@_decides("--batch", default="8", type=int, help="Composites an optimiser step, over all processes.")
@_decides("--micro-batch", default="1", type=int, help="Composites a forward pass.")
@_decides("--lr", default="0.0002", type=float, help="Peak learning rate.")
@_decides("--weight-decay", default="0.05", type=float)
@_decides("--balance", default="none", type=click.Choice(["none", "levels", "bits"]))
@_decides("--batch-norm", default="auto", type=click.Choice(["auto", "batch", "sync", "frozen"]))
@_decides("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16"]))
@_decides(
    "--checkpoint-gradients",
    default="False",
    is_flag=True,
    flag_value=True,
    help="Less memory, about a third more time.",
)
@_decides("--stain", default="0.1", type=float, help="Augmentation: how much stains vary, 0 to 1.")
@_decides("--colour", default="0.05", type=float, help="Augmentation: how much cameras vary, 0 to 1.")
@_decides("--validate-every", default="2", type=int, help="Epochs between looks at held-out slides.")
@_decides("--final-composites", default="8", type=int, help="Composites of each held-out slide at the end.")
@_decides("--checkpoint-every", default="50", type=int, help="Steps between checkpoints.")
@_decides("--seed", default="0", type=int)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda[:n] or mps.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=4, show_default=True, help="Reading threads a process."
)
@click.option("--threads", type=click.IntRange(1), help="Computing threads of a CPU.  [default: its cores]")
@click.option(
    "--open-slides", type=click.IntRange(1), default=64, show_default=True, help="Slides kept open a process."
)
@click.option("--preload", is_flag=True, help="Keep all patches in memory (small sets only).")
def command(
    slides: Path,
    label_files: tuple[Path, ...],
    output: Path,
    split: str,
    region_classes: tuple[str, ...],
    exclude_classes: tuple[str, ...],
    slides_root: Path | None,
    folds: int,
    leave_one_laboratory_out: bool,
    name: str | None,
    trained_on: str,
    skip_unusable: bool,
    weights: Path | None,
    device: str,
    workers: int,
    threads: int | None,
    open_slides: int,
    preload: bool,
    **decided: Any,
) -> None:
    """Train a model on SLIDES and save it as OUTPUT/model.safetensors.

    SLIDES is a QuPath project or a folder of slides, as for score; a slide's name without its extension is
    its case in the labels. A network is trained for each fold; decision threshold and temperature are chosen
    on the slides that each was trained without. A run that was stopped or killed goes on when the same
    command is given again. Several GPUs: torchrun --nproc-per-node N -m bridge train ... Research use only.
    """
    from herohe_model.training.cross_validation import FoldPlan
    from herohe_model.training.step import Resources

    if leave_one_laboratory_out:
        plan = FoldPlan("laboratories")
    elif folds == 0:
        plan = FoldPlan("none")
    elif folds == 1:
        raise click.UsageError("One fold holds out everything: ask for 2 or more, or 0 to train on all.")
    else:
        plan = FoldPlan("folds", folds)
    options = _options(weights, decided)
    trained = _train(
        slides,
        label_files,
        output,
        split,
        (region_classes, exclude_classes),
        slides_root,
        plan,
        name or f"{options.backbone} {options.target} {output.name}",
        trained_on,
        skip_unusable,
        options,
        weights,
        device,
        Resources(
            workers=workers,
            ahead=4 * workers,
            threads=threads,
            open_slides=open_slides,
            preload=preload,
        ),
    )
    if os.environ.get("RANK", "0") == "0":
        _report(trained)


def _options(weights: Path | None, decided: dict[str, Any]) -> TrainOptions:
    """Make the training options of what was given on the command line."""
    import msgspec

    from herohe_model.model.checkpoint import load_tensors
    from herohe_model.training.options import AugmentOptions, TrainOptions

    given = {key: value for key, value in decided.items() if value is not None}
    augment = {key: given.pop(key) for key in ("stain", "colour") if key in given}
    if weights is not None:
        given |= {"pretrained": False, "weights_sha256": load_tensors(weights)[2]}
    changed = msgspec.structs.replace(AugmentOptions(), **augment)
    return msgspec.structs.replace(TrainOptions(augment=changed), **given)


def _train(
    slides: Path,
    label_files: tuple[Path, ...],
    output: Path,
    split: str,
    classes: tuple[tuple[str, ...], tuple[str, ...]],
    slides_root: Path | None,
    plan: FoldPlan,
    name: str,
    trained_on: str,
    skip_unusable: bool,
    options: TrainOptions,
    weights: Path | None,
    device: str,
    machine: Resources,
) -> Trained:
    from rich.console import Console

    from bridge.console.interrupt import until_interrupted
    from bridge.console.log import log_shown
    from bridge.console.training_view import TrainingView
    from bridge.projects.open import open_collection
    from bridge.projects.training_slides import label_slides
    from herohe_model.dataset.matching import match_slides
    from herohe_model.files import write_atomically
    from herohe_model.training.cross_validation import train_folds
    from herohe_model.training.foreground_cache import unusable_error
    from herohe_model.training.options import check_options
    from herohe_model.training.processes import join_processes

    with join_processes(device) as processes, until_interrupted() as interrupted:
        options = check_options(options, processes=processes.count)
        with TrainingView(Console(stderr=True, quiet=not processes.first)) as view, log_shown(view.say):
            labels = _read_labels(label_files, split, view)
            collection = open_collection(slides, slides_root=slides_root, output=output)
            try:
                names = [entry.name for entry in collection.entries()]
                matching = match_slides(labels.cases, names, split=split, labels=labels.rows)
                if matching.unmatched:
                    for line in matching.lines(_SHOWN):
                        view.say(line)
                if processes.first:
                    write_atomically(output / _MATCHING_NAME, matching.table(names, labels.rows))
                view.begin("reading regions", len(matching.matched), "slides")
                labelled = label_slides(
                    collection,
                    matching,
                    region_classes=classes[0],
                    exclude_classes=classes[1],
                    progress=view.advance,
                    stop=interrupted,
                )
            finally:
                collection.close()
            if labelled.unusable and not skip_unusable:
                raise unusable_error(labelled.unusable, len(labelled.slides) + len(labelled.unusable))
            for slide in labelled.unusable:
                view.say(f"Left out: {slide.name} ({slide.path}): {slide.reason}")
            return train_folds(
                labelled.slides,
                plan,
                options,
                output,
                name=name,
                trained_on=trained_on,
                processes=processes,
                resources=machine,
                weights=weights,
                skip_unusable=skip_unusable,
                listener=view,
                stop=interrupted,
            )


def _read_labels(files: tuple[Path, ...], split: str, view: TrainingView) -> Labels:
    from herohe_model.dataset.labels import read_label_files
    from herohe_model.errors import OptionError

    labels = read_label_files((file, split) for file in files)
    for warning in labels.warnings:
        view.say(f"Warning: {warning}")
    if not labels.of_split(split):
        there = ", ".join(sorted({case.split for case in labels.cases})) or "none"
        raise OptionError(f"The labels have no case of the split {split}", f"They have {there}: use --split")
    return labels


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
    click.echo(f"Model: {trained.model}")
    click.echo(card.note)
