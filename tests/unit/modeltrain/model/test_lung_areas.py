"""What is found of the lungs: two lungs only where there are two, one on each side, and a cut one is told."""

from __future__ import annotations

import numpy as np
import pytest

from modeltrain.model.lung_areas import lung_areas, lungs_of, outline

SIDE = 112
Box = tuple[int, int, int, int]
RIGHT, LEFT = (20, 25, 48, 88), (64, 25, 92, 88)  # left, top, right, bottom


def found(*boxes: Box) -> np.ndarray:
    """Return a network's probability of lung in boxes."""
    probability = np.full((SIDE, SIDE), 0.1, np.float32)
    for left, top, right, bottom in boxes:
        probability[top:bottom, left:right] = 0.9
    return probability


@pytest.mark.parametrize(
    ("boxes", "count"),
    [
        ((RIGHT, LEFT), 2),
        ((RIGHT,), 1),
        ((), 0),
        ((RIGHT, (64, 60, 68, 64)), 1),  # a speck is no lung
        (((20, 25, 48, 52), (20, 58, 48, 88)), 1),  # two pieces of one lung, one above the other
        (((20, 25, 32, 88), (35, 25, 48, 88)), 1),  # two halves of one lung, side by side
        (((2, 25, 24, 88), (28, 25, 46, 88)), 1),  # both on one side of the image
        (((20, 25, 48, 52), (20, 58, 48, 88), LEFT), 2),  # one of the two is in two pieces
        ((RIGHT, (64, 5, 92, 20)), 1),  # no lung lies above the other's end
        (((20, 25, 92, 88),), 1),  # one wide area without a gap
        ((RIGHT, LEFT, (48, 25, 64, 40)), 2),  # two that touch above
    ],
)
def test_lungs_are_counted_as_they_lie(boxes: tuple[Box, ...], count: int) -> None:
    lungs = lungs_of(found(*boxes), SIDE, SIDE)
    assert lungs is not None
    assert lungs.count == count
    assert (lungs.share > 0) == (count > 0)


def test_the_one_on_the_picture_s_left_comes_first() -> None:
    first, second = lung_areas(found(LEFT, RIGHT))
    assert first[50, 30] == second[50, 80] == 1
    assert first[50, 80] == second[50, 30] == 0


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((64, 25, 92, 88), False),
        ((64, 25, 112, 88), True),
        ((64, 25, 111, 88), True),  # so near to the edge that its end is not to be seen
        ((64, 25, 106, 88), False),
        ((64, 50, 92, 112), True),
        ((64, 0, 92, 88), True),
    ],
)
def test_a_lung_that_the_edge_cuts_off_is_told(box: Box, cut: bool) -> None:
    lungs = lungs_of(found(RIGHT, box), SIDE, SIDE)
    assert lungs is not None
    assert lungs.cut is cut


def test_an_area_too_thin_for_three_corners_has_no_outline() -> None:
    line = np.zeros((SIDE, SIDE), np.uint8)
    line[40, 20:60] = 1
    assert outline(line, SIDE, SIDE) == ()


def test_a_network_that_does_not_look_for_lungs_tells_nothing() -> None:
    assert lungs_of(np.ones((1, 1), np.float32), SIDE, SIDE) is None
