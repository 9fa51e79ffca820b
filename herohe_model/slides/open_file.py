"""Opening a slide's file, or saying why it does not open."""

from __future__ import annotations

import hashlib
import os
import struct
from io import FileIO
from pathlib import Path
from typing import Final

import openslide

from herohe_model.errors import SlideError, SlideNotFoundError, SlideUnreadableError
from herohe_model.slides.slide_file import COPY_AGAIN
from herohe_model.slides.tiff_levels import false_claim

_CONVERT: Final = "A copy will not help: convert it to a TIFF with JPEG tiles, with vips for instance"

_DIGESTED_BYTES: Final = 1 << 20
_CACHE_BYTES: Final = 32 << 20
"""Decoded tiles that a handle keeps: neighbouring patches and pieces that are read one after the other share
them."""


def open_slide_file(path: Path) -> openslide.OpenSlide:
    """Open a slide with OpenSlide's slide formats only, never as a flat picture.

    Raises
    ------
    SlideNotFoundError
        If there is no such file.
    SlideUnreadableError
        If it is a folder, may not be read, is no slide, or is truncated or damaged so far that it does not
        open.
    """
    # Looked at first, because OpenSlide calls all of these "Unsupported or missing image file"; by os.path,
    # because pathlib's tests raise where a folder may not be entered.
    try:
        with path.open("rb") as file:
            head = file.read(16)
            length = file.seek(0, os.SEEK_END)
    except FileNotFoundError as error:
        raise SlideNotFoundError(
            f"There is no slide {path}", "Check the path, or where it moved to"
        ) from error
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise SlideUnreadableError(f"{path} is a folder, not a slide", "Name the slide's file") from error
        reason = getattr(error, "strerror", None) or error
        raise SlideUnreadableError(f"{path} may not be read ({reason})", "Check its permissions") from error
    if path.suffix != ".mrxs" and path.suffix.lower() == ".mrxs":
        raise SlideUnreadableError(
            f"OpenSlide knows MIRAX slides by small letters only, not {path.name}",
            f"Rename it to {path.stem}.mrxs",
        )
    if path.suffix == ".mrxs" and not os.path.isfile(path.with_suffix("") / "Slidedat.ini"):
        raise SlideUnreadableError(
            f"{path} lacks the folder {path.stem} beside it, with Slidedat.ini and the pixels",
            "Copy the folder together with the file",
        )
    with FileIO(path) as file:
        claim = false_claim(file)
    if claim is not None:
        raise SlideUnreadableError(f"{path} is damaged: it claims {claim}", COPY_AGAIN)
    try:
        handle = openslide.OpenSlide(path)
        handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return handle
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise _not_a_slide(path, head, length) from error
    except openslide.OpenSlideError as error:
        if "unsupported" in str(error).lower() or "not supported" in str(error).lower():
            raise SlideUnreadableError(f"OpenSlide cannot read {path} ({error})", _CONVERT) from error
        raise SlideUnreadableError(f"{path} does not open as a slide ({error})", COPY_AGAIN) from error


def _not_a_slide(path: Path, head: bytes, length: int) -> SlideError:
    """Return the error for a file that OpenSlide does not take for a slide."""
    if length == 0:
        return SlideUnreadableError(f"{path} is empty", COPY_AGAIN)
    # Where a TIFF's first directory lies: writers put it last, so that it is the first thing to be lost.
    directory = None
    for magic, layout in ((b"II*\0", "<4xI"), (b"MM\0*", ">4xI"), (b"II+\0", "<8xQ"), (b"MM\0+", ">8xQ")):
        if head.startswith(magic):
            directory = struct.unpack_from(layout, head.ljust(16, b"\0"))[0]
    if directory is None:
        return SlideUnreadableError(
            f"{path} is not a slide in a format that OpenSlide knows",
            "Check that the right file was named, or convert it to a format that OpenSlide reads",
        )
    if directory >= length:
        return SlideUnreadableError(f"{path} is truncated: it ends before its TIFF directory", COPY_AGAIN)
    return SlideUnreadableError(
        f"{path} is a TIFF but no tiled slide, or a damaged one",
        "Check that the right file was named, or convert it to a TIFF with tiles, with vips for instance",
    )


def ends_digest(path: Path) -> str:
    """Return SHA-256 over a file's size, its first and its last MiB."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(length).encode())
        for start in (0, max(0, length - _DIGESTED_BYTES)):
            file.seek(start)
            digest.update(file.read(_DIGESTED_BYTES))
    return f"sha256-ends:{digest.hexdigest()}"
