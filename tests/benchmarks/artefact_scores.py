"""What artefacts do to a model's F1, with and without a look at them.

Trains on a synthetic cohort, then scores new slides of it as they are, and spoilt: a ring of pen along the
tumour's outline, clots of blood, glue, a blur over half of the slide and over all of it, a stain at half its
strength, and slides of nothing but pen, blood or DAB. Prints, for each, F1 and what came of the slides, once
with ``--artefacts ignore`` and once with ``leave-out``.

    python tests/benchmarks/artefact_scores.py [--train 90] [--new 40] [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.synthetic_cohort import MPP, make_cohort, train_on_cohort
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bridge.annotations.regions import Annotation, build_regions
from bridge.results.schema import Outcome
from bridge.scoring.options import ScoreOptions
from bridge.scoring.slide import score_slide
from herohe_model.engines.scorer import Scorer
from herohe_model.evaluation.metrics import f1_score
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_tiff
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.data import TrainingSlide

Picture = NDArray[np.uint8]
PEN, BLOOD, GLUE, DAB = (40, 150, 70), (190, 60, 66), (240, 205, 120), (150, 95, 50)


def covered(picture: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Picture:
    """Lay a colour over a part of a picture, as light is absorbed."""
    seen = picture.astype(np.float32)
    seen[mask] *= np.array(colour, dtype=np.float32) / 255
    return seen.astype(np.uint8)


def ring(slide: TrainingSlide, side: int) -> NDArray[np.bool_]:
    """Return the inner rim of the tumour."""
    assert slide.geometry is not None
    drawn = Image.new("L", (side, side))
    pen = ImageDraw.Draw(drawn)
    for part in getattr(slide.geometry, "geoms", [slide.geometry]):
        pen.line(list(part.exterior.coords), fill=255, width=40, joint="curve")
    return np.asarray(drawn) > 0


def blobs(seed: int, side: int) -> NDArray[np.bool_]:
    """Return about a third of a picture, in round pieces."""
    rng = np.random.default_rng(seed)
    drawn = Image.new("L", (side, side))
    pen = ImageDraw.Draw(drawn)
    while np.mean(np.asarray(drawn) > 0) < 0.33:
        x, y, r = (*rng.uniform(0, side, 2), rng.uniform(40, 90))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(drawn) > 0


def soft(picture: Picture) -> Picture:
    """Blur by 1.5 µm, under the camera's noise."""
    blurred = np.asarray(
        Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5 / MPP)), dtype=np.float32
    )
    return np.clip(blurred + np.random.default_rng(0).normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def half_soft(picture: Picture) -> Picture:
    """Blur the upper half."""
    return np.concatenate([soft(picture)[: len(picture) // 2], picture[len(picture) // 2 :]])


def pure(picture: Picture, colour: tuple[int, int, int]) -> Picture:
    """Return glass, covered all over."""
    rng = np.random.default_rng(0)
    strength = np.kron(rng.uniform(0.6, 1.4, (len(picture) // 20, len(picture) // 20)), np.ones((20, 20)))
    light = 245 * (np.array(colour) / 255) ** strength[..., None] + rng.normal(0, 3, picture.shape)
    return np.clip(light, 0, 255).astype(np.uint8)


SPOILT: dict[str, Callable[[TrainingSlide, Picture, int], Picture]] = {
    "clean": lambda slide, picture, seed: picture,
    "ring of pen": lambda slide, picture, seed: covered(picture, ring(slide, len(picture)), PEN),
    "clots of blood": lambda slide, picture, seed: covered(picture, blobs(seed, len(picture)), BLOOD),
    "glue": lambda slide, picture, seed: covered(picture, blobs(seed, len(picture)), GLUE),
    "half blurred": lambda slide, picture, seed: half_soft(picture),
    "blurred": lambda slide, picture, seed: soft(picture),
    "half stain": lambda slide, picture, seed: (255 * (picture / 255.0) ** 0.5).astype(np.uint8),
    "pen alone": lambda slide, picture, seed: pure(picture, PEN),
    "blood alone": lambda slide, picture, seed: pure(picture, BLOOD),
    "DAB alone": lambda slide, picture, seed: pure(picture, DAB),
}


def trained(folder: Path, slides: int) -> Path:
    """Train, or take the model of a run before."""
    if (folder / "run" / "model.safetensors").is_file():
        return folder / "run" / "model.safetensors"
    training = [made.slide for made in make_cohort(folder / "training", slides, seed=1)]
    return train_on_cohort(training, FoldPlan("folds", 3), folder / "run", name="artefacts", epochs=25)


def main() -> None:
    """Train, spoil, score, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=90)
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="keeps the model and the slides for the next run")
    parser.add_argument("--only", nargs="*", default=list(SPOILT), help="ways to spoil a slide")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        model = trained(folder, options.train)
        new = [made.slide for made in make_cohort(folder / "new", options.new, seed=2)]
        print(f"{'':<16}{'ignore':<56}leave-out")
        with Scorer.load(model, Compute("cpu", "fp32", "torch"), 1) as scorer:
            for name in options.only:
                spoil = SPOILT[name]
                said = []
                for rule in ("ignore", "leave-out"):
                    truth, called, outcomes, warned = [], [], Counter[str](), 0
                    for seed, slide in enumerate(new):
                        with Slide(slide.path) as source:
                            side = source.size[0]
                            picture = source.read_box(0, 0, side, side, (side, side))
                        write_tiff(folder / "spoilt.tif", spoil(slide, picture, seed), mpp=MPP)
                        result = scored(folder / "spoilt.tif", slide, scorer, rule)
                        outcomes[result[0]] += 1
                        warned += result[2]
                        if result[1] is not None:
                            truth.append(bool(slide.case.positive))
                            called.append(result[1] >= scorer.info.card.decision_threshold)
                    f1 = float(f1_score(np.array(truth), np.array(called))) if truth else float("nan")
                    said.append(f"F1 {f1:.3f}, {dict(outcomes)}, {warned} warned")
                print(f"{name:<16}{said[0]:<56}{said[1]}", flush=True)


def scored(path: Path, slide: TrainingSlide, scorer: Scorer, rule: str) -> tuple[str, float | None, bool]:
    """Return outcome and P(positive) of a slide, and whether a warning says that it is not as others are."""
    score = ScoreOptions(composites=4, artefacts=rule)  # type: ignore[arg-type]  # one of the three
    with Slide(path) as source:
        annotation = Annotation("a", "tumour", "Tumor", slide.geometry)
        regions = build_regions(
            [annotation], region_classes=("Tumor",), exclude_classes=(), slide_box=source.bounds
        )
        result = score_slide(source, regions, score, scorer)
    prediction = result.union.prediction if result.union is not None else None
    if result.outcome is not Outcome.SCORED or prediction is None:
        return result.outcome.value, None, False
    warned = any(word in said for word in ("unlike", "artefacts", "blurred") for said in result.warnings)
    return result.outcome.value, prediction.p_positive, warned


if __name__ == "__main__":
    main()
