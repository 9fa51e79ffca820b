"""``herohe-bridge model publish``, ``get`` and ``list``: models that are given away, and taken."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.commands import model_option


@click.command("publish")
@click.argument("file", metavar="MODEL", type=model_option.model)
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to make.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    help="Folder of an evaluation of this model.  [default: that of its training, beside MODEL]",
)
@click.option("--licence", help="Such as cc-by-nc-4.0.  [default: the first that is permitted]")
@click.option(
    "--terms",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the terms of cohorts and networks of your own; see docs/models.md.",
)
@click.option("--permission", default="", help="Who permitted what the terms leave open, in words.")
@click.option("--contact", default="", help="Whom users of the model may write to.")
def publish(
    file: Path,
    to: Path,
    evaluation: Path | None,
    licence: str | None,
    terms: Path | None,
    permission: str,
    contact: str,
) -> None:
    """Write MODEL and all that belongs to it into a folder that can be given away.

    Beside the file: a page in the Hugging Face hub's form with the figures of its evaluation, the licence
    that its cohort and encoder permit, the evaluation page without any case, golden logits, and a manifest
    with the SHA-256 of each. What the terms forbid is refused. Nothing is uploaded.
    """
    from herohe_model.printable import printable_name
    from herohe_model.publishing.publish import Publication, publish_model

    said = Publication(licence, terms, printable_name(permission), printable_name(contact))
    manifest = publish_model(file, to, said, evaluation=evaluation)
    click.echo(f"{to}: {printable_name(manifest.name)}, licence {manifest.licence}")
    for name, digest in manifest.files.items():
        click.echo(f"  {digest.sha256}  {name}")
    click.echo("Read README.md before you give it away, and tell its SHA-256 by another way, too.")


@click.command("get")
@click.argument("source")
@click.option("--name", help="Keep it under this name.  [default: made of the model's own]")
@click.option("--sha256", help="The model file's SHA-256, as you were told it.")
@click.option("--force", is_flag=True, help="Replace another model of the name.")
def get(source: str, name: str | None, sha256: str | None, force: bool) -> None:
    """Fetch the published model SOURCE, check its digests, and keep it by name.

    SOURCE is a folder (a stick will do; no network is asked), an https address of one, hf:OWNER/NAME, or a
    name of the catalogue in HEROHE_MODEL_CATALOGUE. A model without a digest is refused. Models are kept in
    the user's data folder, or where HEROHE_MODELS says.
    """
    from herohe_model.model.card import read_card
    from herohe_model.printable import printable_name
    from herohe_model.publishing.obtain import get_model

    kept = get_model(source, name=name, sha256=sha256, replace=force)
    card, digest = read_card(kept.file)
    click.echo(f"{kept.name}: {kept.file} (SHA-256 {digest})")
    licence = kept.manifest.licence if kept.manifest is not None else ""
    click.echo(f"Licence: {printable_name(licence) or 'not said'}. {printable_name(card.trained_on)}")
    click.echo(f"Check it: herohe-bridge model verify {kept.name}; use it: --model {kept.name}")
    click.echo("Research use only.")


@click.command("list")
def list_models() -> None:
    """List the models that are kept here, as --model takes their names."""
    from herohe_model.errors import HeroheError
    from herohe_model.model.card import read_card
    from herohe_model.model.library import checked_model, kept_models, models_folder
    from herohe_model.printable import printable_name

    rows: list[tuple[str, str, str, str, str]] = []
    for kept in kept_models():
        try:
            card, digest = read_card(checked_model(kept.folder))
            kind = f"bag of {card.bag.encoder}" if card.bag is not None else card.backbone
            licence = kept.manifest.licence if kept.manifest is not None else ""
            rows.append((kept.name, kind, card.knowledge, licence or "not said", digest[:12]))
        except HeroheError as error:
            rows.append((kept.name, str(error), "", "", ""))
    if not rows:
        click.echo(f"No models are in {models_folder()}. Bring one there: herohe-bridge model get SOURCE")
        return
    table = [("name", "network", "knowledge", "licence", "SHA-256"), *rows]
    widths = [max(len(row[i]) for row in table if row[2]) for i in range(5)]
    for row in table:
        cells = zip(row, widths, strict=True)
        click.echo("  ".join(f"{printable_name(cell):<{width}}" for cell, width in cells).rstrip())
