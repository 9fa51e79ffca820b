from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from herohe_model.grades import (
    GRADES,
    Target,
    bit_probabilities,
    bits_of_level,
    expected_grade,
    grade_of,
    ihc_probabilities,
    level_probabilities,
    monotone,
    status_of,
)

BOTH = pytest.mark.parametrize("target", list(Target))


def pool_adjacent_violators(values: NDArray[np.float64]) -> list[float]:
    """Isotonic regression by the textbook's algorithm, to check the closed formula against."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    return [mean for mean, count in blocks for _ in range(count)]


@pytest.mark.parametrize(
    ("grade", "bits"), [("0", (0, 0, 0)), ("1+", (0, 0, 1)), ("2+", (0, 1, 1)), ("3+", (1, 1, 1))]
)
def test_ihc_grades_have_the_teams_bits(grade: str, bits: tuple[int, ...]) -> None:
    assert bits_of_level(grade, Target.IHC) == bits


@pytest.mark.parametrize(
    ("level", "bits"),
    [
        ("0", (0, 0, 0, 0)),
        ("1+", (0, 0, 0, 1)),
        ("2+/ISH-", (0, 0, 1, 1)),
        ("2+/ISH+", (0, 1, 1, 1)),
        ("3+", (1, 1, 1, 1)),
    ],
)
def test_ish_divides_2_plus(level: str, bits: tuple[int, ...]) -> None:
    assert bits_of_level(level, Target.IHC_ISH) == bits


def test_a_level_of_another_target_has_no_bits() -> None:
    with pytest.raises(ValueError, match="'2\\+' is none of 0, 1\\+, 2\\+/ISH-"):
        bits_of_level("2+", Target.IHC_ISH)


@BOTH
def test_every_level_comes_back_from_its_own_bits(target: Target) -> None:
    for rank, level in enumerate(target.levels):
        levels = level_probabilities(bits_of_level(level, target))
        assert levels.tolist() == [float(i == rank) for i in range(len(target.levels))]


@BOTH
def test_there_is_one_level_more_than_steps_and_the_positive_step_is_one_of_them(target: Target) -> None:
    assert len(target.levels) == len(target.steps) + 1
    assert target.default_positive_step in target.steps


def test_only_ish_positive_2_plus_is_her2_positive_where_ish_is_known() -> None:
    bit = Target.IHC_ISH.steps.index(Target.IHC_ISH.default_positive_step)
    positive = [level for level in Target.IHC_ISH.levels if bits_of_level(level, Target.IHC_ISH)[bit]]
    assert positive == ["2+/ISH+", "3+"]


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_monotone_is_isotonic_regression(bits: int) -> None:
    p = np.random.default_rng(1).random((500, bits))
    expected = [pool_adjacent_violators(row) for row in p]
    np.testing.assert_allclose(monotone(p), expected, rtol=0, atol=1e-12)


def test_monotone_never_decreases_not_even_by_a_rounding_error() -> None:
    p = np.random.default_rng(2).random((20_000, 4))
    p[::2] = np.round(p[::2], 1)
    q = monotone(p)
    assert (np.diff(q, axis=-1) >= 0).all()
    assert q.min() >= 0.0
    assert q.max() <= 1.0


def test_monotone_leaves_what_is_in_order() -> None:
    p = np.sort(np.random.default_rng(3).random((100, 4)), axis=-1)
    np.testing.assert_allclose(monotone(p), p, rtol=0, atol=1e-12)


def test_monotone_takes_any_leading_shape() -> None:
    p = np.random.default_rng(4).random((2, 5, 3))
    assert monotone(p).shape == (2, 5, 3)
    np.testing.assert_array_equal(monotone(p)[1, 2], monotone(p[1, 2]))


def test_bit_probabilities_are_sigmoids_of_logits_over_the_temperature() -> None:
    q = bit_probabilities([-2.0, 0.0, 4.0], temperature=2.0)
    np.testing.assert_allclose(q, 1 / (1 + np.exp([1.0, 0.0, -2.0])))


def test_extreme_logits_saturate_without_a_warning() -> None:
    q = bit_probabilities([-1e30, 0.0, np.inf])
    assert q[0] < 1e-20
    assert q[1] == pytest.approx(0.5)
    assert q[2] == 1.0


def test_a_logit_that_is_no_number_is_refused_instead_of_read_as_grade_0() -> None:
    with pytest.raises(ValueError, match="not a number"):
        bit_probabilities([0.0, np.nan, 1.0])


@BOTH
def test_probabilities_of_the_levels_sum_to_1_and_none_is_negative(target: Target) -> None:
    logits = np.random.default_rng(5).normal(scale=4, size=(2_000, len(target.steps)))
    levels = level_probabilities(bit_probabilities(logits))
    assert levels.shape == (2_000, len(target.levels))
    assert (levels >= 0).all()
    np.testing.assert_allclose(levels.sum(axis=-1), 1.0, rtol=0, atol=1e-12)


def test_ihc_probabilities_are_read_from_either_target() -> None:
    assert ihc_probabilities([0.1, 0.4, 0.9], Target.IHC.steps) == {"1+": 0.9, "2+": 0.4, "3+": 0.1}
    assert ihc_probabilities([0.1, 0.2, 0.4, 0.9], Target.IHC_ISH.steps) == {"1+": 0.9, "2+": 0.4, "3+": 0.1}


def test_probabilities_of_another_target_are_refused() -> None:
    with pytest.raises(ValueError):
        ihc_probabilities([0.1, 0.2, 0.4, 0.9], Target.IHC.steps)


@pytest.mark.parametrize(
    ("q", "grade"),
    [
        ((0.0, 0.0, 0.0), "0"),
        ((0.49, 0.49, 0.49), "0"),
        ((0.1, 0.2, 0.5), "1+"),
        ((0.1, 0.5, 0.9), "2+"),
        ((0.5, 0.5, 0.5), "3+"),
    ],
)
def test_the_grade_is_the_highest_reached_with_one_half(q: tuple[float, ...], grade: str) -> None:
    assert grade_of(ihc_probabilities(q, Target.IHC.steps)) == grade


def test_the_expected_grade_is_the_mean_of_the_distribution() -> None:
    q = bit_probabilities([-1.0, 0.5, 2.0])
    mean = float(level_probabilities(q) @ np.arange(4))
    assert expected_grade(ihc_probabilities(q, Target.IHC.steps)) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("grade", GRADES)
def test_a_sure_grade_is_its_own_expectation(grade: str) -> None:
    at_least = ihc_probabilities(bits_of_level(grade, Target.IHC), Target.IHC.steps)
    assert grade_of(at_least) == grade
    assert expected_grade(at_least) == GRADES.index(grade)


def test_status_turns_positive_at_the_threshold() -> None:
    assert status_of(0.3, 0.3) == "HER2-positive"
    assert status_of(np.nextafter(0.3, 0), 0.3) == "HER2-negative"
