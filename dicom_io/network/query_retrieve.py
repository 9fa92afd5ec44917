"""Finding studies in a PACS and having them sent: Study Root Query/Retrieve as SCU (PS3.4 C), by C-MOVE or C-GET."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import OutOfResources, PeerUnavailable, RefusedByPeer
from dicom_io.header.attributes import integer, text, values
from dicom_io.network import spool, status
from dicom_io.network.answering_peer import TimeLimit
from dicom_io.network.spool_file import UNLIMITED, Limits
from dicom_io.network.storage_scp import READABLE_SYNTAXES, Arrival
from dicom_io.network.storage_scu import associate
from dicom_io.uids import MOST_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
    from pynetdicom.presentation import PresentationContext

    from dicom_io.network.storage_scu import Peer

_Match = TypeVar("_Match")

FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
GET = StudyRootQueryRetrieveInformationModelGet
PENDING = (0xFF00, 0xFF01)
UNKNOWN_DESTINATION = 0xA801
MOST_MATCHES = 100_000
"""Answers to one search or retrieval: whoever sends more is not listened to any longer, be they matches or not."""
SEARCH, RETRIEVAL = 900.0, 3600.0
"""Seconds that the answer to one search, and the retrieval of one series, may take."""
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers in one byte


@dataclass(frozen=True)
class Query:
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
class Receipt:
    """Where what we fetch ourselves goes: not through our node, but through the same receipt.

    Attributes
    ----------
    receive
        Called with each object; returns a C-STORE status, as for `dicom_io.network.storage_scp.StorageNode`.
    folder
        Where objects lie while they arrive.
    called
        Our AE title, for the record.
    limits
        What each object may take.
    """

    receive: Callable[[Arrival], int]
    folder: Path
    called: str
    limits: Limits = UNLIMITED


@dataclass(frozen=True)
class Move:
    """Retrieval by C-MOVE: the PACS sends to this AE title, whose address it must know."""

    destination: str


@dataclass(frozen=True)
class Get:
    """Retrieval by C-GET: the PACS sends objects of these classes on the association that asked for them."""

    receipt: Receipt
    sop_classes: tuple[str, ...]


class Archive:
    """An open association with a PACS."""

    def __init__(self, association: Any, by: Move | Get, arrived: _Arrived | None = None) -> None:
        self._association = association
        self._by = by
        self._arrived = arrived

    def series(self, query: Query, modalities: tuple[str, ...]) -> Iterator[Series]:
        """Yield the series of these modalities in all studies that match; a match without its UID is none.

        Raises
        ------
        PeerUnavailable
            The PACS stopped answering, answers with a failure or with more than `MOST_MATCHES`, or takes longer than
            `SEARCH`.
        """
        for study_uid in self._find(study_query(query), lambda study: _study_of(study, modalities)):
            select = partial(_series_of, study_uid=study_uid, modalities=modalities)
            yield from self._find(series_query(study_uid), select)

    def instances(self, series: Series) -> list[str]:
        """Return the SOP Instance UIDs of a series. Raises as `series` does."""
        return self._find(instance_query(series), lambda instance: _uid(instance, "SOPInstanceUID"))

    def fetch(self, series: Series, missing: list[str]) -> str:  # noqa: ARG002 - as `dicom_io.dicomweb.wado.WebArchive`
        """Have a series sent, as a whole: what is known comes again, and changes nothing.

        Returns
        -------
        str
            What went wrong, in words; empty where the PACS says that all was sent.

        Raises
        ------
        RefusedByPeer
            The PACS does not know the AE title that it is to send to.
        PeerUnavailable
            It stopped answering, answers more than `MOST_MATCHES` times, or takes longer than `RETRIEVAL`.
        OutOfResources
            What it sent could not be stored here.
        """
        query, send = retrieval(series), self._association
        if isinstance(self._by, Move):
            model, name, title = MOVE, "C-MOVE", self._by.destination
            last = _last(send, lambda: send.send_c_move(query, title, model), name)
            if last.Status == UNKNOWN_DESTINATION:
                raise RefusedByPeer(f"the PACS does not know our AE title {title}: add it there, with host and port")
        else:
            model, name = GET, "C-GET"
            last = _last(send, lambda: send.send_c_get(query, model), name)
            if self._arrived is not None and self._arrived.full:
                raise OutOfResources("what came could not be stored: disk full or ledger locked")
        failed = integer(last, "NumberOfFailedSuboperations") or 0
        return f"the PACS answers the {name} with 0x{last.Status:04X}, {failed} failed" if last.Status else ""

    def _find(self, query: Dataset, select: Callable[[Dataset], _Match | None]) -> list[_Match]:
        """Return what `select` takes of each match, if anything: the data sets themselves are not kept."""
        matches: list[_Match] = []
        code, limit = None, TimeLimit(self._association, SEARCH)
        try:
            with limit:
                for number, (answer, identifier) in enumerate(self._association.send_c_find(query, FIND), start=1):
                    code = integer(answer, "Status")
                    if code in PENDING and number > MOST_MATCHES:
                        self._association.abort()  # a release would wait until everything has come
                        words = f"with more than {MOST_MATCHES} matches: search for less at once"
                        raise PeerUnavailable(f"the PACS answers the C-FIND {words}")
                    if code in PENDING and identifier is not None and (match := select(identifier)):
                        matches.append(match)
        except RuntimeError as error:
            raise PeerUnavailable("the association was lost") from error
        if code != 0x0000:
            _require_in_time(limit, "C-FIND")
            ending = "not" if code is None else f"with 0x{code:04X}"
            raise PeerUnavailable(f"the PACS answers the C-FIND {ending}")
        return matches


def study_query(query: Query) -> Dataset:
    """Return what a C-FIND asks of studies (PS3.4 C.6.2.1)."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyDate, identifier.PatientID = query.dates, query.patient_id
    identifier.AccessionNumber = query.accession_number
    identifier.StudyInstanceUID, identifier.ModalitiesInStudy = query.study_instance_uid, ""
    return identifier


