"""One slide: its patches, found as for scoring, read ahead of the encoder and written as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bridge.annotations.regions import SlideRegions
from bridge.batch.options import BatchOptions
from bridge.scoring.embedding import embedded
from bridge.scoring.foreground import artefact_warning, region_patches
from bridge.scoring.suitability import stain_refusal, stain_warning
from bridge.versions import package_versions
from herohe_model.engines.embedder import Embedder, EmbedderInfo
from herohe_model.errors import CancelledError, UnsuitableSlideError
from herohe_model.features.write import PlacedPatches, writing_features
from herohe_model.model.card import USUAL_THRESHOLD
from herohe_model.slides.source import SlideSource
from herohe_model.slides.view import SlideView

FORMAT: Final = 1
_IN_HAND: Final = 2
"""Batches in the encoder's hands while the next are being read."""


@dataclass(frozen=True)
class ExtractionOptions:
    """What is extracted.

    Attributes
    ----------
    batch
        Regions, and how patches are chosen, as for scoring.
    patch_px, mpp
        Side of a patch in px at the scale that it is read at, and that scale, µm/px; an encoder that sees
        another number of px gets it resampled.
    """

    batch: BatchOptions
    patch_px: int
    mpp: float


@dataclass(frozen=True)
class SlideWork:
    """A slide to extract.

    Attributes
    ----------
    name
        Without its extension; what its file is called.
    fingerprint
        Changes with the slide's content.
    mpp
        µm per level-0 px, overriding the file's; None to use that.
    """

    slide: str
    name: str
    regions: SlideRegions
    fingerprint: str
    mpp: float | None
    view: SlideView


@dataclass(frozen=True)
class PatchProgress:
    """How far a slide is: `done` of `total` patches; a total of 0 while tissue is being found."""

    done: int
    total: int


def work_digest(work: SlideWork, options: ExtractionOptions, info: EmbedderInfo) -> str:
    """SHA-256 of what decides which features a file holds, hexadecimal.

    Device, engine and precision are not among it: wherever they are computed, features of one encoder agree.
    """
    record: dict[str, Any] = msgspec.to_builtins(info.record)
    encoder = {key: value for key, value in record.items() if key not in ("encoder", "golden", "versions")}
    score = options.batch.score
    facts = {
        "fingerprint": work.fingerprint,
        "mpp": work.mpp,
        "view": msgspec.to_builtins(work.view),
        "regions": work.regions.digest(),
        "encoder": encoder,
        "patch": [options.patch_px, options.mpp],
        "chosen": [
            score.min_coverage,
            score.exact_foreground,
            score.artefact_rule,
            score.foreground_threshold,
        ],
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def extract_slide(
    source: SlideSource,
    work: SlideWork,
    options: ExtractionOptions,
    embedder: Embedder,
    path: Path,
    *,
    progress: Callable[[PatchProgress], None],
    stop: Callable[[], bool],
) -> tuple[int, tuple[str, ...]]:
    """Write the features of a slide's patches to a file, whole or not at all.

    Returns
    -------
    count, warnings
        Patches of the file, and what a user should know of it.

    Raises
    ------
    HeroheError
        Whatever the slide, its regions, the encoder or the disk raise.
    """
    assert work.regions.union is not None
    score = options.batch.score
    progress(PatchProgress(0, 0))
    patches = region_patches(
        source,
        work.regions.union.geometry,
        score,
        patch_px=options.patch_px,
        mpp=options.mpp,
        threshold=USUAL_THRESHOLD,
        cancelled=stop,
    )
    refusal = "" if score.any_stain else stain_refusal(patches.stain, work.slide)
    if refusal:
        raise UnsuitableSlideError(refusal.rstrip("."))
    placed = PlacedPatches(
        corners=np.stack([patches.x, patches.y], axis=1),
        size=patches.size,
        patch_px=options.patch_px,
        mpp=options.mpp,
        slide_size=source.size,
        slide_mpp=source.mpp,
    )
    info = embedder.info

    def check() -> None:
        if stop():
            raise CancelledError(f"Extracting the features of {source.path.name} was cancelled")

    with (
        writing_features(
            path,
            placed,
            name=work.name,
            encoder=info.encoder.name,
            dimension=info.encoder.dimension,
            provenance=_provenance(source, work, options, info, patches.threshold),
        ) as writer,
        closing(
            embedded(
                source,
                placed.corners,
                placed.size,
                embedder.submit,
                side_px=info.encoder.input_px,
                batch=info.batch,
                in_hand=_IN_HAND,
                check=check,
            )
        ) as rows,
    ):
        for some in rows:
            writer.append(some)
            progress(PatchProgress(writer.written, len(patches)))
    doubts = (
        source.scale_warning(options.mpp),
        stain_warning(patches.stain, work.slide),
        artefact_warning(patches, score),
    )
    said = (*source.warnings, *work.regions.warnings, *filter(None, doubts))
    return len(patches), said


def _provenance(
    source: SlideSource,
    work: SlideWork,
    options: ExtractionOptions,
    info: EmbedderInfo,
    threshold: float,
) -> Mapping[str, Any]:
    """Say what made a file of features; no time and no machine: the same work gives the same bytes."""
    return {
        "format": FORMAT,
        "work": work_digest(work, options, info),
        "slide": work.slide,
        "slide_fingerprint": work.fingerprint,
        "slide_mpp": source.mpp,
        "regions_sha256": work.regions.digest(),
        "region_classes": options.batch.region_classes,
        "exclude_classes": options.batch.exclude_classes,
        "encoder": info.encoder.name,
        "weights_sha256": info.record.weights_sha256,
        "input_px": info.encoder.input_px,
        "patch_px": options.patch_px,
        "mpp": options.mpp,
        "foreground_threshold": threshold,
        "artefacts": options.batch.score.artefact_rule,
        "min_coverage": options.batch.score.min_coverage,
        "device": info.device,
        "precision": info.precision,
        "engine": info.engine,
        "versions": dict(package_versions()),
    }
