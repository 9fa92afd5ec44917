"""Makes the structured report: the finding as a machine reads it, a Comprehensive 3D SR after TID 1500 (PS3.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, Comprehensive3DSRStorage

from dicom_io.finding import MANUFACTURER
from dicom_io.header.attributes import is_valid, items, numbers, text, values
from dicom_io.objects.common import begin, device_uid, names_of, plain_text, reference, stand_in
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dicom_io.finding import Finding, ModelIdentity

KIND = "structured-report"

PNEUMONIA = CodedConcept("233604007", "SCT", "Pneumonia")
PRESENCE = CodedConcept("705057003", "SCT", "Presence")
PRESENT = CodedConcept("52101004", "SCT", "Present")
ABSENT = CodedConcept("2667000", "SCT", "Absent")
INDETERMINATE = CodedConcept("82334004", "SCT", "Indeterminate")
CHEST_RADIOGRAPHY = CodedConcept("399208008", "SCT", "Plain chest X-ray")
PROBABILITY = codes.DCM.Probability
UNIT = CodedConcept("1", "UCUM", "no units")
_PIXELS = CodedConcept("{pixels}", "UCUM", "pixels")
_NOT_ANALYSED = f"{KIND}/not-analysed"
_REQUEST = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
_NOTICE = "For research use. Not for diagnosis."
_ACQUISITION = RelationshipTypeValues.HAS_ACQ_CONTEXT


def tracking_uid(source_uid: str, identity: ModelIdentity) -> str:
    """Return the Tracking UID that report and presentation state give to the same finding."""
    return derived_uid(source_uid, str(identity), "tracking")


def presence(finding: Finding | None) -> CodedConcept:
    """Return present, absent or indeterminate (PS3.16 CID 240, and SNOMED CT's word for what the set leaves open).

    Indeterminate is what was not analysed, what lies outside the trained population, and what the conformal set does
    not decide.
    """
    if finding is None or finding.out_of_distribution or finding.certain is False:
        return INDETERMINATE
    return PRESENT if finding.decision == "PNEUMONIA" else ABSENT


def structured_report(
    source: Dataset,
    *,
    finding: Finding | None,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
    others: Sequence[Dataset] = (),
    predecessors: Sequence[Dataset] = (),
    reason: str = "",
) -> Dataset:
    """Report a finding, or that and why an image was not analysed, in a new series of its study (PS3.3 A.35.13).

    A report of not having analysed has UIDs of its own: it must not stand in the way of a later finding's.

    TID 1500: procedure reported, observer device (TID 1004), image library (TID 1600), and one group of measurements
    and evaluations (TID 1501; with a region TID 1410): presence of pneumonia, its probability, algorithm (TID 4019).

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    finding
        None for an image that was not analysed, for `reason`.
    identity
        The model, as device and algorithm.
    series_number, series_description
        Of the new series, the same for every study.
    created
        When the report was made, aware.
    others
        The other result objects for the same image, named as evidence, so that the set is linked.
    predecessors
        Earlier reports on the same image (any data sets with study, series, SOP class and instance UID).
    reason
        Why there is no finding: a few words without patient data.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series or its size, without which a report cannot refer to it.
    """
    report = begin(
        source,
        identity,
        kind=KIND if finding else _NOT_ANALYSED,
        sop_class=Comprehensive3DSRStorage,
        modality="SR",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    stand = stand_in(source)
    content = MeasurementReport(
        observation_context=_observer(identity),
        procedure_reported=procedure(source),
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_group(stand, finding, identity, reason)],
    )
    content[0].ContentSequence.insert(-1, _library(source, stand))
    if finding is None:
        words = plain_text(f"Not analysed: {reason}")
        group = content[0].ContentSequence[-1].ContentSequence[0]
        group.ContentSequence.append(TextContentItem(codes.DCM.Comment, words, RelationshipTypeValues.CONTAINS))
    for element in content[0]:
        report[element.tag] = element
    _document(report, [stand, *map(names_of, others)], [names_of(each) for each in predecessors])
    as_document(report)
    return report


def _document(report: Dataset, evidence: list[Dataset], predecessors: list[Dataset]) -> None:
    """Set the SR Document Series and SR Document General modules (PS3.3 C.17.1, C.17.2).

    highdicom's document class would do it too, but copies and parses the whole tree again, three times our cost.
    """
    report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    # All of it is of the source's study: the source, and what is made for it.
    report.CurrentRequestedProcedureEvidenceSequence = instance_references(evidence)
    if predecessors:
        report.PredecessorDocumentsSequence = instance_references(predecessors)


def instance_references(instances: Sequence[Dataset]) -> list[Dataset]:
    """Group SOP instances by study and series (PS3.3 Table C.17-3, SOP Instance Reference Macro), each named once.

    highdicom's `collect_evidence` makes the same items, but searches the whole tree for references twice before that,
    which costs as much as making the tree; `validate` looks for them in the written bytes.
    """
    studies: dict[str, dict[str, dict[str, Dataset]]] = {}
    for instance in instances:
        series = studies.setdefault(instance.StudyInstanceUID, {}).setdefault(instance.SeriesInstanceUID, {})
        series.setdefault(instance.SOPInstanceUID, reference(instance))
    return [
        _with(
            StudyInstanceUID=study,
            ReferencedSeriesSequence=[
                _with(SeriesInstanceUID=uid, ReferencedSOPSequence=list(named.values()))
                for uid, named in series.items()
            ],
        )
        for study, series in studies.items()
    ]


def as_document(dataset: Dataset) -> None:
    """Bring what only images have into the form that documents have, in place: requests, and else nothing of it.

    What the source answers is the order that its report is about (PS3.3 C.17.2, Referenced Request Sequence; type 1C).
    """
    requests = [_request(dataset, item) for item in items(dataset, "RequestAttributesSequence")]
    if requests:
        dataset.ReferencedRequestSequence = requests
    for keyword in ("RequestAttributesSequence", "BodyPartExamined", "Laterality"):
        if keyword in dataset:
            delattr(dataset, keyword)


def _request(dataset: Dataset, item: Dataset) -> Dataset:
    """Return a request as a document names it: what is not known, or no value of its kind, is empty (type 2)."""
    request = Dataset()
    request.StudyInstanceUID = UID(text(dataset, "StudyInstanceUID"))
    request.ReferencedStudySequence = []
    for keyword in _REQUEST:
        stated = text(item, keyword) or (text(dataset, keyword) if keyword == "AccessionNumber" else "")
        told = is_valid(dictionary_VR(keyword), stated) and "\N{REPLACEMENT CHARACTER}" not in stated
        setattr(request, keyword, stated if told else "")
    codes_of = items(item, "RequestedProcedureCodeSequence")
    request.RequestedProcedureCodeSequence = [each for each in map(_plain_code, codes_of) if each is not None]
    return request


def _with(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _observer(identity: ModelIdentity) -> ObservationContext:
    return ObservationContext(observer_device_context=device_observer(identity))


def device_observer(identity: ModelIdentity) -> ObserverContext:
    """Say that a device observed, by the same names as the equipment modules (TID 1002, TID 1004)."""
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(identity),
        name=plain_text(identity.name)[:64],
        manufacturer_name=MANUFACTURER,
        model_name=plain_text(identity.name)[:64],
        serial_number=plain_text(identity.digest)[:64],
    )
    return ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def procedure(source: Dataset) -> CodedConcept:
    """Return the imaging procedure by the code that the source gives it, else as what a chest radiograph is."""
    stated = map(_plain_code, items(source, "ProcedureCodeSequence"))
    return next((each for each in stated if each is not None), CHEST_RADIOGRAPHY)


def _plain_code(item: Dataset) -> CodedConcept | None:
    """Return a code that every character set can carry, as the report's own texts are in the source's; else None."""
    value, scheme, meaning = (text(item, keyword) for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
    for each, longest in ((value, 16), (scheme, 16), (meaning, 64)):
        if not each or len(each) > longest or not each.isascii() or "\\" in each:
            return None
    return CodedConcept(value, scheme, meaning)


def _library(source: Dataset, stand: Dataset) -> ContainerContentItem:
    """Describe the radiograph (TID 1600, 1601, 1602, 1603) by what its header holds."""
    image = ImageContentItem(
        name=codes.DCM.SourceImage,
        referenced_sop_class_uid=stand.SOPClassUID,
        referenced_sop_instance_uid=stand.SOPInstanceUID,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    computed = text(source, "Modality").upper() == "CR"
    modality = codes.cid29.ComputedRadiography if computed else codes.cid29.DigitalRadiography
    entries: list[ContentItem] = [CodeContentItem(codes.DCM.Modality, modality, _ACQUISITION)]
    for name, size in ((codes.DCM.PixelDataRows, stand.Rows), (codes.DCM.PixelDataColumns, stand.Columns)):
        entries.append(NumContentItem(name, size, _PIXELS, relationship_type=_ACQUISITION))
    orientation = [str(each).strip() for each in values(source, "PatientOrientation")]
    if len(orientation) == 2 and all(each.isascii() and each for each in orientation):
        names = (codes.DCM.PatientOrientationRow, codes.DCM.PatientOrientationColumn)
        entries += [TextContentItem(name, each, _ACQUISITION) for name, each in zip(names, orientation, strict=True)]
    spacing = numbers(source, "ImagerPixelSpacing")
    if len(spacing) == 2 and min(spacing) > 0:
        for name, each in zip((codes.DCM.VerticalPixelSpacing, codes.DCM.HorizontalPixelSpacing), spacing, strict=True):
            entries.append(NumContentItem(name, each, codes.UCUM.Millimeter, relationship_type=_ACQUISITION))
    image.ContentSequence = ContentSequence(entries)
    contains = RelationshipTypeValues.CONTAINS
    group = ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = ContentSequence([image])
    library = ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = ContentSequence([group])
    return library


def _group(
    source: Dataset, finding: Finding | None, identity: ModelIdentity, reason: str
) -> MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations:
    """Return the finding as a group: with its region where it has one, else with the image as a whole."""
    algorithm = AlgorithmIdentification(
        name=plain_text(identity.name)[:64],
        version=plain_text(identity.version)[:64],
        parameters=[plain_text(each) for each in _parameters(finding, identity, reason)],
        manufacturer=MANUFACTURER,
    )
    tracking = TrackingIdentifier(tracking_uid(source.SOPInstanceUID, identity), "cxrd pneumonia")
    evaluations = [QualitativeEvaluation(PRESENCE, presence(finding))]
    measurements = [Measurement(PROBABILITY, round(finding.probability, 4), UNIT)] if finding else []
    contour = finding.region.contour if finding and finding.region else ()
    if len(contour) < 3:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=PNEUMONIA,
            algorithm_id=algorithm,
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
        )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=np.array([*contour, contour[0]], dtype=np.float64),
            source_image=SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=PNEUMONIA,
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=evaluations,
    )


def _parameters(finding: Finding | None, identity: ModelIdentity, reason: str) -> list[str]:
    """Return what the answer depended on, and how sure it is (TID 4019, Algorithm Parameters)."""
    told = [_NOTICE, f"weights sha256 {identity.digest}"]
    if finding is None:
        return [*told, f"not analysed: {reason}"]
    told += [
        f"decision {finding.decision}",
        f"threshold {finding.threshold:.4f}",
        f"operating point {finding.operating_point}",
    ]
    if finding.prediction_set is not None:
        told.append("conformal prediction set: " + (", ".join(finding.prediction_set) or "empty"))
    if finding.outlier is not None:
        told.append(f"out of distribution score {finding.outlier:.2f} (limit 1)")
    if finding.beyond_normal:
        told.append("region: where Grad-CAM exceeds the mean of normal radiographs")
    return told
