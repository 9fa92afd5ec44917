"""The kinds of result that are off until asked for, and pictures as JPEG: what they say, and what is found wrong."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any, get_args

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from dicom_io.errors import InvalidResult, Unsuitable
from dicom_io.finding import STRONG_EVIDENCE, Lungs
from dicom_io.objects.common import device_uid, encode
from dicom_io.objects.encapsulated_pdf import encapsulated_pdf
from dicom_io.objects.jpeg import jpeg
from dicom_io.objects.key_objects import key_objects
from dicom_io.objects.multi_frame_capture import multi_frame_capture
from dicom_io.objects.parametric_map import parametric_map
from tests.unit.dicom_io.objects.test_secondary_capture import made_from
from tests.unit.worker.results.test_result_set import (
    EVIDENCE,
    FINDING,
    MODEL,
    NOW,
    PICTURE,
    answered,
    basis,
    checked,
    objects,
    source,
)
from worker.conformance.statement import statement
from worker.destination_settings import DicomDestination, Kind
from worker.results.kinds import KINDS as TABLE
from worker.results.pdf_report import report_page
from worker.settings import Results, Settings

KINDS = get_args(Kind)
OPTIONAL = tuple(kind for kind in KINDS if kind not in Results().kinds)
CAPTURE = TABLE["secondary-capture"].sop_class


def named(document: Dataset) -> set[str]:
    """Return the SOP instances that a document has as evidence."""
    return {
        instance.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def test_each_kind_is_a_series_of_its_own_made_by_the_same_device() -> None:
    original = source("DX")
    made = objects(answered(original, kinds=KINDS))
    assert set(made) == set(KINDS)
    assert len({each.SeriesInstanceUID for each in made.values()} | {original.SeriesInstanceUID}) == len(KINDS) + 1
    assert {int(made[kind].SeriesNumber) - 9701 for kind in KINDS} == {kind.series_offset for kind in TABLE.values()}
    for each in made.values():
        assert each.StudyInstanceUID == original.StudyInstanceUID
        equipment = each.ContributingEquipmentSequence[0]
        assert {each.DeviceUID, equipment.DeviceUID} == {device_uid(MODEL)}
        assert (each.Manufacturer, each.ManufacturerModelName) == ("cxrd", MODEL.name)
        assert list(each.SoftwareVersions) == list(equipment.SoftwareVersions) == [MODEL.version, MODEL.digest]
        assert each.ContentQualification == "RESEARCH"


def test_report_and_key_objects_name_the_whole_set() -> None:
    original = source("DX")
    made = objects(answered(original, kinds=KINDS))
    uids = {original.SOPInstanceUID} | {each.SOPInstanceUID for each in made.values()}
    report, selection = made["structured-report"], made["key-objects"]
    assert named(selection) == uids - {selection.SOPInstanceUID}
    assert named(report) == uids - {selection.SOPInstanceUID, report.SOPInstanceUID}
    references = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item
        for item in selection.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    # A presentation state is shown with the radiograph it is of.
    state = made["presentation-state"]
    presented = references[original.SOPInstanceUID].ReferencedSOPSequence[0].ReferencedSOPSequence[0]
    assert presented.ReferencedSOPInstanceUID == state.SOPInstanceUID
    assert set(references) == uids - {selection.SOPInstanceUID, state.SOPInstanceUID}
    kinds = {uid: item.ValueType for uid, item in references.items()}
    assert {made[kind].SOPInstanceUID: kinds[made[kind].SOPInstanceUID] for kind in made if kind in OPTIONAL[1:]} == {
        made["parametric-map"].SOPInstanceUID: "IMAGE",
        made["encapsulated-pdf"].SOPInstanceUID: "COMPOSITE",
        made["multi-frame-capture"].SOPInstanceUID: "IMAGE",
    }


def test_they_are_off_until_asked_for_and_the_same_twice() -> None:
    assert set(objects(answered(source()))) == {"secondary-capture", "presentation-state", "structured-report"}
    first, second = answered(source("DX"), kinds=KINDS), answered(source("DX"), kinds=KINDS)
    assert [each.data for each in first.results] == [each.data for each in second.results]
    other = answered(source("DX"), model=replace(MODEL, digest="cd34" * 16), kinds=KINDS)
    assert {each.dataset.SOPInstanceUID for each in first.results}.isdisjoint(
        each.dataset.SOPInstanceUID for each in other.results
    )


def test_key_objects_alone_name_the_radiograph() -> None:
    original = source()
    (selection,) = objects(answered(original, kinds=("key-objects",))).values()
    assert named(selection) == {original.SOPInstanceUID}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID"),
        ({"PatientOrientation": None}, "PatientOrientation"),
        ({"PatientOrientation": ["L", "R"]}, "PatientOrientation"),
        ({"PatientOrientation": "L"}, "PatientOrientation"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": None}, "PixelSpacing"),
    ],
)
def test_a_map_that_cannot_be_laid_over_its_source_is_left_out(attributes: dict[str, Any], words: str) -> None:
    original = source(**attributes)
    with pytest.raises(Unsuitable, match=words):
        parametric_map(basis(original), EVIDENCE)
    made = answered(original, kinds=("secondary-capture", "parametric-map"))
    assert [each.kind for each in made.results] == ["secondary-capture"]
    assert words in made.left_out["parametric-map"]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["L", "F"], [1, 0, 0, 0, 0, -1]),
        (["R", "F"], [-1, 0, 0, 0, 0, -1]),
        (["P", "F"], [0, 1, 0, 0, 0, -1]),
        (["A", "H"], [0, -1, 0, 0, 0, 1]),
        (["LF", "FR"], [1, 0, 0, 0, 0, -1]),
    ],
)
def test_a_map_lies_as_its_source_does(orientation: list[str], expected: list[float]) -> None:
    made = parametric_map(basis(source(PatientOrientation=orientation, PixelSpacing=[0.5, 0.25])), EVIDENCE)
    shared = made.SharedFunctionalGroupsSequence[0]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64)
    assert list(directions) == expected
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    assert np.allclose([float(each) for each in spacing], [0.5 * 128 / 224, 0.25 * 96 / 224], atol=1e-3)
    # From the first cell's centre, half a cell up and to the left is the corner of the source's first pixel.
    first = np.array(shared.PlanePositionSequence[0].ImagePositionPatient, np.float64)
    corner = first - directions[:3] * float(spacing[1]) / 2 - directions[3:] * float(spacing[0]) / 2
    assert np.allclose(corner, -directions[:3] * 0.25 / 2 - directions[3:] * 0.5 / 2, atol=1e-3)


def test_maps_of_two_models_share_a_frame_of_reference_and_no_other_object_has_it() -> None:
    original = source()
    one = parametric_map(basis(original), EVIDENCE)
    other = parametric_map(basis(original, replace(MODEL, version="9")), EVIDENCE)
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID != original.get("FrameOfReferenceUID")
    assert one.SOPInstanceUID != other.SOPInstanceUID


@pytest.mark.parametrize("wrong", [EVIDENCE.astype(np.float64), EVIDENCE[0], np.full((7, 7), np.nan, np.float32)])
def test_a_map_of_something_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="map"):
        parametric_map(basis(source()), wrong)


@pytest.mark.parametrize("strength", [0.0, 0.4, 9.0])
def test_a_weak_map_is_shown_weak(strength: float) -> None:
    made = parametric_map(basis(source()), np.full((224, 224), strength, np.float32))
    shared = made.SharedFunctionalGroupsSequence[0]
    window = shared.FrameVOILUTSequence[0]
    assert (float(window.WindowCenter), float(window.WindowWidth)) == (STRONG_EVIDENCE / 2, STRONG_EVIDENCE)
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert "Log-odds of pneumonia" in mapping.LUTExplanation
    assert "Log-odds of pneumonia" in made.DerivationDescription


def test_wrong_frames_and_pages_are_refused() -> None:
    with pytest.raises(ValueError, match="frames"):
        multi_frame_capture(basis(source()), FINDING, PICTURE[None], ["one"])
    with pytest.raises(ValueError, match="frames"):
        multi_frame_capture(basis(source()), FINDING, np.stack([PICTURE] * 2), ["one"])
    with pytest.raises(ValueError, match="PDF"):
        encapsulated_pdf(basis(source()), b"<html>")


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("multi-frame-capture", lambda d: setattr(d, "NumberOfFrames", 3), "another number of labels"),
        ("multi-frame-capture", lambda d: setattr(d, "Rows", 3), "another length"),
        ("multi-frame-capture", lambda d: d.pop("FrameIncrementPointer"), "FrameIncrementPointer is missing"),
        ("parametric-map", lambda d: setattr(d, "Columns", 8), "another length"),
        ("parametric-map", lambda d: d.pop("FrameOfReferenceUID"), "FrameOfReferenceUID is missing"),
        (
            "parametric-map",
            lambda d: d.SharedFunctionalGroupsSequence[0].pop("PlanePositionSequence"),
            "PlanePositionSequence is missing",
        ),
        (
            "parametric-map",
            lambda d: d.SharedFunctionalGroupsSequence[0].pop("RealWorldValueMappingSequence"),
            "RealWorldValueMappingSequence",
        ),
        (
            "parametric-map",
            lambda d: d.PerFrameFunctionalGroupsSequence[0].pop("DerivationImageSequence"),
            "refer to the source",
        ),
        ("encapsulated-pdf", lambda d: setattr(d, "EncapsulatedDocumentLength", 10), "another length"),
        ("encapsulated-pdf", lambda d: setattr(d, "EncapsulatedDocument", b"GIF89a"), "no PDF"),
        ("encapsulated-pdf", lambda d: d.pop("SourceInstanceSequence"), "SourceInstanceSequence is missing"),
        ("key-objects", lambda d: d.ContentSequence.pop(), "differ"),
        ("key-objects", lambda d: d.pop("ContentTemplateSequence"), "ContentTemplateSequence is missing"),
        ("key-objects", lambda d: setattr(d, "DeviceUID", "not a UID"), "DeviceUID is no UI"),
    ],
)
def test_a_spoilt_object_is_found(kind: str, spoil: Any, words: str) -> None:
    original = source()
    dataset = objects(answered(original, kinds=KINDS))[kind]
    checked(encode(dataset), kind, original)
    spoil(dataset)
    with pytest.raises(InvalidResult, match=words):
        checked(encode(dataset), kind, original)


def test_a_selection_that_lost_its_radiograph_is_found() -> None:
    others = [objects(answered(source()))["secondary-capture"]]
    selection = key_objects(basis(source()), others)
    stranger = source()
    stranger.SOPInstanceUID = "1.2.3"
    with pytest.raises(InvalidResult, match="refer to the source"):
        checked(encode(selection), "key-objects", stranger)


def test_the_page_is_the_same_twice_and_tells_what_is_doubtful() -> None:
    import pypdf

    doubtful = replace(FINDING, prediction_set=(), lungs=Lungs(0.18, 1))
    first, second = (report_page(PICTURE, finding=doubtful, identity=MODEL, created=NOW) for _ in range(2))
    assert first == second
    words = pypdf.PdfReader(BytesIO(first)).pages[0].extract_text()
    for expected in (
        "Uncertain: cannot tell",
        "0.9340",
        "neither answer is likely",
        "only one lung found",
        "1 found, 18% of the image",
        "right lower, left middle",
        "2026-01-02 23:04 -05:00",
        MODEL.digest,
    ):
        assert expected in words


# ---- JPEG ----------------------------------------------------------------------------------------------------------


def in_jpeg(original: Dataset | None = None, quality: int = 90) -> Dataset:
    return pydicom.dcmread(BytesIO(encode(made_from(original or source("DX"), rgb=PICTURE, jpeg_quality=quality))))


def test_a_jpeg_picture_is_another_object_that_says_what_it_lost() -> None:
    plain, lossy, worse = made_from(source("DX"), rgb=PICTURE), in_jpeg(), in_jpeg(quality=60)
    assert len({each.SOPInstanceUID for each in (plain, lossy, worse)}) == 3
    assert len({each.SeriesInstanceUID for each in (plain, lossy, worse)}) == 3
    assert lossy.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (lossy.PhotometricInterpretation, lossy.LossyImageCompression) == ("YBR_FULL_422", "01")
    assert lossy.LossyImageCompressionMethod == "ISO_10918_1"
    assert float(lossy.LossyImageCompressionRatio) == round(PICTURE.nbytes / len(jpeg(PICTURE, 90)), 2)
    assert encode(in_jpeg()) == encode(lossy)
    smooth = np.tile(np.linspace(20, 230, 96, dtype=np.uint8)[None, :, None], (64, 1, 3))
    shown = pydicom.dcmread(BytesIO(encode(made_from(source(), rgb=smooth, jpeg_quality=90)))).pixel_array
    assert np.abs(shown.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    ("before", "methods"),
    [
        ({"LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_15444_1"}, ["ISO_15444_1"]),
        ({"LossyImageCompressionMethod": "ISO_15444_1"}, []),  # without its ratio it cannot stand in the list
    ],
)
def test_the_source_s_loss_comes_first(before: dict[str, Any], methods: list[str]) -> None:
    made = in_jpeg(source("DX", LossyImageCompression="01", **before))
    listed = made.LossyImageCompressionMethod
    assert ([listed] if isinstance(listed, str) else list(listed)) == [*methods, "ISO_10918_1"]


# ---- the statement -------------------------------------------------------------------------------------------------


def test_the_conformance_statement_tells_of_them_where_they_are_asked_for() -> None:
    from modeltrain.model.card import load_card, shipped_model

    card = load_card(shipped_model())
    node = DicomDestination(name="pacs", host="10.0.0.5", port=104, ae_title="PACS", kinds=("key-objects",))
    asked = Settings(results=Results(kinds=KINDS, jpeg_quality=90), destinations=(node,))
    said, unsaid = statement(asked, card), statement(Settings(results=Results(jpeg_quality=None)), card)
    for words in (
        "| key-objects | Key Object Selection Document Storage | KO | 9704 |",
        "| parametric-map | Parametric Map Storage | OT | 9705 |",
        "| encapsulated-pdf | Encapsulated PDF Storage | DOC | 9706 |",
        "| multi-frame-capture | Multi-frame True Color Secondary Capture Image Storage | OT | 9707 |",
        "JPEG Baseline (quality 90)",
        "130403",
        "113000",
    ):
        assert words in said
        assert words not in unsaid
    assert "| pacs | PACS | 10.0.0.5:104 | CXRD | Key Object Selection Document Storage |" in said
