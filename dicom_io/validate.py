"""Holds a result object to the standard before it is sent: read again from its own bytes, checked, or refused.

The rules are those that archives and viewers stumble over: identity, value representations, the attributes that each
kind must have (PS3.3 A.8.1, A.33.1, A.35.13), and that all it refers to is there.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.config import RAISE
from pydicom.uid import UID, JPEGBaseline8Bit
from pydicom.valuerep import validate_value

from dicom_io import optional_rules, presentation_state, secondary_capture, structured_report
from dicom_io.derived import COPIED
from dicom_io.errors import InvalidResult
from dicom_io.values import MALFORMED, integer, items, numbers, text, values

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
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
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
    **optional_rules.OWN,
}


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
        dataset = dcmread(BytesIO(data))
        dataset.decode()
    except MALFORMED as error:
        raise InvalidResult(f"{kind}: cannot be read again ({type(error).__name__})") from error
    _identity(dataset, kind, source)
    for keyword in (*_ALWAYS, *_OWN[kind]):
        if not values(dataset, keyword):
            raise InvalidResult(f"{kind}: {keyword} is missing or empty")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in dataset:
            raise InvalidResult(f"{kind}: {keyword} is missing")
    _representations(dataset, kind)
    if kind in optional_rules.OWN:
        optional_rules.check(data, kind, source)
        return
    {
        secondary_capture.KIND: _capture,
        presentation_state.KIND: _presentation,
        structured_report.KIND: _report,
    }[kind](dataset, source)


def _identity(dataset: Dataset, kind: str, source: Dataset) -> None:
    """Hold the object to its file meta information and to its source's study."""
    meta = dataset.file_meta
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if text(meta, f"MediaStorage{keyword}") != text(dataset, keyword):
            raise InvalidResult(f"{kind}: {keyword} differs from the file meta information")
    if text(dataset, "StudyInstanceUID") != text(source, "StudyInstanceUID"):
        raise InvalidResult(f"{kind}: StudyInstanceUID is not the source's")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if text(dataset, keyword) == text(source, keyword):
            raise InvalidResult(f"{kind}: {keyword} is the source's")


def _representations(dataset: Dataset, kind: str) -> None:
    """Hold every value that is ours to its value representation (PS3.5 6.2); copied texts stay as they came."""
    for element in dataset:
        if element.keyword in COPIED:
            continue
        if element.VR == "SQ":
            for item in element.value:
                _representations(item, kind)
            continue
        found = values(dataset, element.keyword)
        try:
            if element.VR == "UI" and not all(UID(str(each)).is_valid for each in found):
                raise ValueError("UID")
            if element.VR not in ("OB", "OW", "OF", "PN"):
                for each in found:
                    validate_value(element.VR, str(each) if element.VR in ("DS", "IS") else each, RAISE)
        except MALFORMED as error:
            raise InvalidResult(f"{kind}: {element.keyword} is no {element.VR}") from error


def _capture(dataset: Dataset, source: Dataset) -> None:
    """Hold the pixels to their description."""
    kind = secondary_capture.KIND
    size = (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0) * 3
    colours = "YBR_FULL_422" if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit else "RGB"
    if (integer(dataset, "SamplesPerPixel"), text(dataset, "PhotometricInterpretation")) != (3, colours):
        raise InvalidResult(f"{kind}: the picture is not {colours}")
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and len(dataset.PixelData) != size + size % 2:
        raise InvalidResult(f"{kind}: PixelData has another length than Rows and Columns say")
    _refers(kind, items(dataset, "SourceImageSequence"), source)


def _presentation(dataset: Dataset, source: Dataset) -> None:
    """Hold the drawing to its layer, its counts and the image's borders (PS3.3 C.10.5)."""
    kind = presentation_state.KIND
    layers = {text(layer, "GraphicLayer") for layer in items(dataset, "GraphicLayerSequence")}
    rows, columns = integer(source, "Rows") or 0, integer(source, "Columns") or 0
    for annotation in items(dataset, "GraphicAnnotationSequence"):
        if text(annotation, "GraphicLayer") not in layers:
            raise InvalidResult(f"{kind}: GraphicLayer names no layer")
        for graphic in items(annotation, "GraphicObjectSequence"):
            points = numbers(graphic, "GraphicData")
            if len(points) != 2 * (integer(graphic, "NumberOfGraphicPoints") or 0):
                raise InvalidResult(f"{kind}: GraphicData has another number of points than stated")
            _inside(kind, points, rows, columns)
    for series in items(dataset, "ReferencedSeriesSequence"):
        if text(series, "SeriesInstanceUID") != text(source, "SeriesInstanceUID"):
            raise InvalidResult(f"{kind}: ReferencedSeriesSequence names another series than the source's")
        _refers(kind, items(series, "ReferencedImageSequence"), source)


def _report(dataset: Dataset, source: Dataset) -> None:
    """Hold each content item to its value type, and each reference to the evidence (PS3.3 C.17.3, C.18)."""
    kind = structured_report.KIND
    evidence = {
        text(instance, "ReferencedSOPInstanceUID")
        for study in items(dataset, "CurrentRequestedProcedureEvidenceSequence")
        for series in items(study, "ReferencedSeriesSequence")
        for instance in items(series, "ReferencedSOPSequence")
    }
    if text(source, "SOPInstanceUID") not in evidence:
        raise InvalidResult(f"{kind}: the evidence lacks the source")
    rows, columns = integer(source, "Rows") or 0, integer(source, "Columns") or 0
    needed = {"NUM": "MeasuredValueSequence", "CODE": "ConceptCodeSequence", "TEXT": "TextValue", "UIDREF": "UID"}
    needed |= {"IMAGE": "ReferencedSOPSequence", "SCOORD": "GraphicData", "CONTAINER": "ContentSequence"}
    for item in _content(dataset):
        value_type = text(item, "ValueType")
        if value_type not in needed or not values(item, needed[value_type]):
            raise InvalidResult(f"{kind}: a content item lacks what its value type needs")
        if not text(item, "RelationshipType"):
            raise InvalidResult(f"{kind}: a content item lacks RelationshipType")
        if value_type == "IMAGE":
            named = {text(each, "ReferencedSOPInstanceUID") for each in items(item, "ReferencedSOPSequence")}
            if not named <= evidence:
                raise InvalidResult(f"{kind}: a content item refers to what is no evidence")
        if value_type == "SCOORD":
            _inside(kind, numbers(item, "GraphicData"), rows, columns)


def _content(dataset: Dataset) -> Iterator[Dataset]:
    """Yield all content items below this one."""
    for item in items(dataset, "ContentSequence"):
        yield item
        yield from _content(item)


def _inside(kind: str, points: list[float], rows: int, columns: int) -> None:
    across, down = points[::2], points[1::2]
    if not points or len(across) != len(down):
        raise InvalidResult(f"{kind}: GraphicData is not pairs")
    if min(points) < 0 or max(across) > columns or max(down) > rows:
        raise InvalidResult(f"{kind}: GraphicData leaves the image")


def _refers(kind: str, references: list[Dataset], source: Dataset) -> None:
    if text(source, "SOPInstanceUID") not in {text(each, "ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: does not refer to the source")
