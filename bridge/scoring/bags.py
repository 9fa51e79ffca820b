"""The bags of a slide's regions: their patches embedded, each once, and pooled by the model's head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.annotations.regions import Region
from bridge.results.schema import RegionResult, rounded
from bridge.scoring.embedding import embedded
from bridge.scoring.feature_cache import FeatureCache, KnownFeatures
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress, ProgressCallback
from bridge.scoring.region import region_result
from bridge.versions import package_versions
from herohe_model.model.bag_model import bag_of
from herohe_model.model.card import ModelCard
from herohe_model.model.score import (
    BagScore,
    CompositeScore,
    CompositeScorer,
    ScorerInfo,
    features_of,
)
from herohe_model.sampling.focus import out_of_focus
from herohe_model.sampling.patches import PatchSet
from herohe_model.slides.source import SlideSource

_IN_HAND: Final = 8
"""Columns on their way to the encoder and back, which may be a process or a machine away."""


def score_bags(
    source: SlideSource,
    regions: Sequence[tuple[Region, PatchSet, bool]],
    options: ScoreOptions,
    scorer: CompositeScorer,
    cache: FeatureCache | None,
    check: Callable[[], None],
    notice: ProgressCallback,
) -> list[RegionResult]:
    """Score the bag of each region, all of its patches.

    Parameters
    ----------
    regions
        Each with its foreground patches, and whether these are enough to be scored.
    cache
        What was embedded before; None to embed everything, and keep nothing.
    check
        Called several times a second; may raise to stop. What was embedded until then is kept.
    """
    bags, sharpness = _pool(
        source,
        [patches for _, patches, enough in regions if enough],
        scorer,
        cache=cache,
        look=options.artefact_rule != "ignore",
        check=check,
        progress=lambda done, total: notice(Progress("patches", done, total)),
    )
    results, card = [], scorer.info.card
    for region, patches, enough in regions:
        bag, blurred = (bags.pop(0), sharpness.pop(0)) if enough else (None, None)
        results.append(bag_region(region, patches, bag, card, options, blurred=blurred))
    return results


def bag_region(
    region: Region,
    patches: PatchSet,
    bag: BagScore | None,
    card: ModelCard,
    options: ScoreOptions,
    *,
    blurred: NDArray[np.bool_] | None = None,
) -> RegionResult:
    """Return the result of a region by the score of its bag, as of one composite of all patches.

    A bag of None is one of too few patches; `blurred` is (1, patches).
    """
    if bag is None:
        nothing = np.empty((0, len(patches)), dtype=np.int64)
        return region_result(region, patches, nothing, [], card, options)
    drawn, attention = np.arange(len(patches))[None], bag.attention
    found = region_result(
        region,
        patches,
        drawn,
        [_as_composite(bag)],
        card,
        options,
        attention=attention,
        out_of_focus=None if blurred is None else float(blurred.mean()),
    )
    return msgspec.structs.replace(found, feature_distance=rounded([bag.distance])[0])


def _pool(
    source: SlideSource,
    regions: Sequence[PatchSet],
    scorer: CompositeScorer,
    *,
    cache: FeatureCache | None,
    look: bool,
    check: Callable[[], None],
    progress: Callable[[int, int], None],
) -> tuple[list[BagScore], list[NDArray[np.bool_] | None]]:
    """Embed the patches of some regions, and pool those of each.

    Parameters
    ----------
    regions
        The foreground patches of each region, none empty; of one size, and many stand in several.
    scorer
        Of a bag model.
    cache
        What was embedded before; None to embed everything, and keep nothing.
    look
        Whether it shall be said which patches are out of focus.
    check
        Called several times a second; may raise to stop. What was embedded until then is kept.
    progress
        Told how many patches of how many are embedded.

    Returns
    -------
    scores, blurred
        Of each region; the latter (1, patches), or None.
    """
    info, head = scorer.info, scorer.head
    if info.embeds is None or head is None or not regions:
        return [], []
    side, size = info.embeds.side_px, regions[0].size
    each = [np.stack([patches.x, patches.y], axis=1) for patches in regions]
    # Row by row, as they lie in the file.
    corners = np.unique(np.concatenate(each)[:, ::-1], axis=0)[:, ::-1]
    # Beside the features of a patch stands whether it is out of focus: who finds them does not see it again.
    dimension = bag_of(info.card).dimension + 1
    mpp = info.card.mpp * info.card.patch_px / side
    blurred: list[NDArray[np.bool_]] = []
    known = cache.of(_facts(source, size, info), dimension) if cache else KnownFeatures(None, dimension)
    lacking = corners[known.lacking(corners)]
    done = len(corners) - len(lacking)

    def submit(pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        blurred.append(out_of_focus(pixels, mpp))
        return scorer.submit(pixels.reshape(-1, side, 3))

    progress(done, len(corners))
    rows = embedded(
        source, lacking, size, submit, side_px=side, batch=info.embeds.batch, in_hand=_IN_HAND, check=check
    )
    with closing(rows):
        try:
            first = 0
            for score in rows:
                column = blurred.pop(0)[:, None].astype(np.float32)
                features = np.concatenate([features_of(score), column], axis=1)
                known.add(lacking[first : first + len(features)], features)
                first += len(features)
                progress(done + first, len(corners))
        finally:
            known.write()
    if cache is not None:
        cache.prune()
    rows_of = [known.rows(mine) for mine in each]
    return (
        [head.score(np.ascontiguousarray(found[:, :-1])) for found in rows_of],
        [found[None, :, -1] > 0 if look else None for found in rows_of],
    )


def _facts(source: SlideSource, size: int, info: ScorerInfo) -> Mapping[str, Any]:
    """Return what a feature depends on but its patch's corner."""
    assert info.embeds is not None
    return {
        "slide": source.fingerprint,
        "size": size,
        "side_px": info.embeds.side_px,
        "mpp": info.card.mpp * info.card.patch_px / info.embeds.side_px,
        "weights": info.embeds.weights_sha256,
        "encoder_golden": bag_of(info.card).encoder_golden,
        "computed": [info.device, info.precision, info.engine],
        "versions": dict(package_versions()),
    }


def _as_composite(bag: BagScore) -> CompositeScore:
    """Return the score of a bag as that of one composite which holds all its patches."""
    logits = np.asarray(np.mean(bag.logits, axis=0, dtype=np.float64), dtype=np.float32)
    return CompositeScore(logits, bag.contributions, bag.logits if len(bag.logits) > 1 else None)
