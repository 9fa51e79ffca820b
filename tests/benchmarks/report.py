"""How large the report of a fabricated run is, how long it takes to write, and to open.

    python tests/benchmarks/report.py DIR [--slides 400] [--slide FILE] [--browser chromium]

Makes a run in DIR whose slides are synthetic (or all the one named with --slide) and whose contributions are
invented, writes its report, and with --browser opens it headless, beside an empty page.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely

from bridge.report.cohort import Truth
from bridge.report.page import PAGE_LIMIT, write_report
from bridge.results.files import write_json
from bridge.results.run import find_run
from bridge.results.schema import (
    CompositeResult,
    Outcome,
    PlacedPatch,
    Prediction,
    Provenance,
    RegionResult,
    SlideResult,
    rounded,
)
from herohe_model.grades import (
    GRADES,
    Target,
    bit_probabilities,
    expected_grade,
    grade_of,
    ihc_probabilities,
    level_probabilities,
    status_of,
)
from herohe_model.sampling.composite import draw_composites
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff

TARGET = Target.IHC
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=400)
    parser.add_argument("--files", type=int, default=12, help="different slide files")
    parser.add_argument("--slide", type=Path, help="take this slide for all")
    parser.add_argument("--browser", help="a Chromium to open the page with")
    options = parser.parse_args()

    run = options.folder / "herohe-bridge"
    run.mkdir(parents=True, exist_ok=True)
    results = made_results(options.folder / "slides", options.slides, options.files, options.slide)
    write_json(run / "results.json", results)
    _write_truth(options.folder / "truth.csv", results)

    began = time.perf_counter()
    written = write_report(
        find_run(run), run / "report.html", truth=Truth(options.folder / "truth.csv"), threads=2
    )
    took = time.perf_counter() - began
    size = written.path.stat().st_size
    print(f"{written.slides} slides written in {took:.1f} s, {took / written.slides * 1e3:.0f} ms a slide")
    print(f"page {size / 1e6:.1f} MB, {size / PAGE_LIMIT:.2f} of the limit; beside it: {written.beside}")
    if options.browser:
        empty = options.folder / "empty.html"
        empty.write_text("<!DOCTYPE html><title>empty</title>", encoding="utf-8")
        nothing, page = (min(_open(options.browser, p) for _ in range(3)) for p in (empty, written.path))
        print(f"opened in {page - nothing:.2f} s more than an empty page ({nothing:.2f} s)")


def _open(browser: str, page: Path) -> float:
    with tempfile.TemporaryDirectory() as profile:
        began = time.perf_counter()
        subprocess.run(
            [
                browser,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--screenshot={profile}/seen.png",
                page.resolve().as_uri(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def made_results(folder: Path, count: int, files: int = 12, slide: Path | None = None) -> list[SlideResult]:
    """Invent the results of so many slides, and make the files in `folder` that they name."""
    found = _files(folder, files, slide)
    return [_result(number, *found[number % len(found)]) for number in range(count)]


def _files(folder: Path, count: int, given: Path | None) -> list[tuple[Path, str, PatchSet]]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(1 if given else count):
        path = folder / (given.name if given else f"base-{number:02d}.tif")
        if given and not path.exists():
            shutil.copy(given, path)
        if not path.exists():
            write_tiff(path, draw_phantom(GRADES[number % 4], seed=number).picture, mpp=0.485)
        with Slide(path) as slide:
            x, y, side = slide.bounds.x, slide.bounds.y, 0.7
            region = shapely.box(x, y, x + side * slide.bounds.width, y + side * slide.bounds.height)
            patches = find_patches(slide, region, patch_px=96, mpp=slide.mpp, threshold=0.07)
            files.append((path, slide.fingerprint, patches))
    return files


def _result(number: int, path: Path, fingerprint: str, patches: PatchSet) -> SlideResult:
    name = f"case-{number + 1:04d}" + ("" if number % 50 else ' <b onclick="alert(1)">&amp; "quoted"</b>')
    provenance = Provenance(
        run=f"{number:016x}",
        model="fabricated",
        model_sha256="ab" * 32,
        target=TARGET.value,
        steps=TARGET.steps,
        seed=0,
        device="cpu",
        precision="fp32",
        options={"composites": 8, "min_patches": 10},
        versions={"numpy": np.__version__},
        regions_sha256="cd" * 32,
        slide_fingerprint=fingerprint,
        slide_mpp=0.485,
        model_mpp=0.485,
        patch_px=96,
    )
    where = f"slides/{path.name}"
    if number % 40 == 7:
        message = f"{where} is damaged (JPEG error). Copy it again."
        return SlideResult(str(number), name, where, Outcome.UNREADABLE, message, "slide_unreadable")
    if number % 40 == 13:
        message = "No annotation of class Tumor: the slide has no annotations. Draw one in QuPath."
        return SlideResult(
            str(number), name, where, Outcome.NO_MATCHING_ANNOTATION, message, provenance=provenance
        )
    union = _union(number, patches)
    warnings = ("The slide is coarser than the model",) if number % 9 == 0 else ()
    return SlideResult(
        str(number), name, where, Outcome.SCORED, warnings=warnings, union=union, provenance=provenance
    )


def _union(number: int, patches: PatchSet) -> RegionResult:
    rng = np.random.default_rng(number)
    drawn = draw_composites(len(patches), composites=8, seed=number)
    x, y = patches.x / patches.x.max(), patches.y / max(1, patches.y.max())
    hills = np.sin(7 * x + number) * np.cos(6 * y - number) + rng.normal(0, 0.4, len(patches))
    level = np.array([-2.0, 0.0, 2.0]) + rng.normal(0, 2)
    shares = (hills[:, None] * 2.0 + level) / 25
    # A network sees a patch among its neighbours, so its share differs from composite to composite.
    contributions = shares[drawn] + rng.normal(0, 0.5 / 25, (len(drawn), 1, 1))
    logits = contributions.sum(axis=1)
    each = bit_probabilities(logits)
    mean = each.mean(axis=0)
    at_least = {g: rounded(p)[0] for g, p in ihc_probabilities(mean, TARGET.steps).items()}
    p = rounded(mean[1])[0]
    saturation = rounded(patches.saturation)
    placed = tuple(
        PlacedPatch(
            int(patches.x[i]), int(patches.y[i]), patches.size, c, k, saturation[i],
            tuple(rounded(contributions[c, k])),
        )
        for c, row in enumerate(drawn.tolist())
        for k, i in enumerate(row)
    )  # fmt: skip
    return RegionResult(
        region="slide",
        name="",
        class_name="Tumor",
        annotations=("a", "b"),
        outcome=Outcome.SCORED,
        patches_foreground=len(patches),
        patches_sampled=len(set(drawn.ravel().tolist())),
        prediction=Prediction(
            grade=grade_of(at_least),
            status=status_of(p, 0.5),
            p_positive=p,
            p_positive_sd=rounded(each[:, 1].std(ddof=1))[0],
            expected_grade=rounded(expected_grade(at_least))[0],
            at_least=at_least,
            levels=dict(zip(TARGET.levels, rounded(level_probabilities(mean)), strict=True)),
        ),
        composites=tuple(
            CompositeResult(
                c, tuple(rounded(z)), rounded(q[1])[0], grade_of(ihc_probabilities(q, TARGET.steps))
            )
            for c, (z, q) in enumerate(zip(logits, each, strict=True))
        ),
        patches=placed,
    )


def _write_truth(path: Path, results: list[SlideResult]) -> None:
    """Invent a truth that mostly agrees. Entries are matched by name: all share a few files."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "ihc", "status"))
        for result in results:
            prediction = result.union.prediction if result.union else None
            if prediction is None:
                continue
            grade = GRADES[int(np.clip(GRADES.index(prediction.grade) + rng.integers(-1, 2), 0, 3))]
            positive = {"2+": bool(rng.integers(2)), "3+": True}.get(grade, False)
            writer.writerow((result.slide, grade, "Positive" if positive else "Negative"))


if __name__ == "__main__":
    main()
