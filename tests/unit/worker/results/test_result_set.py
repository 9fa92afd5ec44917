"""Report and presentation state beside the Secondary Capture: one linked set, held to tools that others wrote."""

from __future__ import annotations

import datetime as dt
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

from dicom_io.errors import InvalidResult, UnreadableObject
from dicom_io.finding import Finding, Lungs, ModelIdentity, Orientation
from dicom_io.header.source_image import sop_instance, source_image
from dicom_io.objects import presentation_state, secondary_capture, structured_report
from dicom_io.objects.common import Basis, device_uid, encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.objects.validate import check
from dicom_io.objects.validate_kinds import RULES
from dicom_io.pixels.render import Rendered, render
from tests.support.answers import REGIONS
from tests.support.tools import tool
from worker.destination_settings import Kind
from worker.inference.analyzer import Reading
from worker.results.kinds import KINDS
from worker.results.pictures import Pictures
from worker.results.result_set import Predecessors, ResultSet, make
from worker.settings import Results

MODEL = ModelIdentity("cxr-pneumonia-resnet18", "1.1.0", "ab12" * 16)
LUNGS = Lungs(
    0.31, 2, contours=(((8.0, 10.0), (44.0, 10.0), (44.0, 110.0)), ((52.0, 10.0), (90.0, 10.0), (90.0, 110.0)))
)
FINDING = Finding(0.934, "PNEUMONIA", 0.41, "screening", ("PNEUMONIA",), 0.4, "virus", 0.6, REGIONS[:2], LUNGS, 2.6)
NORMAL = Finding(0.02, "NORMAL", 0.41, "screening", ("NORMAL",), 0.4, lungs=LUNGS)
NOW = dt.datetime(2026, 1, 2, 23, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
PIXELS = np.linspace(0, 4095, 128 * 96).astype(np.uint16).reshape(128, 96)
EVIDENCE = np.linspace(0, 5, 224 * 224, dtype=np.float32).reshape(224, 224)
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def source(modality: str = "CR", pixels: NDArray[Any] = PIXELS, **attributes: Any) -> Dataset:
    made = radiograph(pixels, uid_seed="set", modality=modality)
    for keyword, value in attributes.items():
        if value is None:
            del made[keyword]
        elif isinstance(value, bytes) and keyword != "PixelData":  # right or wrong
            raw(made, keyword, dictionary_VR(keyword), value)
        else:
            setattr(made, keyword, value)
    return pydicom.dcmread(BytesIO(encode(made)))


def eight_bits() -> dict[str, Any]:
    """Return what makes a source of 8 bits stored in 8: the phantom spreads what it is given over 12 in 16."""
    values = (PIXELS // 16).astype(np.uint8)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    return {"PixelData": values.tobytes(), **bits}


class Drawn(Pictures):
    """Pictures that somebody else has drawn: here black ones, and noise."""

    def __init__(self) -> None:
        self.main = np.zeros_like(PICTURE)
        self.frames = np.stack([self.main, PICTURE])


def answered(
    original: Dataset,
    finding: Finding = FINDING,
    model: ModelIdentity = MODEL,
    before: Predecessors | None = None,
    *,
    again: bool = False,
    **settings: Any,
) -> ResultSet:
    settings = {"jpeg_quality": None} | settings  # bytes that depend on no codec
    shown = render(original) if "PixelData" in original else Rendered(np.zeros((2, 2), np.float32), 1.0)
    zeros = np.zeros((7, 7), np.float32)
    reading = Reading(finding, EVIDENCE, shown, zeros)
    return make(source_image(original), reading, model, Results(**settings), NOW, before, Drawn(), again=again)


def checked(data: bytes, kind: str, original: Dataset) -> None:
    """Hold an object to the standard and to its source."""
    check(data, KINDS[kind].dicom, source_image(original))


def basis(original: Dataset, identity: ModelIdentity = MODEL) -> Basis:
    return Basis(source_image(original), identity, NOW, series_number=9, series_description="test")


def objects(made: ResultSet) -> dict[str, Dataset]:
    return {result.kind: pydicom.dcmread(BytesIO(result.data)) for result in made.results}


def tree(item: Dataset) -> list[Dataset]:
    below = [each for child in item.get("ContentSequence", []) for each in tree(child)]
    return [item, *below]


def coded(report: Dataset) -> dict[str, str]:
    """Return the report's codes and numbers by the meaning of their names."""
    found = {}
    for item in tree(report)[1:]:
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "CODE":
            found[name] = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            found[name] = str(item.MeasuredValueSequence[0].NumericValue)
    return found


def test_three_series_of_one_study_made_by_one_device() -> None:
    original = source()
    made = objects(answered(original))
    kinds = [kind for kind in KINDS if kind in Results().kinds]
    assert list(made) == kinds
    assert {each.StudyInstanceUID for each in made.values()} == {original.StudyInstanceUID}
    assert len({each.SeriesInstanceUID for each in made.values()} | {original.SeriesInstanceUID}) == 4
    assert sorted(int(each.SeriesNumber) for each in made.values()) == [9701, 9702, 9703]
    assert [made[kind].Modality for kind in kinds] == ["OT", "PR", "SR"]
    for each in made.values():
        equipment = each.ContributingEquipmentSequence[0]
        assert {each.DeviceUID, equipment.DeviceUID} == {device_uid(MODEL)}
        assert (each.Manufacturer, equipment.Manufacturer, each.ManufacturerModelName) == ("cxrd", "cxrd", MODEL.name)
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert each.ContentQualification == "RESEARCH"
    observer = [item for item in tree(made["structured-report"]) if item.get("ValueType") == "UIDREF"]
    assert device_uid(MODEL) == observer[0].UID


def test_other_weights_are_another_device() -> None:
    assert device_uid(replace(MODEL, digest="cd34" * 16)) != device_uid(MODEL)


def test_the_report_names_the_whole_set_as_evidence() -> None:
    original = source()
    made = objects(answered(original))
    (study,) = made["structured-report"].CurrentRequestedProcedureEvidenceSequence
    named = {
        (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    rest = made["structured-report"].get("PertinentOtherEvidenceSequence", [])
    assert not rest
    expected = [original, made["secondary-capture"], made["presentation-state"]]
    assert named == {(each.SeriesInstanceUID, each.SOPInstanceUID) for each in expected}


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (FINDING, "Present"),
        (NORMAL, "Absent"),
        (replace(FINDING, prediction_set=("NORMAL", "PNEUMONIA")), "Indeterminate"),
        (replace(NORMAL, prediction_set=()), "Indeterminate"),
        (replace(NORMAL, outlier=1.2), "Indeterminate"),
        (replace(NORMAL, prediction_set=None), "Absent"),
    ],
)
def test_the_report_says_present_absent_or_indeterminate(finding: Finding, expected: str) -> None:
    report = objects(answered(source(), finding))["structured-report"]
    told = coded(report)
    assert (told["Finding"], told["Presence"]) == ("Pneumonia", expected)
    if finding.answered:
        assert float(told["Probability"]) == pytest.approx(100 * finding.probability)  # percent
    else:
        assert "Probability" not in told
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def regions(report: Dataset) -> list[Dataset]:
    """Return the groups of measurements that have a region."""
    groups = [item for item in tree(report) if "Group" in item.ConceptNameCodeSequence[0].CodeMeaning]
    return [group for group in groups if any(each.ValueType == "SCOORD" for each in group.get("ContentSequence", []))]


def test_each_region_is_on_the_source_image_in_both() -> None:
    original = source()
    made = objects(answered(original))
    groups = regions(made["structured-report"])
    graphics = made["presentation-state"].GraphicAnnotationSequence[0].GraphicObjectSequence
    assert len(groups) == len(graphics) / 2 == 2
    uids: list[str] = []
    for number, (group, region) in enumerate(zip(groups, REGIONS, strict=False)):
        items = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group.ContentSequence}
        expected = [*region.contour, region.contour[0]]
        (outlined,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
        assert np.allclose(np.reshape(outlined.GraphicData, (-1, 2)), expected)
        image = outlined.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == original.SOPInstanceUID
        outline, box = graphics[2 * number : 2 * number + 2]
        left, top, right, bottom = region.box
        assert np.allclose(np.reshape(outline.GraphicData, (-1, 2)), expected)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        assert np.allclose(np.reshape(box.GraphicData, (-1, 2)), corners)
        uid = items["Tracking Unique Identifier"].UID
        assert uid == outline.TrackingUID == box.TrackingUID
        named = f"cxrd evidence {number + 1} {region.zone}"  # no side is guessed
        assert named == items["Tracking Identifier"].TextValue == outline.TrackingID
        assert items["Presence"].ConceptCodeSequence[0].CodeMeaning == "Present"
        assert "Probability" not in items  # the image has one, and no region of it
        uids.append(uid)
    # The image's own group has the first region's UID: one finding.
    everywhere = [item.UID for item in tree(made["structured-report"]) if item.get("ValueType") == "UIDREF"]
    assert [each for each in everywhere if each in uids] == [uids[0], *uids]
    assert len(set(uids)) == 2


@pytest.mark.parametrize("zone", ["upper", "middle", "lower"])
@pytest.mark.parametrize(("side", "laterality"), [("right", "24028007"), ("left", "7771000")])
def test_side_and_zone_are_coded(side: str, laterality: str, zone: str) -> None:
    # PS3.16 CID 6171 (Zone of Lung) and CID 244 (Laterality)
    zones = {"upper": "281392002", "middle": "281393007", "lower": "281394001"}
    region = replace(REGIONS[0], side=side, zone=zone)
    finding = replace(FINDING, regions=(region,), orientation=Orientation.FACING)
    (group,) = regions(objects(answered(source(), finding))["structured-report"])
    (site,) = [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Finding Site"]
    assert site.ConceptCodeSequence[0].CodeValue == zones[zone]
    assert site.ConceptCodeSequence[0].CodeMeaning.lower().startswith(zone)
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == laterality
    unstated = replace(finding, orientation=Orientation.UNSTATED)
    (group,) = regions(objects(answered(source(), unstated))["structured-report"])
    (site,) = [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Finding Site"]
    assert "ContentSequence" not in site  # a side is not guessed


def test_a_region_without_a_place_has_no_finding_site() -> None:
    report = objects(answered(source(), replace(FINDING, regions=REGIONS[2:])))["structured-report"]
    assert len(regions(report)) == 1
    assert "Finding Site" not in {item.ConceptNameCodeSequence[0].CodeMeaning for item in tree(report)[1:]}


def test_a_second_reading_s_series_name_the_model_s_version() -> None:
    first, second = (objects(answered(source(), again=again, kinds=get_args(Kind))) for again in (False, True))
    for kind, each in second.items():
        assert each.SeriesDescription == f"{first[kind].SeriesDescription}, 1.1.0"
    long = answered(source(), model=replace(MODEL, version="9" * 80), again=True, series_description="x" * 64)
    for each in objects(long).values():
        assert len(each.SeriesDescription) <= 64
        assert each.SeriesDescription.endswith(", " + "9" * 32)


def test_an_image_that_was_not_analysed_can_be_reported() -> None:
    report = structured_report.structured_report(basis(source()), None, reason="lateral view")
    checked(encode(report), "structured-report", source())
    assert coded(report)["Presence"] == "Indeterminate"
    assert any("lateral view" in item.get("TextValue", "") for item in tree(report))


def test_a_newer_report_points_to_its_predecessor() -> None:
    older = objects(answered(source(), model=replace(MODEL, version="1.0.0")))["structured-report"]
    newer = structured_report.structured_report(basis(source()), NORMAL, predecessors=[sop_instance(older)])
    series = newer.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == older.SOPInstanceUID
    assert newer.SOPInstanceUID != older.SOPInstanceUID


def test_a_newer_page_points_to_its_predecessor(tmp_path: Path) -> None:
    kinds = ("encapsulated-pdf", "structured-report")
    older = objects(answered(source(), model=replace(MODEL, version="1.0.0"), kinds=kinds))
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    before = {kind: {uid: str(each[uid].value) for uid in uids} for kind, each in older.items()}
    for kind, each in objects(answered(source(), before=before, kinds=kinds)).items():
        (study,) = each.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (
            older[kind].StudyInstanceUID,
            older[kind].SeriesInstanceUID,
        )
        assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == older[kind].SOPInstanceUID
        path = tmp_path / f"{kind}.dcm"
        each.save_as(path)
        said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
        assert "Error" not in said.stderr
        assert "PredecessorDocuments" not in said.stderr


def request(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def test_documents_name_the_order_that_the_image_was_made_for() -> None:
    meant = {"CodeValue": "XTHOR", "CodingSchemeDesignator": "L", "CodeMeaning": "Thorax"}
    unfit = {"CodeValue": "X2", "CodingSchemeDesignator": "L", "CodeMeaning": "Thorax in zwei Ebenen, ä"}
    asked = request(
        RequestedProcedureID="RP1",
        RequestedProcedureDescription="Thorax prüfen",
        ScheduledProcedureStepID="SPS1",
        RequestedProcedureCodeSequence=[request(**meant), request(**unfit)],
    )
    further = request(RequestedProcedureID="RP2", AccessionNumber="A2", RequestedProcedureDescription="x" * 70)
    original = source(
        SpecificCharacterSet="ISO_IR 100", AccessionNumber="A1", RequestAttributesSequence=[asked, further]
    )
    made = objects(answered(original, kinds=get_args(Kind)))
    for kind in ("structured-report", "key-objects"):
        assert "RequestAttributesSequence" not in made[kind]
        first, second = made[kind].ReferencedRequestSequence
        assert (first.StudyInstanceUID, first.AccessionNumber) == (original.StudyInstanceUID, "A1")
        assert (first.RequestedProcedureID, first.RequestedProcedureDescription) == ("RP1", "Thorax prüfen")
        assert [each.CodeValue for each in first.RequestedProcedureCodeSequence] == ["XTHOR"]
        assert (second.RequestedProcedureID, second.AccessionNumber) == ("RP2", "A2")
        assert second.RequestedProcedureDescription == ""  # what is no long string is not told
        assert len(first.ReferencedStudySequence) == 0
    assert len(made["secondary-capture"].RequestAttributesSequence) == 2
    assert "ReferencedRequestSequence" not in objects(answered(source()))["structured-report"]


def test_a_source_without_a_series_gets_the_capture_alone() -> None:
    made = answered(source(SeriesInstanceUID=None))
    assert [result.kind for result in made.results] == ["secondary-capture"]
    assert set(made.left_out) == {"structured-report", "presentation-state"}
    assert "SeriesInstanceUID" in made.left_out["structured-report"]
    with pytest.raises(InvalidResult, match="SeriesInstanceUID"):
        answered(source(SeriesInstanceUID=None), kinds=("structured-report",))
    with pytest.raises(UnreadableObject):
        answered(source(StudyInstanceUID=None))


BOTH = {"structured-report", "presentation-state"}


def sequence(**attributes: Any) -> list[Dataset]:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def raw(original: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put bytes into a data set that its value representation does not allow."""
    tag = pydicom.tag.Tag(keyword)
    original[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@pytest.mark.parametrize(
    ("spoil", "left_out"),
    [
        # what a kind needs
        (lambda d: d.pop("SeriesInstanceUID"), BOTH),
        (lambda d: setattr(d, "SeriesInstanceUID", ""), BOTH),
        (lambda d: d.pop("Rows"), BOTH),
        (lambda d: setattr(d, "Columns", 0), BOTH),
        (lambda d: raw(d, "Columns", "US", b"abc"), BOTH),
        # what a kind repeats and cannot
        (lambda d: setattr(d, "VOILUTSequence", sequence(LUTDescriptor=[4, 0, 12])), set()),
        (lambda d: raw(d, "WindowWidth", "DS", b"wide"), set()),
        (lambda d: raw(d, "WindowCenter", "DS", b"1.23456789012e+300"), set()),
        (lambda d: raw(d, "RescaleSlope", "DS", b"?"), set()),
        (lambda d: setattr(d, "ModalityLUTSequence", sequence(LUTDescriptor=[1, 0, 16], LUTData=b"ab")), set()),
        (lambda d: setattr(d, "ModalityLUTSequence", sequence(LUTExplanation="x" * 60)), set()),
        (lambda d: raw(d, "VOILUTFunction", "CS", b"no such word"), set()),
        (lambda d: raw(d, "RescaleSlope", "DS", b"0.0002442002442002442"), set()),
        # what is only passed on, or stands for nothing
        (lambda d: raw(d, "PatientWeight", "DS", b"heavy "), set()),
        (lambda d: raw(d, "PatientBirthDate", "DA", b"1.1.2020"), set()),
        (lambda d: raw(d, "AccessionNumber", "SH", b"x" * 40), set()),
        (lambda d: raw(d, "SpecificCharacterSet", "CS", b"ISO_IR 999"), set()),
        (lambda d: raw(d, "ImagerPixelSpacing", "DS", b"0.1"), set()),
        (lambda d: raw(d, "PatientOrientation", "CS", b"L"), set()),
        (lambda d: setattr(d, "ProcedureCodeSequence", sequence(CodeValue="1")), set()),
        (lambda d: setattr(d, "ProcedureCodeSequence", [Dataset()]), set()),
        (lambda d: raw(d, "RequestAttributesSequence", "SQ", b"not a sequence"), set()),
        (lambda d: delattr(d, "file_meta"), set()),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_what_a_source_lacks_leaves_out_just_what_needs_it(spoil: Any, left_out: set[str]) -> None:
    original = source()
    rendered = render(original)
    spoil(original)
    zeros = np.zeros((7, 7), np.float32)
    made = make(
        source_image(original), Reading(FINDING, EVIDENCE, rendered, zeros), MODEL, Results(), NOW, pictures=Drawn()
    )
    assert set(made.left_out) == left_out
    assert {each.kind for each in made.results} == set(Results().kinds) - left_out
    assert all(made.left_out.values())


@pytest.mark.parametrize("broken", Results().kinds)
def test_a_kind_that_cannot_be_made_does_not_keep_the_others(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {each.KIND.name: each for each in (secondary_capture, presentation_state, structured_report)}[broken]

    def fail(*_: object, **__: object) -> Dataset:
        raise ValueError("Doe^Jane")

    monkeypatch.setattr(module, broken.replace("-", "_"), fail)
    made = answered(source())
    assert [each.kind for each in made.results] == [
        kind for kind in KINDS if kind in Results().kinds and kind != broken
    ]
    assert "unexpected ValueError at" in made.left_out[broken]
    assert "Jane" not in made.left_out[broken]
    for result in made.results:
        checked(result.data, result.kind, source())


def test_only_the_kinds_that_are_asked_for() -> None:
    made = answered(source(), kinds=("structured-report",))
    assert [result.kind for result in made.results] == ["structured-report"]


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("secondary-capture", lambda d: setattr(d, "Rows", 3), "another length"),
        ("secondary-capture", lambda d: d.pop("DeviceUID"), "DeviceUID is missing"),
        ("secondary-capture", lambda d: setattr(d, "SourceImageSequence", [Dataset()]), "refer to the source"),
        ("presentation-state", lambda d: setattr(d, "ContentLabel", "lower case"), "ContentLabel is no CS"),
        (
            "presentation-state",
            lambda d: setattr(d.GraphicAnnotationSequence[0].GraphicObjectSequence[0], "GraphicData", [1.0, 1e6] * 4),
            "leaves the image",
        ),
        ("presentation-state", lambda d: setattr(d.GraphicLayerSequence[0], "GraphicLayer", "X"), "names no layer"),
        ("structured-report", lambda d: setattr(d, "StudyInstanceUID", "1.2.3"), "not the source's"),
        ("structured-report", lambda d: d.pop("CurrentRequestedProcedureEvidenceSequence"), "missing or empty"),
        ("structured-report", lambda d: d.ContentSequence[-1].pop("RelationshipType"), "RelationshipType"),
    ],
)
def test_a_spoilt_object_is_found(kind: str, spoil: Any, words: str) -> None:
    original = source()
    dataset = objects(answered(original))[kind]
    checked(encode(dataset), kind, original)
    spoil(dataset)
    with pytest.raises(InvalidResult, match=words):
        checked(encode(dataset), kind, original)


def test_an_object_that_fails_its_check_is_not_sent_and_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presentation_state, "LABEL", "not a code string")
    made = answered(source())
    assert [result.kind for result in made.results] == ["secondary-capture", "structured-report"]
    assert made.left_out == {"presentation-state": "failed: ContentLabel is no CS"}
    with pytest.raises(InvalidResult, match=r"^presentation-state: ContentLabel is no CS$"):
        answered(source(), kinds=("presentation-state",))


def test_an_object_that_cannot_be_made_for_a_reason_nobody_thought_of_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unforeseen: dict[str, Dataset] = {}
    monkeypatch.setattr(presentation_state, "presentation_state", lambda *_, **__: unforeseen["PatientName"])
    made = answered(source())
    assert "PatientName" not in made.left_out["presentation-state"]
    assert made.left_out["presentation-state"].startswith("failed: unexpected KeyError")


def test_the_same_twice() -> None:
    first, second = answered(source("DX")), answered(source("DX"))
    assert [each.data for each in first.results] == [each.data for each in second.results]


# ---- tools that others wrote ---------------------------------------------------------------------------------------

SHOWN: dict[str, dict[str, Any]] = {
    "CR": {},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
    "8 bits": eight_bits(),
    "15 bits": {"pixels": PIXELS * 8, "BitsStored": 15, "HighBit": 14},
    "window": {"WindowCenter": [2000, 1000], "WindowWidth": [1500, 800]},
}


@pytest.mark.parametrize("variant", SHOWN)
def test_dcmtk_shows_through_the_presentation_state_what_the_model_saw(variant: str, tmp_path: Path) -> None:
    original = source(**SHOWN[variant])
    made = answered(original)
    state = next(each for each in made.results if each.kind == presentation_state.KIND.name)
    (tmp_path / "state.dcm").write_bytes(state.data)
    (tmp_path / "source.dcm").write_bytes(encode(original))
    shown = tmp_path / "shown.pgm"
    command = [tool("dcmp2pgm"), "-p", str(tmp_path / "state.dcm"), str(tmp_path / "source.dcm"), str(shown)]
    subprocess.run(command, check=True, capture_output=True)
    header, values = shown.read_bytes().split(b"255\n", 1)
    assert header.startswith(b"P5")
    theirs = np.frombuffer(values[-PIXELS.size :], np.uint8).reshape(PIXELS.shape) / 255
    ours = render(original).values
    # DCMTK passes the values on to a display's curve (GSDF): the order of grey stays, their spacing need not.
    ranks = [each.ravel().argsort(kind="stable").argsort(kind="stable") for each in (theirs, ours)]
    correlation = np.asarray(np.corrcoef(np.stack(ranks).astype(np.float64)))
    assert correlation[0, 1] > 0.99


def test_kinds_are_what_the_settings_name() -> None:
    assert set(get_args(Kind)) == set(KINDS) == {kind.name for kind in KINDS.values()} == set(RULES)
    assert set(Results().kinds) == {"secondary-capture", "presentation-state", "structured-report"}
    assert sorted(kind.series_offset for kind in KINDS.values()) == list(range(len(KINDS)))
    for different in ("sop_class", "suffix", "description"):
        assert len({getattr(kind, different) for kind in KINDS.values()}) == len(KINDS)
