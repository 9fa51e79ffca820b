"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from herohe_model.errors import HeroheError

State = Literal["ok", "missing", "note"]

_PACKAGES: Final = (
    "herohe-bridge",
    "openslide-bin",
    "openslide-python",
    "paquo",
    "pyzmq",
    "shapely",
    "timm",
    "torch",
    "torchvision",
)
_QUPATH_PROBE_TIMEOUT_S: Final = 120

# Runs in a process of its own: a JVM can be started only once, and a broken one may take its process along.
_QUPATH_PROBE: Final = """
import json, sys
from bridge.project import qupath_facts
print("\\n" + json.dumps(qupath_facts()))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `remedy` is empty where nothing is to be done."""

    what: str
    state: State
    found: str
    remedy: str = ""


def examine() -> Iterable[Finding]:
    """Yield what was found, one finding after the other, the quick ones first."""
    checks: tuple[Callable[[], Iterable[Finding]], ...] = (
        _python,
        _packages,
        _openslide,
        _devices,
        _engines,
        _servers,
        _qupath,
    )
    for check in checks:
        try:
            yield from check()
        except HeroheError as error:
            yield Finding(check.__name__.strip("_"), "missing", error.problem, error.remedy)


def _python() -> Iterable[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable} on {platform.platform()}")


def _packages() -> Iterable[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "missing", "not installed", f"Run: python -m pip install {name}")


def _openslide() -> Iterable[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Finding(
            "OpenSlide", "missing", str(error), "Run: python -m pip install --force-reinstall openslide-bin"
        )
        return
    found = openslide.__library_version__
    parts = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if parts < (4, 0, 0):
        yield Finding(
            "OpenSlide",
            "missing",
            f"library {found} is too old",
            "Run: python -m pip install -U openslide-bin",
        )
    else:
        yield Finding("OpenSlide", "ok", f"library {found}")


def _devices() -> Iterable[Finding]:
    from herohe_model.scorer import describe_devices

    for device in describe_devices():
        yield Finding("device", "ok", device)
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield Finding(
            "GPU",
            "note",
            "none that PyTorch can use: scoring runs on the CPU",
            "With an NVIDIA card: update its driver, and install the torch build for its CUDA version",
        )


def _engines() -> Iterable[Finding]:
    from herohe_model.device import choose_device, choose_precision
    from herohe_model.engine_choice import engine_label
    from herohe_model.openvino_pass import openvino_precisions

    fast = choose_precision("auto", choose_device("cpu"))
    yield Finding("engine", "ok", f"{engine_label('torch')}, on the CPU fastest in {fast}")
    try:
        precisions = " and ".join(openvino_precisions())
        yield Finding("engine", "ok", f"{engine_label('openvino')}, on the CPU in {precisions}")
    except HeroheError as error:
        why = f"{error.problem}: on a CPU, scoring takes two to four times as long without it"
        yield Finding("engine", "note", why, error.remedy)


def _servers() -> Iterable[Finding]:
    from bridge.discovery import running_servers, runtime_directory

    servers = list(running_servers())
    for server in servers:
        yield Finding("model server", "ok", f"{server.model_name}, process {server.pid}")
    if not servers:
        yield Finding(
            "model server", "note", f"none running (looked in {runtime_directory()}); none is needed"
        )


def _qupath() -> Iterable[Finding]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _QUPATH_PROBE],
            capture_output=True,
            text=True,
            timeout=_QUPATH_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        facts = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        yield Finding(
            "QuPath",
            "missing",
            f"starting its Java classes failed ({type(error).__name__})",
            "Install QuPath 0.5 or 0.6 anew, and see that PAQUO_QUPATH_DIR names it",
        )
        return
    if "problem" in facts:
        yield Finding("QuPath", "missing", facts["problem"], facts["remedy"])
        return
    state: State = "ok" if facts["supported"] else "note"
    yield Finding("QuPath", state, f"{facts['version']} at {facts['directory']}", facts.get("remedy", ""))
    yield Finding("Java", "ok", facts["java"])
    openslide_ok = facts["openslide"]
    yield Finding(
        "QuPath's OpenSlide",
        "ok" if openslide_ok else "missing",
        "loads" if openslide_ok else "does not load",
        "" if openslide_ok else "Install QuPath anew from its own installer",
    )
    yield Finding(
        "QuPath user directory", "ok" if facts["user_directory"] else "note", facts["user_directory"]
    )
