"""Foreground tiles of one slide as another project finds them; run by an interpreter that has it.

Prints one line of JSON: the least of the seconds from opening the slide to the tiles' coordinates, after one
run that does not count, and how many tiles there are. No tile's pixels are read.

    PYTHON tests/benchmarks/foreground_of_peer.py tiatoolbox slide.tif 5
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

TILE = 512


def tiatoolbox(path: Path) -> int:
    """Count tiles by a mask at the default resolution and the sliding window."""
    from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor
    from tiatoolbox.wsicore.wsireader import WSIReader

    reader = WSIReader.open(path)
    mask = reader.tissue_mask(method="otsu", resolution=8.0, units="mpp")
    extractor = SlidingWindowPatchExtractor(
        input_img=reader,
        patch_size=(TILE, TILE),
        stride=(TILE, TILE),
        input_mask=mask,
        min_mask_ratio=0.5,
        resolution=0,
        units="level",
        within_bound=True,
    )
    return len(extractor.coordinate_list)


def wsinfer(path: Path) -> int:
    """Count tiles as its command line writes them into a file."""
    import h5py
    from wsinfer.patchlib import segment_and_patch_one_slide

    with tempfile.TemporaryDirectory() as folder:
        segment_and_patch_one_slide(path, folder, TILE, 0.2425)
        with h5py.File(Path(folder) / "patches" / f"{path.stem}.h5") as file:
            return len(file["coords"])


def lazyslide(path: Path) -> int:
    """Count tiles of the tissue contours that it finds."""
    import lazyslide as zs
    from wsidata import open_wsi

    slide = open_wsi(path, store=None)
    zs.pp.find_tissues(slide)
    zs.pp.tile_tissues(slide, TILE)
    return len(slide["tiles"])


def histolab(path: Path) -> int:
    """Count tiles of the grid inside its tissue mask."""
    from histolab.masks import TissueMask
    from histolab.slide import Slide
    from histolab.tiler import GridTiler

    with tempfile.TemporaryDirectory() as folder:
        slide = Slide(path, folder)
        tiler = GridTiler(tile_size=(TILE, TILE), level=0, check_tissue=False)
        return sum(1 for _ in tiler._grid_coordinates_generator(slide, TissueMask()))


def main() -> None:
    """Measure one peer on one slide."""
    name, path, repeats = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    find = {"tiatoolbox": tiatoolbox, "wsinfer": wsinfer, "lazyslide": lazyslide, "histolab": histolab}[name]
    tiles = find(path)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        find(path)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(seconds), "tiles": tiles}))


if __name__ == "__main__":
    main()
