"""What calls and probabilities are worth where somebody decides by them, at a prevalence that is stated.

Sensitivity and specificity are taken from the cases; how often HER2-positive comes is stated. HEROHE has 40%,
practice 15 to 20%: predictive values and net benefit of one do not hold for the other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.evaluation.bootstrap import Z95
from herohe_model.evaluation.metrics import Floats
from herohe_model.evaluation.schema import DecisionPoint, Predictive
from herohe_model.model.calibration import NEGATIVE, POSITIVE

_GRID: Final = np.arange(1, 100) / 100
_DECIMALS: Final = 6


def decision_curve(truth: NDArray[np.bool_], p: Floats, prevalence: float) -> tuple[DecisionPoint, ...]:
    """Return the net benefit of treating who reaches a threshold, and of treating all.

    Parameters
    ----------
    truth, p
        Shape (cases,), with cases of both kinds.
    prevalence
        Share of positive cases where one decides.

    Notes
    -----
    Vickers & Elkin 2006, *Medical Decision Making* 26:565: true positives less false ones, weighted by the
    odds of the threshold, as a share of all; to treat nobody is worth 0.
    """
    points = []
    for threshold in _GRID.tolist():
        odds = threshold / (1 - threshold)
        sensitivity, false_alarms = (
            float((p[truth] >= threshold).mean()),
            float((p[~truth] >= threshold).mean()),
        )
        points.append(
            DecisionPoint(
                threshold,
                prevalence * sensitivity - (1 - prevalence) * false_alarms * odds,
                prevalence - (1 - prevalence) * odds,
            )
        )
    return tuple(points)


def predictive_values(tp: int, fp: int, fn: int, tn: int, prevalence: float) -> tuple[Predictive, ...]:
    """Return PPV and NPV at a prevalence, with 95% intervals.

    Parameters
    ----------
    tp, fp, fn, tn
        Counts of the cases, both kinds at least one.

    Notes
    -----
    By Bayes from the likelihood ratio, whose interval is Simel's (1991, *Journal of Clinical Epidemiology*
    44:763) with half a case added to each count, so that it is defined where one of them is 0.
    """
    odds = prevalence / (1 - prevalence)

    def of(name: str, prior: float, hits: int, misses: int, alarms: int, rests: int) -> Predictive:
        # Shares of the one kind and of the other that are called so.
        a, b = hits / (hits + misses), alarms / (alarms + rests)
        value = None if a == b == 0 else prior * a / (prior * a + b)
        h, m, f, r = hits + 0.5, misses + 0.5, alarms + 0.5, rests + 0.5
        middle = np.log(h / (h + m)) - np.log(f / (f + r))
        half = Z95 * np.sqrt(1 / h - 1 / (h + m) + 1 / f - 1 / (f + r))
        low, high = (prior * np.exp([middle - half, middle + half])).tolist()
        ends = (low / (1 + low), high / (1 + high))
        if value is None:
            return Predictive(name, None, None, None)
        return Predictive(name, value, min(ends[0], value), max(ends[1], value))

    return (of("PPV", odds, tp, fn, fp, tn), of("NPV", 1 / odds, tn, fp, fn, tp))


def call_rates(
    truth: NDArray[np.bool_], called: NDArray[np.object_], prevalence: float | None
) -> dict[str, float | None]:
    """Return how the three calls fall; shares of the cases, or of their class.

    ``share_saved`` is the share that needs no IHC because it is likely negative, ``positives_missed`` the
    number of positives among them. Predictive values and shares of all are those at the prevalence; with
    None, at the cases' own.
    """
    negative, positive = called == NEGATIVE, called == POSITIVE
    at = float(truth.mean()) if prevalence is None else prevalence

    def of(which: NDArray[np.bool_]) -> tuple[float, float]:
        return float(which[truth].mean()), float(which[~truth].mean())

    missed, ruled_out = of(negative)
    found, false_alarm = of(positive)
    saved = at * missed + (1 - at) * ruled_out
    alarms = at * found + (1 - at) * false_alarm
    rates: dict[str, float | None] = {
        "cases": float(len(truth)),
        "positive": float(truth.sum()),
        "positives_missed": float((negative & truth).sum()),
        "rule_out_sensitivity": 1 - missed,
        "ruled_out_of_negative": ruled_out,
        "rule_in_specificity": 1 - false_alarm,
        "ruled_in_of_positive": found,
        "prevalence": at,
        "share_saved": saved,
        "share_uncertain": 1 - saved - alarms,
        "npv": (1 - at) * ruled_out / saved if saved else None,
        "ppv": at * found / alarms if alarms else None,
    }
    return {name: None if value is None else round(value, _DECIMALS) for name, value in rates.items()}
