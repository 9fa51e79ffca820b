"""Whether tissue is stained with H&E, by the colours that the foreground was judged on.

Light is absorbed by a stain in proportions of red, green and blue that do not depend on how much of it there
is: optical density (Ruifrok & Johnston 2001, *Quantification of histochemical staining by color
deconvolution*). Haematoxylin (0.65, 0.70, 0.29) and eosin (0.07, 0.99, 0.11), in any mixture, absorb most in
green; DAB (0.27, 0.57, 0.78) absorbs most in blue. Where a slide is brown like that, or blue without any
pink, its grade would mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

MOST_PIXELS: Final = 1 << 16
"""Pixels of a piece that are looked at, evenly spread."""

_WHITE: Final = 255
_UNIT: Final = 4096
"""Densities are whole multiples of 1/4096, so that their sums do not depend on the order."""
_TISSUE: Final = round(0.45 * _UNIT)
"""Density over all channels from which a pixel is tissue; glass at 220 of 255 is none."""
_FEWEST: Final = 64
"""Tissue pixels below which nothing is said."""

# Measured: H&E has at most 0.02 of brown pixels, blue to green 0.46 to 0.72, and red to green 0.32 to 0.56; a
# section with DAB 0.75 of brown pixels, and blue to green 1.3; haematoxylin alone red to green above 0.9.
_BROWN_REFUSED, _BROWN_DOUBTED = 0.15, 0.05
_BLUE_REFUSED, _BLUE_DOUBTED = 1.0, 0.85
_RED_DOUBTED: Final = 0.8

Stain = Literal["H&E", "brown", "doubtful brown", "doubtful blue", "unknown"]


@dataclass(frozen=True)
class StainColours:
    """What the pixels of some tissue absorb, summed; two may be added.

    Attributes
    ----------
    tissue, brown
        Number of pixels with tissue, and of those that are brown as DAB is.
    density
        Sum of optical densities (red, green, blue) over the tissue, in units of 1/4096.
    """

    tissue: int = 0
    brown: int = 0
    density: tuple[int, int, int] = (0, 0, 0)

    def __add__(self, other: StainColours) -> StainColours:
        """Return what both hold together."""
        red, green, blue = (a + b for a, b in zip(self.density, other.density, strict=True))
        return StainColours(self.tissue + other.tissue, self.brown + other.brown, (red, green, blue))

    @property
    def brown_share(self) -> float:
        """Share of the tissue that is brown, 0 to 1."""
        return self.brown / max(self.tissue, 1)

    @property
    def mean_density(self) -> float:
        """Mean optical density of the tissue, over all channels (natural logarithm); 0 without tissue."""
        return sum(self.density) / _UNIT / max(self.tissue, 1)

    def stain(self) -> Stain:
        """Say what the tissue is stained with, as far as its colours tell."""
        if self.tissue < _FEWEST:
            return "unknown"
        red, green, blue = self.density
        if self.brown_share >= _BROWN_REFUSED or (blue >= _BLUE_REFUSED * green and _brownish(red, blue)):
            return "brown"
        if self.brown_share >= _BROWN_DOUBTED or (blue >= _BLUE_DOUBTED * green and _brownish(red, blue)):
            return "doubtful brown"
        return "doubtful blue" if red >= _RED_DOUBTED * green else "H&E"


def stain_colours(pixels: NDArray[np.uint8]) -> StainColours:
    """Sum up the colours of some pixels.

    Parameters
    ----------
    pixels
        Shape (h, w, 3), uint8 RGB; of more than :data:`MOST_PIXELS`, every n-th row and column counts.
    """
    step = int(np.ceil(np.sqrt(max(1, pixels.shape[0] * pixels.shape[1] / MOST_PIXELS))))
    red, green, blue = _DENSITY[pixels[::step, ::step].reshape(-1, 3).T]
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    # What is as dark in every colour is ink, or a shadow.
    tissue = (red + green + blue >= _TISSUE) & (5 * (high - low) >= high)
    # Blue and green ink absorb most in red, which haematoxylin by itself does not quite.
    tissue &= (100 * red < 115 * green) | (red <= blue)
    red, green, blue = red[tissue], green[tissue], blue[tissue]
    # Brown absorbs less red than blue, but some: blood and saffron hardly any.
    brown = (blue >= green) & (10 * red >= 3 * blue) & (10 * red <= 8 * blue)
    sums = (int(red.sum()), int(green.sum()), int(blue.sum()))
    return StainColours(len(red), int(np.count_nonzero(brown)), sums)


def _brownish(red: int, blue: int) -> bool:
    return 0.3 * blue <= red <= 0.8 * blue


def _density_table() -> NDArray[np.int64]:
    levels = np.maximum(np.arange(256), 1)
    table: NDArray[np.int64] = np.rint(-_UNIT * np.log(levels / _WHITE)).astype(np.int64)
    return table


_DENSITY: Final = _density_table()
