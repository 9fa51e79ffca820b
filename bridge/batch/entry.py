"""One entry of a collection, as a batch needs it: its annotations as regions, and its slide's fingerprint."""

from __future__ import annotations

from bridge.annotations.regions import SlideRegions, build_regions
from bridge.annotations.unmatched_classes import ClassTally
from bridge.batch.options import BatchOptions
from bridge.projects.base import Collection, Entry, EntryContent
from bridge.scoring.suitability import check_image_type
from herohe_model.slides.guarded_slide import GuardedSlide


def read_entry(
    collection: Collection, entry: Entry, options: BatchOptions
) -> tuple[EntryContent, SlideRegions, str]:
    """Read an entry's annotations and its slide's bounds and fingerprint."""
    content = collection.read(entry)
    if not options.score.any_stain:
        check_image_type(content.image_type, entry.name)
    with GuardedSlide(content.slide_path, mpp=options.score.mpp or content.mpp) as slide:
        regions = build_regions(
            content.annotations,
            region_classes=options.region_classes,
            exclude_classes=options.exclude_classes,
            slide_box=content.view.of(slide).bounds,
        )
        return content, regions, slide.fingerprint


def unmatched_classes(tally: ClassTally, options: BatchOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a sentence for each class to sample in, and for each to cut out, that no slide has."""
    return (
        tally.unmatched(options.region_classes, "--region-class"),
        tally.unmatched(options.exclude_classes, "--exclude-class"),
    )
