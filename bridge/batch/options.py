"""What a batch does with each slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge.scoring.options import ScoreOptions, WriteOptions
from herohe_model.dataset.cases import case_id
from herohe_model.features.schema import FeatureFileError


@dataclass(frozen=True)
class BatchOptions:
    """What a batch does with each slide, apart from the model.

    Attributes
    ----------
    region_classes, exclude_classes
        Classes of annotations to sample in, and to cut out; see
        :func:`bridge.annotations.regions.build_regions`.
    slides_at_once
        How many slides are read and scored at a time by threads here.
    features
        Files of features to score instead of the slides' pixels, by the slides' names without extension;
        None to read the slides.
    """

    region_classes: tuple[str, ...] = ()
    exclude_classes: tuple[str, ...] = ()
    score: ScoreOptions = field(default_factory=ScoreOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    slides_at_once: int = 2
    features: Mapping[str, Path] | None = None

    def features_of(self, slide: str) -> str:
        """Return the file of a slide's features; "" where pixels are scored.

        Raises
        ------
        FeatureFileError
            If there is none among those that were named.
        """
        if self.features is None:
            return ""
        file = self.features.get(case_id(slide))
        if file is None:
            raise FeatureFileError(
                f"There are no features of {slide}", "Extract them, or score without --features"
            )
        return str(file.absolute())
