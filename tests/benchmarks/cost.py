"""What scoring costs, in time and memory, as there is more to do: straight lines, or something is wrong.

    python tests/benchmarks/cost.py DIR [slides] [size] [composites] [refresh]

``slides``: a folder of 10 to 1,000 small slides; ``size``: one slide of 10,000 to 80,000 px, against its
area; ``composites``: one slide, 1 to 256 composites; ``refresh``: bringing the result files of a run up to
date, against the slides in it. Every point is a fresh process that scores with a tiny network. Prints a table
a curve, with its last stretch's slope over that of the whole, and what lies farthest from the straight line
through the points, as a share of the highest; draws all that were measured as DIR/cost.html.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from memory import in_fresh_process, peak_bytes, write_slide
from project import Silent

from bridge.batch.options import BatchOptions
from bridge.batch.run import run_batch
from bridge.projects.open import open_collection
from bridge.results.files import write_csv, write_json
from bridge.results.manifest import Manifest
from bridge.scoring.options import ScoreOptions
from herohe_model.engines.scorer import Scorer
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.pages.svg import Chart, ticks
from herohe_model.synthetic.slides import write_tiff

SLIDES = (10, 250, 500, 1000)
SIDES = (10_240, 20_480, 40_960, 61_440, 81_920)
COMPOSITES = (1, 64, 128, 256)
REFRESHED = (10, 100, 200, 400)
DIFFERENT = 20
"""Small slides that differ; the others are copies of them, as files of their own."""


@dataclass(frozen=True)
class Point:
    """One measurement: how much there was, and what it cost.

    Attributes
    ----------
    cpu
        Seconds of processors; unlike `seconds`, they hardly depend on what else the machine does.
    mib
        Peak MiB beyond those of the process before it began.
    """

    amount: float
    seconds: float
    cpu: float
    mib: float


class Stopwatch:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._bytes, self._cpu, self._began = peak_bytes(), time.process_time(), time.perf_counter()

    def point(self, amount: float) -> Point:
        """Return what it cost until now."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return Point(amount, seconds, cpu, (peak_bytes() - self._bytes) / 2**20)


CURVES = {"seconds": "seconds", "cpu": "seconds of processors", "mib": "MiB more at the peak"}


UNITS = {"slides": "slides", "size": "Mpx", "composites": "composites", "refresh": "slides in the run"}


