"""``herohe-bridge doctor``: what was found, and what to do about what was not."""

from __future__ import annotations

import click

_MARKS = {"ok": "ok     ", "problem": "PROBLEM", "note": "note   "}


@click.command("doctor")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say what is installed, and what to do about what is not.

    Exit code 1 if something that scoring a QuPath project needs is missing.
    """
    from bridge.doctor import QUPATH, examine

    problems = []
    for finding in examine():
        click.echo(f"{_MARKS[finding.state]}  {finding.what}: {finding.found}")
        if finding.remedy:
            click.echo(f"         -> {finding.remedy}")
        if finding.state == "problem":
            problems.append(finding)
    click.echo("")
    if not problems:
        click.echo("Nothing is missing.")
    else:
        click.echo(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}, marked above.")
        if all(finding.what.startswith(QUPATH) for finding in problems):
            click.echo("Without QuPath, a folder of slides with GeoJSON can be scored.")
    ctx.exit(1 if problems else 0)
