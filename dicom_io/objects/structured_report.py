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
    FindingSite,
    GraphicTypeValues,
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
    ScoordContentItem,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from dicom_io.finding import MANUFACTURER, Answer, Orientation, bounded, readable
from dicom_io.header.copied import put
from dicom_io.header.source_image import sop_instance
from dicom_io.objects.common import begin, device_uid, instance_references, plain_text, require_place
from dicom_io.objects.kinds import STRUCTURED_REPORT
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dicom_io.finding import Finding, ModelIdentity, Region
    from dicom_io.header.source_image import Code, Request, SopInstance, SourceImage
    from dicom_io.objects.common import Basis

KIND = STRUCTURED_REPORT

PNEUMONIA = CodedConcept("233604007", "SCT", "Pneumonia")
PRESENCE = CodedConcept("705057003", "SCT", "Presence")
PRESENT = CodedConcept("52101004", "SCT", "Present")
ABSENT = CodedConcept("2667000", "SCT", "Absent")
INDETERMINATE = CodedConcept("82334004", "SCT", "Indeterminate")
CHEST_RADIOGRAPHY = CodedConcept("399208008", "SCT", "Plain chest X-ray")
PROBABILITY = codes.DCM.Probability
UNIT = CodedConcept("%", "UCUM", "Percent")
ZONES = {
    "upper": codes.cid6171.UpperZoneOfLung,
    "middle": codes.cid6171.MiddleZoneOfLung,
    "lower": codes.cid6171.LowerZoneOfLung,
}
"""Zone of Lung (PS3.16 CID 6171), by `Region.zone`."""
SIDES = {"right": codes.cid244.Right, "left": codes.cid244.Left}
"""Laterality (PS3.16 CID 244), by `Region.side`."""
_PRESENCE = {
    Answer.FLAGGED: PRESENT,
    Answer.NOT_FLAGGED: ABSENT,
    Answer.UNCERTAIN: INDETERMINATE,
    Answer.OUTSIDE: INDETERMINATE,
}
_PIXELS = CodedConcept("{pixels}", "UCUM", "pixels")
_NOT_ANALYSED = "/not-analysed"
_NOTICE = "For research use. Not for diagnosis."
_ACQUISITION = RelationshipTypeValues.HAS_ACQ_CONTEXT


def tracking_uid(source: SourceImage, identity: ModelIdentity, number: int = 1) -> str:
    """Return the Tracking UID of a region by its number, from 1 on, the same in report and presentation state.

    The image's own group has the first region's: they tell of one finding, and a viewer that brings groups of one UID
    together (OHIF) shows the probability at that region.
    """
    return derived_uid(source.uid_seed, str(identity), "tracking" if number == 1 else f"tracking/{number}")


def tracking_identifier(finding: Finding, region: Region, number: int) -> str:
    """Return the Tracking Identifier of a region: its number, and where it is as far as that is known."""
    return f"cxrd evidence {number} {finding.sure_place(region)}".strip()


def presence(finding: Finding | None) -> CodedConcept:
    """Return present, absent or indeterminate as the answer has it (PS3.16 CID 240, and SNOMED CT's word for neither).

    Indeterminate is also what was not analysed.
    """
    return INDETERMINATE if finding is None else _PRESENCE[finding.answer]


