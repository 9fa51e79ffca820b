"""Training's throughput and memory: the loader against raw tile reading, and steps on the device.

``loader``: composites a second from the loader of training (drawing, reading in spatial order, turning,
assembling) against reading as many tiles of the same slides as RGB arrays, in spatial order, by as many
threads, alternately in one run; beside it, ``read_region`` alone, which leaves RGBA.
``steps``: seconds and peak memory of a training step with one composite, each in a process of its own;
on a GPU also the share of its peak, where the time goes, and composites a second when scoring.
``memory``: what a step with one composite holds at its peak, by a count of tensors that are never filled, so
it needs neither memory nor GPU. Workspace of the device's kernels comes on top.

    python tests/benchmarks/training.py loader [--threads 2] [--repeats 7]
    python tests/benchmarks/training.py steps [--device cuda] [--backbone resnet18 ...] [--peak-tflops 989]
    python tests/benchmarks/training.py memory [--backbone resnet18 ...]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import openslide
import psutil
import torch
from helpers.mosaic_slides import write_mosaic_tiff
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from herohe_model.dataset.cases import Case
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute
from herohe_model.model.device import choose_device, choose_precision
from herohe_model.model.network import OrdinalNetwork
from herohe_model.model.new_model import new_model
from herohe_model.sampling.patches import PatchSet
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.training.augment import draw_augmentation
from herohe_model.training.data import (
    CompositeReader,
    Curriculum,
    Position,
    TrainingComposite,
    TrainingSlide,
    read_ahead,
)
from herohe_model.training.foreground_cache import find_foreground
from herohe_model.training.options import TrainOptions
from herohe_model.training.step import freeze_norms, ordinal_loss, stage_pixels

PATCH_PX = 512
SLIDE_PATCHES = 40
ROUNDS = 5


def main() -> int:
    """Run the part that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["loader", "steps", "memory"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="of each way of reading; medians count")
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--composites", type=int, default=40, help="a repeat")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backbone", nargs="+", default=["resnet18", "resnet50", "efficientnet_b0"])
    parser.add_argument("--patch-px", type=int, default=PATCH_PX)
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="of the GPU in bf16; H100 and H200: 989"
    )
    options = parser.parse_args()
    parts = {"loader": measure_loader, "steps": measure_steps, "memory": count_memory}
    return parts[options.part](options)


def measure_loader(options: argparse.Namespace) -> int:
    """Print both throughputs and their ratio; 1 when the loader has less than 0.9 of raw reading."""
    with tempfile.TemporaryDirectory() as folder:
        slides = [write_slide(Path(folder) / f"{k}.tif", k) for k in range(options.slides)]
        settings = TrainOptions(patch_px=PATCH_PX, mpp=0.2425, pretrained=False)
        found = find_foreground(
            slides,
            settings,
            Path(folder) / "foreground",
            workers=options.threads,
            progress=lambda _: None,
            cancelled=lambda: False,
        )
        patches = [p for p in found if isinstance(p, PatchSet)]
        reader = CompositeReader(slides, patches, settings)
        handles = [openslide.OpenSlide(slide.path) for slide in slides]
        curriculum = Curriculum(slides, settings)
        speeds: dict[str, list[float]] = {"loader": [], "raw RGB": [], "raw RGBA": []}
        for repeat in range(options.repeats + 1):
            first = repeat * options.composites
            places = curriculum.places(range(first, first + options.composites))

            def tiles(place: Position) -> Iterator[Image.Image]:
                # Any 25 of the slide's patches, in spatial order, as the loader reads them.
                of = patches[place.slide]
                chosen = np.random.default_rng(place.epoch).permutation(len(of))[:25]
                for index in np.sort(chosen).tolist():
                    where = (int(of.x[index]), int(of.y[index]))
                    yield handles[place.slide].read_region(where, 0, (PATCH_PX, PATCH_PX))

            def rgb(place: Position) -> list[np.ndarray]:
                return [np.asarray(tile.convert("RGB")) for tile in tiles(place)]

            def rgba(place: Position) -> int:
                return sum(1 for _ in tiles(place))

            for name, way in (("loader", reader.read), ("raw RGB", rgb), ("raw RGBA", rgba)):
                start = time.perf_counter()
                for _ in read_ahead(places, way, workers=options.threads, ahead=2 * options.threads):
                    pass
                if repeat:
                    # The first one fills the file system's cache.
                    speeds[name].append(options.composites / (time.perf_counter() - start))
    ratios = np.divide(speeds["loader"], speeds["raw RGB"])
    for name, values in speeds.items():
        print(f"{name}: {np.median(values):.2f} composites/s ({25 * np.median(values):.0f} tiles/s)")
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    best = max(speeds["loader"]) / max(speeds["raw RGB"])
    print(
        f"loader / raw RGB: {np.median(ratios):.2f} (median of {options.repeats} pairs; {spread}), "
        f"{best:.2f} between the fastest of each"
    )
    return int(np.median(ratios) < 0.9)


