"""The outbox: a thread for each destination that sends what is due, as often as it takes."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io.dicomweb.stow import WebDelivery, WebPeer, deliver_web
from dicom_io.errors import NotNow, PeerUnavailable, Permanent, RefusedByPeer, Retryable
from dicom_io.header.reading import syntax_of
from dicom_io.network.status import Outcome, outcome
from dicom_io.network.storage_scu import Delivery, deliver
from dicom_io.objects.jpeg import PICTURES
from dicom_io.uids import digest
from worker.deliver.destinations import AnyPeer
from worker.deliver.mllp import Hl7Delivery, Hl7Peer, deliver_hl7
from worker.deliver.webhook import WebhookDelivery, WebhookPeer, deliver_hook
from worker.ledger.deliveries import Deliveries
from worker.ledger.records import DueDelivery
from worker.logs import unexpected
from worker.queue.retry import backoff
from worker.settings import OutboxSettings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.outbox")

Carrier = Delivery | WebDelivery | WebhookDelivery | Hl7Delivery

POLL = 1.0
"""Seconds between two looks at the ledger when nobody rings: `cxrd redeliver` runs in another process."""
LINGER = 0.5
"""Seconds an association stays open for the next result."""


class Courier(threading.Thread):
    """Delivers to one destination until it is stopped."""

    def __init__(
        self,
        name: str,
        peer: AnyPeer,
        deliveries: Deliveries,
        blobs: Blobs,
        settings: OutboxSettings,
        clock: Callable[[], dt.datetime],
    ) -> None:
        super().__init__(name=f"courier-{name}", daemon=True)
        self.destination = name
        self._peer = peer
        self._deliveries = deliveries
        self._blobs = blobs
        self._settings = settings
        self._clock = clock
        self._bell = threading.Event()
        self._ending = threading.Event()

    def ring(self) -> None:
        """Tell the courier that something may be due."""
        self._bell.set()

    def stop(self) -> None:
        """End after the result in hand; what is left is in the ledger."""
        self._ending.set()
        self._bell.set()

    def run(self) -> None:
        """Send what is due, then wait for the bell or the next look."""
        while not self._ending.is_set():
            try:
                busy = self._round()
            except Retryable as error:
                log.warning("outbox_waits", destination=self.destination, reason=str(error))
                busy = False
            except Exception as error:  # noqa: BLE001 - the border of the thread: it must not end
                log.error("outbox_error", destination=self.destination, reason=unexpected(error))
                busy = False
            if not busy:
                self._bell.wait(POLL)
                self._bell.clear()

    def _round(self) -> bool:
        """Deliver over one association; tell whether there was anything to deliver."""
        due = self._deliveries.due(self.destination, self._clock(), self._settings.per_association)
        if not due:
            return False
        left = self._settings.per_association
        try:
            with self._open(due) as session:
                while due and left > 0:
                    for delivery in due:
                        if self._ending.is_set():
                            return True
                        self._send(session, delivery)
                    left -= len(due)
                    due = self._more(session, left)
        except RefusedByPeer as error:
            for delivery in due:
                self._refused(delivery, None, str(error))
        except PeerUnavailable as error:
            # Nobody is there: one attempt for each that was due, so that all of them wait their turn.
            for delivery in self._deliveries.due(self.destination, self._clock(), self._settings.per_association):
                self._later(delivery, None, str(error))
            log.warning("peer_unavailable", destination=self.destination, reason=str(error))
        return True

    def _open(self, due: list[DueDelivery]) -> AbstractContextManager[Carrier]:
        """Open an association or a session that can carry what is due."""
        if isinstance(self._peer, WebhookPeer):
            return deliver_hook(self._peer)
        if isinstance(self._peer, WebPeer):
            return deliver_web(self._peer)
        if isinstance(self._peer, Hl7Peer):
            return deliver_hl7(self._peer)
        kinds = {(delivery.sop_class_uid, ExplicitVRLittleEndian) for delivery in due}
        for delivery in due:  # a JPEG picture is offered as such, and uncompressed
            if delivery.sop_class_uid in PICTURES:
                kinds.add((delivery.sop_class_uid, UID(syntax_of(self._blobs.path(delivery.sha256)))))
        return deliver(self._peer, kinds)

    def _more(self, session: Carrier, left: int) -> list[DueDelivery]:
        """Wait a moment for further results that the open association can carry."""
        if left <= 0:
            return []
        due = self._deliveries.due(self.destination, self._clock(), left)
        if not due and not self._ending.is_set():
            self._bell.wait(LINGER)
            self._bell.clear()
            due = self._deliveries.due(self.destination, self._clock(), left)
        return due if all(session.accepts(delivery.sop_class_uid) for delivery in due) else []

    def _send(self, session: Carrier, delivery: DueDelivery) -> None:
        if not session.accepts(delivery.sop_class_uid):
            self._refused(delivery, None, f"the peer does not accept {UID(delivery.sop_class_uid).name}")
            return
        try:
            status = session.store(self._blobs.path(delivery.sha256))
        except NotNow as error:
            self._later(delivery, None, str(error))
            return
        except (RefusedByPeer, Retryable):  # they concern the association
            raise
        except Permanent as error:
            self._refused(delivery, None, str(error))
            return
        except Exception as error:  # noqa: BLE001 - one result that cannot be sent must not hold up the others
            self._later(delivery, None, unexpected(error))
            return
        verdict = outcome(status)
        if verdict is Outcome.DELIVERED:
            copy = session.sent_as if isinstance(session, Delivery) else ""
            self._deliveries.mark_sent(delivery, status, self._clock(), copy)
            lossy = {"sent_as": digest(copy)} if copy else {}
            log.info("delivered", status=f"0x{status:04X}", **lossy, **self._about(delivery))
        elif verdict is Outcome.REFUSED:
            self._refused(delivery, status, f"the peer refuses it with status 0x{status:04X}")
        else:
            self._later(delivery, status, f"the peer answers with status 0x{status:04X}")

    def _refused(self, delivery: DueDelivery, status: int | None, why: str) -> None:
        self._deliveries.mark_failed(delivery, status, why, self._clock())
        log.error("delivery_failed", reason=why, **self._about(delivery))

    def _later(self, delivery: DueDelivery, status: int | None, why: str) -> None:
        moment = self._clock()
        settings = self._settings
        if moment - delivery.first_due_at > dt.timedelta(hours=settings.give_up_after_hours):
            self._refused(delivery, status, f"given up after {settings.give_up_after_hours:g} hours: {why}")
            return
        jitter = random.random()
        wait = backoff(delivery.attempts + 1, first=settings.retry_first, most=settings.retry_max, jitter=jitter)
        self._deliveries.postpone(delivery, status, why, moment, moment + dt.timedelta(seconds=wait))

    def _about(self, delivery: DueDelivery) -> dict[str, object]:
        sop = digest(delivery.sop_instance_uid)
        return {"destination": self.destination, "receipt": delivery.receipt_id, "result": sop}
