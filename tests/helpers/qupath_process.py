"""A real QuPath with the scripts installed, kept apart from its user's: own preferences, home and servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bridge.install.qupath_app import QuPathApp, find_qupaths


@dataclass(frozen=True)
class InsideQuPath:
    """Runs QuPath, and herohe-bridge, as its user would from a terminal."""

    app: QuPathApp
    home: Path
    model: Path
    environment: dict[str, str]

    @property
    def user_directory(self) -> Path:
        """The user directory that QuPath proposed, and that installing made."""
        (found,) = (self.home / "QuPath").iterdir()
        return found

    @property
    def working_directory(self) -> Path:
        """Where everything is run; nobody has a reason to write there."""
        return self.home / "working"

    def script(
        self, name: str, project: Path, *arguments: str, image: str = "", save: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run an installed script over a project, or over one image of it."""
        return self.qupath(self._installed(name), project, *arguments, image=image, save=save)

    def qupath(
        self, script: Path, project: Path, *arguments: str, image: str = "", save: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run any script over a project, or over one image of it."""
        return self._run(self._command(script, project, arguments, image=image, save=save))

    @contextmanager
    def begun(self, name: str, project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Begin to run an installed script over a project."""
        process = subprocess.Popen(
            self._command(self._installed(name), project, arguments, image="", save=True),
            cwd=self.working_directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def bridge(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-m", "bridge", *map(str, arguments)])

    def score(self, project: Path, *options: str) -> None:
        """Score the tumours of a project from the command line, with the model that the scripts use."""
        sampling = ("--model", self.model, "--region-class", "Tumor", "--per-annotation")
        done = self.bridge("score", project, *sampling, *options)
        assert done.returncode == 0, done.stdout + done.stderr

    def _installed(self, name: str) -> Path:
        return self.user_directory / "scripts" / "HER2-HE" / name

    def _command(
        self, script: Path, project: Path, arguments: Sequence[str], *, image: str, save: bool
    ) -> list[str]:
        command = [str(self.app.launcher), "script", "-p", str(project)]
        command += ["-s"] if save else []
        command += ["-i", image] if image else []
        for argument in arguments:
            command += ["--args", argument]
        return [*command, str(script)]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.working_directory,
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )


@contextmanager
def installed_qupath(directory: Path, home: Path, model: Path) -> Iterator[InsideQuPath]:
    """Install into a QuPath that was never used; servers that scripts start are stopped at the end."""
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    options = [f"-Djava.util.prefs.userRoot={home}", f"-Duser.home={home}"]
    options.append("-XX:TieredStopAtLevel=1")  # a run is too short for thorough compiling to pay
    inside = InsideQuPath(
        find_qupaths([directory])[0],
        home,
        model,
        {
            **os.environ,
            "JAVA_TOOL_OPTIONS": " ".join(options),
            "HEROHE_RUNTIME_DIR": str(runtime),
            "LC_ALL": "C.UTF-8",
        },
    )
    inside.working_directory.mkdir()
    try:
        done = inside.bridge("qupath", "install", "--qupath", directory, "--model", model)
        assert done.returncode == 0, done.stdout + done.stderr
        yield inside
    finally:
        inside.bridge("stop")
