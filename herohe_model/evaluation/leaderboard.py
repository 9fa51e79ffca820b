"""The challenge's public leaderboard, and where a result would stand in it.

150 test slides, 60 HER2-positive and 90 HER2-negative; ranked by F1 of the positive class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from herohe_model.evaluation.bootstrap import RESAMPLES, bootstrap, interval
from herohe_model.evaluation.metrics import f1_score

POSITIVES: Final = 60
NEGATIVES: Final = 90
ALWAYS_POSITIVE: Final = "MIRL"
"""The team whose figures are those of calling every slide positive."""

CAVEATS: Final = (
    "The board's test set has 150 slides: the 95% bootstrap interval of the winner's F1 reaches from 0.58 to "
    "0.76, so most of the first ranks cannot be told apart, and neither can a rank here.",
    "A place holds for the challenge's test slides alone; a threshold or model chosen on them has no place.",
    "HEROHE is enriched: 40% of its cases are positive, in general 15 to 20% are. Precision, F1 and "
    "predictive values do not transfer to other prevalences.",
    "2+ is equivocal and needs reflex ISH (ASCO/CAP 2018 and 2023). Research use only.",
)


@dataclass(frozen=True)
class Standing:
    """A team and its published figures, of five decimals."""

    team: str
    auc: float
    precision: float
    recall: float
    f1: float


LEADERBOARD: Final = (
    Standing("Macaroon", 0.70556, 0.56818, 0.83333, 0.67568),
    Standing("MITEL", 0.74426, 0.58025, 0.78333, 0.66667),
    Standing("Piaz", 0.84389, 0.76744, 0.55000, 0.64078),
    Standing("Dratur", 0.74778, 0.56757, 0.70000, 0.62687),
    Standing("irisai", 0.66676, 0.57971, 0.66667, 0.62016),
    Standing("Arontier_HYY", 0.72167, 0.52381, 0.73333, 0.61111),
    Standing("KDE", 0.62093, 0.51136, 0.75000, 0.60811),
    Standing("joangibert14", 0.66056, 0.48454, 0.78333, 0.59873),
    Standing("visilab", 0.62676, 0.50575, 0.73333, 0.59864),
    Standing("MIRL", 0.50000, 0.40000, 1.00000, 0.57143),
    Standing("aetherAI", 0.66037, 0.49383, 0.66667, 0.56738),
    Standing("NCIC", 0.62667, 0.52113, 0.61667, 0.56489),
    Standing("biocenas", 0.57407, 0.46377, 0.53333, 0.49612),
    Standing("HEROH", 0.59259, 0.45714, 0.53333, 0.49231),
    Standing("Reza_Mohebbian", 0.60583, 0.50980, 0.43333, 0.46847),
    Standing("mindmork", 0.62759, 0.53488, 0.38333, 0.44660),
    Standing("Institute_of_Pathology_Graz", 0.62574, 0.50000, 0.38333, 0.43396),
    Standing("katherandco", 0.44152, 0.44231, 0.40351, 0.42202),
    Standing("QUILL", 0.63148, 0.50000, 0.33333, 0.40000),
    Standing("HEROHE_Challenge", 0.48333, 0.37209, 0.26667, 0.31068),
    Standing("uc_csse", 0.47315, 0.31373, 0.26667, 0.28829),
)


@dataclass(frozen=True)
class Place:
    """Where an F1 would stand.

    Attributes
    ----------
    rank
        One more than there are teams with a higher F1.
    teams
        Teams on the board.
    best_rank, worst_rank
        The ranks of the ends of the F1's interval.
    alike
        Teams whose own interval reaches into that of the F1.
    """

    f1: float
    low: float
    high: float
    rank: int
    teams: int
    best_rank: int
    worst_rank: int
    alike: tuple[str, ...]


def place(f1: float, low: float | None = None, high: float | None = None) -> Place:
    """Say where an F1 would stand on the board.

    Parameters
    ----------
    low, high
        Its 95% interval; without one, that of a result with the same F1 on the challenge's 150 slides and as
        many false positives as false negatives.
    """
    if low is None or high is None:
        low, high = counts_interval(_balanced(f1))
    alike = tuple(
        standing.team
        for standing in LEADERBOARD
        if _overlap(counts_interval(counts_of(standing)), (low, high))
    )
    return Place(f1, low, high, _rank(f1), len(LEADERBOARD), _rank(high), _rank(low), alike)


@cache
def counts_of(standing: Standing) -> tuple[int, int, int, int]:
    """Return the counts (TP, FP, FN, TN) that a team's precision and recall follow from.

    They are the only ones for the most positive slides that fit, up to 60; one team did not hand in all
    slides. For such a team, TN counts the other slides of the 150 as if it had called them negative.
    """
    for positives in range(POSITIVES, 0, -1):
        tp = round(standing.recall * positives)
        if round(tp / positives, 5) != standing.recall:
            continue
        for called in range(max(tp, 1), tp + NEGATIVES + 1):
            if round(tp / called, 5) == standing.precision:
                return (tp, called - tp, positives - tp, NEGATIVES - (called - tp))
    raise ValueError(f"No counts give the figures of {standing.team}")


@cache
def counts_interval(
    counts: tuple[int, int, int, int], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the F1 that counts (TP, FP, FN, TN) give."""
    tp, fp, fn, tn = counts
    truth = np.repeat([True, False, True, False], [tp, fp, fn, tn])
    called = np.repeat([True, True, False, False], [tp, fp, fn, tn])
    drawn = bootstrap(
        {"f1": lambda w: f1_score(truth, called, w)}, len(truth), resamples=resamples, seed=seed
    )
    return interval(drawn["f1"])


def _rank(f1: float) -> int:
    # The board has five decimals; so has what is compared with it.
    return 1 + sum(standing.f1 > round(f1, 5) for standing in LEADERBOARD)


def _balanced(f1: float) -> tuple[int, int, int, int]:
    """Return counts of the 150 slides whose F1 is nearest to one, with equal FP and FN."""
    tp = round(min(max(f1, 0.0), 1.0) * POSITIVES)
    wrong = POSITIVES - tp
    return (tp, wrong, wrong, NEGATIVES - wrong)


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
