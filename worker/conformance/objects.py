"""The objects that cxrd creates, what they hold and in which codes, for the conformance statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pydicom.sr.codedict import codes
from pydicom.uid import UID
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_io.finding import Answer
from dicom_io.objects import key_objects, parametric_map
from dicom_io.objects import structured_report as report
from dicom_io.objects.presentation_state import LAYER
from modeltrain.model.card import Card
from worker.conformance.initiator import arriving, gets_pictures
from worker.conformance.tables import table
from worker.destination_settings import DicomDestination
from worker.results.kinds import KINDS
from worker.settings import Settings


class _Code(Protocol):
    """A code of highdicom or of pydicom."""

    @property
    def value(self) -> str: ...
    @property
    def scheme_designator(self) -> str: ...
    @property
    def meaning(self) -> str: ...


CODES: dict[str, tuple[_Code, ...]] = {
    "structured-report": (
        codes.DCM.ImagingMeasurementReport,
        report.CHEST_RADIOGRAPHY,
        codes.DCM.TrackingIdentifier,
        codes.DCM.TrackingUniqueIdentifier,
        report.PNEUMONIA,
        report.PRESENCE,
        report.PRESENT,
        report.ABSENT,
        report.INDETERMINATE,
        report.PROBABILITY,
        report.UNIT,
        codes.DCM.Comment,
        codes.SCT.FindingSite,
        *report.ZONES.values(),
        codes.SCT.Laterality,
        *report.SIDES.values(),
        codes.DCM.AlgorithmName,
        codes.DCM.AlgorithmVersion,
        codes.DCM.AlgorithmParameters,
        codes.DCM.AlgorithmManufacturer,
    ),
    "key-objects": (key_objects.TITLE,),
    "parametric-map": (parametric_map.QUANTITY,),
}
"""By kind of object: the concepts of its own, and those that answer them."""


def chapter(settings: Settings, card: Card) -> Iterator[str]:
    """Yield the annexes: objects, codes, model, and the storage classes accepted."""
    yield "## 7 Annexes"
    yield ""
    yield from _objects(settings)
    yield ""
    yield "### 7.2 Coded terminology"
    yield ""
    used = [each for kind in KINDS if kind in settings.results.kinds for each in CODES.get(kind, ())]
    rows = [(each.value, each.scheme_designator, each.meaning) for each in used]
    if "structured-report" not in settings.results.kinds:
        rows.insert(0, (report.PNEUMONIA.value, report.PNEUMONIA.scheme_designator, report.PNEUMONIA.meaning))
    yield from table(("code", "scheme", "meaning"), rows)
    yield ""
    yield "### 7.3 Model"
    yield ""
    points = ", ".join(f"{name} {threshold:.4g}" for name, threshold in card.operating_points.items())
    yield f"{card.label}; operating points: {points}; in use: {settings.model.operating_point}."
    yield ""
    yield "No private attributes, no private transfer syntaxes, no extended, specialised or private SOP classes."
    yield ""
    yield "### 7.4 Storage SOP classes accepted as SCP"
    yield ""
    classes = [UID(str(each.abstract_syntax)) for each in AllStoragePresentationContexts]
    yield from table(("SOP class", "UID"), [(each.name, each) for each in classes])


def _objects(settings: Settings) -> Iterator[str]:
    yield "### 7.1 Objects created"
    yield ""
    yield from table(
        ("kind", "SOP class", "modality", "Series Number", "SOP class UID"),
        [
            (
                name,
                UID(kind.sop_class).name,
                kind.modality,
                settings.results.series_number + kind.series_offset,
                kind.sop_class,
            )
            for name, kind in KINDS.items()
            if name in settings.results.kinds
        ],
    )
    yield ""
    yield (
        "Each in a new series of the image's study, with patient, study and request attributes copied; UIDs under"
        " 2.25, derived from the image and the model; Contributing Equipment (109102, DCM, Processing Equipment) with a"
        " Device UID of its own for each set of weights; Content Qualification RESEARCH."
    )
    yield ""
    yield from (f"- {words}" for kind, words in _contents(settings) if kind in settings.results.kinds)
    yield (
        "- When an image is read again by a newer model, objects with UIDs of their own are made beside the earlier"
        " ones, whose Series Description ends in the model's version; a report or PDF names the last earlier one in"
        " Predecessor Documents Sequence."
    )
    yield (
        "- So it is with another content that came under an image's SOP Instance UID: the UIDs are derived from the"
        " content too, and the Series Description ends in the number of the version that it replaces."
    )
    if settings.results.report_not_analysed:
        yield (
            "- Radiographs that are not analysed get a structured report too: Indeterminate, no probability, the reason"
            " as a Comment."
        )


def _contents(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is in each kind of object."""
    height = f"8 bits, {settings.results.height} rows at most"
    encoding = _encoding(settings)
    yield "secondary-capture", f"Secondary Capture: {height}; {encoding}."
    yield (
        "presentation-state",
        (
            f"Presentation state: graphic layer {LAYER}, outline and box of each region with the report's Tracking UID,"
            " and the answer as text; window and polarity as shown."
        ),
    )
    yield "structured-report", "Structured report: TID 1500 with TID 1004, 1600, 1501, 1410 and 4019; UNVERIFIED."
    yield from (("structured-report", words) for words in _report())
    yield "key-objects", "Key objects: TID 2010; the image, with the presentation state, and every other result."
    yield (
        "parametric-map",
        (
            "Parametric map: one frame of Float Pixel Data, log-odds of pneumonia at each place, real world values as"
            " stored; in a frame of reference of its own in the plane of the detector."
        ),
    )
    yield "encapsulated-pdf", "Encapsulated PDF: one A4 page without patient's name, ID or any UID of the study."
    yield (
        "multi-frame-capture",
        f"Multi-frame Secondary Capture: two frames of {height}, by Frame Label Vector; {encoding}.",
    )


