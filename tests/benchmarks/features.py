"""Features extracted from slides: how fast beside the encoder alone, killed, and in how much memory.

    python tests/benchmarks/features.py speed [--encoder kaiko-vits16] [--patches 1000]
    python tests/benchmarks/features.py memory
    python tests/benchmarks/features.py kill --times 20

``speed`` extracts the patches of JPEG slides drawn here and embeds as many that lie in memory, in turns, by
the engine that is chosen for this machine; it prints patches a second and the ratio of the best rounds, and
the ratio of processor times, reading included, which says the same where the machine is busy.
``memory`` compares the peak memory of two processes, of which one has four times as many patches.
``kill`` kills extractions (SIGKILL) at random moments, so many times, each time gives the command again, and
compares all bytes with an undisturbed run's. Weights are random: they cost the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import numpy as np
import psutil
import safetensors.torch
import torch
from numpy.typing import NDArray
from shapely.geometry import box

from bridge.annotations.regions import Annotation, build_regions
from bridge.batch.options import BatchOptions
from bridge.extraction.run import ExtractedSlide, extract_features
from bridge.extraction.slide import ExtractionOptions, PatchProgress
from bridge.projects.open import open_collection
from bridge.scoring.feature_cache import FeatureCache
from bridge.scoring.options import ScoreOptions
from bridge.scoring.slide import score_slide
from herohe_model.encoders.network import create_encoder_backbone
from herohe_model.encoders.table import Encoder, find_encoder
from herohe_model.encoders.weights import load_weights
from herohe_model.engines.bag_scorer import load_scorer
from herohe_model.engines.embedder import Embedder
from herohe_model.engines.remembered_encoders import remember_weights
from herohe_model.features.read import read_facts
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.mosaic_slides import write_mosaic_tiff
from helpers.small_bags import bag_model

MPP = 0.25
EVERYTHING = BatchOptions(score=ScoreOptions(foreground_threshold=0.0, artefacts="ignore"))


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("which", choices=("speed", "memory", "kill", "extract", "rescore"))
    parser.add_argument("--encoder", default="kaiko-vits16")
    parser.add_argument("--patches", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.which == "extract":
        extract(args.home, args.encoder, Compute("cpu", "fp32", "torch"))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if args.which == "speed":
            speed(home, args.encoder, args.patches, args.rounds, Compute(args.device, engine=args.engine))
        elif args.which == "memory":
            memory(home)
        elif args.which == "rescore":
            rescore(home, args.encoder, args.patches, Compute(args.device, engine=args.engine))
        else:
            kill(home, args.times)


def weights_of(home: Path, encoder: Encoder) -> Path:
    """Write random weights."""
    path = home / f"{encoder.name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        safetensors.torch.save_file(create_encoder_backbone(encoder).state_dict(), path)
    return path


def speed(home: Path, name: str, patches: int, rounds: int, compute: Compute) -> None:
    """Print patches a second from slides and from memory, and their ratio."""
    encoder = find_encoder(name)
    side = round(encoder.input_px * encoder.mpp / MPP)
    slides = home / "slides"
    slides.mkdir()
    count = max(1, round(patches / 256))
    for number in range(count):
        picture = draw_phantom("2+", seed=number, side=16 * side, tumours=3).picture
        write_tiff(slides / f"s{number}.tif", picture, mpp=MPP)
    with Embedder(load_weights(encoder, weights_of(home, encoder)), compute) as embedder:
        info = embedder.info
        print(f"{name} on {info.device} in {info.precision} by {info.engine}, batches of {info.batch}")
        alone, whole, costs = [], [], []
        for number in range(rounds):
            before = processor_time()
            found, seconds = run(slides, home / f"out{number}", embedder)
            between = processor_time()
            whole.append(found / seconds)
            alone.append(from_memory(embedder, found))
            costs.append((processor_time() - between) / (between - before))
            said = f"from slides {whole[-1]:.1f}/s, from memory {alone[-1]:.1f}/s"
            print(f"  {found} patches: {said}; processor time {costs[-1]:.3f}", flush=True)
    print(f"ratio of the best rounds {max(whole) / max(alone):.3f}, of processor times {max(costs):.3f}")


def rescore(home: Path, name: str, patches: int, compute: Compute) -> None:
    """Print how long a bag model takes for a slide that it never saw, and for it again, drawn otherwise."""
    os.environ["HEROHE_CACHE_DIR"] = str(home / "cache")
    encoder = find_encoder(name)
    loaded = load_weights(encoder, weights_of(home, encoder))
    remember_weights(loaded)
    model = bag_model(home / "bag.safetensors", loaded, patch_px=encoder.input_px, mpp=encoder.mpp)
    side = round(encoder.input_px * encoder.mpp / MPP)
    cells = round(patches**0.5)
    picture = draw_phantom("2+", seed=0, side=cells * side, tumours=3).picture
    write_tiff(home / "s.tif", picture, mpp=MPP)
    whole = box(0, 0, cells * side, cells * side)
    took = []
    with load_scorer(model, compute) as scorer:
        for area in (whole, whole.buffer(-1.2 * side), whole.buffer(-2.2 * side)):
            with Slide(home / "s.tif") as slide:
                regions = build_regions(
                    [Annotation("a", "a", "Tumor", area)],
                    region_classes=("Tumor",),
                    exclude_classes=(),
                    slide_box=slide.bounds,
                )
                began = time.perf_counter()
                result = score_slide(slide, regions, EVERYTHING.score, scorer, cache=FeatureCache())
                took.append(time.perf_counter() - began)
            assert result.union is not None
            print(f"  {result.union.patches_sampled} patches in {took[-1]:.2f} s", flush=True)
    kept = sum(path.stat().st_size for path in (home / "cache" / "features").rglob("*.safetensors"))
    print(f"RATIO faster when drawn again {took[0] / max(took[1:]):.0f} (at least 20)")
    print(f"cache of the slide: {kept / 2**20:.1f} MiB, {encoder.dimension} numbers a patch")


def processor_time() -> float:
    """Return the processor time of this process and of those that read slides for it, s."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def from_memory(embedder: Embedder, count: int) -> float:
    """Embed patches that lie in memory; return how many a second."""
    side, batch = embedder.info.encoder.input_px, embedder.info.batch
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    began = time.perf_counter()
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    for _ in range(-(-count // batch)):
        waiting.append(embedder.submit(pixels))
        if len(waiting) > 2:
            waiting.popleft().result()
    for future in waiting:
        future.result()
    return count / (time.perf_counter() - began)


class Silent:
    """Hears nothing but faults."""

    def started(self, total: int) -> None:
        """Do nothing."""

    def running(self, slides: Sequence[tuple[str, PatchProgress]]) -> None:
        """Do nothing."""

    def finished(self, slide: ExtractedSlide) -> None:
        """Stop at a slide that is not extracted."""
        assert slide.outcome == "extracted", slide


def run(slides: Path, output: Path, embedder: Embedder) -> tuple[int, float]:
    """Extract a folder of slides; return patches and seconds."""
    encoder = embedder.info.encoder
    options = ExtractionOptions(EVERYTHING, encoder.input_px, encoder.mpp)
    began = time.perf_counter()
    extract_features(open_collection(slides), embedder, options, output=output, listener=Silent())
    seconds = time.perf_counter() - began
    return sum(read_facts(path).count for path in output.rglob("*.h5")), seconds


def small_encoder() -> Encoder:
    """An encoder of the table with one narrow block: the way to it costs, not it."""
    row = find_encoder("kaiko-vits16")
    arguments = {"img_size": 32, "embed_dim": 384, "depth": 1, "num_heads": 3}
    return msgspec.structs.replace(row, arguments=arguments, input_px=32)


def extract(home: Path, name: str, compute: Compute) -> None:
    """Extract ``home/slides`` into ``home/out`` by the small encoder."""
    encoder = small_encoder()
    with Embedder(load_weights(encoder, weights_of(home, encoder)), compute, threads=1) as embedder:
        run(home / "slides", home / "out", embedder)


def begin(home: Path) -> subprocess.Popen[str]:
    """Begin an extraction in a process of its own."""
    command = [sys.executable, __file__, "extract", "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def memory(home: Path) -> None:
    """Print the peak memory, MiB, by the number of patches."""
    tile = draw_phantom("2+", seed=0, side=512).picture
    peaks = []
    for side in (64, 128):
        folder = home / str(side)
        (folder / "slides").mkdir(parents=True)
        layout = np.zeros((side // 8, side // 8), dtype=np.int64)
        write_mosaic_tiff(folder / "slides" / "s.tif", [tile], layout, mpp=0.5)
        process = begin(folder)
        peaks.append(int(process.communicate()[0]))
        patches = read_facts(folder / "out" / "s.h5").count
        size = (folder / "out" / "s.h5").stat().st_size / 2**20
        print(f"{patches} patches: peak {peaks[-1]} MiB, file {size:.1f} MiB", flush=True)
    print(f"ratio of peaks {peaks[1] / peaks[0]:.3f}")


def kill(home: Path, times: int) -> None:
    """Kill an extraction at random moments; its files must come out byte for byte."""
    whole = home / "whole"
    (whole / "slides").mkdir(parents=True)
    for number in range(12):
        picture = draw_phantom("2+", seed=number, side=640).picture
        write_tiff(whole / "slides" / f"s{number}.tif", picture, mpp=0.5)
    run_forked(whole, weights_of, whole, small_encoder())
    process = forked(extract, whole, "", Compute("cpu", "fp32", "torch"))
    seconds = working(process, whole)
    assert process.exitcode == 0 and seconds is not None
    expected = files(whole / "out")
    print(f"undisturbed: {len(expected)} files, {seconds:.1f} s of extracting", flush=True)
    rng = random.Random(0)
    kills = number = 0
    while kills < times:
        number += 1
        target = home / f"round{number}"
        target.mkdir()
        for shared in ("slides", f"{small_encoder().name}.safetensors"):
            os.symlink(whole / shared, target / shared)
        parts = 0
        while True:
            process = forked(extract, target, "", Compute("cpu", "fp32", "torch"))
            if working(process, target, rng.uniform(0.0, 0.8) * seconds) is not None:
                break
            kills += 1
            parts += len(list(target.rglob("*.part")))
        assert process.exitcode == 0 and files(target / "out") == expected, f"round {number} differs"
        print(f"round {number}: {kills} kills so far, {parts} half files seen, bytes equal", flush=True)


def forked(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Begin a process that has imported already what this one has: importing takes longer than the work."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def run_forked(home: Path, work: Callable[..., object], *arguments: object) -> None:
    """Do something that starts threads, which this process must not have when it forks."""
    process = forked(work, *arguments)
    process.join()
    assert process.exitcode == 0, home


def working(process: BaseProcess, home: Path, kill_after: float | None = None) -> float | None:
    """Return how long an extraction works once it has begun its first slide, s; None where it was killed."""
    lock = home / "out" / "run.lock"
    lock.unlink(missing_ok=True)
    while process.is_alive() and not lock.exists():
        time.sleep(0.01)
    began = time.perf_counter()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return time.perf_counter() - began


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder but the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


if __name__ == "__main__":
    main()
