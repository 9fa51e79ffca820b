from __future__ import annotations

import numpy as np
import pytest

from herohe_model.model.score import (
    CompositeScore,
    area_shares,
    mean_over_symmetries,
    mean_score,
    share_out,
    turned,
    turned_back,
)


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 7, 10, 13, 80, 182])
@pytest.mark.parametrize("grid", [1, 4, 5])
def test_each_cell_is_shared_out_whole(cells: int, grid: int) -> None:
    shares = area_shares(cells, grid)
    assert shares.shape == (grid, cells)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(shares.sum(axis=1), cells / grid, rtol=1e-14)


def test_cells_within_a_patch_belong_to_it_alone() -> None:
    np.testing.assert_array_equal(area_shares(10, 5), np.kron(np.eye(5), [[1, 1]]))


def test_a_cell_across_a_border_is_parted_by_area() -> None:
    np.testing.assert_allclose(area_shares(3, 2), [[1, 0.5, 0], [0, 0.5, 1]])


def test_a_map_coarser_than_the_grid_is_spread_over_the_patches_it_covers() -> None:
    np.testing.assert_allclose(area_shares(2, 5), [[0.4, 0], [0.4, 0], [0.2, 0.2], [0, 0.4], [0, 0.4]])


@pytest.mark.parametrize("cells", [(10, 10), (7, 7), (3, 3), (8, 11)])
def test_contributions_are_the_patches_parts_of_the_mean(cells: tuple[int, int]) -> None:
    grid = 5
    rng = np.random.default_rng(0)
    linear = rng.normal(size=(3, *cells)).astype(np.float32)
    biases = np.array([-1.0, 0.25, 3.0], dtype=np.float32)
    # So fine that no piece straddles anything.
    fine = linear.astype(np.float64).repeat(grid, axis=1).repeat(grid, axis=2)
    fine = fine.reshape(3, grid, cells[0], grid, cells[1])
    expected = fine.mean(axis=(2, 4)).reshape(3, grid * grid).T / grid**2 + biases / grid**2

    score = share_out(linear, biases, grid)

    np.testing.assert_allclose(score.contributions, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(score.logits, linear.mean(axis=(1, 2)) + biases, rtol=0, atol=1e-6)


def test_contributions_add_up_for_large_logits_of_either_sign() -> None:
    linear = np.random.default_rng(1).normal(scale=200, size=(4, 80, 80)).astype(np.float32)
    biases = np.array([-30, -10, 10, 30], dtype=np.float32)
    score = share_out(linear, biases, 5)
    logits, contributions = score.logits, score.contributions
    assert logits.dtype == contributions.dtype == np.float32
    assert np.abs(contributions.sum(axis=0, dtype=np.float64) - logits).max() < 1e-4


def test_logits_with_one_map_keep_the_order_of_their_biases() -> None:
    linear = np.repeat(np.random.default_rng(2).normal(size=(1, 7, 7)).astype(np.float32), 4, axis=0)
    step = np.float32(1e-7)
    logits = share_out(linear, np.array([0, step, step, 2 * step], dtype=np.float32), 5).logits
    assert (np.diff(logits) >= 0).all()


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_composites_shares_come_back_to_their_patches(turn: int) -> None:
    px, grid = 3, 4
    marks = np.arange(grid * grid, dtype=np.uint8)
    picture = np.repeat(np.repeat(marks.reshape(grid, grid), px, 0), px, 1)[..., None].repeat(3, -1)
    seen = turned(picture, turn)[::px, ::px, 0].reshape(-1, 1).astype(np.float32)
    score = CompositeScore(seen.sum(axis=0), seen, np.ones((2, 1), np.float32))
    back = turned_back(score, turn)
    assert back.contributions.ravel().tolist() == marks.tolist()
    assert back.members is not None


def test_an_ensemble_keeps_its_members_logits() -> None:
    rng = np.random.default_rng(0)
    members = [
        share_out(rng.normal(size=(3, 5, 5)).astype(np.float32), np.zeros(3, np.float32), 5) for _ in range(4)
    ]
    mean = mean_score(members)
    assert mean.members is not None and mean.members.shape == (4, 3)
    np.testing.assert_allclose(mean.members.mean(axis=0), mean.logits, rtol=1e-6)
    assert mean_score(members[:1]).each_member.tolist() == [members[0].logits.tolist()]


def test_the_mean_over_symmetries_keeps_shares_adding_up_and_members_apart() -> None:
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(8):
        linear = rng.normal(size=(2, 3, 5, 5)).astype(np.float32)
        scores.append(mean_score([share_out(one, np.zeros(3, np.float32), 5) for one in linear]))
    mean = mean_over_symmetries(scores)
    np.testing.assert_allclose(mean.contributions.sum(axis=0), mean.logits, atol=1e-5)
    assert mean.members is not None
    np.testing.assert_allclose(mean.members[1], np.mean([s.members[1] for s in scores], axis=0), atol=1e-6)
