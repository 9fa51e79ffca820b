"""All that an installation without a network needs, in one folder: to be carried to a hospital's machine.

::

    INSTALL.md     what to type there
    SHA256SUMS     of every file, as sha256sum checks them
    wheels/        herohe-bridge and all that it needs, for one platform and Python
    jars/          what QuPath needs to speak with the server
    models/NAME/   published models, or model files with a manifest
    encoders/NAME/ weights of encoders, with their config.json
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bridge import __version__
from bridge.install.jars import find_jars
from herohe_model.errors import HeroheError, ModelFileError, OptionError, os_problem
from herohe_model.files import WriteError, sha256_of
from herohe_model.model.card import read_card
from herohe_model.model.library import (
    MANIFEST,
    MODEL,
    FileDigest,
    Manifest,
    checked_model,
    encode_manifest,
    model_slug,
)

SUMS: Final = "SHA256SUMS"
TEXT: Final = "INSTALL.md"
_DISTRIBUTION: Final = "herohe-bridge"
_EXTRAS: Final = ("cluster", "export", "train")

System = Literal["linux", "windows", "macos"]
_TAGS: Final[dict[System, tuple[str, ...]]] = {
    # pip looks for exactly these, of which a wheel may have any; as new a glibc as PyTorch wants.
    "linux": (*(f"manylinux_2_{n}_x86_64" for n in range(28, 4, -1)), "manylinux2014_x86_64", "linux_x86_64"),
    "windows": ("win_amd64",),
    "macos": ("macosx_14_0_arm64",),
}

_log = logging.getLogger(__name__)


class BundleError(HeroheError):
    """A bundle cannot be made."""

    code = "bundle"


@dataclass(frozen=True)
class BundleContents:
    """What goes into a bundle.

    Attributes
    ----------
    source
        The project's folder, or a wheel of it; None for where this installation comes from.
    system, python
        Of the other machine; None for this one's.
    models
        Model files; of a bag model, the weights of its encoder come along where they are here.
    encoders
        Names of the table.
    qupath
        Whether the jars come along.
    """

    source: Path | None = None
    system: System | None = None
    python: str | None = None
    models: tuple[Path, ...] = ()
    encoders: tuple[str, ...] = ()
    qupath: bool = True


def make_bundle(to: Path, contents: BundleContents) -> list[str]:
    """Write a bundle, whole or not at all.

    Returns
    -------
    list of str
        What whoever carries it must know, such as an encoder that is not in it.

    Raises
    ------
    OptionError
        If `to` holds something.
    BundleError
        If wheels cannot be had.
    JarError, ModelFileError
        If a jar, a model or the weights of an encoder cannot be had.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise OptionError(f"{to} exists already", "Name a folder that is not there, or is empty")
    remarks: list[str] = []
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as part:
            folder = Path(part, "bundle")
            folder.mkdir()
            # What can be refused is looked at before gigabytes are downloaded.
            names = [_add_model(path, folder / "models") for path in contents.models]
            encoders = _add_encoders(contents, folder / "encoders", remarks)
            jars = sorted(find_jars().items()) if contents.qupath else []
            for name, path in jars:
                (folder / "jars").mkdir(exist_ok=True)
                shutil.copyfile(path, folder / "jars" / name)
            _add_wheels(contents, folder / "wheels")
            text = install_text(names, encoders, [name for name, _ in jars], contents)
            (folder / TEXT).write_text(text, encoding="utf-8", newline="\n")
            (folder / SUMS).write_text("".join(_sums(folder)), encoding="utf-8", newline="\n")
            if to.exists():
                to.rmdir()
            os.replace(folder, to)
    except OSError as error:
        raise WriteError(os_problem(error), "Check the free space and the folder's rights") from error
    return remarks


def _add_model(path: Path, to: Path) -> str:
    """Copy a model with what was published beside it; return the name it is got under."""
    card, sha256 = read_card(path)
    folder = to / model_slug(card.name)
    if folder.exists():
        raise OptionError(f"Two models are called {card.name}", "Bundle one of them, or rename one")
    if path.name == MODEL and (path.parent / MANIFEST).is_file():
        checked_model(path.parent)
        shutil.copytree(path.parent, folder)
        return folder.name
    folder.mkdir(parents=True)
    shutil.copyfile(path, folder / MODEL)
    manifest = Manifest(name=card.name, files={MODEL: FileDigest(sha256, path.stat().st_size)})
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder.name


def _add_encoders(contents: BundleContents, to: Path, remarks: list[str]) -> list[str]:
    from herohe_model.encoders.table import find_encoder
    from herohe_model.encoders.weights import find_weights

    asked = {find_encoder(name).name: True for name in contents.encoders}
    for path in contents.models:
        bag = read_card(path)[0].bag
        if bag is not None:
            try:
                asked.setdefault(find_encoder(bag.encoder).name, False)
            except OptionError:
                remarks.append(
                    f"{path} needs the encoder {bag.encoder}, which is not known: bring its weights"
                )
    added = []
    for name, by_name in asked.items():
        encoder = find_encoder(name)
        found = find_weights(encoder)
        if found is None and by_name:
            raise ModelFileError(
                f"The weights of {name} are not on this machine", f"Run: herohe-bridge encoder fetch {name}"
            )
        if found is None:
            remarks.append(f"The weights of {name}, which a model needs, are not on this machine, nor in it")
            continue
        (to / name).mkdir(parents=True)
        for file in (found.path, found.config):
            if file is not None:
                # The hub's cache names files by links.
                shutil.copyfile(file.resolve(), to / name / file.name)
        remarks.append(f"The weights of {name} come under {encoder.licence or 'terms that are not known'}")
        added.append(name)
    return added


