"""Results as scoring would give them for what an entry holds, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import shapely

from bridge.annotations.regions import Region, build_regions
from bridge.projects.base import EntryContent
from bridge.results.schema import (
    CompositeResult,
    ForegroundPatch,
    Outcome,
    PlacedPatch,
    Provenance,
    RegionResult,
    SlideResult,
)
from helpers.example_results import STEPS, made_prediction, made_provenance
from herohe_model.slides.slide import Slide
from herohe_model.slides.source import Box

PATCH = 64


def sampled_result(
    content: EntryContent,
    *,
    region_classes: Sequence[str] = ("Tumor",),
    per_annotation: bool = False,
    grade: str = "2+",
    patch: int = PATCH,
) -> SlideResult:
    """Every patch of a grid whose centre lies in a region, and every fifth of them as not drawn."""
    with Slide(content.slide_path) as slide:
        box = slide.bounds
    regions = build_regions(
        content.annotations, region_classes=region_classes, exclude_classes=(), slide_box=box
    )
    provenance = _provenance(regions.digest(), grade, per_annotation)
    if regions.union is None:
        return SlideResult(
            entry=content.entry.id,
            slide=content.entry.name,
            path=str(content.slide_path),
            outcome=Outcome.NO_MATCHING_ANNOTATION,
            message=regions.no_match_message(),
            provenance=provenance,
        )
    union = _region(regions.union, box, grade, patch)
    return SlideResult(
        entry=content.entry.id,
        slide=content.entry.name,
        path=str(content.slide_path),
        outcome=union.outcome,
        warnings=regions.warnings,
        union=union,
        annotations=tuple(_region(r, box, grade, patch) for r in regions.annotations)
        if per_annotation
        else (),
        provenance=provenance,
    )


def _provenance(digest: str, grade: str, per_annotation: bool) -> Provenance:
    facts = msgspec.structs.replace(
        made_provenance(), run="", regions_sha256=digest, options={"grade": grade, "each": per_annotation}
    )
    return msgspec.structs.replace(facts, run=facts.digest()[:16])


def _region(region: Region, box: Box, grade: str, patch: int) -> RegionResult:
    x = np.arange(box.x, box.x + box.width - patch + 1, patch)
    y = np.arange(box.y, box.y + box.height - patch + 1, patch)
    grid = np.array([(a, b) for b in y for a in x], dtype=np.int64).reshape(-1, 2)
    inside = grid[shapely.contains_xy(region.geometry, grid[:, 0] + patch / 2, grid[:, 1] + patch / 2)]
    drawn = [place for number, place in enumerate(inside.tolist()) if number % 5 != 4]
    rest = [place for number, place in enumerate(inside.tolist()) if number % 5 == 4]
    shares = [round(0.001 * (number % 97) + 0.123456, 6) for number in range(len(drawn))]
    enough = bool(drawn)
    return RegionResult(
        region=region.id,
        name=region.name,
        class_name=region.class_name,
        annotations=region.annotations,
        outcome=Outcome.SCORED if enough else Outcome.INSUFFICIENT_TISSUE,
        patches_foreground=len(inside),
        patches_sampled=len(drawn),
        prediction=msgspec.structs.replace(made_prediction(), grade=grade) if enough else None,
        composites=(CompositeResult(0, (-1.0, 1.0, 2.0), 0.7, grade),) if enough else (),
        patches=tuple(
            PlacedPatch(a, b, patch, 0, number % 25, 0.25, (-share, share, 2 * share)[: len(STEPS)])
            for number, ((a, b), share) in enumerate(zip(drawn, shares, strict=True))
        ),
        unsampled=tuple(ForegroundPatch(a, b, patch, 0.125) for a, b in rest),
    )
