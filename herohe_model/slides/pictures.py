"""Pictures, such as JPG and PNG, as slides: tiled pyramids with a scale.

A picture has no levels, no tiles and no scale. It is copied once into a TIFF that OpenSlide reads, by libvips
in memory that does not grow with it, and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from herohe_model.errors import CancelledError, OptionError, SlideError, SlideUnreadableError
from herohe_model.files import WriteError, replacing
from herohe_model.slides.formats import PICTURE_SUFFIXES

if TYPE_CHECKING:
    import pyvips

CONVERTED: Final = (*PICTURE_SUFFIXES, ".tif", ".tiff")
"""Suffixes of what can be converted, in small letters; of TIFF what has no tiles."""

_TILE: Final = 512
_QUALITY: Final = 90
"""Of JPEG; a picture is compressed again, at a quality that scanners use."""
_MOST_PX: Final = 1_000_000
"""Along a side."""


def convert_picture(
    picture: Path,
    slide: Path,
    *,
    mpp: float | None,
    progress: Callable[[float], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Copy a picture into a tiled, pyramidal TIFF, whole or not at all.

    Parameters
    ----------
    slide
        The new file; its folder is made if it is not there, and what was there is replaced.
    mpp
        Scale of the picture, µm/px; None to leave it open.
    progress
        Told the share that is done, 0 to 1.
    stop
        Asked from time to time; a true answer ends the work.

    Raises
    ------
    SlideError
        If the picture cannot be read, or has no three colours.
    WriteError
        If the slide cannot be written.
    CancelledError
        When `stop` said so.
    OptionError
        If libvips is not installed, or the scale cannot be true.
    """
    if mpp is not None and not 0.01 <= mpp <= 100.0:
        raise OptionError(f"{mpp} µm/px is no scale of a picture", "Name 0.01 to 100 µm per pixel")
    # Pixels a millimetre. What a picture says of its own is of prints, which no slide is taken for.
    resolution = {} if mpp is None else {"xres": 1000 / mpp, "yres": 1000 / mpp, "resunit": "cm"}
    vips = _libvips()
    try:
        image = _opened(vips, picture)
        image = _with_progress(image, progress, stop)
        slide.parent.mkdir(parents=True, exist_ok=True)
        with replacing(slide) as part:
            image.tiffsave(
                str(part),
                tile=True,
                tile_width=_TILE,
                tile_height=_TILE,
                pyramid=True,
                subifd=False,
                compression="jpeg",
                Q=_QUALITY,
                bigtiff=True,
                keep="icc",
                **resolution,
            )
    except vips.Error as error:
        if stop():
            raise CancelledError(f"Converting {picture.name} was stopped") from error
        raise SlideUnreadableError(
            f"{picture} cannot be converted: {' '.join(str(error).split())}",
            "Copy it again from where it came",
        ) from error
    except OSError as error:
        raise WriteError(f"{slide} cannot be written: {error.strerror or error}", "Check the disk") from error


def _opened(vips: Any, picture: Path) -> pyvips.Image:
    """Open a picture in three colours of 8 bits, to be read once from above."""
    if not picture.is_file():
        raise SlideError(f"{picture} is not there", "Check the path")
    image = vips.Image.new_from_file(str(picture), access="sequential", fail_on="truncated")
    if max(image.width, image.height) > _MOST_PX:
        raise SlideError(f"{picture} has {image.width} x {image.height} px", "Convert a part of it")
    if image.interpretation not in ("srgb", "rgb", "rgb16"):
        raise SlideError(
            f"{picture} is no picture in red, green and blue, but {image.interpretation}", "Convert it to RGB"
        )
    if image.format != "uchar":
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return image


def _with_progress(
    image: pyvips.Image, progress: Callable[[float], None], stop: Callable[[], bool]
) -> pyvips.Image:
    def told(of: Any, now: Any) -> None:
        progress(math.floor(now.percent) / 100)
        if stop():
            of.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", told)
    return image


def _libvips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise OptionError(
            "libvips, which reads pictures, is not installed", "Run: pip install 'herohe-bridge[pictures]'"
        ) from error
    return pyvips
