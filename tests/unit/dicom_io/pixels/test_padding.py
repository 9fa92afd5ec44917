"""Pixel padding by its bits, whatever sign and width it was written with: drawn black, and left out of all counts."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from worker.demo.phantom import draw

CHEST = draw(seed=2, rows=200, cols=180).astype(np.int32) * 8 + 500
PADDED = np.zeros(CHEST.shape, np.bool_)
PADDED[:, :40] = PADDED[:, -30:] = True


def image(cell: int, *, bits: int, signed: bool, extended: bool = True) -> Dataset:
    """Return a radiograph whose padded pixels are this cell; signs fill the whole cell or the stored bits alone."""
    cells = (CHEST - (1500 if signed else 0)) & (0xFFFF if extended else (1 << bits) - 1)
    cells[PADDED] = cell
    made = radiograph(cells.astype(np.uint16), uid_seed="padding", modality="CR", WindowCenter=None, WindowWidth=None)
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed)
    return made


CASES = [
    # stored bits, signed, VR, Pixel Padding Value, the padded cells
    (16, False, "US", 0, 0),
    (16, False, "US", 63536, 63536),
    (16, False, "SS", -2000, 63536),
    (16, False, "SS", -1, 0xFFFF),
    (16, False, "SS", -32768, 0x8000),
    (16, True, "SS", -2000, 63536),
    (16, True, "US", 63536, 63536),
    (16, True, "US", 32768, 0x8000),
    (16, True, "SS", -1600, 63936),
    (12, False, "US", 4095, 4095),
    (12, False, "SS", -1, 4095),
    (12, False, "SS", -1, 0xFFFF),
    (12, False, "US", 65535, 0xFFFF),
    (12, False, "US", 65535, 4095),
    (12, False, "US", 63536, 63536),
    (12, False, "SS", -2000, 63536),
    (12, False, "US", 32768, 0x8000),
    (12, True, "SS", -2000, 63536),
    (12, True, "SS", -2000, 63536 & 0xFFF),
    (12, True, "US", 63536, 63536),
    (12, True, "US", 63536 & 0xFFF, 63536 & 0xFFF),
    (12, True, "US", 63536 & 0xFFF, 63536),
    (12, True, "SS", -32768, 0x8000),
    (10, False, "US", 0, 0),
]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed", "vr", "value", "cell"), CASES)
def test_the_same_bits_are_meant(bits: int, signed: bool, vr: str, value: int, cell: int, photometric: str) -> None:
    dataset = image(cell, bits=bits, signed=signed)
    if bits == 10:
        dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PhotometricInterpretation = photometric
    dataset.add_new("PixelPaddingValue", vr, value)
    shown = render(dataset)
    assert not shown.values[PADDED].any()
    inside = shown.values[~PADDED]
    assert inside.min() < 0.02
    assert inside.max() > 0.98
    assert shown.window is not None
    low, high = CHEST[~PADDED].min() - (1500 if signed else 0), CHEST[~PADDED].max() - (1500 if signed else 0)
    assert low - 1 <= shown.window[0] - shown.window[1] / 2
    assert shown.window[0] + shown.window[1] / 2 <= high + 1


@pytest.mark.parametrize(("bits", "vr", "value", "cell"), [(12, "SS", -2000, 63536), (12, "US", 63536, 63536)])
def test_a_pixel_of_the_padding_s_lower_bits_is_none(bits: int, vr: str, value: int, cell: int) -> None:
    dataset = image(cell, bits=bits, signed=False)
    cells = np.frombuffer(dataset.PixelData, np.uint16).reshape(CHEST.shape).copy()
    cells[100, 100] = cell & 0xFFF  # as bright as any
    dataset.PixelData = cells.tobytes()
    dataset.add_new("PixelPaddingValue", vr, value)
    values = render(dataset).values
    assert not values[PADDED].any()
    assert values[100, 100] > 0.5


@pytest.mark.parametrize(
    ("bits", "signed", "vr", "value"),
    [
        (12, False, "SS", -2000),  # 2096 in the lower bits
        (12, False, "US", 63536),
        (12, False, "SS", -2048),
        (10, False, "US", 40_000),
        (12, True, "SS", -32768),  # 0 in the lower bits
        (12, True, "US", 32768),
    ],
)
def test_a_value_that_no_pixel_can_have_is_no_pixel_s_lower_bits(bits: int, signed: bool, vr: str, value: int) -> None:
    ramp = np.arange(CHEST.size).reshape(CHEST.shape) % (1 << bits)
    dataset = image(0, bits=bits, signed=signed)
    dataset.PixelData = ramp.astype(np.uint16).tobytes()
    expected = render(dataset).values
    dataset.add_new("PixelPaddingValue", vr, value)
    assert np.array_equal(render(dataset).values, expected)


@pytest.mark.parametrize(("bits", "cell"), [(16, 63536), (16, 0), (16, 0xFFFF), (12, 63536), (12, 0)])
def test_a_range_through_0_of_unsigned_pixels(bits: int, cell: int) -> None:
    dataset = image(cell, bits=bits, signed=False)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    dataset.add_new("PixelPaddingRangeLimit", "SS", 0)
    shown = render(dataset)
    assert shown.blank == ""
    assert not shown.values[PADDED].any()
    assert shown.values[~PADDED].max() > 0.98


@pytest.mark.parametrize("vr", ["OB", "OW", "UN", "SL", "DS"])
def test_padding_of_another_representation(vr: str) -> None:
    data = {"SL": (-2000).to_bytes(4, "little", signed=True), "DS": b"-2000 "}.get(vr, (63536).to_bytes(2, "little"))
    dataset = image(63536, bits=16, signed=False)
    dataset[0x00280120] = RawDataElement(Tag(0x00280120), vr, len(data), data, 0, False, True)
    assert not render(dataset).values[PADDED].any()


def test_8_bits_have_no_padding_of_16() -> None:
    pixels = (CHEST >> 4).astype(np.uint8)
    pixels[100, 100] = 63536 & 0xFF
    made = radiograph(pixels, uid_seed="padding", modality="CR", WindowCenter=None, WindowWidth=None)
    expected = render(made).values
    made.add_new("PixelPaddingValue", "US", 63536)
    assert np.array_equal(render(made).values, expected)


def test_bits_above_the_stored_ones_do_not_hide_padding() -> None:
    dataset = image(0, bits=12, signed=False)
    cells = np.frombuffer(dataset.PixelData, np.uint16) | 0xC000
    dataset.PixelData = cells.astype(np.uint16).tobytes()
    dataset.PixelPaddingValue = 0
    assert not render(dataset).values[PADDED].any()


@pytest.mark.parametrize(
    ("signed", "vr", "ends"),
    [
        (False, "US", (60000, 65535)),
        (False, "SS", (-5536, -1)),
        (True, "SS", (-5536, -1600)),
        (True, "US", (60000, 63936)),
    ],
)
def test_a_range_has_the_sign_of_the_pixels_too(signed: bool, vr: str, ends: tuple[int, int]) -> None:
    for cell in (60000, 61000, 63936):
        dataset = image(cell, bits=16, signed=signed)
        dataset.add_new("PixelPaddingValue", vr, ends[0])
        dataset.add_new("PixelPaddingRangeLimit", vr, ends[1])
        shown = render(dataset).values
        assert not shown[PADDED].any()
        assert shown[~PADDED].max() > 0.98
