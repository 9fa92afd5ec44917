"""Elements that are taken over from a header: which ones, and how a copy keeps the bytes that it came with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from dicom_io.header.attributes import MALFORMED, is_valid, items, text, values

if TYPE_CHECKING:
    from collections.abc import Iterable

Element = DataElement | RawDataElement

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


def copied_elements(header: Dataset) -> tuple[Element, ...]:
    """Return the elements of `COPIED` with their character set; what must be there and is not is empty.

    Texts are not decoded: written again they are the bytes that they were.
    """
    dataset = Dataset()
    sets = values(header, "SpecificCharacterSet")
    if len(sets) > 1 or (sets and str(sets[0]).strip()):
        dataset.SpecificCharacterSet = sets
    for keyword in COPIED:
        element = element_of(header, keyword)
        if element is not None and _fits(header, keyword):
            dataset[element.tag] = element
    for keyword in _REQUIRED:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if not text(dataset, "BodyPartExamined"):
        dataset.Laterality = None  # whether the part is one of a pair is not known (PS3.3 C.7.3.1, type 2C)
    return tuple(dataset.elements())


def element_of(header: Dataset, keyword: str) -> Element | None:
    """Return a copy of an element, or None; a text that has not been decoded stays the bytes it is."""
    tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
    if tag is None or tag not in header:
        return None
    try:
        element = header.get_item(tag)
        if isinstance(element, RawDataElement) and vr != "SQ" and isinstance(element.value, bytes | None):
            value = element.value or b""
            return element._replace(VR=vr, length=len(value), value=value, is_implicit_VR=False, is_little_endian=True)
        element = header[tag]
        if vr != "SQ":
            return DataElement(tag, vr, element.value)
        return DataElement(tag, vr, [_plain_item(item) for item in items(header, keyword)])
    except MALFORMED:
        return None


def put(dataset: Dataset, elements: Iterable[Element]) -> None:
    """Set copies of elements in a data set: whatever happens to it, the elements stay as they are."""
    for element in elements:
        if isinstance(element, RawDataElement):  # a tuple, which nothing changes
            dataset[element.tag] = element
        elif element.VR == "SQ":
            dataset[element.tag] = DataElement(element.tag, "SQ", [_plain_item(item) for item in element.value])
        else:
            dataset[element.tag] = DataElement(element.tag, element.VR, element.value)


def _fits(header: Dataset, keyword: str) -> bool:
    """Whether a value that need not be there is one at all: an age of "62" has no unit, and archives refuse it.

    Texts and what an object must have are copied as they are, right or wrong: by them it is found beside its source.
    """
    vr = dictionary_VR(keyword)
    if keyword in _REQUIRED or vr not in _STRICT:
        return True
    return all(is_valid(vr, str(value)) for value in values(header, keyword))


def _plain_item(item: Dataset) -> Dataset:
    """Copy a sequence's item, its own items included, decoded; private elements stay behind."""
    copy = Dataset()
    for element in item:
        if not element.tag.is_private and element.tag.element != 0:
            nested = [_plain_item(each) for each in element.value] if element.VR == "SQ" else element.value
            copy[element.tag] = DataElement(element.tag, element.VR, nested)
    return copy
