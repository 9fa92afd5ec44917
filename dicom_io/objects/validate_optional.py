"""The rules of their own that the optional kinds of result are held to, after those for all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidResult
from dicom_io.header.attributes import text
from dicom_io.objects import encapsulated_pdf, key_objects, multi_frame_capture, parametric_map
from dicom_io.objects.encoded import Item, evidence_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.dataset import Dataset
    from pydicom.uid import UID


OWN = {
    multi_frame_capture.KIND: (
        *("ConversionType", "ImageType", "SourceImageSequence", "Rows", "Columns", "SamplesPerPixel", "PixelData"),
        *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("NumberOfFrames", "FrameIncrementPointer", "FrameLabelVector", "BurnedInAnnotation"),
    ),
    parametric_map.KIND: (
        *("ContentDate", "ContentTime", "ContentLabel", "ImageType", "Rows", "Columns", "BitsAllocated"),
        *("NumberOfFrames", "FrameOfReferenceUID", "DeviceSerialNumber", "LossyImageCompression"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence"),
        *("DimensionOrganizationSequence", "DimensionIndexSequence", "FloatPixelData", "ContentQualification"),
    ),
    encapsulated_pdf.KIND: (
        *("ConversionType", "BurnedInAnnotation", "DocumentTitle", "SourceInstanceSequence"),
        *("MIMETypeOfEncapsulatedDocument", "EncapsulatedDocumentLength", "EncapsulatedDocument"),
    ),
    key_objects.KIND: (
        *("ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent"),
        *("ContentTemplateSequence", "ContentSequence", "CurrentRequestedProcedureEvidenceSequence"),
    ),
}
"""What each kind must have, by keyword (PS3.3 A.8.5, A.75, A.45.1, A.35.4)."""


def check(data: bytes, meta: Dataset, written: Item, kind: str, source: Dataset) -> None:
    """Raise for the first thing that is wrong with what is an optional kind's own.

    Parameters
    ----------
    data, meta, written
        The DICOM file, and what `dicom_io.objects.encoded.read` found in it.
    kind
        Which result it is: the KIND of the module that made it.
    source
        The radiograph it belongs to.

    Raises
    ------
    InvalidResult
        Names the attribute and the rule, and quotes no value.
    """
    if kind == multi_frame_capture.KIND:
        _frames(written, source, meta.TransferSyntaxUID)
    elif kind == parametric_map.KIND:
        _map(written, source)
    elif kind == encapsulated_pdf.KIND:
        _page(data, written, source)
    else:
        _selection(written, source)


def _frames(written: Item, source: Dataset, syntax: UID) -> None:
    """Hold the frames to their number, their labels and their size."""
    kind, frames = multi_frame_capture.KIND, int(written.text("NumberOfFrames"))
    labels = written.get("FrameLabelVector")
    if labels is None or labels.value.count(b"\\") + 1 != frames:
        raise InvalidResult(f"{kind}: FrameLabelVector has another number of labels than there are frames")
    size = int(written.number("Rows") * written.number("Columns") * 3 * frames)
    if not syntax.is_encapsulated and _length(written, "PixelData") != size + size % 2:
        raise InvalidResult(f"{kind}: PixelData has another length than Rows, Columns and NumberOfFrames say")
    refers(kind, written.items("SourceImageSequence"), source)


def _map(written: Item, source: Dataset) -> None:
    """Hold the numbers to their description, and the map to its source."""
    kind = parametric_map.KIND
    if _length(written, "FloatPixelData") != 4 * int(written.number("Rows") * written.number("Columns")):
        raise InvalidResult(f"{kind}: FloatPixelData has another length than Rows and Columns say")
    shared = written.items("SharedFunctionalGroupsSequence")[0]
    mappings = shared.items("RealWorldValueMappingSequence")
    if not mappings or not all(map(math.isfinite, mappings[0].numbers("RealWorldValueSlope") or [math.nan])):
        raise InvalidResult(f"{kind}: RealWorldValueMappingSequence is missing or empty")
    for keyword in ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"):
        if not shared.items(keyword):
            raise InvalidResult(f"{kind}: {keyword} is missing or empty")
    for frame in written.items("PerFrameFunctionalGroupsSequence"):
        derived = frame.items("DerivationImageSequence")
        refers(kind, [each for item in derived for each in item.items("SourceImageSequence")], source)


def _page(data: bytes, written: Item, source: Dataset) -> None:
    """Hold the document to its type and length."""
    kind, document = encapsulated_pdf.KIND, written.get("EncapsulatedDocument")
    if document is None or not data.startswith(b"%PDF-", document.at):
        raise InvalidResult(f"{kind}: the document is no PDF")
    if written.text("MIMETypeOfEncapsulatedDocument") != "application/pdf":
        raise InvalidResult(f"{kind}: the document is no PDF")
    length = int(written.number("EncapsulatedDocumentLength"))
    if document.length != length + length % 2:
        raise InvalidResult(f"{kind}: EncapsulatedDocument has another length than EncapsulatedDocumentLength says")
    refers(kind, written.items("SourceInstanceSequence"), source)


def _selection(written: Item, source: Dataset) -> None:
    """Hold what is named to the evidence, each way round."""
    kind = key_objects.KIND
    references = [
        each
        for item in written.items("ContentSequence")
        if item.text("ValueType") in ("IMAGE", "COMPOSITE")
        for each in item.items("ReferencedSOPSequence")
    ]
    references += [each for image in references for each in image.items("ReferencedSOPSequence")]
    refers(kind, references, source)
    if evidence_of(written) != {each.text("ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: what is selected and what is evidence differ")


def _length(written: Item, keyword: str) -> int:
    found = written.get(keyword)
    return found.length if found else 0


def refers(kind: str, references: Iterable[Item], source: Dataset) -> None:
    """Raise InvalidResult unless one of the references is to the source."""
    if text(source, "SOPInstanceUID") not in {each.text("ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: does not refer to the source")
