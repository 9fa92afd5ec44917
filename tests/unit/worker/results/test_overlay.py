"""The composed picture: where the radiograph and its evidence stand, and what the overlay does to them."""

from __future__ import annotations

import datetime as dt
import stat
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.errors import OutOfResources
from dicom_io.finding import STRONG_EVIDENCE, Finding, Lungs, ModelIdentity, Region
from worker.demo.phantom import draw
from worker.results import words
from worker.results.frame import Frame, fit
from worker.results.lettering import AMBER, LUNGS, lines
from worker.results.overlay import compose, write_png

MODEL = ModelIdentity("cxr-pneumonia-resnet18", "1.0.0", "ab12" * 16)
NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
FLAGGED = Finding(0.93, "PNEUMONIA", 0.5)
NOT_FLAGGED = Finding(0.1, "NORMAL", 0.5)
UNCERTAIN = replace(FLAGGED, prediction_set=("NORMAL", "PNEUMONIA"))
OUTSIDE = replace(FLAGGED, outlier=1.2)


@lru_cache
def chest(rows: int = 400, cols: int = 330) -> NDArray[np.float32]:
    return np.asarray(draw(0, rows, cols) / 255, np.float32)


def hot(row: int, column: int, strength: float = STRONG_EVIDENCE) -> NDArray[np.float32]:
    evidence = np.zeros((7, 7), np.float32)
    evidence[row, column] = strength
    return evidence


def composed(
    values: NDArray[np.float32], evidence: NDArray[np.float32], finding: Finding = FLAGGED, **options: Any
) -> NDArray[np.uint8]:
    arguments: dict[str, Any] = {"finding": finding, "identity": MODEL, "created": NOW, **options}
    return compose(values, evidence, **arguments)


def frame_of(shape: tuple[int, ...], finding: Finding = FLAGGED, aspect: float = 1.0, panels: int = 2) -> Frame:
    below = max(1, len(lines(finding, 1024)))
    shown = finding.answer.shows_evidence
    return fit(shape[0] * aspect, shape[1], 1024, panels=panels if shown else 1, lines=below, bar=shown)


def panels(
    rgb: NDArray[np.uint8], shape: tuple[int, ...], finding: Finding = FLAGGED, aspect: float = 1.0
) -> list[NDArray[np.int64]]:
    """Cut the radiograph and the overlay out of the picture."""
    frame = frame_of(shape, finding, aspect)
    corners = (frame.corner(number) for number in range(frame.panels))
    return [rgb[top : top + frame.image[1], left : left + frame.image[0]].astype(np.int64) for left, top in corners]


@pytest.mark.parametrize("finding", [FLAGGED, NOT_FLAGGED])
@pytest.mark.parametrize(
    ("shape", "aspect"),
    [((500, 410), 1), ((300, 420), 1), ((900, 180), 1), ((120, 700), 1), ((300, 500), 2.0), ((40, 33), 1), ((1, 1), 1)],
)
def test_proportions_are_kept_and_the_width_is_readable(
    shape: tuple[int, int], aspect: float, finding: Finding
) -> None:
    rgb = composed(np.ones(shape, np.float32), np.zeros((7, 7), np.float32), finding, aspect=aspect)
    assert 1000 <= rgb.shape[1] <= 1602
    assert 300 <= rgb.shape[0] <= 1024
    for panel in panels(rgb, shape, finding, aspect):
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
def test_each_cell_of_the_map_covers_its_part_of_the_radiograph(row: int, column: int) -> None:
    values = np.full((420, 350), 0.4, np.float32)
    left, right = panels(composed(values, hot(row, column)), values.shape)
    weight = np.abs(right - left).sum(axis=2).astype(float) ** 2
    rows, columns = np.indices(weight.shape)
    height, width = weight.shape
    assert (weight * rows).sum() / weight.sum() / height * 7 == pytest.approx(row + 0.5, abs=0.15)
    assert (weight * columns).sum() / weight.sum() / width * 7 == pytest.approx(column + 0.5, abs=0.15)


def test_without_evidence_the_panels_are_alike() -> None:
    left, right = panels(composed(chest(), np.zeros((7, 7), np.float32)), (400, 330))
    assert np.array_equal(left, right)


