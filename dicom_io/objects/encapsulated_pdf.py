"""Makes the Encapsulated PDF that carries a page for people into the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import EncapsulatedPDFStorage

from dicom_io.objects.common import begin, burned_in, code, names_of, plain_text, source_image
from dicom_io.objects.structured_report import instance_references

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pydicom.dataset import Dataset

    from dicom_io.finding import ModelIdentity

KIND = "encapsulated-pdf"
TITLE = "cxrd pneumonia report (research)"


def encapsulated_pdf(
    source: Dataset,
    page: bytes,
    *,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
    predecessors: Sequence[Dataset] = (),
) -> Dataset:
    """Wrap a PDF file as a document in a new series of the source's study (Encapsulated PDF, PS3.3 A.45.1, C.24.2).

    Burned In Annotation is what it is for the Secondary Capture: the page shows the radiograph, which may have a name
    in its pixels, and nothing else that identifies the patient.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    page
        The PDF file.
    identity, series_number, series_description, created
        As for the other kinds.
    predecessors
        Earlier pages on the same image (any data sets with study, series, SOP class and instance UID).

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The page is no PDF file, or the time is naive.
    """
    if not page.startswith(b"%PDF-"):
        raise ValueError("the page is no PDF file")
    dataset = begin(
        source,
        identity,
        kind=KIND,
        sop_class=EncapsulatedPDFStorage,
        modality="DOC",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = None
    dataset.BurnedInAnnotation = burned_in(source)
    dataset.RecognizableVisualFeatures = "NO"
    dataset.SourceInstanceSequence = [source_image(source)]
    dataset.DocumentTitle = plain_text(TITLE)
    # LOINC's word for a report on an imaging study, of whatever kind (PS3.16 CID 7020).
    dataset.ConceptNameCodeSequence = [code("18748-4", "Diagnostic imaging report", "LN")]
    dataset.VerificationFlag = "UNVERIFIED"
    if predecessors:
        dataset.PredecessorDocumentsSequence = instance_references([names_of(each) for each in predecessors])
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(page)
    dataset.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    for keyword in ("BodyPartExamined", "Laterality"):
        if keyword in dataset:  # of images, not of documents
            delattr(dataset, keyword)
    return dataset