def _report() -> Iterator[str]:
    """Yield what the report's groups of measurements and evaluations hold."""
    yield (
        "The report's groups: one for the image (TID 1501) and one for each region (TID 1410), each with"
        f" {_code(codes.DCM.TrackingIdentifier)} and {_code(codes.DCM.TrackingUniqueIdentifier)}, the same for each"
        f" finding of a model on an image; finding {_code(report.PNEUMONIA)}."
    )
    yield (
        f"CODE {_code(report.PRESENCE)}, as the answer is: {_code(report.PRESENT)} for *{Answer.FLAGGED}*,"
        f" {_code(report.ABSENT)} for *{Answer.NOT_FLAGGED}*, {_code(report.INDETERMINATE)} for *{Answer.UNCERTAIN}*,"
        f" for *{Answer.OUTSIDE}*, and for what was not analysed."
    )
    yield f"NUM {_code(report.PROBABILITY)} in the image's group, in percent: unit {_code(report.UNIT)}."
    yield f"TEXT {_code(codes.DCM.Comment)} in the image's group: answer, probability, places and cautions in words."
    zones = ", ".join(_code(each) for each in report.ZONES.values())
    yield (
        f"SCOORD POLYLINE in a region's group, closed, in pixels of the image; {_code(codes.SCT.FindingSite)}: {zones}"
        f" (CID 6171), with {_code(codes.SCT.Laterality)}: {', '.join(_code(each) for each in report.SIDES.values())}."
    )
    yield (
        f"Algorithm identification (TID 4019): {_code(codes.DCM.AlgorithmName)}, {_code(codes.DCM.AlgorithmVersion)},"
        f" {_code(codes.DCM.AlgorithmManufacturer)}, {_code(codes.DCM.AlgorithmParameters)}: research notice, digest of"
        " the weights, answer, threshold, operating point, conformal set, out of distribution score, lungs."
    )


def _code(code: _Code) -> str:
    return f"({code.value}, {code.scheme_designator}, {code.meaning})"


def _encoding(settings: Settings) -> str:
    """Say how pictures are made, and in which syntaxes they may arrive where."""
    quality = settings.results.jpeg_quality
    encoding = "RGB, uncompressed" if quality is None else f"YBR_FULL_422, JPEG Baseline (quality {quality})"
    for each in settings.destinations:
        if not gets_pictures(each, settings):
            continue
        if isinstance(each, DicomDestination):
            encoding += (
                f"; at {each.name} in {', '.join(uid.name for uid in arriving(each, settings))}, as it accepts (3.4.1)"
            )
        elif quality is not None:
            encoding += f"; at {each.name} so, or decompressed where it refuses that"
    return encoding
