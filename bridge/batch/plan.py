"""What a batch would do, without scoring and without changing a byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bridge.batch.entry import opened, read_entry
from bridge.batch.options import BatchOptions
from bridge.projects.base import Collection
from bridge.scoring.foreground import region_patches
from bridge.scoring.slide import as_herohe
from bridge.scoring.suitability import stain_refusal
from herohe_model.model.card import ModelCard


@dataclass(frozen=True)
class PlannedSlide:
    """What a run would do with one slide.

    ``patches_covered`` and ``patches_foreground`` count the patches of its regions; ``problem`` is empty for
    a slide that can be scored; ``classes`` are those of its annotations, None where they cannot be read.
    """

    slide: str
    regions: int
    patches_covered: int
    patches_foreground: int
    problem: str
    classes: tuple[tuple[str, int], ...] | None = None


def plan_batch(collection: Collection, card: ModelCard, options: BatchOptions) -> Iterator[PlannedSlide]:
    """Look at every slide as a run would, without scoring and without changing a byte."""
    for entry in collection.entries():
        try:
            content, regions, _ = read_entry(collection, entry, options)
            if regions.union is None:
                yield PlannedSlide(entry.name, 0, 0, 0, regions.no_match_message(), regions.classes_present)
                continue
            with opened(content, options.score.mpp) as slide:
                patches = region_patches(
                    slide,
                    regions.union.geometry,
                    options.score,
                    patch_px=card.patch_px,
                    mpp=card.mpp,
                    threshold=card.foreground_threshold,
                )
        except Exception as error:
            yield PlannedSlide(entry.name, 0, 0, 0, str(as_herohe(error, entry.name)))
            continue
        refusal = "" if options.score.any_stain else stain_refusal(patches.stain, entry.name)
        if not refusal and len(patches) < options.score.min_patches:
            refusal = f"insufficient tissue: fewer than {options.score.min_patches} foreground patches"
        yield PlannedSlide(
            entry.name,
            len(regions.annotations),
            patches.covered,
            len(patches),
            refusal,
            regions.classes_present,
        )
