"""The rules of its own that each kind of result object is held to, after those for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.uid import UID, JPEGBaseline8Bit

from dicom_io.errors import InvalidResult
from dicom_io.objects import (
    encapsulated_pdf,
    key_objects,
    multi_frame_capture,
    parametric_map,
    presentation_state,
    secondary_capture,
    structured_report,
)
from dicom_io.objects.encoded import Item, evidence_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dicom_io.header.source_image import SourceImage

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


@dataclass(frozen=True)
class Encoded:
    """A result object as it would be sent: the file's bytes, its transfer syntax, and its data set."""

    data: bytes
    syntax: UID
    dataset: Item


@dataclass(frozen=True)
class Rules:
    """What a kind is held to.

    Parameters
    ----------
    check
        Raises InvalidResult, which names the attribute and the rule, and quotes no value.
    required
        Keywords of attributes that must have a value.
    """

    check: Callable[[Encoded, SourceImage], None]
    required: tuple[str, ...]


def _capture(encoded: Encoded, source: SourceImage) -> None:
    """Hold the pixels to their description."""
    dataset = encoded.dataset
    kind = secondary_capture.KIND.name
    size = int(dataset.number("Rows") * dataset.number("Columns") * 3)
    colours = "YBR_FULL_422" if encoded.syntax == JPEGBaseline8Bit else "RGB"
    if (dataset.number("SamplesPerPixel"), dataset.text("PhotometricInterpretation")) != (3, colours):
        raise InvalidResult(f"{kind}: the picture is not {colours}")
    pixels = dataset.get("PixelData")
    if not encoded.syntax.is_encapsulated and (pixels is None or pixels.length != size + size % 2):
        raise InvalidResult(f"{kind}: PixelData has another length than Rows and Columns say")
    _require_reference(kind, dataset.items("SourceImageSequence"), source)


def _frames(encoded: Encoded, source: SourceImage) -> None:
    """Hold the frames to their number, their labels and their size."""
    dataset = encoded.dataset
    kind, frames = multi_frame_capture.KIND.name, int(dataset.text("NumberOfFrames"))
    labels = dataset.get("FrameLabelVector")
    if labels is None or labels.value.count(b"\\") + 1 != frames:
        raise InvalidResult(f"{kind}: FrameLabelVector has another number of labels than there are frames")
    size = int(dataset.number("Rows") * dataset.number("Columns") * 3 * frames)
    if not encoded.syntax.is_encapsulated and _length(dataset, "PixelData") != size + size % 2:
        raise InvalidResult(f"{kind}: PixelData has another length than Rows, Columns and NumberOfFrames say")
    _require_reference(kind, dataset.items("SourceImageSequence"), source)


def _map(encoded: Encoded, source: SourceImage) -> None:
    """Hold the numbers to their description, and the map to its source."""
    dataset = encoded.dataset
    kind = parametric_map.KIND.name
    if _length(dataset, "FloatPixelData") != 4 * int(dataset.number("Rows") * dataset.number("Columns")):
        raise InvalidResult(f"{kind}: FloatPixelData has another length than Rows and Columns say")
    shared = dataset.items("SharedFunctionalGroupsSequence")[0]
    mappings = shared.items("RealWorldValueMappingSequence")
    if not mappings or not all(map(math.isfinite, mappings[0].numbers("RealWorldValueSlope") or [math.nan])):
        raise InvalidResult(f"{kind}: RealWorldValueMappingSequence is missing or empty")
    for keyword in ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"):
        if not shared.items(keyword):
            raise InvalidResult(f"{kind}: {keyword} is missing or empty")
    for frame in dataset.items("PerFrameFunctionalGroupsSequence"):
        derivations = frame.items("DerivationImageSequence")
        _require_reference(kind, [each for item in derivations for each in item.items("SourceImageSequence")], source)


def _presentation(encoded: Encoded, source: SourceImage) -> None:
    """Hold the drawing to its layer, its counts and the image's borders (PS3.3 C.10.5)."""
    dataset = encoded.dataset
    kind = presentation_state.KIND.name
    layers = {layer.text("GraphicLayer") for layer in dataset.items("GraphicLayerSequence")}
    for annotation in dataset.items("GraphicAnnotationSequence"):
        if annotation.text("GraphicLayer") not in layers:
            raise InvalidResult(f"{kind}: GraphicLayer names no layer")
        for graphic in annotation.items("GraphicObjectSequence"):
            points = graphic.numbers("GraphicData")
            if len(points) != 2 * graphic.number("NumberOfGraphicPoints"):
                raise InvalidResult(f"{kind}: GraphicData has another number of points than stated")
            _inside(kind, points, source)
    for series in dataset.items("ReferencedSeriesSequence"):
        if series.text("SeriesInstanceUID") != source.series_uid:
            raise InvalidResult(f"{kind}: ReferencedSeriesSequence names another series than the source's")
        _require_reference(kind, series.items("ReferencedImageSequence"), source)


def _page(encoded: Encoded, source: SourceImage) -> None:
    """Hold the document to its type and length."""
    dataset = encoded.dataset
    kind, document = encapsulated_pdf.KIND.name, dataset.get("EncapsulatedDocument")
    if document is None or not encoded.data.startswith(b"%PDF-", document.at):
        raise InvalidResult(f"{kind}: the document is no PDF")
    if dataset.text("MIMETypeOfEncapsulatedDocument") != "application/pdf":
        raise InvalidResult(f"{kind}: the document is no PDF")
    length = int(dataset.number("EncapsulatedDocumentLength"))
    if document.length != length + length % 2:
        raise InvalidResult(f"{kind}: EncapsulatedDocument has another length than EncapsulatedDocumentLength says")
    _require_reference(kind, dataset.items("SourceInstanceSequence"), source)


