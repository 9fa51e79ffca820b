"""The extension and the scripts, and what they need, put into QuPath; and taken out again.

Into QuPath's user directory go: JeroMQ and the extension into ``extensions``, where QuPath loads them; the
scripts into ``scripts/HER2-HE``, where the *Automate* menu shows them; and a folder ``herohe-bridge`` with
the sources of the classes that both share, their settings, and the record of all this. The extension is
compiled by that very QuPath.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from bridge import __version__
from bridge.install.installed_files import (
    Record,
    State,
    install,
    read_record,
    states,
    uninstall,
)
from bridge.install.jars import find_jars
from bridge.install.qupath_app import QuPathApp
from bridge.protocol.messages import PROTOCOL
from herohe_model.errors import OptionError
from herohe_model.files import sha256_of

HOME: Final = "herohe-bridge"
"""Folder in QuPath's user directory, and in a project, that is ours."""

SCRIPTS: Final = ("herohe_score.groovy", "herohe_clear.groovy", "herohe_explain.groovy")
CLASSES: Final = (
    "HeroheData",
    "HeroheClient",
    "HeroheServer",
    "HeroheImage",
    "HeroheViewers",
    "HeroheMarks",
    "HeroheTask",
    "HeroheParameters",
    "HeroheShown",
    "HeroheScore",
    "HeroheExplain",
    "HeroheProgress",
    "HeroheColours",
    "HeroheHeatmap",
    "HerohePatches",
    "HeroheBar",
    "HeroheResultView",
    "HeroheHeatmapView",
    "HerohePanel",
    "HeroheDialog",
    "HeroheActions",
    "HeroheRunWindow",
    "HeroheReport",
    "HeroheProjectRun",
    "HeroheServerDialog",
    "HeroheScripts",
    "HeroheExtension",
)

_RECORD: Final = f"{HOME}/installed.json"
_SETTINGS: Final = f"{HOME}/settings.json"
_EXTENSION: Final = "extensions/herohe-bridge.jar"
_LOADED: Final = "extensions/"
_SERVICE: Final = {"META-INF/services/qupath.lib.gui.extensions.QuPathExtension": "HeroheExtension\n"}
_MENU: Final = "scripts/HER2-HE"
_MADE_LATER: Final = (f"{HOME}/server.log", f"{HOME}/chosen-model.txt", f"{HOME}/parameters.json")
_PROJECT_SCRIPTS: Final = "scripts"
_MADE_DIRECTORY: Final = "user directory that was set"


class Remote(msgspec.Struct, frozen=True):
    """A server on another machine: its address and public key, and the file of this user's own keys."""

    endpoint: str
    server_key: str
    client_key_file: str


class ScriptSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the scripts are told.

    Attributes
    ----------
    version, protocol
        Of the scripts.
    command
        How herohe-bridge is run on this machine.
    model
        Path of the model file, None to be asked for it.
    runtime_directory
        Where running servers are found.
    idle_timeout_s
        After how long without work a server that a script started ends.
    """

    version: str
    protocol: int
    command: tuple[str, ...]
    model: str | None
    runtime_directory: str
    idle_timeout_s: float
    remote: Remote | None = None
    format: int = 1


@dataclass(frozen=True)
class Choices:
    """What the user chose; None keeps what was chosen before."""

    model: Path | None = None
    idle_timeout_s: float | None = None
    remote: Remote | None = None
    local: bool = False


@dataclass(frozen=True)
class Installation:
    """What installing did: what the user should know, in words; and whether a running QuPath is left behind.

    QuPath loads what is in ``extensions`` when it starts; scripts and settings are read each time.
    """

    remarks: tuple[str, ...]
    needs_restart: bool


@dataclass(frozen=True)
class Installed:
    """What is in a folder: the record's version, each file's state, and the scripts' settings."""

    directory: Path
    version: str
    files: Mapping[str, State]
    settings: ScriptSettings | None


