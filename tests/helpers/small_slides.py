"""Small slides and a small model that the tests of scoring share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import box

from bridge.annotations.regions import Annotation
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import new_model
from herohe_model.slides.icc import matrix_profile
from herohe_model.synthetic.slides import write_tiff

PATCH_PX = 32
MPP = 0.5


def small_model(path: Path, *, seed: int = 0, target: str = "ihc", patch_px: int = PATCH_PX) -> Path:
    """Write a tiny model of 32 px patches by default, so a composite measures 160 px."""
    card, state = new_model(
        "test_resnet",
        head="ordered",
        target="ihc+ish" if target == "ihc+ish" else "ihc",
        patch_px=patch_px,
        mpp=MPP,
        seed=seed,
        name=f"small {seed}",
    )
    save_model(path, card, state)
    return path


def tissue_picture(
    side: int, *, seed: int = 0, tissue: tuple[int, int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Pale glass with a rectangle (x, y, width, height) of noisy tissue; by default, most of it."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 245, dtype=np.uint8)
    x, y, width, height = tissue or (32, 32, side - 64, side - 64)
    noise = rng.integers(0, 60, (height, width, 1), dtype=np.int16)
    stained = np.array((170, 90, 150), dtype=np.int16) + noise + rng.integers(-20, 20, (height, width, 3))
    picture[y : y + height, x : x + width] = np.clip(stained, 0, 255).astype(np.uint8)
    return picture


def scanner_profile() -> bytes:
    """An ICC profile whose colours are well off those of sRGB."""
    return matrix_profile(((0.45, 0.23, 0.02), (0.35, 0.68, 0.08), (0.1642, 0.09, 0.7249)), [461])


def immunostained_picture(side: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Pale glass with tissue that is brown by DAB, but for blue nuclei."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 245, dtype=np.uint8)
    shape = (side - 64, side - 64)
    nuclei = (rng.random(shape) < 0.2)[..., None]
    density = np.where(nuclei, np.array((0.65, 0.70, 0.29)), np.array((0.27, 0.57, 0.78)))
    strength = rng.uniform(0.6, 1.2, shape)[..., None]
    picture[32 : side - 32, 32 : side - 32] = np.rint(245 * np.exp(-density * strength)).astype(np.uint8)
    return picture


def small_slide(path: Path, *, side: int = 512, seed: int = 0, mpp: float | None = MPP) -> Path:
    """Write a slide of 512 px with tissue in its middle: 14 × 14 foreground patches."""
    write_tiff(path, tissue_picture(side, seed=seed), mpp=mpp, tile=128)
    return path


def drawn(
    x: int, y: int, width: int, height: int, *, id: str = "a1", class_name: str = "Tumor"
) -> Annotation:
    """A rectangular annotation, level-0 px."""
    return Annotation(
        id=id, name=f"drawn {id}", class_name=class_name, geometry=box(x, y, x + width, y + height)
    )
