"""What training learns from a synthetic cohort with known rules, on slides that it has never seen.

Trains 3-bit and 4-bit targets with free and ordered heads by three folds, each into one ensemble with its
threshold and temperature chosen out of fold, and scores held-out slides with it as ``score`` does. Beside
them a control whose labels are dealt so that they tell nothing of the slides, and one laboratory after the
other left out. Prints F1 with 95% bootstrap intervals beside always-positive, and fails when

- an F1 interval of a trained model overlaps the one of always-positive,
- the 4-bit target does not beat the 3-bit one on status (paired bootstrap),
- the control is better than chance.

With the defaults about six minutes on two free cores.

    python tests/benchmarks/cohort.py [--training 120] [--held-out 180] [--processes 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.synthetic_cohort import CohortSlide, make_cohort
from numpy.typing import NDArray

from bridge.annotations.regions import Annotation, build_regions
from bridge.scoring.options import ScoreOptions
from bridge.scoring.slide import score_slide
from herohe_model.engines.scorer import Scorer
from herohe_model.evaluation.bootstrap import bootstrap, interval
from herohe_model.evaluation.metrics import f1_score, roc_auc
from herohe_model.model.card import Head, TargetName
from herohe_model.model.compute import Compute
from herohe_model.slides.slide import Slide
from herohe_model.training.composite_folds import train_folds
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.data import TrainingSlide
from herohe_model.training.options import TrainOptions
from herohe_model.training.processes import Processes
from herohe_model.training.step import Resources

COMPOSITES = 4


@dataclass(frozen=True)
class Job:
    """One training, and what it is scored on."""

    name: str
    target: TargetName
    head: Head
    plan: FoldPlan
    training: tuple[TrainingSlide, ...]
    held_out: tuple[TrainingSlide, ...]
    folder: Path
    epochs: int


@dataclass(frozen=True)
class Answers:
    """P(positive) and calls of the held-out slides; the laboratories' figures where they were left out."""

    name: str
    seconds: float
    p: NDArray[np.float64]
    called: NDArray[np.bool_]
    laboratories: tuple[str, ...]


def main() -> int:
    """Make the cohort, train, score and print; 1 when something is not as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--training", type=int, default=120)
    parser.add_argument("--held-out", type=int, default=180)
    parser.add_argument("--epochs", type=int, default=10, help="of two composites a slide")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--folder", type=Path, help="keep slides and runs there, and go on with them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return prove(options.folder or Path(temporary), options)


def prove(folder: Path, options: argparse.Namespace) -> int:
    """Run all trainings and compare."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        cohorts = [
            pool.submit(make_cohort, folder / name, count, seed=seed, split=name)
            for name, count, seed in (("train", options.training, 1), ("other", options.held_out, 2))
        ]
        training, held_out = (cohort.result() for cohort in cohorts)
        print(f"{len(training)} + {len(held_out)} slides drawn in {time.perf_counter() - start:.0f} s")
        jobs = make_jobs(training, held_out, folder, options.epochs)
        answers = {answer.name: answer for answer in pool.map(run, jobs)}
    truth = np.array([member.slide.case.positive for member in held_out], dtype=np.bool_)
    failures = compare(answers, truth)
    print(f"whole run: {time.perf_counter() - start:.0f} s")
    for failure in failures:
        print(f"NOT AS IT MUST BE: {failure}")
    return int(bool(failures))


def make_jobs(
    training: Sequence[CohortSlide], held_out: Sequence[CohortSlide], folder: Path, epochs: int
) -> list[Job]:
    """List the trainings, the longest first."""
    slides, others = (tuple(m.slide for m in members) for members in (training, held_out))
    folds = FoldPlan("folds", 3)

    def job(
        name: str, target: TargetName, head: Head, plan: FoldPlan, some: tuple[TrainingSlide, ...]
    ) -> Job:
        return Job(name, target, head, plan, some, others, folder / name.replace(" ", "-"), epochs)

    return [
        job("3-bit free", "ihc", "free", folds, slides),
        job("3-bit ordered", "ihc", "ordered", folds, slides),
        job("4-bit free", "ihc+ish", "free", folds, slides),
        job("4-bit ordered", "ihc+ish", "ordered", folds, slides),
        job("shuffled labels", "ihc+ish", "free", folds, shuffled(training)),
        job("laboratory left out", "ihc+ish", "free", FoldPlan("laboratories"), slides),
    ]


def shuffled(members: Sequence[CohortSlide]) -> tuple[TrainingSlide, ...]:
    """Deal the labels so that slides of every level get the same mixture of them.

    A plain shuffle of 120 labels leaves a correlation by chance, which a network is glad to learn.
    """
    order = sorted(range(len(members)), key=lambda i: (members[i].shown, i))
    labels = sorted((m.slide.case for m in members), key=lambda case: case.stratum)
    stride = next(k for k in range(int(0.618 * len(members)), len(members)) if np.gcd(k, len(members)) == 1)
    dealt = {}
    for position, index in enumerate(order):
        own, other = members[index].slide, labels[position * stride % len(members)]
        dealt[index] = replace(own, case=replace(own.case, ihc=other.ihc, ish=other.ish, status=other.status))
    return tuple(dealt[index] for index in range(len(members)))


