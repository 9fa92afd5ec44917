"""The result objects of one radiograph: made as one linked set, each checked before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from pydicom import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)

from dicom_io.errors import InvalidResult, UnreadableObject, Unsuitable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.header.attributes import MALFORMED
from dicom_io.objects import (
    encapsulated_pdf,
    key_objects,
    multi_frame_capture,
    parametric_map,
    presentation_state,
    secondary_capture,
    structured_report,
)
from dicom_io.objects.common import encode
from dicom_io.objects.validate import check
from worker.inference.analyzer import Reading
from worker.logs import unexpected
from worker.results.pictures import Pictures
from worker.settings import Results

log = structlog.get_logger("cxrd.results")

KINDS = (
    secondary_capture.KIND,
    multi_frame_capture.KIND,
    parametric_map.KIND,
    presentation_state.KIND,
    encapsulated_pdf.KIND,
    structured_report.KIND,
    key_objects.KIND,
)
"""In the order in which they are made: the report names those before it as evidence, and the key objects all."""
SOP_CLASSES: dict[str, str] = {
    secondary_capture.KIND: SecondaryCaptureImageStorage,
    multi_frame_capture.KIND: MultiFrameTrueColorSecondaryCaptureImageStorage,
    parametric_map.KIND: ParametricMapStorage,
    presentation_state.KIND: GrayscaleSoftcopyPresentationStateStorage,
    encapsulated_pdf.KIND: EncapsulatedPDFStorage,
    structured_report.KIND: Comprehensive3DSRStorage,
    key_objects.KIND: KeyObjectSelectionDocumentStorage,
}
MODALITIES = {
    secondary_capture.KIND: "OT",
    multi_frame_capture.KIND: "OT",
    parametric_map.KIND: "OT",
    presentation_state.KIND: "PR",
    encapsulated_pdf.KIND: "DOC",
    structured_report.KIND: "SR",
    key_objects.KIND: "KO",
}
OFFSETS = {
    secondary_capture.KIND: 0,
    structured_report.KIND: 1,
    presentation_state.KIND: 2,
    key_objects.KIND: 3,
    parametric_map.KIND: 4,
    encapsulated_pdf.KIND: 5,
    multi_frame_capture.KIND: 6,
}
"""What is added to `results.series_number`."""
_SUFFIXES = {
    secondary_capture.KIND: ".dcm",
    structured_report.KIND: ".sr.dcm",
    presentation_state.KIND: ".pr.dcm",
    key_objects.KIND: ".ko.dcm",
    parametric_map.KIND: ".pm.dcm",
    encapsulated_pdf.KIND: ".pdf.dcm",
    multi_frame_capture.KIND: ".mf.dcm",
}
_DESCRIPTIONS = {
    key_objects.KIND: "cxrd pneumonia results (research)",
    parametric_map.KIND: "cxrd pneumonia raw heatmap (research)",
    encapsulated_pdf.KIND: "cxrd pneumonia page (research)",
    multi_frame_capture.KIND: "cxrd pneumonia frames (research)",
}


DOCUMENTS = (structured_report.KIND, encapsulated_pdf.KIND)
"""The kinds that point to what an earlier model made of the same image (PS3.3 C.17.2, C.24.2)."""
Predecessors = Mapping[str, Mapping[str, str]]
"""By kind: StudyInstanceUID, SeriesInstanceUID, SOPClassUID and SOPInstanceUID of the object of an earlier model."""


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
    predecessors: Predecessors | None = None,
    pictures: Pictures | None = None,
) -> ResultSet:
    """Make every kind of object that the settings ask for.

    A kind whose needs the source does not meet is left out, and so is an object that does not pass its check; the rest
    is made.

    Parameters
    ----------
    predecessors
        Of the same image: each of `DOCUMENTS` points to its own (Predecessor Documents Sequence).
    pictures
        Of the same reading, where the caller shows them too: so each is drawn once.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    InvalidResult
        Nothing is left to send.
    """
    pictures = pictures or Pictures(reading, identity, created, settings)
    made: list[Result] = []
    left_out: dict[str, str] = {}
    common: dict[str, Any] = {"identity": identity, "created": created}
    before = {kind: [_named(uids)] for kind, uids in (predecessors or {}).items()}
    makers: dict[str, Callable[[], Dataset]] = {
        secondary_capture.KIND: lambda: _capture(source, pictures, reading.finding, identity, settings, created),
        presentation_state.KIND: lambda: _presentation(source, reading, identity, settings, created),
        structured_report.KIND: lambda: _report(
            source,
            reading.finding,
            identity,
            settings,
            created,
            others=made,
            predecessors=before.get(structured_report.KIND, []),
        ),
        multi_frame_capture.KIND: lambda: _frames(source, reading.finding, pictures, settings, common),
        parametric_map.KIND: lambda: _map(source, reading, settings, common),
        encapsulated_pdf.KIND: lambda: _page(
            source, reading.finding, pictures, settings, common, before.get(encapsulated_pdf.KIND, [])
        ),
        key_objects.KIND: lambda: _selection(source, settings, common, made),
    }
    for kind in (each for each in KINDS if each in settings.kinds):
        _add(kind, makers[kind], source, made, left_out)
    if not made:
        whys = (f"{kind}: {why.removeprefix('failed: ')}" for kind, why in left_out.items())
        raise InvalidResult("; ".join(whys) or "results.kinds is empty")
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
    except Unsuitable as error:
        left_out[kind] = str(error)
    except InvalidResult as error:
        left_out[kind] = f"failed: {str(error).removeprefix(f'{kind}: ')}"
    except MALFORMED as error:  # the source holds something that nobody thought of; its message may quote it
        left_out[kind] = f"failed: {unexpected(error)}"
    else:
        made.append(Result(kind, dataset, data))
        return
    log.warning("result_left_out", kind=kind, reason=left_out[kind])


def _capture(
    source: Dataset,
    pictures: Pictures,
    finding: Finding,
    identity: ModelIdentity,
    settings: Results,
    created: dt.datetime,
) -> Dataset:
    return secondary_capture.secondary_capture(
        source,
        pictures.main,
        finding=finding,
        identity=identity,
        series_number=settings.series_number,
        series_description=settings.series_description,
        created=created,
        jpeg_quality=settings.jpeg_quality,
    )


def _presentation(
    source: Dataset, reading: Reading, identity: ModelIdentity, settings: Results, created: dt.datetime
) -> Dataset:
    return presentation_state.presentation_state(
        source,
        finding=reading.finding,
        identity=identity,
        aspect=reading.rendered.aspect,
        window=reading.rendered.window,
        series_number=settings.series_number + OFFSETS[presentation_state.KIND],
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
    predecessors: Sequence[Dataset] = (),
    reason: str = "",
) -> Dataset:
    return structured_report.structured_report(
        source,
        finding=finding,
        identity=identity,
        series_number=settings.series_number + OFFSETS[structured_report.KIND],
        series_description="cxrd pneumonia report (research)",
        created=created,
        others=[other.dataset for other in others],
        predecessors=predecessors,
        reason=reason,
    )


def _series(kind: str, settings: Results) -> dict[str, Any]:
    """Return what tells the series of a kind from the others."""
    return {"series_number": settings.series_number + OFFSETS[kind], "series_description": _DESCRIPTIONS[kind]}


def _frames(
    source: Dataset, finding: Finding, pictures: Pictures, settings: Results, common: dict[str, Any]
) -> Dataset:
    return multi_frame_capture.multi_frame_capture(
        source,
        pictures.frames,
        ("Radiograph", "Heatmap"),
        finding=finding,
        jpeg_quality=settings.jpeg_quality,
        **_series(multi_frame_capture.KIND, settings),
        **common,
    )


def _map(source: Dataset, reading: Reading, settings: Results, common: dict[str, Any]) -> Dataset:
    return parametric_map.parametric_map(source, reading.cam, **_series(parametric_map.KIND, settings), **common)


def _named(uids: Mapping[str, str]) -> Dataset:
    """Return a data set with these UIDs, by keyword."""
    item = Dataset()
    for keyword, uid in uids.items():
        setattr(item, keyword, uid)
    return item


def _page(
    source: Dataset,
    finding: Finding,
    pictures: Pictures,
    settings: Results,
    common: dict[str, Any],
    predecessors: Sequence[Dataset],
) -> Dataset:
    from worker.results.pdf_report import report_page  # noqa: PLC0415 - reportlab is for those who want pages

    page = report_page(pictures.main, finding=finding, **common)
    about = _series(encapsulated_pdf.KIND, settings)
    return encapsulated_pdf.encapsulated_pdf(source, page, **about, **common, predecessors=predecessors)


def _selection(source: Dataset, settings: Results, common: dict[str, Any], others: list[Result]) -> Dataset:
    return key_objects.key_objects(
        source,
        others=[other.dataset for other in others],
        **_series(key_objects.KIND, settings),
        **common,
    )
