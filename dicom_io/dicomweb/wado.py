"""Finding studies at a DICOMweb server and fetching them: QIDO-RS and WADO-RS (PS3.18 10.6, 10.4)."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pydicom.dataset import Dataset

from dicom_io.dicomweb.multipart import boundary_of, first_part
from dicom_io.dicomweb.stow import WebPeer, in_words, open_client
from dicom_io.errors import Declined, OutOfResources, PeerUnavailable, UnreadableObject
from dicom_io.header.attributes import MALFORMED, text
from dicom_io.header.reading import read_header
from dicom_io.network import status
from dicom_io.network.deadline import deadline
from dicom_io.network.query_retrieve import MOST_MATCHES, Query, Receipt, Series, may_hold
from dicom_io.network.spool_file import SpoolFile
from dicom_io.network.storage_scp import Arrival
from dicom_io.uids import MOST_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 500
"""Matches asked for at a time; a server may give fewer."""
FIELDS = ("ModalitiesInStudy",)
"""What is asked of a study beyond what every server gives."""
_CHUNK = 1 << 16
WHOLE = 'multipart/related; type="application/dicom"'
# As it is stored there, before the default, which is uncompressed (PS3.18 8.7.3.5.2). Not every server knows the first.
ACCEPTED = (f"{WHOLE}; transfer-syntax=*", WHOLE)


class WebArchive:
    """A session with a DICOMweb server, used as `dicom_io.network.query_retrieve.Archive` is."""

    def __init__(self, client: Any, session: Any, peer: WebPeer, receipt: Receipt, sender: str) -> None:
        self._client = client
        self._session = session
        self._peer = peer
        self._receipt = receipt
        self._sender = sender

    def series(self, query: Query, modalities: tuple[str, ...]) -> Iterator[Series]:
        """Yield the series of these modalities in all studies that match.

        Raises
        ------
        PeerUnavailable
            The server does not answer, or not with success, or not as DICOMweb says.
        """
        matching, search = filters(query), self._client.search_for_studies
        studies = self._matches(
            "StudyInstanceUID",
            lambda **page: search(search_filters=matching, fields=list(FIELDS), **page),
        )
        for study, about in studies:
            if may_hold(about, modalities):
                yield from self._series_of(study, modalities)

    def _series_of(self, study: str, modalities: tuple[str, ...]) -> Iterator[Series]:
        search = self._client.search_for_series
        for uid, about in self._matches("SeriesInstanceUID", lambda **page: search(study, **page)):
            modality = text(about, "Modality")
            if modality in modalities or not modality:
                yield Series(study, uid, modality)

    def instances(self, series: Series) -> list[str]:
        """Return the SOP Instance UIDs of a series. Raises as `series` does."""
        search, within = self._client.search_for_instances, (series.study_instance_uid, series.series_instance_uid)
        return [uid for uid, _ in self._matches("SOPInstanceUID", lambda **page: search(*within, **page))]

    def _matches(self, keyword: str, search: Callable[..., list[Any]]) -> Iterator[tuple[str, Dataset]]:
        """Yield each match once with its UID, page by page, until a page brings nothing new.

        Not until one is short: a server may give fewer than were asked for, and some know no offset.
        """
        known_uids: set[str] = set()
        offset = 0
        while True:
            if len(known_uids) > MOST_MATCHES:
                raise PeerUnavailable(
                    f"the server answers the search with more than {MOST_MATCHES} matches: search for less at once"
                )
            with in_words(), deadline(self._peer.timeout):
                page = search(limit=PAGE, offset=offset)
                try:
                    matches = [Dataset.from_json(each) for each in page]
                except MALFORMED as error:
                    raise ValueError("no DICOM JSON") from error
            offset += len(matches)
            new = {text(each, keyword): each for each in matches}
            new = {uid: each for uid, each in new.items() if 0 < len(uid) <= MOST_CHARACTERS and uid not in known_uids}
            if not new:
                return
            known_uids.update(new)
            yield from new.items()

    def fetch(self, series: Series, missing: list[str]) -> str:
        """Fetch instances of a series, one after the other, each straight to disk.

        Returns
        -------
        str
            What went wrong with the last that could not be had, in words; empty where all came.

        Raises
        ------
        PeerUnavailable
            The server cannot be reached, or does not know us.
        OutOfResources
            What it sent could not be stored here.
        """
        fault = ""
        for uid in missing:
            try:
                self._one(series, uid)
            except (Declined, UnreadableObject) as error:
                fault = str(error)
        return fault

    def _one(self, series: Series, uid: str) -> None:
        steps = ("studies", series.study_instance_uid, "series", series.series_instance_uid, "instances", uid)
        address = "/".join([self._peer.url.rstrip("/"), *(quote(step, safe="") for step in steps)])
        file = SpoolFile(self._receipt.folder, self._receipt.limits)
        try:
            self._download(address, file)
            _flush(file)
            header = read_header(file.path)
            code = self._receipt.receive(
                Arrival(
                    file=file,
                    sop_class_uid=text(header, "SOPClassUID"),
                    sop_instance_uid=uid,  # as asked for: the receipt refuses another one in its place
                    transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
                    calling_ae=self._sender[:16],
                    called_ae=self._receipt.called,
                    peer_address=urlsplit(self._peer.url).hostname or "",
                    received_at=dt.datetime.now(dt.UTC),
                )
            )
        finally:
            file.discard()
        if code == status.OUT_OF_RESOURCES:
            raise OutOfResources("what came could not be stored: disk full or ledger locked")
        if code != status.SUCCESS:
            raise Declined("what came is not the object that was asked for, or lacks what an image must have")

    def _download(self, address: str, file: SpoolFile) -> None:
        """Write the object at an address to a file, as it comes."""
        import requests

        for accepted in ACCEPTED:
            with (
                in_words(),
                deadline(self._peer.timeout) as limit,
                self._session.get(
                    address, headers={"Accept": accepted}, stream=True, timeout=self._peer.timeout
                ) as answer,
            ):
                if answer.status_code == 406 and accepted != ACCEPTED[-1]:
                    continue
                if answer.status_code in (401, 403, 407):
                    answer.raise_for_status()
                if answer.status_code != 200:
                    raise Declined(f"the server answers with HTTP status {answer.status_code}")
                try:
                    for piece in _content(answer):
                        file.write(piece)
                        limit.restart()  # a large object may take longer, as long as each piece comes in time
                except (requests.RequestException, OSError) as error:
                    raise Declined(f"the transfer broke off ({type(error).__name__})") from error
                return


def filters(query: Query) -> dict[str, str]:
    """Return the keys by which studies are searched, by keyword (PS3.18 8.3.4)."""
    named = {
        "StudyDate": query.dates,
        "PatientID": query.patient_id,
        "AccessionNumber": query.accession_number,
        "StudyInstanceUID": query.study_instance_uid,
    }
    return {keyword: value for keyword, value in named.items() if value}


def _content(answer: Any) -> Iterator[bytes]:
    """Yield the object in an answer: its one part, or the whole body where a server leaves out the wrapping."""
    kind = answer.headers.get("Content-Type", "")
    chunks = answer.iter_content(_CHUNK)
    return chunks if kind.startswith("application/dicom") else first_part(chunks, boundary_of(kind))


def _flush(file: SpoolFile) -> None:
    try:
        file.flush_to_disk()
    except OSError as error:
        raise OutOfResources(f"cannot write to the storage folder: {error.strerror}") from error


@contextmanager
def web_archive(peer: WebPeer, receipt: Receipt, sender: str) -> Iterator[WebArchive]:
    """Open a session with a server, and close it at the end.

    Parameters
    ----------
    sender
        What stands for the calling AE title of what is fetched; its first 16 characters count.

    Raises
    ------
    PeerUnavailable
        Its address cannot be used.
    """
    with in_words():
        client, session = open_client(peer)
    try:
        yield WebArchive(client, session, peer, receipt, sender)
    finally:
        session.close()


def holds(peer: WebPeer, series: Series, uid: str) -> bool:
    """Tell whether a server finds an instance (QIDO-RS); raises as `copy_of` does."""
    with web_archive(peer, Receipt(lambda _: status.SUCCESS, Path(), ""), "") as source:
        return uid in source.instances(series)


def copy_of(peer: WebPeer, series: Series, uid: str, folder: Path) -> tuple[bool, str]:
    """Tell whether a server finds an instance, and in which transfer syntax it gives it back (empty: it does not).

    Parameters
    ----------
    folder
        Where the object may lie for a moment.

    Raises
    ------
    PeerUnavailable
        The server does not answer.
    """
    syntaxes: list[str] = []

    def receive(arrival: Arrival) -> int:
        syntaxes.append(arrival.transfer_syntax_uid)
        return status.SUCCESS

    with web_archive(peer, Receipt(receive, folder, ""), "") as source:
        if uid not in source.instances(series):
            return False, ""
        source.fetch(series, [uid])
    return True, "".join(syntaxes)
