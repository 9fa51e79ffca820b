"""``herohe-bridge cohort``: public cohorts, from a download to what train and score take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

COHORTS: Final = ("herohe", "bcnb", "yale", "tcga")
_SHOWN: Final = 20


@click.group("cohort")
def command() -> None:
    """Prepare and check public cohorts: HEROHE, BCNB, HER2-TUMOR-ROIS (yale) and TCGA-BRCA."""


@command.command("prepare")
@click.argument("name", type=click.Choice(COHORTS))
@click.argument("download", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="New folder.")
@click.pass_context
def prepare(ctx: click.Context, name: str, download: Path, output: Path) -> None:
    """Make of DOWNLOAD, a cohort's folder as it was unpacked, slides by split, outlines and labels.

    Slides are linked, not copied; pictures (BCNB) are converted. Nothing is changed in DOWNLOAD. See
    docs/cohorts.md.
    """
    from rich.console import Console

    from bridge.cohorts.known import known_cohorts
    from bridge.cohorts.prepare import LABELS
    from bridge.cohorts.prepare import prepare as prepare_cohort
    from bridge.console.interrupt import until_interrupted
    from bridge.console.training_view import TrainingView

    cohort = known_cohorts()[name]
    with until_interrupted() as stop, TrainingView(Console(stderr=True)) as view:
        record = prepare_cohort(
            cohort,
            download,
            output,
            begin=lambda total: view.begin("preparing", total, "slides"),
            progress=view.advance,
            stop=stop,
        )
    for title, lines in (
        ("Missing", record.missing),
        ("Left out", record.left_out),
        ("Warning", record.warnings),
    ):
        for line in lines[:_SHOWN]:
            click.echo(f"{title}: {line}", err=True)
        if len(lines) > _SHOWN:
            click.echo(
                f"{title}: {len(lines) - _SHOWN} more; all stand in {output / 'cohort.json'}", err=True
            )
    counts = ", ".join(f"{count} {split}" for split, count in record.slides.items())
    click.echo(f"{cohort.title}: {counts} slides, {record.outlines} with outlines, in {output}")
    click.echo(f"Terms: {cohort.terms}. Where it is had: {cohort.where}")
    inside = " --region-class Tumor" if record.outlines else ""
    click.echo(f"Next: herohe-bridge cohort check {output}")
    training = f"{output / 'slides' / 'train'} --labels {output / LABELS}{inside}"
    click.echo(f"      herohe-bridge train {training} --output RUN")
    ctx.exit(int(bool(record.missing or record.warnings)))


@command.command("check")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_context
def check(ctx: click.Context, folder: Path) -> None:
    """Say what FOLDER, as prepare made it, holds, beside what is published of the cohort.

    Exit code 1 where anything does not fit.
    """
    from bridge.cohorts.check import check_cohort
    from bridge.cohorts.known import known_cohorts
    from bridge.cohorts.prepare import read_record
    from herohe_model.errors import OptionError

    record = read_record(folder)
    if record is None:
        raise OptionError(f"{folder} is no prepared cohort", "Run herohe-bridge cohort prepare first")
    found = check_cohort(known_cohorts()[record.cohort], folder, record)
    for line in found.counts:
        click.echo(line)
    for problem in found.problems:
        click.echo(f"PROBLEM  {problem}")
    click.echo(f"{len(found.problems)} problems.")
    ctx.exit(int(bool(found.problems)))
