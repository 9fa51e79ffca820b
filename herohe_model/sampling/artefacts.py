"""Artefacts: patches that are coloured as tissue is and cannot be judged, each with its reason.

They are told from the very pixels that the mean saturation is computed of, made coarser until a patch is
about 5 px wide. There a pixel is pen, blood, glass and so on by the proportions of its optical densities
(Ruifrok & Johnston 2001, *Quantification of histochemical staining by color deconvolution*): haematoxylin and
eosin, in any mixture, absorb most in green, and blue less than half of that; ink, blood, DAB and tinted glass
do not. A fold is tissue twice as dense as the region's own; one of pale tissue cannot be told from a dense
tumour by its colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from herohe_model.sampling.saturation import Piece

ArtefactRule = Literal["leave-out", "mark", "ignore"]
"""What is done about patches that are artefacts."""

REASONS: Final = ("pen", "dark", "blood", "brown", "mountant", "fold", "glass", "unscanned")
"""Pen and other coloured ink; near-black, black ink and edges; blood; brown chromogen, such as DAB, and
pigment; mountant; tissue that lies double; glass that is tinted; not there at level 0. The code of a reason
is its place here, counted from 1."""

UNSCANNED: Final = REASONS.index("unscanned") + 1

_ACROSS: Final = 5
"""Least width of a patch, px, in the picture that is looked at."""
_MOST_ACROSS: Final = 15
"""Largest, so that the pixels of a patch are counted in a byte."""

_SPOILT: Final = 0.15
"""Share of what is not glass, from which an artefact spoils a patch."""
_SEEN: Final = 0.06
"""Share of the whole patch that this must be, too."""
_BARE: Final = 0.9
"""Share of glass from which a patch holds nothing else."""

_FOLDED: Final = 1.9
"""How dense a patch is that lies double, as a multiple of the median of the region's tissue."""
_MOST_FOLDED: Final = 0.3
"""Share of the tissue that may lie double; if it were more, it would be tissue that is dense."""
_DENSEST: Final = 63 / 20
"""Density over all channels, in steps of a twentieth, beyond which no difference is made."""

_TISSUE, _PEN, _DARK, _BLOOD, _BROWN, _MOUNTANT, _GLASS = range(7)
"""Kinds of pixels; tissue is not counted."""
_DENSITY_AT: Final = np.uint64(48)
"""Where the density of a pixel is added up, above six counts of a byte each."""


