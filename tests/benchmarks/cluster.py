"""200 small slides over a dask cluster of two workers, one killed in the middle; the same with the driver.

Run by hand: ``python tests/benchmarks/cluster.py``. With QuPath, on a project; else on a folder with GeoJSON.
Scheduler and workers are dask's own commands, with nannies. Every run must end with each slide scored once
and with the bytes of a run on this machine alone. Times count from when the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from shapely.geometry import box

from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.regions import Annotation
from bridge.projects.open import open_collection
from bridge.projects.qupath_project import NewImage, create_project
from herohe_model.errors import QuPathNotFoundError
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import new_model
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

FILES = ("results.csv", "results.json")
BEGAN = time.perf_counter()
Disturb = Callable[[subprocess.Popen[str]], None]


def main() -> None:
    """Run all of it; exit code 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--folder", action="store_true", help="no QuPath: a folder of slides")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        card, state = new_model(args.backbone, head="ordered", target="ihc", patch_px=64, mpp=0.97)
        save_model(home / "model.safetensors", card, state)
        fresh = make_collection(home, args.slides, with_qupath=not args.folder)
        alone = shutil.copytree(fresh, home / "alone")
        say("scoring on this machine alone")
        here = run(alone, home)
        if here.code:
            sys.exit(f"exit code {here.code}\n{here.said}")
        say(f"on this machine alone: {here.seconds:.1f} s")
        with dask_cluster(home) as workers:
            for name, disturb in (
                ("undisturbed", None),
                ("a worker killed in the middle", lambda _: kill_one(workers)),
                ("the driver killed in the middle, then resumed", lambda driver: driver.kill()),
            ):
                say(f"scoring on the cluster, {name}")
                there = shutil.copytree(fresh, home / name.replace(" ", "-"))
                seconds = run_there(there, home, disturb)
                check(there, alone, args.slides)
                ratio = seconds / here.seconds
                say(f"{name}: {ratio:.2f} times that, every slide once, bytes equal, all entries complete")
                shutil.rmtree(there)


def say(what: str) -> None:
    """Print what happens, with the seconds since the beginning."""
    print(f"{time.perf_counter() - BEGAN:7.1f} s  {what}", flush=True)


def make_collection(home: Path, slides: int, *, with_qupath: bool) -> Path:
    """Make slides with an annotation each: a project where QuPath is found, else GeoJSON beside them."""
    say(f"drawing {slides} slides")
    images = []
    (home / "slides").mkdir()
    for number in range(slides):
        path = home / "slides" / f"s{number:04}.tif"
        write_tiff(path, draw_phantom("2+", seed=number, side=768).picture, mpp=0.485)
        id_ = f"{number:08x}-0000-4000-8000-000000000000"
        images.append(NewImage(path, path.name, (Annotation(id_, "t", "Tumor", box(40, 40, 730, 730)),)))
    if with_qupath:
        say("making a QuPath project of them")
        try:
            create_project(home / "project", images)
            return home / "project"
        except QuPathNotFoundError as error:
            say(f"{error} Going on with GeoJSON.")
    for image in images:
        write_annotations(image.slide_path, image.annotations)
    return home / "slides"


def command(target: Path, home: Path, *more: str) -> list[str]:
    """Return the command of a run."""
    return [
        *(sys.executable, "-m", "bridge", "score", str(target), "--model", str(home / "model.safetensors")),
        *("--region-class", "Tumor", "--device", "cpu", "--composites", "4", "--output", str(target / "out")),
        *more,
    ]


@dataclass
class Run:
    """How a run went: slides finished, seconds from when the model was loaded, exit code, what it said."""

    finished: int
    seconds: float
    code: int
    said: str


def run(target: Path, home: Path, *more: str, disturb: Disturb | None = None) -> Run:
    """Run once; `disturb` gets the process when half of the slides are finished."""
    began, finished, said = time.perf_counter(), 0, []
    half = len(list((home / "slides").glob("*.tif"))) // 2
    with subprocess.Popen(
        command(target, home, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stderr is not None
        for line in driver.stderr:
            said.append(line)
            if " is ready on " in line or " the model: " in line:
                began = time.perf_counter()
                say(f"    {line.strip()}")
            finished += line.startswith("[")
            if finished == half and disturb is not None:
                say(f"    {finished} slides are finished: disturbing")
                disturb(driver)
                disturb = None
    return Run(finished, time.perf_counter() - began, driver.returncode, "".join(said))


def run_there(target: Path, home: Path, disturb: Disturb | None) -> float:
    """Run over the cluster, and again if the disturbance ended it; return the seconds of both."""
    there = ("--dask", str(home / "scheduler.json"))
    first = run(target, home, *there, disturb=disturb)
    if not first.code:
        return first.seconds
    say(f"    exit code {first.code} after {first.finished} slides; the same command again")
    again = run(target, home, *there)
    known = again.said.count("known from an earlier run")
    say(f"    exit code {again.code}, {known} slides known from before")
    return first.seconds + again.seconds


def check(there: Path, alone: Path, slides: int) -> None:
    """Compare with the run on this machine, and read every entry back."""
    say("    comparing, and reading every entry back")
    for name in FILES:
        if (there / "out" / name).read_bytes() != (alone / "out" / name).read_bytes():
            sys.exit(f"{name} differs")
    found = Counter(
        slide["slide"] for slide in json.loads((there / "out" / "results.json").read_bytes())["slides"]
    )
    if len(found) != slides or set(found.values()) != {1}:
        sys.exit(f"{len(found)} slides instead of {slides}, or some twice")
    collection = open_collection(there, output=there / "out")
    for entry in collection.entries():
        if collection.read(entry).written_run is None:
            sys.exit(f"{entry.name} does not hold a complete result")
    collection.close()


@contextmanager
def dask_cluster(home: Path) -> Iterator[list[psutil.Process]]:
    """Start a scheduler and two workers as a user would; yields the nannies."""
    (home / "dask").mkdir()
    file, logs = home / "scheduler.json", (home / "dask" / "log").open("w")

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments, "--no-dashboard", "--scheduler-file", str(file)],
            stdout=logs,
            stderr=logs,
            cwd=home / "dask",
        )

    peers = [start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
    worker = ("distributed.cli.dask_worker", "--host", "127.0.0.1", "--nthreads", "2", "--memory-limit", "0")
    peers += [start(*worker), start(*worker)]
    try:
        yield [psutil.Process(peer.pid) for peer in peers[1:]]
    finally:
        for peer in reversed(peers):
            peer.terminate()
        for peer in peers:
            peer.wait()
        logs.close()


def kill_one(nannies: list[psutil.Process]) -> None:
    """Kill the worker process of the first nanny, which starts another."""
    workers = [p for p in nannies[0].children() if "spawn_main" in " ".join(p.cmdline())]
    (max(workers, key=lambda process: process.memory_info().rss)).kill()


if __name__ == "__main__":
    main()
