"""Cohorts of bags, drawn so that the level shows in few of a slide's patches, as files of TRIDENT's."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from helpers.feature_files import write_trident
from herohe_model.dataset.labels import Labels, read_label_files
from herohe_model.grades import Target

DIMENSION = 24
LEVELS = Target.IHC_ISH.levels
_ROWS = {"0": "0,,", "1+": "1,,", "2+/ISH-": "2,negative,", "2+/ISH+": "2,positive,", "3+": "3,,"}


def drawn_bag(
    level: int, rng: np.random.Generator, *, share: float = 0.15, patches: int = 120
) -> NDArray[np.float32]:
    """Patches of a slide, (n, DIMENSION) float32: noise, a tint of the slide, and nests of tumour.

    In a nest's patches the first two numbers tell that it is one, the third and fourth its level; elsewhere
    those vary as much and say nothing.
    """
    bag = rng.normal(size=(patches, DIMENSION)) + rng.normal(size=DIMENSION) * 0.3
    nest = rng.random(patches) < share
    nest[:3] = True
    bag[:, 2:4] += rng.normal(size=(patches, 1)) * 2.0
    bag[nest, :2] += 3.0
    bag[nest, 2:4] = (level - 2) * 1.5 + rng.normal(size=(int(nest.sum()), 2))
    return bag.astype(np.float32)


def write_drawn(
    path: Path, features: NDArray[np.float32], *, encoder: str = "small", magnification: float = 20
) -> Path:
    """Write features on a grid of patches, in TRIDENT's layout."""
    columns = max(1, round(len(features) ** 0.5))
    corners = np.array([(512 * (i % columns), 512 * (i // columns)) for i in range(len(features))])
    write_trident(path, features, corners, encoder=encoder)
    with h5py.File(path, "r+") as file:
        file["coords"].attrs["target_magnification"] = magnification
    return path


def write_cohort(folder: Path, count: int, *, seed: int = 0, share: float = 0.15) -> Path:
    """Write `count` files of features, five levels in turn, and their labels; return the labels' file."""
    rng = np.random.default_rng(seed)
    (folder / "features").mkdir(parents=True)
    lines = ["case,ihc,ish,status"]
    for i in range(count):
        level = i % len(LEVELS)
        write_drawn(folder / "features" / f"case{i}.h5", drawn_bag(level, rng, share=share))
        lines.append(f"case{i},{_ROWS[LEVELS[level]]}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return labels


def read_labels(file: Path) -> Labels:
    """Read what :func:`write_cohort` wrote."""
    return read_label_files([(file, "train")])
