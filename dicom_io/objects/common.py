"""What every object that cxrd makes has in common: whose study it joins, what made it, and from which radiograph."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import STANDARD_VR

from dicom_io.errors import UnreadableObject, Unsuitable
from dicom_io.finding import MANUFACTURER
from dicom_io.header.attributes import MALFORMED, integer, is_valid, items, text, values
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from dicom_io.finding import ModelIdentity

# Patient, General Study, Patient Study and Clinical Trial modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.1.3, C.7.2.3),
# and of the rest what stays true of whatever is made from the source: whose request it answers and what it shows.
COPIED = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "ReferencedStudySequence",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingService",
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "PatientSexNeutered",
    "PregnancyStatus",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "RequestAttributesSequence",
    "BodyPartExamined",
    "InstitutionName",
    "TimezoneOffsetFromUTC",
    "LongitudinalTemporalInformationModified",
)

# Code Value, Coding Scheme Designator, Code Meaning: all that most items of a code sequence hold (PS3.3 8.8).
_CODE = dict.fromkeys((0x00080100, 0x00080102, 0x00080104)).keys()

# Attributes that must be there, if need be empty (type 2), and what names the study, right or wrong.
_REQUIRED = (
    "StudyInstanceUID",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)

# Value representations in which a wrong value is an error for whoever reads it (PS3.5 6.2).
_STRICT = ("AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI")


def begin(
    source: Dataset,
    identity: ModelIdentity,
    *,
    kind: str,
    sop_class: str,
    modality: str,
    series_number: int,
    series_description: str,
    created: datetime,
) -> Dataset:
    """Begin an object in a new series of the source's study: all modules but those of its own kind.

    Patient, study, series, equipment and SOP common (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.3.1, C.7.5.1, C.12.1), with
    the model as Contributing Equipment (C.12.1.1.5) and its Device UID, as IHE AI Results 6.5.3.1 asks. The same
    arguments make the same object. Texts copied from the source keep their bytes and their character set, right or
    wrong.

    Parameters
    ----------
    source
        The radiograph as received; it is not changed.
    kind
        What is made; its UIDs are derived from source, model and kind.
    sop_class, modality
        Of the new object.
    series_number, series_description
        Of the new series, the same for every study.
    created
        When it was made, aware. Written in the source's time zone if it states one, else in its own.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The time is naive.
    """
    if created.tzinfo is None:
        raise ValueError("the time of creation has no time zone")
    for keyword in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not text(source, keyword):
            raise UnreadableObject(f"the source lacks {keyword}")
    dataset = Dataset()
    _copy_source(source, dataset)
    when = _local(created, dataset)
    uid, model = text(source, "SOPInstanceUID"), str(identity)
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(sop_class), derived_uid(uid, model, kind)
    dataset.SeriesInstanceUID = derived_uid(uid, model, f"{kind}/series")
    dataset.Modality = modality
    dataset.SeriesNumber, dataset.InstanceNumber = series_number, 1
    dataset.SeriesDescription = plain_text(series_description)[:64]
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = time
    _equip(dataset, identity)
    dataset.ContentQualification = "RESEARCH"
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    _equip(equipment, identity)
    # Its zone is that of the object (Timezone Offset From UTC); DCMTK 3.6.7 takes +0000 for an error.
    equipment.ContributionDateTime = when.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = "Pneumonia classifier with Grad-CAM heatmap"
    dataset.ContributingEquipmentSequence = [equipment]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def device_uid(identity: ModelIdentity) -> str:
    """Return the Device UID of a model: another one for other weights (IHE AI Results 6.5.3.1)."""
    return derived_uid("device", str(identity), "device")


def _equip(dataset: Dataset, identity: ModelIdentity) -> None:
    """Name the model as a device."""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, plain_text(identity.name)[:64]
    dataset.SoftwareVersions = versions_of(identity)
    dataset.DeviceUID = device_uid(identity)


def versions_of(identity: ModelIdentity) -> list[str]:
    """Return a model's version and digest as two values of Software Versions (PS3.3 C.7.5.1)."""
    return [plain_text(identity.version)[:64], plain_text(identity.digest)[:64]]


