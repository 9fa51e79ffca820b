"""Labels and a collection of slides become the slides that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bridge.annotations.regions import build_regions
from bridge.annotations.unmatched_classes import ClassTally
from bridge.projects.base import Collection, Entry
from bridge.scoring.slide import as_herohe
from herohe_model.dataset.cases import Case
from herohe_model.dataset.fingerprints import find_twins, together
from herohe_model.dataset.matching import MEANT, SEVERAL_SLIDES, Matching
from herohe_model.errors import CancelledError, OptionError, RegionError
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.training.data import TrainingSlide
from herohe_model.training.foreground_cache import Unusable


@dataclass(frozen=True)
class LabelledSlides:
    """Slides with labels and regions, and what cannot be used.

    Attributes
    ----------
    unusable
        Slides that cannot be read or have no such region, cases with several slides, and slides that stand
        under several cases with other labels.
    notes
        A sentence for each class to cut out that no slide has, and for each slide that stands under several
        cases; these stay in one fold.
    """

    slides: tuple[TrainingSlide, ...]
    unusable: tuple[Unusable, ...]
    notes: tuple[str, ...] = ()


def label_slides(
    collection: Collection,
    matching: Matching,
    *,
    region_classes: Sequence[str] = (),
    exclude_classes: Sequence[str] = (),
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> LabelledSlides:
    """Read the regions of every slide that has a label.

    Parameters
    ----------
    matching
        Of the collection's entries, by their names in their order.
    region_classes, exclude_classes
        As :func:`bridge.annotations.regions.build_regions` takes them.
    progress
        Told how many slides were looked at.

    Raises
    ------
    OptionError
        If no slide has a label.
    RegionError
        If a class of `region_classes` is on none of the slides.
    CancelledError
        When `stop` said so.
    """
    if not matching.matched:
        raise OptionError(
            f"No slide of {collection.root} has a label in the split {matching.split}",
            "A slide's name without its extension is its case" + _hint(matching),
        )
    entries = collection.entries()
    slides: list[TrainingSlide] = []
    tally = ClassTally()
    unusable = [
        Unusable(f"{matching.split}/{u.name}", collection.root, f"Several slides: {u.reason}")
        for u in matching.unmatched
        if u.kind == SEVERAL_SLIDES
    ]
    for number, (case, index) in enumerate(matching.matched, start=1):
        if stop():
            raise CancelledError("Reading the slides' regions was stopped", "Give the same command again")
        slide = _read(collection, entries[index], case, region_classes, exclude_classes, tally)
        if isinstance(slide, Unusable):
            unusable.append(slide)
        else:
            slides.append(slide)
        progress(number)
    missed = tally.unmatched(region_classes, "--region-class")
    if missed:
        raise RegionError(" ".join(missed), "Name a class that the annotations have, or leave it out")
    notes = list(tally.unmatched(exclude_classes, "--exclude-class"))
    twins = find_twins([slide.case for slide in slides], [slide.fingerprint for slide in slides])
    bad = {case.key: str(pair) for pair in twins if pair.contradicting for case in pair.cases}
    unusable += [Unusable(s.name, s.path, bad[s.case.key]) for s in slides if s.case.key in bad]
    notes += [f"{pair} They stay in one fold." for pair in twins if not pair.contradicting]
    slides = [
        replace(slide, case=case)
        for slide, case in zip(slides, together([s.case for s in slides], twins), strict=True)
        if case.key not in bad
    ]
    return LabelledSlides(tuple(slides), tuple(unusable), tuple(notes))


def _hint(matching: Matching) -> str:
    """Return what was probably meant, by the first case for which there is a guess."""
    guesses = (u for u in matching.unmatched if MEANT in u.reason)
    return next((f"; {u.kind} {u.name}: {u.reason}" for u in guesses), "")


def _read(
    collection: Collection,
    entry: Entry,
    case: Case,
    region_classes: Sequence[str],
    exclude_classes: Sequence[str],
    tally: ClassTally,
) -> TrainingSlide | Unusable:
    name = f"{case.split}/{case.id}"
    try:
        content = collection.read(entry)
        with GuardedSlide(content.slide_path, mpp=content.mpp) as source:
            regions = build_regions(
                content.annotations,
                region_classes=region_classes,
                exclude_classes=exclude_classes,
                slide_box=source.bounds,
            )
            fingerprint = source.fingerprint
    except Exception as error:
        return Unusable(name, collection.root / entry.name, str(as_herohe(error, entry.name)))
    tally.add(regions.classes_present)
    if regions.union is None:
        return Unusable(name, content.slide_path, regions.no_match_message())
    return TrainingSlide(case, content.slide_path, regions.union.geometry, content.mpp, fingerprint)
