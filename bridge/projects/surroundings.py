"""What lies in a folder of slides and takes no part in a run: counted and named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bridge.annotations.files import folded, slide_stems
from bridge.projects.walk import OWN_FOLDER, ZARR, FoundFolder
from herohe_model.printable import printable_name
from herohe_model.slides.dicom import DICOM_SUFFIXES
from herohe_model.slides.formats import PICTURE_SUFFIXES

_SHOWN: Final = 3
_SUBFOLDER: Final = ("project or folder with slides", "projects or folders with slides")
_ZARR: Final = (
    "image in Zarr, which OpenSlide does not read",
    "images in Zarr, which OpenSlide does not read",
)
_LOOKED_AT: Final = 20_000
"""Files of a subfolder that are looked at before its slides are no longer counted."""
_OTHER_FORMATS: Final = (
    *(".afi", ".ets", ".isyntax", ".i2syntax", ".kfb", ".lif", ".mds", ".nd2", ".oir"),
    *(".qptiff", ".sdpc", ".tron", ".vsi", ".zip", ".zvi", *ZARR),
)
_COMPANIONS: Final = {".vms": (".jpg", ".opt"), ".vmu": (".jpg", ".opt", ".l0", ".l1")}
"""Endings of files that are parts of such a slide."""


def passed_over(
    found: Sequence[FoundFolder], *, suffixes: Sequence[str], used: Iterable[Path]
) -> tuple[str, ...]:
    """Say what of a folder, and of those below it, is not used.

    Parameters
    ----------
    found
        The folder, and those below it that were looked into.
    suffixes
        Those of slides.
    used
        Files that are read: annotations.
    """
    known, root = {*used}, found[0].path
    kinds: dict[tuple[str, str], list[str]] = {}
    lines = []
    for folder in found:
        if folder.unread:
            lines.append(f"Passed over: {printable_name(folder.unread)}.")
        stems = {folded(stem): slide for slide in folder.slides for stem in slide_stems(slide.name)}
        folders, endings = _parts_of(folder.slides)
        known.update(folder.slides, folder.parts, folder.below)
        for path in folder.listing:
            name, within = path.name, path.relative_to(root).as_posix()
            part = name in folders or (endings and name.lower().endswith(endings))
            if part or path in known or name.startswith("."):
                continue
            if path.is_dir() and not name.lower().endswith(_OTHER_FORMATS):
                count = 0 if name == OWN_FOLDER else _slides_below(path, suffixes)
                if count:
                    kinds.setdefault(_SUBFOLDER, []).append(f"{within} ({count})")
                continue
            beside = _slide_of(name, stems)
            if beside is not None:
                lines.append(
                    f"{printable_name(within)} lies beside {printable_name(beside.name)} and is not used."
                )
            else:
                kinds.setdefault(_kind(path), []).append(within)
    return (*lines, *(_counted(kind, names) for kind, names in kinds.items()))


def _kind(path: Path) -> tuple[str, str]:
    """Return what a file is, one and several of it."""
    name = path.name.lower()
    if name.endswith(DICOM_SUFFIXES):
        return "DICOM file that is no slide", "DICOM files that are no slides"
    if name.endswith(ZARR):
        return _ZARR
    if name.endswith(PICTURE_SUFFIXES):
        return "picture", "pictures"
    if name.endswith(_OTHER_FORMATS):
        return "file in a format that is not read", "files in formats that are not read"
    return "other file", "other files"


def _counted(kind: tuple[str, str], names: Sequence[str]) -> str:
    shown = ", ".join(printable_name(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    remedy = " To make slides of them: herohe-bridge slides convert." if kind[0] == "picture" else ""
    remedy = " Export them as OME-TIFF, as QuPath can." if kind == _ZARR else remedy
    return f"Passed over: {len(names)} {kind[len(names) > 1]}: {shown}{more}.{remedy}"


def _slide_of(name: str, stems: dict[str, Path]) -> Path | None:
    """Return the slide that a file is called after."""
    stem = name
    while stem and folded(stem) not in stems:
        stem = stem.rpartition(".")[0]
    return stems.get(folded(stem)) if stem else None


def _parts_of(slides: Sequence[Path]) -> tuple[set[str], tuple[str, ...]]:
    """Return names of folders (of MIRAX) and endings of files (of VMS) that are parts of slides."""
    folders = {slide.stem for slide in slides if slide.suffix.lower() == ".mrxs"}
    endings = {ending for slide in slides for ending in _COMPANIONS.get(slide.suffix.lower(), ())}
    return folders, tuple(endings)


def _slides_below(folder: Path, suffixes: Sequence[str]) -> int:
    """Count slides in a folder and those below it; as far as they can be looked at."""
    count = looked_at = 0
    for _, _, names in os.walk(folder):
        looked_at += len(names)
        count += sum(name.lower().endswith(tuple(suffixes)) and not name.startswith(".") for name in names)
        if looked_at > _LOOKED_AT:
            break
    return count
