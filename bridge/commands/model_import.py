"""``herohe-bridge model import``: a bag model that another tool trained becomes a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click


@click.command("import")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option("--encoder", help="What made its features; needed where no manifest says it.")
@click.option("--patch-px", type=click.IntRange(16, 4096), help="Side of a patch, px.  [default: encoder's]")
@click.option("--mpp", type=click.FloatRange(0.01, 100), help="µm per pixel.  [default: the encoder's]")
@click.option(
    "--positive-class",
    type=click.IntRange(0, 1),
    default=1,
    show_default=True,
    help="Which of its two classes is HER2-positive.",
)
@click.option("--name", help="Stands in every result.  [default: made of the file's]")
@click.option("--source", help="Where it comes from, for the card.  [default: the files' names]")
@click.option("--licence", default="", help="Its licence, for the card.")
@click.option(
    "--forms",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that names the keys of another tool's weights; see docs/encoders.md.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def import_(
    files: tuple[str, ...],
    output: Path,
    encoder: str | None,
    patch_px: int | None,
    mpp: float | None,
    positive_class: int,
    name: str | None,
    source: str | None,
    licence: str,
    forms: Path | None,
    force: bool,
) -> None:
    """Import FILES, checkpoints of CLAM's single-branch model, into one model file.

    Several become an ensemble. A manifest.json, the folder of one, or hf:OWNER/NAME of one names the
    checkpoints and their encoder by itself. Nothing in a checkpoint is executed. The model answers whether a
    slide is HER2-positive and nothing else, and its card says that it was not trained here. Read its licence
    before.
    """
    from dataclasses import replace

    from herohe_model.bag.foreign import ForeignModel, import_model, read_foreign_manifest, read_forms
    from herohe_model.errors import OptionError
    from herohe_model.model.checkpoint import save_model
    from herohe_model.printable import printable_name

    if output.exists() and not force:
        raise OptionError(f"{output} exists already", "Name another file, or replace it with --force")
    known = read_forms(forms)
    manifest, find = _manifest(files[0]) if len(files) == 1 else (None, None)
    if manifest is not None:
        model = read_foreign_manifest(manifest, known.manifest, encoder, find)
        said = source or files[0]
    elif encoder is None:
        raise click.UsageError("--encoder says what made the features of checkpoints without a manifest.")
    else:
        model = ForeignModel(tuple(Path(file) for file in files), encoder, "")
        said = source or ", ".join(Path(file).name for file in files)
    model = replace(
        model,
        source=printable_name(said),
        licence=printable_name(licence or model.licence),
        positive_class=positive_class,
        patch_px=patch_px,
        mpp=mpp,
    )
    named = printable_name(name or f"imported {Path(files[0]).stem}")[:100]
    card, state = import_model(model, known, name=named)
    sha256 = save_model(output, card, state)
    count = f"{card.members} checkpoints" if card.members > 1 else "one checkpoint"
    click.echo(f"Wrote {output} of {count} (SHA-256 {sha256}).")
    click.echo(card.note)


def _manifest(given: str) -> tuple[Path | None, Callable[[str], Path | None] | None]:
    """Return the manifest that an argument names, and what finds its files where they are on the hub."""
    from herohe_model.errors import ModelFileError
    from herohe_model.model.hub import HubSource, hub_file

    if given.startswith("hf:"):
        repository = given.removeprefix("hf:")
        source = HubSource(repository, f"The files of {repository}", "copy its folder, and name that")
        path = hub_file(source, "manifest.json")
        if path is None:
            raise ModelFileError(f"{repository} has no manifest.json", "Get its files, and name them")
        return path, lambda name: hub_file(source, name)
    path = Path(given) / "manifest.json" if Path(given).is_dir() else Path(given)
    return path if path.suffix == ".json" else None, None
