"""Makes the Encapsulated PDF that carries a page for people into the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.objects.common import begin, code, instance_references, plain_text, source_reference
from dicom_io.objects.kinds import ENCAPSULATED_PDF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from dicom_io.header.source_image import SopInstance
    from dicom_io.objects.common import Basis

KIND = ENCAPSULATED_PDF
TITLE = "cxrd pneumonia report (research)"


def encapsulated_pdf(basis: Basis, page: bytes, predecessors: Sequence[SopInstance] = ()) -> Dataset:
    """Wrap a PDF file as a document in a new series of the source's study (Encapsulated PDF, PS3.3 A.45.1, C.24.2).

    Burned In Annotation is what it is for the Secondary Capture: the page shows the radiograph, which may have a name
    in its pixels, and nothing else that identifies the patient.

    Parameters
    ----------
    basis
        Source, model, time and series.
    page
        The PDF file.
    predecessors
        Earlier pages on the same image.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The page is no PDF file, or the time is naive.
    """
    if not page.startswith(b"%PDF-"):
        raise ValueError("the page is no PDF file")
    dataset = begin(basis, KIND)
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = None
    dataset.BurnedInAnnotation = basis.source.burned_in
    dataset.RecognizableVisualFeatures = "NO"
    dataset.SourceInstanceSequence = [source_reference(basis.source)]
    dataset.DocumentTitle = plain_text(TITLE)
    # LOINC's word for a report on an imaging study, of whatever kind (PS3.16 CID 7020).
    dataset.ConceptNameCodeSequence = [code("18748-4", "Diagnostic imaging report", "LN")]
    dataset.VerificationFlag = "UNVERIFIED"
    if predecessors:
        dataset.PredecessorDocumentsSequence = instance_references(predecessors)
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(page)
    dataset.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    for keyword in ("BodyPartExamined", "Laterality"):
        if keyword in dataset:  # of images, not of documents
            delattr(dataset, keyword)
    return dataset