def reference(dataset: Dataset) -> Dataset:
    """Return an item that refers to a SOP instance (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = UID(text(dataset, "SOPClassUID"))
    item.ReferencedSOPInstanceUID = UID(text(dataset, "SOPInstanceUID"))
    return item


def source_image(source: Dataset) -> Dataset:
    """Return an item that names the radiograph as what an object was made from (PS3.3 C.7.6.1.1.4)."""
    image = reference(source)
    image.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return image


def burned_in(source: Dataset) -> str:
    """Return Burned In Annotation of what shows the radiograph: NO only where the source says NO of itself."""
    return "NO" if text(source, "BurnedInAnnotation").upper() == "NO" else "YES"


def names_of(dataset: Dataset) -> Dataset:
    """Return a data set with nothing but the four UIDs by which a SOP instance is found."""
    item = Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        setattr(item, keyword, UID(text(dataset, keyword)))
    return item


def stand_in(source: Dataset) -> Dataset:
    """Return what highdicom must know of the source, without a text that it might not be able to read.

    Raises
    ------
    Unsuitable
        The source lacks its series or its size, without which no other object can refer to a place in it.
    """
    rows, columns = integer(source, "Rows") or 0, integer(source, "Columns") or 0
    if not text(source, "SeriesInstanceUID"):
        raise Unsuitable("the source lacks SeriesInstanceUID")
    if min(rows, columns) < 1:
        raise Unsuitable("the source lacks Rows or Columns")
    item = names_of(source)
    item.Rows, item.Columns = rows, columns
    return item


def plain_text(words: str) -> str:
    """Bring our own words to what every character set of DICOM can carry; a backslash would divide a value."""
    return words.replace("–", "-").encode("ascii", "replace").decode("ascii").replace("\\", "/")


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Return a code sequence's item (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def encode(dataset: Dataset) -> bytes:
    """Return the DICOM file of a dataset that has its file meta information."""
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian:
        _prepare(dataset)
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _prepare(dataset: Dataset) -> None:
    """Spare pydicom what costs most in writing many small items, without a change in the bytes.

    Codes, which are half of a report's items and the same in each report, are put in as they are written. Other items
    made here are declared to be in the encoding in which they are written: it need not look, in each of them and in all
    items below, for value representations that depend on other elements (PS3.5 A.1). Items with such a one are left
    to it.
    """
    for element in dataset.elements():
        if element.VR == "SQ" and isinstance(element, DataElement):
            written = _code_written(element)
            if written is not None:
                dataset[element.tag] = RawDataElement(
                    element.tag, "SQ", len(written), written, 0, is_implicit_VR=False, is_little_endian=True
                )
            else:
                for item in element.value:
                    _prepare(item)
    if dataset.original_encoding == (None, None) and all(each.VR in STANDARD_VR for each in dataset.elements()):
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=default_encoding)


def _code_written(element: DataElement) -> bytes | None:
    """Return the value of a sequence as bytes where it is one code of the common form, else None."""
    if len(element.value) != 1 or element.value[0].keys() != _CODE:
        return None
    found = [element.value[0].get_item(tag).value for tag in _CODE]
    if not all(isinstance(each, str) and each.isascii() for each in found):
        return None
    return _code_bytes(*found)


@lru_cache(maxsize=1024)
def _code_bytes(value: str, scheme: str, meaning: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence(buffer, DataElement(0x0040A043, "SQ", [code(value, meaning, scheme)]), [default_encoding])
    return buffer.getvalue()


def _copy_source(source: Dataset, dataset: Dataset) -> None:
    """Copy what describes the patient, the study and the request, without reading a text that nobody asked for."""
    if text(source, "SpecificCharacterSet") or len(values(source, "SpecificCharacterSet")) > 1:
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    # With this, pydicom writes elements that it has not decoded as they are.
    encodings = (
        convert_encodings(dataset.SpecificCharacterSet) if "SpecificCharacterSet" in dataset else default_encoding
    )
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=encodings)
    for keyword in COPIED:
        element = element_of(source, keyword)
        if element is not None and _fits(source, keyword):
            dataset[element.tag] = element
    for keyword in _REQUIRED:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if not text(dataset, "BodyPartExamined"):
        dataset.Laterality = None  # whether the part is one of a pair is not known (PS3.3 C.7.3.1, type 2C)


def _fits(source: Dataset, keyword: str) -> bool:
    """Whether a value that need not be there is one at all: an age of "62" has no unit, and archives refuse it.

    Texts and what an object must have are copied as they are, right or wrong: by them it is found beside its source.
    """
    vr = dictionary_VR(keyword)
    if keyword in _REQUIRED or vr not in _STRICT:
        return True
    return all(is_valid(vr, str(value)) for value in values(source, keyword))


def element_of(source: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    """Return a copy of an element; a text that has not been decoded stays the bytes it is."""
    tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
    if tag is None or tag not in source:
        return None
    try:
        element = source.get_item(tag)
        if isinstance(element, RawDataElement) and vr != "SQ" and isinstance(element.value, bytes | None):
            value = element.value or b""
            return element._replace(VR=vr, length=len(value), value=value, is_implicit_VR=False, is_little_endian=True)
        element = source[tag]
        if vr != "SQ":
            return DataElement(tag, vr, element.value)
        return DataElement(tag, vr, [plain_item(item) for item in items(source, keyword)])
    except MALFORMED:
        return None


def plain_item(item: Dataset) -> Dataset:
    """Copy a sequence's item, its own items included, decoded; private elements stay behind."""
    copy = Dataset()
    for element in item:
        if not element.tag.is_private and element.tag.element != 0:
            nested = [plain_item(each) for each in element.value] if element.VR == "SQ" else element.value
            copy[element.tag] = DataElement(element.tag, element.VR, nested)
    return copy


def _local(created: datetime, dataset: Dataset) -> datetime:
    """Bring a time into the time zone that holds for the whole object (PS3.3 C.12.1.1.8), and state that zone."""
    stated = text(dataset, "TimezoneOffsetFromUTC")
    when = created
    if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", stated):
        offset = timedelta(hours=int(stated[1:3]), minutes=int(stated[3:5]))
        when = created.astimezone(timezone(-offset if stated[0] == "-" else offset))
    dataset.TimezoneOffsetFromUTC = when.strftime("%z")[:5]
    return when
