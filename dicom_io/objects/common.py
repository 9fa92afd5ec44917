"""What every object that cxrd makes has in common: whose study it joins, what made it, and from which radiograph."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmwrite
from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import STANDARD_VR

from dicom_io.errors import UnreadableObject, Unsuitable
from dicom_io.finding import MANUFACTURER
from dicom_io.header.source_image import SopInstance, SourceImage
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicom_io.finding import ModelIdentity
    from dicom_io.objects.kinds import ObjectKind

# Code Value, Coding Scheme Designator, Code Meaning: all that most items of a code sequence hold (PS3.3 8.8).
_CODE = dict.fromkeys((0x00080100, 0x00080102, 0x00080104)).keys()


@dataclass(frozen=True)
class Basis:
    """What every result object is based on, and the series that it goes into.

    Parameters
    ----------
    source
        The radiograph.
    identity
        The model.
    created
        When the result was made, aware. Written in the source's time zone if it states one, else in its own.
    series_number, series_description
        Of the new series, the same for every study.
    """

    source: SourceImage
    identity: ModelIdentity
    created: datetime
    series_number: int
    series_description: str


def begin(basis: Basis, kind: ObjectKind, *, variant: str = "") -> Dataset:
    """Begin an object in a new series of the source's study: all modules but those of its own kind.

    Patient, study, series, equipment and SOP common (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.3.1, C.7.5.1, C.12.1), with
    the model as Contributing Equipment (C.12.1.1.5) and its Device UID, as IHE AI Results 6.5.3.1 asks. The same
    arguments make the same object. Texts copied from the source keep their bytes and their character set, right or
    wrong.

    Parameters
    ----------
    basis
        Source, model, time and series.
    kind
        What is made; its UIDs are derived from source, model and kind.
    variant
        Added to the kind's name where an object of that kind must have other UIDs.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The time is naive.
    """
    source, identity = basis.source, basis.identity
    if basis.created.tzinfo is None:
        raise ValueError("the time of creation has no time zone")
    for keyword, uid in (
        ("StudyInstanceUID", source.study_uid),
        ("SOPInstanceUID", source.sop_instance_uid),
        ("SOPClassUID", source.sop_class_uid),
    ):
        if not uid:
            raise UnreadableObject(f"the source lacks {keyword}")
    dataset = source.patient_and_study()
    when = _local(basis.created, source.time_zone)
    dataset.TimezoneOffsetFromUTC = when.strftime("%z")[:5]
    uid, model, name = source.uid_seed, str(identity), kind.name + variant
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind.sop_class, derived_uid(uid, model, name)
    dataset.SeriesInstanceUID = derived_uid(uid, model, f"{name}/series")
    dataset.Modality = kind.modality
    dataset.SeriesNumber, dataset.InstanceNumber = basis.series_number, 1
    dataset.SeriesDescription = plain_text(basis.series_description)[:64]
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
    equipment.ContributionDescription = "Pneumonia classifier with a map of its evidence"
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


def reference(instance: SopInstance) -> Dataset:
    """Return an item that refers to a SOP instance (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = UID(instance.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(instance.sop_instance_uid)
    return item


def source_reference(source: SourceImage) -> Dataset:
    """Return an item that names the radiograph as what an object was made from (PS3.3 C.7.6.1.1.4)."""
    image = reference(source)
    image.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return image


def instance_references(instances: Iterable[SopInstance]) -> list[Dataset]:
    """Group SOP instances by study and series (PS3.3 Table C.17-3, SOP Instance Reference Macro), each named once.

    highdicom's `collect_evidence` makes the same items, but searches the whole tree for references twice before that,
    which costs as much as making the tree; `validate` looks for them in the encoded bytes.
    """
    studies: dict[str, dict[str, dict[str, Dataset]]] = {}
    for instance in instances:
        series = studies.setdefault(instance.study_uid, {}).setdefault(instance.series_uid, {})
        series.setdefault(instance.sop_instance_uid, reference(instance))
    references = []
    for study, by_series in studies.items():
        item = Dataset()
        item.StudyInstanceUID, item.ReferencedSeriesSequence = UID(study), []
        for uid, items in by_series.items():
            series_item = Dataset()
            series_item.SeriesInstanceUID, series_item.ReferencedSOPSequence = UID(uid), list(items.values())
            item.ReferencedSeriesSequence.append(series_item)
        references.append(item)
    return references


def require_place(source: SourceImage) -> None:
    """Raise Unsuitable where the source lacks what another object needs to refer to a place in it: series and size."""
    if not source.series_uid:
        raise Unsuitable("the source lacks SeriesInstanceUID")
    if min(source.rows, source.columns) < 1:
        raise Unsuitable("the source lacks Rows or Columns")


def instance_dataset(instance: SopInstance) -> Dataset:
    """Return a data set with the UIDs of a SOP instance, and the size of a source: what highdicom asks for."""
    item = Dataset()
    item.StudyInstanceUID, item.SeriesInstanceUID = UID(instance.study_uid), UID(instance.series_uid)
    item.SOPClassUID, item.SOPInstanceUID = UID(instance.sop_class_uid), UID(instance.sop_instance_uid)
    if isinstance(instance, SourceImage):
        item.Rows, item.Columns = instance.rows, instance.columns
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
            encoded = _encoded_code(element)
            if encoded is not None:
                dataset[element.tag] = RawDataElement(
                    element.tag, "SQ", len(encoded), encoded, 0, is_implicit_VR=False, is_little_endian=True
                )
            else:
                for item in element.value:
                    _prepare(item)
    if dataset.original_encoding == (None, None) and all(each.VR in STANDARD_VR for each in dataset.elements()):
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=default_encoding)


def _encoded_code(element: DataElement) -> bytes | None:
    """Return the value of a sequence as bytes where it is one code of the common form, else None."""
    if len(element.value) != 1 or element.value[0].keys() != _CODE:
        return None
    texts = [element.value[0].get_item(tag).value for tag in _CODE]
    if not all(isinstance(each, str) and each.isascii() for each in texts):
        return None
    return _code_bytes(*texts)


@lru_cache(maxsize=1024)
def _code_bytes(value: str, scheme: str, meaning: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence(buffer, DataElement(0x0040A043, "SQ", [code(value, meaning, scheme)]), [default_encoding])
    return buffer.getvalue()


def _local(created: datetime, time_zone: str) -> datetime:
    """Bring a time into the time zone that holds for the whole object (PS3.3 C.12.1.1.8)."""
    if not time_zone:
        return created
    offset = timedelta(hours=int(time_zone[1:3]), minutes=int(time_zone[3:5]))
    return created.astimezone(timezone(-offset if time_zone[0] == "-" else offset))
