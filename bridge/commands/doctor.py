"""``herohe-bridge doctor``: what was found, and what to do about what was not."""

from __future__ import annotations

import click

_MARKS = {"ok": "ok     ", "problem": "PROBLEM", "note": "note   "}


@click.command("doctor")
@click.option("--qupath", is_flag=True, help="Ask for all that QuPath projects need, too.")
@click.pass_context
def command(ctx: click.Context, qupath: bool) -> None:
    """Say what is installed, and what to do about what is not.

    Exit code 1 if something is missing that scoring a folder of slides needs or, with --qupath, a QuPath
    project.
    """
    from bridge.doctor import QUPATH, examine

    problems = 0
    without_qupath = False
    for finding in examine(qupath=qupath):
        click.echo(f"{_MARKS[finding.state]}  {finding.what}: {finding.found}")
        if finding.remedy:
            click.echo(f"         -> {finding.remedy}")
        problems += finding.state == "problem"
        without_qupath |= finding.what == QUPATH and finding.state == "note"
    click.echo("")
    if problems:
        click.echo(f"{problems} problem{'s' if problems > 1 else ''}, marked above.")
    elif without_qupath:
        click.echo("Nothing is missing to score folders of slides. For QuPath projects, see the note above.")
    else:
        what = "folders of slides and QuPath projects"
        click.echo(f"Nothing is missing to score {what}.")
    ctx.exit(1 if problems else 0)
