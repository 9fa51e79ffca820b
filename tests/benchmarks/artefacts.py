"""What is taken for tissue with and without a look at artefacts, by content, and what the look costs.

Slides are drawn by optical densities: three rows of stained tissue, and one of pen, blood, ink, a black edge,
mountant, a fold, DAB, pale stroma or warm glass, mixed with what lies below as light is absorbed.
Prints for each content the share of its patches that is foreground, before and after; with --real, the share
of a real slide's tissue that is kept; and how many times longer finding the foreground takes.

    python tests/benchmarks/artefacts.py [--real slide.svs] [--side 40000]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from foreground import EOSIN, HAEMATOXYLIN, TILE, smooth_noise, textures, write_tissue

from herohe_model.sampling.artefacts import ArtefactRule
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiled_tiff

COLUMNS = 24
"""Patches of each content."""
TISSUE_ROWS = 3
WHITE = 243.0
Density = NDArray[np.float32]


def absorbing(*rgb: float) -> Density:
    """Return the densities of what lets so much of white light through, 0 to 255."""
    return -np.log(np.array(rgb, dtype=np.float32) / 255.0)


def contents() -> dict[str, Callable[[Density, Density], Density]]:
    """Return what is drawn: from the densities of tissue and a cover (0 to 1) to those that are seen."""

    def over(colour: Density, *, on_glass: bool = False) -> Callable[[Density, Density], Density]:
        return lambda tissue, cover: (0 if on_glass else tissue) + cover[..., None] * colour

    def painted(strength: float) -> Callable[[Density, Density], Density]:
        return lambda tissue, cover: tissue * strength

    return {
        "tissue": painted(1.0),
        "tissue, stain at half": painted(0.5),
        "tissue, stain twice": painted(1.8),
        "pale stroma": lambda tissue, cover: 0.12 * (1 + 0.5 * cover[..., None]) * EOSIN,
        "glass": lambda tissue, cover: 0 * tissue,
        "warm glass": lambda tissue, cover: 0 * tissue + absorbing(250, 238, 216),
        "green pen on glass": over(absorbing(40, 150, 70), on_glass=True),
        "green pen on tissue": over(absorbing(40, 150, 70)),
        "blue pen on glass": over(absorbing(40, 70, 170), on_glass=True),
        "blue pen on tissue": over(absorbing(40, 70, 170)),
        "red pen on glass": over(absorbing(225, 25, 40), on_glass=True),
        "black ink on tissue": over(absorbing(35, 33, 36)),
        "black edge": over(absorbing(8, 8, 8), on_glass=True),
        "blood": over(absorbing(190, 60, 66), on_glass=True),
        "pale blood": over(absorbing(228, 128, 122), on_glass=True),
        "mountant": over(absorbing(240, 205, 120), on_glass=True),
        "fold": painted(2.4),
        "DAB": lambda tissue, cover: 0.25 * tissue + cover[..., None] * absorbing(150, 95, 50),
    }


def write_content(path: Path, content: Callable[[Density, Density], Density], seed: int = 0) -> None:
    """Draw a slide of tissue, whose last row of patches has a content."""
    rng = np.random.default_rng(seed)
    fibres, dots, _ = textures(rng)
    cover = np.clip(0.85 + 0.3 * smooth_noise(rng, 2 * TILE, (4, 16), (1.0, 0.5)), 0.3, 1.2)

    def tile(column: int, row: int) -> NDArray[np.uint8]:
        if column >= COLUMNS or row > TISSUE_ROWS:
            return np.full((TILE, TILE, 3), 243, dtype=np.uint8)
        y, x = (column * 37 + row * 101) % TILE, (column * 211 + row * 53) % TILE
        window = np.s_[y : y + TILE, x : x + TILE]
        stain = (0.45 * fibres[window])[..., None] * EOSIN + (0.8 * dots[window])[..., None] * HAEMATOXYLIN
        seen = stain if row < TISSUE_ROWS else content(stain, cover[window])
        noise = np.random.default_rng([seed, column, row]).normal(0, 3.0, (TILE, TILE, 3))
        return np.clip(WHITE * np.exp(-seen) + noise, 0, 255).astype(np.uint8)

    write_tiled_tiff(path, (COLUMNS * TILE, (TISSUE_ROWS + 1) * TILE), tile, tile=TILE, quality=80)


def found(slide: Slide, rule: ArtefactRule, patch_px: int = TILE) -> PatchSet:
    """Return the foreground of a slide."""
    return find_patches(slide, None, patch_px=patch_px, mpp=slide.mpp, threshold=0.07, artefacts=rule)


def shares(folder: Path) -> None:
    """Print the share of foreground by content."""
    print(f"{'content':<24}{'before':>8}{'after':>8}  reasons; what is left of the tissue beside it")
    for name, content in contents().items():
        write_content(folder / "content.tif", content)
        with Slide(folder / "content.tif") as slide:
            before, after = (found(slide, rule) for rule in ("ignore", "leave-out"))
        shown = [float(np.mean(p.y // TILE == TISSUE_ROWS)) * len(p) / COLUMNS for p in (before, after)]
        tissue = np.count_nonzero(after.y // TILE < TISSUE_ROWS) / (TISSUE_ROWS * COLUMNS)
        print(f"{name:<24}{shown[0]:>8.0%}{shown[1]:>8.0%}  {dict(after.artefacts)} {tissue:.0%}")


def real(path: Path) -> None:
    """Print which share of a real slide's tissue is kept, for patches of several sizes."""
    for patch_px in (128, 256, 512, 1024):
        with Slide(path) as slide:
            tissue, kept = (len(found(slide, rule, patch_px)) for rule in ("ignore", "leave-out"))
            reasons = dict(found(slide, "mark", patch_px).artefacts)
        print(
            f"{path.name}, patches of {patch_px} px: {kept / max(tissue, 1):.1%} of {tissue} kept; {reasons}"
        )


def cost(path: Path, repeats: int) -> None:
    """Print how many times longer finding the foreground takes, in one thread and in several."""
    for readers in (1, None):
        times: dict[str, list[float]] = {"ignore": [], "leave-out": []}
        for _ in range(repeats):
            for rule in ("ignore", "leave-out"):
                with Slide(path, readers=readers) as slide:
                    start = time.perf_counter()
                    found(slide, rule)
                    times[rule].append(time.perf_counter() - start)
        ignored, looked = (statistics.median(times[rule]) for rule in ("ignore", "leave-out"))
        print(
            f"readers {readers or 'as usual'}: {1000 * ignored:.0f} ms without, {1000 * looked:.0f} ms with"
        )
        print(f"RATIO longer {looked / ignored:.2f} (at most 1.3)")


def main() -> None:
    """Draw, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, help="a real slide without artefacts")
    parser.add_argument("--slide", type=Path, help="slide to time; made there if it does not exist")
    parser.add_argument("--side", type=int, default=40_000, help="px of the slide that is timed; 0 for none")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shares(Path(folder))
        if options.real is not None:
            real(options.real)
        if options.side:
            large = options.slide or Path(folder) / "tissue.tif"
            if not large.exists():
                write_tissue(large, options.side)
            cost(large, options.repeats)


if __name__ == "__main__":
    main()
