"""``herohe-bridge regions``: tumour proposed where nobody drew, by a probe learned from what was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from bridge.commands.batch_options import REGION_CLASSES
from bridge.commands.executing import SLIDES_ROOT

FEATURES: Final = click.option(
    "--features",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of features of the slides' whole tissue; see features extract.",
)


@click.group("regions")
def command() -> None:
    """Propose regions on slides that nobody drew on, learned from the slides that somebody did."""


@command.command("learn")
@click.argument("project", type=click.Path(path_type=Path))
@FEATURES
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The probe's file."
)
@REGION_CLASSES[0]
@REGION_CLASSES[1]
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the folds."
)
@SLIDES_ROOT
def learn(
    project: Path,
    features: Path,
    output: Path,
    region_classes: tuple[str, ...],
    exclude_classes: tuple[str, ...],
    seed: int,
    slides_root: Path | None,
) -> None:
    """Learn what a region looks like from the annotations of PROJECT, a QuPath project or a folder of slides.

    On each slide that has annotations of --region-class, all of that class must be drawn: what lies outside
    counts as something else. Says how well slides were told by probes that had not seen them. Nothing is
    written into PROJECT. Research use only.
    """
    from rich.console import Console

    from bridge.batch.proposals import learn_regions
    from bridge.console.interrupt import until_interrupted
    from bridge.console.training_view import TrainingView
    from bridge.projects.open import open_collection
    from herohe_model.features.find import find_features

    if not region_classes:
        raise click.UsageError("Name the class to learn with --region-class.")
    collection = open_collection(project, slides_root=slides_root)
    files = find_features(features)
    with until_interrupted() as interrupted, TrainingView(Console(stderr=True)) as view:
        try:
            probe = learn_regions(
                collection,
                files,
                region_classes,
                exclude_classes,
                seed=seed,
                say=view.say,
                begin=view.begin,
                progress=view.advance,
                stop=interrupted,
            )
        finally:
            collection.close()
    probe.save(output)
    found = probe.card.held_out
    click.echo("Agreement with what was drawn, of probes that had not seen the slide:")
    for slide in found:
        click.echo(
            f"  {slide.slide}: Dice {slide.dice:.2f} (all tissue: {slide.dice_of_all:.2f}); "
            f"drawn {slide.drawn_mm2:.2f} mm², proposed {slide.proposed_mm2:.2f} mm²"
        )
    dice = sorted(slide.dice for slide in found)
    alone = sum(slide.dice_of_all for slide in found) / len(found)
    classes = " or ".join(region_classes)
    click.echo(
        f"Mean Dice {sum(dice) / len(dice):.2f} over {len(dice)} slides, {dice[0]:.2f} to {dice[-1]:.2f}; "
        f"all tissue taken for {classes}: {alone:.2f}."
    )
    click.echo(f"Probe: {output}")
    click.echo(probe.card.note)


@command.command("propose")
@click.argument("project", type=click.Path(path_type=Path))
@FEATURES
@click.option(
    "--probe",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of regions learn.",
)
@click.option(
    "--min-area",
    type=click.FloatRange(0, 1000),
    default=0.1,
    show_default=True,
    help="Leave out areas, and close holes, that are smaller; mm².",
)
@SLIDES_ROOT
@click.pass_context
def propose(
    ctx: click.Context, project: Path, features: Path, probe: Path, min_area: float, slides_root: Path | None
) -> None:
    """Propose regions on the images of PROJECT, a QuPath project, that have none of the probe's class.

    They become annotations of a class of their own, such as "Tumor: proposed", and take the place of earlier
    proposals; clear removes them. score takes them only when asked to (--region-class "Tumor: proposed"). One
    that you gave another class is yours. PROJECT must not be open in QuPath. Research use only.
    """
    from rich.console import Console

    from bridge.annotations.classes import proposed_class
    from bridge.batch.proposals import propose_regions
    from bridge.console.interrupt import until_interrupted
    from bridge.console.training_view import TrainingView
    from bridge.projects.open import open_collection
    from bridge.projects.qupath_project import QuPathProject
    from herohe_model.features.find import find_features
    from herohe_model.features.probe import load_probe
    from herohe_model.files import sha256_of
    from herohe_model.notice import RESEARCH_USE_ONLY

    learned, files = load_probe(probe), find_features(features)
    collection = open_collection(project, slides_root=slides_root)
    if not isinstance(collection, QuPathProject):
        raise click.UsageError("Regions are proposed in a QuPath project, where they can be corrected.")
    for warning in collection.warnings:
        click.echo(f"Warning: {warning}", err=True)
    images, failed = 0, 0
    with until_interrupted() as interrupted, TrainingView(Console(stderr=True)) as view:
        view.begin("proposing", len(collection.entries()), "images")
        try:
            found = propose_regions(
                collection, files, learned, sha256_of(probe) or "", least_mm2=min_area, stop=interrupted
            )
            for done, image in enumerate(found, start=1):
                failed += bool(image.failed)
                images += bool(image.areas)
                said = image.failed or image.skipped or f"{image.areas} regions, {image.mm2:.2f} mm²"
                view.say(f"{image.slide}: {said}")
                view.advance(done)
        finally:
            collection.close()
    proposed = proposed_class(learned.card.region_classes[0])
    click.echo(f"{images} of {len(collection.entries())} images have regions of the class {proposed}.")
    click.echo("Look at them in QuPath, and give those that are right a class of your own.")
    click.echo(RESEARCH_USE_ONLY)
    ctx.exit(int(failed > 0))
