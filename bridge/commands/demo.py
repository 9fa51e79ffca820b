"""``herohe-bridge demo``: the whole system on synthetic slides, to see that everything works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands.report import report_line
from bridge.scoring.options import ScoreOptions, WriteOptions
from herohe_model.model.compute import Compute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge.demo.run import DemoSlide
    from bridge.projects.base import Collection


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("herohe-demo"))
@click.option(
    "--slides",
    type=click.IntRange(8),
    default=24,
    show_default=True,
    help="Slides to draw; half are held out.",
)
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Steps of training.")
@click.option("--device", default="cpu", show_default=True, help="Where the held-out slides are scored.")
def command(folder: Path, slides: int, steps: int, device: str) -> None:
    """Draw synthetic slides into FOLDER, train a network for show, and score the slides held out.

    Uses a QuPath project when QuPath is found, and a folder of slides with GeoJSON otherwise. FOLDER then
    holds report.html, to look through, and overview.png. The weights know nothing of real tissue.
    """
    from rich.console import Console
    from rich.progress import track

    from bridge.batch.options import BatchOptions
    from bridge.commands.score import score_collection
    from bridge.console.training_view import TrainingView
    from bridge.demo.run import TUMOUR_CLASS, make_slides, train_for_show, write_truth

    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty. Name another folder, or remove it.")
    console = Console(stderr=True)
    cohort = list(
        track(
            make_slides(folder / "slides", slides),
            total=slides,
            description="drawing slides",
            console=console,
        )
    )
    write_truth(folder / "truth.csv", cohort)
    with TrainingView(console) as view:
        training = [s for s in cohort if not s.held_out]
        model = train_for_show(training, folder / "training", steps=steps, listener=view)

    held_out = [s for s in cohort if s.held_out]
    collection, target = _collection(folder, held_out)
    output = folder / "results"
    options = BatchOptions(region_classes=(TUMOUR_CLASS,), score=ScoreOptions(), write=WriteOptions())
    click.echo(
        f"herohe-bridge score {target} --model {model} --region-class {TUMOUR_CLASS} --output {output}"
    )
    summary = score_collection(collection, model, Compute(device), options=options, output=output)
    _report(folder, output, held_out)
    if summary.exit_code:
        click.get_current_context().exit(summary.exit_code)


def _collection(folder: Path, slides: Sequence[DemoSlide]) -> tuple[Collection, Path]:
    """Put the held-out slides into a QuPath project, or their outlines beside them where there is none."""
    from bridge.annotations.geojson_writing import write_annotations
    from bridge.projects.open import open_collection
    from bridge.projects.qupath_project import NewImage, create_project
    from herohe_model.errors import QuPathNotFoundError

    project = folder / "project"
    try:
        create_project(project, [NewImage(s.path, s.path.stem, s.annotations) for s in slides])
    except QuPathNotFoundError as error:
        click.echo(f"{error} The demo goes on with GeoJSON.", err=True)
        for slide in slides:
            write_annotations(slide.path, slide.annotations)
        project = slides[0].path.parent
    return open_collection(project, output=folder / "results"), project


def _report(folder: Path, output: Path, slides: Sequence[DemoSlide]) -> None:
    """Say how the held-out slides came out, draw them, and leave a page to look through them."""
    from bridge.demo.contact_sheet import SheetItem, draw_sheet
    from bridge.report.cohort import Truth
    from bridge.report.page import write_report
    from bridge.results.run import find_run
    from herohe_model.grades import Target

    run, truth = find_run(output), Truth(folder / "truth.csv", "test")
    evaluation = truth.evaluate(run)
    for name in ("grade_accuracy", "f1"):
        measure = evaluation.measure(name)
        trivial = ", ".join(f"{t.answer}: {t.value or 0:.3f}" for t in measure.trivial)
        click.echo(f"Held-out slides: {measure.label} {measure.value or 0:.3f} ({trivial}).")
    files = {slide.path.stem: slide for slide in slides}
    items = [
        SheetItem(files[case.id].path, files[case.id].grade, result)
        for result in run.slides()
        if (case := truth.of(result)) is not None
    ]
    picture = folder / "overview.png"
    step = Target.IHC.steps.index(Target.IHC.default_positive_step)
    title = "herohe-bridge demo: HER2 grades of synthetic slides"
    note = "Black: the drawn tumour. Squares: sampled patches. Weights for show. Research use only."
    draw_sheet(items, step, title=title, note=note).save(picture)
    page = folder / "report.html"
    heading = "herohe-bridge demo, held-out slides"
    write_report(run, page, title=heading, truth=truth)
    click.echo(f"Picture: {picture}")
    click.echo(f"Page: {page}")
    more = ("--truth", str(folder / "truth.csv"), "--split", "test", "--title", heading)
    click.echo(f"To make the page again: {report_line(output, *more)}")
    click.echo("The weights are for show: they were learned from synthetic pictures.")
