"""A synthetic cohort with known rules, to prove training on.

The rules: membrane rings in some squares of the tumour show the grade, the others look like grade 0; a pale
spot in the nuclei of these squares stands for amplification (2+/ISH+, and every 3+); the stroma shows rings
of all grades, so that only the annotated tumour tells; each laboratory stains in its own way, and each of its
slides a little differently; some labels are wrong by one level.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from herohe_model.dataset.cases import Case, Ish
from herohe_model.files import write_atomically
from herohe_model.grades import Status, Target
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff
from herohe_model.training.augment import apply_colour, colour_maps
from herohe_model.training.composite_folds import train_folds
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.data import TrainingSlide
from herohe_model.training.loop import NullListener
from herohe_model.training.options import TrainOptions
from herohe_model.training.processes import Processes
from herohe_model.training.step import Resources

LEVELS: Final = Target.IHC_ISH.levels
LABELS_NAME: Final = "labels.csv"
MPP: Final = 0.485

_SQUARE_PX: Final = 40
_SLIDE_STAIN: Final = 0.04


@dataclass(frozen=True)
class CohortRules:
    """What decides a cohort, beside its seed.

    Attributes
    ----------
    shares
        Of the levels 0, 1+, 2+/ISH-, 2+/ISH+ and 3+; HER2-positive are the last two.
    expressing
        Share of the tumour's squares that show the grade.
    laboratories
        How many there are; a slide's is independent of its level.
    stain
        How much laboratories differ: each stain's amount is scaled by up to 1 ± this.
    noise
        Share of labels that name a neighbouring level.
    side_px
        Side of a slide.
    """

    shares: tuple[float, ...] = (0.18, 0.18, 0.22, 0.22, 0.20)
    expressing: float = 0.4
    laboratories: int = 3
    stain: float = 0.25
    noise: float = 0.04
    side_px: int = 640


@dataclass(frozen=True)
class CohortSlide:
    """A slide as it is labelled, and the level that it shows."""

    slide: TrainingSlide
    shown: str


def make_cohort(
    folder: Path, count: int, *, seed: int = 0, split: str = "train", rules: CohortRules | None = None
) -> list[CohortSlide]:
    """Draw a cohort: pyramidal TIFFs, and ``labels.csv`` with their labels.

    Parameters
    ----------
    folder
        Made if it is not there.
    seed
        Decides everything; no slide of one seed comes in another.

    Returns
    -------
    list of CohortSlide
        Slides with their tumour as the region to sample, in an order that tells nothing.
    """
    rules = rules or CohortRules()
    folder.mkdir(parents=True, exist_ok=True)
    slides = list(_draw(folder, count, seed, split, rules))
    write_labels(folder / LABELS_NAME, [s.slide.case for s in slides])
    return slides


def train_on_cohort(
    slides: Sequence[TrainingSlide], plan: FoldPlan, folder: Path, *, name: str, epochs: int
) -> Path:
    """Train a small network on slides of a cohort, as the product does; return its model file."""
    options = TrainOptions(
        backbone="test_resnet",
        patch_px=32,
        mpp=MPP,
        pretrained=False,
        batch=8,
        micro_batch=8,
        lr=3e-3,
        epochs=epochs,
        composites_per_slide=2,
        validate_every=0,
        checkpoint_every=1000,
        final_composites=4,
        precision="fp32",
    )
    return train_folds(
        slides,
        plan,
        options,
        folder,
        name=name,
        trained_on="a synthetic cohort",
        processes=Processes(0, 1, torch.device("cpu")),
        resources=Resources(workers=1, threads=1, preload=True),
        listener=NullListener(),
    ).model


def write_labels(path: Path, cases: Sequence[Case]) -> None:
    """Write a plain label file: ``case,ihc,ish,status,laboratory,split``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "ihc", "ish", "status", "laboratory", "split"))
    for case in cases:
        status = (case.status or "").removeprefix("HER2-")
        writer.writerow((case.id, case.ihc or "", case.ish or "", status, case.laboratory or "", case.split))
    write_atomically(path, text.getvalue().encode())


def case_of_level(level: str, id: str, *, split: str = "train", laboratory: str | None = None) -> Case:
    """Return a case with the labels that stand for a level of :data:`LEVELS`."""
    ihc = level.partition("/")[0]
    ish: Ish | None = None
    if ihc == "2+":
        ish = "positive" if level.endswith("+") else "negative"
    status: Status = "HER2-positive" if LEVELS.index(level) >= LEVELS.index("2+/ISH+") else "HER2-negative"
    return Case(split, id, ihc=ihc, ish=ish, status=status, laboratory=laboratory)


def _draw(folder: Path, count: int, seed: int, split: str, rules: CohortRules) -> Iterator[CohortSlide]:
    # Laboratories stain alike whatever the seed, so that one cohort can test another's model.
    stains = np.random.default_rng(11).uniform(-1, 1, (rules.laboratories, 3))
    rng = np.random.default_rng([seed, count])
    edges = np.floor(np.concatenate([[0.0], np.cumsum(rules.shares)]) * count + 0.5).astype(int)
    ranks = rng.permutation(np.repeat(np.arange(len(LEVELS)), np.diff(edges)))
    for number, rank in enumerate(ranks.tolist()):
        laboratory = int(rng.integers(rules.laboratories))
        told = rank
        if rng.random() < rules.noise:
            told = min(max(rank + int(rng.choice((-1, 1))), 0), len(LEVELS) - 1)
        scale = 1 + rules.stain * stains[laboratory] + _SLIDE_STAIN * rng.uniform(-1, 1, 3)
        level = LEVELS[rank]
        phantom = draw_phantom(
            level.partition("/")[0],
            seed=seed * 1_000_003 + number,
            side=rules.side_px,
            amplified=rank >= LEVELS.index("2+/ISH+"),
            expressing=rules.expressing,
            square_px=_SQUARE_PX,
        )
        path = folder / f"{number + 1:03d}.tif"
        write_tiff(path, _stained(phantom.picture, scale), mpp=MPP)
        case = case_of_level(
            LEVELS[told], path.stem, split=split, laboratory=f"laboratory {chr(ord('A') + laboratory)}"
        )
        region = MultiPolygon([Polygon(outline) for outline in phantom.tumour])
        yield CohortSlide(TrainingSlide(case, path, region), level)


def _stained(picture: NDArray[np.uint8], scale: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale a picture's stains, as another laboratory would have dyed it."""
    colour = torch.from_numpy(colour_maps(scale[None], np.zeros(3), np.ones(3)))
    stained = apply_colour(torch.from_numpy(picture)[None], colour[None], 1)[0]
    return np.asarray(stained.round().to(torch.uint8).numpy(), dtype=np.uint8)
