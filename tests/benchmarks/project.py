"""A folder of slides scored end to end, beside the larger of its reading alone and its scoring alone.

Run by hand: ``python tests/benchmarks/project.py``. All three are measured in this one run; the ratio
must be at most 1.05. Reading is finding the foreground and reading every composite; scoring is the network
on the same composites from memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.client.client import connect_or_start
from bridge.projects.open import open_collection
from bridge.results.schema import SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.scorer import Scorer
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.composite_reader import read_composites
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiff


class Silent:
    """Listens to a batch and says nothing."""

    def started(self, total: int) -> None: ...

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None: ...

    def finished(self, result: SlideResult, *, reused: bool) -> None: ...


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--composites", type=int, default=2)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        card, state = new_model(args.backbone, head="free", target="ihc")
        save_model(home / "model.safetensors", card, state)
        rng = np.random.default_rng(0)
        for number in range(args.slides):
            picture = rng.integers(90, 220, (args.side, args.side, 3), dtype=np.uint8)
            picture[..., 1] //= 2
            (home / "slides").mkdir(exist_ok=True)
            write_tiff(home / "slides" / f"{number}.tif", picture)
        ratios = [measure(home, args.composites, round_) for round_ in range(args.rounds)]
    print(f"project / larger of the two, best of {args.rounds}: {min(ratios):.3f} (at most 1.05)")


def measure(home: Path, composites: int, round_: int) -> float:
    """Return the wall time of the whole over the larger of its parts."""
    slides = sorted((home / "slides").glob("*.tif"))
    options = ScoreOptions(composites=composites)
    with Scorer.load(home / "model.safetensors", Compute("cpu")) as scorer:
        card = scorer.info.card
        began = time.perf_counter()
        pictures = []
        for path in slides:
            with Slide(path) as slide:
                found = find_patches(
                    slide, None, patch_px=card.patch_px, mpp=card.mpp, threshold=card.foreground_threshold
                )
                drawn = draw_composites(len(found), composites=composites, seed=0)
                pictures += list(read_composites(slide, [(found, drawn)], patch_px=card.patch_px))
        reading = time.perf_counter() - began
        scorer.submit(pictures[0]).result()
        began = time.perf_counter()
        for future in [scorer.submit(picture) for picture in pictures]:
            future.result()
        scoring = time.perf_counter() - began
    with connect_or_start(home / "model.safetensors", Compute("cpu", "auto"), server=None) as client:
        client.submit(pictures[0]).result()
        collection = open_collection(home / "slides", output=home / f"out{round_}")
        began = time.perf_counter()
        run_batch(
            collection,
            client,
            BatchOptions(score=options),
            output=home / f"out{round_}",
            listener=Silent(),
            restart=True,
        )
        whole = time.perf_counter() - began
    ratio = whole / max(reading, scoring)
    print(f"reading {reading:.2f} s, scoring {scoring:.2f} s, project {whole:.2f} s, ratio {ratio:.3f}")
    return ratio


if __name__ == "__main__":
    main()
