"""The quick ways of making and checking results, each held to the library's own way that it stands for."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, get_args

import cv2
import numpy as np
import pydicom
import pytest
from highdicom.sr.utils import collect_evidence
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import dcmwrite

from dicom_io.errors import InvalidResult
from dicom_io.finding import STRONG_EVIDENCE
from dicom_io.header.source_image import sop_instance
from dicom_io.objects import common, presentation_state, structured_report
from dicom_io.objects.common import encode, instance_references
from dicom_io.objects.encoded import Element, Item, read
from dicom_io.objects.validate import _representations
from tests.unit.worker.results.test_result_set import answered, checked, objects, source, tree
from worker.destination_settings import Kind
from worker.results.overlay import _COLOURS, _OPACITY, _overlaid
from worker.settings import Results

VARIANTS: dict[str, dict[str, Any]] = {
    "CR": {},
    "DX": {"modality": "DX"},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
    "little known": dict.fromkeys(
        ("PatientBirthDate", "StudyID", "AccessionNumber", "PatientOrientation", "ImagerPixelSpacing", "StudyTime")
    ),
    "window": {"WindowCenter": [2000, 1000], "WindowWidth": [1500, 800]},
    "German": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
    "Japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "Greek": {"SpecificCharacterSet": "ISO_IR 126", "PatientName": "Διονυσιος"},
}

# ---- reading the written bytes -------------------------------------------------------------------------------------


def plain(dataset: Dataset) -> dict[int, Any]:
    """Return a data set of pydicom's with the bytes of its elements, by its own lazy reading."""
    found: dict[int, Any] = {}
    for element in list(dataset.elements()):
        if element.VR == "SQ":
            found[element.tag] = [plain(item) for item in dataset[element.tag].value]
        elif isinstance(element, RawDataElement):
            found[element.tag] = (element.VR, element.value or b"")
    return found


def ours(item: Item) -> dict[int, Any]:
    return {
        each.tag: [ours(below) for below in each.items] if each.vr == "SQ" else (each.vr, each.value) for each in item
    }


@pytest.mark.parametrize("variant", ["CR", "DX", "MONOCHROME1", "little known", "window", "German", "Japanese"])
def test_the_tree_is_the_one_that_pydicom_reads(variant: str) -> None:
    changes = dict(VARIANTS[variant])
    for result in answered(source(changes.pop("modality", "CR"), **changes)).results:
        meta, written = read(result.data)
        expected, found = plain(pydicom.dcmread(BytesIO(result.data))), ours(written)
        # pydicom has decoded the character set on its own account
        assert {tag: value for tag, value in found.items() if tag in expected} == expected
        assert set(found) - set(expected) <= {0x00080005}
        assert meta.MediaStorageSOPInstanceUID == result.dataset.SOPInstanceUID


def test_long_pixel_data_counts_by_its_length() -> None:
    original = source()
    dataset = objects(answered(original))["secondary-capture"]
    dataset.Rows, dataset.Columns = 256, 256
    dataset.PixelData = bytes(256 * 256 * 3)
    checked(encode(dataset), "secondary-capture", original)
    dataset.PixelData = bytes(256 * 256 * 3 - 2)
    with pytest.raises(InvalidResult, match="another length"):
        checked(encode(dataset), "secondary-capture", original)


@pytest.mark.parametrize("kind", Results().kinds)
def test_an_object_that_was_cut_off_is_found(kind: str) -> None:
    original = source()
    data = {each.kind: each.data for each in answered(original).results}[kind]
    for end in (len(data) - 1, len(data) - 2, len(data) // 2, 200, 100, 0):
        with pytest.raises(InvalidResult):
            checked(data[:end], kind, original)


def damaged(data: bytes, tag: int, length: int) -> bytes:
    """Write another length into the item that follows a sequence's tag."""
    at = data.index(struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"SQ", 0)) + 12
    assert data[at : at + 4] == b"\xfe\xff\x00\xe0"
    return data[: at + 4] + struct.pack("<L", length) + data[at + 8 :]


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFF, 3, 1])
def test_an_item_with_a_wrong_length_is_found(length: int) -> None:
    original = source()
    data = {each.kind: each.data for each in answered(original).results}["structured-report"]
    with pytest.raises(InvalidResult):
        checked(damaged(data, 0x0040A730, length), "structured-report", original)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("UID", "UI", b"1.2.x\0"),
        ("NumericValue", "DS", b"0.9.3 "),
        ("CodeValue", "SH", b"more than sixteen letters "),
        ("ValueType", "CS", b"lower "),
    ],
)
def test_a_value_that_does_not_fit_its_representation_is_found_at_any_depth(
    keyword: str, vr: str, value: bytes
) -> None:
    original = source()
    report = objects(answered(original))["structured-report"]
    tag = pydicom.tag.Tag(keyword)
    for item in tree(report)[1:]:
        below = [item, *item.get("MeasuredValueSequence", []), *item.get("ConceptNameCodeSequence", [])]
        for each in (found for found in below if keyword in found):
            each[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
            each.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding="iso8859")
    with pytest.raises(InvalidResult, match=f"{keyword} is no {vr}"):
        checked(encode(report), "structured-report", original)


