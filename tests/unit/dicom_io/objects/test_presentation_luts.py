"""The presentation state carries the table that was shown, and a valid one (PS3.3 C.11.2.1.1)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_io.objects.presentation_state import _grayscale, _table
from dicom_io.pixels.grayscale import read_table


def source(entries: np.ndarray, stated: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [stated, 100, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    dataset = Dataset()
    dataset.VOILUTSequence = [item]
    return dataset


@pytest.mark.parametrize(
    ("entries", "stated", "bits"),
    [
        (np.arange(4096), 4096, 16),  # uses 12 of 16 bits
        (np.arange(4000), 4096, 12),  # and is short
        (np.arange(4095), 4096, 16),
    ],
)
def test_what_is_irregular_is_written_as_it_was_shown(entries: np.ndarray, stated: int, bits: int) -> None:
    copy = _table(source(entries, stated, bits), "VOILUTSequence")
    assert copy is not None
    assert list(copy.LUTDescriptor) == [stated, 100, 16]
    table = read_table(copy, signed=False)
    assert table is not None
    assert table.entries.size == stated
    assert table.entries.max() == 0xFFFF
    shown = np.pad(entries, (0, stated - entries.size), mode="edge") / entries.max()
    assert np.abs(table.entries / 0xFFFF - shown).max() < 1e-5


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(
    ("data", "stated", "bits"),
    [
        (np.arange(4096, dtype="<u2").tobytes(), 4096, 8),  # entries of 12 bits
        (np.arange(256, dtype="<u2").tobytes(), 256, 8),  # a word an entry, which needs but a byte
        (np.arange(256, dtype=np.uint8).tobytes(), 250, 8),  # more than is stated
        (np.arange(4096, dtype="<u2").tobytes(), 4000, 12),
        (np.arange(64, dtype=np.uint8).tobytes(), 64, 6),  # bits that no table may state
    ],
)
def test_descriptor_and_data_agree(data: bytes, stated: int, bits: int, keyword: str) -> None:
    dataset = source(np.arange(2), stated, bits)
    item = dataset.VOILUTSequence[0]
    item.LUTData = data
    setattr(dataset, keyword, [item])
    shown, copy = read_table(item, signed=False), _table(dataset, keyword)
    assert shown is not None
    assert copy is not None
    size, first, width = copy.LUTDescriptor
    assert (size, first, width, len(copy.LUTData)) == (stated, 100, 16, 2 * stated)
    written = np.frombuffer(copy.LUTData, "<u2").astype(float)
    scale = shown.entries.max() / 0xFFFF if keyword == "VOILUTSequence" else 1.0
    assert np.abs(written * scale - shown.entries).max() <= 0.5 * scale


@pytest.mark.parametrize(("first", "vr"), [(-2048, "SS"), (40_000, "US")])
@pytest.mark.parametrize("size", [4096, 40_000, 65_536])
def test_sizes_and_first_values_beyond_15_bits_can_be_written(first: int, vr: str, size: int) -> None:
    dataset = source(np.arange(size) // 32, size % 65_536, 16)
    dataset.VOILUTSequence[0].add_new("LUTDescriptor", vr, [size % 65_536, first, 16])
    copy = _table(dataset, "VOILUTSequence")
    assert copy is not None
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, copy, implicit_vr=False, little_endian=True)
    again = read_table(pydicom.dcmread(buffer, force=True), signed=first < 0)
    assert again is not None
    assert (again.first, again.size, again.entries.size) == (first, size, size)


def test_what_is_regular_stays_as_it_is() -> None:
    dataset = source(np.arange(4096), 4096, 12)
    copy = _table(dataset, "VOILUTSequence")
    assert copy is not None
    assert copy.LUTDescriptor == dataset.VOILUTSequence[0].LUTDescriptor
    assert copy.LUTData == dataset.VOILUTSequence[0].LUTData


def test_what_is_no_table_is_left_behind() -> None:
    assert _table(source(np.arange(0), 4096, 12), "VOILUTSequence") is None
    assert _table(Dataset(), "VOILUTSequence") is None


@pytest.mark.parametrize(("slope", "expected"), [("0", 1.0), ("0.0", 1.0), ("2", 2.0), ("-1", -1.0)])
def test_a_slope_of_0_is_written_as_the_1_that_was_shown(slope: str, expected: float) -> None:
    dataset, state = Dataset(), Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, "-5"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    _grayscale(state, dataset, None)
    assert (float(state.RescaleSlope), float(state.RescaleIntercept)) == (expected, -5.0)
