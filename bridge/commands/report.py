"""``herohe-bridge report``: one page to look through the results of a run."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--title", help="Heading of the page.  [default: the name of what was scored]")
@click.option("--truth", type=click.Path(path_type=Path), metavar="FILE", help="Label file to compare with.")
@click.option("--split", help="Which of the label file's splits the run's slides are of.")
@click.option(
    "--slides-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Look for the slides here, where they were moved.",
)
@click.option("--to", type=click.Path(path_type=Path), help="The page.  [default: RUN/report.html]")
@click.option("--threads", type=click.IntRange(1, 64), help="Slides read at a time.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def command(
    run: Path,
    title: str | None,
    truth: Path | None,
    split: str | None,
    slides_root: Path | None,
    to: Path | None,
    threads: int | None,
    show: bool,
) -> None:
    """Write a page that shows every slide of RUN, the output folder of a run of score.

    The page needs no network and no server. Pictures are read from the slides; a slide that is not where the
    run found it is shown without. Research use only.
    """
    import webbrowser

    from rich.console import Console
    from rich.progress import Progress

    from bridge.report.cohort import Truth
    from bridge.report.page import write_report
    from bridge.results.run import find_run

    if split is not None and truth is None:
        raise click.UsageError("--split says which part of a --truth file to take; name that too.")
    found = find_run(run, slides_root=slides_root)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading slides", total=None)
        written = write_report(
            found,
            to or found.folder / "report.html",
            title=title or "",
            truth=Truth(truth, split) if truth is not None else None,
            threads=threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for slide, reason in written.without_pictures:
        click.echo(f"Warning: pictures of {slide} are missing. {reason}", err=True)
    click.echo(f"Report of {written.slides} slides: {written.path}")
    if written.beside is not None:
        click.echo(f"Keep this folder beside it: {written.beside}")
    if show:
        webbrowser.open(written.path.resolve().as_uri())


def report_line(run: Path, *more: str) -> str:
    """Return the command that makes and opens the report of a run, as the user's shell takes it."""
    words = ["herohe-bridge", "report", str(run), *more, "--open"]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
