"""What a file of patch features holds, whichever tool made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import HeroheError

Layout = Literal["trident", "stamp", "clam", "pt"]
"""Whose way of writing a file follows; ``pt`` is CLAM's tensor without coordinates."""

PROVENANCE: Final = "herohe_bridge"
"""Name of the attribute of a file in which `features extract` says how it made it, as JSON."""

_SCALE_TOLERANCE: Final = 0.02
"""By how much scales may differ and be one."""


class FeatureFileError(HeroheError):
    """A file or folder of features cannot be used."""

    code = "features"


@dataclass(frozen=True)
class FeatureFacts:
    """What a file says of its features, without them.

    Attributes
    ----------
    name
        The slide's name without its extension, by the file's name; see
        :func:`herohe_model.dataset.cases.case_id`.
    encoder
        As the tool that made the file calls it; None where the file does not say.
    count, dimension
        Patches, and numbers a patch. The dimension is 0 where a file without patches does not say it.
    patch_px
        Side of a patch as it was read for the encoder, in px at `mpp`; None where unknown.
    patch_size_level0
        Side of a patch in level-0 px; None where unknown.
    patch_um
        Side of a patch in µm; None where unknown.
    mpp
        µm per px at which patches were read; TRIDENT says a magnification, of which 20 is 0.5 µm/px. None
        where unknown.
    slide_mpp
        µm per level-0 px of the slide; None where the file does not say.
    coordinates
        In what the file has them: level-0 ``px``, ``um``, or None.
    provenance
        How the file was made: of our own all of it, of others the version of the tool.
    """

    path: Path
    name: str
    layout: Layout
    encoder: str | None
    count: int
    dimension: int
    patch_px: int | None = None
    patch_size_level0: int | None = None
    patch_um: float | None = None
    mpp: float | None = None
    slide_mpp: float | None = None
    coordinates: Literal["px", "um"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideFeatures(FeatureFacts):
    """A slide's patches as an encoder saw them, in the order of the file.

    Attributes
    ----------
    features
        (n, d) float32, all finite.
    coords
        (n, 2) int64, level-0 px (x, y) of each patch's upper left corner; None where the file has none, or
        has µm and the slide's scale is not known (see :func:`placed`).
    coords_um
        (n, 2) float64, the same corners in µm as a STAMP file has them; None otherwise.
    """

    features: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    coords: NDArray[np.int64] | None = None
    coords_um: NDArray[np.float64] | None = None


def placed(features: SlideFeatures, slide_mpp: float) -> SlideFeatures:
    """Return features whose coordinates are level-0 px, those in µm turned by the slide's µm per level-0 px.

    Of features that have pixels already, or nothing, nothing changes.
    """
    if features.coords is not None or features.coords_um is None:
        return features
    side = features.patch_um
    return replace(
        features,
        coords=np.rint(features.coords_um / slide_mpp).astype(np.int64),
        slide_mpp=slide_mpp,
        # STAMP cuts tiles of whole level-0 pixels, rounded up.
        patch_size_level0=None if side is None else int(np.ceil(round(side / slide_mpp, 6))),
    )


def differences(
    facts: FeatureFacts,
    *,
    encoder: str,
    dimension: int,
    patch_px: int | None,
    mpp: float | None,
    weights_sha256: str,
) -> list[str]:
    """Say in what a file's features differ from those that something learned from, as far as it says."""
    wrong = []
    if facts.encoder != encoder:
        wrong.append(f"they are of {facts.encoder or 'an encoder it does not name'}, not of {encoder}")
    if facts.dimension not in (0, dimension):
        wrong.append(f"a patch has {facts.dimension} numbers, not {dimension}")
    if facts.patch_px is not None and facts.patch_px != patch_px:
        wrong.append(f"patches have {facts.patch_px} px, not {patch_px or 'an unknown number'}")
    if facts.mpp is not None and mpp is not None and abs(facts.mpp / mpp - 1) > _SCALE_TOLERANCE:
        wrong.append(f"patches were read at {facts.mpp:g} µm/px, not at {mpp:g}")
    made_by = facts.provenance.get("weights_sha256")
    if weights_sha256 and made_by and made_by != weights_sha256:
        wrong.append("the encoder had other weights")
    return wrong


def facts_of(features: SlideFeatures) -> FeatureFacts:
    """Return what is known of features without keeping them in memory."""
    return FeatureFacts(**{f.name: getattr(features, f.name) for f in fields(FeatureFacts)})