@pytest.mark.parametrize("strength", [STRONG_EVIDENCE, 10 * STRONG_EVIDENCE])
def test_the_anatomy_stays_visible_under_the_strongest_evidence(strength: float) -> None:
    values = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (300, 1))
    _, right = panels(composed(values, np.full((7, 7), strength, np.float32)), values.shape)
    line = right[right.shape[0] // 2].sum(axis=1)
    assert line[-1] - line[0] > 250
    assert np.all(np.diff(line) >= -3)


@pytest.mark.parametrize("finding", [replace(FLAGGED, probability=1.0), replace(UNCERTAIN, probability=0.5)])
def test_weak_evidence_looks_weak_and_its_scale_is_the_same_in_every_picture(finding: Finding) -> None:
    def change(strength: float) -> float:
        left, right = panels(composed(chest(), hot(3, 2, strength), finding), (400, 330), finding)
        return float(np.abs(right - left).max())

    strong = change(STRONG_EVIDENCE)
    assert change(3 * STRONG_EVIDENCE) >= 0.8 * strong
    assert change(finding.strength * STRONG_EVIDENCE / 2) < 0.75 * strong
    assert change(finding.strength * STRONG_EVIDENCE / 10) < 0.2 * strong


def test_a_weak_answer_looks_weak_however_strong_its_evidence() -> None:
    def change(finding: Finding) -> float:
        left, right = panels(composed(chest(), hot(3, 2, 3 * STRONG_EVIDENCE), finding), (400, 330), finding)
        return float(np.abs(right - left).max())

    strong = change(replace(FLAGGED, probability=1.0))
    assert change(replace(FLAGGED, probability=0.5)) < 0.75 * strong
    assert change(replace(UNCERTAIN, probability=0.2)) < 0.4 * strong
    assert change(replace(UNCERTAIN, probability=0.9)) == change(replace(UNCERTAIN, probability=0.5))


@pytest.mark.parametrize("layout", ["side-by-side", "overlay"])
@pytest.mark.parametrize("finding", [NOT_FLAGGED, OUTSIDE, replace(FLAGGED, lungs=Lungs(0.0, 0))])
def test_where_the_answer_is_no_or_outside_the_plain_radiograph_stands_alone(finding: Finding, layout: str) -> None:
    region = Region((10, 10, 90, 90), ((10.0, 10.0), (90.0, 10.0), (90.0, 90.0)))
    lungs = finding.lungs or Lungs(0.3, 2, contours=(region.contour,))
    shown = composed(chest(), hot(3, 2), replace(finding, lungs=lungs, regions=(region,)), layout=layout)
    (panel,) = panels(shown, (400, 330), finding)
    assert np.ptp(panel, axis=2).max() == 0
    assert words.caption(finding).lower() != "evidence for pneumonia"
    assert any(each in words.caption(finding).lower() for each in ("no evidence", "too little evidence"))


def near(panel: NDArray[np.int64], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return where a panel has more of a colour than any grey has."""
    spread = np.array(colour) - np.mean(colour)
    return np.asarray((panel - panel.mean(axis=2, keepdims=True)) @ spread > 0.35 * (spread @ spread))


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_lungs_and_regions_are_outlined_where_they_are(aspect: float) -> None:
    lung = ((20.0, 40.0), (140.0, 40.0), (140.0, 300.0), (20.0, 300.0))
    area = ((200.0, 100.0), (260.0, 100.0), (260.0, 200.0), (200.0, 200.0))
    finding = replace(FLAGGED, lungs=Lungs(0.3, 2, contours=(lung,)), regions=(Region((200, 100, 260, 200), area),))
    values = np.full((400, 330), 0.4, np.float32)
    evidence = np.full((7, 7), 0.2, np.float32)
    left, right = panels(composed(values, evidence, finding, aspect=aspect), (400, 330), finding, aspect)
    assert np.ptp(left, axis=2).max() == 0
    strong = composed(values, 20 * evidence, finding, aspect=aspect)
    for colour, contour, picture in ((LUNGS, lung, right), (AMBER, area, None)):
        # A region's line is as strong as its evidence; over strong evidence it is compared with the fill beside it.
        panel = picture if picture is not None else panels(strong, (400, 330), finding, aspect)[1]
        rows, columns = np.nonzero(near(panel, colour) if picture is not None else edges(panel))
        ys, xs = rows / panel.shape[0] * 400, columns / panel.shape[1] * 330
        inside = xs > 170 if picture is None else xs < 170
        (x0, y0), (x1, y1) = np.min(contour, axis=0), np.max(contour, axis=0)
        assert xs[inside].min() == pytest.approx(x0, abs=2.5)
        assert xs[inside].max() == pytest.approx(x1, abs=2.5)
        assert ys[inside].min() == pytest.approx(y0, abs=2.5)
        assert ys[inside].max() == pytest.approx(y1, abs=2.5)


def edges(panel: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where an evenly filled panel has another colour than most of it."""
    return np.asarray(np.abs(panel - np.median(panel, axis=(0, 1))).sum(axis=2) > 25)


def test_says_what_was_found_by_which_model_and_when() -> None:
    """Each of the words changes the picture, in its own place only."""
    base = composed(chest(), hot(3, 2, 1.0))
    variants: dict[str, tuple[Finding, dict[str, Any]]] = {
        "probability": (replace(FLAGGED, probability=0.94), {}),
        "threshold": (replace(FLAGGED, threshold=0.6), {}),
        "cut": (replace(FLAGGED, lungs=Lungs(0.3, 2, cut=True)), {}),
        "not sure": (UNCERTAIN, {}),
        "neither": (replace(FLAGGED, prediction_set=()), {}),
        "version": (FLAGGED, {"identity": replace(MODEL, version="1.0.1")}),
        "digest": (FLAGGED, {"identity": replace(MODEL, digest="ff" * 32)}),
        "date": (FLAGGED, {"created": NOW + dt.timedelta(days=1)}),
        "zone": (FLAGGED, {"created": NOW.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))}),
    }
    for name, (finding, options) in variants.items():
        other = composed(chest(), hot(3, 2, 1.0), finding, **options)  # so weak that no answer bounds it
        rows = np.nonzero((other != base).any(axis=(1, 2)))[0]
        assert rows.size, name
        assert np.all((rows < 180) | (rows > base.shape[0] - 86)), name


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (NOW, "2026-01-02 03:04 UTC"),
        (NOW.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))), "2026-01-02 08:34 +05:30"),
        (NOW.astimezone(dt.timezone(dt.timedelta(hours=-5))), "2026-01-01 22:04 -05:00"),
    ],
)
def test_a_time_has_its_zone(created: dt.datetime, expected: str) -> None:
    assert words.time(created) == expected


