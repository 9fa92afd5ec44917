"""Tables in all the forms that they come in: each is read as the table that was meant, or counts as absent."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from worker.demo.phantom import draw

CHEST = draw(seed=2, rows=200, cols=180).astype(np.uint16) * 16
CURVE = np.rint(4095 * (np.arange(4096) / 4095) ** 1.5).astype(np.uint16)
WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096"}


def table(data: bytes, descriptor: list[int], vr: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", vr, data)
    return item


def shown(*items: Dataset, pixels: NDArray[Any] = CHEST, **attributes: Any) -> NDArray[np.float32]:
    bare: dict[str, Any] = {"WindowCenter": None, "WindowWidth": None, "VOILUTSequence": list(items)}
    return render(radiograph(pixels, uid_seed="tables", modality="CR", **bare | attributes)).values


def words(entries: NDArray[Any]) -> bytes:
    return entries.astype("<u2").tobytes()


def packed(entries: NDArray[Any]) -> bytes:
    return entries.astype(np.uint8).tobytes()


MEANT = shown(table(words(CURVE), [4096, 0, 12]))
FORMS = {
    # A width of 8 bits is stated, and the length says words: a short table is no packed one.
    "words though 8 bits are stated": table(words(CURVE), [4096, 0, 8]),
    "words though 8 bits are stated, one missing": table(words(CURVE[:-1]), [4096, 0, 8]),
    "words though 8 bits are stated, some missing": table(words(CURVE[:-20]), [4096, 0, 8]),
    "words though 8 bits are stated, some too many": table(words(CURVE), [4090, 0, 8]),
    "bytes": table(packed(CURVE >> 4), [4096, 0, 8]),
    "bytes as such": table(packed(CURVE >> 4), [4096, 0, 8], "OB"),
    "bytes, some missing": table(packed(CURVE[:-20] >> 4), [4096, 0, 8]),
    "bytes, some too many": table(packed(CURVE >> 4), [4090, 0, 8]),
    "words of 8 bits": table(words(CURVE >> 4), [4096, 0, 8]),
}


@pytest.mark.parametrize("name", FORMS)
def test_width_follows_from_stated_bits_and_length_together(name: str) -> None:
    assert np.abs(shown(FORMS[name]) - MEANT).max() < 0.01


@pytest.mark.parametrize("kind", ["OB", "OW"])
def test_packed_bytes_in_big_endian(kind: str) -> None:
    steps = (np.arange(4096) % 2 * 128).astype(np.uint16)  # neighbours differ, so that their order shows
    data = packed(steps) if kind == "OB" else packed(steps.reshape(-1, 2)[:, ::-1])
    pixels = (CHEST | (CHEST >> 4 & 1)).astype(np.uint16)
    dataset = radiograph(pixels, uid_seed="big", modality="CR", WindowCenter=None, WindowWidth=None)
    dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset.VOILUTSequence = [table(data, [4096, 0, 8], kind)]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    buffer.seek(0)
    expected = shown(table(words(steps), [4096, 0, 8]), pixels=pixels)
    assert 0.2 < expected.mean() < 0.8
    assert np.array_equal(render(pydicom.dcmread(buffer)).values, expected)


def test_the_first_item_that_is_a_table_counts() -> None:
    empty = table(b"", [4096, 0, 12])
    assert np.array_equal(shown(Dataset(), empty, table(words(CURVE), [4096, 0, 12])), MEANT)


def test_first_value_has_the_sign_of_what_the_rescaling_makes() -> None:
    """Pixels may be signed and their rescaled values not: 40,000 is then no negative number (C.11.2.1.1)."""
    signed = (CHEST.astype(np.int32) - 2048).astype(np.int16).view(np.uint16)
    rescaled: dict[str, Any] = {"PixelRepresentation": 1, "RescaleSlope": "1", "RescaleIntercept": "42048"}
    for first in (40_000, 40_000 - 65_536):
        values = shown(table(words(CURVE), [4096, first, 12]), pixels=signed, BitsStored=16, HighBit=15, **rescaled)
        assert np.abs(values - MEANT).max() < 1e-6


def test_a_window_stands_in_for_a_table_that_hides_the_image() -> None:
    hiding = table(words(np.r_[0, np.full(4095, 4095)]), [4096, 0, 12])
    assert np.array_equal(shown(hiding, **WINDOW), shown(**WINDOW))
