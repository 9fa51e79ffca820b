"""ICC profiles: a slide's colours as its scanner's profile means them, in sRGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from herohe_model.errors import SlideUnreadableError

_Colorant = tuple[float, float, float]

_D50: Final = (0.9642, 1.0, 0.8249)
_D65: Final = (0.95015, 1.0, 1.088257)
# Of sRGB (IEC 61966-2-1), adapted to D50, as Java's own profile rounds them: what QuPath transforms to.
_SRGB: Final = ((0.435852, 0.222382, 0.013916), (0.38533, 0.717041, 0.097137), (0.143021, 0.060593, 0.713837))
_SRGB_STEPS: Final = 1024


class ColourTransform:
    """From a profile's colours to sRGB, as QuPath's ``--icc-profile`` does it: byte for byte.

    Parameters
    ----------
    profile
        The embedded profile, as it stands in the file.
    name
        The slide's name, for the error.

    Raises
    ------
    SlideUnreadableError
        If it is no profile of RGB colours.
    """

    def __init__(self, profile: bytes, name: str) -> None:
        try:
            self._transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
                "RGB",
                "RGB",
            )
        except (ImageCms.PyCMSError, OSError) as error:
            raise SlideUnreadableError(
                f"{name} holds an ICC profile that cannot be used ({error})",
                "Import it into QuPath without ICC profiles",
            ) from error

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform (h, w, 3) uint8 RGB."""
        made = ImageCms.applyTransform(Image.fromarray(pixels), self._transform)
        assert made is not None  # only a transform in place gives nothing back
        return np.array(made)


@cache
def srgb_profile() -> bytes:
    """Return a profile of sRGB with the numbers of Java's, whose rounding QuPath's pixels show."""
    steps = np.arange(_SRGB_STEPS) / (_SRGB_STEPS - 1)
    linear = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    return matrix_profile(_SRGB, np.rint(linear * 65535).astype(int).tolist(), white=_D65)


def matrix_profile(colorants: Sequence[_Colorant], curve: Sequence[int], *, white: _Colorant = _D50) -> bytes:
    """Return an ICC profile (version 2) of RGB colours.

    Parameters
    ----------
    colorants
        XYZ of full red, green and blue, adapted to D50.
    curve
        Light of a channel's values in equal steps, 0 to 65535; a single number is a gamma in 1/256.
    white
        XYZ of the white point.
    """
    table = b"curv\0\0\0\0" + struct.pack(f">I{len(curve)}H", len(curve), *curve)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 4) + b"RGB\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(white),
    }
    for channel, colorant in zip("rgb", colorants, strict=True):
        tags[f"{channel}XYZ".encode()] = _xyz(colorant)
        tags[f"{channel}TRC".encode()] = table
    index, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        index += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02300000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head + bytes(128 - len(head)) + index + body


def _xyz(values: _Colorant) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)