def test_is_the_same_each_time_and_leaves_its_input() -> None:
    values, evidence = chest(), hot(3, 2)
    kept = values.copy(), evidence.copy()
    assert np.array_equal(composed(values, evidence), composed(values, evidence))
    assert np.array_equal(values, kept[0])
    assert np.array_equal(evidence, kept[1])


@pytest.mark.parametrize("height", [400, 1024])
def test_long_words_stay_within_the_picture(height: int) -> None:
    long = ModelIdentity("a" * 300, "1" * 60, "0" * 64)
    places = [(side, zone) for side in ("right", "left") for zone in ("upper", "middle", "lower")]
    regions = tuple(Region((1, 1, 9, 9), (), side, zone) for side, zone in places)
    everything = replace(FLAGGED, regions=regions, prediction_set=(), lungs=Lungs(0.2, 1), operating_point="x" * 60)
    rgb = composed(chest(900, 180), hot(3, 3), everything, identity=long, height=height, layout="overlay")
    background = rgb[0, 0]
    margin = round(0.4 * 0.0215 * height)
    assert np.array_equal(rgb[:, :margin], np.broadcast_to(background, rgb[:, :margin].shape))
    assert np.array_equal(rgb[:, -margin:], np.broadcast_to(background, rgb[:, -margin:].shape))
    assert rgb.shape[0] <= height + 1


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
    values, evidence = chest(400, 330), hot(3, 2)
    both, alone = composed(values, evidence), composed(values, evidence, layout="overlay")
    frame = frame_of((400, 330), panels=1)
    assert 1000 <= alone.shape[1] < both.shape[1]
    assert alone.shape[0] == both.shape[0]
    left, top = frame.corner(0)
    shown = alone[top : top + frame.image[1], left : left + frame.image[0]].astype(np.int64)
    assert np.array_equal(shown, panels(both, (400, 330))[1])


@pytest.mark.parametrize("height", [400, 1024, 4096])
def test_letters_grow_with_the_picture(height: int) -> None:
    frame = fit(500, 410, height)
    assert frame.height <= height + 1
    assert frame.unit / frame.height == pytest.approx(0.0215, rel=0.06)