def structured_report(
    basis: Basis,
    finding: Finding | None,
    others: Sequence[Dataset] = (),
    predecessors: Sequence[SopInstance] = (),
    reason: str = "",
) -> Dataset:
    """Report a finding, or that and why an image was not analysed, in a new series of its study (PS3.3 A.35.13).

    A report of not having analysed has UIDs of its own: it must not stand in the way of a later finding's.

    TID 1500: procedure reported, observer device (TID 1004), image library (TID 1600), one group for the image (TID
    1501) with presence of pneumonia, its probability, the answer in words and the algorithm (TID 4019), and one for
    each region (TID 1410) with its outline, side and zone.

    Parameters
    ----------
    basis
        Source, model (as device and algorithm), time and series.
    finding
        None for an image that was not analysed, for `reason`.
    others
        The other result objects for the same image, named as evidence, so that the set is linked.
    predecessors
        Earlier reports on the same image.
    reason
        Why there is no finding: a few words without patient data.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series or its size, without which a report cannot refer to it.
    """
    source, identity = basis.source, basis.identity
    report = begin(basis, KIND, variant="" if finding else _NOT_ANALYSED)
    require_place(source)
    content = MeasurementReport(
        observation_context=_observer(identity),
        procedure_reported=procedure(source),
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_group(source, finding, identity, reason), *_regions(source, finding, identity)],
    )
    content[0].ContentSequence.insert(-1, _library(source))
    answer = f"{finding.summary} {_NOTICE}" if finding else f"Not analysed: {reason}"
    words = plain_text(f"{answer.removesuffix('.')}. {source.replacement}" if source.replacement else answer)
    group = content[0].ContentSequence[-1].ContentSequence[0]
    group.ContentSequence.append(TextContentItem(codes.DCM.Comment, words, RelationshipTypeValues.CONTAINS))
    for element in content[0]:
        report[element.tag] = element
    _document(report, [source, *map(sop_instance, others)], predecessors)
    as_document(report, source)
    return report


def _document(report: Dataset, evidence: Sequence[SopInstance], predecessors: Sequence[SopInstance]) -> None:
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


def as_document(dataset: Dataset, source: SourceImage) -> None:
    """Bring what only images have into the form that documents have, in place: requests, and else nothing of it.

    What the source answers is the order that its report is about (PS3.3 C.17.2, Referenced Request Sequence; type 1C).
    """
    if source.requests:
        dataset.ReferencedRequestSequence = [_request(source, each) for each in source.requests]
    for keyword in ("RequestAttributesSequence", "BodyPartExamined", "Laterality"):
        if keyword in dataset:
            delattr(dataset, keyword)


def _request(source: SourceImage, order: Request) -> Dataset:
    """Return an order as a document names it: what is not known is empty (type 2)."""
    item = Dataset()
    item.StudyInstanceUID = UID(source.study_uid)
    item.ReferencedStudySequence = []
    put(item, order.elements)
    if own := item.get("SpecificCharacterSet"):  # pydicom then writes its texts as they are
        item.set_original_encoding(False, True, convert_encodings(own))
    item.RequestedProcedureCodeSequence = [_concept(each) for each in order.procedures]
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


def procedure(source: SourceImage) -> CodedConcept:
    """Return the imaging procedure by the code that the source gives it, else as what a chest radiograph is."""
    return _concept(source.procedure) if source.procedure else CHEST_RADIOGRAPHY


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _library(source: SourceImage) -> ContainerContentItem:
    """Describe the radiograph (TID 1600, 1601, 1602, 1603) by what its header holds."""
    image = ImageContentItem(
        name=codes.DCM.SourceImage,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    computed = source.modality == "CR"
    modality = codes.cid29.ComputedRadiography if computed else codes.cid29.DigitalRadiography
    entries: list[ContentItem] = [CodeContentItem(codes.DCM.Modality, modality, _ACQUISITION)]
    for name, size in ((codes.DCM.PixelDataRows, source.rows), (codes.DCM.PixelDataColumns, source.columns)):
        entries.append(NumContentItem(name, size, _PIXELS, relationship_type=_ACQUISITION))
    if len(source.orientation) == 2 and all(each.isascii() and each for each in source.orientation):
        names = (codes.DCM.PatientOrientationRow, codes.DCM.PatientOrientationColumn)
        pairs = zip(names, source.orientation, strict=True)
        entries += [TextContentItem(name, each, _ACQUISITION) for name, each in pairs]
    if source.imager_spacing:
        names = (codes.DCM.VerticalPixelSpacing, codes.DCM.HorizontalPixelSpacing)
        for name, each in zip(names, source.imager_spacing, strict=True):
            entries.append(NumContentItem(name, each, codes.UCUM.Millimeter, relationship_type=_ACQUISITION))
    image.ContentSequence = ContentSequence(entries)
    contains = RelationshipTypeValues.CONTAINS
    group = ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = ContentSequence([image])
    library = ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = ContentSequence([group])
    return library


def _group(
    source: SourceImage, finding: Finding | None, identity: ModelIdentity, reason: str
) -> MeasurementsAndQualitativeEvaluations:
    """Return the finding in the image as a whole (TID 1501)."""
    algorithm = AlgorithmIdentification(
        name=plain_text(identity.name)[:64],
        version=plain_text(identity.version)[:64],
        parameters=[plain_text(each) for each in _parameters(finding, identity, reason)],
        manufacturer=MANUFACTURER,
    )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid(source, identity), "cxrd pneumonia"),
        finding_type=PNEUMONIA,
        algorithm_id=algorithm,
        measurements=[_probability(finding)] if finding and finding.answered else [],
        qualitative_evaluations=[QualitativeEvaluation(PRESENCE, presence(finding))],
        source_images=[SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
    )


