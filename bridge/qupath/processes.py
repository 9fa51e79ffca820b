"""Whether a QuPath runs that may have a project open; as far as that can be seen from outside.

QuPath locks nothing and keeps no file open. What can be seen is that it runs, what it was started with, and
whether files of the project were saved since.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def open_project_warnings(project: Path) -> tuple[str, ...]:
    """Return a sentence for the user on each running QuPath that may have the project open."""
    return tuple(
        f"QuPath (process {process.info['pid']}) {_evidence(project, process)}. If it has this project open, "
        "close that before writing: the two would overwrite each other's work."
        for process in psutil.process_iter(["pid", "name", "cmdline", "create_time"])
        if process.info["pid"] != os.getpid()
        and _is_qupath(process.info["name"] or "", process.info["cmdline"] or [])
    )


def runs_qupath() -> bool:
    """Whether any QuPath runs on this machine."""
    processes = psutil.process_iter(["name", "cmdline"])
    return any(_is_qupath(p.info["name"] or "", p.info["cmdline"] or []) for p in processes)


def _evidence(project: Path, process: psutil.Process) -> str:
    """Say how sure it is that a running QuPath has the project open."""
    if any(str(project) in part or str(project.parent) in part for part in process.info["cmdline"] or ()):
        return "was started with this project"
    if _saved_since(project, process.info["create_time"]):
        return "runs, and this project was saved since it started"
    return "runs"


def _is_qupath(name: str, command: list[str]) -> bool:
    """Tell QuPath's own launcher, and a Java that runs its classes."""
    if name.lower().startswith("java"):
        return any("qupath" in part.lower() for part in command)
    return name.lower().startswith("qupath")


def _saved_since(project: Path, started: float) -> bool:
    """Whether the project file or an image's data are newer than a moment, in seconds since 1970."""
    for path in (project, *project.parent.glob("data/*/data.qpdata")):
        try:
            if path.stat().st_mtime > started:
                return True
        except OSError:
            continue
    return False
