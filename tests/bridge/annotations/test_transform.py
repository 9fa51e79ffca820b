from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import Point, box

from bridge.annotations.transform import QuarterTurns, SlideTransform
from herohe_model.slides.source import Box

WIDTH, HEIGHT = 7, 4


def test_an_upright_image_is_only_moved() -> None:
    transform = SlideTransform.at(100, 50, WIDTH, HEIGHT)
    assert transform.to_slide(box(1, 2, 3, 4)).bounds == (101, 52, 103, 54)
    assert transform.square_from_slide(101, 52, 2) == (1, 2)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turns_are_clockwise_as_numpy_turns_a_picture(turns: QuarterTurns) -> None:
    picture = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    turned = np.rot90(picture, -turns)
    transform = SlideTransform.at(0, 0, WIDTH, HEIGHT).turned(turns)
    assert (transform.height, transform.width) == turned.shape
    for y, x in np.ndindex(turned.shape):
        where = transform.to_slide(Point(x + 0.5, y + 0.5))
        assert picture[int(where.y), int(where.x)] == turned[y, x]


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_flips_are_followed_and_undone_before_and_after_a_turn(
    horizontal: bool, vertical: bool, turns: QuarterTurns
) -> None:
    picture = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    axes = [axis for axis, flipped in enumerate((vertical, horizontal)) if flipped]
    transform = SlideTransform.at(0, 0, WIDTH, HEIGHT)
    for shown, found in (
        (
            np.rot90(np.flip(picture, axes), -turns),
            transform.flipped(horizontal=horizontal, vertical=vertical).turned(turns),
        ),
        (
            np.flip(np.rot90(picture, -turns), axes),
            transform.turned(turns).flipped(horizontal=horizontal, vertical=vertical),
        ),
    ):
        assert (found.height, found.width) == shown.shape[:2]
        for y, x in np.ndindex(shown.shape[:2]):
            where = found.to_slide(Point(x + 0.5, y + 0.5))
            assert (picture[int(where.y), int(where.x)] == shown[y, x]).all()
        assert (found.upright(shown) == picture).all()
        assert found.box == Box(0, 0, WIDTH, HEIGHT)
        part = found.box_from_slide(Box(1, 2, 4, 2))
        cut = shown[part.y : part.y + part.height, part.x : part.x + part.width]
        assert (found.upright(cut) == picture[2:4, 1:5]).all()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_square_keeps_its_place_through_turns_and_crops(turns: QuarterTurns) -> None:
    transform = SlideTransform.at(1000, 2000, 700, 400).turned(turns).cropped(30, 20, 300, 200)
    x, y = transform.square_from_slide(1140, 2130, 50)
    assert transform.to_slide(box(x, y, x + 50, y + 50)).equals(box(1140, 2130, 1190, 2180))
    assert transform.from_slide(transform.to_slide(box(1, 2, 3, 5))).equals(box(1, 2, 3, 5))


def test_four_quarter_turns_are_none() -> None:
    transform = SlideTransform.at(5, 6, WIDTH, HEIGHT)
    assert transform.turned(3).turned(1) == transform
