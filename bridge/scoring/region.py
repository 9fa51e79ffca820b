"""The composites of one region become its result, and the results of a slide's regions are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.annotations.regions import Region
from bridge.results.schema import (
    CompositeResult,
    ForegroundPatch,
    Outcome,
    PlacedPatch,
    Prediction,
    RegionResult,
    rounded,
)
from bridge.scoring.options import ScoreOptions
from herohe_model.grades import (
    Target,
    bit_probabilities,
    expected_grade,
    grade_of,
    ihc_probabilities,
    level_probabilities,
    status_of,
)
from herohe_model.model.card import ModelCard
from herohe_model.model.score import CompositeScore
from herohe_model.sampling.patches import PatchSet

_NAMED: Final = 3
"""Annotations that a warning names."""


def region_result(
    region: Region,
    patches: PatchSet,
    drawn: NDArray[np.int64],
    scores: Sequence[CompositeScore],
    card: ModelCard,
    options: ScoreOptions,
) -> RegionResult:
    """Put the composites of one region together."""
    outcome, message = Outcome.SCORED, ""
    if not scores:
        outcome = Outcome.INSUFFICIENT_TISSUE
        message = (
            f"{len(patches)} foreground patches of {patches.covered} covered by the region; at least "
            f"{options.min_patches} are needed. Draw a larger region, or lower --min-patches."
            if len(patches) < options.min_patches
            else f"None of the annotations alone has the {options.min_patches} foreground patches that are "
            f"needed; together they have {len(patches)}. Draw larger ones, lower --min-patches, or score "
            "them together."
        )
    saturation = rounded(patches.saturation)
    xs, ys = patches.x.tolist(), patches.y.tolist()
    placed = tuple(
        PlacedPatch(
            x=xs[index],
            y=ys[index],
            size=patches.size,
            composite=number,
            cell=cell,
            saturation=saturation[index],
            contributions=tuple(rounded(score.contributions[cell])),
        )
        for number, (cells, score) in enumerate(zip(drawn, scores, strict=True))
        for cell, index in enumerate(cells.tolist())
    )
    used = set(np.unique(drawn).tolist())
    unsampled = (
        tuple(
            ForegroundPatch(xs[i], ys[i], patches.size, saturation[i])
            for i in range(len(patches))
            if i not in used
        )
        if options.keep_unsampled
        else ()
    )
    prediction, composites = _predict(np.array([s.logits for s in scores]), card) if scores else (None, ())
    return RegionResult(
        region=region.id,
        name=region.name,
        class_name=region.class_name,
        annotations=region.annotations,
        outcome=outcome,
        message=message,
        patches_foreground=len(patches),
        patches_sampled=len(used),
        prediction=prediction,
        composites=composites,
        patches=placed,
        unsampled=unsampled,
    )


def as_annotation(union: RegionResult, region: Region) -> RegionResult:
    """Return the union's result as that of the one annotation it is made of."""
    return msgspec.structs.replace(union, region=region.id, name=region.name, class_name=region.class_name)


def disagreement(union: RegionResult, annotations: Sequence[RegionResult]) -> tuple[str, ...]:
    """Say which annotations are called otherwise than the slide as a whole."""
    whole = union.prediction
    if whole is None:
        return ()
    others = [
        f"{region.title} {called.grade}, {called.status}"
        for region in annotations
        if (called := region.prediction) is not None
        and (called.grade, called.status) != (whole.grade, whole.status)
    ]
    if not others:
        return ()
    rest = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return (
        f"Slide and annotations disagree: the slide as a whole is called {whole.grade}, {whole.status}, but "
        f"{'; '.join(others[:_NAMED])}{rest}.",
    )


def _predict(logits: NDArray[np.float32], card: ModelCard) -> tuple[Prediction, tuple[CompositeResult, ...]]:
    """Average the composites' probabilities; logits have the shape (composites, bits)."""
    target = Target(card.target)
    positive = card.positive_bit
    each = bit_probabilities(logits, temperature=card.temperature)
    mean = each.mean(axis=0)
    # Grade and status follow from the stored digits, so that a reader of the file comes to the same.
    at_least = {grade: rounded(p)[0] for grade, p in ihc_probabilities(mean, target).items()}
    p_positive = rounded(mean[positive])[0]
    spread = float(each[:, positive].std(ddof=1)) if len(each) > 1 else 0.0
    prediction = Prediction(
        grade=grade_of(at_least),
        status=status_of(p_positive, card.decision_threshold),
        p_positive=p_positive,
        p_positive_sd=rounded(spread)[0],
        expected_grade=rounded(expected_grade(at_least))[0],
        at_least=at_least,
        levels=dict(zip(target.levels, rounded(level_probabilities(mean)), strict=True)),
    )
    composites = tuple(
        CompositeResult(
            index=number,
            logits=tuple(rounded(logit)),
            p_positive=rounded(q[positive])[0],
            grade=grade_of(ihc_probabilities(q, target)),
        )
        for number, (logit, q) in enumerate(zip(logits, each, strict=True))
    )
    return prediction, composites
