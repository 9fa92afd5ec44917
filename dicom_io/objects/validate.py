"""Holds a result object to the standard before it is sent: read again from its own bytes, checked, or refused.

The rules are those that archives and viewers stumble over: identity, value representations, the attributes that each
kind must have, and that all it refers to is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_io.errors import InvalidResult
from dicom_io.header.attributes import MALFORMED, is_valid, text
from dicom_io.header.copied import COPIED
from dicom_io.header.source_image import REQUEST
from dicom_io.objects.encoded import BINARY, NUMBERS, Element, Item, read
from dicom_io.objects.validate_kinds import RULES, Encoded

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from dicom_io.header.source_image import SourceImage
    from dicom_io.objects.kinds import ObjectKind

_ALWAYS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber"),
    *("InstanceNumber", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"),
    "ContributingEquipmentSequence",
)
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_COPIED = frozenset(tag_for_keyword(keyword) for keyword in (*COPIED, *REQUEST, "SpecificCharacterSet"))
_NOT_HELD = (*BINARY, "PN", "SQ")


def check(data: bytes, kind: ObjectKind, source: SourceImage) -> None:
    """Read an encoded result and raise for the first thing that is wrong with it.

    Parameters
    ----------
    data
        The DICOM file.
    kind
        Which kind of result it is.
    source
        The radiograph it belongs to.

    Raises
    ------
    InvalidResult
        Names the attribute and the rule, and quotes no value.
    """
    name, rules = kind.name, RULES[kind.name]
    try:
        meta, dataset = read(data)
    except (*MALFORMED, EOFError, InvalidDicomError) as error:
        raise InvalidResult(f"{name}: cannot be read again ({type(error).__name__})") from error
    _identity(meta, dataset, name, source)
    for keyword in (*_ALWAYS, *rules.required):
        if not dataset.has_value(keyword):
            raise InvalidResult(f"{name}: {keyword} is missing or empty")
    for keyword in _MAY_BE_EMPTY:
        if dataset.get(keyword) is None:
            raise InvalidResult(f"{name}: {keyword} is missing")
    # What the source is called, and its series and study, is repeated as it is: only so is it found.
    uids = frozenset((source.study_uid, source.series_uid, source.sop_instance_uid))
    _representations(dataset, name, _encodings(dataset), uids)
    rules.check(Encoded(data, meta.TransferSyntaxUID, dataset), source)


def _identity(meta: Dataset, dataset: Item, name: str, source: SourceImage) -> None:
    """Hold the object to its file meta information and to its source's study."""
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if text(meta, f"MediaStorage{keyword}") != dataset.text(keyword):
            raise InvalidResult(f"{name}: {keyword} differs from the file meta information")
    if dataset.text("StudyInstanceUID") != source.study_uid:
        raise InvalidResult(f"{name}: StudyInstanceUID is not the source's")
    for keyword, uid in (("SOPInstanceUID", source.sop_instance_uid), ("SeriesInstanceUID", source.series_uid)):
        if dataset.text(keyword) == uid:
            raise InvalidResult(f"{name}: {keyword} is the source's")


def _encodings(dataset: Item) -> list[str]:
    """Return the character sets of the object, as Python calls them."""
    element = dataset.get("SpecificCharacterSet")
    names = element.value.decode("ascii", "replace").rstrip(" \0").split("\\") if element else None
    return convert_encodings(names)


def _representations(dataset: Item, name: str, encodings: list[str], uids: frozenset[str]) -> None:
    """Hold every value that is ours to its value representation (PS3.5 6.2); copied texts stay as they came.

    `uids` are the source's, which need not be valid.
    """
    for element in dataset:
        if element.tag in _COPIED:
            continue
        for item in element.items:
            _representations(item, name, encodings, uids)
        try:
            if element.vr in NUMBERS:
                if len(element.value) % NUMBERS[element.vr].size:
                    raise ValueError("no whole number of numbers")
            elif element.vr not in _NOT_HELD:
                _hold(element, encodings, uids)
        except MALFORMED as error:
            raise InvalidResult(f"{name}: {element.keyword} is no {element.vr}") from error


def _hold(element: Element, encodings: list[str], uids: frozenset[str]) -> None:
    """Hold the values of a text to its value representation."""
    value = element.value
    if element.vr == "UI" and value.rstrip(b"\0").decode("ascii", "replace") in uids:
        return
    words = value.decode("ascii") if value.isascii() else decode_bytes(value, encodings, set())
    if element.vr not in ("LT", "ST", "UR", "UT"):  # a backslash divides no values there
        for each in words.split("\\"):
            _valid(element.vr, each.rstrip("\0") if element.vr == "UI" else each.strip(" \0"))
    else:
        _valid(element.vr, words.rstrip(" \0"))


def _valid(vr: str, value: str) -> None:
    """Hold one value to its representation."""
    if value and (not is_valid(vr, value) or (vr == "UI" and not UID(value).is_valid)):
        raise ValueError(vr)