def _report(encoded: Encoded, source: SourceImage) -> None:
    """Hold each content item to its value type, and each reference to the evidence (PS3.3 C.17.3, C.18)."""
    dataset = encoded.dataset
    kind = structured_report.KIND.name
    evidence = evidence_of(dataset)
    if source.sop_instance_uid not in evidence:
        raise InvalidResult(f"{kind}: the evidence lacks the source")
    for item in _content(dataset):
        value_type = item.text("ValueType")
        if value_type not in _NEEDED or not item.has_value(_NEEDED[value_type]):
            raise InvalidResult(f"{kind}: a content item lacks what its value type needs")
        if not item.text("RelationshipType"):
            raise InvalidResult(f"{kind}: a content item lacks RelationshipType")
        if value_type == "IMAGE":
            referenced = {each.text("ReferencedSOPInstanceUID") for each in item.items("ReferencedSOPSequence")}
            if not referenced <= evidence:
                raise InvalidResult(f"{kind}: a content item refers to what is no evidence")
        if value_type == "SCOORD":
            _inside(kind, item.numbers("GraphicData"), source)


def _content(item: Item) -> Iterator[Item]:
    """Yield all content items below this one."""
    for each in item.items("ContentSequence"):
        yield each
        yield from _content(each)


def _selection(encoded: Encoded, source: SourceImage) -> None:
    """Hold what is named to the evidence, each way round."""
    dataset = encoded.dataset
    kind = key_objects.KIND.name
    references = [
        each
        for item in dataset.items("ContentSequence")
        if item.text("ValueType") in ("IMAGE", "COMPOSITE")
        for each in item.items("ReferencedSOPSequence")
    ]
    references += [each for image in references for each in image.items("ReferencedSOPSequence")]
    _require_reference(kind, references, source)
    if evidence_of(dataset) != {each.text("ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: what is selected and what is evidence differ")


def _inside(kind: str, points: list[float], source: SourceImage) -> None:
    across, down = points[::2], points[1::2]
    if not points or len(across) != len(down):
        raise InvalidResult(f"{kind}: GraphicData is not pairs")
    if min(points) < 0 or max(across) > source.columns or max(down) > source.rows:
        raise InvalidResult(f"{kind}: GraphicData leaves the image")


def _length(item: Item, keyword: str) -> int:
    element = item.get(keyword)
    return element.length if element else 0


def _require_reference(kind: str, references: Iterable[Item], source: SourceImage) -> None:
    """Raise InvalidResult unless one of the references is to the source."""
    if source.sop_instance_uid not in {each.text("ReferencedSOPInstanceUID") for each in references}:
        raise InvalidResult(f"{kind}: does not refer to the source")


RULES: dict[str, Rules] = {
    secondary_capture.KIND.name: Rules(
        _capture,
        (
            *("ConversionType", "ImageType", "SourceImageSequence", "Rows", "Columns", "SamplesPerPixel", "PixelData"),
            *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        ),
    ),
    multi_frame_capture.KIND.name: Rules(
        _frames,
        (
            *("ConversionType", "ImageType", "SourceImageSequence", "Rows", "Columns", "SamplesPerPixel", "PixelData"),
            *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
            *("NumberOfFrames", "FrameIncrementPointer", "FrameLabelVector", "BurnedInAnnotation"),
        ),
    ),
    parametric_map.KIND.name: Rules(
        _map,
        (
            *("ContentDate", "ContentTime", "ContentLabel", "ImageType", "Rows", "Columns", "BitsAllocated"),
            *("NumberOfFrames", "FrameOfReferenceUID", "DeviceSerialNumber", "LossyImageCompression"),
            *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence"),
            *("DimensionOrganizationSequence", "DimensionIndexSequence", "FloatPixelData", "ContentQualification"),
        ),
    ),
    presentation_state.KIND.name: Rules(
        _presentation,
        (
            *("PresentationCreationDate", "PresentationCreationTime", "ContentLabel", "ReferencedSeriesSequence"),
            *("GraphicAnnotationSequence", "GraphicLayerSequence", "DisplayedAreaSelectionSequence"),
            "PresentationLUTShape",
        ),
    ),
    encapsulated_pdf.KIND.name: Rules(
        _page,
        (
            *("ConversionType", "BurnedInAnnotation", "DocumentTitle", "SourceInstanceSequence"),
            *("MIMETypeOfEncapsulatedDocument", "EncapsulatedDocumentLength", "EncapsulatedDocument"),
        ),
    ),
    structured_report.KIND.name: Rules(
        _report,
        (
            *("ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent"),
            *("ContentTemplateSequence", "ContentSequence", "CompletionFlag", "VerificationFlag"),
            "CurrentRequestedProcedureEvidenceSequence",
        ),
    ),
    key_objects.KIND.name: Rules(
        _selection,
        (
            *("ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent"),
            *("ContentTemplateSequence", "ContentSequence", "CurrentRequestedProcedureEvidenceSequence"),
        ),
    ),
}
"""By name of the kind (PS3.3 A.8.1, A.8.5, A.75, A.33.1, A.45.1, A.35.13, A.35.4)."""
