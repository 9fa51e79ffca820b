"""The options of scoring: what decides a result, apart from the slide, its regions and the model."""

from __future__ import annotations

from typing import Literal

import msgspec

from herohe_model.errors import OptionError
from herohe_model.sampling.artefacts import ArtefactRule

Tiles = Literal["sampled", "all", "none"]


class ScoreOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of :func:`bridge.scoring.slide.score_slide`; they travel to the server and into the provenance.

    Attributes
    ----------
    composites
        Composites a region; None for as many as hold every foreground patch at least once.
    seed
        Seed of the sampler.
    min_patches
        Fewest foreground patches a region is scored from; below it, the outcome is insufficient tissue.
    min_coverage
        Share of a patch's area that a region must cover, 0 to 1.
    per_annotation
        Sample and score each annotation for itself, beside the union.
    mpp
        µm per level-0 px, overriding the slide's own; None to use the slide's.
    exact_foreground
        Decide the foreground from level 0 instead of the pyramid, for checking.
    keep_unsampled
        Also report the foreground patches that no composite drew.
    any_stain
        Score whatever the slide is stained with, instead of H&E only.
    symmetries
        Score each composite in all eight positions of the square and take the mean: eight times the work.
    artefacts
        Whether patches that cannot be judged are left out, marked in the result, or not looked for.
    foreground_threshold
        Least mean saturation of a patch, 0 to 1, or ``otsu``; None for the model's own.
    strict
        Refuse slides that are stained unlike all that the model was trained on, instead of a warning.
    """

    composites: int | None = 8
    seed: int = 0
    min_patches: int = 10
    min_coverage: float = 0.5
    per_annotation: bool = False
    mpp: float | None = None
    exact_foreground: bool = False
    keep_unsampled: bool = False
    any_stain: bool = False
    symmetries: bool = False
    artefacts: ArtefactRule = "leave-out"
    foreground_threshold: float | Literal["otsu"] | None = None
    strict: bool = False

    @property
    def artefact_rule(self) -> ArtefactRule:
        """What is done about artefacts; of any stain their colours, which are H&E's, are not looked for."""
        return "ignore" if self.any_stain else self.artefacts

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.composites is not None and not 1 <= self.composites <= 10_000:
            raise OptionError(f"{self.composites} composites were asked for", "Ask for 1 to 10000, or all")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"The seed {self.seed} is out of range", "Use 0 to 2^63 - 1")
        if self.min_patches < 1:
            raise OptionError(f"min-patches is {self.min_patches}", "Use 1 or more")
        if not 0.0 < self.min_coverage <= 1.0:
            raise OptionError(f"min-coverage is {self.min_coverage}", "Use a share above 0 and up to 1")
        threshold = self.foreground_threshold
        if isinstance(threshold, float | int) and not 0.0 <= threshold <= 1.0:
            raise OptionError(f"foreground-threshold is {threshold}", "Use 0 to 1, or otsu")
        if self.mpp is not None and not 0.01 <= self.mpp <= 100.0:
            raise OptionError(f"mpp is {self.mpp} µm/px", "Use the slide's scale, 0.01 to 100 µm per pixel")


class WriteOptions(msgspec.Struct, frozen=True):
    """What is written back into a project, beside measurements and image metadata."""

    tiles: Tiles = "sampled"
    classify: bool = True
