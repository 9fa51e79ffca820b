"""``herohe-bridge clear``: take out of a project what ``score`` wrote into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bridge.writing.plan import WrittenObjects


@click.command("clear")
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--results", is_flag=True, help="Remove the run's result files and its manifest, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; change no byte.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the run's results.  [default: PROJECT/herohe-bridge]",
)
@click.pass_context
def command(ctx: click.Context, project: Path, results: bool, dry_run: bool, output: Path | None) -> None:
    """Remove from PROJECT all that score and regions propose wrote, and restore the classes of annotations.

    PROJECT is a QuPath project, which must not be open in QuPath, or a folder of slides. Nothing of yours is
    touched; a copy of every file that is changed is kept in PROJECT/herohe-bridge/backups. Result files such
    as results.csv stay where they are, unless --results is given.
    """
    from bridge.projects.open import open_collection
    from bridge.scoring.slide import as_herohe
    from bridge.writing.plan import WrittenObjects

    collection = open_collection(project, output=output)
    for warning in collection.warnings:
        click.echo(f"Warning: {warning}", err=True)
    cleared = failed = 0
    for entry in collection.entries():
        try:
            found = collection.written_objects(entry)
            if not dry_run and collection.clear(entry):
                found = found or WrittenObjects(metadata=True)
        except Exception as error:
            failed += 1
            click.echo(f"{entry.name}: {as_herohe(error, entry.name)}", err=True)
            continue
        if found:
            cleared += 1
            click.echo(f"{entry.name}: {_describe(found)}")
    if not dry_run:
        collection.close()
    done = "would be cleared. Nothing was changed" if dry_run else "cleared"
    click.echo(f"{cleared} of {len(collection.entries())} images {done}.")
    _clear_results(output or collection.root / "herohe-bridge", results, dry_run)
    if failed:
        click.echo(f"{failed} could not be looked at; see above.", err=True)
        ctx.exit(1)


def _clear_results(folder: Path, wanted: bool, dry_run: bool) -> None:
    """Remove the files of the run, or say that they stay."""
    from bridge.results.removal import remove_results, result_files

    found = remove_results(folder) if wanted and not dry_run else result_files(folder)
    if found:
        names = ", ".join(path.name for path in found)
        done = (
            ("would be removed" if dry_run else "were removed") if wanted else "stay; --results removes them"
        )
        click.echo(f"The result files in {folder} ({names}) {done}.")


def _describe(found: WrittenObjects) -> str:
    """Say how much of ours was found."""
    parts = [
        (found.tiles, "tile", "tiles"),
        (found.annotations, "annotation with values", "annotations with values"),
        (found.whole_image, "annotation over the whole image", "annotations over the whole image"),
        (found.proposals, "proposed region", "proposed regions"),
    ]
    texts = [f"{count} {one if count == 1 else many}" for count, one, many in parts if count]
    return ", ".join([*texts, *(["metadata"] if found.metadata else [])])
