"""The foreground of a region, as the options of scoring say it is found, and what was left out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shapely.geometry.base import BaseGeometry

from bridge.results.schema import RegionResult
from bridge.scoring.options import ScoreOptions
from herohe_model.sampling.artefacts import artefacts_in_words
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.slides.source import SlideSource

_BLURRED_WARNED, BLURRED_REFUSED = 0.25, 0.5
"""Share of the patches out of focus from which that is said, and above which a slide is not scored."""
_MANY: Final = 0.1
"""Share of a region's tissue from which it is said that artefacts were left out."""


def region_patches(
    source: SlideSource,
    geometry: BaseGeometry | None,
    options: ScoreOptions,
    *,
    patch_px: int,
    mpp: float,
    threshold: float,
    cancelled: Callable[[], bool] | None = None,
) -> PatchSet:
    """Find the patches of a region.

    Parameters
    ----------
    geometry
        Level-0 px of the slide; None for the whole slide.
    patch_px, mpp, threshold
        As of :func:`herohe_model.sampling.patches.find_patches`; the threshold for where the options name
        none.

    Raises
    ------
    HeroheError
        As of :func:`herohe_model.sampling.patches.find_patches`.
    """
    return find_patches(
        source,
        geometry,
        patch_px=patch_px,
        mpp=mpp,
        threshold=threshold if options.foreground_threshold is None else options.foreground_threshold,
        min_coverage=options.min_coverage,
        exact=options.exact_foreground,
        artefacts=options.artefact_rule,
        cancelled=cancelled,
    )


def focus_refusal(region: RegionResult, options: ScoreOptions, name: str) -> str:
    """Say why a slide that is out of focus has no result; "" where it is sharp enough."""
    blurred = region.out_of_focus
    if blurred is None or blurred <= BLURRED_REFUSED or options.artefact_rule != "leave-out":
        return ""
    return (
        f"{name} is out of focus: {blurred:.0%} of the patches that were seen are blurred. Have it scanned "
        "again, draw a region that is sharp, or give --artefacts mark to score it all the same."
    )


def focus_warning(region: RegionResult, options: ScoreOptions) -> str:
    """Say that a part of what was seen is out of focus; "" where little is."""
    blurred = region.out_of_focus
    if blurred is None or blurred < _BLURRED_WARNED:
        return ""
    instead = not region.is_bag and options.artefact_rule == "leave-out"
    rest = "; sharp ones were drawn in their place" if instead else ""
    return f"{blurred:.0%} of the patches that were looked at are blurred{rest}."


def artefact_warning(patches: PatchSet, options: ScoreOptions) -> str:
    """Say that much of a region's tissue cannot be judged; "" where it is little."""
    spoilt = sum(patches.artefacts.values())
    tissue = len(patches) + (spoilt if options.artefact_rule == "leave-out" else 0)
    if spoilt < _MANY * tissue or not spoilt:
        return ""
    done = "were left out" if options.artefact_rule == "leave-out" else "are among those that were scored"
    kinds = artefacts_in_words(patches.artefacts)
    return f"{spoilt / tissue:.0%} of the tissue patches are artefacts ({kinds}) and {done}."
