"""The synthetic cohort: its rules hold, and the demo's phantoms are as they were."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic_cohort import LEVELS, CohortRules, case_of_level, make_cohort

from herohe_model.dataset.cases import level_of
from herohe_model.dataset.labels import read_labels
from herohe_model.grades import Target
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom

_SMALL = CohortRules(side_px=192)


def test_levels_come_in_the_shares_asked_for_and_labels_say_what_is_shown(tmp_path: Path) -> None:
    rules = CohortRules(side_px=96, noise=0.0, shares=(0.1, 0.2, 0.3, 0.2, 0.2))
    members = make_cohort(tmp_path, 20, rules=rules)
    assert Counter(m.shown for m in members) == dict(zip(LEVELS, (2, 4, 6, 4, 4), strict=True))
    assert all(level_of(m.slide.case, Target.IHC_ISH) == m.shown for m in members)


def test_the_label_file_reads_back_as_the_cases(tmp_path: Path) -> None:
    members = make_cohort(tmp_path, 8, rules=_SMALL)
    assert list(read_labels(tmp_path / "labels.csv").cases) == [m.slide.case for m in members]


def test_label_noise_moves_labels_by_one_level(tmp_path: Path) -> None:
    members = make_cohort(tmp_path, 10, rules=CohortRules(side_px=96, noise=1.0))
    apart = [
        abs(LEVELS.index(str(level_of(m.slide.case, Target.IHC_ISH))) - LEVELS.index(m.shown))
        for m in members
    ]
    assert max(apart) == 1


def test_the_same_seed_draws_the_same_cohort(tmp_path: Path) -> None:
    first, again, other = (
        make_cohort(tmp_path / name, 3, seed=seed, rules=_SMALL)
        for name, seed in (("first", 4), ("again", 4), ("other", 5))
    )
    assert [m.slide.path.read_bytes() for m in first] == [m.slide.path.read_bytes() for m in again]
    assert first[0].slide.path.read_bytes() != other[0].slide.path.read_bytes()
    assert [m.slide.case for m in first] == [m.slide.case for m in again]


def test_each_laboratory_stains_in_its_own_way(tmp_path: Path) -> None:
    plain, stained = (
        make_cohort(tmp_path / str(s), 8, rules=CohortRules(side_px=192, laboratories=2, stain=s))
        for s in (0.0, 0.4)
    )
    ratios: dict[str, list[float]] = {}
    for a, b in zip(plain, stained, strict=True):
        densities = []
        for member in (a, b):
            with Slide(member.slide.path) as slide:
                middle = slide.read_box(64, 64, 64, 64, (64, 64))
            densities.append(-np.log(middle.clip(1) / 255.0).mean(axis=(0, 1)))
        ratios.setdefault(str(a.slide.case.laboratory), []).append(float((densities[1] / densities[0])[1]))
    first, second = ratios.values()
    assert max(np.std(first), np.std(second)) < 0.25 * abs(np.mean(first) - np.mean(second))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_stands_for_a_case_that_means_it(level: str) -> None:
    case = case_of_level(level, "1")
    assert case.possible_levels == (level,)
    assert case.positive == (level in ("2+/ISH+", "3+"))


def test_a_tumour_that_shows_its_grade_in_some_squares_lies_between_none_and_all() -> None:
    def rings(expressing: float) -> int:
        picture = draw_phantom("3+", seed=1, side=640, expressing=expressing, square_px=40).picture
        # Rings are redder than nuclei and much darker than the ground.
        return int(((picture[..., 0] > picture[..., 2]) & (picture[..., 1] < 100)).sum())

    none, some, every = rings(0.0), rings(0.4), rings(1.0)
    assert none < some < every
    assert (some - none) / (every - none) == pytest.approx(0.4, abs=0.2)


def test_amplified_nuclei_have_a_pale_spot() -> None:
    plain, amplified = (
        draw_phantom("2+", seed=1, side=320, amplified=amplified).picture for amplified in (False, True)
    )
    yellow = [int((p[..., 0].astype(int) - p[..., 2] > 60).sum()) for p in (plain, amplified)]
    assert yellow[1] > yellow[0] + 100
    assert (np.abs(plain.astype(int) - amplified).max(axis=2) > 0).mean() < 0.1
