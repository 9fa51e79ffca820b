"""A linear probe: which patches are of a tissue, by their features; its file, and the regions it proposes.

Logistic regression on standardised features (a *linear probe*, Alain and Bengio 2016), whose probabilities
are averaged over a patch and its eight neighbours before they are cut: a pathologist outlines areas, not
patches.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import safetensors.numpy
import shapely
from numpy.typing import NDArray
from safetensors import SafetensorError
from shapely.geometry.base import BaseGeometry

from herohe_model.features.schema import FeatureFacts, FeatureFileError, differences
from herohe_model.files import write_atomically
from herohe_model.model.card import open_model_file, read_header
from herohe_model.notice import RESEARCH_USE_ONLY

FORMAT: Final = "herohe-bridge probe"
VERSION: Final = 1
_KEY: Final = "probe"
_MOST_BYTES: Final = 1 << 24
_OTHER: Final = "Name a file that herohe-bridge regions learn wrote"


class HeldOut(msgspec.Struct, frozen=True):
    """How a slide was told by probes that were fitted without it.

    Attributes
    ----------
    dice
        2 |P and T| / (|P| + |T|) of the proposed and the drawn area.
    dice_of_all
        The same if all patches were proposed.
    drawn_mm2, proposed_mm2
        The areas.
    """

    slide: str
    dice: float
    dice_of_all: float
    drawn_mm2: float
    proposed_mm2: float


class ProbeCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a probe is, and how good it was.

    Attributes
    ----------
    region_classes
        What it was learned from: QuPath's classes.
    encoder, dimension, patch_px, mpp, weights_sha256
        Of the features, as files of them say; None and "" where they do not.
    threshold
        Mean probability of a patch and its neighbours from which it is proposed.
    held_out
        Each slide by probes that had not seen it nor any other of its patient.
    """

    format: str = FORMAT
    version: int = VERSION
    region_classes: tuple[str, ...]
    encoder: str
    dimension: int
    patch_px: int | None
    mpp: float | None
    weights_sha256: str
    threshold: float
    held_out: tuple[HeldOut, ...]
    versions: dict[str, str]
    note: str = RESEARCH_USE_ONLY


class Probe:
    """A probe, with its weights.

    Attributes
    ----------
    centre, scale, weight
        Shape (dimension,), float64: features are centred and scaled before they are weighed.
    """

    def __init__(
        self,
        card: ProbeCard,
        centre: NDArray[np.float64],
        scale: NDArray[np.float64],
        weight: NDArray[np.float64],
        bias: float,
    ) -> None:
        self.card = card
        self.centre, self.scale, self.weight, self.bias = centre, scale, weight, bias

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each patch, shape (n,)."""
        z = ((features - self.centre) / self.scale) @ self.weight + self.bias
        p: NDArray[np.float64] = (np.tanh(z / 2) + 1) / 2
        return p

    def check(self, facts: FeatureFacts) -> None:
        """Check that features are of the kind it was fitted on.

        Raises
        ------
        FeatureFileError
            If encoder, numbers a patch, scale or weights are others.
        """
        card = self.card
        wrong = differences(
            facts,
            encoder=card.encoder,
            dimension=card.dimension,
            patch_px=card.patch_px,
            mpp=card.mpp,
            weights_sha256=card.weights_sha256,
        )
        if facts.patch_px is None and card.patch_px is not None:
            wrong.append(f"it does not say how many px its patches have, which should be {card.patch_px}")
        if wrong:
            raise FeatureFileError(
                f"{facts.path} does not hold the features that the probe learned from: {'; '.join(wrong)}",
                "Extract features as those it learned from",
            )

    def save(self, path: Path) -> None:
        """Write it as a safetensors file, or leave what was there."""
        tensors = {
            "centre": self.centre,
            "scale": self.scale,
            "weight": self.weight,
            "bias": np.array([self.bias]),
        }
        metadata = {_KEY: msgspec.json.encode(self.card, order="deterministic").decode()}
        write_atomically(path, safetensors.numpy.save(tensors, metadata))


def load_probe(path: Path) -> Probe:
    """Read a probe.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged or too large.
    FeatureFileError
        If it is no probe.
    """
    with open_model_file(path) as file:
        data = file.read(_MOST_BYTES)
    text = read_header(io.BytesIO(data), len(data), path).get(_KEY)
    if text is None:
        raise FeatureFileError(f"{path} is no probe of regions", _OTHER)
    try:
        card = msgspec.json.decode(text, type=ProbeCard)
        tensors = safetensors.numpy.load(data)
        centre, scale, weight, bias = (tensors[name] for name in ("centre", "scale", "weight", "bias"))
    except (msgspec.MsgspecError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FeatureFileError(f"{path} is damaged: {error}", _OTHER) from error
    whole = [centre, scale, weight]
    if any(t.shape != (card.dimension,) or not np.isfinite(t).all() for t in whole) or not (scale > 0).all():
        raise FeatureFileError(f"{path} does not fit its card", _OTHER)
    if card.format != FORMAT or card.version != VERSION or bias.shape != (1,) or not np.isfinite(bias).all():
        raise FeatureFileError(f"{path} is a probe of another version", _OTHER)
    return Probe(card, centre, scale, weight, float(bias[0]))


def smoothed(corners: NDArray[np.int64], size: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each patch and those of its eight neighbours that are there.

    Parameters
    ----------
    corners, size
        Upper left corners of the patches, (n, 2), and their side; any px. Corners that are no whole number of
        sides apart stand for the nearest place of the grid.
    p
        Shape (n,).
    """
    if not len(p):
        return p
    place = np.rint((corners - corners.min(axis=0)) / size).astype(np.int64) + 1
    shape = tuple(place.max(axis=0) + 2)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (place[:, 0], place[:, 1]), p)
    np.add.at(count, (place[:, 0], place[:, 1]), 1.0)
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    sums = sum(total[place[:, 0] + dx, place[:, 1] + dy] for dx, dy in around)
    counts = sum(count[place[:, 0] + dx, place[:, 1] + dy] for dx, dy in around)
    mean: NDArray[np.float64] = np.asarray(sums / counts, dtype=np.float64)
    return mean


def outlines(
    corners: NDArray[np.int64], size: int, chosen: NDArray[np.bool_], *, least: float
) -> list[BaseGeometry]:
    """Return the areas that chosen patches make together, largest first.

    Parameters
    ----------
    corners, size
        Upper left corners of all patches, (n, 2), and their side; level-0 px.
    chosen
        Shape (n,).
    least
        Area below which one is left out, and below which a hole is closed; px squared.

    Returns
    -------
    list
        Valid polygons, in the px of the corners.
    """
    x, y = corners[chosen, 0], corners[chosen, 1]
    # Edges are rounded to whole px: a px more closes what rounding left open between neighbours.
    whole = shapely.union_all(shapely.box(x, y, x + size + 1, y + size + 1))
    parts = [part for part in shapely.get_parts(whole) if part.area >= least]
    closed = [
        shapely.Polygon(
            part.exterior, [ring for ring in part.interiors if shapely.Polygon(ring).area >= least]
        )
        for part in parts
    ]
    return sorted(closed, key=lambda part: (-part.area, part.bounds))
