"""Whether what a model says holds on slides that it has never seen: calibration, calls, and the stated F1.

Draws logits of cases with a known chance of being positive (tests/helpers/simulated_logits.py: five networks
that err each for itself, eight composites), and has the product choose calibration, threshold and call on
those that its networks have not seen. Then 4,000 new cases are scored by the shipped ensemble, as ``score``
makes probabilities and calls of logits. Prints, over the seeds,

- the calibration slope of what is shipped, beside that of a line fitted on single networks,
- how many slides the two thresholds get wrong on new cases of which 15% are positive,
- by how much the stated F1 is above that on new cases, beside the F1 at the threshold's own cases.

With --train, also once through real training: nested folds of a small network on synthetic slides, scored as
``score`` does on others.

    python tests/benchmarks/calibration.py [--seeds 50] [--cases 360] [--train [--slides 90]] [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.simulated_logits import simulated, statuses
from helpers.synthetic_cohort import make_cohort, train_on_cohort
from numpy.typing import NDArray

from bridge.annotations.regions import Annotation, build_regions
from bridge.scoring.options import ScoreOptions
from bridge.scoring.slide import score_slide
from herohe_model.engines.scorer import Scorer
from herohe_model.evaluation.metrics import f1_score
from herohe_model.evaluation.out_of_fold import OutOfFold
from herohe_model.model.calibration import NEGATIVE, POSITIVE
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute
from herohe_model.model.probabilities import slide_probabilities
from herohe_model.slides.slide import Slide
from herohe_model.training.calibrate import UnseenLogits, calibrate, calibration_slope
from herohe_model.training.choose import Chosen, choose_nested
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.options import CallOptions

NEW = 4000
PREVALENCE = 0.15
ISH = ">=2+/ISH+"


@dataclass(frozen=True)
class Found:
    """What one seed shows."""

    slope: float
    single_slope: float
    missed: float
    false_alarms: float
    npv: float
    stated_npv: float
    saved: float
    optimism: float
    own_optimism: float


def main() -> int:
    """Simulate, print, and return 1 when something does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--cases", type=int, default=360)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--slides", type=int, default=90, help="to train on, and as many to score")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    found = [simulate(seed, options.cases) for seed in range(options.seeds)]
    slopes = np.array([f.slope for f in found])
    within = float(np.mean((slopes >= 0.8) & (slopes <= 1.25)))
    missed, alarms = np.mean([f.missed for f in found]), np.mean([f.false_alarms for f in found])
    optimism = float(np.mean([f.optimism for f in found]))
    print(f"{options.seeds} seeds, {options.cases} cases, {NEW} new ones each")
    print(f"calibration slope, shipped: {_spread(slopes)}; within 0.8 to 1.25: {within:.0%}")
    print(f"the same, line of single networks: {_spread([f.single_slope for f in found])}")
    print(
        f"at a prevalence of {PREVALENCE:.0%}: positives called likely negative {missed:.4f} (0.05 allowed)"
    )
    print(f"    negatives called likely positive {alarms:.4f} (0.05 allowed)")
    print(
        f"    NPV {np.mean([f.npv for f in found]):.4f}, stated {np.mean([f.stated_npv for f in found]):.4f}"
    )
    print(f"    share of IHC saved {np.mean([f.saved for f in found]):.3f}")
    print(
        f"optimism of the stated F1 {optimism:+.4f}; at the threshold's own cases "
        f"{np.mean([f.own_optimism for f in found]):+.4f}"
    )
    holds = 0.8 <= np.median(slopes) <= 1.25 and missed <= 0.055 and alarms <= 0.055 and optimism < 0.005
    if options.train:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            holds = train(Path(folder), options.slides) and holds
    return 0 if holds else 1


def _spread(values: object) -> str:
    low, middle, high = np.quantile(np.asarray(values), [0.025, 0.5, 0.975])
    return f"median {middle:.3f} (95% of seeds {low:.3f} to {high:.3f})"


