"""The evidence map in the radiograph's frame, its regions, and what is known of the lungs: by drawn outputs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from modeltrain.model.evidence import evidence_map, regions_of
from modeltrain.model.lung_areas import lungs_of
from modeltrain.model.outputs import Outputs

Map = NDArray[np.float32]
WHOLE = (0.0, 0.0, 1.0, 1.0)
RIGHT, LEFT = (20, 20, 48, 95), (62, 20, 92, 95)  # left, top, right, bottom of drawn lungs in 112 pixels


def outputs(evidence: Map, box: tuple[float, ...] = WHOLE, lungs: Map | None = None) -> Outputs:
    """One image's outputs with this map."""
    nothing = np.full((1, 2), np.nan, np.float32)
    drawn = np.ones((1, 1), np.float32) if lungs is None else lungs
    return Outputs(nothing, evidence[None], np.array([box], np.float32), drawn[None], nothing, nothing[:, 0])


def one_cell(row: int, column: int, strength: float = 4.0, cells: int = 10) -> Map:
    """A map that speaks for pneumonia in one place and against it elsewhere."""
    evidence = np.full((cells, cells), -2, np.float32)
    evidence[row, column] = strength
    return evidence


def lungs(*boxes: tuple[int, int, int, int]) -> Map:
    """How probably each place is lung: ellipses in boxes of 112 pixels."""
    mask = np.zeros((112, 112), np.float32)
    for left, top, right, bottom in boxes:
        middle, half = ((left + right) // 2, (top + bottom) // 2), ((right - left) // 2, (bottom - top) // 2)
        cv2.ellipse(mask, middle, half, 0, 0, 360, 1.0, -1)
    return mask


@pytest.mark.parametrize("box", [WHOLE, (0.2, 0.1, 0.8, 0.9), (-0.05, 0.3, 0.7, 1.1)])
@pytest.mark.parametrize(("row", "column"), [(2, 7), (6, 3)])
def test_a_spot_of_the_crop_lands_where_it_came_from(box: tuple[float, ...], row: int, column: int) -> None:
    evidence = evidence_map(outputs(one_cell(row, column), box), 0)
    assert evidence.shape == (224, 224)
    assert evidence.dtype == np.float32
    assert float(evidence.min()) == 0
    y, x = np.unravel_index(int(evidence.argmax()), evidence.shape)
    left, top, right, bottom = box
    assert x == pytest.approx((left + (column + 0.5) / 10 * (right - left)) * 224 - 0.5, abs=1.01)
    assert y == pytest.approx((top + (row + 0.5) / 10 * (bottom - top)) * 224 - 0.5, abs=1.01)
    assert evidence.max() == pytest.approx(4, abs=0.15), "log-odds, not a share of its own maximum"


def test_the_map_is_calibrated_and_absolute() -> None:
    evidence = np.full((10, 10), 3, np.float32)
    assert evidence_map(outputs(evidence), 0, slope=0.5, intercept=-1).max() == pytest.approx(0.5, abs=1e-3)
    assert not evidence_map(outputs(evidence), 0, slope=0.5, intercept=-2).any(), "below even there is none"


def test_outside_the_lungs_there_is_no_evidence() -> None:
    drawn = lungs(RIGHT, LEFT)
    evidence = evidence_map(outputs(np.full((10, 10), 3, np.float32), (0.1, 0.1, 0.9, 0.95), drawn), 0)
    inside = cv2.resize(drawn, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert not evidence[inside < 0.3].any()
    np.testing.assert_allclose(evidence[inside > 0.7], 3, rtol=1e-3)


def test_a_network_that_does_not_look_for_lungs_says_nothing_of_them() -> None:
    assert lungs_of(np.ones((1, 1), np.float32), 100, 100) is None


def joined() -> Map:
    """Two lungs that touch above the heart."""
    mask = lungs(RIGHT, LEFT)
    mask[35:45, 30:80] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "count", "cut"),
    [
        (np.zeros((112, 112), np.float32), 0, False),
        (np.full((112, 112), 0.4, np.float32), 0, False),
        (lungs(RIGHT), 1, False),
        (lungs(RIGHT, LEFT), 2, False),
        (lungs(RIGHT, LEFT, (4, 4, 8, 8)), 2, False),
        (joined(), 2, False),
        (lungs((-14, 20, 14, 95), LEFT), 2, True),
        (lungs(RIGHT, (62, 60, 92, 135)), 2, True),
    ],
    ids=["none", "unsure", "one", "two", "and a speck", "touching", "cut at the side", "cut below"],
)
def test_lungs_are_counted_and_cut_ones_noticed(mask: Map, count: int, cut: bool) -> None:
    found = lungs_of(mask, 448, 224)
    assert found is not None
    assert (found.count, found.cut) == (count, cut)
    assert found.share == pytest.approx(float((mask >= 0.5).mean()), abs=0.003)


