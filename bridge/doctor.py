"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final, Literal

from herohe_model.errors import HeroheError

State = Literal["ok", "problem", "note"]

DISTRIBUTION: Final = "herohe-bridge"
_SHOWN: Final = (
    "openslide-bin",
    "openslide-python",
    "paquo",
    "pyzmq",
    "shapely",
    "simplejpeg",
    "timm",
    "torch",
    "torchvision",
)
"""Packages whose version often explains something; the others are only looked for."""
_EXTRAS: Final = {
    "export": "Parquet files by 'export'",
    "train": "'train', 'predict' and 'evaluate'",
    "cluster": "'score --dask'",
}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA: Final = re.compile(r"""extra == ['"]([a-z]+)['"]""")
QUPATH: Final = "QuPath"
"""What findings that only QuPath projects need are about."""
_QUPATH_PROBE_TIMEOUT_S: Final = 120

# Runs in a process of its own: a JVM can be started only once, and a broken one may take its process along.
_QUPATH_PROBE: Final = """
import json, sys
from bridge.qupath.jvm import qupath_facts
print("\\n" + json.dumps(qupath_facts()))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `remedy` is empty where nothing is to be done."""

    what: str
    state: State
    found: str
    remedy: str = ""


def examine(*, qupath: bool = False) -> Iterable[Finding]:
    """Yield what was found, one finding after the other, the quick ones first.

    Parameters
    ----------
    qupath
        Whether QuPath projects are to be scored: a folder of slides needs no QuPath, and without this what is
        wrong with it is no more than a note.
    """
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("Python", _python),
        ("packages", _packages),
        ("OpenSlide", _openslide),
        ("devices", _devices),
        ("engines", _engines),
        ("model server", _servers),
        (QUPATH, _qupath if qupath else _qupath_if_any),
    )
    for name, check in checks:
        try:
            yield from check()
        except HeroheError as error:
            yield Finding(name, "problem", error.problem, error.remedy)
        except ImportError as error:
            yield Finding(name, "problem", f"cannot be looked at: {error}", _install(DISTRIBUTION))


def _python() -> Iterable[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable} on {platform.platform()}")


def _packages() -> Iterable[Finding]:
    needed, optional = _requirements()
    yield from _installed(DISTRIBUTION, shown=True)
    for name in sorted(needed):
        yield from _installed(name, shown=name in _SHOWN)
    for extra, what in _EXTRAS.items():
        lacking = sorted(name for name in optional.get(extra, ()) if _version(name) is None)
        if lacking:
            yield Finding(
                f"extra '{extra}'",
                "note",
                f"{', '.join(lacking)} not installed: needed for {what}",
                _install(f"'{DISTRIBUTION}[{extra}]'"),
            )


def _requirements() -> tuple[set[str], dict[str, set[str]]]:
    """Return what the package needs everywhere, and what each of its extras does."""
    needed: set[str] = set()
    optional: dict[str, set[str]] = {}
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        lines = list(_SHOWN)
    for line in lines:
        what, _, condition = line.partition(";")
        found, extra = _NAME.match(what), _EXTRA.fullmatch(condition.strip())
        if found is not None and not condition:
            needed.add(found[0])
        elif found is not None and extra is not None:
            optional.setdefault(extra[1], set()).add(found[0])
    return needed, optional


def _installed(name: str, *, shown: bool) -> Iterable[Finding]:
    found = _version(name)
    if found is None:
        yield Finding(name, "problem", "not installed", _install(name))
    elif shown:
        yield Finding(name, "ok", found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(what: str) -> str:
    return f"Run: python -m pip install {what}"


def _openslide() -> Iterable[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Finding(
            "OpenSlide", "problem", str(error), "Run: python -m pip install --force-reinstall openslide-bin"
        )
        return
    found = openslide.__library_version__
    parts = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if parts < (4, 0, 0):
        yield Finding(
            "OpenSlide",
            "problem",
            f"library {found} is too old",
            "Run: python -m pip install -U openslide-bin",
        )
    else:
        yield Finding("OpenSlide", "ok", f"library {found}")


def _devices() -> Iterable[Finding]:
    from herohe_model.model.device import describe_devices

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
    from herohe_model.engines.choice import engine_label
    from herohe_model.engines.openvino_engine import openvino_precisions
    from herohe_model.engines.trials import SMALL_MACHINE
    from herohe_model.model.device import choose_device, choose_precision
    from herohe_model.model.machine import machine_memory

    fast = choose_precision("auto", choose_device("cpu"))
    yield Finding("engine", "ok", f"{engine_label('torch')}, on the CPU fastest in {fast}")
    try:
        precisions = " and ".join(openvino_precisions())
        yield Finding("engine", "ok", f"{engine_label('openvino')}, on the CPU in {precisions}")
    except HeroheError as error:
        why = f"{error.problem}: on a CPU, scoring takes two to four times as long without it"
        yield Finding("engine", "note", why, error.remedy)
    if machine_memory() < SMALL_MACHINE:
        has = f"{machine_memory() / 2**30:.1f} GiB of memory"
        yield Finding("engine", "note", f"{has}: OpenVINO is not tried, since it needs 2 GiB a process")


def _servers() -> Iterable[Finding]:
    from bridge.transport.discovery import running_servers
    from bridge.transport.runtime_directory import runtime_directory

    servers = list(running_servers())
    for server in servers:
        yield Finding("model server", "ok", f"{server.model_name}, process {server.pid}")
    if not servers:
        yield Finding(
            "model server", "note", f"none running (looked in {runtime_directory()}); none is needed"
        )


def _qupath_if_any() -> Iterable[Finding]:
    for finding in _qupath():
        lacking = finding.state == "problem"
        yield replace(finding, state="note") if lacking else finding


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
            QUPATH,
            "problem",
            f"starting its Java classes failed ({type(error).__name__})",
            "Install QuPath 0.7 anew, and see that PAQUO_QUPATH_DIR names it",
        )
        return
    if "problem" in facts:
        yield Finding(QUPATH, "problem", facts["problem"], facts["remedy"])
        return
    supported = facts["supported"]
    found = f"{facts['version']} at {facts['directory']}{', supported' if supported else ''}"
    yield Finding(QUPATH, "ok" if supported else "note", found, facts.get("remedy", ""))
    yield Finding(f"{QUPATH}'s Java", "ok", facts["java"])
    openslide_ok = facts["openslide"]
    yield Finding(
        f"{QUPATH}'s OpenSlide",
        "ok" if openslide_ok else "problem",
        "loads" if openslide_ok else "does not load",
        "" if openslide_ok else "Install QuPath anew from its own installer",
    )
    user_directory = facts["user_directory"]
    yield Finding(
        f"{QUPATH}'s user directory",
        "ok" if user_directory else "note",
        user_directory or "not chosen yet: 'herohe-bridge qupath install' takes the one that QuPath proposes",
    )
