"""SlideResult: what scoring a slide gives, in one schema for QuPath, CSV, JSON and the wire.

Lengths and coordinates are level-0 pixels of the slide as OpenSlide counts them, x to the right and y down.
Probabilities are rounded to :data:`DECIMALS` decimals when a result is made, so every way of storing one
stores the same number. A result holds no time and no host: the same work gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import msgspec
import numpy as np

from herohe_model.notice import RESEARCH_USE_ONLY as RESEARCH_USE_ONLY
from herohe_model.notice import TOY_NOTICES
from herohe_model.printable import is_text, printable

DECIMALS: Final = 6
PREFIX: Final = "HER2-HE"


class Outcome(str, Enum):
    """How a slide or an annotation ended."""

    SCORED = "scored"
    INSUFFICIENT_TISSUE = "insufficient_tissue"
    NO_MATCHING_ANNOTATION = "no_matching_annotation"
    UNSUITABLE = "unsuitable"
    UNREADABLE = "unreadable"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_failure(self) -> bool:
        """Whether a batch that holds this outcome must not end with exit code 0."""
        return self in (Outcome.UNREADABLE, Outcome.FAILED, Outcome.CANCELLED)


class PlacedPatch(msgspec.Struct, frozen=True):
    """One cell of one composite.

    ``contributions`` holds this patch's share of each logit, highest step first. Of a bag model, whose one
    composite is the whole bag, ``attention`` is the patch's weight in it; they sum to 1. ``artefact`` is the
    reason why it cannot be judged, where such patches are marked and not left out. ``saturation`` is None
    where no pixel was read.
    """

    x: int
    y: int
    size: int
    composite: int
    cell: int
    saturation: float | None
    contributions: tuple[float, ...]
    attention: float | None = None
    artefact: str = ""


class ForegroundPatch(msgspec.Struct, frozen=True):
    """A foreground patch that no composite drew."""

    x: int
    y: int
    size: int
    saturation: float | None


class CompositeResult(msgspec.Struct, frozen=True):
    """Logits of one composite, highest step first, and what follows from them.

    ``members`` are the logits of P(positive)'s step by each network of an ensemble; none of a single one.
    """

    index: int
    logits: tuple[float, ...]
    p_positive: float
    grade: str
    members: tuple[float, ...] = ()


class Prediction(msgspec.Struct, frozen=True):
    """What the composites of one region say together, as far as the model learned to.

    Attributes
    ----------
    grade
        "" where a step that it takes was not learned from both answers.
    p_positive_sd
        Sample standard deviation over composites; 0 for one.
    expected_grade
        None without a grade.
    at_least
        Probability of at least a grade: ``1+``, ``2+`` and ``3+``, those that the model learned.
    levels
        One key a level of the model's target, summing to 1; empty where one of its steps was not learned.
    call
        *likely positive*, *uncertain: IHC, and ISH at 2+* or *likely negative*; "" where the model has no
        thresholds for it.
    p_low
        P(HER2-low), that is 1+, or 2+ without amplification: P(>=1+) - P(positive). None where the model
        does not tell both.
    p_positive_from, p_positive_to
        P(positive) with its logit moved by the call's margin of standard errors; None without a call.
    p_positive_member_sd
        Sample standard deviation of P(positive) over the networks of an ensemble; None of a single one.
    """

    grade: str
    status: str
    p_positive: float
    p_positive_sd: float
    expected_grade: float | None
    at_least: dict[str, float]
    levels: dict[str, float]
    call: str = ""
    p_low: float | None = None
    p_positive_from: float | None = None
    p_positive_to: float | None = None
    p_positive_member_sd: float | None = None

    def __post_init__(self) -> None:
        """Refuse what the types cannot: files of results are read from anywhere."""
        if self.grade and (self.expected_grade is None or not {"1+", "2+", "3+"} <= self.at_least.keys()):
            raise ValueError("a grade without the probabilities of 1+, 2+ and 3+")


class RegionResult(msgspec.Struct, frozen=True):
    """The result for a slide's union of regions, or for one annotation.

    ``region`` is ``"slide"`` for the union and the annotation's identifier (QuPath's UUID) otherwise.
    ``annotations`` are the identifiers of all annotations that the region is made of; empty when the whole
    slide was sampled. ``artefacts`` counts patches that have enough saturation and cannot be judged, by
    reason (:data:`herohe_model.sampling.artefacts.REASONS`); None where none were looked for. They are not
    among the foreground, unless they were only marked. ``foreground_threshold`` is what told the foreground,
    and ``out_of_focus`` the share of the patches the model saw that are blurred; None where nobody looked.
    ``feature_distance`` is of a bag model, see :class:`herohe_model.model.score.BagScore`.
    """

    region: str
    name: str
    class_name: str
    annotations: tuple[str, ...]
    outcome: Outcome
    message: str = ""
    patches_foreground: int = 0
    patches_sampled: int = 0
    prediction: Prediction | None = None
    composites: tuple[CompositeResult, ...] = ()
    patches: tuple[PlacedPatch, ...] = ()
    unsampled: tuple[ForegroundPatch, ...] = ()
    artefacts: dict[str, int] | None = None
    foreground_threshold: float | None = None
    out_of_focus: float | None = None
    feature_distance: float | None = None

    def __post_init__(self) -> None:
        """Refuse patches of composites that are not there."""
        if not all(0 <= patch.composite < len(self.composites) for patch in self.patches):
            raise ValueError("a patch lies in a composite that is not there")

    @property
    def patches_artefact(self) -> int | None:
        """How many patches cannot be judged; None where none were looked for."""
        return None if self.artefacts is None else sum(self.artefacts.values())

    @property
    def is_bag(self) -> bool:
        """Whether a bag model scored it: its one composite is no picture, but all of its patches."""
        return any(patch.attention is not None for patch in self.patches[:1])

    @property
    def title(self) -> str:
        """What a reader knows it by: its name, or else its class."""
        return self.name or self.class_name or ("Annotation" if self.annotations else "Whole image")


class Provenance(msgspec.Struct, frozen=True):
    """What made a result. ``run`` is a digest of all the rest and of the regions' geometry.

    ``steps`` are those that the model may speak of. ``engine`` is what computed, such as ``openvino
    2026.4.1``. The rest comes from the model's card: the step that is read as P(positive), the least
    P(positive) that is called positive, how that was chosen, what logits were divided by, what the weights
    were trained on, what stands behind them, how the thresholds of the call were chosen, and what the
    calibration was fitted on; of a bag model, what embedded the patches, the SHA-256 of its weights, and that
    of the file of features where one was scored instead of the pixels. All of these are empty in results of
    before they were recorded.
    """

    run: str
    model: str
    model_sha256: str
    target: str
    steps: tuple[str, ...]
    seed: int
    device: str
    precision: str
    options: dict[str, Any]
    versions: dict[str, str]
    regions_sha256: str
    slide_fingerprint: str
    slide_mpp: float
    model_mpp: float
    patch_px: int
    note: str = RESEARCH_USE_ONLY
    engine: str = ""
    positive_step: str = ""
    decision_threshold: float | None = None
    threshold_chosen: str = ""
    temperature: float | None = None
    trained_on: str = ""
    knowledge: str = ""
    call_chosen: str = ""
    calibrated_for: str = ""
    encoder: str = ""
    encoder_sha256: str = ""
    features_sha256: str = ""

    @property
    def is_toy(self) -> bool:
        """Whether what the model says of a slide means nothing."""
        return self.knowledge in TOY_NOTICES

    def digest(self) -> str:
        """SHA-256 over all fields but ``run``, as a hexadecimal string."""
        facts = msgspec.json.encode(msgspec.structs.replace(self, run=""), order="deterministic")
        return hashlib.sha256(facts).hexdigest()


class Outline(msgspec.Struct, frozen=True):
    """Where a sampled annotation lies, for display: simplified, so no other measure of it.

    ``rings`` are closed implicitly, each x0, y0, x1, y1, ...; what lies inside an even number is outside.
    """

    annotation: str
    name: str
    class_name: str
    rings: tuple[tuple[int, ...], ...]


class SlideResult(msgspec.Struct, frozen=True):
    """Everything known about one slide after scoring it, or the reason why it was not scored.

    ``outlines`` has one entry an annotation of the union; none when the whole slide was sampled.
    ``stain_percentiles`` says where the slide lies among those that the model was trained on, by its stain
    and by the distance of its ``features`` (:class:`herohe_model.sampling.likeness.Likeness`); empty where
    the model does not know.
    """

    entry: str
    slide: str
    path: str
    outcome: Outcome
    message: str = ""
    error_code: str = ""
    warnings: tuple[str, ...] = ()
    union: RegionResult | None = None
    annotations: tuple[RegionResult, ...] = ()
    provenance: Provenance | None = None
    outlines: tuple[Outline, ...] = ()
    stain_percentiles: dict[str, float] = {}

    def __post_init__(self) -> None:
        """Make text of what is none, such as names that are not UTF-8: whatever is kept can be written."""
        for name in ("entry", "slide", "path", "message"):
            text = getattr(self, name)
            if not is_text(text):
                msgspec.structs.force_setattr(self, name, printable(text))
        steps = len(self.provenance.steps) if self.provenance is not None else None
        for region in filter(None, (self.union, *self.annotations)):
            if steps is not None and any(len(patch.contributions) != steps for patch in region.patches):
                raise ValueError("a patch has not one contribution a step")
        if not all(is_text(warning) for warning in self.warnings):
            msgspec.structs.force_setattr(self, "warnings", tuple(printable(text) for text in self.warnings))


class Tile(msgspec.Struct, frozen=True):
    """A distinct patch of a region, for display; contributions are means over its placements."""

    x: int
    y: int
    size: int
    saturation: float | None
    contributions: tuple[float, ...] | None


def tiles(region: RegionResult) -> tuple[Tile, ...]:
    """Each distinct patch of a region once: the sampled ones, then the unsampled where they were kept."""
    placed: dict[tuple[int, int], list[PlacedPatch]] = {}
    for patch in region.patches:
        placed.setdefault((patch.x, patch.y), []).append(patch)
    sampled = (
        Tile(
            x=same[0].x,
            y=same[0].y,
            size=same[0].size,
            saturation=same[0].saturation,
            contributions=tuple(rounded(np.mean([p.contributions for p in same], axis=0))),
        )
        for same in placed.values()
    )
    rest = (Tile(p.x, p.y, p.size, p.saturation, None) for p in region.unsampled)
    return (*sampled, *rest)


def measurements(region: RegionResult) -> dict[str, float]:
    """QuPath measurements of an annotation. The names are an API that users' scripts rely on."""
    values: dict[str, float] = {}
    if region.prediction is not None:
        p = region.prediction
        known = {
            "P(>=1+)": p.at_least.get("1+"),
            "P(>=2+)": p.at_least.get("2+"),
            "P(3+)": p.at_least.get("3+"),
            "P(positive)": p.p_positive,
            "P(HER2-low)": p.p_low,
            "expected grade": p.expected_grade,
            "P(positive) SD": p.p_positive_sd,
            "P(positive) SD of members": p.p_positive_member_sd,
        }
        values = {name: value for name, value in known.items() if value is not None}
    values["patches foreground"] = float(region.patches_foreground)
    values["patches sampled"] = float(region.patches_sampled)
    if region.patches_artefact is not None:
        values["patches artefact"] = float(region.patches_artefact)
    values["composites"] = float(len(region.composites))
    return {f"{PREFIX}: {name}": float(value) for name, value in values.items()}


