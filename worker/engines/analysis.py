"""The analysis of one radiograph, from its header to the objects that answer it; all engines and `analyze` share it.

Where an image comes from, and where its outcome goes, is the caller's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom import Dataset

from dicom_io.errors import OutOfResources, Permanent, Retryable
from dicom_io.finding import Answer, Finding, ModelIdentity
from dicom_io.header.attributes import MALFORMED
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_dataset, read_header
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import SourceImage, source_image
from dicom_io.header.version import FIRST, ImageVersion
from dicom_io.pixels.render import Rendered
from worker.inference.analyzer import Reader, Reading
from worker.ledger.records import OUTSIDE, Claim
from worker.results.pictures import Pictures
from worker.results.result_set import Predecessors, ResultSet, make, not_analysed
from worker.settings import Settings
from worker.storage.blobs import Blobs

_NOTHING = ResultSet((), {})


@dataclass(frozen=True)
class Image:
    """An image that is to be analysed.

    Attributes
    ----------
    dataset
        The object, or its header alone; its results stand in the same study.
    created
        The time that the results bear, in the site's zone.
    rendered
        The displayed values where the image was a picture and no DICOM object: then no rules apply.
    predecessors
        The documents of an earlier model, which those of this one point to.
    report_not_analysed
        Whether an image that is not analysed gets a report that says so.
    again
        Whether an earlier model has read it already: then the series name the model's version.
    version
        Which of the contents it is that came under its UID.
    whole
        Reads the whole object, where `dataset` is its header; called when the header says that it is to be analysed.
    """

    dataset: Dataset
    created: dt.datetime
    rendered: Rendered | None = None
    predecessors: Predecessors = field(default_factory=dict)
    report_not_analysed: bool = True
    again: bool = False
    version: ImageVersion = FIRST
    whole: Callable[[], Dataset] | None = None


@dataclass(frozen=True)
class Analysed:
    """An image that the model answered: its header, what the model saw, the results and their pictures."""

    source: SourceImage
    reading: Reading
    results: ResultSet
    pictures: Pictures

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was read otherwise than the header says it."""
        return self.source.remarks


@dataclass(frozen=True)
class NotAnalysed:
    """An image that was left out.

    Attributes
    ----------
    reason
        Why, in words for the audit.
    results
        The report that says so; empty where none is wanted.
    reading
        Where the image is not one that the model was made for, what it saw; None where the rules left it out.
    remarks
        What was read otherwise than the header says it.
    """

    reason: str
    results: ResultSet
    reading: Reading | None = None
    remarks: tuple[str, ...] = ()


def analyze(image: Image, reader: Reader, settings: Settings) -> Analysed | NotAnalysed:
    """Decide by the rules, read the pixels, decide by what the model saw, and make what answers the image.

    Raises
    ------
    UnsupportedPixels
        Its pixel data cannot be rendered.
    UnreadableObject
        It lacks its study, SOP instance or SOP class UID, or cannot be read whole.
    InvalidResult
        No result can be made.
    """
    verdict = None if image.rendered else judge(image.dataset, rules_of(settings))
    if verdict and not verdict.analyse:
        results = _report(image, verdict.reason, reader, settings) if verdict.radiograph else _NOTHING
        return NotAnalysed(verdict.reason, results)
    source = source_image(image.dataset, image.version)
    if image.rendered:
        reading = reader.read_values(image.rendered)
    else:
        reading = reader.read(image.whole() if image.whole else image.dataset)
    if reading.finding.answer is Answer.OUTSIDE and settings.model.out_of_distribution == "skip":
        reason = outside_reason(reading.finding)
        return NotAnalysed(reason, _report(image, reason, reader, settings, source), reading, source.remarks)
    created, predecessors = image.created, image.predecessors
    pictures = Pictures(reading, reader.identity, created, settings.results)
    results = make(
        source, reading, reader.identity, settings.results, created, predecessors, pictures, again=image.again
    )
    return Analysed(source, reading, results, pictures)


def rules_of(settings: Settings) -> Rules:
    """Return the eligibility rules that the settings spell out."""
    return Rules(**settings.rules.model_dump())


def outside_reason(finding: Finding) -> str:
    """Return why an image that the model was not made for was not analysed."""
    return f"{OUTSIDE}: {finding.caution}"


def _report(
    image: Image, reason: str, reader: Reader, settings: Settings, source: SourceImage | None = None
) -> ResultSet:
    """Return the report that an image was not analysed, where one is wanted."""
    if not (image.report_not_analysed and settings.results.report_not_analysed):
        return _NOTHING
    source = source or source_image(image.dataset, image.version)
    return not_analysed(source, reason, reader.identity, settings.results, image.created, _replaced(image))


def _replaced(image: Image) -> Predecessors:
    """Return the reports of an earlier version: they are replaced also where this one has no answer."""
    return image.predecessors if image.version.number > 1 else {}


def failure_report(image: Image, reason: str, identity: ModelIdentity, settings: Settings) -> ResultSet:
    """Return the report that a radiograph could not be analysed; empty where it is none, or cannot be referred to."""
    try:
        verdict = judge(image.dataset, rules_of(settings))
        if not (verdict.analyse or verdict.radiograph):
            return _NOTHING
        source = source_image(image.dataset, image.version)
        return not_analysed(source, reason, identity, settings.results, image.created, _replaced(image))
    except (*MALFORMED, Permanent):
        return _NOTHING


def read_stored(blobs: Blobs, sha256: str, limits: ReadingLimits, *, whole: bool) -> Dataset:
    """Read a received object, or its header; what keeps it from being read is its own fault, or that of all the store.

    Raises
    ------
    UnreadableObject, BlobMissing, OutOfResources
        As `read_dataset`, `Blobs.find` and `Blobs.fault` do.
    """
    path = blobs.find(sha256)
    try:
        return (read_dataset if whole else read_header)(path, limits)
    except OutOfResources as error:  # it was opened, and cannot be read to its end
        if isinstance(error.__cause__, OSError):
            raise blobs.fault(error.__cause__) from error
        raise


def header_after_crash(blobs: Blobs, claim: Claim, most: int, limits: ReadingLimits) -> Dataset | None:
    """Return the header of an image that has taken its process with it so often; None where it cannot be had.

    It is read once: the next time that too may have been what the process died of.
    """
    if claim.task.crashes > most:
        return None
    try:
        return read_stored(blobs, claim.sha256, limits, whole=False)
    except (Permanent, Retryable, OSError):
        return None
