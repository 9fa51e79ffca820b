"""The whole system on synthetic slides: draw, train, score through a project, and look at the result.

The weights are for show: they know the phantoms of :mod:`herohe_model.synthetic.phantom` and nothing of
tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from bridge.annotations.regions import Annotation
from bridge.versions import package_versions
from herohe_model.dataset.tables import CsvWriter
from herohe_model.errors import ProjectError
from herohe_model.grades import GRADES, Target, bits_of_level
from herohe_model.model.card import ModelCard
from herohe_model.model.checkpoint import save_model
from herohe_model.model.network import OrdinalNetwork
from herohe_model.sampling.composite import draw_composites, read_composite
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_mirax, write_tiff

TUMOUR_CLASS: Final = "Tumor"
MODEL_NAME: Final = "demo"
SLIDE_MPP: Final = 0.485
MIRAX_ORIGIN: Final = (1024, 768)
"""Where the MIRAX slide's picture lies on its canvas, level-0 px: its bounds are not at (0, 0)."""

_CARD: Final = ModelCard(
    name=MODEL_NAME,
    backbone="test_resnet",
    head="ordered",
    target=Target.IHC.value,
    patch_px=64,
    mpp=2 * SLIDE_MPP,
    foreground_threshold=0.07,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    positive_step=Target.IHC.default_positive_step,
    note="Weights for show, learned from synthetic pictures in a minute. They know nothing of real tissue.",
    trained_on="phantoms of herohe-bridge demo",
)
_BATCH: Final = 4
_RATE: Final = 2e-3


@dataclass(frozen=True)
class DemoSlide:
    """A synthetic slide, its truth and its drawn tumour, in level-0 px of the slide."""

    path: Path
    grade: str
    held_out: bool
    annotations: tuple[Annotation, ...]

    @property
    def regions(self) -> BaseGeometry:
        """All of its tumour as one geometry."""
        return MultiPolygon([a.geometry for a in self.annotations])


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
        mirax = number == count - 1
        dx, dy = MIRAX_ORIGIN if mirax else (0, 0)
        path = home / f"case-{number + 1:02d}{'.mrxs' if mirax else '.tif'}"
        if mirax:
            write_mirax(path, phantom.picture, mpp=SLIDE_MPP, origin=MIRAX_ORIGIN)
        else:
            write_tiff(path, phantom.picture, mpp=SLIDE_MPP)
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
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = CsvWriter(file)
        writer.writerow(("case", "ihc", "status", "split"))
        for slide in slides:
            status = "Positive" if is_positive(slide.grade) else "Negative"
            writer.writerow((slide.path.stem, slide.grade, status, "test" if slide.held_out else "train"))


def train_for_show(
    slides: Sequence[DemoSlide], model: Path, *, steps: int, progress: Callable[[int, float], None]
) -> None:
    """Train a small network on composites of the slides' tumour, and save it.

    Parameters
    ----------
    model
        The model file to write.
    steps
        Optimiser steps, of :data:`_BATCH` composites each.
    progress
        Called after each step with the number of steps done and the loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = OrdinalNetwork(_CARD).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    pictures = [_composites(slide, seed) for seed in range(2) for slide in slides]
    targets = [bits_of_level(slide.grade, Target.IHC) for _ in range(2) for slide in slides]
    rng = np.random.default_rng(0)
    for step in range(steps):
        chosen = rng.choice(len(pictures), size=min(_BATCH, len(pictures)), replace=False)
        batch = np.stack([pictures[i][rng.integers(len(pictures[i]))] for i in chosen])
        truth = torch.tensor([targets[i] for i in chosen], dtype=torch.float32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(torch.from_numpy(batch)), truth)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        progress(step + 1, loss.item())
    card = msgspec.structs.replace(_CARD, versions=dict(package_versions()))
    save_model(model, card, network.state_dict())


def f1_score(truth: Sequence[bool], predicted: Sequence[bool]) -> float:
    """Return the F1 of the positive class; 0 when nothing is positive."""
    hits = sum(t and p for t, p in zip(truth, predicted, strict=True))
    marked = sum(truth) + sum(predicted)
    return 2 * hits / marked if marked else 0.0


def is_positive(grade: str) -> bool:
    """Whether the demo calls a drawn grade HER2-positive: 2+ and 3+."""
    return grade in ("2+", "3+")


def _composites(slide: DemoSlide, seed: int) -> NDArray[np.uint8]:
    """Return composites that between them hold every foreground patch: (n, side, side, 3)."""
    with GuardedSlide(slide.path) as source:
        patches = find_patches(
            source,
            slide.regions,
            patch_px=_CARD.patch_px,
            mpp=_CARD.mpp,
            threshold=_CARD.foreground_threshold,
        )
        if not len(patches):
            raise ProjectError(
                f"No tissue was found in {slide.path}", "Remove the folder and run the demo again"
            )
        drawn = draw_composites(len(patches), composites=None, seed=seed, cells=_CARD.grid**2)
        return np.stack([read_composite(source, patches, cells, patch_px=_CARD.patch_px) for cells in drawn])
