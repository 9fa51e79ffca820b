"""Peak memory of finding patches and reading composites: a 40,000 px slide against one of 160,000 px.

Each slide is worked on in a fresh process, which reports its peak resident memory. Prints the ratio, which
must lie within 10% of 1. What grows with the slide is the list of its patches, about 50 bytes each.

    python tests/benchmarks/memory.py [--composites 8]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.mosaic_slides import write_mosaic_tiff

from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide

TILE = 512

Result = TypeVar("Result")


def main() -> None:
    """Make both slides, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--composites", type=int, default=8)
    options = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (40_000, 160_000):
            path = Path(folder) / f"{side}.tif"
            in_fresh_process(write_slide, path, side)
            start, after_finding, peak, patches = in_fresh_process(work, path, options.composites)
            print(
                f"{side} px, {patches} foreground patches: {start / 2**20:.1f} MiB before the slide, peak "
                f"{after_finding / 2**20:.1f} MiB finding them, {peak / 2**20:.1f} MiB after "
                f"{options.composites} composites"
            )
            peaks.append(peak)
    print(f"RATIO peak {peaks[1] / peaks[0]:.3f} (0.90 to 1.10)")


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own: a peak is inherited from a parent that was larger."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def write_slide(path: Path, side: int) -> None:
    """Write a slide of a few distinct tiles, half of them tissue, in stripes that repeat."""
    rng = np.random.default_rng(0)
    stained = np.clip(rng.normal((190, 110, 170), 25, (4, TILE, TILE, 3)), 0, 255).astype(np.uint8)
    glass = np.clip(rng.normal(243, 2, (4, TILE, TILE, 3)), 0, 255).astype(np.uint8)
    count = -(-side // TILE)
    row, column = np.indices((count, count))
    layout = (row + 2 * column) % 4 + 4 * ((row // 8 + column // 8) % 2)
    write_mosaic_tiff(path, [*stained, *glass], layout, quality=80)


def work(path: Path, composites: int) -> tuple[int, int, int, int]:
    """Return bytes before the slide is opened, peaks after finding and after reading, and the patches."""
    start = psutil.Process().memory_info().rss
    with Slide(path) as slide:
        patches = find_patches(slide, None, patch_px=512, mpp=slide.mpp, threshold=0.07)
        after_finding = peak_bytes()
        # As scoring holds them: three in the scorer's hands, while the next are read.
        held: deque[NDArray[np.uint8]] = deque(maxlen=3)
        drawn = draw_composites(len(patches), composites=composites, seed=0)
        held.extend(read_composites(slide, [(patches, drawn)], patch_px=512))
    return start, after_finding, peak_bytes(), len(patches)


def peak_bytes() -> int:
    """Return this process's peak resident memory."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