def _probability(finding: Finding) -> Measurement:
    """Return the probability in percent with two decimals: viewers round to these, and write the unit behind it."""
    return Measurement(PROBABILITY, round(100 * bounded(finding.probability), 2), UNIT)


def _regions(
    source: SourceImage, finding: Finding | None, identity: ModelIdentity
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Yield a group for each region (TID 1410): where there is evidence for what the image's group says.

    It repeats the presence and not the probability: that is the image's, and no region has one of its own.
    """
    if finding is None:
        return
    for number, region in enumerate(finding.regions, start=1):
        site = _site(finding, region)
        yield PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                tracking_uid(source, identity, number), tracking_identifier(finding, region, number)
            ),
            referenced_region=_ImageRegion(region, source),
            finding_type=PNEUMONIA,
            finding_sites=[site] if site else None,
            qualitative_evaluations=[QualitativeEvaluation(PRESENCE, presence(finding))],
        )


class _ImageRegion(ImageRegion):
    """A region's outline on the radiograph.

    highdicom's own way to make one reads a table of all attributes of all IODs, 63 MB, to ask whether there are many
    frames.
    """

    def __init__(self, region: Region, source: SourceImage) -> None:
        outline = np.array([*region.outline, region.outline[0]], dtype=np.float64)
        ScoordContentItem.__init__(
            self,
            name=codes.DCM.ImageRegion,
            graphic_type=GraphicTypeValues.POLYLINE,
            graphic_data=outline,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        self.ContentSequence = [SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid)]


def _site(finding: Finding, region: Region) -> FindingSite | None:
    """Return zone and side of a region; the side only where the image states how it shows the patient."""
    if not region.place:
        return None
    stated = finding.orientation is not Orientation.UNSTATED
    return FindingSite(ZONES[region.zone], laterality=SIDES[region.side] if stated else None)


def _parameters(finding: Finding | None, identity: ModelIdentity, reason: str) -> list[str]:
    """Return what the answer depended on, and how sure it is (TID 4019, Algorithm Parameters)."""
    parameters = [_NOTICE, f"weights sha256 {identity.digest}"]
    if finding is None:
        return [*parameters, f"not analysed: {reason}"]
    parameters.append(f"answer: {finding.answer}")
    if finding.answered:
        parameters += [f"threshold {readable(finding.threshold, 4)}", f"operating point {finding.operating_point}"]
    if finding.answered and finding.prediction_set is not None:
        parameters.append("conformal prediction set: " + (", ".join(finding.prediction_set) or "empty"))
    if finding.outlier is not None:
        parameters.append(f"out of distribution score {finding.outlier:.2f} (limit 1)")
    if finding.lungs is not None:
        parameters.append(f"lungs: {finding.lungs.count} found, {finding.lungs.share:.0%} of the image")
    parameters.append(f"patient orientation: {finding.orientation}")
    if finding.regions:
        parameters.append("regions: log-odds of each place by itself at least half as high as the highest")
    return parameters
