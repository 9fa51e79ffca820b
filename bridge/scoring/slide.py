"""A slide and its regions become a result: the one function behind every way in.

The command line, the model server (for QuPath's script) and a cluster's workers all call
:func:`score_slide`, so the same slide, regions, options, model and device give the same result, to the last
stored digit.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
import shapely
from numpy.typing import NDArray

from bridge.annotations.regions import Region, SlideRegions
from bridge.results.schema import (
    Outcome,
    Outline,
    Provenance,
    SlideResult,
)
from bridge.scoring.options import ScoreOptions
from bridge.scoring.region import as_annotation, contradiction, disagreement, region_result
from bridge.scoring.suitability import stain_refusal, stain_warning
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
    SYMMETRIES,
    CompositeScore,
    CompositeScorer,
    ScorerInfo,
    ScoringModel,
    mean_over_symmetries,
    turned,
    turned_back,
)
from herohe_model.notice import SEEN_IN_TRAINING, TOY_NOTICES
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.slides.source import SlideSource

READ_AHEAD: Final = 2
"""Composites of a slide that are in the scorer's hands while the next are being read."""

_POLL_S: Final = 0.2
"""How long a wait for the scorer may be deaf to cancelling."""


@dataclass(frozen=True)
class Progress:
    """How far a slide is: `done` of `total` composites are scored, or the foreground is being found."""

    stage: Literal["foreground", "composites"]
    done: int
    total: int


_POINTS_A_PATCH: Final = 64
"""How finely outlines are kept for display."""

ProgressCallback = Callable[[Progress], None]


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
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SlideResult:
    """Sample composites inside the regions of one slide, have them scored, and say what they mean.

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
    provenance = _provenance(source, regions, options, scorer.info)
    annotated = regions.annotations if options.per_annotation else ()
    # One annotation alone is the slide's union: what is computed once is the same for both.
    targets = [regions.union, *(annotated if len(annotated) > 1 else ())]
    found: list[PatchSet] = []
    for number, region in enumerate(targets):
        notice(Progress("foreground", number, len(targets)))
        found.append(
            find_patches(
                source,
                region.geometry,
                patch_px=card.patch_px,
                mpp=card.mpp,
                threshold=card.foreground_threshold,
                min_coverage=options.min_coverage,
                exact=options.exact_foreground,
                cancelled=stop,
            )
        )
    refusal = "" if options.any_stain else stain_refusal(found[0].stain, slide)
    if refusal:
        return SlideResult(
            entry=entry,
            slide=slide,
            path=where,
            outcome=Outcome.UNSUITABLE,
            message=refusal,
            warnings=all_warnings,
            provenance=provenance,
        )
    doubt = stain_warning(found[0].stain, slide)
    all_warnings = (*all_warnings, doubt) if doubt else all_warnings

    cells = card.grid * card.grid
    enough = [len(patches) >= options.min_patches for patches in found]
    # A grade that none of the annotations has is none of the slide's.
    enough[0] = enough[0] and (len(targets) == 1 or any(enough[1:]))
    sampled = [
        (
            region,
            patches,
            draw_composites(len(patches), composites=options.composites, seed=options.seed, cells=cells)
            if drawn
            else np.empty((0, cells), dtype=np.int64),
        )
        for region, patches, drawn in zip(targets, found, enough, strict=True)
    ]
    total = sum(len(drawn) for _, _, drawn in sampled)
    notice(Progress("composites", 0, total))
    with closing(
        _score_all(
            source,
            sampled,
            scorer,
            SYMMETRIES if options.symmetries else 1,
            stop,
            lambda done: notice(Progress("composites", done, total)),
        )
    ) as scores:
        results = [
            region_result(region, patches, drawn, [next(scores) for _ in drawn], card, options)
            for region, patches, drawn in sampled
        ]
    union = results[0]
    each = tuple(results[1:])
    if len(annotated) == 1:
        each = (as_annotation(union, annotated[0]),)
    return SlideResult(
        entry=entry,
        slide=slide,
        path=where,
        outcome=union.outcome,
        message=union.message,
        warnings=(*all_warnings, *contradiction(union.prediction), *disagreement(union, each)),
        union=union,
        annotations=each,
        provenance=provenance,
        outlines=tuple(_outline(region, provenance) for region in regions.annotations),
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


def _score_all(
    source: SlideSource,
    sampled: Sequence[tuple[Region, PatchSet, NDArray[np.int64]]],
    scorer: CompositeScorer,
    turns: int,
    stop: Callable[[], bool],
    done: Callable[[int], None],
) -> Generator[CompositeScore, None, None]:
    """Yield the scores of all composites in order, keeping the scorer ahead by :data:`READ_AHEAD`."""
    waiting: deque[list[Future[CompositeScore]]] = deque()
    finished = 0

    def check() -> None:
        if stop():
            raise CancelledError(f"Scoring of {source.path.name} was cancelled")

    def next_score() -> CompositeScore:
        nonlocal finished
        while True:
            check()
            if not wait(waiting[0], timeout=_POLL_S).not_done:
                finished += 1
                done(finished)
                scores = [future.result() for future in waiting.popleft()]
                back = [turned_back(score, turn) for turn, score in enumerate(scores)]
                return back[0] if len(back) == 1 else mean_over_symmetries(back)
            done(finished)

    drawn = [(patches, cells) for _, patches, cells in sampled]
    with closing(read_composites(source, drawn, patch_px=scorer.info.card.patch_px, check=check)) as pictures:
        try:
            for picture in pictures:
                waiting.append([scorer.submit(turned(picture, turn)) for turn in range(turns)])
                if len(waiting) > READ_AHEAD:
                    yield next_score()
            while waiting:
                yield next_score()
        finally:
            for future in itertools.chain.from_iterable(waiting):
                future.cancel()


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
    source: SlideSource, regions: SlideRegions, options: ScoreOptions, scored_by: ScorerInfo
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
    )
    return msgspec.structs.replace(facts, run=facts.digest()[:16])