def series_query(study_instance_uid: str) -> Dataset:
    """Return what a C-FIND asks of the series of a study."""
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", study_instance_uid
    query.SeriesInstanceUID, query.Modality = "", ""
    return query


def instance_query(series: Series) -> Dataset:
    """Return what a C-FIND asks of the instances of a series."""
    query = retrieval(series)
    query.QueryRetrieveLevel, query.SOPInstanceUID = "IMAGE", ""
    return query


def retrieval(series: Series) -> Dataset:
    """Return the identifier of a C-MOVE or C-GET: a series as a whole (PS3.4 C.4.2.1.4)."""
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", series.study_instance_uid
    query.SeriesInstanceUID = series.series_instance_uid
    return query


def may_hold(study: Dataset, modalities: tuple[str, ...]) -> bool:
    """Tell whether a study as a search found it may hold series of these modalities; not every PACS says so."""
    stated = {str(each) for each in values(study, "ModalitiesInStudy")}
    return not stated or bool(stated & set(modalities))


def _study_of(study: Dataset, modalities: tuple[str, ...]) -> str:
    """Return the UID of a study that may hold series of these modalities, or nothing."""
    return _uid(study, "StudyInstanceUID") if may_hold(study, modalities) else ""


def _series_of(each: Dataset, study_uid: str, modalities: tuple[str, ...]) -> Series | None:
    uid, modality = _uid(each, "SeriesInstanceUID"), text(each, "Modality")
    return Series(study_uid, uid, modality) if uid and (modality in modalities or not modality) else None


def _uid(match: Dataset, keyword: str) -> str:
    """Return a UID of a match; nothing where there is none, or what stands there is too long to be one."""
    uid = text(match, keyword)
    return uid if len(uid) <= MOST_CHARACTERS else ""


