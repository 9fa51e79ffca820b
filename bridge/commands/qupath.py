"""``herohe-bridge qupath``: the extension and the scripts inside QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.commands import model_option

if TYPE_CHECKING:
    from bridge.install.qupath_app import QuPathApp
    from bridge.install.scripts import Installed, Remote

_QUPATH = click.option(
    "--qupath",
    "qupaths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of a QuPath; may be repeated.  [default: all that are found]",
)
_USER_DIRECTORY = click.option(
    "--user-directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="QuPath's user directory, instead of asking QuPath for it.",
)
_PROJECT = click.option(
    "--project",
    type=click.Path(path_type=Path),
    help="Put the scripts into this project's menu only, not into that of all projects.",
)


@click.group("qupath")
def command() -> None:
    """Put the extension and the scripts into QuPath, or take them out."""


@command.command("install")
@_QUPATH
@_USER_DIRECTORY
@_PROJECT
@click.option(
    "--model", type=model_option.model, help="Model that the scripts score with: a file, or a name."
)
@click.option("--jar", "jars", multiple=True, type=click.Path(path_type=Path), help="A jar brought by hand.")
@click.option("--server", metavar="tcp://HOST:PORT", help="Use a server on another machine.")
@click.option("--server-key", type=click.Path(path_type=Path), help="The server's .key file.")
@click.option(
    "--client-key", type=click.Path(path_type=Path), help="Your .key_secret file ('herohe-bridge keys new')."
)
@click.option("--local", is_flag=True, help="Forget the server on another machine.")
@click.option(
    "--idle-timeout",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="When a server that a script started ends by itself.  [default: 900]",
)
def install(
    qupaths: tuple[Path, ...],
    user_directory: Path | None,
    project: Path | None,
    model: Path | None,
    jars: tuple[Path, ...],
    server: str | None,
    server_key: Path | None,
    client_key: Path | None,
    local: bool,
    idle_timeout: float | None,
) -> None:
    """Install or update the extension and the scripts; what was chosen before is kept."""
    from bridge.install.scripts import Choices, install_into, install_into_project
    from bridge.qupath.processes import runs_qupath

    remote = _remote(server, server_key, client_key, local=local)
    choices = Choices(model=model, idle_timeout_s=idle_timeout, remote=remote, local=local)
    if project is not None:
        _say(install_into_project(project))
        click.echo(f"The scripts are in the menu Automate > Project scripts of {project}.")
    needs_restart = extends = False
    for qupath, directory, was_unset in _targets(qupaths, user_directory, make=True):
        click.echo(f"Installing into {directory} ...")
        done = install_into(
            directory, choices, qupath=qupath, jars=jars, menu=project is None, was_unset=was_unset
        )
        _say(done.remarks)
        needs_restart |= done.needs_restart
        extends |= qupath is not None
    where = "Extensions > HER2-HE" if extends else "Automate > User scripts > HER2-HE"
    if needs_restart and runs_qupath():
        click.echo(f"Done. QuPath runs: close it and start it again, and look into {where}.")
    elif needs_restart:
        click.echo(f"Done. Start QuPath, and look into {where}.")
    else:
        click.echo(f"Done. QuPath need not be started again. It is in {where}.")
    click.echo("Research use only, not for diagnosis.")


@command.command("uninstall")
@_QUPATH
@_USER_DIRECTORY
@_PROJECT
def uninstall(qupaths: tuple[Path, ...], user_directory: Path | None, project: Path | None) -> None:
    """Take out exactly what install put in."""
    from bridge.install.scripts import installed_in, uninstall_from, uninstall_from_project

    if project is not None:
        _say(uninstall_from_project(project))
        click.echo(f"Removed from {project}.")
        return
    for qupath, directory, _ in _targets(qupaths, user_directory, make=False):
        if installed_in(directory) is None:
            click.echo(f"Nothing is installed in {directory}.")
            continue
        remarks, was_set = uninstall_from(directory)
        _say(remarks)
        click.echo(f"Removed from {directory}.")
        if was_set is None or qupath is None:
            continue
        inside = sorted(directory.rglob("*"), reverse=True)
        if any(path.is_symlink() or not path.is_dir() for path in inside):
            click.echo(f"  {directory} stays QuPath's user directory, because there are other files in it.")
            continue
        qupath.ask(unset_user_directory=was_set)
        # QuPath itself makes folders in it.
        for folder in (*inside, directory):
            folder.rmdir()


@command.command("status")
@_QUPATH
@_USER_DIRECTORY
@_PROJECT
def status(qupaths: tuple[Path, ...], user_directory: Path | None, project: Path | None) -> None:
    """Say what is installed where."""
    from bridge.install.scripts import installed_in

    if project is not None:
        folder = project if project.is_dir() else project.parent
        _show(folder, installed_in(folder))
        return
    for _, directory, _ in _targets(qupaths, user_directory, make=False):
        _show(directory, installed_in(directory))


def _targets(
    qupaths: tuple[Path, ...], user_directory: Path | None, *, make: bool
) -> list[tuple[QuPathApp | None, Path, bool]]:
    """Return QuPaths with their user directories, and whether that was set just now."""
    from bridge.install.qupath_app import find_qupaths
    from herohe_model.errors import OptionError

    if user_directory is not None:
        if len(qupaths) > 1:
            raise OptionError("One --user-directory cannot be that of several --qupath", "Name one of each")
        apps: list[QuPathApp | None] = [*find_qupaths(qupaths)] if qupaths else [None]
        return [(apps[0], user_directory.absolute(), False)]
    targets: list[tuple[QuPathApp | None, Path, bool]] = []
    for app in find_qupaths(qupaths):
        answer = app.ask(set_user_directory=make)
        if answer.user_directory is None:
            click.echo(f"QuPath {answer.version} in {app.directory}: it has no user directory yet.")
            continue
        click.echo(f"QuPath {answer.version} in {app.directory}: user directory {answer.user_directory}")
        targets.append((app, Path(answer.user_directory), answer.user_directory_before is None))
    return targets


def _remote(
    server: str | None, server_key: Path | None, client_key: Path | None, *, local: bool
) -> Remote | None:
    from bridge.install.scripts import Remote
    from bridge.transport.curve import (
        CLIENT_KEY,
        keys_directory,
        read_pair,
        read_public,
        trusted_key,
    )
    from bridge.transport.endpoints import check_endpoint
    from herohe_model.errors import OptionError

    if server is None:
        if server_key is not None or client_key is not None:
            raise OptionError("A key was given without a server", "Name the server with --server")
        return None
    if local:
        raise OptionError("--server and --local contradict each other", "Give one of them")
    check_endpoint(server)
    public = read_public(server_key) if server_key is not None else trusted_key(server)
    if public is None:
        raise OptionError(f"The key of {server} is not known", "Name its .key file with --server-key")
    secret = client_key or keys_directory() / f"{CLIENT_KEY}.key_secret"
    read_pair(secret)
    return Remote(endpoint=server, server_key=public, client_key_file=str(secret.resolve()))


def _show(directory: Path, found: Installed | None) -> None:
    if found is None:
        click.echo(f"{directory}: nothing is installed.")
        return
    wrong = {name: state for name, state in found.files.items() if state != "there"}
    click.echo(f"{directory}: herohe-bridge {found.version}, {len(found.files)} files.")
    for name, state in wrong.items():
        click.echo(f"  {name}: {state}")
    settings = found.settings
    if settings is None:
        return
    if settings.remote is not None:
        click.echo(
            f"  server: {settings.remote.endpoint}, with the keys in {settings.remote.client_key_file}"
        )
    else:
        click.echo(f"  model: {settings.model or 'asked for at the first run'}")
        click.echo(f"  started by: {' '.join(settings.command)}")


def _say(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        click.echo(f"  {remark}")
