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

    from rich.console import Console

    from bridge.demo.run import DemoSlide
    from bridge.projects.base import Collection
    from bridge.results.schema import SlideResult


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("herohe-demo"))
@click.option("--slides", type=click.IntRange(8), default=24, show_default=True, help="Half are held out.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Steps of training.")
@click.option("--device", default="cpu", show_default=True, help="Where the held-out slides are scored.")
def command(folder: Path, slides: int, steps: int, device: str) -> None:
    """Draw synthetic slides into FOLDER, train a network for show, and score the slides held out.

    Uses a QuPath project when QuPath is found, and a folder of slides with GeoJSON otherwise. The weights
    know nothing of real tissue.
    """
    from rich.console import Console
    from rich.progress import track

    from bridge.batch.run import BatchOptions
    from bridge.commands.score import score_collection
    from bridge.demo.run import TUMOUR_CLASS, make_slides, write_truth
    from bridge.results.files import read_json

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
    model = folder / "model.safetensors"
    _train([s for s in cohort if not s.held_out], model, steps, console)

    held_out = [s for s in cohort if s.held_out]
    collection, target = _collection(folder, held_out)
    output = folder / "results"
    options = BatchOptions(region_classes=(TUMOUR_CLASS,), score=ScoreOptions(), write=WriteOptions())
    click.echo(
        f"herohe-bridge score {target} --model {model} --region-class {TUMOUR_CLASS} --output {output}"
    )
    summary = score_collection(collection, model, Compute(device), options=options, output=output)
    results = {Path(r.path).stem: r for r in read_json(output / "results.json")}
    _report(folder, held_out, results)
    if summary.exit_code:
        click.get_current_context().exit(summary.exit_code)


def _train(slides: Sequence[DemoSlide], model: Path, steps: int, console: Console) -> None:
    """Train with a bar that shows the loss."""
    from rich.progress import Progress

    from bridge.demo.run import train_for_show

    with Progress(console=console) as bar:
        task = bar.add_task("training", total=steps)

        def step(done: int, loss: float) -> None:
            bar.update(task, completed=done, description=f"training, loss {loss:.3f}")

        train_for_show(slides, model, steps=steps, progress=step)


def _collection(folder: Path, slides: Sequence[DemoSlide]) -> tuple[Collection, Path]:
    """Put the held-out slides into a QuPath project, or their outlines beside them where there is none."""
    from bridge.annotations.geojson import write_annotations
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


def _report(folder: Path, slides: Sequence[DemoSlide], results: dict[str, SlideResult]) -> None:
    """Say how the held-out slides came out, and draw them."""
    from bridge.demo.contact_sheet import SheetItem, draw_sheet
    from bridge.demo.run import f1_score, is_positive
    from herohe_model.grades import Target

    truth, called, items = [], [], []
    for slide in slides:
        result = results[slide.path.stem]
        prediction = result.union.prediction if result.union else None
        grade = prediction.grade if prediction else "none"
        truth.append(is_positive(slide.grade))
        called.append(prediction is not None and prediction.status == "HER2-positive")
        p_positive = f"{prediction.p_positive:.2f}" if prediction else "-"
        caption = f"{slide.path.name}: drawn {slide.grade}, scored {grade}\nP(positive) {p_positive}"
        items.append(SheetItem(slide.path, slide.regions, result, caption))
    picture = folder / "overview.png"
    step = Target.IHC.steps.index(Target.IHC.default_positive_step)
    legend = (
        "Yellow: drawn tumour. Squares: sampled patches; red speaks for >=2+, blue against. "
        "Synthetic slides, weights for show. Research use only."
    )
    draw_sheet(items, step, legend=legend).save(picture)
    right = sum(
        r.union is not None and r.union.prediction is not None and r.union.prediction.grade == s.grade
        for s, r in ((s, results[s.path.stem]) for s in slides)
    )
    always = f1_score(truth, [True] * len(truth))
    click.echo(
        f"Held-out slides: {right} of {len(slides)} grades right; F1 of HER2-positive "
        f"{f1_score(truth, called):.3f}, always-positive {always:.3f}."
    )
    click.echo(f"Picture: {picture}")
    truth_file = ("--truth", str(folder / "truth.csv"), "--split", "test")
    click.echo(f"To look through the results: {report_line(folder / 'results', *truth_file)}")
    click.echo("The weights are for show: they were learned from synthetic pictures.")
