"""What a report shows of one slide when it is opened, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bridge.report.pictures import SlidePictures
from bridge.results.schema import (
    Prediction,
    Provenance,
    RegionResult,
    SlideResult,
    Tile,
    tiles,
)
from herohe_model.grades import Target
from herohe_model.notice import TOY_NOTICES
from herohe_model.pages.page import data_uri
from herohe_model.sampling.artefacts import artefacts_in_words
from herohe_model.slides.source import Box

_DIGITS: Final = 5
"""Decimals of the shares in a page: as much as colours and captions need, and half the bytes."""


_SCALE_PERCENTILE: Final = 98.0
"""Share of the patches' contributions that colours tell apart; beyond, they are as dark as can be."""


def least_scale(cells: int) -> float:
    """Return the least share that may have the full colour, for composites of so many patches.

    If every patch of a composite had it, its logit would be 1. So what hardly moves a probability, as with a
    model that was not trained, stays pale.
    """
    return float(f"{1 / cells:.3g}")


def colour_scale(shares: NDArray[np.float32], cells: int) -> float:
    """Return the share of a logit that has the full colour.

    Parameters
    ----------
    shares
        Contributions of patches to one logit, any sign, shape (n,).
    cells
        Patches in a composite.
    """
    large = float(np.percentile(np.abs(shares), _SCALE_PERCENTILE)) if len(shares) else 0.0
    return max(least_scale(cells), float(f"{large:.3g}"))


def positive_step(result: SlideResult) -> int:
    """Index, highest step first, of the logit that this result reads as P(HER2-positive).

    Older results do not name it, but P(positive) is the probability of that step. Where several have the
    same, or nothing was predicted, it is the target's default.
    """
    if result.provenance is not None and result.provenance.positive_step in result.provenance.steps:
        return result.provenance.steps.index(result.provenance.positive_step)
    target = Target(result.provenance.target) if result.provenance else Target.IHC
    default = target.steps.index(target.default_positive_step)
    prediction = result.union.prediction if result.union else None
    if prediction is None:
        return default
    reached = 0.0
    fits = []
    for index, level in enumerate(reversed(target.levels[1:])):
        reached += prediction.levels[level]
        # Each level was rounded for itself.
        if abs(reached - prediction.p_positive) < 5e-6:
            fits.append(index)
    return default if default in fits or not fits else fits[0]


def slide_detail(
    result: SlideResult,
    pictures: SlidePictures,
    *,
    bounds: Box | None,
    ihc: str,
) -> dict[str, Any]:
    """Return everything that the page of a slide shows.

    Parameters
    ----------
    bounds
        The slide's scanned area, level-0 px; None when the slide cannot be read, for the area of its patches.
    ihc
        The grade that a truth file gives, or "".
    """
    provenance = result.provenance
    regions = [] if result.union is None else [result.union, *result.annotations]
    placed = [tiles(region) for region in regions]
    area = bounds or _envelope(placed)
    return {
        "name": result.slide,
        "outcome": result.outcome.value.replace("_", " "),
        "message": result.message,
        "warnings": result.warnings,
        "problem": pictures.problem,
        "ihc": ihc,
        "steps": provenance.steps if provenance else (),
        "step": positive_step(result),
        "mpp": provenance.slide_mpp if provenance else None,
        "bounds": _box(area) if area else None,
        "layers": [{**_box(layer.box), "source": data_uri(layer.jpeg)} for layer in pictures.layers],
        "outlines": _outlines(result),
        "regions": [_region(region, shown) for region, shown in zip(regions, placed, strict=True)],
        "speaking_for": [(index, data_uri(jpeg)) for index, jpeg in pictures.speaking_for],
        "speaking_against": [(index, data_uri(jpeg)) for index, jpeg in pictures.speaking_against],
        "composites": [data_uri(jpeg) for jpeg in pictures.composites],
        "provenance": _provenance(result, provenance) if provenance else (),
    }


def _outlines(result: SlideResult) -> list[dict[str, Any]]:
    """Return where each annotation lies, its name, and which of the regions is its own."""
    own = {region.region: number for number, region in enumerate(result.annotations, start=1)}
    return [
        {
            "label": _name(outline.name or outline.annotation, outline.class_name),
            "region": own.get(outline.annotation),
            "rings": outline.rings,
        }
        for outline in result.outlines
    ]


