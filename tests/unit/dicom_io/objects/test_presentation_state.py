"""The presentation state's transformations of grey: what it takes over from the source, in its own byte order."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRBigEndian

from dicom_io.header.reading import read_dataset
from dicom_io.objects import presentation_state
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from tests.support.tools import tool
from tests.unit.worker.results.test_result_set import PIXELS, answered, objects, raw, source

ENTRIES = 4096
# Of small and large words, and of as many above the next ones as below: swapped bytes would be seen in it.
CURVE = np.round(ENTRIES * np.linspace(0, 1, ENTRIES) ** 2).clip(0, ENTRIES - 1).astype(np.uint16)


def table(bits: int = 12, data: DataElement | None = None, **attributes: bytes) -> Dataset:
    """Return an item of a LUT sequence; `attributes` are bytes that need not be right."""
    item = Dataset()
    item.add(DataElement("LUTDescriptor", "US", [ENTRIES, 0, bits]))
    item.add(data or DataElement("LUTData", "OW", (CURVE << (bits - 12)).astype("<u2").tobytes()))
    for keyword, value in attributes.items():
        raw(item, keyword, "LO", value)
    return item


def state_of(original: Dataset) -> Dataset:
    made = answered(original)
    assert made.left_out == {}
    return objects(made)[presentation_state.KIND.name]


def big_endian(path: Path, keyword: str, vr: str) -> Path:
    """Write a radiograph in Explicit VR Big Endian with a LUT of its own."""
    bits = 16 if keyword == "ModalityLUTSequence" else 12
    words: Any = CURVE.astype(">u2").tobytes() if vr == "OW" else CURVE.tolist()
    made = radiograph(PIXELS, uid_seed="big-endian", modality="CR")
    setattr(made, keyword, [table(bits, DataElement("LUTData", vr, words), ModalityLUTType=b"US")])
    made.PixelData = PIXELS.astype(">u2").tobytes()
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(path, made, enforce_file_format=True)
    return path


def table_in(item: Dataset, keyword: str) -> tuple[list[int], NDArray[np.uint16]]:
    (found,) = item[keyword].value
    data = found.LUTData
    words = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data, np.uint16)
    return list(found.LUTDescriptor), words


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("vr", ["OW", "US"])
def test_a_table_of_a_big_endian_source_keeps_its_values(keyword: str, vr: str, tmp_path: Path) -> None:
    file = big_endian(tmp_path / "source.dcm", keyword, vr)
    original = read_dataset(file)
    state = state_of(original)
    holder = state.SoftcopyVOILUTSequence[0] if keyword == "VOILUTSequence" else state
    descriptor, words = table_in(holder, keyword)
    assert descriptor[:2] == [ENTRIES, 0]
    assert np.array_equal(words, CURVE)
    # DCMTK, which reads both files by itself, shows the same picture as the model saw.
    (tmp_path / "state.dcm").write_bytes(_encoded(state))
    shown = tmp_path / "shown.pgm"
    command = [tool("dcmp2pgm"), "-p", str(tmp_path / "state.dcm"), str(file), str(shown)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = np.frombuffer(shown.read_bytes()[-PIXELS.size :], np.uint8).reshape(PIXELS.shape)
    ours = render(original).values
    assert np.all(np.diff(theirs.ravel()[ours.ravel().argsort(kind="stable")].astype(int)) >= 0)
    assert np.ptp(theirs) > 200


def _encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"VOILUTFunction": b"no such word"}, None),
        ({"VOILUTFunction": b"SIGMOID\\LINEAR"}, "SIGMOID"),
        ({"VOILUTFunction": b"linear_exact"}, "LINEAR_EXACT"),
        ({"VOILUTFunction": b"SIGMOIDAL "}, None),
        ({"VOILUTFunction": b""}, None),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_a_function_that_is_none_counts_as_linear(attributes: dict[str, Any], expected: str | None) -> None:
    original = source(WindowCenter=2000, WindowWidth=1500, **attributes)
    voi = state_of(original).SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth) == (2000, 1500)
    assert voi.get("VOILUTFunction") == expected
    plain = source(WindowCenter=2000, WindowWidth=1500)
    if expected != "SIGMOID":
        assert np.allclose(render(original).values, render(plain).values, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_what_explains_a_table_is_copied_where_it_is_valid() -> None:
    spoilt: dict[str, Any] = {"LUTExplanation": b"x" * 70, "ModalityLUTType": b"y" * 70}
    state = state_of(source(ModalityLUTSequence=[table(16, **spoilt)], VOILUTSequence=[table(**spoilt)]))
    (modality,), (voi,) = state.ModalityLUTSequence, state.SoftcopyVOILUTSequence[0].VOILUTSequence
    assert modality.ModalityLUTType == "US"  # must be there
    assert "LUTExplanation" not in modality
    assert sorted(voi.dir()) == ["LUTData", "LUTDescriptor"]
    told = table(16, LUTExplanation=b"film curve", ModalityLUTType=b"OD")
    (modality,) = state_of(source(ModalityLUTSequence=[told])).ModalityLUTSequence
    assert (modality.LUTExplanation, modality.ModalityLUTType) == ("film curve", "OD")


@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_numbers_too_long_for_a_decimal_string_are_shortened() -> None:
    state = state_of(source(RescaleSlope=b"0.0002442002442002442", RescaleIntercept=b"-1024.00000000000000001"))
    assert float(state.RescaleSlope) == pytest.approx(1 / 4095, rel=1e-9)
    assert state.RescaleIntercept == -1024


def test_a_window_that_cannot_be_applied_is_not_repeated() -> None:
    state = state_of(source(pixels=np.full((128, 96), 7, np.uint16), WindowWidth=0))
    assert "SoftcopyVOILUTSequence" not in state
