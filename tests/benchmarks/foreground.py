"""Foreground of a 40,000 x 40,000 px slide: from the pyramid against exhaustively from level 0.

One thread each, in one run: prints how many times faster the pyramid is, and how many decisions agree. The
slide is synthetic: tissue with frayed outlines and islands, stain that fades to almost nothing, nuclei,
camera noise and JPEG. Making it takes minutes; name it with --slide to keep it for the next run.

    python tests/benchmarks/foreground.py [--slide tissue.tif] [--side 40000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiled_tiff

TILE = 512
MACRO = 64  # level-0 px per px of the fields that vary across the slide
# Optical densities in R, G and B (Ruifrok & Johnston 2001, Quantification of Histochemical Staining).
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], dtype=np.float32)
EOSIN = np.array([0.07, 0.99, 0.11], dtype=np.float32)


def main() -> None:
    """Make or open the slide, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="slide to measure; made there if it does not exist")
    parser.add_argument("--side", type=int, default=40_000, help="px of the slide to be made")
    parser.add_argument("--threshold", type=float, default=0.07)
    parser.add_argument("--repeats", type=int, default=9, help="runs from the pyramid; the median counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide or Path(folder) / "tissue.tif"
        if not path.exists():
            start = time.perf_counter()
            write_tissue(path, options.side)
            print(f"made {path.name} in {time.perf_counter() - start:.0f} s")
        for fast, way in ((True, "JPEG tiles read here"), (False, "through OpenSlide")):
            print(f"{way}:")
            measure(path, options.threshold, options.repeats, fast=fast)


def measure(path: Path, threshold: float, repeats: int, *, fast: bool) -> None:
    """Print both times, their ratio, and the agreement of the decisions."""
    runs = [saturations(path, exact=False, fast=fast) for _ in range(repeats)]
    quick_seconds, quick = float(np.median([seconds for seconds, _ in runs])), runs[0][1]
    exact_seconds, exact = saturations(path, exact=True, fast=fast)
    decided, truth = quick >= threshold, exact >= threshold
    near = np.mean(np.abs(exact - threshold) < 0.01)
    print(f"patches {len(exact)}, foreground {decided.sum()} from the pyramid, {truth.sum()} from level 0")
    print(f"within 0.01 of the threshold {threshold}: {near:.1%}")
    print(f"pyramid {1000 * quick_seconds:.0f} ms (median of {repeats}), level 0 {exact_seconds:.1f} s")
    print(f"RATIO faster {exact_seconds / quick_seconds:.0f} (at least 300)")
    print(f"RATIO same decisions {np.mean(decided == truth):.3%} (at least 99.5%)")


def saturations(path: Path, *, exact: bool, fast: bool) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds that finding the foreground takes in one thread, and each patch's saturation."""
    with Slide(path, readers=1, fast=fast) as slide:
        start = time.perf_counter()
        found = find_patches(slide, None, patch_px=512, mpp=slide.mpp, threshold=0.0, exact=exact)
        return time.perf_counter() - start, found.saturation


def write_tissue(path: Path, side: int, seed: int = 0) -> None:
    """Write a slide of stained tissue on glass."""
    write_tiled_tiff(path, (side, side), tissue(side, seed), tile=TILE, quality=80)


def tissue(side: int, seed: int = 0) -> Callable[[int, int], NDArray[np.uint8]]:
    """Return what gives a tile of stained tissue on glass for its column and row."""
    rng = np.random.default_rng(seed)
    cells = side // MACRO + 2
    outline = smooth_noise(rng, cells, (6, 12, 40, 160), (1.0, 0.5, 0.25, 0.12))
    stain = smooth_noise(rng, cells, (10, 30, 120), (1.0, 0.6, 0.4))
    inside = np.clip((outline - 0.1) * 10.0, 0.0, 1.0)
    # Down to densities that are hardly seen, so that patches inside the tissue lie about the threshold too.
    eosin = inside * np.clip(0.4 + 0.35 * stain, 0.03, 0.9)
    nuclei = inside * np.clip(0.3 + smooth_noise(rng, cells, (8, 60), (1.0, 0.7)), 0.0, 1.0)
    fields = [Image.fromarray(f.astype(np.float32)) for f in (eosin, nuclei)]
    fibres, dots, noise = textures(rng)

    def tile(column: int, row: int) -> NDArray[np.uint8]:
        corner = (column * TILE / MACRO, row * TILE / MACRO)
        box = (*corner, corner[0] + TILE / MACRO, corner[1] + TILE / MACRO)
        if box[2] > cells or box[3] > cells:
            return np.full((TILE, TILE, 3), 243, dtype=np.uint8)
        e, n = (np.asarray(f.resize((TILE, TILE), Image.Resampling.BILINEAR, box=box)) for f in fields)
        y, x = (column * 37 + row * 101) % TILE, (column * 211 + row * 53) % TILE
        window = np.s_[y : y + TILE, x : x + TILE]
        density = (e * fibres[window])[..., None] * EOSIN + (n * dots[window])[..., None] * HAEMATOXYLIN
        light = 243.0 * np.exp(-density) + noise[window]
        return np.clip(light, 0, 255).astype(np.uint8)

    return tile


def smooth_noise(
    rng: np.random.Generator, side: int, cells: tuple[int, ...], weights: tuple[float, ...]
) -> NDArray[np.float32]:
    """Return a sum of random fields of several finenesses, about -1 to 1, shape (side, side)."""
    total = np.zeros((side, side), dtype=np.float32)
    for count, weight in zip(cells, weights, strict=True):
        coarse = Image.fromarray(rng.uniform(-1, 1, (count, count)).astype(np.float32))
        total += weight * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return total


def textures(
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return fibres (about 1), nuclei (0 or about 1) and camera noise, twice as wide as a tile."""
    side = 2 * TILE
    fibres = 1.0 + 0.5 * smooth_noise(rng, side, (20, 200), (1.0, 0.6))
    dots = np.clip(12 * (smooth_noise(rng, side, (120,), (1.0,)) - 0.35), 0.0, 1.0)
    noise = rng.normal(0.0, 3.0, (side, side, 3)).astype(np.float32)
    return np.clip(fibres, 0.0, None).astype(np.float32), dots.astype(np.float32), noise


if __name__ == "__main__":
    main()