def run(job: Job) -> Answers:
    """Train, and score the held-out slides with what came of it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    trained = train_folds(
        job.training,
        job.plan,
        TrainOptions(
            backbone="test_resnet",
            head=job.head,
            target=job.target,
            patch_px=32,
            mpp=0.485,
            pretrained=False,
            epochs=job.epochs,
            composites_per_slide=2,
            batch=8,
            micro_batch=8,
            lr=3e-3,
            validate_every=0,
            final_composites=COMPOSITES,
            checkpoint_every=1000,
            precision="fp32",
        ),
        job.folder,
        name=job.name,
        trained_on="a synthetic cohort",
        processes=Processes(0, 1, torch.device("cpu")),
        resources=Resources(workers=1, threads=1, preload=True),
    )
    with Scorer.load(trained.model, Compute("cpu", "fp32"), 1) as scorer:
        predictions = [predict(slide, scorer) for slide in job.held_out]
    p, called = (np.array(values) for values in zip(*predictions, strict=True))
    groups = trained.evaluation.by_laboratory if trained.evaluation else ()
    return Answers(
        job.name,
        time.perf_counter() - start,
        p,
        called,
        tuple(
            f"{g.name}: {g.cases} slides, F1 {g.f1.value:.3f} ({g.f1.low:.3f} to {g.f1.high:.3f}), "
            f"AUC {g.auc.value:.3f} ({g.auc.low:.3f} to {g.auc.high:.3f})"
            for g in groups
            if job.plan.split == "laboratories"
        ),
    )


def predict(slide: TrainingSlide, scorer: Scorer) -> tuple[float, bool]:
    """Score a slide inside its tumour, as ``herohe-bridge score`` does."""
    with Slide(slide.path) as source:
        drawn = Annotation("tumour", "", "Tumor", slide.geometry)
        regions = build_regions(
            [drawn], region_classes=["Tumor"], exclude_classes=[], slide_box=source.bounds
        )
        options = ScoreOptions(composites=COMPOSITES)
        result = score_slide(source, regions, options, scorer, entry=slide.name, slide=slide.name)
    if result.union is None or result.union.prediction is None:
        raise RuntimeError(f"{slide.name}: {result.outcome}")
    prediction = result.union.prediction
    return prediction.p_positive, prediction.status == "HER2-positive"


def compare(answers: dict[str, Answers], truth: NDArray[np.bool_]) -> list[str]:
    """Print the table; return what is not as it must be."""
    everything = np.ones_like(truth)
    measures = {"always": lambda w: f1_score(truth, everything, w)}
    for name, answer in answers.items():
        measures[name] = lambda w, a=answer: f1_score(truth, a.called, w)
        measures[f"{name} AUC"] = lambda w, a=answer: roc_auc(truth, a.p, w)
    drawn = bootstrap(measures, len(truth))
    low, high = interval(drawn["always"])
    print(f"{len(truth)} held-out slides, {truth.sum()} HER2-positive, labels 4% wrong on both sides")
    print(f"{'':20s} F1 (95%)                AUC (95%)               s")
    print(f"{'always positive':20s} {f1_score(truth, everything):.3f} ({low:.3f} to {high:.3f})")
    failures = []
    for name, answer in answers.items():
        f1, auc = f1_score(truth, answer.called), roc_auc(truth, answer.p)
        own, area = interval(drawn[name]), interval(drawn[f"{name} AUC"])
        figures = f"{f1:.3f} ({own[0]:.3f} to {own[1]:.3f})  {auc:.3f} ({area[0]:.3f} to {area[1]:.3f})"
        print(f"{name:20s} {figures}  {answer.seconds:.0f}")
        if name == "shuffled labels":
            failures += ["the shuffled control is better than chance"] if area[0] > 0.5 else []
        elif own[0] <= high:
            failures.append(f"{name}: F1 from {own[0]:.3f} overlaps always-positive up to {high:.3f}")
    for head in ("free", "ordered"):
        gain = drawn[f"4-bit {head}"] - drawn[f"3-bit {head}"]
        better = interval(gain)
        print(f"4-bit over 3-bit, {head}: F1 {gain.mean():+.3f} ({better[0]:+.3f} to {better[1]:+.3f})")
        failures += [f"4 bits do not beat 3 ({head})"] if better[0] <= 0 else []
    print("Out of fold, one laboratory left out:")
    for line in answers["laboratory left out"].laboratories:
        print(f"  {line}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