def _add_wheels(contents: BundleContents, to: Path) -> None:
    """Have pip bring the project's wheel and those that it needs; pip's own settings hold."""
    to.mkdir()
    source = contents.source or _installed_from()
    if source is not None and source.is_dir():
        _pip("wheel", "--no-deps", "--wheel-dir", str(to), str(source))
        source = next(to.glob("herohe_bridge-*.whl"))
    elif source is not None:
        shutil.copy(source, to)
    wanted = f"{_named()}=={__version__}" if source is None else f"{_named()} @ {source.resolve().as_uri()}"
    download = ("download", "--only-binary=:all:", "--dest", str(to))
    with tempfile.TemporaryDirectory() as folder:
        if contents.system is None and contents.python is None:
            # What was tried here is what is carried there.
            constraints = Path(folder, "constraints.txt")
            constraints.write_text("".join(_installed()), encoding="utf-8")
            _pip(*download, f"--constraint={constraints}", wanted)
            return
        system, python = contents.system or _this_system(), contents.python or _this_python()
        pins = _pinned(wanted, system, python, Path(folder))
        tags = [f"--platform={tag}" for tag in _TAGS[system]]
        _pip(*download, "--no-deps", f"--python-version={python}", *tags, "--requirement", str(pins))


def _pinned(wanted: str, system: System, python: str, folder: Path) -> Path:
    """Have uv choose the versions for another machine: pip asks this one what a package needs."""
    uv = shutil.which("uv")
    if uv is None:
        raise BundleError(
            "The wheels for another system or Python are chosen by uv, which is not on the PATH",
            "Install uv, or make the bundle on a machine like the one it is for",
        )
    asked, pins = folder / "wanted.txt", folder / "pins.txt"
    asked.write_text(wanted + "\n", encoding="utf-8")
    command = [uv, "pip", "compile", str(asked), "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-platform", system, "--python-version", python, "--output-file", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300] or "uv said nothing"
        raise BundleError(f"No versions fit {system} and Python {python}: {said}", "Name another --python")
    return pins


def _this_system() -> System:
    return {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")  # type: ignore[return-value]  # one of the three


def _this_python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    _log.info("pip %s ...", arguments[0])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    said = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "it said nothing")
    if "No module named pip" in done.stdout:
        raise BundleError(
            f"{sys.executable} has no pip, which downloads the wheels",
            "Add it: python -m ensurepip, or install with 'uv tool install --with pip .'",
        )
    raise BundleError(
        f"pip {arguments[0]} failed: {said.strip()}",
        "Check the network and pip's settings; a system may not have wheels of everything",
    )


def _installed_from() -> Path | None:
    """Return the folder or wheel that this installation comes from; None for a registry."""
    try:
        said = distribution(_DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = json.loads(said).get("url", "") if said else ""
    path = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
    return path if path is not None and path.exists() else None


def _installed() -> Iterator[str]:
    """Yield the versions that are installed here; the part of a build, such as ``+cpu``, is left open."""
    for found in distributions():
        name = found.metadata["Name"]
        if name and re.sub(r"[-_.]+", "-", name).lower() != _DISTRIBUTION:
            yield f"{name}=={found.version.partition('+')[0]}\n"


def _sums(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n"


def install_text(
    models: Sequence[str], encoders: Sequence[str], jars: Sequence[str], contents: BundleContents
) -> str:
    """Return what has to be typed on the machine without a network."""
    python, system = contents.python or _this_python(), contents.system or _this_system()
    given = " ".join(f"--jar jars/{name}" for name in jars)
    install = f"install --no-index --find-links wheels '{_named()}'"
    lines = [
        f"# herohe-bridge {__version__} without a network",
        "",
        f"For Python {python} on {system}. Research use only, not for diagnosis.",
        "",
        "In this folder. First see that nothing changed on the way (on Windows, with certutil -hashfile):",
        "",
        *_block(f"sha256sum --quiet -c {SUMS}"),
        "",
        "Linux and macOS:",
        "",
        *_block(
            "python3 -m venv ~/herohe",
            f"~/herohe/bin/pip {install}",
            "export PATH=~/herohe/bin:$PATH",
        ),
        "",
        "Windows, in PowerShell:",
        "",
        *_block(
            "py -m venv $HOME\\herohe",
            f"& $HOME\\herohe\\Scripts\\pip {install}",
            '$env:PATH = "$HOME\\herohe\\Scripts;$env:PATH"',
        ),
        "",
        "Then, on all:",
        "",
        *_block(
            "herohe-bridge doctor",
            *(f"herohe-bridge model get models/{name}" for name in models),
            *(f"herohe-bridge model verify {name}" for name in models),
            *(f"herohe-bridge encoder verify {name} --weights encoders/{name}" for name in encoders),
            *([f"herohe-bridge qupath install {given}" + _with(models)] if jars else []),
        ),
    ]
    if encoders:
        lines += [
            "",
            "Name an encoder's folder with `--weights` wherever a command takes `--encoder`. Its licence",
        ]
        lines += ["holds here, too: read it before."]
    return "\n".join(lines) + "\n"


def _named() -> str:
    return f"{_DISTRIBUTION}[{','.join(_EXTRAS)}]"


def _with(models: Sequence[str]) -> str:
    return f" --model {models[0]}" if models else ""


def _block(*lines: str) -> list[str]:
    return ["```", *lines, "```"]
