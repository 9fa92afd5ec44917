"""Holds a result object to the standard before it is sent: read again from its own bytes, checked, or refused.

The rules are those that archives and viewers stumble over: identity, value representations, the attributes that each
kind must have (PS3.3 A.8.1, A.33.1, A.35.13), and that all it refers to is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, JPEGBaseline8Bit

from dicom_io.errors import InvalidResult
from dicom_io.header.attributes import MALFORMED, integer, is_valid, text
from dicom_io.objects import presentation_state, secondary_capture, structured_report, validate_optional
from dicom_io.objects.common import COPIED
from dicom_io.objects.encoded import BINARY, NUMBERS, Element, Item, evidence_of, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

_ALWAYS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber"),
    *("InstanceNumber", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"),
    "ContributingEquipmentSequence",
)
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_OWN = {
    secondary_capture.KIND: (
        *("ConversionType", "ImageType", "SourceImageSequence", "Rows", "Columns", "SamplesPerPixel", "PixelData"),
        *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    ),
    presentation_state.KIND: (
        *("PresentationCreationDate", "PresentationCreationTime", "ContentLabel", "ReferencedSeriesSequence"),
        *("GraphicAnnotationSequence", "GraphicLayerSequence", "DisplayedAreaSelectionSequence"),
        "PresentationLUTShape",
    ),
    structured_report.KIND: (
        *("ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent"),
        *("ContentTemplateSequence", "ContentSequence", "CompletionFlag", "VerificationFlag"),
        "CurrentRequestedProcedureEvidenceSequence",
    ),
    **validate_optional.OWN,
}
# What a content item must hold for its value type (PS3.3 C.18).
_NEEDED = {
    "NUM": "MeasuredValueSequence",
    "CODE": "ConceptCodeSequence",
    "TEXT": "TextValue",
    "UIDREF": "UID",
    "IMAGE": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "CONTAINER": "ContentSequence",
}
_COPIED = frozenset(tag_for_keyword(keyword) for keyword in COPIED)
_NOT_HELD = (*BINARY, "PN", "SQ")


def check(data: bytes, kind: str, source: Dataset) -> None:
    """Read an encoded result and raise for the first thing that is wrong with it.

    Parameters
    ----------
    data
        The DICOM file.
    kind
        Which result it is: the KIND of the module that made it.
    source
        The radiograph it belongs to.

    Raises
    ------
    InvalidResult
        Names the attribute and the rule, and quotes no value.
    """
    try:
        meta, written = read(data)
    except (*MALFORMED, EOFError, InvalidDicomError) as error:
        raise InvalidResult(f"{kind}: cannot be read again ({type(error).__name__})") from error
    _identity(meta, written, kind, source)
    for keyword in (*_ALWAYS, *_OWN[kind]):
        if not written.has_value(keyword):
            raise InvalidResult(f"{kind}: {keyword} is missing or empty")
    for keyword in _MAY_BE_EMPTY:
        if written.get(keyword) is None:
            raise InvalidResult(f"{kind}: {keyword} is missing")
    # What the source is called, and its series and study, is repeated as it is: only so is it found.
    names = frozenset(text(source, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    _representations(written, kind, _encodings(written), names)
    if kind in validate_optional.OWN:
        validate_optional.check(data, meta, written, kind, source)
    elif kind == secondary_capture.KIND:
        _capture(written, source, meta.TransferSyntaxUID)
    elif kind == presentation_state.KIND:
        _presentation(written, source)
    else:
        _report(written, source)


def _identity(meta: Dataset, written: Item, kind: str, source: Dataset) -> None:
    """Hold the object to its file meta information and to its source's study."""
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if text(meta, f"MediaStorage{keyword}") != written.text(keyword):
            raise InvalidResult(f"{kind}: {keyword} differs from the file meta information")
    if written.text("StudyInstanceUID") != text(source, "StudyInstanceUID"):
        raise InvalidResult(f"{kind}: StudyInstanceUID is not the source's")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if written.text(keyword) == text(source, keyword):
            raise InvalidResult(f"{kind}: {keyword} is the source's")


def _encodings(written: Item) -> list[str]:
    """Return the character sets of the object, as Python calls them."""
    stated = written.get("SpecificCharacterSet")
    return convert_encodings(stated.value.decode("ascii", "replace").rstrip(" \0").split("\\") if stated else None)


def _representations(written: Item, kind: str, encodings: list[str], names: frozenset[str]) -> None:
    """Hold every value that is ours to its value representation (PS3.5 6.2); copied texts stay as they came.

    `names` are the source's UIDs, which need not be any.
    """
    for element in written:
        if element.tag in _COPIED:
            continue
        for item in element.items:
            _representations(item, kind, encodings, names)
        try:
            if element.vr in NUMBERS:
                if len(element.value) % NUMBERS[element.vr].size:
                    raise ValueError("no whole number of numbers")
            elif element.vr not in _NOT_HELD:
                _hold(element, encodings, names)
        except MALFORMED as error:
            raise InvalidResult(f"{kind}: {element.keyword} is no {element.vr}") from error


