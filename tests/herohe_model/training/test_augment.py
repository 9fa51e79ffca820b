"""Augmentation: what it changes, and what it leaves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from herohe_model.training.augment import (
    apply_blur,
    apply_colour,
    apply_scale,
    apply_turns,
    colour_maps,
    compress,
    draw_augmentation,
)
from herohe_model.training.options import NO_AUGMENTATION, AugmentOptions

_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])


def picture(side: int = 40, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def dyed(haematoxylin: float, eosin: float) -> np.ndarray:
    """The colour of a pixel with so much of both stains."""
    return 255.0 * 10 ** -(haematoxylin * _HAEMATOXYLIN + eosin * _EOSIN)


def maps(scale: tuple[float, float, float], shift: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    return torch.from_numpy(colour_maps(np.array([scale]), np.array(shift), np.ones(3)))[None]


def turned(patch: np.ndarray, turn: int) -> np.ndarray:
    return apply_turns(torch.from_numpy(patch)[None], np.array([[turn]]), 1)[0].numpy()


def test_the_eight_turns_are_the_symmetries_of_the_square() -> None:
    patch = picture(8)
    turns = [turned(patch, k) for k in range(8)]
    assert all((a != b).any() for a, b in itertools.combinations(turns, 2))
    for turn in turns:
        assert sorted(map(bytes, turn.reshape(-1, 3))) == sorted(map(bytes, patch.reshape(-1, 3)))
    assert (turns[0] == patch).all()
    assert (turns[1] == np.rot90(patch)).all()
    assert (turns[5] == np.rot90(patch)[:, ::-1]).all()


def test_each_patch_is_turned_in_its_place() -> None:
    pixels = np.stack([picture(20, seed=k) for k in (1, 2)])
    turns = np.array([[0, 3, 4, 7], [6, 1, 2, 5]])
    result = apply_turns(torch.from_numpy(pixels), turns, 2).numpy()
    for composite, row in enumerate(turns.tolist()):
        for cell, turn in enumerate(row):
            y, x = (cell // 2) * 10, (cell % 2) * 10
            before = pixels[composite, y : y + 10, x : x + 10]
            assert (result[composite, y : y + 10, x : x + 10] == turned(before, turn)).all()


def test_scaling_a_stain_changes_its_amount_and_no_other() -> None:
    pixels = torch.from_numpy(np.tile(dyed(0.4, 0.3), (1, 10, 10, 1)))
    scaled = apply_colour(pixels, maps((1.5, 0.5, 1.0)), 1)
    assert scaled[0, 0, 0].tolist() == pytest.approx(dyed(0.6, 0.15), abs=0.01)


def test_shifting_a_stain_adds_to_its_amount() -> None:
    pixels = torch.from_numpy(np.tile(dyed(0.4, 0.3), (1, 10, 10, 1)))
    shifted = apply_colour(pixels, maps((1.0, 1.0, 1.0), (0.1, -0.2, 0.0)), 1)
    assert shifted[0, 0, 0].tolist() == pytest.approx(dyed(0.5, 0.1), abs=0.01)


def test_neutral_maps_leave_colours_alone() -> None:
    pixels = torch.from_numpy(picture()[None].clip(1, 255))
    colour = maps((1.0, 1.0, 1.0)).expand(1, 25, 3, 4).contiguous()
    assert torch.allclose(apply_colour(pixels, colour, 5), pixels.float(), atol=0.01)


def test_glass_stays_glass_when_stains_are_scaled() -> None:
    white = torch.full((1, 10, 10, 3), 255, dtype=torch.uint8)
    assert torch.allclose(apply_colour(white, maps((1.3, 0.7, 1.2)), 1), torch.tensor(255.0))


def test_each_patch_gets_its_own_colours() -> None:
    pixels = torch.full((1, 20, 20, 3), 128, dtype=torch.uint8)
    scale = np.linspace(0.5, 1.5, 4)[:, None].repeat(3, axis=1)
    colour = torch.from_numpy(colour_maps(scale, np.zeros(3), np.ones(3)))[None]
    result = apply_colour(pixels, colour, 2)[0]
    means = [result[y : y + 10, x : x + 10].mean().item() for y in (0, 10) for x in (0, 10)]
    assert means == sorted(means, reverse=True)
    assert all(result[y : y + 10, x : x + 10].std() < 1e-3 + 200 for y in (0, 10) for x in (0, 10))
    assert len(set(means)) == 4


def test_results_stay_within_the_range_of_pixels() -> None:
    rng = np.random.default_rng(0)
    options = AugmentOptions(stain=1.0, stain_shift=1.0, patch_stain=1.0, colour=1.0)
    for seed in range(5):
        drawn = draw_augmentation(rng, 4, options)
        assert drawn.colour is not None
        result = apply_colour(
            torch.from_numpy(picture(seed=seed)[None]), torch.from_numpy(drawn.colour)[None], 2
        )
        assert float(result.min()) >= 0 and float(result.max()) <= 255


def test_blur_changes_only_the_composites_that_it_is_drawn_for() -> None:
    pixels = torch.from_numpy(np.stack([picture(seed=1), picture(seed=2)])).float()
    blurred = apply_blur(pixels, [0.0, 1.5])
    assert torch.equal(blurred[0], pixels[0])
    assert blurred[1].std() < 0.6 * pixels[1].std()
    assert float(blurred[1].mean()) == pytest.approx(float(pixels[1].mean()), rel=0.02)


def test_no_augmentation_draws_nothing() -> None:
    drawn = draw_augmentation(np.random.default_rng(0), 25, NO_AUGMENTATION)
    assert (drawn.turns == 0).all()
    assert drawn.colour is None
    assert drawn.blur_sigma_px == 0
    assert (drawn.jpeg_quality, drawn.scale) == (None, 1.0)


def test_a_patch_is_magnified_around_its_centre_and_within_itself() -> None:
    square = np.zeros((64, 64, 3), dtype=np.float32)
    square[24:40, 24:40] = 200.0
    pixels = torch.from_numpy(np.block([[[square], [square * 0]], [[square * 0], [square]]]))[None]
    larger, smaller = (apply_scale(pixels, [scale], 2)[0, ..., 0].numpy() for scale in (1.25, 0.8))
    assert np.count_nonzero(larger[:64, :64] > 100) == pytest.approx((16 * 1.25) ** 2, rel=0.05)
    assert np.count_nonzero(smaller[:64, :64] > 100) == pytest.approx((16 * 0.8) ** 2, rel=0.15)
    rows = np.flatnonzero((larger[:64, :64] > 100).any(axis=1))
    assert (rows[0] + rows[-1]) / 2 == 31.5
    assert not larger[:64, 64:].any() and not smaller[64:, :64].any()
    assert apply_scale(pixels, [1.0], 2) is pixels


def test_compression_is_coarser_with_less_quality_and_alike_every_time() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[..., None].repeat(3, -1)
    apart = [np.abs(compress(smooth, quality).astype(int) - smooth).mean() for quality in (10, 40, 95)]
    assert apart[0] > apart[1] > apart[2]
    assert (compress(smooth, 40) == compress(smooth, 40)).all()


def test_switching_one_augmentation_off_leaves_the_others_as_drawn() -> None:
    both = draw_augmentation(np.random.default_rng(7), 25, AugmentOptions())
    one = draw_augmentation(np.random.default_rng(7), 25, AugmentOptions(dihedral=False))
    assert (both.turns != 0).any() and (one.turns == 0).all()
    assert both.colour is not None and one.colour is not None
    assert (both.colour == one.colour).all()
