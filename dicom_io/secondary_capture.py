"""Makes the Secondary Capture that carries a colour picture of the finding back into the study it came from."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmwrite
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_io.errors import UnreadableObject
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.uids import derived_uid
from dicom_io.values import MALFORMED, items, text, values

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND = "secondary-capture"
MANUFACTURER = "cxrd"


# Patient, General Study, Patient Study and Clinical Trial modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.1.3, C.7.2.3),
# and of the rest what stays true of a picture made from the source: whose request it answers and what it shows.
_COPIED = (
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
    "PatientOrientation",
    "InstitutionName",
    "TimezoneOffsetFromUTC",
    "LongitudinalTemporalInformationModified",
)

# Attributes that must be there, if need be empty (type 2).
_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "PatientOrientation",
)

# Transfer syntaxes that never are lossless, and the method they stand for (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {"1.2.840.10008.1.2.4.50": "ISO_10918_1", "1.2.840.10008.1.2.4.51": "ISO_10918_1"}


def secondary_capture(
    source: Dataset,
    rgb: NDArray[np.uint8],
    *,
    finding: Finding,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
) -> Dataset:
    """Wrap a picture as a Secondary Capture in a new series of the source's study (PS3.3 A.8.1).

    The same arguments make the same object, to the byte. Texts copied from the source keep their bytes and their
    character set, right or wrong.

    Burned In Annotation says whether the picture identifies the patient (PS3.3 C.7.6.1).
    What we write into it does not, so it is NO where the source says NO of its own pixels. Where it says YES, or
    nothing, it is YES: whoever removes identities must look at the picture.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    rgb
        The picture, uint8 [H,W,3].
    finding, identity
        Named in the derivation description and the contributing equipment.
    series_number, series_description
        Of the new series, the same for every study.
    created
        When the picture was made, aware. Written in the source's time zone if it states one, else in its own.

    Returns
    -------
    Dataset
        With file meta information, explicit little endian.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The picture is not uint8 [H,W,3], or the time is naive.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError("the picture is not uint8 [H,W,3]")
    if created.tzinfo is None:
        raise ValueError("the time of creation has no time zone")
    for keyword in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not text(source, keyword):
            raise UnreadableObject(f"the source lacks {keyword}")
    dataset = Dataset()
    _copy(source, dataset)
    when = _local(created, dataset)
    _identify(dataset, source, identity, when, series_number=series_number, description=series_description)
    _derive(dataset, source, finding, identity, when)
    _lossy(dataset, source)
    _image(dataset, rgb)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def encode(dataset: Dataset) -> bytes:
    """Return the DICOM file of a dataset that has its file meta information."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _copy(source: Dataset, dataset: Dataset) -> None:
    """Copy what describes the patient, the study and the request, without reading a text that nobody asked for."""
    if text(source, "SpecificCharacterSet") or len(values(source, "SpecificCharacterSet")) > 1:
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    # With this, pydicom writes elements that it has not decoded as they are.
    encodings = convert_encodings(dataset.SpecificCharacterSet) if "SpecificCharacterSet" in dataset else None
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=encodings)
    for keyword in _COPIED:
        element = _element(source, keyword)
        if element is not None:
            dataset[element.tag] = element
    for keyword in _REQUIRED:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if not text(dataset, "BodyPartExamined"):
        dataset.Laterality = None  # whether the part is one of a pair is not known (PS3.3 C.7.3.1, type 2C)


def _element(source: Dataset, keyword: str) -> DataElement | RawDataElement | None:
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
        return DataElement(tag, vr, [_plain(item) for item in items(source, keyword)])
    except MALFORMED:
        return None


def _plain(item: Dataset) -> Dataset:
    """Copy a sequence's item, its own items included, decoded; private elements stay behind."""
    copy = Dataset()
    for element in item:
        if not element.tag.is_private and element.tag.element != 0:
            nested = [_plain(each) for each in element.value] if element.VR == "SQ" else element.value
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


