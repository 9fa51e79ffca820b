"""``herohe-bridge keys``: CURVE keys for servers that other machines can reach."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("keys")
def command() -> None:
    """Make and exchange keys for servers on other machines.

    Make a pair on each side: 'herohe-bridge keys new server' and 'herohe-bridge keys new client'. Give the
    two .key files, never the .key_secret files, to the other side.

    On the server, start 'herohe-bridge serve --model M --bind tcp://0.0.0.0:5555 --key FILE --allow FOLDER'
    with its own .key_secret file and a folder of the clients' .key files.

    On the client, run 'herohe-bridge keys trust tcp://HOST:5555 FILE' with the server's .key file once. Then
    'herohe-bridge score PROJECT --server tcp://HOST:5555' finds the keys by itself.
    """


@command.command("new")
@click.argument("name", default="client")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Where to put them.  [default: your keys' folder]"
)
def new(name: str, directory: Path | None) -> None:
    """Make a pair of keys called NAME (client, unless you say otherwise)."""
    from bridge.transport.curve import KeyPair, keys_directory, write_pair

    public, secret = write_pair(directory or keys_directory(), name, KeyPair.new())
    click.echo(f"To give away:   {public}")
    click.echo(f"To keep secret: {secret}")


@command.command("trust")
@click.argument("endpoint")
@click.argument("key", type=click.Path(path_type=Path))
def trust(endpoint: str, key: Path) -> None:
    """Remember the public KEY file of the server at ENDPOINT, to use it with --server."""
    from bridge.transport.curve import read_public
    from bridge.transport.curve import trust as remember

    click.echo(f"Remembered in {remember(endpoint, read_public(key))}")


@command.command("show")
def show() -> None:
    """Show where your keys are, and which servers are trusted."""
    from bridge.transport.curve import keys_directory, read_public

    directory = keys_directory()
    paths = sorted(directory.glob("*.key")) + sorted((directory / "servers").glob("*.key"))
    for path in paths:
        click.echo(f"{read_public(path)}  {path}")
    if not paths:
        click.echo(f"There are no keys in {directory}. Make some with: herohe-bridge keys new")
