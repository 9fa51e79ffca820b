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
    expected_grade,
    grade_of,
    ihc_probabilities,
    level_probabilities,
    status_of,
)
from herohe_model.model.calibration import NEGATIVE, POSITIVE
from herohe_model.model.card import ModelCard
from herohe_model.model.probabilities import SlideProbabilities, slide_probabilities
from herohe_model.model.score import CompositeScore
from herohe_model.sampling.artefacts import REASONS, artefacts_in_words
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
    *,
    attention: NDArray[np.float32] | None = None,
    out_of_focus: float | None = None,
) -> RegionResult:
    """Put the composites of one region together.

    Parameters
    ----------
    drawn
        Which patches stand in the cells of each composite, (composites, cells).
    attention
        Of each cell of a bag, its only composite.
    out_of_focus
        Share of the patches that were looked at that are; None where that was not done.
    """
    outcome, message = Outcome.SCORED, ""
    if not scores:
        outcome = Outcome.INSUFFICIENT_TISSUE
        spoilt = artefacts_in_words(patches.artefacts) if options.artefact_rule == "leave-out" else ""
        message = (
            f"{len(patches)} foreground patches of {patches.covered} covered by the region; at least "
            f"{options.min_patches} are needed{f' ({spoilt} were left out as artefacts)' if spoilt else ''}. "
            "Draw a larger region, or lower --min-patches."
            if len(patches) < options.min_patches
            else f"None of the annotations alone has the {options.min_patches} foreground patches that are "
            f"needed; together they have {len(patches)}. Draw larger ones, lower --min-patches, or score "
            "them together."
        )
    saturation = [None if np.isnan(s) else s for s in rounded(patches.saturation)]
    told = [card.steps.index(step) for step in card.claimed_steps]
    xs, ys = patches.x.tolist(), patches.y.tolist()
    weights = None if attention is None else rounded(attention)
    codes = np.zeros(len(patches), dtype=np.uint8) if patches.reasons is None else patches.reasons
    reasons = [("", *REASONS)[code] for code in codes.tolist()]
    placed = tuple(
        PlacedPatch(
            x=xs[index],
            y=ys[index],
            size=patches.size,
            composite=number,
            cell=cell,
            saturation=saturation[index],
            contributions=tuple(rounded(score.contributions[cell, told])),
            attention=None if weights is None else weights[cell],
            artefact=reasons[index],
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
    prediction, composites = _predict(scores, card) if scores else (None, ())
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
        artefacts=None if options.artefact_rule == "ignore" else dict(patches.artefacts),
        foreground_threshold=None if np.isnan(patches.threshold) else rounded([patches.threshold])[0],
        out_of_focus=None if out_of_focus is None else rounded([out_of_focus])[0],
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
        f"{region.title} {_said(called)}"
        for region in annotations
        if (called := region.prediction) is not None and _said(called) != _said(whole)
    ]
    if not others:
        return ()
    rest = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return (
        f"Slide and annotations disagree: the slide as a whole is called {_said(whole)}, but "
        f"{'; '.join(others[:_NAMED])}{rest}.",
    )


def _said(prediction: Prediction) -> str:
    return ", ".join(filter(None, (prediction.grade, prediction.status, prediction.call)))


def contradiction(prediction: Prediction | None) -> tuple[str, ...]:
    """Say where grade, status and call of one slide cannot all be right, and why that may be."""
    if prediction is None:
        return ()
    said = {
        "HER2-positive": prediction.status == "HER2-positive",
        POSITIVE: prediction.call == POSITIVE,
    }
    denied = {
        "HER2-negative": prediction.status == "HER2-negative",
        NEGATIVE: prediction.call == NEGATIVE,
    }
    positive = [word for word, holds in said.items() if holds]
    negative = [word for word, holds in denied.items() if holds]
    if prediction.grade == "3+":
        positive.append("grade 3+")
    elif prediction.grade in ("0", "1+"):
        negative.append(f"grade {prediction.grade}")
    if not (positive and negative):
        return ()
    return (
        f"The model contradicts itself: {' and '.join(positive)}, but {' and '.join(negative)} "
        f"(P(positive) {prediction.p_positive:.3f}). Grade, status and call have thresholds of their own; "
        "take it as uncertain.",
    )


def _predict(
    scores: Sequence[CompositeScore], card: ModelCard
) -> tuple[Prediction, tuple[CompositeResult, ...]]:
    """Make of the composites of a region what the model may say of it."""
    found = slide_probabilities([score.each_member for score in scores], card)
    told = [card.steps.index(step) for step in found.steps]
    positive = found.steps.index(card.positive_step)
    each = found.composites[:, positive]
    # Grade, status and call follow from the stored digits, so that a reader of the file comes to the same.
    at_least = {grade: rounded(p)[0] for grade, p in ihc_probabilities(found.slide, found.steps).items()}
    p_positive = rounded(found.slide[positive])[0]
    low, high = rounded([found.low, found.high])
    expected = expected_grade(at_least)
    prediction = Prediction(
        grade=grade_of(at_least),
        status=status_of(p_positive, card.decision_threshold),
        p_positive=p_positive,
        p_positive_sd=_spread(each) or 0.0,
        expected_grade=None if expected is None else rounded(expected)[0],
        at_least=at_least,
        levels=_levels(found, card),
        call="" if card.call is None else card.call.call(low, high),
        p_low=_p_low(at_least, p_positive, card),
        p_positive_from=None if card.call is None else low,
        p_positive_to=None if card.call is None else high,
        p_positive_member_sd=_spread(found.members),
    )
    composites = tuple(
        CompositeResult(
            index=number,
            logits=tuple(rounded(score.logits[told])),
            p_positive=rounded(q[positive])[0],
            grade=grade_of(ihc_probabilities(q, found.steps)),
            members=() if score.members is None else tuple(rounded(score.members[:, card.positive_bit])),
        )
        for number, (score, q) in enumerate(zip(scores, found.composites, strict=True))
    )
    return prediction, composites


def _spread(values: NDArray[np.float64]) -> float | None:
    return rounded(values.std(ddof=1))[0] if len(values) > 1 else None


def _levels(found: SlideProbabilities, card: ModelCard) -> dict[str, float]:
    if found.steps != card.steps:
        return {}
    return dict(zip(Target(card.target).levels, rounded(level_probabilities(found.slide)), strict=True))


def _p_low(at_least: dict[str, float], p_positive: float, card: ModelCard) -> float | None:
    """Return P(HER2-low); without the ISH step, what is read as positive takes HER2-low 2+ in, too."""
    if "1+" not in at_least or card.positive_step != Target.IHC_ISH.default_positive_step:
        return None
    return rounded(max(0.0, at_least["1+"] - p_positive))[0]
