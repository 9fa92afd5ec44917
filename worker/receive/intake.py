"""Receipt: from an object that lies in the spool to an answer that the sender can rely on."""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog
from pydicom import Dataset

from dicom_io.errors import Retryable, UnreadableObject
from dicom_io.fail_points import reached
from dicom_io.header.reading import read_header
from dicom_io.network import status
from dicom_io.network.storage_scp import Arrival
from dicom_io.uids import digest
from worker import metrics
from worker.clock import now
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewReceipt
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
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._patient_key = patient_key
        self._submit = submit
        self._urgent = frozenset(urgent)
        self._fixed = priority

    @metrics.timed("receipt")
    def receive(self, arrival: Arrival) -> int:
        """Store one object; return the C-STORE status (PS3.4 B.2.3).

        0x0000 only when the bytes and the ledger's row are on disk; 0xA700 when they cannot be put there now; 0xA900
        when the data set lacks what it needs or contradicts the request; 0xC000 when it cannot be parsed.
        """
        about = {"sop": digest(arrival.sop_instance_uid), "calling_ae": arrival.calling_ae, "bytes": arrival.file.size}
        try:
            self._blobs.check_space()
            arrival.file.flush_to_disk()
            header = read_header(arrival.file.path)
            mismatch = _mismatch(header, arrival)
            if mismatch:
                return self._refuse(status.DATASET_MISMATCH, mismatch, about)
            new = self._receipt(header, arrival)
            if not self._ledger.has_received(new.sop_instance_uid):
                self._blobs.adopt(arrival.file)
            reached("renamed not entered")
            receipt_id = self._ledger.receive(new)
            reached("entered not answered")
        except UnreadableObject as error:
            return self._refuse(status.CANNOT_UNDERSTAND, str(error), about)
        except Retryable as error:
            return self._refuse(status.OUT_OF_RESOURCES, str(error), about)
        except OSError as error:
            return self._refuse(status.OUT_OF_RESOURCES, error.strerror or "cannot write", about)
        except Exception as error:  # noqa: BLE001 - the border of a request: the sender must keep its copy
            return self._refuse(status.OUT_OF_RESOURCES, unexpected(error), about)
        if receipt_id is None:
            metrics.RECEIVED_AGAIN.inc()
            log.info("received_again", **about)
        else:
            self._blobs.confirm(new.sha256)
            metrics.received(arrival.calling_ae, arrival.file.size)
            log.info("received", receipt=receipt_id, **about)
            self._submit(receipt_id)
        return status.SUCCESS

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
