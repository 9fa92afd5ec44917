"""The result objects of one radiograph: made as one linked set, each checked before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import structlog
from pydicom import Dataset

from dicom_io.errors import InvalidResult, UnreadableObject, Unsuitable
from dicom_io.finding import ModelIdentity
from dicom_io.header.attributes import MALFORMED
from dicom_io.header.source_image import SopInstance, SourceImage
from dicom_io.objects.common import encode
from dicom_io.objects.structured_report import structured_report
from dicom_io.objects.validate import check
from worker import metrics
from worker.inference.analyzer import Reading
from worker.logs import unexpected
from worker.results.kinds import KINDS, REPORT, Material, ResultKind
from worker.results.pictures import Pictures
from worker.settings import Results

log = structlog.get_logger("cxrd.results")

Predecessors = Mapping[str, Mapping[str, str]]
"""By kind: StudyInstanceUID, SeriesInstanceUID, SOPClassUID and SOPInstanceUID of what was answered before."""


@dataclass(frozen=True)
class Result:
    """One object, encoded and checked."""

    kind: str
    dataset: Dataset
    data: bytes

    @property
    def suffix(self) -> str:
        """What its file's name ends in."""
        return KINDS[self.kind].suffix


@dataclass(frozen=True)
class ResultSet:
    """What answers a radiograph, and why a kind of object is not among it."""

    results: tuple[Result, ...]
    left_out: dict[str, str]


@metrics.timed("objects")
def make(
    source: SourceImage,
    reading: Reading,
    identity: ModelIdentity,
    settings: Results,
    created: dt.datetime,
    predecessors: Predecessors | None = None,
    pictures: Pictures | None = None,
    *,
    again: bool = False,
) -> ResultSet:
    """Make every kind of object that the settings ask for.

    A kind whose needs the source does not meet is left out, and so is an object that does not pass its check; the rest
    is made.

    Parameters
    ----------
    predecessors
        Of the same image, or of an earlier version of it: report and page each point to their own (Predecessor
        Documents Sequence).
    pictures
        Of the same reading, where the caller shows them too: so each is drawn once.
    again
        Whether an earlier model has read the image already.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    InvalidResult
        Nothing is left to send.
    """
    pictures = pictures or Pictures(reading, identity, created, settings)
    before = {kind: _instance(uids) for kind, uids in (predecessors or {}).items()}
    material = Material(source, reading, identity, created, settings, pictures, before, again=again)
    answer = ResultSet((), {})
    for kind in (each for name, each in KINDS.items() if name in settings.kinds):
        others = [result.dataset for result in answer.results]
        answer = _with(answer, kind, partial(kind.make, replace(material, others=others)), source)
    if not answer.results:
        reasons = (f"{kind}: {reason.removeprefix('failed: ')}" for kind, reason in answer.left_out.items())
        raise InvalidResult("; ".join(reasons) or "results.kinds is empty")
    return answer


def not_analysed(
    source: SourceImage,
    reason: str,
    identity: ModelIdentity,
    settings: Results,
    created: dt.datetime,
    predecessors: Predecessors | None = None,
) -> ResultSet:
    """Make the report that says that a radiograph was not analysed, and why.

    Parameters
    ----------
    reason
        A few words without patient data.
    identity
        The model that did not look.
    predecessors
        What an earlier version of the image was answered.

    Returns
    -------
    ResultSet
        With one report, or with the reason why there is none: then the audit alone says that nothing was analysed.
    """
    basis = REPORT.basis(source, identity, settings, created)
    before = [_instance(uids) for kind, uids in (predecessors or {}).items() if kind == REPORT.name]
    maker = partial(structured_report, basis, None, predecessors=before, reason=reason)
    try:
        return _with(ResultSet((), {}), REPORT, maker, source)
    except UnreadableObject as error:
        return ResultSet((), {REPORT.name: str(error)})


def _with(answer: ResultSet, kind: ResultKind, maker: Callable[[], Dataset], source: SourceImage) -> ResultSet:
    """Make one object, encode it and check it; return the set with it, or with the reason why there is none."""
    try:
        dataset = maker()
        data = encode(dataset)
        check(data, kind.dicom, source)
    except Unsuitable as error:
        reason = str(error)
    except InvalidResult as error:
        reason = f"failed: {str(error).removeprefix(f'{kind.name}: ')}"
    except MALFORMED as error:  # the source holds something that nobody thought of; its message may quote it
        reason = f"failed: {unexpected(error)}"
    else:
        return replace(answer, results=(*answer.results, Result(kind.name, dataset, data)))
    log.warning("result_left_out", kind=kind.name, reason=reason)
    return replace(answer, left_out={**answer.left_out, kind.name: reason})


def _instance(uids: Mapping[str, str]) -> SopInstance:
    """Return a SOP instance from its UIDs by keyword."""
    study, series = uids["StudyInstanceUID"], uids["SeriesInstanceUID"]
    return SopInstance(study, series, uids["SOPClassUID"], uids["SOPInstanceUID"])