def install_into(
    user_directory: Path,
    choices: Choices,
    *,
    qupath: QuPathApp | None = None,
    jars: Iterable[Path] = (),
    menu: bool = True,
    was_unset: bool = False,
) -> Installation:
    """Install into a user directory of QuPath, or update what is there.

    Parameters
    ----------
    qupath
        Compiles the extension. Without, there is none, and QuPath compiles the classes each time that a
        script is run.
    jars
        Files to be used instead of bringing them.
    menu
        Put the scripts into the menu of all projects.
    was_unset
        The directory was made and set by us just now, which uninstalling undoes.
    """
    found = find_jars(jars)
    classes = shared_classes()
    settings = _settings(user_directory, choices)
    files = {f"extensions/{name}": path.read_bytes() for name, path in found.items()}
    files |= {f"{HOME}/{name}": text.encode() for name, text in classes.items()}
    files[_SETTINGS] = msgspec.json.format(msgspec.json.encode(settings))
    if qupath is not None:
        files[_EXTENSION] = _compiled(qupath, classes, list(found.values()))
    if menu:
        files |= {f"{_MENU}/{name}": _script(name) for name in SCRIPTS}
    user_directory.mkdir(parents=True, exist_ok=True)
    notes = {_MADE_DIRECTORY: str(user_directory)} if was_unset else {}
    before = {name: sha256_of(user_directory / name) for name in files if name.startswith(_LOADED)}
    done = install(user_directory, _RECORD, files, version=__version__, notes=notes)
    changed = any(sha256_of(user_directory / name) != known for name, known in before.items())
    return Installation(done.remarks, needs_restart=changed)


def uninstall_from(user_directory: Path) -> tuple[tuple[str, ...], str | None]:
    """Undo :func:`install_into`.

    Returns
    -------
    tuple
        What the user should know; and the user directory, if it was us who set it.
    """
    record = read_record(user_directory / _RECORD)
    directory = record.notes.get(_MADE_DIRECTORY) if record is not None else None
    remarks = uninstall(user_directory, _RECORD, made_later=_MADE_LATER).remarks
    return remarks, directory


def install_into_project(project: Path) -> tuple[str, ...]:
    """Put the scripts into one project's menu."""
    folder = _project_folder(project)
    files = {f"{_PROJECT_SCRIPTS}/{name}": _script(name) for name in SCRIPTS}
    return install(folder, _RECORD, files, version=__version__).remarks


def uninstall_from_project(project: Path) -> tuple[str, ...]:
    """Undo :func:`install_into_project`."""
    return uninstall(_project_folder(project), _RECORD).remarks


def installed_in(folder: Path) -> Installed | None:
    """Return what is installed in a user directory or a project's folder, None when nothing is."""
    record: Record | None = read_record(folder / _RECORD)
    if record is None:
        return None
    return Installed(folder, record.version, states(folder, record), _previous_settings(folder))


def shared_classes() -> dict[str, str]:
    """Return the Groovy classes that the scripts share: sources by file name."""
    scripts = resources.files("qupath_scripts")
    return {f"{name}.groovy": scripts.joinpath(f"{name}.groovy").read_text("utf-8") for name in CLASSES}


def _script(name: str) -> bytes:
    return resources.files("qupath_scripts").joinpath(name).read_bytes()


def _compiled(qupath: QuPathApp, classes: Mapping[str, str], jars: Sequence[Path]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="herohe-") as folder:
        jar = Path(folder, "herohe-bridge.jar")
        qupath.ask(sources=classes, resources=_SERVICE, classpath=jars, jar=jar)
        return jar.read_bytes()


def _settings(user_directory: Path, choices: Choices) -> ScriptSettings:
    from bridge.transport.runtime_directory import runtime_directory

    before = _previous_settings(user_directory)
    model = before.model if before else None
    if choices.model is not None:
        model = str(_checked_model(choices.model))
    remote = choices.remote or (before.remote if before and not choices.local else None)
    timeout = choices.idle_timeout_s or (before.idle_timeout_s if before else 900.0)
    return ScriptSettings(
        version=__version__,
        protocol=PROTOCOL,
        command=(sys.executable, "-m", "bridge"),
        model=model,
        runtime_directory=str(runtime_directory()),
        idle_timeout_s=timeout,
        remote=remote,
    )


def _checked_model(path: Path) -> Path:
    from herohe_model.model.card import read_card

    read_card(path)
    return path.resolve()


def _previous_settings(user_directory: Path) -> ScriptSettings | None:
    try:
        return msgspec.json.decode((user_directory / _SETTINGS).read_bytes(), type=ScriptSettings)
    except (OSError, msgspec.MsgspecError):
        return None


def _project_folder(project: Path) -> Path:
    folder = project if project.is_dir() else project.parent
    if not project.exists() or not any(folder.glob("*.qpproj")):
        raise OptionError(f"There is no QuPath project at {project}", "Name a .qpproj file or its folder")
    return folder
