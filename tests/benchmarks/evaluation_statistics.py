"""Do the intervals of an evaluation hold? Synthetic cohorts of known truth, by hand.

    python tests/benchmarks/evaluation_statistics.py

Coverage is the share of cohorts whose 95% interval holds the value that the model behind them has; 0.92 is
wanted. On shuffled labels it counts how often the gain over calling all positive is above 0; controls are
counted on cohorts whose laboratory goes with the label, and on others.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from herohe_model.evaluation.bootstrap import wilson
from herohe_model.evaluation.confounding import control
from herohe_model.evaluation.differences import auc_difference, f1_difference
from herohe_model.evaluation.intervals import auc_interval, f1_interval
from herohe_model.evaluation.measures import status_measures
from herohe_model.evaluation.metrics import count
from herohe_model.training.calibrate import calibration_slope

SEEDS = 50
COHORTS = 2000
PREVALENCE = 0.4
SKILLS = (0.7, 1.5, 2.5)
"""Distance of the positive cases' mean score, in standard deviations: AUC 0.69, 0.86 and 0.96."""


def cohort(n: int, skill: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.random(n) < PREVALENCE
    return truth, rng.normal(skill * truth, 1)


def holds(interval: tuple[float, float], value: float) -> float:
    """Whether an interval holds a value; NaN where there is none."""
    return float("nan") if np.isnan(interval).any() else float(interval[0] <= value <= interval[1])


def coverage() -> None:
    print(
        f"coverage of {COHORTS} cohorts\nn    skill  AUC    F1     sens.  spec.  "
        "difference of AUC, F1; the same of scores much alike"
    )
    normal = NormalDist()
    for n in (20, 60, 150):
        for skill in SKILLS:
            rng = np.random.default_rng(n)
            auc = normal.cdf(skill / 2**0.5)
            sensitivity = specificity = normal.cdf(skill / 2)
            hits = PREVALENCE * sensitivity
            f1 = 2 * hits / (hits + (1 - PREVALENCE) * (1 - specificity) + PREVALENCE)
            found: list[tuple[float, ...]] = []
            while len(found) < COHORTS:
                truth, score = cohort(n, skill, rng)
                if not 2 <= truth.sum() <= n - 2:
                    continue
                pairs = []
                # Of another model, and of nearly the same.
                for noise in (1.0, 0.3):
                    weaker = score + rng.normal(0, noise, n)
                    spread = (1 + noise**2) ** 0.5
                    less = normal.cdf(skill / 2 / spread)
                    called = PREVALENCE * less
                    less_f1 = 2 * called / (called + (1 - PREVALENCE) * (1 - less) + PREVALENCE)
                    d = auc_difference(truth, score, weaker)
                    pairs.append(holds((d.low, d.high), auc - normal.cdf(skill / 2**0.5 / spread)))
                    d = f1_difference(truth, score >= skill / 2, weaker >= skill / 2)
                    pairs.append(holds((d.low, d.high), f1 - less_f1))
                c = count(truth, score >= skill / 2)
                tp, fp, fn, tn = (int(x) for x in (c.tp, c.fp, c.fn, c.tn))
                found.append(
                    (
                        holds(auc_interval(truth, score), auc),
                        holds(f1_interval(tp, fp, fn), f1),
                        holds(wilson(tp, tp + fn), sensitivity),
                        holds(wilson(tn, tn + fp), specificity),
                        *pairs,
                    )
                )
            print(f"{n:<4} {skill:<6} " + "  ".join(f"{x:.3f}" for x in np.nanmean(found, axis=0)))


def shuffled() -> None:
    above = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        truth, score = cohort(150, 1.5, rng)
        rng.shuffle(truth)
        p = 1 / (1 + np.exp(-score))
        f1 = status_measures(truth, p >= 0.5, p)[0]
        above += (f1.trivial[0].gain_low or 0.0) > 0
    print(f"shuffled labels: gain of F1 over always-positive above 0 in {above} of {SEEDS}")


def controls() -> None:
    for told in (0.0, 0.3, 0.6):
        raised = 0
        for seed in range(200):
            rng = np.random.default_rng(seed)
            truth = rng.random(150) < PREVALENCE
            anywhere = rng.integers(3, size=150)
            where = np.where(rng.random(150) < told, np.where(truth, 0, 1), anywhere)
            found = control("laboratory", [str(k) for k in where], truth, seed=seed)
            raised += found is not None and found.flagged
        print(f"laboratory that goes with the label in {told:.0%}: flag raised in {raised} of 200")


def slopes() -> None:
    """Calibration slope and intercept beside statsmodels, where it is installed; it is no dependency."""
    try:
        import statsmodels.api as sm
    except ImportError:
        print("calibration slope: statsmodels is not installed, nothing is compared")
        return
    furthest = 0.0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        truth, score = cohort(150, 1.5, rng)
        p = 1 / (1 + np.exp(-score))
        found = calibration_slope(truth, p)
        assert found is not None
        binomial = {"family": sm.families.Binomial()}
        line = sm.GLM(truth.astype(float), np.column_stack([score, np.ones(150)]), **binomial).fit()
        level = sm.GLM(truth.astype(float), np.ones((150, 1)), offset=score, **binomial).fit()
        apart = (found[0] - line.params[0], found[1] - level.params[0])
        furthest = max(furthest, *map(abs, apart))
    print(
        f"calibration slope and intercept, at most so far from statsmodels in {SEEDS} cohorts: {furthest:.1e}"
    )


if __name__ == "__main__":
    slopes()
    shuffled()
    controls()
    coverage()
