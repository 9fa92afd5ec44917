"""Makes the Key Object Selection that names the radiograph and all that was made from it as one set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from highdicom.ko import KeyObjectSelection
from highdicom.sr.utils import collect_evidence
from pydicom.sr.codedict import codes
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from dicom_io.header.source_image import sop_instance
from dicom_io.objects.common import begin, instance_dataset, reference, require_place
from dicom_io.objects.kinds import KEY_OBJECTS
from dicom_io.objects.structured_report import as_document, device_observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

    from dicom_io.objects.common import Basis

KIND = KEY_OBJECTS
TITLE = codes.DCM.OfInterest
_DESCRIPTION = "A chest radiograph and what cxrd made from it. For research use. Not for diagnosis."


def key_objects(basis: Basis, others: Sequence[Dataset]) -> Dataset:
    """Name the radiograph and its results (Key Object Selection Document, PS3.3 A.35.4; TID 2010, PS3.16).

    A presentation state is named with the radiograph it presents, as PS3.3 C.18.4 has it; images are IMAGE items, and
    everything else is COMPOSITE.

    Parameters
    ----------
    basis
        Source, model, time and series.
    others
        The other result objects for the same image.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series or its size, without which no document can refer to it.
    """
    require_place(basis.source)
    selection = begin(basis, KIND)
    states = [each for each in others if each.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage]
    images_and_documents = [instance_dataset(basis.source), *(_named(each) for each in others if each not in states)]
    content = KeyObjectSelection(
        document_title=TITLE,
        referenced_objects=images_and_documents,
        observer_device_context=device_observer(basis.identity),
        description=_DESCRIPTION,
    )
    if states:
        image = next(item for item in content[0].ContentSequence if item.ValueType == "IMAGE")
        image.ReferencedSOPSequence[0].ReferencedSOPSequence = [reference(sop_instance(states[0]))]
    for element in content[0]:
        selection[element.tag] = element
    evidence = [*images_and_documents, *(instance_dataset(sop_instance(each)) for each in states)]
    current, _ = collect_evidence(evidence, selection, study_instance_uid=selection.StudyInstanceUID)
    selection.CurrentRequestedProcedureEvidenceSequence = current
    selection.ReferencedPerformedProcedureStepSequence = []
    as_document(selection, basis.source)
    return selection


def _named(dataset: Dataset) -> Dataset:
    """Return a result's UIDs, with its size where it is an image, by which highdicom tells it from a document."""
    item = instance_dataset(sop_instance(dataset))
    if "Rows" in dataset:
        item.Rows, item.Columns = dataset.Rows, dataset.Columns
    return item
