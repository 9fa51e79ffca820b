"""Scoring on a CPU by each engine, against PyTorch in float32, in one run.

    python tests/benchmarks/engines.py

scores composites of the method's size (2560 px) with each engine in turn, contributions included, and prints
seconds and how many times faster than PyTorch in float32 (channels last) that is; the best of the rounds
counts, as other programs only ever make it slower. Processor time, of all threads, is printed beside it: it
says the same where the machine is busy. ``--memory`` also prints the peak memory of a process
that loads the model and scores three composites. Weights are random: they cost the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from herohe_model.engines.scorer import Scorer
from herohe_model.engines.trials import check_composites
from herohe_model.errors import HeroheError
from herohe_model.grades import bit_probabilities
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.device import find_devices
from herohe_model.model.machine import default_threads
from herohe_model.model.new_model import new_model

ENGINES = (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", default="efficientnet_b0,resnet50")
    parser.add_argument("--patch-px", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--alone", nargs=3, metavar=("MODEL", "ENGINE", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(*args.alone, args.threads)
        return
    print(f"{find_devices()[-1].model}, {args.threads} threads, composites of {5 * args.patch_px} px")
    with tempfile.TemporaryDirectory() as folder:
        for backbone in args.backbones.split(","):
            model = Path(folder) / f"{backbone}.safetensors"
            save_model(
                model, *new_model(backbone, head="free", target="ihc+ish", patch_px=args.patch_px, seed=1)
            )
            compare(model, args.rounds, args.threads)
            if args.memory:
                for engine in ENGINES:
                    command = [sys.executable, __file__, "--alone", str(model), *engine]
                    subprocess.run([*command, "--threads", str(args.threads)], check=True)


def compare(model: Path, rounds: int, threads: int) -> None:
    """Score with every engine in turn, and print a line for each."""
    scorers: dict[tuple[str, str], Scorer] = {}
    load: dict[tuple[str, str], float] = {}
    for engine, precision in ENGINES:
        began = time.perf_counter()
        try:
            scorers[engine, precision] = Scorer.load(model, Compute("cpu", precision, engine), threads)
        except HeroheError as error:
            print(f"{model.stem}  {engine} {precision}: {error}")
        load[engine, precision] = time.perf_counter() - began
    side = next(iter(scorers.values())).info.card.side_px
    composites = check_composites(side)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in scorers}
    cpu: dict[tuple[str, str], list[float]] = {key: [] for key in scorers}
    scores = {key: scorer.score(composites) for key, scorer in scorers.items()}
    for number in range(rounds):
        for key, scorer in scorers.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            scorer.score([composites[number % len(composites)]])
            seconds[key].append(time.perf_counter() - began)
            cpu[key].append(time.process_time() - cpu_began)
    plain = scores["torch", "fp32"]
    for key, scorer in scorers.items():
        apart = max(
            float(np.abs(bit_probabilities(a.logits) - bit_probabilities(b.logits)).max())
            for a, b in zip(scores[key], plain, strict=True)
        )
        sums = max(float(np.abs(s.contributions.sum(0, np.float64) - s.logits).max()) for s in scores[key])
        best = min(seconds[key])
        ratio = min(seconds["torch", "fp32"]) / best
        cpu_ratio = min(cpu["torch", "fp32"]) / min(cpu[key])
        print(
            f"{model.stem}  {scorer.info.engine} {key[1]}: {best:.2f} s a composite "
            f"(median {statistics.median(seconds[key]):.2f}), {ratio:.2f} times as fast; "
            f"{min(cpu[key]):.2f} s of processor time, {cpu_ratio:.2f} times less; "
            f"probabilities {apart:.5f} apart, contributions {sums:.1e} from adding up, "
            f"loaded in {load[key]:.1f} s",
            flush=True,
        )
        scorer.close()


def alone(model: str, engine: str, precision: str, threads: int) -> None:
    """Print the peak memory of this process, which holds nothing else."""
    with Scorer.load(model, Compute("cpu", precision, engine), threads) as scorer:
        loaded = psutil.Process().memory_info().rss
        side = scorer.info.card.side_px
        # Noise: drawing tissue would take memory too.
        noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
        scorer.score([noise] * 3)
        print(
            f"{Path(model).stem}  {engine} {precision}: {loaded / 2**30:.2f} GiB when loaded, "
            f"{_peak_bytes() / 2**30:.2f} GiB at most",
            flush=True,
        )


def _peak_bytes() -> int:
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