def test_outlines_are_in_the_radiograph_s_pixels() -> None:
    found = lungs_of(lungs(RIGHT, LEFT), 448, 336)
    assert found is not None
    assert len(found.contours) == 2
    left_most = min(found.contours, key=lambda outline: min(x for x, _ in outline))
    x, y = np.array(left_most).T
    assert [x.min(), x.max()] == pytest.approx([20 * 3, 48 * 3], abs=4)
    assert [y.min(), y.max()] == pytest.approx([20 * 4, 95 * 4], abs=5)


def spots(*places: tuple[int, int, int, float]) -> Map:
    """A map with round spots: column, row, radius, strength."""
    evidence = np.zeros((224, 224), np.float32)
    for x, y, radius, strength in places:
        cv2.circle(evidence, (x, y), radius, strength, -1)
    return evidence


def test_each_connected_area_is_a_region_with_side_and_zone_the_strongest_first() -> None:
    drawn = lungs(RIGHT, LEFT)
    evidence = spots((64, 165, 15, 3.0), (150, 60, 12, 4.0), (150, 120, 12, 1.5))
    regions = regions_of(evidence, drawn, 448, 336)
    assert [region.place for region in regions] == ["left upper", "right lower"]
    left, top, right, bottom = regions[1].box
    assert [left, right] == pytest.approx([49 * 1.5, 80 * 1.5], abs=2)
    assert [top, bottom] == pytest.approx([150 * 2, 181 * 2], abs=3)
    for region in regions:
        x, y = np.array(region.contour).T
        assert region.box[0] - 1 <= x.min() < x.max() <= region.box[2] + 1
        assert region.box[1] - 1 <= y.min() < y.max() <= region.box[3] + 1


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [(64, 60, "right upper"), (64, 115, "right middle"), (150, 115, "left middle"), (150, 175, "left lower")],
)
def test_sides_are_the_patient_s_and_zones_are_thirds(x: int, y: int, place: str) -> None:
    (region,) = regions_of(spots((x, y, 8, 2.0)), lungs(RIGHT, LEFT), 224, 224)
    assert region.place == place


@pytest.mark.parametrize("alone", [RIGHT, LEFT])
def test_one_lung_alone_does_not_say_which_it_is(alone: tuple[int, int, int, int]) -> None:
    x = alone[0] + alone[2]  # its middle, in a map of 224
    (region,) = regions_of(spots((x, 115, 8, 2.0)), lungs(alone), 224, 224)
    assert (region.side, region.zone, region.place) == ("", "", "")


def test_grain_is_no_region_but_the_peak_is_however_small() -> None:
    evidence = spots((64, 100, 15, 3.0), (150, 100, 1, 2.0), (150, 60, 1, 4.0))
    regions = regions_of(evidence, lungs(RIGHT, LEFT), 224, 224)
    assert [region.place for region in regions] == ["left upper", "right middle"]


def test_an_empty_map_has_no_region_and_a_full_one_stays_inside_the_image() -> None:
    assert regions_of(np.zeros((224, 224), np.float32), lungs(RIGHT, LEFT), 100, 80) == ()
    (region,) = regions_of(np.ones((224, 224), np.float32), np.ones((1, 1), np.float32), 100, 80)
    assert (region.box, region.side, region.zone) == ((0, 0, 80, 100), "", "")
