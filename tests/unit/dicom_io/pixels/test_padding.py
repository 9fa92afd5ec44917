"""Pixel padding by its bits, whatever sign and width it was written with: drawn black, and left out of all counts."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

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
