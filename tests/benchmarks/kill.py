"""Kill processes at random moments, and see that nothing is lost and nothing left behind.

Run by hand: ``python tests/benchmarks/kill.py --rounds 20``. Each round begins one of four works: ``folder``
(``score`` on slides with GeoJSON), ``project`` (``score`` on a QuPath project, where QuPath is found),
``serve`` (``score`` through a server that runs beside it) or ``train``. It kills one of its processes
(SIGKILL) at a random moment, and gives the command again. Results must equal an undisturbed run's, byte for
byte; every entry must read back whole; no process, no part file, and once a server was started again no
socket and no record may be left.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from shapely.geometry import Polygon

from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.regions import Annotation
from bridge.projects.open import open_collection
from bridge.projects.qupath_project import NewImage, create_project
from bridge.transport.discovery import running_servers
from bridge.transport.runtime_directory import SocketDirectory, runtime_directory
from herohe_model.errors import QuPathNotFoundError
from herohe_model.model.checkpoint import save_model
from herohe_model.model.new_model import new_model
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

SLIDES: Final = 4
KINDS: Final = ("folder", "project", "serve", "train")
_PATIENCE_S: Final = 600.0


@dataclass(frozen=True)
class Work:
    """What is begun, killed, and begun again.

    Attributes
    ----------
    make, command
        Of a folder of its own: fill it, and the command's arguments.
    victims
        Words of the command lines of the processes that may be killed; "" is the first one.
    results
        Files that must equal an undisturbed run's.
    beside
        Arguments of a command that runs beside it.
    """

    make: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    victims: tuple[str, ...]
    results: tuple[str, ...]
    beside: Callable[[Path], list[str]] | None = None


def main() -> None:
    """Run the rounds; exit code 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="Of each kind.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        os.environ["HEROHE_CACHE_DIR"] = str(home / "cache")
        prepare(home)
        chosen = {kind: work for kind, work in works(home).items() if kind in args.kinds}
        for kind in sorted(set(args.kinds) - set(chosen)):
            print(f"{kind}: not run, there is no QuPath here", flush=True)
        takes = {kind: undisturbed(work, home / f"undisturbed {kind}") for kind, work in chosen.items()}
        for number in range(args.rounds):
            for kind, work in chosen.items():
                whole = home / f"undisturbed {kind}"
                round_(f"{kind} {number + 1}", work, home / "round", whole, takes[kind], rng)
                shutil.rmtree(home / "round")
        print(f"{args.rounds} rounds each of {', '.join(chosen)}: bytes equal, nothing left behind")


def undisturbed(work: Work, target: Path) -> float:
    """Do a work without killing anybody; return how long it takes, s."""
    work.make(target)
    began = time.perf_counter()
    with beside(work, target):
        finish(work, target)
    print(f"{target.name}: {time.perf_counter() - began:.1f} s", flush=True)
    return time.perf_counter() - began


def prepare(home: Path) -> None:
    """Make a model, slides with annotations, labels, and a project where QuPath is found."""
    card, state = new_model("test_resnet", head="ordered", target="ihc", patch_px=64, mpp=0.97)
    save_model(home / "model.safetensors", card, state)
    (home / "slides").mkdir()
    images = []
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
        print(error)
    for image in images:
        write_annotations(image.slide_path, image.annotations)
    rows = [f"s{number},{('0', '1', '2', '3')[number % 4]},,train" for number in range(SLIDES)]
    (home / "labels.csv").write_text("\n".join(["case,ihc,status,split", *rows]) + "\n")


