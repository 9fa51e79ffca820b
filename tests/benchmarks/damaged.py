"""A batch in which slides end whoever reads them, and what it costs that none of them ends the batch.

First 50 slides, 10 of them damaged: 5 by one flipped bit in a tile's byte count, 5 so that no check can find
it. All others have to be scored and the 10 named, in one run of `score`. Then sound slides, scored with each
slide read by a process of its own and in this one, in turn: the ratio of the seconds, and of the processor's
time of all processes. The best of the rounds, and the median
of each round's pair, which other work on the machine moves less.

    PYTHONPATH=tests python tests/benchmarks/damaged.py [--slides 50] [--rounds 3] [--backbone resnet18]
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from helpers.damaged_slides import flip_a_bit_of_a_count, make_deadly
from helpers.small_slides import small_model, small_slide

from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.projects.open import open_collection
from bridge.results.files import read_json
from bridge.scoring.options import ScoreOptions
from herohe_model.engines.scorer import Scorer
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.slides.slide import Slide

OPENERS = ("bridge.scoring.job", "bridge.batch.entry", "bridge.projects.slide_folder")
MOST = 1.05


def main() -> None:
    """Run both, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=50, help="0 to measure only what it costs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="resnet18")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.slides:
            survive(Path(folder) / "damaged", options.slides)
        compare(Path(folder) / "sound", options.rounds, options.backbone)


def survive(folder: Path, count: int) -> None:
    """Score slides of which every fifth is damaged, by the command."""
    folder.mkdir()
    model = small_model(folder / "m.safetensors")
    bad = set()
    for number in range(count):
        slide = small_slide(folder / f"s{number:02d}.tif", seed=number)
        if number % 5 == 2:
            bad.add(slide.name)
            make_deadly(slide, index=5) if number % 10 == 2 else flip_a_bit_of_a_count(slide, index=5)
    command = [sys.executable, "-m", "bridge", "score", str(folder), "--model", str(model), "--device", "cpu"]
    with tempfile.TemporaryDirectory() as runtime:
        done = subprocess.run(
            [*command, "--composites", "2", "--output", str(folder / "out")],
            env=os.environ | {"HEROHE_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            check=False,
        )
    results = list(read_json(folder / "out" / "results.json"))
    outcomes = Counter(str(result.outcome.value) for result in results)
    named = {result.slide for result in results if result.slide in result.message}
    print(f"{count} slides, {len(bad)} of them damaged: {dict(outcomes)}, exit code {done.returncode}")
    if named != bad or outcomes != {"scored": count - len(bad), "unreadable": len(bad)}:
        raise SystemExit(done.stderr)


def compare(folder: Path, rounds: int, backbone: str) -> None:
    """Score sound slides in both ways, in turn."""
    folder.mkdir()
    card, state = new_model(backbone, head="ordered", target="ihc", patch_px=128, mpp=0.5, seed=0, name="m")
    save_model(folder / "m.safetensors", card, state)
    for number in range(4):
        small_slide(folder / f"s{number}.tif", side=2048, seed=number)
    taken: dict[str, list[tuple[float, float]]] = {"own process": [], "this process": []}
    with Scorer.load(folder / "m.safetensors", Compute("cpu", "fp32")) as scorer:
        for round_ in range(rounds + 1):
            # By turns the one and the other is first, so that neither gains by what warmed up.
            for way in sorted(taken, reverse=bool(round_ % 2)):
                once = score(folder, scorer, in_this=way == "this process")
                # The first round starts what both use.
                if round_:
                    taken[way].append(once)
    for index, what in enumerate(("seconds", "processor's time")):
        own, this = ([once[index] for once in taken[way]] for way in ("own process", "this process"))
        pairs = statistics.median(a / b for a, b in zip(own, this, strict=True))
        print(f"own process to this process: {what} RATIO {min(own) / min(this):.3f}, of pairs {pairs:.3f}")
    seconds = min(once[0] for once in taken["this process"])
    print(f"(at most {MOST}; {seconds:.1f} s for 4 slides of 2048 px, {backbone})")


def score(folder: Path, scorer: Scorer, *, in_this: bool) -> tuple[float, float]:
    """Return seconds and seconds of processor's time of a batch."""
    began, used = time.perf_counter(), processor_s()
    patches = [patch.object(importlib.import_module(name), "GuardedSlide", Slide) for name in OPENERS]
    for one in patches if in_this else ():
        one.start()
    try:
        summary = run_batch(
            open_collection(folder),
            scorer,
            BatchOptions(score=ScoreOptions(composites=2)),
            output=folder / "out",
            listener=_Deaf(),
            restart=True,
        )
    finally:
        for one in patches if in_this else ():
            one.stop()
    if summary.exit_code:
        raise SystemExit(f"not all were scored: {summary.outcomes}")
    return time.perf_counter() - began, processor_s() - used


def processor_s() -> float:
    """Seconds of processor's time that this process and the readers have used."""
    times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children())]
    return sum(one.user + one.system for one in times)


class _Deaf:
    """A listener to whom nothing matters."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


if __name__ == "__main__":
    main()
