"""Slides become predictions, with the same scoring as everywhere, and nothing is written into a project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from bridge.collection import Collection, Entry, EntryContent
from bridge.options import ScoreOptions
from bridge.regions import build_regions
from bridge.results import SlideResult
from bridge.scoring import failed_result, score_slide
from herohe_model.errors import CancelledError, HeroheError
from herohe_model.read_ahead import read_ahead
from herohe_model.scorer import CompositeScorer
from herohe_model.slide import Slide


@dataclass(frozen=True)
class _Job:
    entry: Entry
    content: EntryContent | HeroheError


def predict_slides(
    collection: Collection,
    scorer: CompositeScorer,
    options: ScoreOptions,
    *,
    region_classes: tuple[str, ...] = (),
    exclude_classes: tuple[str, ...] = (),
    slides_at_once: int = 2,
    cancelled: Callable[[], bool],
) -> Iterator[SlideResult]:
    """Score the slides of a collection in its order; one that fails becomes a result that says why.

    Raises
    ------
    CancelledError
        When `cancelled` said so.
    """

    def jobs() -> Iterator[_Job]:
        # Entries are read by the calling thread: QuPath's classes live there.
        for entry in collection.entries():
            if cancelled():
                raise CancelledError("Predicting was stopped", "Give the same command again")
            try:
                yield _Job(entry, collection.read(entry))
            except HeroheError as error:
                yield _Job(entry, error)

    def score(job: _Job) -> SlideResult:
        content = job.content
        if isinstance(content, HeroheError):
            return failed_result(content, entry=job.entry.id, slide=job.entry.name)
        try:
            with Slide(content.slide_path, mpp=options.mpp or content.mpp) as source:
                regions = build_regions(
                    content.annotations,
                    region_classes=region_classes,
                    exclude_classes=exclude_classes,
                    slide_box=source.bounds,
                )
                return score_slide(
                    source,
                    regions,
                    options,
                    scorer,
                    entry=job.entry.id,
                    slide=job.entry.name,
                    warnings=content.warnings,
                    cancelled=cancelled,
                )
        except CancelledError:
            raise
        except HeroheError as error:
            path = str(content.slide_path)
            return failed_result(error, entry=job.entry.id, slide=job.entry.name, path=path)

    with closing(read_ahead(jobs(), score, workers=slides_at_once, ahead=slides_at_once)) as results:
        yield from results