def tile_measurements(tile: Tile, steps: Iterable[str]) -> dict[str, float]:
    """QuPath measurements of a sampled patch: its saturation and its share of each logit."""
    values = {} if tile.saturation is None else {f"{PREFIX}: saturation": tile.saturation}
    if tile.contributions is not None:
        for step, share in zip(steps, tile.contributions, strict=True):
            values[f"{PREFIX}: contribution {step}"] = share
    return values


def image_metadata(result: SlideResult) -> dict[str, str]:
    """Text for the project's image list; every key is always present, so a re-run overwrites them all."""
    prediction = result.union.prediction if result.union is not None else None
    provenance = result.provenance
    return {
        f"{PREFIX} outcome": result.outcome.value,
        f"{PREFIX} call": prediction.call if prediction else "",
        f"{PREFIX} grade": prediction.grade if prediction else "",
        f"{PREFIX} status": prediction.status if prediction else "",
        f"{PREFIX} P(positive)": f"{prediction.p_positive:.{DECIMALS}f}" if prediction else "",
        f"{PREFIX} model": model_named(provenance) if provenance else "",
        f"{PREFIX} run": provenance.run if provenance else "",
    }


def model_named(provenance: Provenance) -> str:
    """Return a model's name and the beginning of its digest, after what a demo or random model is."""
    named = f"{provenance.model} {provenance.model_sha256[:12]}"
    return f"[{provenance.knowledge}: means nothing] {named}" if provenance.is_toy else named


def rounded(values: Any) -> list[float]:
    """Values as Python floats with the stored number of decimals; -0.0 becomes 0.0."""
    return [round(float(v), DECIMALS) + 0.0 for v in np.asarray(values, dtype=np.float64).ravel()]
