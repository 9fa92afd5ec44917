"""The rules of their own that the optional kinds of result are held to, after those of `dicom_io.validate` for all."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread

from dicom_io import encapsulated_pdf, key_objects, multi_frame_capture, parametric_map
from dicom_io.errors import InvalidResult
from dicom_io.values import integer, items, number, text, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

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


def check(data: bytes, kind: str, source: Dataset) -> None:
    """Read an encoded result of an optional kind and raise for the first thing that is wrong with what is its own.

    Raises
    ------
    InvalidResult
        Names the attribute and the rule, and quotes no value.
    """
    rules: dict[str, Callable[[Dataset, Dataset], None]] = {
        multi_frame_capture.KIND: _frames,
        parametric_map.KIND: _map,
        encapsulated_pdf.KIND: _page,
        key_objects.KIND: _selection,
    }
    rules[kind](dcmread(BytesIO(data)), source)


def _frames(dataset: Dataset, source: Dataset) -> None:
    """Hold the frames to their number, their labels and their size."""
    kind, frames = multi_frame_capture.KIND, integer(dataset, "NumberOfFrames") or 0
    if len(values(dataset, "FrameLabelVector")) != frames:
        raise InvalidResult(f"{kind}: FrameLabelVector has another number of labels than there are frames")
    size = (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0) * 3 * frames
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and len(dataset.PixelData) != size + size % 2:
        raise InvalidResult(f"{kind}: PixelData has another length than Rows, Columns and NumberOfFrames say")
    _refers(kind, items(dataset, "SourceImageSequence"), source)


def _map(dataset: Dataset, source: Dataset) -> None:
    """Hold the numbers to their description, and the map to its source."""
    kind = parametric_map.KIND
    cells = (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0)
    if len(dataset.FloatPixelData) != 4 * cells:
        raise InvalidResult(f"{kind}: FloatPixelData has another length than Rows and Columns say")
    shared = items(dataset, "SharedFunctionalGroupsSequence")[0]
    mappings = items(shared, "RealWorldValueMappingSequence")
    if not mappings or number(mappings[0], "RealWorldValueSlope") is None:
        raise InvalidResult(f"{kind}: RealWorldValueMappingSequence is missing or empty")
    for keyword in ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"):
        if not items(shared, keyword):
            raise InvalidResult(f"{kind}: {keyword} is missing or empty")
    for frame in items(dataset, "PerFrameFunctionalGroupsSequence"):
        derived = items(frame, "DerivationImageSequence")
        _refers(kind, [each for item in derived for each in items(item, "SourceImageSequence")], source)


def _page(dataset: Dataset, source: Dataset) -> None:
    """Hold the document to its type and length."""
    kind, document = encapsulated_pdf.KIND, bytes(dataset.EncapsulatedDocument)
    length = integer(dataset, "EncapsulatedDocumentLength") or 0
    if not document.startswith(b"%PDF-") or text(dataset, "MIMETypeOfEncapsulatedDocument") != "application/pdf":
        raise InvalidResult(f"{kind}: the document is no PDF")
    if len(document) != length + length % 2:
        raise InvalidResult(f"{kind}: EncapsulatedDocument has another length than EncapsulatedDocumentLength says")
    _refers(kind, items(dataset, "SourceInstanceSequence"), source)


def _selection(dataset: Dataset, source: Dataset) -> None:
    """Hold what is named to the evidence, each way round."""
    kind = key_objects.KIND
    references = [
        each
        for item in items(dataset, "ContentSequence")
        if text(item, "ValueType") in ("IMAGE", "COMPOSITE")
        for each in items(item, "ReferencedSOPSequence")
    ]
    references += [each for image in references for each in items(image, "ReferencedSOPSequence")]
    _refers(kind, references, source)
    evidence = {
        text(instance, "ReferencedSOPInstanceUID")
        for study in items(dataset, "CurrentRequestedProcedureEvidenceSequence")
        for series in items(study, "ReferencedSeriesSequence")
        for instance in items(series, "ReferencedSOPSequence")
    }
    if evidence != {text(each, "ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: what is selected and what is evidence differ")


def _refers(kind: str, references: list[Dataset], source: Dataset) -> None:
    if text(source, "SOPInstanceUID") not in {text(each, "ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: does not refer to the source")