def works(home: Path) -> dict[str, Work]:
    """Return what can be done here, by kind."""
    model = str(home / "model.safetensors")

    def score(target: Path) -> list[str]:
        return [
            *("score", str(target), "--model", model, "--region-class", "Tumor", "--device", "cpu"),
            *("--engine", "torch", "--composites", "6", "--output", str(target / "out")),
        ]

    def train(target: Path) -> list[str]:
        return [
            *("train", str(home / "slides"), "--labels", str(home / "labels.csv"), "--output", str(target)),
            # By default the folder names the model, and its name is in the file.
            *("--name", "killed", "--folds", "0", "--backbone", "test_resnet", "--no-pretrained"),
            *("--patch-px", "32", "--mpp", "0.97", "--target", "ihc", "--epochs", "12", "--batch", "2"),
            *("--checkpoint-every", "2"),
            *("--device", "cpu", "--threads", "1", "--workers", "1", "--min-patches", "5"),
        ]

    def copied(source: Path) -> Callable[[Path], None]:
        return lambda target: shutil.copytree(source, target) and None

    scored = ("out/results.csv", "out/results.json")
    folder = Work(copied(home / "slides"), score, ("", "serve", "bridge.server.worker"), scored)
    found = {
        "folder": folder,
        "serve": Work(
            folder.make,
            score,
            ("", "serve", "bridge.server.worker"),
            scored,
            beside=lambda _: ["serve", "--model", model, "--device", "cpu", "--engine", "torch"],
        ),
        "train": Work(lambda target: target.mkdir(), train, ("",), ("model.safetensors",)),
    }
    if (home / "project").exists():
        found["project"] = Work(copied(home / "project"), score, folder.victims, scored)
    return found


def begin(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command of herohe-bridge."""
    with log.open("ab") as output:
        command = [sys.executable, "-m", "bridge", *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


@contextmanager
def beside(work: Work, target: Path) -> Iterator[list[psutil.Process]]:
    """Run what runs beside the work, if anything."""
    if work.beside is None:
        yield []
        return
    server = begin(work.beside(target), target.with_suffix(".server.log"))
    try:
        yield [psutil.Process(server.pid)]
    finally:
        server.terminate()
        server.wait(_PATIENCE_S)


def finish(work: Work, target: Path) -> None:
    """Run to the end."""
    log = target.with_suffix(".log")
    code = begin(work.command(target), log).wait(_PATIENCE_S)
    if code:
        sys.exit(f"exit code {code}\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")


def round_(name: str, work: Work, target: Path, whole: Path, takes: float, rng: random.Random) -> None:
    """Kill once at a random moment, finish, and compare."""
    work.make(target)
    moment = rng.uniform(0.02, 1.0) * takes
    seen: list[psutil.Process] = []
    with beside(work, target) as others:
        first = begin(work.command(target), target.with_suffix(".killed.log"))
        seen = [psutil.Process(first.pid), *others]
        try:
            first.wait(timeout=moment)
            victim = "nothing"
        except subprocess.TimeoutExpired:
            family = [*seen, *(child for p in seen for child in p.children(recursive=True))]
            seen = family
            victim = kill(family, rng.choice(work.victims))
        code = first.wait(_PATIENCE_S)
    finish(work, target)
    for result in work.results:
        if (target / result).read_bytes() != (whole / result).read_bytes():
            sys.exit(f"{name}: {result} differs after killing the {victim} at {moment:.1f} s")
    if "out/results.json" in work.results:
        check_entries(target)
    check_nothing_left(name, target, seen)
    print(f"{name}: {victim} killed at {moment:.1f} s (exit code {code}): equal", flush=True)


def kill(family: Sequence[psutil.Process], word: str) -> str:
    """Kill a process whose command line has the word, else the first, and say which."""
    found = [p for p in family if p.is_running() and word in p.cmdline()] if word else []
    (found or family)[0].kill()
    return word if found else "first process"


def check_entries(target: Path) -> None:
    """Read every entry; each must hold the complete result of a run."""
    collection = open_collection(target, output=target / "out")
    for entry in collection.entries():
        if collection.read(entry).written_run is None:
            sys.exit(f"{entry.name} does not hold a complete result")
    collection.close()


def check_nothing_left(name: str, target: Path, processes: Sequence[psutil.Process]) -> None:
    """See that no process, no part of a file, no record and no socket is left."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    # As the next server does.
    SocketDirectory().remove()
    left = [
        *(str(p) for p in alive),
        *(str(p) for p in target.rglob("*") if ".part" in p.name or p.name.endswith(".tmp")),
        *(str(record) for record in running_servers()),
        *(str(p) for p in runtime_directory().iterdir()),
    ]
    if left:
        sys.exit(f"{name}: left behind: {left}")


if __name__ == "__main__":
    main()