def _hold(element: Element, encodings: list[str], names: frozenset[str]) -> None:
    """Hold the values of a text to its value representation."""
    value = element.value
    if element.vr == "UI" and value.rstrip(b"\0").decode("ascii", "replace") in names:
        return
    said = value.decode("ascii") if value.isascii() else decode_bytes(value, encodings, set())
    if element.vr not in ("LT", "ST", "UR", "UT"):  # a backslash divides no values there
        for each in said.split("\\"):
            _valid(element.vr, each.rstrip("\0") if element.vr == "UI" else each.strip(" \0"))
    else:
        _valid(element.vr, said.rstrip(" \0"))


def _valid(vr: str, value: str) -> None:
    """Hold one value to its representation."""
    if value and (not is_valid(vr, value) or (vr == "UI" and not UID(value).is_valid)):
        raise ValueError(vr)


def _capture(written: Item, source: Dataset, syntax: UID) -> None:
    """Hold the pixels to their description."""
    kind = secondary_capture.KIND
    size = int(written.number("Rows") * written.number("Columns") * 3)
    colours = "YBR_FULL_422" if syntax == JPEGBaseline8Bit else "RGB"
    if (written.number("SamplesPerPixel"), written.text("PhotometricInterpretation")) != (3, colours):
        raise InvalidResult(f"{kind}: the picture is not {colours}")
    pixels = written.get("PixelData")
    if not syntax.is_encapsulated and (pixels is None or pixels.length != size + size % 2):
        raise InvalidResult(f"{kind}: PixelData has another length than Rows and Columns say")
    validate_optional.refers(kind, written.items("SourceImageSequence"), source)


def _presentation(written: Item, source: Dataset) -> None:
    """Hold the drawing to its layer, its counts and the image's borders (PS3.3 C.10.5)."""
    kind = presentation_state.KIND
    layers = {layer.text("GraphicLayer") for layer in written.items("GraphicLayerSequence")}
    rows, columns = integer(source, "Rows") or 0, integer(source, "Columns") or 0
    for annotation in written.items("GraphicAnnotationSequence"):
        if annotation.text("GraphicLayer") not in layers:
            raise InvalidResult(f"{kind}: GraphicLayer names no layer")
        for graphic in annotation.items("GraphicObjectSequence"):
            points = graphic.numbers("GraphicData")
            if len(points) != 2 * graphic.number("NumberOfGraphicPoints"):
                raise InvalidResult(f"{kind}: GraphicData has another number of points than stated")
            _inside(kind, points, rows, columns)
    for series in written.items("ReferencedSeriesSequence"):
        if series.text("SeriesInstanceUID") != text(source, "SeriesInstanceUID"):
            raise InvalidResult(f"{kind}: ReferencedSeriesSequence names another series than the source's")
        validate_optional.refers(kind, series.items("ReferencedImageSequence"), source)


def _report(written: Item, source: Dataset) -> None:
    """Hold each content item to its value type, and each reference to the evidence (PS3.3 C.17.3, C.18)."""
    kind = structured_report.KIND
    evidence = evidence_of(written)
    if text(source, "SOPInstanceUID") not in evidence:
        raise InvalidResult(f"{kind}: the evidence lacks the source")
    rows, columns = integer(source, "Rows") or 0, integer(source, "Columns") or 0
    for item in _content(written):
        value_type = item.text("ValueType")
        if value_type not in _NEEDED or not item.has_value(_NEEDED[value_type]):
            raise InvalidResult(f"{kind}: a content item lacks what its value type needs")
        if not item.text("RelationshipType"):
            raise InvalidResult(f"{kind}: a content item lacks RelationshipType")
        if value_type == "IMAGE":
            named = {each.text("ReferencedSOPInstanceUID") for each in item.items("ReferencedSOPSequence")}
            if not named <= evidence:
                raise InvalidResult(f"{kind}: a content item refers to what is no evidence")
        if value_type == "SCOORD":
            _inside(kind, item.numbers("GraphicData"), rows, columns)


def _content(written: Item) -> Iterator[Item]:
    """Yield all content items below this one."""
    for item in written.items("ContentSequence"):
        yield item
        yield from _content(item)


def _inside(kind: str, points: list[float], rows: int, columns: int) -> None:
    across, down = points[::2], points[1::2]
    if not points or len(across) != len(down):
        raise InvalidResult(f"{kind}: GraphicData is not pairs")
    if min(points) < 0 or max(across) > columns or max(down) > rows:
        raise InvalidResult(f"{kind}: GraphicData leaves the image")
