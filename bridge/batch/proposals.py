"""Regions where nobody drew: a probe learned from what was drawn in a project, and what it proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from bridge.annotations.classes import chooses
from bridge.batch.entry import regions_of
from bridge.batch.options import BatchOptions
from bridge.projects.base import Collection, Entry, EntryContent
from bridge.projects.qupath_project import QuPathProject
from bridge.scoring.features_on_disk import covered_share
from bridge.scoring.slide import as_herohe
from bridge.versions import package_versions
from herohe_model.errors import CancelledError, OptionError
from herohe_model.features.probe import Probe, ProbeCard, outlines, smoothed
from herohe_model.features.read import read_features
from herohe_model.features.schema import FeatureFileError, SlideFeatures
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.training.probe import UM2_A_MM2, DrawnSlide, learn_probe


@dataclass(frozen=True)
class Proposal:
    """What became of one slide.

    Attributes
    ----------
    areas
        Proposed regions.
    mm2
        Their area.
    skipped
        Why nothing was proposed; "" where the probe was asked.
    failed
        What went wrong; "" where nothing did.
    """

    slide: str
    areas: int = 0
    mm2: float = 0.0
    skipped: str = ""
    failed: str = ""


def learn_regions(
    collection: Collection,
    files: Mapping[str, Path],
    region_classes: Sequence[str],
    exclude_classes: Sequence[str],
    *,
    seed: int,
    say: Callable[[str], None],
    begin: Callable[[str, int, str], None],
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> Probe:
    """Learn from the slides of a collection that have annotations of a class, and features.

    Parameters
    ----------
    files
        Features by the slides' names, see :func:`herohe_model.features.find.find_features`.
    say
        Is told of each slide that is left out, and why.

    Raises
    ------
    HeroheError
        As of :func:`herohe_model.training.probe.learn_probe`; one slide's error is said.
    """
    options = BatchOptions(tuple(region_classes), tuple(exclude_classes), features=files)
    card: ProbeCard | None = None
    slides: list[DrawnSlide] = []
    entries = collection.entries()
    begin("reading features", len(entries), "slides")
    for done, entry in enumerate(entries, start=1):
        if stop():
            raise CancelledError("Learning regions was stopped")
        try:
            content = collection.read(entry)
            found = _drawn(content, options)
            if found is None:
                say(f"Left out: {entry.name} has no annotation of {' or '.join(region_classes)}")
            else:
                slide, features = found
                if card is None:
                    card = _card(features, region_classes)
                Probe(card, *(np.ones(card.dimension),) * 3, 0.0).check(features)
                slides.append(slide)
        except Exception as error:
            say(f"Left out: {as_herohe(error, entry.name)}")
        progress(done)
    if card is None:
        raise OptionError(
            f"No slide has both features and an annotation of {' or '.join(region_classes)}",
            "Draw on some slides, all of the class on each, and extract features of their whole tissue",
        )
    return learn_probe(
        slides,
        card,
        seed=seed,
        begin=lambda fits: begin("learning", fits, "fits"),
        progress=progress,
        stop=stop,
    )


def propose_regions(
    project: QuPathProject,
    files: Mapping[str, Path],
    probe: Probe,
    sha256: str,
    *,
    least_mm2: float,
    stop: Callable[[], bool],
) -> Iterator[Proposal]:
    """Write proposals onto every image of a project that has no annotation of the class; yield each image.

    Parameters
    ----------
    least_mm2
        Areas below are left out, and holes below are closed.
    """
    for entry in project.entries():
        if stop():
            raise CancelledError("Proposing was stopped", "Give the same command again")
        try:
            yield _propose(project, entry, files, probe, sha256, least_mm2)
        except Exception as error:
            yield Proposal(entry.name, failed=str(as_herohe(error, entry.name)))


def _propose(
    project: QuPathProject,
    entry: Entry,
    files: Mapping[str, Path],
    probe: Probe,
    sha256: str,
    least_mm2: float,
) -> Proposal:
    content = project.read(entry)
    wanted = probe.card.region_classes
    areas: list[shapely.Geometry] = []
    skipped, mm2 = "", 0.0
    if _has_any(content, wanted):
        skipped = f"has annotations of {' or '.join(wanted)} of its own"
    else:
        with GuardedSlide(content.slide_path, mpp=content.mpp) as slide:
            mpp = slide.mpp
        features, corners, size = _placed(content, BatchOptions(features=files), mpp)
        probe.check(features)
        p = smoothed(corners, size, probe.probabilities(features.features))
        scale = mpp**2 / UM2_A_MM2
        areas = outlines(corners, size, p >= probe.card.threshold, least=least_mm2 / scale)
        mm2 = sum(area.area for area in areas) * scale
    project.propose(entry, areas, wanted[0], sha256)
    return Proposal(entry.name, len(areas), mm2, skipped)


def _drawn(content: EntryContent, options: BatchOptions) -> tuple[DrawnSlide, SlideFeatures] | None:
    """Return a slide's patches beside what was drawn on it; None where nothing of the class was."""
    if not _has_any(content, options.region_classes):
        return None
    with GuardedSlide(content.slide_path, mpp=content.mpp) as slide:
        regions, mpp = regions_of(content, options, content.view.of(slide)), slide.mpp
    if regions.union is None:
        return None
    area = regions.union.geometry
    features, corners, size = _placed(content, options, mpp)
    drawn = DrawnSlide(
        name=content.entry.name,
        features=features.features,
        corners=corners,
        size=size,
        inside=covered_share(area, corners, size),
        drawn_px=area.area,
        mpp=mpp,
    )
    return drawn, features


def _has_any(content: EntryContent, classes: Sequence[str]) -> bool:
    return any(chooses(name, drawn.class_name) for name in classes for drawn in content.annotations)


def _placed(
    content: EntryContent, options: BatchOptions, mpp: float
) -> tuple[SlideFeatures, NDArray[np.int64], int]:
    """Return a slide's features, and their corners and side in level-0 px, of which each has `mpp` µm."""
    path = Path(options.features_of(content.entry.name))
    features = read_features(path, slide_mpp=mpp)
    if features.coords is None or not features.patch_size_level0:
        raise FeatureFileError(f"{path} does not say where its patches lie", "Extract its features again")
    return features, features.coords, features.patch_size_level0


def _card(features: SlideFeatures, region_classes: Sequence[str]) -> ProbeCard:
    if features.encoder is None:
        raise FeatureFileError(
            f"{features.path} does not say which encoder made its features", "Extract them again"
        )
    weights = features.provenance.get("weights_sha256")
    return ProbeCard(
        region_classes=tuple(region_classes),
        encoder=features.encoder,
        dimension=features.dimension,
        patch_px=features.patch_px,
        mpp=features.mpp,
        weights_sha256=weights if isinstance(weights, str) else "",
        threshold=0.5,
        held_out=(),
        versions=dict(package_versions()),
    )
