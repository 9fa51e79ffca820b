from __future__ import annotations

import numpy as np
import pytest

from herohe_model.evaluation.leaderboard import (
    ALWAYS_POSITIVE,
    LEADERBOARD,
    NEGATIVES,
    POSITIVES,
    Standing,
    counts_interval,
    counts_of,
    place,
)
from herohe_model.evaluation.metrics import f1_score, precision, recall, roc_auc

BY_TEAM = {standing.team: standing for standing in LEADERBOARD}


def answers(counts: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([1, 0, 1, 0], counts) == 1, np.repeat([1, 1, 0, 0], counts) == 1


@pytest.mark.parametrize("standing", LEADERBOARD, ids=lambda standing: standing.team)
def test_a_teams_figures_follow_from_counts_to_five_digits(standing: Standing) -> None:
    tp, fp, fn, tn = counts_of(standing)
    assert fp + tn == NEGATIVES and tp + fn == (57 if standing.team == "katherandco" else POSITIVES)
    truth, called = answers((tp, fp, fn, tn))
    assert round(float(precision(truth, called)), 5) == standing.precision
    assert round(float(recall(truth, called)), 5) == standing.recall
    assert round(float(f1_score(truth, called)), 5) == standing.f1


def test_the_winner_has_fifty_hits_and_thirty_eight_false_alarms() -> None:
    assert counts_of(BY_TEAM["Macaroon"]) == (50, 38, 10, 52)


def test_calling_every_slide_positive_gives_all_figures_of_that_team() -> None:
    team = BY_TEAM[ALWAYS_POSITIVE]
    truth = np.arange(150) < 60
    called = np.ones(150, dtype=bool)
    figures = [
        roc_auc(truth, called),
        precision(truth, called),
        recall(truth, called),
        f1_score(truth, called),
    ]
    assert [round(float(v), 5) for v in figures] == [team.auc, team.precision, team.recall, team.f1]
    assert team == Standing(ALWAYS_POSITIVE, 0.5, 0.4, 1.0, 0.57143)


def test_a_perfect_ihc_grade_alone_is_not_enough() -> None:
    """On the training counts: 43 at 0, 47 at 1+, 230 at 2+ (104 positive), 39 at 3+."""
    truth = np.repeat([0, 0, 0, 1, 1], [43, 47, 126, 104, 39]) == 1
    grade = np.repeat([0, 1, 2, 2, 3], [43, 47, 126, 104, 39])
    assert round(float(f1_score(truth, grade >= 2)), 3) == 0.694
    assert round(float(f1_score(truth, grade >= 3)), 3) == 0.429


def test_the_board_is_in_the_order_of_its_f1() -> None:
    assert len(LEADERBOARD) == len(BY_TEAM) == 21
    assert [s.f1 for s in LEADERBOARD] == sorted((s.f1 for s in LEADERBOARD), reverse=True)


def test_the_winners_interval_is_wide() -> None:
    low, high = counts_interval(counts_of(BY_TEAM["Macaroon"]))
    assert low == pytest.approx(0.585, abs=0.01) and high == pytest.approx(0.758, abs=0.01)


@pytest.mark.parametrize(
    ("f1", "rank"), [(1.0, 1), (0.67569, 1), (0.67568, 1), (0.67567, 2), (0.57143, 10), (0.3, 21), (0.0, 22)]
)
def test_a_result_stands_below_those_with_a_higher_f1(f1: float, rank: int) -> None:
    assert place(f1).rank == rank


def test_a_place_says_how_little_it_means() -> None:
    here = place(0.62, 0.52, 0.71)
    assert (here.rank, here.best_rank, here.worst_rank) == (6, 1, 13)
    assert "Macaroon" in here.alike and ALWAYS_POSITIVE in here.alike and "uc_csse" not in here.alike


def test_without_an_interval_that_of_the_challenges_slides_is_taken() -> None:
    here = place(BY_TEAM["Macaroon"].f1)
    assert here.low < here.f1 < here.high
    assert here.high - here.low == pytest.approx(0.19, abs=0.05)
    assert place(0.0).low == 0.0 and place(1.0).high == 1.0
