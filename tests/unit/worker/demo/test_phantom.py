"""The drawn chest: it looks like one to the eye; here, that it is the same each time and valid DICOM."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from tests.support.tools import tool
from worker.demo.phantom import draw


@pytest.mark.parametrize(("rows", "cols"), [(512, 420), (64, 50), (900, 1200)])
def test_is_drawn_at_any_size_the_same_each_time(rows: int, cols: int) -> None:
    picture = draw(3, rows, cols)
    assert picture.shape == (rows, cols)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw(3, rows, cols))
    assert not np.array_equal(picture, draw(4, rows, cols))


def test_shows_air_dark_and_bone_bright() -> None:
    picture = draw(0).astype(float)
    rows, cols = picture.shape

    def mean(y: float, x: float) -> float:
        y0, x0 = int(y * rows), int(x * cols)
        return float(picture[y0 - 6 : y0 + 6, x0 - 6 : x0 + 6].mean())

    outside, right_lung, left_lung, spine, heart = (
        mean(y, x) for y, x in ((0.05, 0.1), (0.40, 0.28), (0.40, 0.75), (0.85, 0.5), (0.62, 0.58))
    )
    assert outside < min(right_lung, left_lung) < max(right_lung, left_lung) < heart < spine


def test_an_opacity_brightens_the_right_lower_lung_and_little_else() -> None:
    difference = draw(1, opacity=True).astype(float) - draw(1)
    rows, cols = difference.shape
    inside = difference[int(0.5 * rows) : int(0.66 * rows), int(0.18 * cols) : int(0.36 * cols)]
    assert inside.mean() > 15
    assert abs(difference[:, cols // 2 :].mean()) < 2


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_its_object_is_valid(modality: str, tmp_path: Path) -> None:
    file = tmp_path / "phantom.dcm"
    file.write_bytes(encode(radiograph(draw(), uid_seed="valid", modality=modality)))
    said = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, errors="replace", check=False)
    assert "Error" not in said.stderr
    assert modality in said.stderr  # it recognised the IOD


def test_its_object_renders_as_it_was_drawn() -> None:
    picture = draw()
    again = pydicom.dcmread(BytesIO(encode(radiograph(picture, uid_seed="same"))))
    assert np.abs(render(again).values - picture / 255.0).max() < 1 / 1000


def test_attributes_replace_and_remove() -> None:
    wide = np.full((4, 6), 4095, np.uint16)
    dataset = radiograph(wide, uid_seed="a", modality="CR", PatientID="X1", ViewPosition=None, BodyPartExamined=None)
    assert dataset.PatientID == "X1"
    assert "ViewPosition" not in dataset
    assert (dataset.Rows, dataset.Columns) == (4, 6)
    assert np.array_equal(dataset.pixel_array, wide)


def test_uids_follow_from_the_seed() -> None:
    one, same, other = (radiograph(draw(0, 32, 32), uid_seed=seed) for seed in ("1", "1", "2"))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        assert one[keyword].value == same[keyword].value != other[keyword].value


@pytest.mark.parametrize(("shape", "modality"), [((4, 4), "CT"), ((4, 4, 3), "CR")])
def test_refuses_what_is_no_radiograph(shape: tuple[int, ...], modality: str) -> None:
    with pytest.raises(ValueError, match="grey picture"):
        radiograph(np.zeros(shape, np.uint8), uid_seed="x", modality=modality)
