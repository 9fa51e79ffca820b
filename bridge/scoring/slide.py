"""A slide and its regions become a result: the one function behind every way in.

The command line, the model server (for QuPath's script) and a cluster's workers all call
:func:`score_slide`, so the same slide, regions, options, model and device give the same result, to the last
stored digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import shapely

from bridge.annotations.regions import Region, SlideRegions
from bridge.results.schema import (
    Outcome,
    Outline,
    Provenance,
    SlideResult,
)
from bridge.scoring.bags import score_bags
from bridge.scoring.composites import score_composites
from bridge.scoring.feature_cache import FeatureCache
from bridge.scoring.foreground import artefact_warning, focus_refusal, focus_warning, region_patches
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress, ProgressCallback
from bridge.scoring.region import as_annotation, contradiction, disagreement
from bridge.scoring.suitability import stain_refusal, stain_warning, unlike_training
from bridge.versions import package_versions
from herohe_model.dataset.fingerprints import short_digest
from herohe_model.errors import (
    ALLOW,
    CancelledError,
    EntryDamagedError,
    HeroheError,
    SlideError,
    UnsuitableSlideError,
    os_problem,
)
from herohe_model.model.card import ModelCard
from herohe_model.model.score import (
    CompositeScorer,
    ScorerInfo,
    ScoringModel,
)
from herohe_model.notice import SEEN_IN_TRAINING, TOY_NOTICES
from herohe_model.sampling.likeness import feature_likeness, likeness
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import SlideSource

if TYPE_CHECKING:
    from bridge.scoring.features_on_disk import FeaturesOnDisk

_POINTS_A_PATCH: Final = 64
"""How finely outlines are kept for display."""


def score_slide(
    source: SlideSource,
    regions: SlideRegions,
    options: ScoreOptions,
    scorer: CompositeScorer,
    *,
    entry: str | None = None,
    slide: str | None = None,
    path: str | None = None,
    warnings: Sequence[str] = (),
    cache: FeatureCache | None = None,
    features: FeaturesOnDisk | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SlideResult:
    """Sample composites inside the regions of one slide, have them scored, and say what they mean.

    A bag model gets all foreground patches of a region instead, as one composite of as many cells.

    Parameters
    ----------
    source
        Where pixels come from.
    regions
        The union, and the annotations it is made of; a union of None means that no annotation matched.
    scorer
        A model, in this process or behind a server.
    entry, slide, path
        Identifier within the collection, display name and file of the slide, as they shall stand in the
        result; by default the source's path and its file's name.
    warnings
        What was noticed before, to be kept with the result.
    cache
        Features that are known, for a bag model; None to embed everything.
    features
        Those that another tool made, for a bag model: then no pixel is read.
    progress, cancelled
        Called often from the calling thread; a true `cancelled` ends the work within one composite.

    Returns
    -------
    SlideResult
        With the outcome scored, insufficient_tissue, no_matching_annotation or unsuitable.

    Raises
    ------
    HeroheError
        Whatever the slide, the regions or the scorer raise; :func:`failed_result` turns it into a result.
    CancelledError
        When `cancelled` said so.
    """
    stop = cancelled or (lambda: False)
    notice = progress or (lambda _: None)
    where = path if path is not None else str(source.path)
    entry = entry if entry is not None else source.path.name
    slide = slide if slide is not None else source.path.name
    if regions.union is None:
        return unmatched_result(
            source,
            regions,
            options,
            scorer.info.model,
            entry=entry,
            slide=slide,
            path=where,
            warnings=warnings,
        )
    card = scorer.info.card
    all_warnings = _warnings(source, regions, card, warnings)
    provenance = _provenance(
        source, regions, options, scorer.info, features_sha256=features.sha256 if features else ""
    )
    annotated = regions.annotations if options.per_annotation else ()
    # One annotation alone is the slide's union: what is computed once is the same for both.
    targets = [regions.union, *(annotated if len(annotated) > 1 else ())]
    found: list[PatchSet] = []
    for number, region in enumerate(targets):
        notice(Progress("foreground", number, len(targets)))
        found.append(
            features.patches(region.geometry, options)
            if features is not None
            else region_patches(
                source,
                region.geometry,
                options,
                patch_px=card.patch_px,
                mpp=card.mpp,
                threshold=card.foreground_threshold,
                cancelled=stop,
            )
        )

    def unsuitable(why: str) -> SlideResult:
        return SlideResult(
            entry=entry,
            slide=slide,
            path=where,
            outcome=Outcome.UNSUITABLE,
            message=why,
            warnings=all_warnings,
            provenance=provenance,
        )

    among = None if card.stain is None else likeness(found[0].stain, card.stain)
    unlike = unlike_training(among, slide)
    refusal = "" if options.any_stain else stain_refusal(found[0].stain, slide)
    refusal = refusal or (unlike if options.strict else "")
    if refusal:
        return unsuitable(refusal)
    doubts = (stain_warning(found[0].stain, slide), unlike, artefact_warning(found[0], options))
    all_warnings = (*all_warnings, *filter(None, doubts))

    enough = [len(patches) >= options.min_patches for patches in found]
    # A grade that none of the annotations has is none of the slide's.
    enough[0] = enough[0] and (len(targets) == 1 or any(enough[1:]))

    def check() -> None:
        if stop():
            raise CancelledError(f"Scoring of {source.path.name} was cancelled")

    each_region = list(zip(targets, found, enough, strict=True))
    if features is not None:
        results = features.score(each_region, options)
    elif scorer.head is None:
        results = score_composites(source, each_region, options, scorer, check, notice)
    else:
        results = score_bags(source, each_region, options, scorer, cache, check, notice)
    union = results[0]
    near = None
    if card.features is not None and union.feature_distance is not None:
        near = feature_likeness(union.feature_distance, card.features)
    odd = unlike_training(near, slide)
    refusal = focus_refusal(union, options, slide) or (odd if options.strict else "")
    if refusal:
        return unsuitable(refusal)
    each = tuple(results[1:])
    if len(annotated) == 1:
        each = (as_annotation(union, annotated[0]),)
    return SlideResult(
        entry=entry,
        slide=slide,
        path=where,
        outcome=union.outcome,
        message=union.message,
        warnings=(
            *all_warnings,
            *filter(None, (focus_warning(union, options), odd)),
            *contradiction(union.prediction),
            *disagreement(union, each),
        ),
        union=union,
        annotations=each,
        provenance=provenance,
        outlines=tuple(_outline(region, provenance) for region in regions.annotations),
        stain_percentiles={k: v for found in (among, near) if found for k, v in found.percentiles.items()},
    )


def _outline(region: Region, provenance: Provenance) -> Outline:
    """Return what the eye needs of an annotation: points no nearer than a small part of a patch."""
    patch = provenance.patch_px * provenance.model_mpp / provenance.slide_mpp
    area = shapely.simplify(region.geometry, patch / _POINTS_A_PATCH)
    parts = [part for part in shapely.get_parts(area) if not part.is_empty]
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    points = [shapely.get_coordinates(ring)[:-1].round().astype(np.int64) for ring in rings]
    return Outline(
        annotation=region.id,
        name=region.name,
        class_name=region.class_name,
        rings=tuple(tuple(ring.ravel().tolist()) for ring in points),
    )


def failed_result(error: Exception, *, entry: str, slide: str, path: str = "") -> SlideResult:
    """Return the result of a slide that could not be scored, with the outcome that the error stands for."""
    known = as_herohe(error, slide)
    if isinstance(known, CancelledError):
        outcome = Outcome.CANCELLED
    elif isinstance(known, UnsuitableSlideError):
        outcome = Outcome.UNSUITABLE
    elif isinstance(known, (SlideError, EntryDamagedError)):
        outcome = Outcome.UNREADABLE
    else:
        outcome = Outcome.FAILED
    return SlideResult(
        entry=entry, slide=slide, path=path, outcome=outcome, message=str(known), error_code=known.code
    )


def as_herohe(error: Exception, slide: str) -> HeroheError:
    """Turn what nobody foresaw into an error that names the slide: one slide never stops the others."""
    if isinstance(error, HeroheError):
        return error
    if isinstance(error, OSError):
        refused = HeroheError(f"{slide}: {os_problem(error)}", ALLOW)
        refused.__cause__ = error
        return refused
    unforeseen = HeroheError(
        f"{slide}: unexpected {type(error).__name__}: {error}",
        "Please report it, with this slide's format and the versions that 'herohe-bridge doctor' prints",
    )
    unforeseen.__cause__ = error
    return unforeseen


def unmatched_result(
    source: SlideSource,
    regions: SlideRegions,
    options: ScoreOptions,
    model: ScoringModel,
    *,
    entry: str,
    slide: str,
    path: str,
    warnings: Sequence[str] = (),
) -> SlideResult:
    """Return the result of a slide on which no annotation matches; arguments as of :func:`score_slide`.

    Nothing is computed for it, so its provenance names no device, precision or engine.
    """
    nowhere = ScorerInfo(model.card, model.sha256, device="", precision="", engine="")
    return SlideResult(
        entry=entry,
        slide=slide,
        path=path,
        outcome=Outcome.NO_MATCHING_ANNOTATION,
        message=regions.no_match_message(),
        warnings=_warnings(source, regions, model.card, warnings),
        provenance=_provenance(source, regions, options, nowhere),
    )


def _warnings(
    source: SlideSource, regions: SlideRegions, card: ModelCard, before: Sequence[str]
) -> tuple[str, ...]:
    scale = source.scale_warning(card.mpp)
    toy = TOY_NOTICES.get(card.knowledge)
    seen = short_digest(source.fingerprint) in card.slides
    return (
        *((toy,) if toy else ()),
        *((SEEN_IN_TRAINING,) if seen else ()),
        *before,
        *source.warnings,
        *regions.warnings,
        *((scale,) if scale else ()),
    )


def _provenance(
    source: SlideSource,
    regions: SlideRegions,
    options: ScoreOptions,
    scored_by: ScorerInfo,
    *,
    features_sha256: str = "",
) -> Provenance:
    """Say what makes this result."""
    card = scored_by.card
    facts = Provenance(
        run="",
        model=card.name,
        model_sha256=scored_by.model_sha256,
        target=card.target,
        steps=card.claimed_steps,
        seed=options.seed,
        device=scored_by.device,
        precision=scored_by.precision,
        options=msgspec.to_builtins(options),
        versions=dict(package_versions()),
        regions_sha256=regions.digest(),
        slide_fingerprint=source.fingerprint,
        slide_mpp=source.mpp,
        model_mpp=card.mpp,
        patch_px=card.patch_px,
        engine=scored_by.engine,
        positive_step=card.positive_step,
        decision_threshold=card.decision_threshold,
        threshold_chosen=card.threshold_chosen,
        temperature=card.temperature,
        trained_on=card.trained_on,
        knowledge=card.knowledge,
        call_chosen="" if card.call is None else f"{card.call.positive_chosen}; {card.call.negative_chosen}",
        calibrated_for=card.calibrated_for,
        encoder="" if card.bag is None else card.bag.encoder,
        encoder_sha256="" if scored_by.embeds is None else scored_by.embeds.weights_sha256,
        features_sha256=features_sha256,
    )
    return msgspec.structs.replace(facts, run=facts.digest()[:16])
