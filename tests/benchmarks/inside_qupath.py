"""One annotation of a 40,000 px slide, from *Run* in QuPath to the result, beside ``herohe-bridge score``.

Run by hand: ``python tests/benchmarks/qupath_process.py``; needs a QuPath that paquo finds. Everything goes
through one warm server, on this machine, in turns. What is timed:

- QuPath: from the moment that an open QuPath, without its window, begins to compile herohe_score.groovy until
  the image and the project are saved; its start is not in it. The first run of a QuPath, which loads the
  scripts' classes, is printed by itself.
- ``herohe-bridge score``: from opening the project until everything is written, in a Python that has loaded
  its modules and started its Java machine; what starting it costs more is printed, and counts for nothing.
- The same in QuPath with the pixels sent by it: raw as to a local server, and compressed over CURVE as to a
  remote one. Their patches and results must be those of the direct way.

The ratio of QuPath's time to that of the command line should be at most 1.15.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.mosaic_slides import write_mosaic_tiff
from helpers.qupath_process import InsideQuPath, installed_qupath
from helpers.qupath_projects import MadeProject

from bridge.batch.options import BatchOptions
from bridge.commands.score import score_collection
from bridge.install.scripts import Remote, ScriptSettings
from bridge.projects.open import open_collection
from bridge.qupath.jvm import start_qupath
from bridge.scoring.options import ScoreOptions
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import running_servers
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model

DRIVER = Path(__file__).with_name("inside_qupath.groovy")
TILE = 400
SIDE = 40_000
IMAGE = "large.tif"


def write_slide(path: Path) -> None:
    """Write a slide of a few distinct tiles of tissue, in an order that does not repeat soon."""
    rng = np.random.default_rng(0)
    tiles = np.clip(rng.normal((190, 110, 170), 25, (6, TILE, TILE, 3)), 0, 255).astype(np.uint8)
    row, column = np.indices((SIDE // TILE, SIDE // TILE))
    write_mosaic_tiff(path, [*tiles], (row * row + 3 * column) % 6, quality=80)


@contextmanager
def serving(inside: InsideQuPath, folder: Path) -> Iterator[Remote]:
    """Run a server that also listens with CURVE."""
    keys, own = KeyPair.new(), KeyPair.new()
    _, key = write_pair(folder / "server", "server", keys)
    _, client = write_pair(folder / "allowed", "client", own)
    command = [
        *(sys.executable, "-m", "bridge", "serve", "--model", str(inside.model), "--device", "cpu"),
        *("--bind", "tcp://127.0.0.1:*", "--key", str(key), "--allow", str(folder / "allowed")),
    ]
    process = subprocess.Popen(
        command, env=inside.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        (server,) = running_servers()
        yield Remote(server.remote_endpoints[0], keys.public, str(client))
    finally:
        process.terminate()
        process.wait()


class OpenQuPath:
    """A QuPath with the image open, that runs the script as often as it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *arguments: str) -> dict[str, Any]:
        """Return the seconds, patches and probabilities of a run."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                answer: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
                if "problem" in answer:
                    raise SystemExit(answer["problem"])
                return answer
        raise SystemExit("QuPath ended")


@contextmanager
def opened(inside: InsideQuPath, project: Path) -> Iterator[OpenQuPath]:
    """Start QuPath with the project's image."""
    command = [str(inside.app.launcher), "script", "-p", str(project), "-i", IMAGE, str(DRIVER)]
    process = subprocess.Popen(
        command,
        env=inside.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    try:
        yield OpenQuPath(process)
    finally:
        process.communicate()


@dataclass
class Way:
    """One way to the result, and how long it took each time."""

    name: str
    go: Callable[[], float]
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--composites", type=int, default=4)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        model = home / "model.safetensors"
        save_model(model, *new_model(args.backbone, head="free", target="ihc"))
        write_slide(home / IMAGE)
        made = MadeProject(home / "project")
        painter = made.add(home / IMAGE)
        painter.annotate(painter.ellipse(4000, 6000, 30_000, 28_000), "Tumor")
        project = made.save()
        twin = home / "twin"
        shutil.copytree(project.parent, twin)
        (home / "home").mkdir()
        with installed_qupath(start_qupath().directory, home / "home", model) as inside:
            patch.setenv("HEROHE_RUNTIME_DIR", inside.environment["HEROHE_RUNTIME_DIR"])
            with serving(inside, home) as remote, opened(inside, project) as qupath:
                measure(inside, qupath, remote, twin / project.name, args.composites, args.rounds)


def measure(
    inside: InsideQuPath, qupath: OpenQuPath, remote: Remote, project: Path, composites: int, rounds: int
) -> None:
    """Take all ways in turns, and print what they took."""
    asked = f"composites={composites}"
    settings_file = inside.user_directory / "herohe-bridge" / "settings.json"
    local = settings_file.read_bytes()
    settings = msgspec.json.decode(local, type=ScriptSettings)
    over_curve = msgspec.json.encode(msgspec.structs.replace(settings, remote=remote))
    found: dict[str, dict[str, Any]] = {}

    def in_qupath(name: str, *more: str, settings: bytes = local) -> float:
        settings_file.write_bytes(settings)
        found[name] = qupath.run(asked, *more)
        settings_file.write_bytes(local)
        return float(found[name]["seconds"])

    def from_python() -> float:
        began = time.perf_counter()
        options = BatchOptions(
            region_classes=("Tumor",), score=ScoreOptions(composites=composites, per_annotation=True)
        )
        summary = score_collection(
            open_collection(project),
            inside.model,
            Compute("cpu", "auto"),
            options=options,
            output=project.parent / "herohe-bridge",
            restart=True,
        )
        assert summary.exit_code == 0
        return time.perf_counter() - began

    def command_line() -> float:
        began = time.perf_counter()
        inside.score(project, "--composites", str(composites), "--restart", "--device", "cpu")
        return time.perf_counter() - began

    score = Way("herohe-bridge score", from_python)
    direct = Way("QuPath", lambda: in_qupath("direct"))
    pixels = Way("QuPath, pixels sent raw", lambda: in_qupath("pixels", "pixelsFromQuPath=true"))
    curve = Way("QuPath, pixels over CURVE", lambda: in_qupath("curve", settings=over_curve))
    from_python()
    print(f"the first run in QuPath: {direct.go():.2f} s")
    for number in range(rounds):
        order = [score, direct, pixels, curve]
        for way in order if number % 2 else reversed(order):
            way.seconds.append(way.go())
    print(f"herohe-bridge score with its own start: {command_line():.2f} s")
    for way in (score, direct, pixels, curve):
        times = ", ".join(f"{seconds:.2f}" for seconds in way.seconds)
        print(f"{way.name}: {times} s")
    for name in ("pixels", "curve"):
        assert found[name]["patches"] == found["direct"]["patches"]
        away = np.abs(np.subtract(found[name]["probabilities"], found["direct"]["probabilities"])).max()
        print(f"probabilities of {name} are within {away:.6f} of the direct ones (at most 0.02)")
    for way, other, target in (
        (direct, score, "at most 1.15"),
        (pixels, direct, "for information"),
        (curve, direct, "for information"),
    ):
        ratios = [a / b for a, b in zip(way.seconds, other.seconds, strict=True)]
        print(f"RATIO {way.name} / {other.name}: median {statistics.median(ratios):.3f} ({target})")


if __name__ == "__main__":
    main()