def _name(name: str, class_name: str) -> str:
    return f"{name} ({class_name or 'no class'})"


def _region(region: RegionResult, shown: Sequence[Tile]) -> dict[str, Any]:
    cells: dict[int, dict[int, tuple[float, ...]]] = {}
    for patch in region.patches:
        cells.setdefault(patch.composite, {})[patch.cell] = patch.contributions
    return {
        "label": _label(region),
        "outcome": region.outcome.value.replace("_", " "),
        "message": region.message,
        "foreground": region.patches_foreground,
        "sampled": region.patches_sampled,
        "artefacts": artefacts_in_words(region.artefacts or {}),
        "prediction": _prediction(region.prediction),
        "composites": [
            {
                "p": composite.p_positive,
                "grade": composite.grade,
                "cells": [_short(c) for _, c in sorted(cells.get(composite.index, {}).items())],
            }
            # A bag is no picture, and its only probability is the region's.
            for composite in (() if region.is_bag else region.composites)
        ],
        "tiles": {
            "size": shown[0].size if shown else 1,
            "x": [t.x for t in shown],
            "y": [t.y for t in shown],
            "saturation": [None if t.saturation is None else round(t.saturation, _DIGITS) for t in shown],
            "contributions": [None if t.contributions is None else _short(t.contributions) for t in shown],
        },
    }


def _label(region: RegionResult) -> str:
    if region.region != "slide":
        return _name(region.name or region.region, region.class_name)
    count = len(region.annotations)
    return f"all {count} annotations" if count > 1 else "the annotation" if count else "the whole slide"


def _prediction(prediction: Prediction | None) -> Any:
    return None if prediction is None else msgspec.to_builtins(prediction)


def _short(shares: Sequence[float]) -> list[float]:
    return [round(share, _DIGITS) for share in shares]


def _box(box: Box) -> dict[str, int]:
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}


def _envelope(placed: Sequence[Sequence[Tile]]) -> Box | None:
    every = [tile for shown in placed for tile in shown]
    if not every:
        return None
    x, y = min(t.x for t in every), min(t.y for t in every)
    return Box(x, y, max(t.x + t.size for t in every) - x, max(t.y + t.size for t in every) - y)


def _provenance(result: SlideResult, provenance: Provenance) -> list[tuple[str, str]]:
    return [
        ("File", result.path),
        ("Entry", result.entry),
        ("Slide's fingerprint", provenance.slide_fingerprint),
        ("Slide's scale", f"{provenance.slide_mpp} µm/px"),
        ("Model", provenance.model),
        ("What it knows", TOY_NOTICES.get(provenance.knowledge, "")),
        ("Model's SHA-256", provenance.model_sha256),
        ("Target", f"{provenance.target}: {', '.join(provenance.steps)}"),
        ("Read as positive", _threshold(provenance)),
        ("Called", provenance.call_chosen),
        ("Calibration", _calibration(provenance)),
        ("Trained on", provenance.trained_on),
        ("Model's scale", f"{provenance.model_mpp} µm/px, patches of {provenance.patch_px} px"),
        (
            "Device",
            ", ".join(filter(None, (provenance.device, provenance.precision, provenance.engine))),
        ),
        ("Seed", str(provenance.seed)),
        ("Options", _pairs(provenance.options)),
        ("Versions", _pairs(provenance.versions)),
        ("Regions' SHA-256", provenance.regions_sha256),
        ("Run", provenance.run),
        ("Note", provenance.note),
    ]


def _threshold(provenance: Provenance) -> str:
    if provenance.decision_threshold is None:
        return ""
    said = f"P({provenance.positive_step}) of {provenance.decision_threshold:.4f} or more"
    return f"{said}; threshold {provenance.threshold_chosen}" if provenance.threshold_chosen else said


def _calibration(provenance: Provenance) -> str:
    if provenance.temperature is None:
        return ""
    if provenance.calibrated_for:
        return f"Platt's, on {provenance.calibrated_for}"
    if provenance.temperature == 1.0:
        return "none: probabilities are as the network gives them"
    return f"logits divided by the temperature {provenance.temperature:.4g}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'not set' if value is None else value}" for name, value in values.items())