class Evidence:
    """What the pixels of patches show: filled piece by piece, by any thread, then judged.

    Parameters
    ----------
    count
        How many patches there are.
    """

    def __init__(self, count: int) -> None:
        self._counts = np.zeros(count, dtype=np.uint64)
        self._area = np.ones(count, dtype=np.int64)

    def add(self, piece: Piece) -> None:
        """Look at the pixels of some patches."""
        side = float(piece.columns[1][0] - piece.columns[0][0])
        step = max(1, int(side / _ACROSS), -(-int(side) // _MOST_ACROSS))
        picture = Image.fromarray(piece.pixels)
        coarse = np.asarray(picture.reduce(step) if step > 1 else picture)
        index = np.left_shift(coarse[..., 0] >> 2, 12, dtype=np.int32)
        index |= np.left_shift(coarse[..., 1] >> 2, 6, dtype=np.int32)
        index |= coarse[..., 2] >> 2
        along = _fields().take(index).cumsum(axis=1)
        height, width = index.shape
        left, right, top, bottom = (
            np.clip(np.floor(edge / step + 0.5).astype(np.int64), 0, limit)
            for edge, limit in zip((*piece.columns, *piece.rows), (width, width, height, height), strict=True)
        )
        # Of the summed-area table only the columns that patches begin or end at, which many share.
        ends, place = np.unique(np.concatenate([left, right]), return_inverse=True)
        table = np.zeros((height + 1, len(ends)), dtype=np.uint64)
        np.cumsum(along[:, np.maximum(ends - 1, 0)] * (ends > 0), axis=0, out=table[1:])
        first, last = np.split(place, 2)
        # Sums wrap, their differences do not: no patch has more than 255 of a kind.
        self._counts[piece.which] = (
            table[bottom, last] - table[bottom, first] - table[top, last] + table[top, first]
        )
        self._area[piece.which] = np.maximum((right - left) * (bottom - top), 1)

    def reasons(self, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the code of the reason why each patch is an artefact; 0 for none.

        Parameters
        ----------
        tissue
            Which patches their saturation takes for tissue, shape (n,); the others get 0.
        """
        share = {kind: self._shares(kind) for kind in range(_PEN, _GLASS + 1)}
        rest = np.maximum(1.0 - share[_GLASS], 1e-9)
        spoilt = np.stack([share[kind] for kind in (_PEN, _DARK, _BLOOD, _BROWN, _MOUNTANT)])
        largest = spoilt.argmax(axis=0)
        most = spoilt.max(axis=0)
        found = np.where((most >= _SPOILT * rest) & (most >= _SEEN), largest + 1, 0)
        found = np.where((found == 0) & (share[_GLASS] >= _BARE), REASONS.index("glass") + 1, found)
        # Of what is not glass: a patch at the margin of the tissue is as dense as one within it.
        density = (self._counts >> _DENSITY_AT).astype(np.float64) / 20 / (self._area * rest)
        sound = tissue & (found == 0)
        usual = float(np.median(density[sound])) if sound.any() else 0.0
        # Of a region that is dark all over, nothing is told from a fold.
        folded = (density >= _FOLDED * usual) & (rest >= _SPOILT) & (_FOLDED * usual < 0.95 * _DENSEST)
        folded &= sound & (np.count_nonzero(sound & folded) <= _MOST_FOLDED * np.count_nonzero(sound))
        found = np.where(folded, REASONS.index("fold") + 1, found)
        return np.where(tissue, found, 0).astype(np.uint8)

    def _shares(self, kind: int) -> NDArray[np.float64]:
        counts = (self._counts >> np.uint64(8 * (kind - 1))) & np.uint64(255)
        return np.asarray(counts.astype(np.float64) / self._area, dtype=np.float64)


def count_reasons(codes: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many patches have each reason, those that none has left out, in the order of the reasons."""
    counts = np.bincount(codes, minlength=len(REASONS) + 1)[1:]
    return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if count}


def artefacts_in_words(counts: Mapping[str, int]) -> str:
    """Return counts by reason, the largest first, such as ``31 pen, 4 fold``."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {reason}" for reason, count in ranked)


@cache
def _fields() -> NDArray[np.uint64]:
    """Return, by 6 bits of red, green and blue, a one in the byte of the pixel's kind, and its density."""
    kinds, density = _kinds_and_density()
    dense = np.where(kinds == _GLASS, 0, np.rint(np.minimum(density, _DENSEST) * 20)).astype(np.uint64)
    ones = np.left_shift(np.uint64(1), np.uint64(8) * (kinds.astype(np.uint64) - np.uint64(1)))
    return np.asarray(
        np.where(kinds == _TISSUE, np.uint64(0), ones) | (dense << _DENSITY_AT), dtype=np.uint64
    )


def _kinds_and_density() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return kind and density of a pixel by 6 bits of red, green and blue; see the module's docstring."""
    levels = np.arange(64) * 4 + 2.0
    # Rounded, so that no platform's logarithm decides on which side of a limit a colour lies.
    density = np.round(-np.log(levels / 255.0), 6)
    red, green, blue = (d.ravel() for d in np.meshgrid(density, density, density, indexing="ij"))
    total = red + green + blue
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    brightest = 255.0 * np.exp(-low)
    coloured = total >= 0.5
    rules = (
        # Eosin's pink, however pale, absorbs more in green than in the mean of red and blue.
        (_GLASS, (total < 0.45) & (green - (red + blue) / 2 < 0.03)),
        (_DARK, (brightest < 60) | ((high - low < 0.18 * high) & (high >= 0.45))),
        (_PEN, coloured & (red - green > 0.15) & (green <= blue)),
        (_PEN, coloured & (red >= 1.15 * green) & (red > blue)),
        (_PEN, (total >= 1.5) & (red >= 1.06 * green) & (red > blue)),
        (_PEN, (red <= 0.1 * green) & (green >= 1.6)),
        (_BROWN, coloured & (blue >= 0.95 * green) & (red >= 0.3 * blue) & (red <= 0.8 * blue)),
        (_MOUNTANT, coloured & (blue > 1.25 * green) & (red < 0.3 * blue)),
        (
            _BLOOD,
            (red <= 0.33 * green)
            & (blue <= 1.25 * green)
            & (((green >= 0.8) & (blue >= 0.78 * green)) | ((green >= 0.5) & (blue >= 0.92 * green))),
        ),
    )
    kinds = np.full(len(total), _TISSUE, dtype=np.int64)
    for kind, fits in reversed(rules):
        kinds[fits] = kind
    return kinds, total
