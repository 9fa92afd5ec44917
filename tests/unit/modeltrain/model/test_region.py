"""The attended region: the part of the heatmap around its peak, in the pixels of the radiograph."""

from __future__ import annotations

import numpy as np
import pytest

from modeltrain.model.region import attended_region


def one_cell(row: int, column: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    attention = np.zeros((7, 7), np.float32)
    attention[row, column] = 1
    return attention


@pytest.mark.parametrize(("rows", "columns"), [(2048, 2500), (224, 224), (700, 350), (33, 71)])
def test_the_box_lies_where_the_cell_is(rows: int, columns: int) -> None:
    region = attended_region(one_cell(2, 5), rows, columns)
    assert region is not None
    left, top, right, bottom = region.box
    assert (left + right) / 2 == pytest.approx(5.5 / 7 * columns, abs=columns / 50 + 1)
    assert (top + bottom) / 2 == pytest.approx(2.5 / 7 * rows, abs=rows / 50 + 1)
    assert 0.6 * columns / 7 < right - left < 1.5 * columns / 7 + 2
    across, down = np.array(region.contour).T
    assert across.min() >= left - 1
    assert across.max() <= right + 1
    assert down.min() >= top - 1
    assert down.max() <= bottom + 1


def test_the_region_stays_inside_the_image() -> None:
    for row, column in ((0, 0), (6, 6), (0, 6)):
        region = attended_region(one_cell(row, column), 301, 203)
        assert region is not None
        left, top, right, bottom = region.box
        assert 0 <= left < right <= 203
        assert 0 <= top < bottom <= 301
        assert all(0 <= x <= 203 and 0 <= y <= 301 for x, y in region.contour)


def test_only_the_part_around_the_peak_counts() -> None:
    two = one_cell(1, 1) + 0.9 * one_cell(5, 5)
    region = attended_region(two.astype(np.float32), 700, 700)
    assert region is not None
    assert region.box[2] < 350
    assert region.box[3] < 350


def test_an_empty_map_has_no_region() -> None:
    assert attended_region(np.zeros((7, 7), np.float32), 100, 100) is None


def test_a_full_map_is_the_whole_image() -> None:
    region = attended_region(np.ones((7, 7), np.float32), 100, 80)
    assert region is not None
    assert region.box == (0, 0, 80, 100)
