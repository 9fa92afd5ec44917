"""The Secondary Capture: read again from its bytes, held to its source, to the standard's tool and to highdicom."""

from __future__ import annotations

import datetime as dt
import subprocess
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit

from dicom_io.errors import CxrdError, UnreadableObject
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_header
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import source_image
from dicom_io.objects.common import Basis, encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.objects.secondary_capture import secondary_capture
from tests.support.shared import shared
from tests.support.tools import tool

MODEL = ModelIdentity("cxr-pneumonia-resnet18", "1.0.0", "ab12" * 16)
FINDING = Finding(0.934, "PNEUMONIA", 0.41)
NOW = dt.datetime(2026, 1, 2, 23, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
GREY = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24)
RGB = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)

NAMES: list[tuple[str | list[str] | None, str]] = [
    (None, "Adams^John Robert Quincy^^Rev.^B.A. M.Div."),
    ("ISO_IR 100", "Müller^Zoë"),
    ("ISO_IR 126", "Διονυσιος^Α"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東="),
    ("GB18030", "Wang^XiaoDong=王^小东="),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
]


def source(modality: str = "CR", **attributes: Any) -> Dataset:
    """Send a radiograph through its bytes, so that nothing of it is decoded."""
    made = radiograph(GREY, uid_seed="sc", modality=modality, **attributes)
    return pydicom.dcmread(BytesIO(encode(made)), stop_before_pixels=True)


def made_from(original: Dataset, **changes: Any) -> Dataset:
    rgb, finding, quality = changes.pop("rgb", RGB), changes.pop("finding", FINDING), changes.pop("jpeg_quality", None)
    about = {"identity": MODEL, "created": NOW, "series_description": "Pneumonia heatmap (cxrd)", **changes}
    return secondary_capture(Basis(source_image(original), series_number=9901, **about), finding, rgb, quality)


def reread(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(BytesIO(encode(dataset)))


def raw(dataset: Dataset, keyword: str) -> bytes:
    """Return an element's bytes as they stand in the encoded object."""
    element = pydicom.dcmread(BytesIO(encode(dataset))).get_item(keyword)
    return bytes(element.value or b"") if element is not None else b""


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_is_a_new_series_of_the_same_study(modality: str) -> None:
    original = source(modality)
    result = reread(made_from(original))
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"):
        assert result[keyword].value == original[keyword].value
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientOrientation"):
        assert result[keyword].value == original[keyword].value
    assert result.SeriesInstanceUID != original.SeriesInstanceUID
    assert result.SOPInstanceUID not in (original.SOPInstanceUID, result.SeriesInstanceUID)
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    assert (result.SeriesNumber, result.InstanceNumber) == (9901, 1)
    assert result.SeriesDescription == "Pneumonia heatmap (cxrd)"
    assert result.Modality == "OT"


def test_says_that_it_is_derived_from_what_and_by_what() -> None:
    original = source()
    result = reread(made_from(original))
    assert result.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(result.ImageType) == ["DERIVED", "SECONDARY"]
    assert result.ConversionType == "WSD"
    image = result.SourceImageSequence[0]
    assert image.ReferencedSOPClassUID == original.SOPClassUID
    assert image.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    for words in ("Flagged: evidence for pneumonia", "0.93", "0.41", "1.0.0", "For research use. Not for diagnosis."):
        assert words in result.DerivationDescription
    assert result.DerivationCodeSequence
    equipment = result.ContributingEquipmentSequence[0]
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (equipment.Manufacturer, equipment.ManufacturerModelName) == ("cxrd", MODEL.name)
    assert list(equipment.SoftwareVersions) == [MODEL.version, MODEL.digest]
    assert result.Manufacturer == "cxrd"
    assert judge(result, Rules(modalities=("OT",))).reason == "own output"


def test_pixels_are_those_given() -> None:
    result = reread(made_from(source()))
    assert np.array_equal(result.pixel_array, RGB)
    assert (result.Rows, result.Columns, result.SamplesPerPixel) == (31, 47, 3)
    assert (result.PhotometricInterpretation, result.PlanarConfiguration) == ("RGB", 0)
    assert "NumberOfFrames" not in result


def test_times_are_local_and_say_so() -> None:
    result = reread(made_from(source()))
    assert (result.ContentDate, result.ContentTime) == ("20260102", "230405")
    assert (result.InstanceCreationDate, result.InstanceCreationTime) == ("20260102", "230405")
    assert result.TimezoneOffsetFromUTC == "-0500"
    assert result.ContributingEquipmentSequence[0].ContributionDateTime == "20260102230405"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("+0530", ("20260103", "093405", "+0530")),
        ("-0400", ("20260103", "000405", "-0400")),
        ("junk", None),
        ("", None),
    ],
)
def test_the_source_s_time_zone_holds_for_the_whole_object(stated: str, expected: tuple[str, str, str] | None) -> None:
    result = reread(made_from(source(TimezoneOffsetFromUTC=stated)))
    found = (result.ContentDate, result.ContentTime, result.TimezoneOffsetFromUTC)
    assert found == (expected or ("20260102", "230405", "-0500"))


