"""The result objects of one radiograph: made as one linked set, each checked before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from dicom_io import presentation_state, secondary_capture, structured_report
from dicom_io.derived import encode
from dicom_io.errors import InvalidResult, UnreadableObject, Unsuitable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.validate import check
from dicom_io.values import MALFORMED
from worker.journal import unexpected
from worker.reader import Reading
from worker.settings import Results

log = structlog.get_logger("cxrd.results")

KINDS = (secondary_capture.KIND, presentation_state.KIND, structured_report.KIND)
"""In the order in which they are made: the report names the others."""
SOP_CLASSES: dict[str, str] = {
    secondary_capture.KIND: SecondaryCaptureImageStorage,
    presentation_state.KIND: GrayscaleSoftcopyPresentationStateStorage,
    structured_report.KIND: Comprehensive3DSRStorage,
}
_OFFSETS = {secondary_capture.KIND: 0, structured_report.KIND: 1, presentation_state.KIND: 2}
_SUFFIXES = {secondary_capture.KIND: ".dcm", structured_report.KIND: ".sr.dcm", presentation_state.KIND: ".pr.dcm"}


@dataclass(frozen=True)
class Result:
    """One object, encoded and checked."""

    kind: str
    dataset: Dataset
    data: bytes

    @property
    def suffix(self) -> str:
        """What its file's name ends in."""
        return _SUFFIXES[self.kind]


@dataclass(frozen=True)
class ResultSet:
    """What answers a radiograph, and why a kind of object is not among it."""

    results: tuple[Result, ...]
    left_out: dict[str, str]


def make(
    source: Dataset,
    reading: Reading,
    identity: ModelIdentity,
    settings: Results,
    created: dt.datetime,
    predecessor: Mapping[str, str] | None = None,
) -> ResultSet:
    """Make every kind of object that the settings ask for.

    A kind whose needs the source does not meet is left out, and so is an object that does not pass its check; the rest
    is made.

    Parameters
    ----------
    predecessor
        The report of an earlier model on the same image, by StudyInstanceUID, SeriesInstanceUID, SOPClassUID and
        SOPInstanceUID: the new report points to it (PS3.3 C.17.2, Predecessor Documents Sequence).

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    InvalidResult
        Nothing is left to send.
    """
    made: list[Result] = []
    left_out: dict[str, str] = {}
    makers: dict[str, Callable[[], Dataset]] = {
        secondary_capture.KIND: lambda: _capture(source, reading, identity, settings, created),
        presentation_state.KIND: lambda: _presentation(source, reading, identity, settings, created),
        structured_report.KIND: lambda: _report(
            source, reading.finding, identity, settings, created, others=made, predecessor=predecessor
        ),
    }
    for kind in (each for each in KINDS if each in settings.kinds):
        _add(kind, makers[kind], source, made, left_out)
    if not made:
        raise InvalidResult("; ".join(left_out.values()) or "results.kinds is empty")
    return ResultSet(tuple(made), left_out)


def not_analysed(
    source: Dataset, reason: str, identity: ModelIdentity, settings: Results, created: dt.datetime
) -> ResultSet:
    """Make the report that says that a radiograph was not analysed, and why.

    Parameters
    ----------
    reason
        A few words without patient data.
    identity
        The model that did not look.

    Returns
    -------
    ResultSet
        With one report, or with the reason why there is none: then the audit alone says that nothing was analysed.
    """
    made: list[Result] = []
    left_out: dict[str, str] = {}
    maker = partial(_report, source, None, identity, settings, created, reason=reason)
    try:
        _add(structured_report.KIND, maker, source, made, left_out)
    except UnreadableObject as error:
        left_out[structured_report.KIND] = str(error)
    return ResultSet(tuple(made), left_out)


def _add(
    kind: str, maker: Callable[[], Dataset], source: Dataset, made: list[Result], left_out: dict[str, str]
) -> None:
    """Make one object, write it and check it; enter it, or why there is none."""
    try:
        dataset = maker()
        data = encode(dataset)
        check(data, kind, source)
    except (Unsuitable, InvalidResult) as error:
        left_out[kind] = str(error)
    except MALFORMED as error:  # the source holds something that nobody thought of; its message may quote it
        left_out[kind] = f"{kind}: {unexpected(error)}"
    else:
        made.append(Result(kind, dataset, data))
        return
    log.warning("result_left_out", kind=kind, reason=left_out[kind])


def _capture(
    source: Dataset, reading: Reading, identity: ModelIdentity, settings: Results, created: dt.datetime
) -> Dataset:
    return secondary_capture.secondary_capture(
        source,
        reading.picture,
        finding=reading.finding,
        identity=identity,
        series_number=settings.series_number,
        series_description=settings.series_description,
        created=created,
    )


def _presentation(
    source: Dataset, reading: Reading, identity: ModelIdentity, settings: Results, created: dt.datetime
) -> Dataset:
    return presentation_state.presentation_state(
        source,
        finding=reading.finding,
        identity=identity,
        aspect=reading.aspect,
        window=reading.window,
        series_number=settings.series_number + _OFFSETS[presentation_state.KIND],
        series_description="cxrd pneumonia region (research)",
        created=created,
    )


def _report(
    source: Dataset,
    finding: Finding | None,
    identity: ModelIdentity,
    settings: Results,
    created: dt.datetime,
    *,
    others: Sequence[Result] = (),
    predecessor: Mapping[str, str] | None = None,
    reason: str = "",
) -> Dataset:
    before = Dataset()
    for keyword, uid in (predecessor or {}).items():
        setattr(before, keyword, uid)
    return structured_report.structured_report(
        source,
        finding=finding,
        identity=identity,
        series_number=settings.series_number + _OFFSETS[structured_report.KIND],
        series_description="cxrd pneumonia report (research)",
        created=created,
        others=[other.dataset for other in others],
        predecessors=[before] if predecessor else [],
        reason=reason,
    )
