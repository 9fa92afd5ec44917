"""The composed picture: where the radiograph and its heatmap stand, and what the overlay does to them."""

from __future__ import annotations

import datetime as dt
import stat
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.errors import OutOfResources
from dicom_io.finding import Finding, ModelIdentity
from worker.demo.phantom import draw
from worker.results.overlay import _digits, _frame, compose, write_png

MODEL = ModelIdentity("cxr-pneumonia-resnet18", "1.0.0", "ab12" * 16)
NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
PNEUMONIA = Finding(0.93, "PNEUMONIA", 0.5)
NORMAL = Finding(0.1, "NORMAL", 0.5)


@lru_cache
def chest(rows: int = 400, cols: int = 330) -> NDArray[np.float32]:
    return np.asarray(draw(0, rows, cols) / 255, np.float32)


def hot(row: int, column: int) -> NDArray[np.float32]:
    attention = np.zeros((7, 7), np.float32)
    attention[row, column] = 1
    return attention


def composed(
    values: NDArray[np.float32], attention: NDArray[np.float32], finding: Finding = PNEUMONIA, aspect: float = 1.0
) -> NDArray[np.uint8]:
    return compose(values, attention, finding=finding, identity=MODEL, created=NOW, aspect=aspect)


def panels(rgb: NDArray[np.uint8], shape: tuple[int, ...], aspect: float = 1.0) -> list[NDArray[np.int64]]:
    """Cut the radiograph and the overlay out of the picture."""
    frame = _frame(shape[0] * aspect, shape[1], 1024)
    top = frame.top + (frame.panel[1] - frame.image[1]) // 2
    lefts = (frame.left(number) + (frame.panel[0] - frame.image[0]) // 2 for number in (0, 1))
    return [rgb[top : top + frame.image[1], left : left + frame.image[0]].astype(np.int64) for left in lefts]


@pytest.mark.parametrize(
    ("shape", "aspect"),
    [((500, 410), 1), ((300, 420), 1), ((900, 180), 1), ((120, 700), 1), ((300, 500), 2.0), ((40, 33), 1), ((1, 1), 1)],
)
def test_proportions_are_kept_and_the_width_is_readable(shape: tuple[int, int], aspect: float) -> None:
    rgb = composed(np.ones(shape, np.float32), np.zeros((7, 7), np.float32), aspect=aspect)
    assert 1000 <= rgb.shape[1] <= 1602
    assert 300 <= rgb.shape[0] <= 1024
    for panel in panels(rgb, shape, aspect):
        assert panel.min() == 255
        assert panel.shape[0] / panel.shape[1] == pytest.approx(shape[0] * aspect / shape[1], rel=0.02)


def test_the_radiograph_is_not_turned_and_not_coloured() -> None:
    values = np.zeros((400, 300), np.float32)
    values[:200, :150] = 1  # the upper left is bright
    left, right = panels(composed(values, hot(3, 3)), values.shape)
    half, side = left.shape[0] // 2, left.shape[1] // 2
    assert np.ptp(left, axis=2).max() == 0
    for panel in (left, right):
        assert panel[: half // 2, : side // 2].min() > 250
        assert panel[-half // 2 :, -side // 2 :].max() < 5


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (6, 0), (6, 6), (3, 2)])
def test_each_cell_of_the_heatmap_covers_its_part_of_the_radiograph(row: int, column: int) -> None:
    values = np.full((420, 350), 0.4, np.float32)
    left, right = panels(composed(values, hot(row, column)), values.shape)
    weight = np.abs(right - left).sum(axis=2).astype(float) ** 2
    rows, columns = np.indices(weight.shape)
    height, width = weight.shape
    assert (weight * rows).sum() / weight.sum() / height * 7 == pytest.approx(row + 0.5, abs=0.15)
    assert (weight * columns).sum() / weight.sum() / width * 7 == pytest.approx(column + 0.5, abs=0.15)


def test_without_attention_the_panels_are_alike() -> None:
    left, right = panels(composed(chest(), np.zeros((7, 7), np.float32)), (400, 330))
    assert np.array_equal(left, right)


def test_the_anatomy_stays_visible_under_full_attention() -> None:
    values = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (300, 1))
    _, right = panels(composed(values, np.ones((7, 7), np.float32)), values.shape)
    line = right[right.shape[0] // 2].sum(axis=1)
    assert line[-1] - line[0] > 250
    assert np.all(np.diff(line) >= -3)


def test_the_overlay_of_a_normal_image_is_faded() -> None:
    alarm, calm = (panels(composed(chest(), hot(3, 2), finding), (400, 330)) for finding in (PNEUMONIA, NORMAL))
    strong, weak = (float(np.abs(right - left).max()) for left, right in (alarm, calm))
    # Probability 0.1 at a threshold of 0.5 leaves a fifth.
    assert weak / strong == pytest.approx(0.2, abs=0.04)


def test_says_what_was_found_by_which_model_and_when() -> None:
    """Each of the words changes the picture, in its own place only."""
    base = composed(chest(), hot(3, 2))
    variants = {
        "probability": (Finding(0.94, "PNEUMONIA", 0.5), MODEL, NOW),
        "threshold": (Finding(0.93, "PNEUMONIA", 0.6), MODEL, NOW),
        "outside": (Finding(0.93, "PNEUMONIA", 0.5, outlier=1.2), MODEL, NOW),
        "not sure": (Finding(0.93, "PNEUMONIA", 0.5, prediction_set=("NORMAL", "PNEUMONIA")), MODEL, NOW),
        "neither": (Finding(0.93, "PNEUMONIA", 0.5, prediction_set=()), MODEL, NOW),
        "version": (PNEUMONIA, ModelIdentity(MODEL.name, "1.0.1", MODEL.digest), NOW),
        "digest": (PNEUMONIA, ModelIdentity(MODEL.name, "1.0.0", "ff" * 32), NOW),
        "date": (PNEUMONIA, MODEL, NOW + dt.timedelta(days=1)),
    }
    for name, (finding, model, when) in variants.items():
        other = compose(chest(), hot(3, 2), finding=finding, identity=model, created=when)
        rows = np.nonzero((other != base).any(axis=(1, 2)))[0]
        assert rows.size, name
        assert np.all((rows < 130) | (rows > base.shape[0] - 60)), name


@pytest.mark.parametrize(("probability", "threshold"), [(0.4996, 0.5), (0.501, 0.5), (0.72, 0.7199)])
def test_a_near_thing_is_written_with_enough_decimals(probability: float, threshold: float) -> None:
    digits = _digits(Finding(probability, "", threshold))
    assert f"{probability:.{digits}f}" != f"{threshold:.{digits}f}"


def test_is_the_same_each_time_and_leaves_its_input() -> None:
    values, attention = chest(), hot(3, 2)
    kept = values.copy(), attention.copy()
    assert np.array_equal(composed(values, attention), composed(values, attention))
    assert np.array_equal(values, kept[0])
    assert np.array_equal(attention, kept[1])


def test_a_long_model_name_does_not_run_into_the_finding() -> None:
    long = ModelIdentity("a" * 300, "1" * 60, "0" * 64)
    rgb = compose(chest(900, 180), hot(3, 3), finding=PNEUMONIA, identity=long, created=NOW)
    line = rgb[20:50].max(axis=(0, 2))  # the title's line
    gaps = np.diff(np.nonzero(line > 100)[0])
    assert gaps.max() > 12


def test_a_png_is_whole_or_not_there(tmp_path: Path) -> None:
    rgb = composed(chest(), hot(1, 1))
    write_png(tmp_path / "a.png", rgb)
    again = cv2.imread(str(tmp_path / "a.png"))
    assert again is not None
    assert np.array_equal(again[:, :, ::-1], rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) & stat.S_IRUSR
    with pytest.raises(OutOfResources):
        write_png(tmp_path / "nowhere" / "a.png", rgb)


def test_the_overlay_may_stand_alone() -> None:
    values, attention = chest(400, 330), hot(3, 2)
    both = composed(values, attention)
    alone = compose(values, attention, finding=PNEUMONIA, identity=MODEL, created=NOW, layout="overlay")
    frame = _frame(400, 330, 1024, panels=1)
    assert 1000 <= alone.shape[1] < both.shape[1]
    assert alone.shape[0] == both.shape[0]
    left, top = frame.left(0) + (frame.panel[0] - frame.image[0]) // 2, frame.top
    shown = alone[top : top + frame.image[1], left : left + frame.image[0]].astype(np.int64)
    assert np.array_equal(shown, panels(both, (400, 330))[1])


@pytest.mark.parametrize("height", [400, 1024, 4096])
def test_letters_grow_with_the_picture(height: int) -> None:
    frame = _frame(500, 410, height)
    assert frame.height <= height + 1
    assert frame.unit / frame.height == pytest.approx(0.0215, rel=0.06)
