"""Finding studies in a PACS and having them sent: Study Root Query/Retrieve, C-FIND and C-MOVE, as SCU (PS3.4 C)."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import PeerUnavailable, RefusedByPeer
from dicom_io.scu import associate
from dicom_io.values import integer, text, values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicom_io.scu import Peer

_PENDING = (0xFF00, 0xFF01)


@dataclass(frozen=True)
class Wanted:
    """What to look for; empty fields match everything.

    Attributes
    ----------
    dates
        A day or a range of Study Date, as DICOM writes it: 20260131, 20260101-20260131, 20260101- (PS3.4 C.2.2.2.5).
    patient_id, accession_number, study_instance_uid
        Exactly this one. `*` and `?` are wild cards for the first two, where the PACS supports them.
    """

    dates: str = ""
    patient_id: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""


@dataclass(frozen=True)
class Series:
    """A series that may hold radiographs."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str


@dataclass(frozen=True)
class Moved:
    """What became of the images of one C-MOVE."""

    completed: int
    failed: int


class Archive:
    """An open association with a PACS."""

    def __init__(self, association: Any) -> None:
        self._association = association

    def series(self, wanted: Wanted, modalities: tuple[str, ...]) -> Iterator[Series]:
        """Yield the series of these modalities in all studies that match.

        Raises
        ------
        PeerUnavailable
            The PACS stopped answering, or answers with a failure.
        """
        study = Dataset()
        study.QueryRetrieveLevel = "STUDY"
        study.StudyDate, study.PatientID = wanted.dates, wanted.patient_id
        study.AccessionNumber = wanted.accession_number
        study.StudyInstanceUID, study.ModalitiesInStudy = wanted.study_instance_uid, ""
        for found in self._find(study):
            known = {str(each) for each in values(found, "ModalitiesInStudy")}
            if known and not known & set(modalities):
                continue
            query = Dataset()
            query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", found.StudyInstanceUID
            query.SeriesInstanceUID, query.Modality = "", ""
            for each in self._find(query):
                modality = text(each, "Modality")
                if modality in modalities or not modality:
                    yield Series(str(found.StudyInstanceUID), str(each.SeriesInstanceUID), modality)

    def instances(self, series: Series) -> list[str]:
        """Return the SOP Instance UIDs of a series. Raises as `series` does."""
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "IMAGE", series.study_instance_uid
        query.SeriesInstanceUID, query.SOPInstanceUID = series.series_instance_uid, ""
        return [str(found.SOPInstanceUID) for found in self._find(query)]

    def move(self, series: Series, destination: str) -> Moved:
        """Have a series sent to an AE title that the PACS knows (C-MOVE).

        Raises
        ------
        RefusedByPeer
            The PACS does not know that AE title.
        PeerUnavailable
            It stopped answering, or answers with another failure.
        """
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", series.study_instance_uid
        query.SeriesInstanceUID = series.series_instance_uid
        last = Dataset()
        try:
            for status, _ in self._association.send_c_move(
                query, destination, StudyRootQueryRetrieveInformationModelMove
            ):
                last = status
        except RuntimeError as error:
            raise PeerUnavailable("the association was lost") from error
        code = integer(last, "Status")
        if code is None:
            raise PeerUnavailable("the PACS does not answer the C-MOVE")
        if code == 0xA801:
            raise RefusedByPeer(f"the PACS does not know our AE title {destination}: add it there, with host and port")
        completed = integer(last, "NumberOfCompletedSuboperations") or 0
        failed = integer(last, "NumberOfFailedSuboperations") or 0
        if code not in (0x0000, 0xB000) and not completed:
            raise PeerUnavailable(f"the PACS answers the C-MOVE with 0x{code:04X}")
        return Moved(completed + (integer(last, "NumberOfWarningSuboperations") or 0), failed)

    def _find(self, query: Dataset) -> list[Dataset]:
        found: list[Dataset] = []
        status = None
        try:
            for answer, identifier in self._association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                status = integer(answer, "Status")
                if status in _PENDING and identifier is not None:
                    found.append(identifier)
        except RuntimeError as error:
            raise PeerUnavailable("the association was lost") from error
        if status != 0x0000:
            said = "not" if status is None else f"with 0x{status:04X}"
            raise PeerUnavailable(f"the PACS answers the C-FIND {said}")
        return found


@contextmanager
def archive(peer: Peer) -> Iterator[Archive]:
    """Open an association for C-FIND and C-MOVE, and release it at the end.

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association.
    RefusedByPeer
        When it offers no Study Root query or retrieval.
    """
    models = (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove)
    with associate(peer, [build_context(model) for model in models]) as association:
        taken = {context.abstract_syntax for context in association.accepted_contexts}
        for model in models:
            if model not in taken:
                raise RefusedByPeer(f"the peer does not offer {model.name}")
        yield Archive(association)