def _last(association: Any, ask: Callable[[], Iterable[tuple[Dataset, Any]]], name: str) -> Dataset:
    """Return the last answer to a retrieval: the one with a status of its own."""
    last, limit = Dataset(), TimeLimit(association, RETRIEVAL)
    try:
        with limit:
            for number, (answer, _) in enumerate(ask(), start=1):
                last = answer
                if number > MOST_MATCHES:
                    association.abort()
                    raise PeerUnavailable(
                        f"the PACS answers the {name} more than {MOST_MATCHES} times, and not at last"
                    )
    except RuntimeError as error:
        raise PeerUnavailable("the association was lost") from error
    if "Status" not in last:
        _require_in_time(limit, name)
        raise PeerUnavailable(f"the PACS does not answer the {name}")
    return last


def _require_in_time(limit: TimeLimit, name: str) -> None:
    """Raise PeerUnavailable where an exchange has failed because its time is over."""
    if limit.is_over:
        raise PeerUnavailable(f"the PACS has not ended its answer to the {name} within {limit.seconds:g} s")


class _Arrived:
    """Hands what a C-GET brings to the receipt."""

    def __init__(self, receipt: Receipt, peer: Peer) -> None:
        self._receipt = receipt
        self._peer = peer
        self.full = False

    def __call__(self, event: Any) -> int:
        file = spool.take(event)
        try:
            code = self._receipt.receive(
                Arrival(
                    file=file,
                    sop_class_uid=str(event.request.AffectedSOPClassUID),
                    sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
                    transfer_syntax_uid=str(event.context.transfer_syntax),
                    # As if the PACS had sent it on its own account: rules about senders hold for it too.
                    calling_ae=self._peer.ae_title,
                    called_ae=self._receipt.called,
                    peer_address=self._peer.host,
                    received_at=dt.datetime.now(dt.UTC),
                )
            )
        finally:
            file.discard()
        self.full = self.full or code == status.OUT_OF_RESOURCES
        return code


@contextmanager
def archive(peer: Peer, by: Move | Get) -> Iterator[Archive]:
    """Open an association for C-FIND and retrieval, and release it at the end.

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association.
    RefusedByPeer
        When it offers no Study Root query or retrieval of this kind.
    """
    if isinstance(by, Move):
        with associate(peer, proposed()) as association:
            _insist(association, FIND, MOVE)
            yield Archive(association, by)
        return
    arrived = _Arrived(by.receipt, peer)
    handlers = [(evt.EVT_C_STORE, arrived), (evt.EVT_CONN_CLOSE, spool.drop_unfinished)]
    # What arrives on our own association is spooled under the port of the other side.
    with (
        spool.using(peer.port, by.receipt.folder, by.receipt.limits),
        associate(peer, proposed(by.sop_classes), roles=roles(by.sop_classes), handlers=handlers) as association,
    ):
        _insist(association, FIND, GET)
        yield Archive(association, by, arrived)


def proposed(sop_classes: tuple[str, ...] = ()) -> list[PresentationContext]:
    """Return the presentation contexts for a search and a retrieval: C-MOVE, or C-GET of objects of these classes."""
    if not sop_classes:
        return [build_context(FIND), build_context(MOVE)]
    return [build_context(FIND), build_context(GET), *_storage_contexts(sop_classes, _MOST_CONTEXTS - 2)]


def roles(sop_classes: tuple[str, ...]) -> list[SCP_SCU_RoleSelectionNegotiation]:
    """Return the role selection that a C-GET needs: we are the SCP of what comes (PS3.7 D.3.3.4)."""
    return [build_role(sop_class, scp_role=True) for sop_class in sop_classes]


def _storage_contexts(sop_classes: tuple[str, ...], most: int) -> list[PresentationContext]:
    """Return a context for each class and syntax: an object stored in a syntax that is not offered cannot come.

    The syntaxes go in the order of `READABLE_SYNTAXES`, as many as there is room for.
    """
    pairs = [(sop_class, syntax) for syntax in READABLE_SYNTAXES for sop_class in sop_classes]
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs[:most]]


def _insist(association: Any, *models: Any) -> None:
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    for model in models:
        if model not in accepted:
            raise RefusedByPeer(f"the peer does not offer {model.name}")
