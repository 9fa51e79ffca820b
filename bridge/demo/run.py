"""The whole system on synthetic slides: draw, train, score through a project, and look at the result.

The weights are for show: they know the phantoms of :mod:`herohe_model.synthetic.phantom` and nothing of
tissue.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from shapely.geometry import MultiPolygon, Polygon

from bridge.annotations.regions import Annotation
from herohe_model.dataset.cases import Case
from herohe_model.dataset.tables import CsvWriter
from herohe_model.files import write_atomically
from herohe_model.grades import GRADES, Status, Target
from herohe_model.synthetic.phantom import draw_phantom, look_like_tissue
from herohe_model.synthetic.slides import write_mirax, write_tiff
from herohe_model.training.composite_folds import train_folds
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.data import TrainingSlide
from herohe_model.training.loop import TrainListener
from herohe_model.training.options import NO_AUGMENTATION, TrainOptions, check_options
from herohe_model.training.processes import join_processes
from herohe_model.training.step import Resources

TUMOUR_CLASS: Final = "Tumor"
MODEL_NAME: Final = "demo"
SLIDE_MPP: Final = 0.485
MIRAX_ORIGIN: Final = (1024, 768)
"""Where the MIRAX slide's picture lies on its canvas, level-0 px: its bounds are not at (0, 0)."""

_BATCH: Final = 4
_OPTIONS: Final = TrainOptions(
    backbone="test_resnet",
    head="ordered",
    target=Target.IHC.value,
    patch_px=64,
    mpp=2 * SLIDE_MPP,
    pretrained=False,
    batch=_BATCH,
    micro_batch=_BATCH,
    lr=2e-3,
    augment=NO_AUGMENTATION,
    validate_every=0,
    checkpoint_every=1000,
)
_TRAINED_ON: Final = "phantoms of herohe-bridge demo, which know nothing of real tissue"


@dataclass(frozen=True)
class DemoSlide:
    """A synthetic slide, its truth and its drawn tumour, in level-0 px of the slide."""

    path: Path
    grade: str
    held_out: bool
    annotations: tuple[Annotation, ...]

    @property
    def case(self) -> Case:
        """Its labels: 2+ and 3+ are called HER2-positive."""
        status: Status = "HER2-positive" if self.grade in ("2+", "3+") else "HER2-negative"
        return Case("test" if self.held_out else "train", self.path.stem, ihc=self.grade, status=status)


def make_slides(folder: Path, count: int, *, seed: int = 0) -> Iterator[DemoSlide]:
    """Draw slides of every grade in turn, the second half held out; the last one is a MIRAX with bounds.

    Yields
    ------
    DemoSlide
        As soon as its file is written. Slides to train on lie in ``training``, the others in ``held-out``.
    """
    for number in range(count):
        held_out = number >= count // 2
        home = folder / ("held-out" if held_out else "training")
        home.mkdir(parents=True, exist_ok=True)
        phantom = draw_phantom(GRADES[number % len(GRADES)], seed=seed + number)
        picture = look_like_tissue(phantom, seed=seed + number)
        mirax = number == count - 1
        dx, dy = MIRAX_ORIGIN if mirax else (0, 0)
        path = home / f"case-{number + 1:02d}{'.mrxs' if mirax else '.tif'}"
        if mirax:
            write_mirax(path, picture, mpp=SLIDE_MPP, origin=MIRAX_ORIGIN)
        else:
            write_tiff(path, picture, mpp=SLIDE_MPP)
        annotations = tuple(
            Annotation(
                id=f"{number:08x}-0000-4000-8000-{k:012x}",
                name=f"Tumour {k + 1}",
                class_name=TUMOUR_CLASS,
                geometry=Polygon([(x + dx, y + dy) for x, y in outline]),
            )
            for k, outline in enumerate(phantom.tumour)
        )
        yield DemoSlide(path, phantom.grade, held_out, annotations)


def write_truth(path: Path, slides: Sequence[DemoSlide]) -> None:
    """Write the grades that were drawn, the status that follows, and the split of each slide."""
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(("case", "ihc", "status", "split"))
    for case in (slide.case for slide in slides):
        writer.writerow((case.id, case.ihc, (case.status or "").removeprefix("HER2-"), case.split))
    write_atomically(path, text.getvalue().encode())


def train_for_show(slides: Sequence[DemoSlide], folder: Path, *, steps: int, listener: TrainListener) -> Path:
    """Train a small network on composites of the slides' tumour; return the model file.

    Parameters
    ----------
    folder
        Of the training run: model, learning curves, log.
    steps
        Optimiser steps, about; whole epochs are trained.
    """
    options = msgspec.structs.replace(_OPTIONS, epochs=max(1, round(steps * _BATCH / len(slides))))
    training = [
        TrainingSlide(slide.case, slide.path, MultiPolygon([a.geometry for a in slide.annotations]))
        for slide in slides
    ]
    with join_processes("cpu") as processes:
        return train_folds(
            training,
            FoldPlan("none"),
            check_options(options),
            folder,
            name=MODEL_NAME,
            trained_on=_TRAINED_ON,
            knowledge="demo",
            processes=processes,
            resources=Resources(workers=2, ahead=8, preload=True),
            listener=listener,
        ).model
