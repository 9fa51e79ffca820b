"""DICOM whole-slide images: which files are one slide, and what the slide is called.

A slide is a series, each of its levels a file of its own in one folder (DICOM PS3.3, A.32.8); OpenSlide opens
any of them and finds the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from herohe_model.printable import printable_name

DICOM_SUFFIXES: Final = (".dcm", ".dicom")
_WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""
_TAGS: Final = (
    *("SOPClassUID", "SeriesInstanceUID", "ContainerIdentifier", "ImageType", "TotalPixelMatrixColumns"),
)


@dataclass(frozen=True)
class DicomSlide:
    """A series.

    Attributes
    ----------
    path
        The file of its largest level, to be opened.
    name
        The glass slide's identifier with the suffix ``.dcm``, as labels have it; else the file's name.
    parts
        All of its files.
    """

    path: Path
    name: str
    parts: tuple[Path, ...]


def dicom_slides(files: Iterable[Path]) -> list[DicomSlide]:
    """Group the DICOM files of one folder; files that are no whole-slide images are left out.

    Returns
    -------
    list
        In the order of their files' names.
    """
    # Imported by who has such files alone: it takes half a second.
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    series: dict[str, list[tuple[int, Path, str]]] = {}
    for path in sorted(files):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            kind, uid = str(header.get("SOPClassUID", "")), str(header.get("SeriesInstanceUID", ""))
            volume = "VOLUME" in (header.get("ImageType") or ())
            columns = int(header.get("TotalPixelMatrixColumns") or 0) if volume else 0
            container = str(header.get("ContainerIdentifier") or "").strip()
        except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, EOFError):
            continue
        if kind == _WHOLE_SLIDE and uid:
            series.setdefault(uid, []).append((columns, path, container))
    found = []
    for levels in series.values():
        # The first of the largest.
        columns, path, container = max(levels, key=lambda level: (level[0], [-ord(c) for c in level[1].name]))
        if columns:
            name = f"{printable_name(container)}.dcm" if container else path.name
            found.append(DicomSlide(path, name, tuple(level for _, level, _ in levels)))
    return sorted(found, key=lambda slide: slide.path.name)
