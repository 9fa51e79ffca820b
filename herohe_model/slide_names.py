"""Names of slide files and the case IDs that they stand for."""

from __future__ import annotations

from typing import Final

SLIDE_SUFFIXES: Final = (
    ".mrxs",
    ".svs",
    ".ndpi",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".czi",
    ".dcm",
    ".ome.tiff",
    ".ome.tif",
    ".tiff",
    ".tif",
)
"""Of the formats that OpenSlide reads; longer ones before those that they end with."""


def case_id(name: str) -> str:
    """Return the case that a slide's name stands for: the name without a slide's extension.

    A dot that begins no such extension belongs to the ID.
    """
    name = name.strip()
    for suffix in SLIDE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
