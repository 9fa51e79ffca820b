"""Damaged slides, opened, sampled and read as scoring does.

Prints how many could be read, what became of the others, how often a reader's process was ended by one, and
the longest time that one took. Fails where an exception comes that is no HeroheError, or one takes over 10 s.

    PYTHONPATH=tests python tests/benchmarks/fuzz/slides.py [--count 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from helpers.slide_mutants import mutants, write_originals

from herohe_model.errors import HeroheError, SlideFatalError
from herohe_model.sampling.composite import draw_composites, read_composite
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.guarded_slide import GuardedSlide

LONGEST_S = 10.0


def main() -> None:
    """Make, read, count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    longest, wrong = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        originals = write_originals(Path(folder))
        (Path(folder) / "m").mkdir()
        for number, path in enumerate(mutants(originals, Path(folder) / "m", options.count, options.seed)):
            began = time.perf_counter()
            try:
                read(path)
                outcomes["read"] += 1
            except SlideFatalError as error:
                outcomes["SlideFatalError"] += 1
                print(number, error)
            except HeroheError as error:
                outcomes[type(error).__name__] += 1
            except Exception as error:
                wrong.append(f"{number} ({path.name}): {type(error).__name__}: {error}")
            longest = max(longest, time.perf_counter() - began)
    print(f"{options.count} slides, seed {options.seed}: {dict(outcomes)}; the longest took {longest:.1f} s")
    for line in wrong:
        print(line)
    if wrong or longest > LONGEST_S:
        raise SystemExit(1)


def read(path: Path) -> None:
    """Do with a slide what scoring does."""
    with GuardedSlide(path) as slide:
        slide.thumbnail(64)
        found = find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.07)
        if len(found):
            read_composite(slide, found, draw_composites(len(found), composites=1, seed=0)[0], patch_px=32)


if __name__ == "__main__":
    main()
