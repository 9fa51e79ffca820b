"""QuPath as it is installed: found on the disk, and asked by running it.

Where QuPath keeps its extensions and scripts is a preference that each version of it stores in its own way on
each platform, so it is QuPath that is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from herohe_model.errors import QuPathNotFoundError

_PATIENCE_S: Final = 300.0
_INSTALL: Final = "Install QuPath 0.7 from qupath.github.io, or name the folder of one with --qupath"


class Answer(msgspec.Struct, frozen=True):
    """What QuPath said.

    Attributes
    ----------
    user_directory_before
        As it was when it was asked; None when it was never set.
    user_directory
        As it is now.
    """

    version: str
    user_directory_before: str | None = None
    user_directory: str | None = None


@dataclass(frozen=True)
class QuPathApp:
    """A QuPath on this machine.

    Attributes
    ----------
    directory
        Where it is installed; on macOS, ``QuPath.app``.
    launcher
        The program to run.
    """

    directory: Path
    launcher: Path

    def ask(
        self,
        *,
        set_user_directory: bool = False,
        unset_user_directory: str | None = None,
        sources: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
        classpath: Sequence[Path] = (),
        jar: Path | None = None,
    ) -> Answer:
        """Run it without a window, and return what it says; takes some seconds.

        Parameters
        ----------
        set_user_directory
            Make and set the directory that QuPath itself proposes, if none is set.
        unset_user_directory
            Forget the user directory, if it is this one.
        sources
            Groovy classes by file name, to be compiled against `classpath` into `jar`.
        resources
            Text files that the jar holds beside the classes, by path.

        Raises
        ------
        QuPathNotFoundError
            If it does not run.
        """
        with tempfile.TemporaryDirectory(prefix="herohe-") as folder:
            answer, request, script = (Path(folder, n) for n in ("answer.json", "request.json", "ask.groovy"))
            script.write_bytes(files("qupath_scripts").joinpath("HeroheProbe.groovy").read_bytes())
            request.write_bytes(
                msgspec.json.encode(
                    {
                        "answer": str(answer),
                        "set_user_directory": set_user_directory,
                        "unset_user_directory": unset_user_directory,
                        "sources": dict(sources or {}),
                        "resources": dict(resources or {}),
                        "classpath": [str(path) for path in classpath],
                        "jar": str(jar) if jar is not None else None,
                    }
                )
            )
            command = [str(self.launcher), "script", str(script), "--args", str(request)]
            try:
                ran = subprocess.run(
                    command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE_S, check=False
                )
                return msgspec.json.decode(answer.read_bytes(), type=Answer)
            except FileNotFoundError as error:
                words = _last_error(ran.stdout + ran.stderr) if answer == Path(error.filename) else str(error)
                raise self._error(words) from error
            except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
                raise self._error(str(error)) from error

    def _error(self, why: str) -> QuPathNotFoundError:
        return QuPathNotFoundError(
            f"The QuPath in {self.directory} cannot be asked ({why})",
            "Start it once by hand; or name QuPath's user directory with --user-directory",
        )


def find_qupaths(given: Sequence[Path] = ()) -> list[QuPathApp]:
    """Return the QuPaths in these folders; without any, all those where paquo would look.

    Raises
    ------
    QuPathNotFoundError
        If a given folder holds none, or none is found anywhere.
    """
    found: dict[Path, QuPathApp] = {}
    for directory in given or _likely_directories():
        launcher = _launcher(directory)
        if launcher is not None:
            found.setdefault(launcher.resolve(), QuPathApp(directory.resolve(), launcher))
        elif given:
            raise QuPathNotFoundError(f"There is no QuPath in {directory}", _INSTALL)
    if not found:
        raise QuPathNotFoundError("No QuPath was found on this machine", _INSTALL)
    return list(found.values())


def _likely_directories() -> Iterator[Path]:
    import re

    from paquo import settings

    if settings.qupath_dir:
        yield Path(settings.qupath_dir).expanduser()
        return
    pattern = re.compile(str(settings.qupath_search_dir_regex))
    for place in settings.qupath_search_dirs:
        try:
            inside = sorted(Path(place).expanduser().iterdir())
        except OSError:
            continue
        yield from (path for path in inside if pattern.match(path.name))
    prefix = os.environ.get("CONDA_PREFIX")
    if prefix and settings.qupath_search_conda:
        yield from (
            Path(prefix, *parts)
            for parts in (("opt", "QuPath"), ("Library", "QuPath"), ("bin", "QuPath.app"))
        )


def _launcher(directory: Path) -> Path | None:
    """Return the program of a QuPath in a folder, None when there is none."""
    if sys.platform == "darwin":
        candidates = sorted(directory.glob("Contents/MacOS/QuPath*"))
    elif os.name == "nt":
        # The one with a console waits until the script has ended.
        consoles = sorted(directory.glob("QuPath*(console).exe"))
        candidates = consoles or sorted(directory.glob("QuPath*.exe"))
    else:
        candidates = [directory / "bin" / "QuPath"]
    return next((path for path in candidates if path.is_file()), None)


def _last_error(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Exception" in line]
    return (errors or lines or ["it said nothing"])[-1][:300]
