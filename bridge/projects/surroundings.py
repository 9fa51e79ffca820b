"""What lies in a folder of slides and takes no part in a run: counted and named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bridge.annotations.files import folded, slide_stems
from herohe_model.printable import printable_name
from herohe_model.slides.formats import PICTURE_SUFFIXES

_SHOWN: Final = 3
_SUBFOLDER: Final = ("subfolder with slides", "subfolders with slides")
_LOOKED_AT: Final = 20_000
"""Files of a subfolder that are looked at before its slides are no longer counted."""
_DICOM: Final = (".dcm", ".dicom")
_OTHER_FORMATS: Final = (
    *(".afi", ".ets", ".isyntax", ".i2syntax", ".kfb", ".lif", ".mds", ".nd2", ".ome.zarr", ".oir"),
    *(".qptiff", ".sdpc", ".tron", ".vsi", ".zarr", ".zip", ".zvi"),
)
_COMPANIONS: Final = {".vms": (".jpg", ".opt"), ".vmu": (".jpg", ".opt", ".l0", ".l1")}
"""Endings of files that are parts of such a slide."""


def passed_over(
    paths: Iterable[Path], slides: Sequence[Path], *, suffixes: Sequence[str], used: Iterable[Path]
) -> tuple[str, ...]:
    """Say what of a folder is not used.

    Parameters
    ----------
    paths
        Everything in the folder.
    suffixes
        Those of slides.
    used
        Files that are read: annotations.
    """
    known = {*slides, *used}
    stems = {folded(stem): slide for slide in slides for stem in slide_stems(slide.name)}
    folders, endings = _parts_of(slides)
    kinds: dict[tuple[str, str], list[str]] = {}
    lines = []
    for path in sorted(paths):
        name = path.name
        part = name in folders or (endings and name.lower().endswith(endings))
        if part or path in known or name.startswith("."):
            continue
        if path.is_dir() and path.suffix.lower() not in _OTHER_FORMATS:
            count = 0 if name == "herohe-bridge" else _slides_below(path, suffixes)
            if count:
                kinds.setdefault(_SUBFOLDER, []).append(f"{name} ({count})")
            continue
        beside = _slide_of(name, stems)
        if beside is not None:
            lines.append(f"{printable_name(name)} lies beside {printable_name(beside.name)} and is not used.")
        else:
            kinds.setdefault(_kind(path), []).append(name)
    return (*lines, *(_counted(kind, names) for kind, names in kinds.items()))


def _kind(path: Path) -> tuple[str, str]:
    """Return what a file is, one and several of it."""
    name = path.name.lower()
    if name.endswith(_DICOM):
        return "DICOM file", "DICOM files"
    if name.endswith(PICTURE_SUFFIXES):
        return "picture", "pictures"
    if name.endswith(_OTHER_FORMATS):
        return "file in a format that is not read", "files in formats that are not read"
    return "other file", "other files"


def _counted(kind: tuple[str, str], names: Sequence[str]) -> str:
    shown = ", ".join(printable_name(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    remedy = " To make slides of them: herohe-bridge slides convert." if kind[0] == "picture" else ""
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