def main() -> None:
    """Measure the curves that are named, print them, and draw all that lie in the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("curves", nargs="*", choices=[[], *UNITS], default=list(UNITS))
    options = parser.parse_args()
    home: Path = options.folder
    home.mkdir(parents=True, exist_ok=True)
    for name in options.curves or UNITS:
        points = {"slides": slides, "size": size, "composites": composites, "refresh": refresh}[name](home)
        show(name, points)
        kept = [asdict(point) for point in points]
        (home / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
    draw(home)


def slides(home: Path) -> list[Point]:
    """Score folders of ever more small slides: 14 x 14 patches of 32 px, two composites each."""
    model = small_model(home / "small.safetensors", 32)
    folder = home / "small"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    base = []
    for number in range(DIFFERENT):
        picture = np.full((512, 512, 3), 245, dtype=np.uint8)
        picture[32:480, 32:480] = rng.integers((150, 60, 120), (220, 130, 190), (448, 448, 3), dtype=np.uint8)
        base.append(home / f"base-{number}.tif")
        write_tiff(base[-1], picture, mpp=0.5, tile=128)
    points = []
    made = 0
    for count in SLIDES:
        while made < count:
            shutil.copy(base[made % DIFFERENT], folder / f"{made:04d}.tif")
            made += 1
        points.append(in_fresh_process(score, folder, model, home / f"out-{count}", count, 2))
    return points


def size(home: Path) -> list[Point]:
    """Score single slides of ever larger area: patches of 512 px, the same number of composites."""
    model = small_model(home / "large.safetensors", 512)
    points = []
    for side in SIDES:
        folder = home / f"side-{side}"
        folder.mkdir(exist_ok=True)
        in_fresh_process(write_slide, folder / "slide.tif", side)
        out = home / f"out-side-{side}"
        points.append(in_fresh_process(score, folder, model, out, side * side / 1e6, 1))
        shutil.rmtree(folder)
    return points


def composites(home: Path) -> list[Point]:
    """Draw ever more composites of one slide: 25 patches of 128 px each."""
    model = small_model(home / "middle.safetensors", 128)
    folder = home / "one"
    folder.mkdir(exist_ok=True)
    in_fresh_process(write_slide, folder / "slide.tif", 8192)
    return [
        in_fresh_process(score, folder, model, home / f"out-one-{count}", count, count)
        for count in COMPOSITES
    ]


def refresh(home: Path) -> list[Point]:
    """Write the result files of a manifest of ever more slides, of 8 composites each."""
    points = []
    for count in REFRESHED:
        output = home / f"manifest-{count}"
        in_fresh_process(fill, output, count)
        points.append(in_fresh_process(rewrite, output, count))
    return points


def small_model(path: Path, patch_px: int) -> Path:
    """Write a model that costs next to nothing, so that the rest can be seen."""
    card, state = new_model("test_resnet", head="ordered", target="ihc", patch_px=patch_px, mpp=0.5)
    save_model(path, card, state)
    return path


def score(folder: Path, model: Path, output: Path, amount: float, composites: int) -> Point:
    """Score a folder of slides from the start."""
    shutil.rmtree(output, ignore_errors=True)
    with Scorer.load(model, Compute("cpu", "fp32")) as scorer:
        patch = scorer.info.card.patch_px
        side = scorer.info.card.grid * patch
        scorer.submit(np.zeros((side, side, 3), dtype=np.uint8)).result()
        collection = open_collection(folder, output=output)
        watch = Stopwatch()
        summary = run_batch(
            collection,
            scorer,
            BatchOptions(score=ScoreOptions(composites=composites, mpp=0.5)),
            output=output,
            listener=Silent(),
        )
        point = watch.point(amount)
    if summary.exit_code:
        raise SystemExit(f"{folder}: {summary.outcomes}")
    return point


def fill(output: Path, count: int) -> None:
    """Make a manifest of so many invented slides."""
    from report import made_results

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with Manifest(output / "manifest.sqlite") as manifest:
        for position, result in enumerate(made_results(output.parent / "report-slides", count, files=2)):
            manifest.report((position, result))


def rewrite(output: Path, count: int) -> Point:
    """Write the result files of a run of so many slides once."""
    with Manifest(output / "manifest.sqlite") as manifest:
        watch = Stopwatch()
        write_csv(output / "results.csv", manifest.reported())
        write_json(output / "results.json", manifest.reported())
        return watch.point(count)


def show(name: str, points: Sequence[Point]) -> None:
    """Print a curve as a table."""
    print(f"\n{name}\n{UNITS[name]:>18}  {'s':>8}  {'s of CPU':>8}  {'each':>9}  {'MiB':>7}")
    for p in points:
        print(f"{p.amount:18,.0f}  {p.seconds:8.2f}  {p.cpu:8.2f}  {p.cpu / p.amount:9.4f}  {p.mib:7.1f}")
    amounts = np.array([p.amount for p in points])
    for curve, what in CURVES.items():
        values = [getattr(p, curve) for p in points]
        line = np.polynomial.Polynomial.fit(amounts, values, 1)
        off = np.abs(values - line(amounts)).max() / (max(values) or 1.0)
        whole = (values[-1] - values[0]) / (amounts[-1] - amounts[0])
        last = (values[-1] - values[-2]) / (amounts[-1] - amounts[-2])
        flat = max(values) - min(values) <= 0.1 * max(values)
        print(
            f"{what}: {whole:.5f} for one more; farthest from the line {off:.1%}; "
            + (
                "flat within 10%"
                if flat
                else f"RATIO slope of the last stretch to the whole {last / whole:.2f}"
            ),
            flush=True,
        )


def draw(home: Path) -> None:
    """Draw every curve that was measured, on one page."""
    charts = []
    for name in (name for name in UNITS if (home / f"{name}.json").exists()):
        points = [Point(**kept) for kept in json.loads((home / f"{name}.json").read_text(encoding="utf-8"))]
        amounts = [float(p.amount) for p in points]
        for curve, what in CURVES.items():
            values = [float(getattr(p, curve)) for p in points]
            right, top = max(amounts), 1.1 * max(1.0, *values)
            chart = Chart(f"{name}: {what}", x=(0, right), y=(0, top))
            chart.x_axis(UNITS[name], [(tick, f"{tick:g}") for tick in ticks(0, right)])
            chart.y_axis(what, [(tick, f"{tick:g}") for tick in ticks(0, top)])
            line = np.polynomial.Polynomial.fit(amounts, values, 1)
            chart.line([(x, float(line(x))) for x in (amounts[0], amounts[-1])], "guide")
            chart.line(list(zip(amounts, values, strict=True)), "curve model")
            charts.append(f"<figure>{chart.svg()}<figcaption>{name}</figcaption></figure>")
    sheets = resources.files("herohe_model.pages") / "templates"
    style = "".join((sheets / name).read_text(encoding="utf-8") for name in ("page.css", "charts.css"))
    page = (
        f"<!DOCTYPE html><title>Cost</title><style>{style}</style><div class=charts>{''.join(charts)}</div>"
    )
    (home / "cost.html").write_text(page, encoding="utf-8")
    print(f"\nPage: {home / 'cost.html'}")


if __name__ == "__main__":
    main()