def test_the_same_arguments_make_the_same_bytes() -> None:
    assert encode(made_from(source("DX"))) == encode(made_from(source("DX")))
    read_already = source("DX")
    str(read_already)  # decodes every element
    assert encode(made_from(read_already)) == encode(made_from(source("DX")))


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": ModelIdentity(MODEL.name, "1.0.1", MODEL.digest)},
        {"identity": ModelIdentity(MODEL.name, "1.0.0", "00" * 32)},
    ],
    ids=["version", "digest"],
)
def test_another_model_makes_another_object(changes: dict[str, Any]) -> None:
    one, other = made_from(source()), made_from(source(), **changes)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert made_from(source(), finding=Finding(0.1, "NORMAL", 0.4)).SOPInstanceUID == one.SOPInstanceUID


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize(("charset", "name"), NAMES, ids=lambda value: str(value)[:16])
def test_names_keep_their_bytes_and_character_set(charset: str | list[str] | None, name: str, decoded: bool) -> None:
    physician = name.split("=", maxsplit=1)[0] if charset != "GB18030" else "李^四"
    original = source(SpecificCharacterSet=charset, PatientName=name, ReferringPhysicianName=physician)
    before = {keyword: raw(original, keyword) for keyword in ("PatientName", "ReferringPhysicianName")}
    if decoded:
        assert str(original.PatientName)
    result = made_from(original)
    for keyword, value in before.items():
        assert raw(result, keyword) == value
    again = reread(result)
    assert str(again.PatientName).rstrip("=") == name.rstrip("=")
    assert again.get("SpecificCharacterSet") == original.get("SpecificCharacterSet")


def test_texts_in_a_wrong_character_set_keep_their_bytes() -> None:
    """Latin-1 without saying so, which is wrong and common."""
    data = encode(radiograph(GREY, uid_seed="sc", modality="CR", PatientName="Mxller^Zoe"))
    data = data.replace(b"Mxller", "Müller".encode("latin-1"))
    original = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
    del original.SpecificCharacterSet
    assert raw(made_from(original), "PatientName").startswith("Müller".encode("latin-1"))


def test_texts_of_an_implicit_source_survive() -> None:
    item = Dataset()
    item.RequestedProcedureDescription, item.RequestedProcedureID = "Röntgen Thorax", "RP1"
    buffer = BytesIO()
    made = radiograph(GREY, uid_seed="sc", PatientName="Müller^Zoë", RequestAttributesSequence=[item])
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    result = reread(made_from(pydicom.dcmread(BytesIO(buffer.getvalue()))))
    assert str(result.PatientName) == "Müller^Zoë"
    assert result.RequestAttributesSequence[0].RequestedProcedureDescription == "Röntgen Thorax"
    assert result.RequestAttributesSequence[0].RequestedProcedureID == "RP1"


