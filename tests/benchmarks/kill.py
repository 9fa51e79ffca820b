"""Kill the batch, its server or the server's worker at random moments, and see that nothing is lost.

Run by hand: ``python tests/benchmarks/kill.py``. With QuPath, on a project; else on a folder with GeoJSON.
Each round begins a run, kills one of the three (SIGKILL) at a random moment, and lets the next run
finish. Its results must equal an undisturbed run's, byte for byte, and every entry must read back whole.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from shapely.geometry import Polygon

from bridge.annotations.geojson import write_annotations
from bridge.annotations.regions import Annotation
from bridge.projects.base import Collection
from bridge.projects.open import open_collection
from bridge.projects.qupath_project import NewImage, create_project
from herohe_model.errors import QuPathNotFoundError
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import new_model
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

SLIDES = 8


def main() -> None:
    """Run the rounds; exit code 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        card, state = new_model("test_resnet", head="ordered", target="ihc", patch_px=64, mpp=0.97)
        save_model(home / "model.safetensors", card, state)
        target = make_collection(home)
        whole = duplicate(target, home / "undisturbed")
        began = time.perf_counter()
        finish(whole, home)
        takes = time.perf_counter() - began
        print(f"an undisturbed run takes {takes:.1f} s")
        for number in range(args.rounds):
            round_(number, duplicate(target, home / f"round{number}"), whole, home, takes)
            shutil.rmtree(home / f"round{number}")
    print(f"{args.rounds} rounds: results byte-equal, no entry damaged")


def make_collection(home: Path) -> Path:
    """Make slides with annotations: a project where QuPath is found, else GeoJSON beside the slides."""
    images = []
    (home / "slides").mkdir()
    for number in range(SLIDES):
        phantom = draw_phantom("2+", seed=number, side=1536)
        path = home / "slides" / f"s{number}.tif"
        write_tiff(path, phantom.picture, mpp=0.485)
        annotations = tuple(
            Annotation(f"{number:08x}-0000-4000-8000-{k:012x}", f"t{k}", "Tumor", Polygon(outline))
            for k, outline in enumerate(phantom.tumour)
        )
        images.append(NewImage(path, path.name, annotations))
    try:
        create_project(home / "project", images)
    except QuPathNotFoundError as error:
        print(f"{error} Going on with GeoJSON.")
        for image in images:
            write_annotations(image.slide_path, image.annotations)
        return home / "slides"
    return home / "project"


def duplicate(source: Path, to: Path) -> Path:
    """Copy a collection; a project's slides stay where they are."""
    shutil.copytree(source, to)
    return to


def command(target: Path, home: Path) -> list[str]:
    """Return the command of a run."""
    return [
        *(sys.executable, "-m", "bridge", "score", str(target), "--model", str(home / "model.safetensors")),
        *("--region-class", "Tumor", "--device", "cpu", "--composites", "6", "--output", str(target / "out")),
    ]


def finish(target: Path, home: Path) -> None:
    """Run to the end."""
    done = subprocess.run(command(target, home), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def round_(number: int, target: Path, whole: Path, home: Path, takes: float) -> None:
    """Kill once at a random moment, finish, and compare."""
    victim = random.choice(["batch", "server", "worker"])
    moment = random.uniform(0.1, 1.0) * takes
    log = home / "killed.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command(target, home), stdout=output, stderr=subprocess.STDOUT) as batch,
    ):
        try:
            batch.wait(timeout=moment)
            victim = "nothing"
        except subprocess.TimeoutExpired:
            victim = kill(batch, victim)
        code = batch.wait()
    finish(target, home)
    for name in ("results.csv", "results.json"):
        if (target / "out" / name).read_bytes() != (whole / "out" / name).read_bytes():
            sys.exit(f"round {number}: {name} differs after killing the {victim} at {moment:.1f} s")
    check(open_collection(target, output=target / "out"))
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if code > 0 else ()
    print(f"round {number + 1}: {victim} killed at {moment:.1f} s (exit code {code}): equal", *last)


def kill(batch: subprocess.Popen[bytes], kind: str) -> str:
    """Kill the batch, its server or the server's worker, and say which; the batch where there is no other."""
    process = psutil.Process(batch.pid)
    part = {"server": "serve", "worker": "bridge.server.worker"}.get(kind)
    found = [p for p in process.children(recursive=True) if part in p.cmdline()] if part else []
    (found or [process])[0].kill()
    return kind if found else "batch"


def check(collection: Collection) -> None:
    """Read every entry; each must hold the complete result of a run."""
    for entry in collection.entries():
        if collection.read(entry).written_run is None:
            sys.exit(f"{entry.name} does not hold a complete result")
    collection.close()


if __name__ == "__main__":
    main()
