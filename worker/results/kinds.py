"""The table of all kinds of result: what each is in DICOM, where it goes, and how it is made."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_io.finding import ModelIdentity
from dicom_io.header.source_image import SopInstance, SourceImage
from dicom_io.objects import (
    encapsulated_pdf,
    key_objects,
    multi_frame_capture,
    parametric_map,
    presentation_state,
    secondary_capture,
    structured_report,
)
from dicom_io.objects.common import Basis
from dicom_io.objects.kinds import ObjectKind
from worker.inference.analyzer import Reading
from worker.results.pictures import Pictures
from worker.settings import Results

_LONGEST = 64  # characters of a Series Description (VR LO)


@dataclass(frozen=True)
class Material:
    """All that the results of one radiograph are made from.

    Parameters
    ----------
    reading, pictures
        What the model saw, and what is shown of it.
    predecessors
        By kind: what an earlier model made of the same image.
    others
        The results that were made before this one.
    again
        Whether an earlier model has read the image already: then each series names the model's version.
    """

    source: SourceImage
    reading: Reading
    identity: ModelIdentity
    created: dt.datetime
    settings: Results
    pictures: Pictures
    predecessors: Mapping[str, SopInstance]
    others: Sequence[Dataset] = ()
    again: bool = False


@dataclass(frozen=True)
class ResultKind:
    """One kind of result.

    Parameters
    ----------
    dicom
        Its name in the settings, SOP class and modality.
    series_offset
        What is added to `results.series_number`.
    suffix
        What its file's name ends in.
    description
        Of its series; empty where `results.series_description` says it.
    maker
        Makes the object.
    names_predecessor
        Whether it points to what an earlier model made of the same image (PS3.3 C.17.2, C.24.2).
    """

    dicom: ObjectKind
    series_offset: int
    suffix: str
    description: str
    maker: Callable[[Basis, Material], Dataset]
    names_predecessor: bool = False

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self.dicom.name

    @property
    def sop_class(self) -> str:
        """UID of its SOP class."""
        return self.dicom.sop_class

    @property
    def modality(self) -> str:
        """Modality of its series."""
        return self.dicom.modality

    def basis(
        self,
        source: SourceImage,
        identity: ModelIdentity,
        settings: Results,
        created: dt.datetime,
        *,
        again: bool = False,
    ) -> Basis:
        """Return what an object of this kind is based on."""
        description = self.description or settings.series_description
        number = settings.series_number + self.series_offset
        before = source.version.number - 1
        ends = f", replaces version {before}" * bool(before) + f", {identity.version[: _LONGEST // 2]}" * again
        description = description[: _LONGEST - len(ends)] + ends
        return Basis(source, identity, created, number, description)

    def make(self, material: Material) -> Dataset:
        """Make an object of this kind.

        Raises
        ------
        UnreadableObject
            The source lacks its study, SOP instance or SOP class UID.
        Unsuitable
            The source lacks what this kind needs.
        """
        source, identity, settings = material.source, material.identity, material.settings
        basis = self.basis(source, identity, settings, material.created, again=material.again)
        return self.maker(basis, material)


def _capture(basis: Basis, material: Material) -> Dataset:
    finding, quality = material.reading.finding, material.settings.jpeg_quality
    return secondary_capture.secondary_capture(basis, finding, material.pictures.main, quality)


def _frames(basis: Basis, material: Material) -> Dataset:
    finding, quality = material.reading.finding, material.settings.jpeg_quality
    labels = ("Radiograph", "Evidence" if finding.answer.shows_evidence else "Answer")
    return multi_frame_capture.multi_frame_capture(basis, finding, material.pictures.frames, labels, quality)


def _map(basis: Basis, material: Material) -> Dataset:
    return parametric_map.parametric_map(basis, material.reading.evidence)


def _state(basis: Basis, material: Material) -> Dataset:
    rendered = material.reading.rendered
    return presentation_state.presentation_state(basis, material.reading.finding, rendered.aspect, rendered.window)


def _page(basis: Basis, material: Material) -> Dataset:
    from worker.results.pdf_report import report_page  # noqa: PLC0415 - reportlab is for those who want pages

    finding, picture = material.reading.finding, material.pictures.main
    page = report_page(picture, finding=finding, identity=basis.identity, created=basis.created)
    return encapsulated_pdf.encapsulated_pdf(basis, page, _predecessors(material, PAGE))


def _report(basis: Basis, material: Material) -> Dataset:
    finding, before = material.reading.finding, _predecessors(material, REPORT)
    return structured_report.structured_report(basis, finding, material.others, before)


def _selection(basis: Basis, material: Material) -> Dataset:
    return key_objects.key_objects(basis, material.others)


def _predecessors(material: Material, kind: ResultKind) -> list[SopInstance]:
    return [material.predecessors[kind.name]] if kind.name in material.predecessors else []


PAGE = ResultKind(encapsulated_pdf.KIND, 5, ".pdf.dcm", "cxrd pneumonia page (research)", _page, names_predecessor=True)
REPORT = ResultKind(
    structured_report.KIND, 1, ".sr.dcm", "cxrd pneumonia report (research)", _report, names_predecessor=True
)
KINDS: dict[str, ResultKind] = {
    kind.name: kind
    for kind in (
        ResultKind(secondary_capture.KIND, 0, ".dcm", "", _capture),
        ResultKind(multi_frame_capture.KIND, 6, ".mf.dcm", "cxrd pneumonia frames (research)", _frames),
        ResultKind(parametric_map.KIND, 4, ".pm.dcm", "cxrd pneumonia log-odds map (research)", _map),
        ResultKind(presentation_state.KIND, 2, ".pr.dcm", "cxrd pneumonia answer (research)", _state),
        PAGE,
        REPORT,
        ResultKind(key_objects.KIND, 3, ".ko.dcm", "cxrd pneumonia results (research)", _selection),
    )
}
"""In the order in which they are made: the report names those before it as evidence, and the key objects all."""