@pytest.mark.parametrize(("stated", "expected"), [("YES", "YES"), ("NO", "NO"), (None, "YES"), ("", "YES")])
def test_burned_in_annotation_is_what_is_known_of_the_source(stated: str | None, expected: str) -> None:
    result = reread(made_from(source("DX", BurnedInAnnotation=stated)))
    assert result.get("BurnedInAnnotation") == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"LossyImageCompression": "00"}, ("00", None, None)),
        ({"LossyImageCompression": None}, (None, None, None)),
        (
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionRatio": [10, 2],
                "LossyImageCompressionMethod": ["ISO_15444_1", "ISO_10918_1"],
            },
            ("01", [10, 2], ["ISO_15444_1", "ISO_10918_1"]),
        ),
    ],
    ids=["none", "unknown", "twice"],
)
def test_lossy_compression_of_the_source_is_passed_on(attributes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    result = reread(made_from(source("DX", **attributes)))
    keywords = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    assert tuple(result.get(keyword) for keyword in keywords) == expected


def test_a_jpeg_source_is_lossy_even_if_it_does_not_say_so() -> None:
    original = source(LossyImageCompression=None)
    original.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    result = reread(made_from(original))
    assert (result.LossyImageCompression, result.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_source_without_its_identity_is_refused(keyword: str) -> None:
    original = source()
    del original[keyword]
    with pytest.raises(UnreadableObject, match=keyword):
        made_from(original)


@pytest.mark.parametrize(
    "changes",
    [{"rgb": RGB.astype(float)}, {"rgb": RGB[:, :, 0]}, {"created": dt.datetime(2026, 1, 1)}],  # noqa: DTZ001
)
def test_wrong_arguments_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"picture|time"):
        made_from(source(), **changes)


def test_the_source_is_left_as_it_was() -> None:
    original, untouched = source("DX"), source("DX")
    made_from(original)
    assert encode(original) == encode(untouched)


def test_our_own_words_fit_every_character_set() -> None:
    result = reread(made_from(source(SpecificCharacterSet="ISO_IR 126"), series_description="Lungenentzündung\\ß" * 9))
    assert result.SeriesDescription.startswith("Lungenentz?ndung/?")
    assert len(result.SeriesDescription) <= 64


MISSING = (
    "PatientName PatientID PatientBirthDate PatientSex PatientAge StudyDate StudyTime ReferringPhysicianName StudyID"
    " AccessionNumber PatientOrientation StudyDescription BodyPartExamined SpecificCharacterSet"
)


CHECKED = [
    *((case, "CR", "MONOCHROME1") for case in ("whole", "empty", "missing", "request")),
    *((case, "DX", "MONOCHROME2") for case in ("whole", "empty", "missing", "request")),
    *((case, "DX", "MONOCHROME1") for case in range(len(NAMES))),
]


@pytest.mark.parametrize(("case", "modality", "photometric"), CHECKED)
def test_the_standard_s_checker_finds_no_error(
    case: str | int, modality: str, photometric: str, tmp_path: Path
) -> None:
    attributes: dict[str, Any] = {"PhotometricInterpretation": photometric}
    if case == "empty":
        attributes |= dict.fromkeys(MISSING.split(), "") | {"BodyPartExamined": None}
    elif case == "missing":
        attributes |= dict.fromkeys(MISSING.split())
    elif case == "request":
        item = Dataset()
        item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "SPS1"
        attributes |= {"RequestAttributesSequence": [item], "TimezoneOffsetFromUTC": "+0100"}
    elif isinstance(case, int):
        charset, name = NAMES[case]
        attributes |= {"SpecificCharacterSet": charset, "PatientName": name}
    file = tmp_path / "sc.dcm"
    file.write_bytes(encode(made_from(source(modality, **attributes))))
    said = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, errors="replace", check=False)
    assert "SCImage" in said.stderr
    assert "Error" not in said.stderr


def test_missing_attributes_of_type_2_become_empty() -> None:
    nothing: dict[str, Any] = dict.fromkeys(MISSING.split())
    result = reread(made_from(source(**nothing)))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        assert keyword in result
        assert not result[keyword].value


def test_highdicom_takes_it_for_what_it_is() -> None:
    """An outside reader of the same IOD: highdicom's own constructor accepts the same pixels and study."""
    from highdicom.sc import SCImage

    result = reread(made_from(source()))
    other = SCImage(
        pixel_array=result.pixel_array,
        photometric_interpretation=result.PhotometricInterpretation,
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=result.StudyInstanceUID,
        series_instance_uid=result.SeriesInstanceUID,
        series_number=result.SeriesNumber,
        sop_instance_uid=result.SOPInstanceUID,
        instance_number=result.InstanceNumber,
        manufacturer=result.Manufacturer,
        patient_orientation=tuple(result.PatientOrientation),
    )
    for element in other:
        if element.tag.group == 0x0028 or element.keyword in ("SOPClassUID", "Modality"):
            assert result[element.tag].value == element.value, element.keyword
    assert other.PixelData.rstrip(b"\0") == result.PixelData.rstrip(b"\0")


def test_every_real_object_with_an_identity_can_be_answered() -> None:
    answered = 0
    for folder in ("dicom_chest", "dicom_other"):
        for path in sorted(shared("data", folder).iterdir()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # these files break rules that pydicom warns of
                try:
                    original = read_header(path)
                    result = reread(made_from(original))
                except CxrdError:
                    continue
                assert result.StudyInstanceUID == original.StudyInstanceUID
                assert str(result.PatientName) == str(original.get("PatientName") or "")
            answered += 1
    assert answered > 35
