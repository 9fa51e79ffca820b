"""``herohe-bridge doctor``: what was found, and what to do about what was not."""

from __future__ import annotations

import click

_MARKS = {"ok": "ok     ", "missing": "MISSING", "note": "note   "}


@click.command("doctor")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say what is installed, and what to do about what is not.

    Exit code 1 if something that scoring a QuPath project needs is missing.
    """
    from bridge.doctor import examine

    missing = 0
    for finding in examine():
        click.echo(f"{_MARKS[finding.state]}  {finding.what}: {finding.found}")
        if finding.remedy:
            click.echo(f"         -> {finding.remedy}")
        missing += finding.state == "missing"
    if missing:
        click.echo(f"\n{missing} missing. A folder of slides with GeoJSON can be scored without QuPath.")
    else:
        click.echo("\nEverything is there.")
    ctx.exit(1 if missing else 0)
