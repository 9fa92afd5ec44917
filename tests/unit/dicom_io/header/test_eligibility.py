"""Which headers are analysed, and the words for why the others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.tag import Tag

from dicom_io.errors import CxrdError
from dicom_io.header.eligibility import age_years, judge
from dicom_io.header.reading import read_header
from dicom_io.header.rules import Rules
from dicom_io.objects.radiograph import radiograph
from tests.support.shared import shared


def header(modality: str = "CR", **attributes: Any) -> Dataset:
    """Make a frontal chest of a child of four; attributes by keyword, None removes one."""
    return radiograph(np.zeros((2, 2), np.uint16), uid_seed="rules", modality=modality, **attributes)


def code(value: str, scheme: str = "SCT") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "x"
    return [item]


def equipment(manufacturer: str) -> list[Dataset]:
    item = Dataset()
    item.Manufacturer = manufacturer
    return [item]


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"

ANALYSED: list[dict[str, Any]] = [
    {},
    {"modality": "DX"},
    {"BodyPartExamined": "chest "},
    {"BodyPartExamined": "THORAX", "ViewPosition": "PA"},
    {"BodyPartExamined": None},
    {"BodyPartExamined": ""},
    {"BodyPartExamined": None, "AnatomicRegionSequence": code("51185008")},
    {"BodyPartExamined": None, "AnatomicRegionSequence": code("816094009")},
    {"BodyPartExamined": None, "AnatomicRegionSequence": code("T-D3000", "SRT")},
    {"ViewPosition": None},
    {"ViewPosition": "Antero_Posterior"},
    {"ViewPosition": None, "ViewCodeSequence": code("399348003")},
    {"ViewPosition": None, "ViewCodeSequence": code("R-10214", "SRT")},
    {"ViewPosition": None, "ProtocolName": "Thorax p.a. + lat."},
    {"ViewPosition": None, "ProtocolName": "Platelet count"},
    {"ImageType": None},
    {"ImageType": "ORIGINAL PRIMARY"},
    {"ImageType": ["DERIVED", "PRIMARY"], "DerivationCodeSequence": code("113040", "DCM")},
    {"SOPClassUID": SECONDARY_CAPTURE},
    {"SOPClassUID": SECONDARY_CAPTURE, "ImageType": None},
    {"PatientSpeciesDescription": "Homo sapiens"},
    {"Manufacturer": "cxrd phantom"},
    {"PatientAge": "090Y"},
    {"ContributingEquipmentSequence": equipment("Gateway")},
]


@pytest.mark.parametrize("attributes", ANALYSED, ids=str)
def test_is_analysed(attributes: dict[str, Any]) -> None:
    verdict = judge(header(**attributes), Rules())
    assert verdict.reason == ""
    assert verdict.analyse


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Manufacturer": "cxrd"}, "own output"),
        ({"Manufacturer": "CXRD"}, "own output"),
        ({"ContributingEquipmentSequence": equipment("cxrd")}, "own output"),
        ({"Modality": "CT"}, "modality CT is not among rules.modalities"),
        ({"Modality": None}, "no modality is stated (rules.modalities)"),
        ({"SOPClassUID": None}, "no SOP class is stated"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOP class CT Image Storage is not in rules.sop_classes"),
        ({"SOPClassUID": "1.2.3.4"}, "SOP class unknown is not in rules.sop_classes"),
        (
            {"modality": "DX", "SOPClassUID": FOR_PROCESSING},
            "SOP class Digital X-Ray Image Storage - For Processing is not in rules.sop_classes",
        ),
        (
            {"SOPClassUID": SECONDARY_CAPTURE, "ViewPosition": None},
            "a Secondary Capture that does not state both body part and view may be anything",
        ),
        ({"PatientSpeciesDescription": "Canis lupus"}, "the patient is an animal"),
        ({"PatientSpeciesCodeSequence": code("448771007")}, "the patient is an animal"),
        ({"PatientBreedDescription": "Beagle"}, "the patient is an animal"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "a derived image (Image Type DERIVED; rules.allow_derived)"),
        (
            {"ImageType": ["DERIVED", "PRIMARY"], "DerivationCodeSequence": code("113076", "DCM")},
            "a derived image (Image Type DERIVED; rules.allow_derived)",
        ),
        (
            {"ImageType": ["ORIGINAL", "SECONDARY"]},
            "a secondary image (Image Type SECONDARY), not the radiograph itself",
        ),
        ({"BodyPartExamined": "HAND"}, "body part HAND is not among rules.body_parts"),
        ({"BodyPartExamined": "Mr. Müller's hand!"}, "body part (not a code) is not among rules.body_parts"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": code("85562004")},
            "body part of another code is not among rules.body_parts",
        ),
        ({"ViewPosition": "LL"}, "view LL is not frontal (rules.views)"),
        ({"ViewPosition": "LATERAL"}, "view LATERAL is not frontal (rules.views)"),
        ({"ViewPosition": "RL"}, "view RL is not frontal (rules.views)"),
        ({"ViewPosition": "LLD"}, "view LLD is not frontal (rules.views)"),
        (
            {"ViewPosition": None, "ViewCodeSequence": code("399173006")},
            "view LEFT LATERAL is not frontal (rules.views)",
        ),
        (
            {"ViewPosition": None, "ViewCodeSequence": code("399132005")},
            "view of another code is not frontal (rules.views)",
        ),
        (
            {"ViewPosition": None, "PatientOrientation": ["A", "F"]},
            "no view is stated, and orientation or protocol say lateral (rules.views)",
        ),
        (
            {"ViewPosition": None, "ProtocolName": "Thorax seitlich"},
            "no view is stated, and orientation or protocol say lateral (rules.views)",
        ),
    ],
    ids=str,
)
def test_is_not_analysed(attributes: dict[str, Any], reason: str) -> None:
    verdict = judge(header(**attributes), Rules())
    assert verdict.reason == reason
    assert not verdict.analyse


@pytest.mark.parametrize(
    ("rules", "attributes", "reason"),
    [
        (Rules(absent_body_part="skip"), {"BodyPartExamined": None}, "no body part is stated (rules.absent_body_part)"),
        (Rules(absent_view="skip"), {"ViewPosition": None}, "no view is stated (rules.absent_view)"),
        (Rules(absent_view="skip"), {}, ""),
        (Rules(allow_derived=True), {"ImageType": ["DERIVED", "PRIMARY"]}, ""),
        (Rules(sop_classes=(FOR_PROCESSING,)), {"modality": "DX", "SOPClassUID": FOR_PROCESSING}, ""),
        (Rules(modalities=("RG",)), {}, "modality CR is not among rules.modalities"),
        (Rules(body_parts=("rib cage",)), {"BodyPartExamined": "RIB_CAGE"}, ""),
        (Rules(views=("LL",)), {"ViewPosition": "LL"}, ""),
        (Rules(views=("LL",)), {}, "view AP is not frontal (rules.views)"),
        (Rules(min_age_years=1, max_age_years=5), {}, ""),
        (Rules(min_age_years=1, max_age_years=4), {"PatientAge": None, "StudyDate": "20241231"}, ""),
        (
            Rules(min_age_years=1, max_age_years=4),
            {"PatientAge": None, "StudyDate": "20250101"},
            "age outside 1–4 years (rules.min_age_years, rules.max_age_years)",
        ),
        (Rules(max_age_years=3), {}, "age above 3 years (rules.max_age_years)"),
        (Rules(min_age_years=4.5), {}, "age below 4.5 years (rules.min_age_years)"),
        (Rules(min_age_years=1), {"PatientAge": "", "PatientBirthDate": ""}, ""),
        (
            Rules(min_age_years=1, absent_age="skip"),
            {"PatientAge": "old", "PatientBirthDate": "none"},
            "no age is stated (rules.absent_age)",
        ),
        (Rules(absent_age="skip"), {"PatientAge": None, "PatientBirthDate": None}, ""),
    ],
    ids=str,
)
def test_rules_can_be_changed(rules: Rules, attributes: dict[str, Any], reason: str) -> None:
    assert judge(header(**attributes), rules).reason == reason


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "004Y"}, 4),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 0.498),
        ({"PatientAge": "010D"}, 0.027),
        ({"PatientAge": "62"}, 62),
        ({"PatientAge": "000Y"}, 0),
        ({"PatientAge": None, "StudyDate": "20240101"}, 4),
        ({"PatientAge": None, "StudyDate": "20231231"}, 3.995),
        ({"PatientAge": "??", "StudyDate": None, "PatientBirthDate": "2020.01.01"}, 4.003),
        ({"PatientAge": None, "PatientBirthDate": "20300101"}, None),
        ({"PatientAge": None, "PatientBirthDate": "20201399"}, None),
        ({"PatientAge": None, "PatientBirthDate": None}, None),
    ],
    ids=str,
)
def test_age(attributes: dict[str, Any], years: float | None) -> None:
    assert age_years(header(**attributes)) == (None if years is None else pytest.approx(years, abs=0.01))


READ = (
    "Manufacturer",
    "Modality",
    "SOPClassUID",
    "PatientSpeciesDescription",
    "PatientBreedDescription",
    "ImageType",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "ProtocolName",
    "SeriesDescription",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
    "ContributingEquipmentSequence",
    "AnatomicRegionSequence",
    "ViewCodeSequence",
    "DerivationCodeSequence",
)


@pytest.mark.parametrize("junk", [None, "", "\\\\\\", b"\xff\xfe\x00", 7, [], ["", ""], "x" * 500])
def test_malformed_values_never_raise(junk: Any) -> None:
    rules = Rules(min_age_years=1, max_age_years=5)
    for keyword in READ:
        dataset = header(ViewPosition=None, BodyPartExamined=None, PatientAge=None)
        # In the way of pydicom's checks: an element as a file may hold it.
        element = Dataset()
        element.add_new(Tag(keyword), "LO", "")
        element[keyword]._value = junk
        dataset[keyword] = element[keyword]
        verdict = judge(dataset, rules)
        assert verdict.analyse is (verdict.reason == "")


def test_an_empty_header_has_a_reason() -> None:
    assert judge(Dataset(), Rules()).reason == "no modality is stated (rules.modalities)"


def test_real_objects() -> None:
    analysed, others = set(), {}
    for folder in ("dicom_chest", "dicom_other"):
        for path in sorted(shared("data", folder).iterdir()):
            try:
                verdict = judge(read_header(path), Rules())
            except CxrdError:
                continue
            if verdict.analyse:
                analysed.add(path.stem)
            else:
                others[path.stem] = verdict.reason
    assert analysed == {
        "cr_mono1_10bit_explicit",
        "cr_mono1_15bit_j2k_nodules",
        "cr_mono1_15bit_jpegls_near",
        "cr_mono1_jpeg_baseline",
        "cr_mono2_jpeg_baseline",
        "cr_rsna_lung_opacity",
        "cr_rsna_normal",
    }
    assert "lateral" in others["dx_lateral_14bit_j2k"]
    assert "lateral" in others["dx_mono1_dog"]
    assert all("modality" in reason for stem, reason in others.items() if not stem.startswith("dx_"))
