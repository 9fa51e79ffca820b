"""One entry of a collection, as a batch needs it: its annotations as regions, and its slide's fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.annotations.regions import SlideRegions, build_regions
from bridge.annotations.unmatched_classes import ClassTally
from bridge.batch.options import BatchOptions
from bridge.projects.base import Collection, Entry, EntryContent
from bridge.scoring.job import Opener
from bridge.scoring.suitability import check_image_type
from bridge.server.remote_slide import RemoteSlide
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.source import SlideSource


def read_entry(
    collection: Collection, entry: Entry, options: BatchOptions
) -> tuple[EntryContent, SlideRegions, str]:
    """Read an entry's annotations and its slide's bounds and fingerprint."""
    content = collection.read(entry)
    if not options.score.any_stain:
        check_image_type(content.image_type, entry.name)
    with opened(content, options.score.mpp) as slide:
        return content, regions_of(content, options, slide), slide.fingerprint


def regions_of(content: EntryContent, options: BatchOptions, slide: SlideSource) -> SlideRegions:
    """Make regions of an entry's annotations; the slide is what the entry shows."""
    return build_regions(
        content.annotations,
        region_classes=options.region_classes,
        exclude_classes=options.exclude_classes,
        slide_box=slide.bounds,
    )


@contextmanager
def opened(content: EntryContent, mpp: float | None) -> Iterator[SlideSource]:
    """Open what an entry shows: its file, or the pixels that QuPath reads; `mpp` goes before its own."""
    if content.pixels is None:
        with GuardedSlide(content.slide_path, mpp=mpp or content.mpp) as slide:
            yield content.view.of(slide)
    else:
        with content.pixels.opened() as fetch:
            yield RemoteSlide(content.pixels.source, fetch, mpp=mpp or content.mpp)


def opener_of(content: EntryContent) -> Opener | None:
    """Return how the slide of a job is opened; None for its file."""
    return None if content.pixels is None else lambda job: opened(content, job.mpp)


def unmatched_classes(tally: ClassTally, options: BatchOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a sentence for each class to sample in, and for each to cut out, that no slide has."""
    return (
        tally.unmatched(options.region_classes, "--region-class"),
        tally.unmatched(options.exclude_classes, "--exclude-class"),
    )