def _identify(
    dataset: Dataset, source: Dataset, identity: ModelIdentity, when: datetime, *, series_number: int, description: str
) -> None:
    """Set SOP common, series and equipment (PS3.3 C.12.1, C.7.3.1, C.7.5.1, C.8.6.1)."""
    uid, model = text(source, "SOPInstanceUID"), str(identity)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, derived_uid(uid, model, KIND)
    dataset.SeriesInstanceUID = derived_uid(uid, model, f"{KIND}/series")
    # Not the source's modality: a viewer that hangs radiographs must not take this for one.
    dataset.Modality = "OT"
    dataset.SeriesNumber, dataset.InstanceNumber = series_number, 1
    dataset.SeriesDescription = _plain_text(description)[:64]
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = dataset.DateOfSecondaryCapture = day
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = dataset.TimeOfSecondaryCapture = time
    dataset.Manufacturer = dataset.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    dataset.ManufacturerModelName = dataset.SecondaryCaptureDeviceManufacturerModelName = _plain_text(identity.name)[
        :64
    ]
    dataset.SoftwareVersions = dataset.SecondaryCaptureDeviceSoftwareVersions = _versions(identity)
    dataset.ConversionType = "WSD"


def _derive(dataset: Dataset, source: Dataset, finding: Finding, identity: ModelIdentity, when: datetime) -> None:
    """Say what the picture was made from, how and by what (PS3.3 C.7.6.1.1.3, C.7.6.1.1.4, C.12.1.1.5)."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    image = Dataset()
    image.ReferencedSOPClassUID = UID(text(source, "SOPClassUID"))
    image.ReferencedSOPInstanceUID = UID(text(source, "SOPInstanceUID"))
    image.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    dataset.SourceImageSequence = [image]
    dataset.DerivationDescription = _plain_text(
        f"Grad-CAM heatmap beside the radiograph, by {identity.name} {identity.version}: pneumonia probability"
        f" {finding.probability:.4f}, decision {finding.decision} at threshold {finding.threshold:.4f}."
        " For research use. Not for diagnosis."
    )[:1024]
    dataset.DerivationCodeSequence = [
        _code("113085", "Spatial resampling"),
        _code("113042", "Pixel by pixel addition"),
    ]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = MANUFACTURER, dataset.ManufacturerModelName
    equipment.SoftwareVersions = _versions(identity)
    equipment.ContributionDateTime = when.strftime("%Y%m%d%H%M%S%z")[:19]
    equipment.ContributionDescription = "Pneumonia classifier with Grad-CAM heatmap"
    dataset.ContributingEquipmentSequence = [equipment]
    dataset.BurnedInAnnotation = "NO" if text(source, "BurnedInAnnotation").upper() == "NO" else "YES"


def _lossy(dataset: Dataset, source: Dataset) -> None:
    """Pass on that the source was once compressed with loss: the picture has that loss too (PS3.3 C.7.6.1.1.5)."""
    syntax = text(getattr(source, "file_meta", None) or Dataset(), "TransferSyntaxUID")
    stated = text(source, "LossyImageCompression")
    if stated == "01" or syntax in _LOSSY:
        dataset.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            element = _element(source, keyword)
            if element is not None:
                dataset[element.tag] = element
        if syntax in _LOSSY and "LossyImageCompressionMethod" not in dataset:
            dataset.LossyImageCompressionMethod = _LOSSY[syntax]
    elif stated == "00":
        dataset.LossyImageCompression = "00"


def _image(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Set the pixels and what describes them (PS3.3 C.7.6.3)."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    data = rgb.tobytes()
    dataset.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))


def _versions(identity: ModelIdentity) -> list[str]:
    return [_plain_text(identity.version)[:64], _plain_text(identity.digest)[:64]]


def _plain_text(words: str) -> str:
    """Bring our own words to what every character set of DICOM can carry; a backslash would divide a value."""
    return words.encode("ascii", "replace").decode("ascii").replace("\\", "/")


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