def write_slide(path: Path, seed: int) -> TrainingSlide:
    """Write a slide of 40 x 40 patches made of sixteen different tiles of tissue."""
    tissue = draw_phantom("2+", seed=seed, side=4 * PATCH_PX, tumours=1).picture
    middle = tissue[PATCH_PX : 3 * PATCH_PX, PATCH_PX : 3 * PATCH_PX]
    tiles = [
        np.ascontiguousarray(np.rot90(middle[y : y + 256, x : x + 256], (x + y) // 256 % 4))
        for y in range(0, 1024, 256)
        for x in range(0, 1024, 256)
    ]
    layout = np.random.default_rng(seed).integers(len(tiles), size=(2 * SLIDE_PATCHES, 2 * SLIDE_PATCHES))
    write_mosaic_tiff(path, tiles, layout, mpp=0.2425, levels=1)
    return TrainingSlide(Case("train", path.stem, ihc="2+", ish="positive"), path)


def measure_steps(options: argparse.Namespace) -> int:
    """Print a line for each backbone, precision and way of keeping activations."""
    device = choose_device(options.device)
    precisions = ["fp32", choose_precision("auto", device)]
    print(f"{device}, one composite of {5 * options.patch_px} px a step")
    for backbone in options.backbone:
        for precision in dict.fromkeys(precisions):
            for checkpointed in (False, True):
                job = (backbone, str(device), precision, checkpointed, options.patch_px, options.peak_tflops)
                # A process of its own: peak memory is the process's.
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    try:
                        found = pool.submit(step, job).result()
                    except Exception as error:
                        found = {"failed": str(error).splitlines()[0][:100]}
                keeping = "checkpointed" if checkpointed else "kept"
                print(
                    json.dumps(
                        {"backbone": backbone, "precision": precision, "activations": keeping, **found}
                    )
                )
                sys.stdout.flush()
    return 0


def count_memory(options: argparse.Namespace) -> int:
    """Print the peak of each backbone, precision and way of keeping activations."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from helpers.step_memory import peak_of_tensors

    for backbone in options.backbone:
        for precision in ("fp32", "bf16"):
            gib = [
                peak_of_tensors(backbone, options.patch_px, bf16=precision == "bf16", checkpointed=c)
                for c in (False, True)
            ]
            print(f"{backbone} {precision}: {gib[0]:.1f} GiB, checkpointed {gib[1]:.1f} GiB", flush=True)
    return 0


def step(job: tuple[str, str, str, bool, int, float]) -> dict[str, object]:
    """Take a few training steps, and score on a GPU; return seconds, memory and shares."""
    backbone, device_name, precision, checkpointed, patch_px, peak_tflops = job
    device = torch.device(device_name)
    cuda = device.type == "cuda"
    card, state = new_model(backbone, head="ordered", target="ihc+ish", patch_px=patch_px)
    network = OrdinalNetwork(card)
    network.load_state_dict(state)
    if checkpointed:
        network.checkpoint_gradients()
    network = network.to(device).to(memory_format=torch.channels_last).train()
    freeze_norms(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)
    side = card.side_px
    settings = TrainOptions()
    pixels = torch.from_numpy(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    composite = TrainingComposite(
        pixels.pin_memory() if cuda else pixels, draw_augmentation(rng, 25, settings.augment)
    )
    bits = torch.tensor([[0.0, 1.0, 1.0, 1.0]], device=device)
    before = psutil.Process().memory_info().rss
    spent: dict[str, list[float]] = {"stage": [], "forward": [], "backward": [], "optimiser": []}
    flops = 0
    for number in range(ROUNDS + 1 if cuda else 2):
        marks = [now(device)]
        x = stage_pixels([composite], card.grid, device)
        marks.append(now(device))
        autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        counter = FlopCounterMode(display=False) if number == 0 else nullcontext()
        with counter:
            with autocast:
                logits = network(x)
            loss = ordinal_loss(logits, bits, torch.full_like(bits, 0.25))
            marks.append(now(device))
            loss.backward()
        if isinstance(counter, FlopCounterMode):
            flops = counter.get_total_flops()
        marks.append(now(device))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        marks.append(now(device))
        if number:
            for name, took in zip(spent, np.diff(marks).tolist(), strict=True):
                spent[name].append(took)
    parts = {name: float(np.median(values)) for name, values in spent.items()}
    seconds = sum(parts.values())
    peak = torch.cuda.max_memory_allocated(device) if cuda else peak_rss() - before
    found: dict[str, object] = {
        "seconds": round(seconds, 4),
        "peak_gib": round(peak / 2**30, 2),
        "tflop": round(flops / 1e12, 2),
        "share_of_time": {name: round(part / seconds, 3) for name, part in parts.items()},
    }
    if cuda:
        found["share_of_peak"] = round(flops / seconds / 1e12 / peak_tflops, 3)
        found["scored_per_s"] = round(scoring_speed(card, state, device_name, precision, pixels.numpy()), 2)
    return found


def scoring_speed(card, state, device: str, precision: str, pixels: np.ndarray) -> float:
    """Composites a second of the scorer, from pixels in memory."""
    with Scorer(card, state, Compute(device, precision)) as scorer:
        scorer.score([pixels] * 3)
        start = time.perf_counter()
        scorer.score([pixels] * 30)
        return 30 / (time.perf_counter() - start)


def peak_rss() -> int:
    """Return the most memory that this process has had; on Windows that of its working set."""
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now(device: torch.device) -> float:
    """Return the time when the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
