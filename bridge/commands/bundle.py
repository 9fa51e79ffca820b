"""``herohe-bridge bundle``: everything for an installation without a network, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands import model_option

if TYPE_CHECKING:
    from bridge.install.bundle import System


@click.command("bundle")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to make.")
@click.option(
    "--model", "models", multiple=True, type=model_option.model, help="A model to carry; may be repeated."
)
@click.option(
    "--encoder", "encoders", multiple=True, help="An encoder whose weights to carry; may be repeated."
)
@click.option(
    "--system",
    type=click.Choice(["linux", "windows", "macos"]),
    help="The other machine's; uv chooses the wheels then.  [default: this one's]",
)
@click.option("--python", metavar="VERSION", help="The other machine's, such as 3.12.  [default: this one's]")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True),
    help="The project's folder, or a wheel of it.  [default: where this was installed from]",
)
@click.option("--without-qupath", is_flag=True, help="Leave out the jars that QuPath needs.")
def command(
    to: Path,
    models: tuple[Path, ...],
    encoders: tuple[str, ...],
    system: System | None,
    python: str | None,
    source: Path | None,
    without_qupath: bool,
) -> None:
    """Gather all that an installation without a network needs: wheels, jars, models, encoders' weights.

    INSTALL.md in the folder says what to type on the other machine, which needs Python and, for QuPath
    projects, QuPath. Wheels are brought by pip, whose settings hold; with neither --system nor --python,
    in the versions that are installed here.
    """
    from bridge.console.log import log_shown
    from bridge.install.bundle import TEXT, BundleContents, make_bundle

    contents = BundleContents(source, system, python, models, encoders, not without_qupath)
    with log_shown(lambda text: click.echo(text, err=True)):
        remarks = make_bundle(to, contents)
    files = [path for path in to.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    click.echo(f"{to}: {len(files)} files, {size:.0f} MiB. Read {to / TEXT}.")
    for remark in remarks:
        click.echo(f"{remark}.")
