"""``herohe-bridge encoder``: the patch encoders that are known, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bridge.commands.option_groups import Decorator
from herohe_model.encoders.table import TABLE_VARIABLE

if TYPE_CHECKING:
    from herohe_model.encoders.table import Encoder

TABLE: Final[Decorator] = click.option(
    "--encoder-table",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=TABLE_VARIABLE,
    help=f"A file with encoders of your own; see docs/encoders.md.  [env: {TABLE_VARIABLE}]",
)
WEIGHTS: Final[Decorator] = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="The encoder's weights, safetensors or a state dict.  [default: the Hugging Face hub's cache]",
)
_GATES: Final = {
    "open": "open to all",
    "gated": "on request, with an account on the hub",
    "disputed": "open by some accounts, on request by others",
}
_COMMERCIAL: Final = {"yes": "allowed", "no": "not allowed", "ask": "ask its owners"}


@click.group("encoder")
def command() -> None:
    """Show, fetch and verify the networks that turn patches into features.

    Their weights have licences of their own: read them before you use one.
    """


@command.command("list")
@TABLE
def list_encoders(table: Path | None) -> None:
    """List the encoders that are known, and whether their weights are here."""
    from herohe_model.encoders.table import known_encoders
    from herohe_model.encoders.weights import find_weights
    from herohe_model.printable import printable_name

    rows = [("encoder", "numbers", "patch", "a company", "weights", "licence")]
    for encoder in known_encoders(table).values():
        away = "on request" if encoder.gate != "open" else "to be fetched" if encoder.source else "a file"
        rows.append(
            (
                encoder.name,
                str(encoder.dimension),
                f"{encoder.input_px} px at {encoder.mpp:g} µm",
                _COMMERCIAL[encoder.commercial],
                "here" if find_weights(encoder) else f"{away}{_size(encoder)}",
                printable_name(encoder.licence) or "not said",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
    click.echo("Licences may have changed: the page of the source says what holds. More: encoder show NAME")


@command.command("show")
@click.argument("name")
@TABLE
def show(name: str, table: Path | None) -> None:
    """Show what is known of the encoder NAME, and where each fact comes from."""
    from herohe_model.encoders.table import find_encoder
    from herohe_model.encoders.weights import find_weights, weights_sha256
    from herohe_model.printable import printable

    encoder = find_encoder(name, table)
    found = find_weights(encoder)
    arguments = ", ".join(f"{key}={value}" for key, value in encoder.arguments.items())
    rows = {
        "name": encoder.name,
        "other names": ", ".join(encoder.aliases),
        "source": f"https://huggingface.co/{encoder.source}" if encoder.source else "",
        "licence": encoder.licence,
        "a company": _COMMERCIAL[encoder.commercial],
        "weights": f"{_GATES[encoder.gate]}{_size(encoder)}",
        "here": f"{found.path} (SHA-256 {weights_sha256(found)})" if found else "no",
        "input": f"{encoder.input_px} px at {encoder.mpp:g} µm/px",
        "normalisation": f"mean {encoder.mean}, std {encoder.std}" if encoder.mean else "its config.json's",
        "built by timm": f"{encoder.architecture or 'its config.json'} ({arguments})",
        "feature": f"{encoder.dimension} numbers ({encoder.pool})",
        "trained on": encoder.trained_on,
        "note": encoder.note,
        **{f"from where: {fact}": said for fact, said in encoder.facts_from.items()},
    }
    width = max(map(len, rows))
    for key, value in rows.items():
        if value:
            click.echo(f"{key:<{width}}  {printable(value)}")


@command.command("fetch")
@click.argument("name")
@TABLE
def fetch(name: str, table: Path | None) -> None:
    """Fetch the weights of the encoder NAME from the Hugging Face hub into its cache.

    The hub's own settings hold, such as HF_TOKEN, HF_HOME and HTTPS_PROXY.
    """
    from herohe_model.encoders.fetch import fetch_weights
    from herohe_model.encoders.table import find_encoder
    from herohe_model.encoders.weights import weights_sha256

    encoder = find_encoder(name, table)
    click.echo(f"{encoder.name} comes under {encoder.licence or 'terms that are not known'}{_size(encoder)}.")
    found = fetch_weights(encoder)
    click.echo(f"Weights: {found.path} (SHA-256 {weights_sha256(found)})")
    click.echo(f"Check them: herohe-bridge encoder verify {encoder.name}")


@command.command("verify")
@click.argument("name")
@TABLE
@WEIGHTS
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A folder of features, or its encoder.json: check that it was this encoder.",
)
def verify(name: str, table: Path | None, weights: Path | None, against: Path | None) -> None:
    """Check that the encoder NAME computes on this machine what it computed before.

    Its features of drawn pictures are compared with those in a folder of features, and with those that this
    machine remembers of the same weights: another version of timm may compute something else from them.
    """
    from herohe_model.encoders.golden import check_record, make_record, read_record, record_path
    from herohe_model.encoders.network import load_network
    from herohe_model.encoders.table import find_encoder
    from herohe_model.encoders.weights import load_weights
    from herohe_model.engines.remembered_encoders import recall_record, remember_record, remember_weights

    loaded = load_weights(find_encoder(name, table), weights)
    network = load_network(loaded.encoder, loaded.state, str(loaded.path))
    record = make_record(loaded.encoder, network, loaded.sha256)
    compared = []
    if against is not None:
        check_record(record, read_record(record_path(against)), str(against))
        compared.append(str(against))
    known = recall_record(record)
    if known is not None:
        check_record(record, known, "What this machine remembers")
        compared.append("what this machine remembers")
    else:
        remember_record(record)
    remember_weights(loaded)
    said = f"as in {' and '.join(compared)}" if compared else "remembered from now on"
    click.echo(f"OK: {loaded.encoder.name} ({loaded.path}, SHA-256 {loaded.sha256})")
    click.echo(f"    {record.dimension} numbers for each of {len(record.golden)} drawn pictures, {said}.")


def _size(encoder: Encoder) -> str:
    return f", {encoder.megabytes} MB" if encoder.megabytes else ""
