"""How well a device is kept at work: the forward pass alone, composites from memory, composites from slides.

    python tests/benchmarks/device.py [--device cuda] [--precision bf16] [--backbone resnet50]

The forward pass alone has its pixels on the device; from memory, composites go through the scorer, as a
server's do, and must reach 0.9 of it; from slides, a folder is scored from end to end, and the share of the
time in which the device has no forward pass to do is printed. Weights are random: they cost the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.client.client import connect_or_start
from bridge.projects.open import open_collection
from bridge.results.schema import SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.scorer import Scorer
from herohe_model.engines.torch_engine import torch_pass
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.device import choose_device, choose_precision, describe_devices
from herohe_model.model.network import load_networks
from herohe_model.model.new_model import new_model
from herohe_model.model.score import CompositeScore
from herohe_model.synthetic.slides import write_tiff

IN_FLIGHT = 4


class Counting:
    """Listens to a batch and counts the composites."""

    def __init__(self) -> None:
        self.composites = 0

    def started(self, total: int) -> None: ...

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None: ...

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        if result.union is None:
            sys.exit(f"{result.slide}: {result.message}")
        self.composites += len(result.union.composites)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--patch-px", type=int, default=512)
    parser.add_argument("--count", type=int, default=64, help="composites of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turn; the best counts")
    parser.add_argument("--slides", type=int, default=8, help="to read from; 0 leaves that out")
    parser.add_argument("--side", type=int, default=8192, help="of a slide, px")
    args = parser.parse_args()
    print("; ".join(describe_devices()))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        card, state = new_model(args.backbone, head="free", target="ihc", patch_px=args.patch_px)
        save_model(home / "model.safetensors", card, state)
        rng = np.random.default_rng(1)
        pictures = [rng.integers(0, 256, (card.side_px, card.side_px, 3), dtype=np.uint8) for _ in range(8)]
        device = choose_device(args.device)
        precision = choose_precision(args.precision, device)
        forward_alone = torch_pass(load_networks(card, state), device, precision)
        on_device = [torch.from_numpy(picture[None]).to(device) for picture in pictures]
        alone, memory = [], []
        with Scorer(card, state, Compute(args.device, precision, "torch")) as scorer:
            print(f"{args.backbone}, {card.side_px} px, {scorer.info.computes_on}")
            for _ in range(args.rounds + 1):
                began = time.perf_counter()
                with torch.inference_mode():
                    for number in range(args.count):
                        forward_alone(on_device[number % len(pictures)])
                    wait_for(device)
                alone.append((time.perf_counter() - began) / args.count)
                memory.append(from_memory(scorer, pictures, args.count))
        # The first round chooses kernels and fills caches.
        forward, through = min(alone[1:]), min(memory[1:])
        print(f"forward alone: {1 / forward:.2f} composites a second")
        print(f"from memory: {1 / through:.2f}, RATIO {forward / through:.3f} (at least 0.9)", flush=True)
        if args.slides:
            count, seconds = from_slides(home, args.slides, args.side, args.device, precision)
            busy = count * forward / seconds
            print(f"from slides: {count / seconds:.2f}; the device has no forward pass for {1 - busy:.1%}")


def from_memory(scorer: Scorer, pictures: list[NDArray[np.uint8]], count: int) -> float:
    """Return the seconds of a composite."""
    began = time.perf_counter()
    pending: deque[Future[CompositeScore]] = deque()
    for number in range(count):
        if len(pending) == IN_FLIGHT:
            pending.popleft().result()
        pending.append(scorer.submit(pictures[number % len(pictures)]))
    while pending:
        pending.popleft().result()
    return (time.perf_counter() - began) / count


def from_slides(home: Path, slides: int, side: int, device: str, precision: str) -> tuple[int, float]:
    """Score a folder of JPEG slides over a server; return composites and seconds, without its start."""
    rng = np.random.default_rng(0)
    (home / "slides").mkdir()
    for number in range(slides):
        picture = rng.integers(90, 220, (side, side, 3), dtype=np.uint8)
        picture[..., 1] //= 2
        write_tiff(home / "slides" / f"{number}.tif", picture)
    with connect_or_start(
        home / "model.safetensors", Compute(device, precision, "torch"), server=None
    ) as client:
        side_px = client.info.card.side_px
        client.submit(np.zeros((side_px, side_px, 3), dtype=np.uint8)).result()
        listener = Counting()
        began = time.perf_counter()
        collection = open_collection(home / "slides", output=home / "out")
        options = BatchOptions(score=ScoreOptions(composites=None))
        run_batch(collection, client, options, output=home / "out", listener=listener, restart=True)
        seconds = time.perf_counter() - began
    return listener.composites, seconds


def wait_for(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


if __name__ == "__main__":
    main()
