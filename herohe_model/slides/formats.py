"""Which files are slides, by their names."""

from __future__ import annotations

from typing import Final

SLIDE_SUFFIXES: Final = (
    ".bif",
    ".czi",
    ".mrxs",
    ".ndpi",
    ".scn",
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
)
"""Suffixes of the formats that OpenSlide reads and that are one file to the user; in small letters."""

PICTURE_SUFFIXES: Final = (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".webp")
"""Suffixes of pictures, of which slides can be made; in small letters."""

_ALSO_OF_A_NAME: Final = (".ome.tif", ".ome.tiff", ".dcm")
"""What may stand at a slide's name beside them, longer ones than theirs first."""


def without_suffix(name: str) -> str:
    """Return a slide's name without a slide's suffix; a dot that begins none belongs to the name."""
    for suffix in (*_ALSO_OF_A_NAME, *SLIDE_SUFFIXES, *PICTURE_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