@pytest.mark.parametrize(("vr", "size"), [("FL", 6), ("FD", 4), ("US", 1), ("SL", 3)])
def test_a_broken_number_is_found(vr: str, size: int) -> None:
    item = Item([Element(0x00700022, vr, size, bytes(size))])
    with pytest.raises(InvalidResult, match=f"GraphicData is no {vr}"):
        _representations(item, "presentation-state", [], frozenset())


# ---- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["CR", "DX", "little known", "Greek", "Japanese"])
def test_the_bytes_are_those_that_pydicom_writes(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = dict(VARIANTS[variant])
    original = source(changes.pop("modality", "CR"), **changes)
    quick = answered(original)
    with monkeypatch.context() as patch:
        patch.setattr(common, "_prepare", lambda _: None)
        slow = answered(original)
    assert [each.data for each in quick.results] == [each.data for each in slow.results]


def test_what_was_read_is_written_again_as_it_is() -> None:
    for result in answered(source()).results:
        assert encode(pydicom.dcmread(BytesIO(result.data))) == result.data


def test_an_implicit_object_stays_one() -> None:
    dataset = objects(answered(source()))["structured-report"]
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    again = pydicom.dcmread(BytesIO(encode(dataset)))
    assert [item.ConceptNameCodeSequence[0].CodeMeaning for item in tree(again)] == [
        item.ConceptNameCodeSequence[0].CodeMeaning for item in tree(objects(answered(source()))["structured-report"])
    ]


def lut(entries: int = 4096) -> Dataset:
    item = Dataset()
    item.add(DataElement("LUTDescriptor", "US", [entries, 0, 12]))
    item.add(DataElement("LUTData", "OW", np.arange(entries, dtype="<u2").tobytes()))
    item.is_undefined_length_sequence_item = True
    return item


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_a_lut_from_an_item_of_undefined_length_is_repeated(syntax: str) -> None:
    original = source()
    original.VOILUTSequence = [lut()]
    original["VOILUTSequence"].is_undefined_length = True
    original.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    buffer = BytesIO()
    dcmwrite(buffer, original, implicit_vr=syntax == pydicom.uid.ImplicitVRLittleEndian, little_endian=True)
    made = answered(pydicom.dcmread(BytesIO(buffer.getvalue())))
    assert made.left_out == {}
    state = objects(made)[presentation_state.KIND.name]
    repeated = state.SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert (list(repeated.LUTDescriptor), bytes(repeated.LUTData)) == ([4096, 0, 12], lut().LUTData)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_a_source_is_named_as_it_is_called(keyword: str) -> None:
    """A component that begins with 0 is forbidden (PS3.5 9.1), and an archive still has it under that name."""
    uid: dict[str, Any] = {keyword: b"1.2.03.4"}
    original = source(**uid)
    made = answered(original, kinds=get_args(Kind))
    assert made.left_out == {}
    for each in made.results:
        assert b"1.2.03.4" in each.data or each.kind not in (presentation_state.KIND.name, structured_report.KIND.name)
    spoilt = objects(made)[presentation_state.KIND.name]
    spoilt.DeviceUID = "1.2.03.5"
    with pytest.raises(InvalidResult, match="DeviceUID is no UI"):
        checked(encode(spoilt), presentation_state.KIND.name, original)


# ---- evidence ------------------------------------------------------------------------------------------------------


def instance(study: int, series: int, number: int) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.{series}"
    item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"1.2.{study}.{series}.{number}"
    return item


@pytest.mark.parametrize(
    "numbers",
    [[(1, 1, 1)], [(1, 1, 1), (1, 2, 1), (1, 1, 2)], [(1, 1, 1), (1, 1, 1)], [(1, 2, 1), (1, 1, 1), (1, 3, 1)]],
)
def test_evidence_is_grouped_as_highdicom_groups_it(numbers: list[tuple[int, int, int]]) -> None:
    instances = [instance(*each) for each in numbers]
    tree_ = Dataset()
    tree_.ContentSequence = []
    current, other = collect_evidence(instances, tree_, study_instance_uid="1.2.1")
    assert not other
    assert instance_references(map(sop_instance, instances)) == current


# ---- the overlay ---------------------------------------------------------------------------------------------------


def blended(grey: NDArray[np.uint8], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blend pixel by pixel, in float, as the table does for all pairs."""
    height, width = grey.shape
    smooth = np.maximum(cv2.resize(evidence, (width, height), interpolation=cv2.INTER_CUBIC), 0)
    level = cv2.convertScaleAbs(smooth, alpha=255.0 / STRONG_EVIDENCE)
    weight = np.linspace(0, _OPACITY, 256, dtype=np.float32)[level][..., None]
    exact = grey[..., None] * (1 - weight) + weight * _COLOURS[0][level]
    return np.asarray(np.clip(np.rint(exact), 0, 255), np.uint8)


@pytest.mark.parametrize("strongest", [9.0, 4.0, 0.8, 0.0])
def test_the_table_of_blends_is_the_blend(strongest: float) -> None:
    random = np.random.default_rng(5)
    grey = random.integers(0, 256, (300, 260)).astype(np.uint8)
    evidence = strongest * random.random((7, 7), dtype=np.float32)
    found = _overlaid(grey, evidence).astype(np.int64)
    assert np.abs(found - blended(grey, evidence)).max() <= 1  # a half is rounded either way
    assert np.mean(found != blended(grey, evidence)) < 0.01
