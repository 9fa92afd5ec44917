"""Images that show nothing, told from those that do: whatever window, polarity, syntax or frame they come with."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, JPEG2000Lossless, RLELossless

from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.content import FEWEST, blank, sample
from dicom_io.pixels.render import render
from worker.demo.phantom import draw

ROWS, COLUMNS = 300, 260
RNG = np.random.default_rng(0)
CHEST = draw(seed=2, rows=ROWS, cols=COLUMNS).astype(np.uint16) * 16
EVEN = np.full((ROWS, COLUMNS), 2000, np.uint16)
ACROSS = np.linspace(-1, 1, COLUMNS)[np.newaxis, :]
DOWN = np.linspace(-1, 1, ROWS)[:, np.newaxis]
NO_CONTRAST = "there is nothing to read: the image has no contrast"


def image(values: NDArray[Any], **attributes: Any) -> Dataset:
    """Return a radiograph of 12 bits in 16, with its own window unless told otherwise."""
    return radiograph(values.astype(np.uint16), uid_seed="content", modality="CR", **attributes)


def framed(values: NDArray[Any], width: int, value: int) -> NDArray[Any]:
    """Return an image with a frame, as a collimator leaves it."""
    made = np.full_like(values, value)
    made[width:-width, width:-width] = values[width:-width, width:-width]
    return made


def turned(values: NDArray[Any], value: int) -> NDArray[Any]:
    """Return an image with a frame that is not parallel to its edges."""
    inside = np.zeros(values.shape, np.uint8)
    cv2.fillPoly(inside, [np.array([(130, 10), (250, 150), (130, 290), (10, 150)])], 1)
    return np.where(inside == 1, values, value)


def lettered(values: NDArray[Any]) -> NDArray[Any]:
    letters = np.zeros(values.shape, np.uint8)
    cv2.putText(letters, "L AP 12", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 1, 3)
    return np.where(letters == 1, 4095, values)


def with_dead_pixels(values: NDArray[Any]) -> NDArray[Any]:
    made = values.copy()
    made[RNG.integers(0, ROWS, 80), RNG.integers(0, COLUMNS, 80)] = RNG.integers(0, 4095, 80)
    made[:, 100] = 4095
    return made


NOTHING: dict[str, NDArray[Any]] = {
    "zero": EVEN * 0,
    "one": EVEN * 0 + 1,
    "middle": EVEN,
    "highest": EVEN * 0 + 4095,
    "noise of 1": EVEN + RNG.integers(-1, 2, EVEN.shape),
    "noise of 3": EVEN + RNG.integers(-3, 4, EVEN.shape),
    "noise near 0": RNG.integers(0, 4, EVEN.shape),
    "noise of 50": EVEN + RNG.normal(0, 50, EVEN.shape),
    "noise of 300": EVEN + RNG.normal(0, 300, EVEN.shape),
    "noise alone": RNG.integers(0, 4096, EVEN.shape),
    "noise of 50 in a frame": framed(EVEN + RNG.normal(0, 50, EVEN.shape), 60, 0),
    "noise, small": (EVEN + RNG.normal(0, 100, EVEN.shape))[:130, :130],
    "a flat field": EVEN + np.linspace(-300, 100, COLUMNS) + RNG.normal(0, 40, EVEN.shape),
    "a flat field, darker to its edges": EVEN - 500 * (ACROSS**2 + DOWN**2) + 200 * ACROSS,
    "a slope of all values": EVEN + 1900 * DOWN,
    "a slight gradient": EVEN + np.linspace(0, 3, COLUMNS).astype(int),
    "two values at random": np.where(RNG.random(EVEN.shape) < 0.5, 1000, 1001),
    "two halves": np.where(np.arange(COLUMNS) < 130, EVEN, 3000),
    "black frame": framed(EVEN, 60, 0),
    "white frame": framed(EVEN, 60, 4095),
    "thin frame": framed(EVEN, 2, 0),
    "wide frame": framed(EVEN, 110, 0),
    "turned frame": turned(EVEN, 0),
    "frame and noise": framed(EVEN + RNG.integers(-2, 3, EVEN.shape), 60, 0),
    "frame and letters": lettered(framed(EVEN, 60, 0)),
    "letters": lettered(EVEN),
    "letters on black": lettered(EVEN * 0),
    "dead pixels": with_dead_pixels(EVEN),
    "dead pixels on black": with_dead_pixels(EVEN * 0),
    "a mask": (CHEST > 1800) * 4095,
}
PICTURES: dict[str, NDArray[Any]] = {
    "chest": CHEST,
    "inverted": 4095 - CHEST,
    "8 bits": CHEST // 16,
    "6 bits": CHEST // 64,
    "5 bits": CHEST // 128,
    "low contrast": 1800 + CHEST // 40,
    "high and low contrast": 3800 + CHEST // 50,
    "black frame": framed(CHEST, 60, 0),
    "white frame": framed(CHEST, 60, 4095),
    "wide frame": framed(CHEST, 80, 0),
    "turned frame": turned(CHEST, 0),
    "letters": lettered(CHEST),
    "dead pixels": with_dead_pixels(CHEST),
    "over-exposed": np.minimum(CHEST, 1500),
    "under-exposed": np.maximum(CHEST, 2000),
    "small": CHEST[::18, ::16],
    "of a thumb's size": CHEST[::7, ::7],
    "of an icon's size": CHEST[::4, ::4],
    "small and noisy": np.clip(CHEST + RNG.normal(0, 100, CHEST.shape), 0, 4095)[::2, ::2],
    "noisy": np.clip(CHEST + RNG.normal(0, 150, CHEST.shape), 0, 4095),
    "noisy, low contrast": 1800 + CHEST // 20 + RNG.normal(0, 20, CHEST.shape),
    "uneven": CHEST // 2 + 1000 + 900 * DOWN,
}
FORMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
    "without a window": {"WindowCenter": None, "WindowWidth": None},
    "a narrow window": {"WindowCenter": 2000, "WindowWidth": 2},
    "a window far off": {"WindowCenter": 60000},
    "a slope": {"RescaleSlope": "0.001", "RescaleIntercept": 9},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_nothing_whatever_its_form(name: str, form: str) -> None:
    assert render(image(NOTHING[name], **FORMS[form])).blank == NO_CONTRAST


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_one_whatever_its_form(name: str, form: str) -> None:
    assert render(image(PICTURES[name], **FORMS[form])).blank == ""


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_ones_are_judged_as_others(syntax: UID) -> None:
    for values, expected in ((EVEN, NO_CONTRAST), (CHEST, "")):
        dataset = image(values)
        dataset.compress(syntax, generate_instance_uid=False)
        assert render(dataset).blank == expected


@pytest.mark.parametrize("value", [-2048, -1, 0, 7, 2047])
def test_signed_values_are_judged_as_others(value: int) -> None:
    dataset = image(EVEN)
    dataset.PixelRepresentation = 1
    dataset.PixelData = np.full_like(EVEN, value, np.int16).tobytes()
    assert render(dataset).blank == NO_CONTRAST
    dataset.PixelData = (CHEST.astype(np.int16) - 2048).tobytes()
    assert render(dataset).blank == ""


@pytest.mark.parametrize("value", [0, 5, 255])
def test_so_are_8_bits(value: int) -> None:
    dataset = image(EVEN)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset["PixelData"].VR = "OB"
    dataset.PixelData = np.full(EVEN.shape, value, np.uint8).tobytes()
    assert render(dataset).blank == NO_CONTRAST
    dataset.PixelData = (CHEST // 16).astype(np.uint8).tobytes()
    assert render(dataset).blank == ""


@pytest.mark.parametrize("width", [0, 40, 100])
def test_padding_is_no_contrast(width: int) -> None:
    values = framed(EVEN, width, 0) if width else EVEN * 0
    assert render(image(values, PixelPaddingValue=0)).blank == NO_CONTRAST
    assert render(image(framed(CHEST, 40, 0), PixelPaddingValue=0)).blank == ""


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 9000), (9000, 1), (2, 3000), (3000, 2), (7, 7), (15, 400), (400, 15), (15, 15)]
)
def test_a_few_pixels_are_nothing(rows: int, columns: int) -> None:
    values = RNG.integers(0, 4095, (rows, columns))
    assert render(image(values)).blank == f"there is nothing to read: {rows} × {columns} pixels"


@pytest.mark.parametrize("shape", [(FEWEST, FEWEST), (FEWEST, 300), (40, 33), (33, 40)])
def test_small_images_are_looked_at(shape: tuple[int, int]) -> None:
    assert render(image(cv2.resize(CHEST, shape[::-1], interpolation=cv2.INTER_AREA))).blank == ""
    assert render(image(np.zeros(shape))).blank == NO_CONTRAST


def test_a_modality_lut_that_leaves_nothing_is_said() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "US", [0] * 4090 + [9] * 6)
    table.ModalityLUTType = "US"
    dataset = image(CHEST, ModalityLUTSequence=[table])
    assert render(dataset).blank == "there is nothing to read: its Modality LUT or rescaling leaves no contrast"


@pytest.mark.parametrize("intercept", ["1e300", "-1e300"])
def test_so_is_an_intercept_that_swallows_everything(intercept: str) -> None:
    dataset = image(CHEST, RescaleSlope="1", RescaleIntercept=intercept)
    assert render(dataset).blank == "there is nothing to read: its Modality LUT or rescaling leaves no contrast"


def test_a_picture_that_is_no_object_is_judged_by_the_same_limits() -> None:
    levels = sample((CHEST / 4095).astype(np.float32)) * 255
    assert blank(CHEST.shape, levels, levels) == ""
    assert blank(CHEST.shape, levels * 0 + 9, levels * 0 + 9) == NO_CONTRAST
