"""Elements that are taken over from a header: which ones, and how a copy keeps the bytes that it came with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydicom.charset import convert_encodings, default_encoding, python_encoding
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from dicom_io.header.attributes import UNPARSED, is_valid, text, values
from dicom_io.header.copied_items import SIZES, STRICT, Copier, Text, padded, swapped

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableSequence

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

# Sequences that must be there, if need be empty, where the patient is an animal (type 2C, PS3.3 C.7.1.1).
_OF_ANIMALS = ("PatientBreedCodeSequence", "BreedRegistrationSequence")
UNDECLARED = "its texts are not in a character set that it declares; results carry them as they came"
"""For the audit."""


class Copied(NamedTuple):
    """What is taken over: the elements, and whether a text among them is in no character set that is declared."""

    elements: tuple[Element, ...]
    undeclared: bool


def copied_elements(header: Dataset) -> Copied:
    """Return the elements of `COPIED` with their character set; what must be there and is not is empty.

    Texts are not decoded: written again they are the bytes that they were. A sequence that would be empty stays behind.
    """
    dataset = Dataset()
    sets = values(header, "SpecificCharacterSet")
    if len(sets) > 1 or (sets and str(sets[0]).strip()):
        dataset.SpecificCharacterSet = sets
    texts: list[Text] = []
    for keyword in COPIED:
        element = element_of(header, keyword, texts)
        if element is not None and _fits(header, keyword):
            dataset[element.tag] = element
    for keyword in _REQUIRED:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if not text(dataset, "BodyPartExamined"):
        dataset.Laterality = None  # whether the part is one of a pair is not known (PS3.3 C.7.3.1, type 2C)
    return Copied(
        tuple(dataset.elements()),
        any(not _is_declared(each.value, sets if each.sets is None else each.sets) for each in texts),
    )


def _is_declared(value: bytes, sets: Iterable[Any]) -> bool:
    """Tell whether a text can be in the character sets that are declared; what has code extensions is believed."""
    if value.isascii() and b"\x1b" not in value:
        return True
    terms = [str(each).strip() for each in sets]
    if not any(terms) or not all(term in python_encoding for term in terms):
        return False
    if len(terms) > 1:
        return True
    codec = "ascii" if terms[0].endswith("IR 6") else python_encoding[terms[0]]
    try:
        value.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def element_of(header: Dataset, keyword: str, texts: list[Text] | None = None) -> Element | None:
    """Return a copy of an element, or None; a text that has not been decoded stays the bytes it is.

    A sequence comes encoded (`copied_items`); one without content is None. To `texts` is added what a character set
    decides about.
    """
    texts = [] if texts is None else texts
    number, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
    if number is None or number not in header:
        return None
    tag = Tag(number)
    try:
        if vr == "SQ":
            value = Copier(texts).sequence(header, tag, character_sets(header))
            return _raw(tag, vr, value) if value or keyword in _OF_ANIMALS else None
        element = header.get_item(tag)
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes | None):
            value = element.value or b""
            if vr in CUSTOMIZABLE_CHARSET_VR:
                texts.append(Text(value))
            return _raw(tag, vr, padded(value if element.is_little_endian else swapped(value, vr), vr))
        return DataElement(tag, vr, header[tag].value)
    except UNPARSED:
        return None


def character_sets(header: Dataset) -> str | MutableSequence[str]:
    """Return the character sets that a header declares, as Python calls them."""
    sets = values(header, "SpecificCharacterSet")
    return convert_encodings([str(each) for each in sets]) if sets else default_encoding


def _raw(tag: int, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(Tag(tag), vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def put(dataset: Dataset, elements: Iterable[Element]) -> None:
    """Set copies of elements in a data set: whatever happens to it, the elements stay as they are."""
    for element in elements:
        if isinstance(element, RawDataElement):  # a tuple, which nothing changes
            dataset[element.tag] = element
        else:
            dataset[element.tag] = DataElement(element.tag, element.VR, element.value)


def _fits(header: Dataset, keyword: str) -> bool:
    """Whether a value that need not be there is one at all: an age of "62" has no unit, and archives refuse it.

    Texts and what an object must have are copied as they are, right or wrong: by them it is found beside its source.
    """
    vr = dictionary_VR(keyword)
    if keyword in _REQUIRED or (vr not in STRICT and vr not in SIZES):
        return True
    all_values = values(header, keyword)
    if vr in SIZES:  # a number that cannot be read is none; all of them are single
        return len(all_values) == 1
    single = dictionary_VM(keyword) == "1"
    return all(is_valid(vr, str(value)) for value in all_values) and not (single and len(all_values) > 1)
