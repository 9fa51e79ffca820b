"""Foreground tiles of a 40,000 and an 80,000 px slide, beside other projects, each in its own interpreter.

Prints how many times faster than the best of them, from opening the slide to the tiles' coordinates: where
JPEG tiles are read here, and where OpenSlide reads everything; and how many decisions agree with those of
level 0. The slides repeat one piece of synthetic tissue, see foreground.py; making it takes minutes, so name
a folder with --slides to keep them for the next run. A peer that is not named is left out, one that fails is
named.

    python tests/benchmarks/foreground_peers.py [--slides FOLDER] [--peer tiatoolbox=VENV/bin/python] ...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from foreground import TILE, tissue

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.mosaic_slides import write_mosaic_tiff

from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide

SIDES = (40_960, 81_920)
PIECE = 20_480
PEERS = ("tiatoolbox", "wsinfer", "lazyslide", "histolab")
THRESHOLD = 0.07


def main() -> None:
    """Make or open the slides, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=Path, help="folder of the slides; made there if they do not exist")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="the best counts, after one more")
    parser.add_argument("--make-only", action="store_true", help="make the slides, and end")
    options = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in options.peer)
    if not set(peers) <= set(PEERS):
        parser.error(f"peers are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory() as folder:
        slides = options.slides or Path(folder)
        make_slides(slides)
        if not options.make_only:
            for side in SIDES:
                measure(slides / f"{side}.tif", peers, options.repeats)


def make_slides(folder: Path) -> None:
    """Write the slides that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / f"{side}.tif").exists() for side in SIDES):
        return
    cut, count = tissue(PIECE), PIECE // TILE
    tiles = [cut(column, row) for row in range(count) for column in range(count)]
    layout = np.arange(count * count).reshape(count, count)
    for side in SIDES:
        write_mosaic_tiff(folder / f"{side}.tif", tiles, np.tile(layout, (side // PIECE,) * 2), quality=80)


def measure(path: Path, peers: dict[str, str], repeats: int) -> None:
    """Print the seconds of everyone, and what follows from them."""
    print(f"{path.stem} px")
    best = min((peer_seconds(name, python, path, repeats) for name, python in peers.items()), default=np.inf)
    with Slide(path) as slide:
        exact = find_patches(slide, None, patch_px=TILE, mpp=slide.mpp, threshold=0.0, exact=True).saturation
    for fast, least, way in ((True, 4, "JPEG tiles read here"), (False, 2, "through OpenSlide")):
        seconds, found = our_seconds(path, repeats, fast=fast)
        same = np.mean((found >= THRESHOLD) == (exact >= THRESHOLD))
        print(f"  here, {way}: {1000 * seconds:.0f} ms, {(found >= THRESHOLD).sum()} of {len(found)} tiles")
        if np.isfinite(best):
            print(f"  RATIO faster than the best, {way}: {best / seconds:.1f} (at least {least})")
        print(f"  RATIO decisions as on level 0: {same:.3%} (at least 99.5%)")


def peer_seconds(name: str, python: str, path: Path, repeats: int) -> float:
    """Return what a peer took; infinitely long when it failed."""
    script = Path(__file__).with_name("foreground_of_peer.py")
    done = subprocess.run(
        [python, str(script), name, str(path), str(repeats)], capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        print(f"  {name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return np.inf
    print(f"  {name}: {1000 * answer['seconds']:.0f} ms, {answer['tiles']} tiles")
    return float(answer["seconds"])


def our_seconds(path: Path, repeats: int, *, fast: bool) -> tuple[float, np.ndarray]:
    """Return the best of the seconds from opening the slide on, and every patch's saturation."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with Slide(path, fast=fast) as slide:
            found = find_patches(slide, None, patch_px=TILE, mpp=slide.mpp, threshold=0.0)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), found.saturation


if __name__ == "__main__":
    main()
