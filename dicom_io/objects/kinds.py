"""The kinds of result as DICOM knows them. What only sends them needs none of the libraries that make them."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)


@dataclass(frozen=True)
class ObjectKind:
    """A kind of result as DICOM knows it."""

    name: str
    sop_class: UID
    modality: str


SECONDARY_CAPTURE = ObjectKind("secondary-capture", SecondaryCaptureImageStorage, "OT")
MULTI_FRAME_CAPTURE = ObjectKind("multi-frame-capture", MultiFrameTrueColorSecondaryCaptureImageStorage, "OT")
PARAMETRIC_MAP = ObjectKind("parametric-map", ParametricMapStorage, "OT")
KEY_OBJECTS = ObjectKind("key-objects", KeyObjectSelectionDocumentStorage, "KO")
STRUCTURED_REPORT = ObjectKind("structured-report", Comprehensive3DSRStorage, "SR")
PRESENTATION_STATE = ObjectKind("presentation-state", GrayscaleSoftcopyPresentationStateStorage, "PR")
ENCAPSULATED_PDF = ObjectKind("encapsulated-pdf", EncapsulatedPDFStorage, "DOC")

BY_NAME = {
    kind.name: kind
    for kind in (
        SECONDARY_CAPTURE,
        MULTI_FRAME_CAPTURE,
        PARAMETRIC_MAP,
        KEY_OBJECTS,
        STRUCTURED_REPORT,
        PRESENTATION_STATE,
        ENCAPSULATED_PDF,
    )
}
