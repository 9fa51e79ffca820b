"""What a batch does with each slide."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.scoring.options import ScoreOptions, WriteOptions


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
    """

    region_classes: tuple[str, ...] = ()
    exclude_classes: tuple[str, ...] = ()
    score: ScoreOptions = field(default_factory=ScoreOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    slides_at_once: int = 2
