"""Labels and a collection of slides become the slides that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.collection import Collection, Entry
from bridge.regions import build_regions
from herohe_model.cases import Case
from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.foreground_cache import Unusable
from herohe_model.slide import Slide
from herohe_model.slide_names import case_id
from herohe_model.training_data import TrainingSlide


@dataclass(frozen=True)
class LabelledSlides:
    """Slides with labels and regions, and everything that found no partner or cannot be used.

    Attributes
    ----------
    without_label
        Names of slides that no label names.
    without_slide
        IDs of cases whose slide is not there.
    """

    slides: tuple[TrainingSlide, ...]
    unusable: tuple[Unusable, ...]
    without_label: tuple[str, ...]
    without_slide: tuple[str, ...]


def label_slides(
    collection: Collection,
    cases: Sequence[Case],
    *,
    region_classes: Sequence[str] = (),
    exclude_classes: Sequence[str] = (),
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> LabelledSlides:
    """Read the regions of every slide that has a label.

    Parameters
    ----------
    cases
        Of one split.
    region_classes, exclude_classes
        As :func:`bridge.regions.build_regions` takes them.
    progress
        Told how many entries were looked at.

    Raises
    ------
    OptionError
        If two slides are of one case, or no slide has a label.
    CancelledError
        When `stop` said so.
    """
    by_id = {case.id: case for case in cases}
    found: dict[str, str] = {}
    slides: list[TrainingSlide] = []
    unusable: list[Unusable] = []
    without_label: list[str] = []
    for number, entry in enumerate(collection.entries(), start=1):
        if stop():
            raise CancelledError("Reading the slides' regions was stopped", "Give the same command again")
        name = case_id(entry.name)
        case = by_id.get(name)
        if case is None:
            without_label.append(entry.name)
            continue
        if found.setdefault(name, entry.id) != entry.id:
            raise OptionError(f"Case {name} has several slides in {collection.root}", "Keep one a case")
        slide = _read(collection, entry, case, region_classes, exclude_classes)
        if isinstance(slide, Unusable):
            unusable.append(slide)
        else:
            slides.append(slide)
        progress(number)
    if not found:
        raise OptionError(
            f"No slide of {collection.root} has a label", "A slide's name without its extension is its case"
        )
    return LabelledSlides(
        tuple(slides),
        tuple(unusable),
        tuple(without_label),
        tuple(case.id for case in cases if case.id not in found),
    )


def _read(
    collection: Collection,
    entry: Entry,
    case: Case,
    region_classes: Sequence[str],
    exclude_classes: Sequence[str],
) -> TrainingSlide | Unusable:
    name = f"{case.split}/{case.id}"
    try:
        content = collection.read(entry)
        with Slide(content.slide_path, mpp=content.mpp) as source:
            regions = build_regions(
                content.annotations,
                region_classes=region_classes,
                exclude_classes=exclude_classes,
                slide_box=source.bounds,
            )
    except HeroheError as error:
        return Unusable(name, collection.root / entry.name, str(error))
    if regions.union is None:
        return Unusable(name, content.slide_path, regions.no_match_message())
    return TrainingSlide(case, content.slide_path, regions.union.geometry, content.mpp)
