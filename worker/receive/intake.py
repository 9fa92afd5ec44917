"""Receipt: from an object that lies in the spool to an answer that the sender can rely on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import structlog
from pydicom import Dataset

from dicom_io.errors import ObjectCutShort, Retryable, UnreadableObject
from dicom_io.fail_points import reached
from dicom_io.header.reading import read_arrived
from dicom_io.header.reading_limits import DEFAULT, ReadingLimits
from dicom_io.network import status
from dicom_io.network.content import content_sha256
from dicom_io.network.spool_file import SpoolFile
from dicom_io.network.storage_scp import Arrival
from dicom_io.uids import digest
from worker import metrics
from worker.clock import now
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewReceipt
from worker.ledger.versions import FileDeleted, OtherContent, Version
from worker.logs import unexpected
from worker.queue.task import Priority
from worker.storage.blobs import Blobs
from worker.storage.pseudonym import PatientKey

log = structlog.get_logger("cxrd.intake")

# (0000,0700) Priority of C-STORE (PS3.7 E.1); 0 is medium, and so is what is none of these.
_PRIORITIES = {1: Priority.HIGH, 2: Priority.LOW}


class Intake:
    """Makes arrivals durable, enters them in the ledger, and hands them to the engine.

    Parameters
    ----------
    submit
        Called with a receipt's id after it is committed. A lost call costs time (a worker looks), not the image.
    urgent
        Calling AE titles whose images go before all others.
    priority
        That of all images, whatever the sender asks for.
    one_version
        Refuse another content under a SOP Instance UID that was received before (`scp.duplicates`).
    limits
        What reading a header may cost.
    """

    def __init__(
        self,
        ledger: Ledger,
        blobs: Blobs,
        patient_key: PatientKey,
        submit: Callable[[int], None],
        *,
        urgent: Collection[str] = (),
        priority: Priority | None = None,
        one_version: bool = False,
        limits: ReadingLimits = DEFAULT,
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._patient_key = patient_key
        self._submit = submit
        self._urgent = frozenset(urgent)
        self._fixed = priority
        self._one_version = one_version
        self._limits = limits

    @metrics.timed("receipt")
    def receive(self, arrival: Arrival) -> int:
        """Store one object; return the C-STORE status (PS3.4 B.2.3).

        0x0000 only when the bytes and the ledger's row are on disk; 0xA700 when they cannot be put there now; 0xA900
        when the data set lacks what it needs or contradicts the request; 0xC000 when it cannot be parsed; 0x0111 when
        another content was received under its UID, and there is to be one version only.
        """
        about = {"sop": digest(arrival.sop_instance_uid), "calling_ae": arrival.calling_ae, "bytes": arrival.file.size}
        try:
            self._blobs.check_space()
            arrival.file.flush_to_disk()
            header = read_arrived(arrival.file.path, replace(self._limits, share=arrival.share))
            mismatch = _mismatch(header, arrival)
            if mismatch:
                return self._refuse(status.DATASET_MISMATCH, mismatch, about)
            with self._blobs.turn(arrival.sop_instance_uid):
                receipt_id = self._enter(self._receipt(header, arrival), arrival.file, about)
            reached("entered not answered")
        except (OtherContent, UnreadableObject) as error:
            if isinstance(error, ObjectCutShort):
                arrival.file.error = error  # so the answer's comment says it
            code = status.DUPLICATE if isinstance(error, OtherContent) else status.CANNOT_UNDERSTAND
            return self._refuse(code, str(error), about)
        except Retryable as error:
            return self._refuse(status.OUT_OF_RESOURCES, str(error), about)
        except OSError as error:
            return self._refuse(status.OUT_OF_RESOURCES, error.strerror or "cannot write", about)
        except Exception as error:  # noqa: BLE001 - the border of a request: the sender must keep its copy
            return self._refuse(status.OUT_OF_RESOURCES, unexpected(error), about)
        if receipt_id is not None:
            metrics.received(arrival.calling_ae, arrival.file.size)
            self._submit(receipt_id)
        return status.SUCCESS

    def _enter(self, new: NewReceipt, file: SpoolFile, about: dict[str, object]) -> int | None:
        """Make an object durable and enter it; return the receipt that there is work on now, if there is one.

        Raises
        ------
        OtherContent
            As `Ledger.receive`.
        """
        before = [self._with_content(each, new) for each in self._ledger.versions_of(new.sop_instance_uid)]
        same = next((each for each in before if each.holds(new)), None)
        if before and not same and self._one_version:
            raise OtherContent
        why = self._missing(same) if same else ""
        if not same or why:
            self._blobs.adopt(file)
        reached("renamed not entered")
        if same and why:
            return self._restore(same.receipt_id, new, why, about)
        try:
            receipt_id = self._ledger.receive(new, one_version=self._one_version)
        except OtherContent:  # through another store, a moment ago
            self._remove_unowned(new)
            raise
        except FileDeleted as error:  # by retention, since we looked
            if same:
                return self._enter(new, file, about)
            return self._restore(error.receipt_id, new, "deleted", about)
        if receipt_id is None:
            if not same:  # likewise: its row owns another file
                self._remove_unowned(new)
            metrics.RECEIVED_AGAIN.inc()
            log.info("received_again", **about)
            return None
        self._blobs.confirm(new.sha256)
        version = {"version": 1 + len(before)} if before else {}
        log.info("received", receipt=receipt_id, **version, **about)
        return receipt_id

    def _restore(self, receipt_id: int, new: NewReceipt, why: str, about: dict[str, object]) -> int:
        """Enter that the file of a receipt, which was deleted or lost, was placed in the store anew."""
        self._ledger.restore(receipt_id, new, why)
        self._blobs.confirm(new.sha256)
        log.info("restored", receipt=receipt_id, why=why, **about)
        return receipt_id

    def _with_content(self, version: Version, new: NewReceipt) -> Version:
        """Return a version with the digest of its data set, which an earlier version of cxrd did not enter."""
        if version.content_sha256 is not None or version.sha256 == new.sha256 or self._missing(version):
            return version
        if version.store not in ("", self._blobs.store):
            return version
        content = content_sha256(self._blobs.find(version.sha256))
        self._ledger.note_content(version.receipt_id, content)
        return replace(version, content_sha256=content)

    def _missing(self, version: Version) -> str:
        """Return why the file of a version is not kept, `deleted` or `lost`; nothing where it is, for all we know."""
        if version.deleted_at is not None:
            return "deleted"
        if version.store not in ("", self._blobs.store):  # whose process alone can look
            return ""
        return "" if self._blobs.is_whole(version.sha256, version.size_bytes) else "lost"

    def _remove_unowned(self, new: NewReceipt) -> None:
        """Remove a file that was placed here, unless a row owns it after all."""
        rows = self._ledger.versions_of(new.sop_instance_uid)
        if all(row.sha256 != new.sha256 or row.store not in ("", self._blobs.store) for row in rows):
            self._blobs.remove(self._blobs.path(new.sha256))

    def _priority(self, arrival: Arrival) -> Priority:
        if self._fixed is not None:
            return self._fixed
        if arrival.calling_ae in self._urgent:
            return Priority.STAT
        return _PRIORITIES.get(arrival.priority, Priority.MEDIUM)

    def _refuse(self, code: int, reason: str, about: dict[str, object]) -> int:
        facts = about | {"status": f"0x{code:04X}", "reason": reason}
        metrics.REFUSED.labels(facts["status"]).inc()
        log.warning("refused", **facts)
        if code != status.OUT_OF_RESOURCES:  # what a full disk or a locked ledger refuses cannot be entered either
            try:
                self._ledger.record_event("refused", now(), facts)
            except Retryable as error:
                log.warning("refusal_not_entered", reason=str(error))
        return code

    def _receipt(self, header: Dataset, arrival: Arrival) -> NewReceipt:
        return NewReceipt(
            sop_instance_uid=arrival.sop_instance_uid,
            sop_class_uid=arrival.sop_class_uid,
            study_instance_uid=_text(header, "StudyInstanceUID", 64),
            series_instance_uid=_text(header, "SeriesInstanceUID", 64),
            transfer_syntax_uid=arrival.transfer_syntax_uid,
            modality=_text(header, "Modality", 16),
            accession_number=_text(header, "AccessionNumber", 64),
            patient_key=self._patient_key.of(_text(header, "PatientID", 128)),
            calling_ae=arrival.calling_ae,
            called_ae=arrival.called_ae,
            peer_address=arrival.peer_address,
            sha256=arrival.file.sha256,
            size_bytes=arrival.file.size,
            received_at=arrival.received_at,
            priority=self._priority(arrival),
            store=self._blobs.store,
            content_sha256=arrival.file.content_sha256,
        )


def _mismatch(header: Dataset, arrival: Arrival) -> str:
    """Return what is wrong with an object, or nothing."""
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        value = _text(header, keyword, 65)
        if not value:
            return f"the data set lacks {keyword}"
        if len(value) > 64:
            return f"{keyword} is longer than 64 characters"
    if _text(header, "SOPClassUID", 64) != arrival.sop_class_uid:
        return "SOPClassUID is not that of the presentation context"
    if _text(header, "SOPInstanceUID", 64) != arrival.sop_instance_uid:
        return "SOPInstanceUID is not that of the C-STORE request"
    return ""


def _text(header: Dataset, keyword: str, limit: int) -> str:
    """Return an attribute as text of at most `limit` characters; empty where it is absent or cannot be decoded."""
    try:
        value = header.get(keyword, "")
    except Exception as error:  # noqa: BLE001 - a hostile value can make the decoder raise anything
        log.debug("undecodable_attribute", keyword=keyword, error=type(error).__name__)
        return ""
    return "" if value is None else str(value).replace("\x00", "").strip()[:limit]
