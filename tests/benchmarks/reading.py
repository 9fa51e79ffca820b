"""Patches of a JPEG TIFF and of a MIRAX: as this project reads them, beside openslide-python.

Both read the same patches in the same order with as many threads from one open slide; the seconds include
opening it, and here also comparing it with OpenSlide. Prints how many times faster it is here, the patches
aligned to the file's tiles and not, in the order of the file and as they are drawn for composites; then the
composites of a slide, read as scoring reads them. All pixels are checked to be equal.

    python tests/benchmarks/reading.py [--threads 2] [--side 8192] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
from foreground import TILE, tissue
from numpy.typing import NDArray

from herohe_model.sampling.composite import assemble, draw_composites
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

PX = 512
Corner = tuple[int, int]
Check = Callable[[int, NDArray[np.uint8]], None]


def main() -> None:
    """Make the slides, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turn; the best counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cut, count = tissue(options.side), options.side // TILE
        picture = np.vstack([np.hstack([cut(c, r) for c in range(count)]) for r in range(count)])
        tiff, mirax = Path(folder) / "a.tif", Path(folder) / "a.mrxs"
        write_tiff(tiff, picture, tile=256, quality=80)
        write_mirax(mirax, picture, tile=256, quality=80)
        for path, least in ((tiff, 3.0), (mirax, 1.0)):
            measure(path, least, options.threads, options.rounds)


def measure(path: Path, least: float, threads: int, rounds: int) -> None:
    """Print the ratios of one slide."""
    print(f"{path.suffix}, {threads} threads, patches a second: openslide-python, here, ratio")
    for moved in (0, 100):
        with Slide(path) as slide:
            width, height = (n - moved for n in slide.size)
        corners = [
            (moved + x, moved + y)
            for y in range(0, height - PX + 1, PX)
            for x in range(0, width - PX + 1, PX)
        ]
        drawn = [corners[k] for k in np.random.default_rng(0).permutation(len(corners))]
        for order, places in (("in the order of the file", corners), ("as drawn", drawn)):
            name = f"{'aligned' if moved == 0 else 'not aligned'}, {order}"
            compare(
                name,
                least,
                len(places),
                rounds,
                lambda check, places=places: patches_by_openslide(path, places, threads, check),
                lambda check, places=places: patches_here(path, places, threads, check),
            )
    with Slide(path) as slide:
        found = find_patches(slide, None, patch_px=PX, mpp=slide.mpp, threshold=0.07)
        drawn_cells = draw_composites(len(found), composites=None, seed=0)

    def ours(check: Check) -> None:
        with Slide(path, readers=threads) as slide:
            composites = read_composites(slide, [(found, drawn_cells)], patch_px=PX)
            for number, composite in enumerate(composites):
                check(number, composite)

    def theirs(check: Check) -> None:
        corners = list(zip(found.x.tolist(), found.y.tolist(), strict=True))

        def take(number: int, pixels: NDArray[np.uint8]) -> None:
            patches.append(pixels)
            if len(patches) == drawn_cells.shape[1]:
                check(number // drawn_cells.shape[1], assemble(np.stack(patches)))
                patches.clear()

        patches: list[NDArray[np.uint8]] = []
        patches_by_openslide(path, [corners[k] for k in drawn_cells.ravel()], threads, take)

    compare("composites of all patches", least, drawn_cells.size, rounds, theirs, ours)


def compare(
    name: str,
    least: float,
    patches: int,
    rounds: int,
    theirs: Callable[[Check], None],
    ours: Callable[[Check], None],
) -> None:
    """Time both in turn, check that the pixels are equal, and print."""
    expected: dict[int, bytes] = {}

    def equal(number: int, pixels: NDArray[np.uint8]) -> None:
        if not np.array_equal(pixels, expected[number]):
            raise SystemExit(f"{name}: the pixels of {number} differ")

    theirs(expected.__setitem__)
    ours(equal)
    best = np.full((2, 2), np.inf)
    for _ in range(rounds):
        for number, way in enumerate((theirs, ours)):
            start = time.perf_counter(), time.process_time()
            way(lambda number, pixels: None)
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            best[number] = np.minimum(best[number], taken)
    wall, processor = best[0] / best[1]
    print(
        f"  {name}: {patches / best[0, 0]:.0f}, {patches / best[1, 0]:.0f}, RATIO {wall:.2f} "
        f"(at least {least}), by processor time {processor:.2f}",
        flush=True,
    )


def patches_by_openslide(path: Path, corners: Sequence[Corner], threads: int, check: Check) -> None:
    """Read with openslide-python, the pixels over nothing, as RGB."""
    with openslide.OpenSlide(path) as handle, ThreadPoolExecutor(threads) as pool:

        def read(corner: Corner) -> NDArray[np.uint8]:
            return np.asarray(handle.read_region(corner, 0, (PX, PX)).convert("RGB"))

        for number, pixels in enumerate(pool.map(read, corners)):
            check(number, pixels)


def patches_here(path: Path, corners: Sequence[Corner], threads: int, check: Check) -> None:
    """Read with this project."""
    with Slide(path) as slide, ThreadPoolExecutor(threads) as pool:
        read = pool.map(lambda corner: slide.read_box(*corner, PX, PX, (PX, PX)), corners)
        for number, pixels in enumerate(read):
            check(number, pixels)


if __name__ == "__main__":
    main()