def simulate(seed: int, cases: int) -> Found:
    """Choose on some cases, and judge on others."""
    unseen = simulated(cases, seed=seed)
    chosen = choose(unseen)
    single = replace(unseen, logits=tuple(z[:, :1] for z in unseen.logits))
    card = card_of(chosen)
    line = {ISH: calibrate(single).lines[ISH]}
    new, rare = simulated(NEW, seed=10_000 + seed), simulated(NEW, seed=20_000 + seed, prevalence=PREVALENCE)
    truth, p = statuses(new), probabilities(new, card)[:, 0]
    single_p = probabilities(new, card_of(replace(chosen, lines=line)))[:, 0]
    assert chosen.call is not None
    low, high = probabilities(rare, card)[:, 1:].T
    called = np.array([chosen.call.call(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)])
    positive = statuses(rare)
    cleared = called == NEGATIVE
    stated = chosen.call.out_of_fold
    new_f1 = float(f1_score(truth, p >= chosen.threshold.value))
    known = np.array([case.positive is True for case in chosen.cases])
    return Found(
        slope=slope_of(truth, p),
        single_slope=slope_of(truth, single_p),
        missed=float(cleared[positive].mean()),
        false_alarms=float((called == POSITIVE)[~positive].mean()),
        npv=float((~positive[cleared]).mean()) if cleared.any() else np.nan,
        stated_npv=stated["npv"] or np.nan,
        saved=float(cleared.mean()),
        optimism=float(f1_score(known, chosen.predictions.called)) - new_f1,
        own_optimism=chosen.threshold.f1 - new_f1,
    )


def choose(unseen: UnseenLogits) -> Chosen:
    """Have the product choose everything, as after a training."""
    keys = [case.key for case in unseen.cases]
    folds = unseen.folds.tolist()
    seen = {f: frozenset(key for key, g in zip(keys, folds, strict=True) if g != f) for f in set(folds)}
    oof = OutOfFold(
        cases=unseen.cases,
        logits=tuple(z.mean(axis=1) for z in unseen.logits),
        trained_on=tuple(seen[f] for f in folds),
        target=unseen.target,
        positive_step=ISH,
    )
    chosen = choose_nested(oof, unseen, CallOptions(prevalence=PREVALENCE), print)
    assert chosen is not None
    return chosen


def card_of(chosen: Chosen) -> ModelCard:
    """Return the card that scoring would read."""
    return ModelCard(
        name="simulated",
        backbone="test_resnet",
        head="ordered",
        target="ihc+ish",
        mpp=0.5,
        foreground_threshold=0.07,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=ISH,
        learned=(ISH,),
        calibration={ISH: chosen.lines[ISH]},
        call=chosen.call,
        decision_threshold=chosen.threshold.value,
    )


def probabilities(cases: UnseenLogits, card: ModelCard) -> NDArray[np.float64]:
    """Return P(positive) and the ends of its spread, as scoring makes them: (cases, 3)."""
    found = [slide_probabilities(z, card) for z in cases.logits]
    return np.array([(f.slide[f.steps.index(ISH)], f.low, f.high) for f in found])


def slope_of(truth: NDArray[np.bool_], p: NDArray[np.float64]) -> float:
    """Return the calibration slope; not a number where it is not defined."""
    found = calibration_slope(truth, p)
    return np.nan if found is None else found[0]


def train(folder: Path, slides: int) -> bool:
    """Train nested folds on synthetic slides, and score others with what is shipped."""
    (folder / "training").mkdir()
    (folder / "new").mkdir()
    training = [m.slide for m in make_cohort(folder / "training", slides, seed=1)]
    new = [m.slide for m in make_cohort(folder / "new", slides, seed=2)]
    plan = FoldPlan("folds", 3, nested=True)
    model = train_on_cohort(training, plan, folder / "run", name="calibration", epochs=10)
    truth, p, calls = [], [], []
    with Scorer.load(model, Compute("cpu", "fp32", "torch"), 1) as scorer:
        card = scorer.info.card
        for slide in new:
            with Slide(slide.path) as source:
                annotation = Annotation("a", "tumour", "Tumor", slide.geometry)
                regions = build_regions(
                    [annotation], region_classes=("Tumor",), exclude_classes=(), slide_box=source.bounds
                )
                result = score_slide(source, regions, ScoreOptions(composites=4), scorer)
            prediction = result.union.prediction if result.union is not None else None
            if prediction is not None and slide.case.positive is not None:
                truth.append(slide.case.positive)
                p.append(prediction.p_positive)
                calls.append(prediction.call)
    yes, called = np.array(truth), np.array(calls)
    line = card.calibration[card.positive_step]
    print(f"real training: {len(training)} slides, {card.members} members; {len(yes)} new slides scored")
    print(f"    line {line.slope:.3f} z {line.intercept:+.3f}; held-out slope {line.held_out_slope}")
    print(f"    calibration slope on new slides {slope_of(yes, np.array(p)):.3f}")
    print(
        f"    F1 {float(f1_score(yes, np.array(p) >= card.decision_threshold)):.3f}, stated "
        f"{card.metrics['out_of_fold']['status']['f1']['value']:.3f}"
    )
    print(
        f"    positives called likely negative {int((called[yes] == NEGATIVE).sum())} of {int(yes.sum())}, "
        f"negatives called likely positive {int((called[~yes] == POSITIVE).sum())} of {int((~yes).sum())}"
    )
    return bool(calls) and all(calls)


if __name__ == "__main__":
    sys.exit(main())
