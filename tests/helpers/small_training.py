"""Four little slides, one of each grade, told apart by their stain, and options to train on them quickly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import tifffile
from shapely.geometry import box

from herohe_model.dataset.cases import Case
from herohe_model.sampling.patches import PatchSet
from herohe_model.synthetic.slides import write_tiff
from herohe_model.training.data import TrainingSlide
from herohe_model.training.foreground_cache import find_foreground
from herohe_model.training.options import NO_AUGMENTATION, TrainOptions
from herohe_model.training.step import Resources, TrainingSet

MPP = 0.5
PATCH_PX = 16
SIDE = 5 * PATCH_PX
CASES = (
    Case("train", "1", ihc="0"),
    Case("train", "2", ihc="1+"),
    Case("train", "3", ihc="2+", ish="positive"),
    Case("train", "4", ihc="3+"),
)
MACHINE = Resources(workers=2, ahead=4, threads=1, preload=True)
OPTIONS = TrainOptions(
    artefacts="ignore",  # what these pictures are drawn in is no stain
    backbone="test_resnet",
    target="ihc",
    head="free",
    patch_px=PATCH_PX,
    mpp=MPP,
    pretrained=False,
    epochs=10,
    batch=4,
    micro_batch=2,
    lr=2e-3,
    validate_every=0,
    validation_composites=1,
    final_composites=2,
    checkpoint_every=3,
    precision="fp32",
    seed=5,
)


def tiny_options(**changes: object) -> TrainOptions:
    """The options with some of them changed."""
    return msgspec.structs.replace(OPTIONS, **changes)


def tiny_slides(folder: Path) -> list[TrainingSlide]:
    """Write four slides of 7 × 7 patches, of which the region holds the 25 in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    slides = []
    for number, case in enumerate(CASES):
        rng = np.random.default_rng(number)
        side = SIDE + 2 * PATCH_PX
        colour = np.array((190 - 35 * number, 120, 90 + 40 * number))
        picture = np.clip(colour + rng.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{case.id}.tif"
        write_tiff(path, picture, mpp=MPP, tile=32)
        region = box(PATCH_PX, PATCH_PX, PATCH_PX + SIDE, PATCH_PX + SIDE)
        slides.append(TrainingSlide(case, path, region))
    return slides


def tiny_set(folder: Path, *, held_out: bool = False, options: TrainOptions = OPTIONS) -> TrainingSet:
    """Slides and foreground; with `held_out`, the curves look at the slides trained on."""
    slides = tiny_slides(folder)
    found = find_foreground(
        slides, options, folder / "foreground", workers=2, progress=lambda _: None, cancelled=lambda: False
    )
    patches = [p for p in found if isinstance(p, PatchSet)]
    return TrainingSet(slides, patches, range(len(slides)), range(len(slides)) if held_out else ())


def break_tiles(path: Path, tiles: Sequence[int]) -> None:
    """Make some tiles of a slide's level 0 unreadable."""
    with tifffile.TiffFile(path) as tiff:
        places = [(tiff.pages[0].dataoffsets[k], tiff.pages[0].databytecounts[k]) for k in tiles]
    with path.open("r+b") as file:
        for offset, length in places:
            file.seek(offset)
            file.write(bytes(length))


__all__ = [
    "CASES",
    "MACHINE",
    "NO_AUGMENTATION",
    "OPTIONS",
    "break_tiles",
    "tiny_options",
    "tiny_set",
    "tiny_slides",
]
