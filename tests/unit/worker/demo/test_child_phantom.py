"""The drawn child: the same each time, anatomy where it belongs, and for the shipped model an image it was made for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.finding import Answer, Finding
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from tests.support.tools import tool
from worker.demo.child_phantom import LEFT_MIDDLE, RIGHT_LOWER, RIGHT_UPPER, Opacity, draw_child
from worker.demo.demo import DRAWN, drawn_radiographs
from worker.inference.analyzer import Reader

SLACK = 0.8  # outlier score: below the limit of 1 by more than engines and machines differ


@pytest.mark.parametrize(("rows", "cols"), [(512, 660), (64, 50), (900, 1200)])
def test_is_drawn_at_any_size_the_same_each_time(rows: int, cols: int) -> None:
    picture = draw_child(3, rows, cols)
    assert picture.shape == (rows, cols)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw_child(3, rows, cols))
    assert not np.array_equal(picture, draw_child(4, rows, cols))


@pytest.mark.parametrize("seed", range(4))
def test_shows_air_dark_and_bone_bright(seed: int) -> None:
    picture = draw_child(seed, 480, 624).astype(float)

    def mean(x: float, y: float) -> float:
        """Return the mean around a place, in heights of the picture from the midline and from the upper edge."""
        row, column = round(480 * y), round(312 + 480 * x)
        return float(picture[row - 10 : row + 10, column - 10 : column + 10].mean())

    outside, right_lung, left_lung, heart, spine = (
        mean(x, y) for x, y in ((-0.6, 0.45), (-0.25, 0.5), (0.33, 0.5), (0.13, 0.55), (0, 0.85))
    )
    assert outside < min(right_lung, left_lung) < max(right_lung, left_lung) < heart < spine


@pytest.mark.parametrize("opacity", [RIGHT_LOWER, LEFT_MIDDLE, RIGHT_UPPER])
def test_an_opacity_brightens_its_place_and_nothing_else(opacity: Opacity) -> None:
    difference = brightening(2, opacity)
    assert difference.min() > -8  # the modality's sharpening darkens what borders on it
    column, row = middle(difference)
    rows, cols = difference.shape
    assert abs((column - cols / 2) / rows - opacity.x) < 0.1
    assert abs(row / rows - opacity.y) < 0.1
    assert difference[round(row), round(column)] > 25
    other = difference[:, : cols // 2] if opacity.x > 0 else difference[:, cols // 2 :]
    assert np.abs(other).mean() < 0.5


def test_their_objects_are_valid(tmp_path: Path) -> None:
    drawn = drawn_radiographs()
    assert list(drawn) == [
        "phantom-1", "phantom-2-opacity", "phantom-3", "phantom-4-opacity", "phantom-5", "phantom-6-opacity",
    ]  # fmt: skip
    assert len({dataset.SOPInstanceUID for dataset in drawn.values()}) == len(drawn)
    file = tmp_path / "phantom.dcm"
    file.write_bytes(encode(drawn["phantom-1"]))
    said = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, errors="replace", check=False)
    assert "Error" not in said.stderr
    assert "DX" in said.stderr  # it recognised the IOD


@pytest.mark.parametrize(("seed", "opacity"), DRAWN)
def test_the_shipped_model_answers_those_of_the_demo(reader: Reader, seed: int, opacity: Opacity | None) -> None:
    finding = read(reader, draw_child(seed, opacity=opacity))
    assert finding.outlier is not None
    assert finding.outlier < SLACK
    if opacity is None:
        assert finding.answer is Answer.NOT_FLAGGED
        return
    assert finding.answer is Answer.FLAGGED
    column, row = middle(brightening(seed, opacity))
    left, top, right, bottom = finding.regions[0].box
    assert left < column < right
    assert top < row < bottom
    assert [region.side for region in finding.regions] == ["left" if opacity.x > 0 else "right"]


@pytest.mark.parametrize("seed", range(100, 104))
def test_the_shipped_model_takes_other_drawn_children_for_children(reader: Reader, seed: int) -> None:
    finding = read(reader, draw_child(seed))
    assert finding.outlier is not None
    assert finding.outlier < SLACK
    assert finding.answer is Answer.NOT_FLAGGED


def read(reader: Reader, picture: NDArray[np.uint8]) -> Finding:
    return reader.read(radiograph(picture, uid_seed="child")).finding


def brightening(seed: int, opacity: Opacity) -> NDArray[np.float64]:
    """Return what an opacity adds to the grey values."""
    return draw_child(seed, opacity=opacity).astype(np.float64) - draw_child(seed)


def middle(field: NDArray[np.float64]) -> tuple[float, float]:
    """Return the column and row around which a field has its weight; what is negative does not count."""
    weight = np.clip(field, 0, None)
    column, row = (float(weight.sum(axis=axis) @ np.arange(field.shape[1 - axis]) / weight.sum()) for axis in (0, 1))
    return column, row
