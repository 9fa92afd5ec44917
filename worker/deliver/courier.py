"""The outbox: one thread for each destination. It sends what is due, and tries again what may pass later."""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable

import structlog

from dicom_io.errors import PeerUnavailable, Permanent, RefusedByPeer, Retryable
from dicom_io.network.status import SUCCESS, Verdict
from dicom_io.uids import digest
from worker.deliver.port import Outcome, Sender, Session, refusal, retry
from worker.ledger.deliveries import Deliveries
from worker.ledger.records import DueDelivery
from worker.logs import unexpected
from worker.queue.retry import backoff
from worker.settings import OutboxSettings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.outbox")

POLL = 1.0
"""Seconds between two looks at the ledger when nobody wakes it: `cxrd redeliver` runs in another process."""
LINGER = 0.5
"""Seconds a session stays open for the next delivery."""


class Courier(threading.Thread):
    """Delivers to one destination until it is stopped."""

    def __init__(
        self,
        name: str,
        sender: Sender,
        deliveries: Deliveries,
        blobs: Blobs,
        settings: OutboxSettings,
        clock: Callable[[], dt.datetime],
    ) -> None:
        super().__init__(name=f"courier-{name}", daemon=True)
        self.destination = name
        self._sender = sender
        self._deliveries = deliveries
        self._blobs = blobs
        self._settings = settings
        self._clock = clock
        self._wake = threading.Event()
        self._ending = threading.Event()

    def wake(self) -> None:
        """Tell the courier that something may be due."""
        self._wake.set()

    def stop(self) -> None:
        """End after the delivery in hand; what is left is in the ledger."""
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        """Send what is due, then wait to be woken or for the next look."""
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
                self._wait(POLL)

    def _round(self) -> bool:
        """Deliver in one session; tell whether there was anything to deliver."""
        left = self._settings.per_association
        due = self._due(left)
        if not due:
            return False
        try:
            with self._sender.open(due, self._blobs) as session:
                while due and left > 0:
                    for delivery in due:
                        if self._ending.is_set():
                            return True
                        self._enter(delivery, self._attempt(session, delivery))
                    left -= len(due)
                    due = self._more(session, left)
        except RefusedByPeer as error:
            for delivery in due:
                self._enter(delivery, refusal(str(error)))
        except PeerUnavailable as error:
            # Nobody is there: one attempt for each that was due, so that all of them wait their turn.
            for delivery in self._due(self._settings.per_association):
                self._enter(delivery, retry(str(error)))
            log.warning("peer_unavailable", destination=self.destination, reason=str(error))
        return True

    def _due(self, limit: int) -> list[DueDelivery]:
        return self._deliveries.due(self.destination, self._clock(), limit)

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _more(self, session: Session, left: int) -> list[DueDelivery]:
        """Wait a moment for further deliveries that the open session can carry."""
        if left <= 0:
            return []
        due = self._due(left)
        if not due and not self._ending.is_set():
            self._wait(LINGER)
            due = self._due(left)
        return due if all(session.carries(delivery) for delivery in due) else []

    def _attempt(self, session: Session, delivery: DueDelivery) -> Outcome:
        try:
            return session.send(delivery)
        except (RefusedByPeer, Retryable):  # they concern the session
            raise
        except Permanent as error:
            return refusal(str(error))
        except Exception as error:  # noqa: BLE001 - one result that cannot be sent must not hold up the others
            return retry(unexpected(error))

    def _enter(self, delivery: DueDelivery, outcome: Outcome) -> None:
        """Enter what became of an attempt."""
        if outcome.verdict is Verdict.SENT:
            self._mark_sent(delivery, outcome)
        elif outcome.verdict is Verdict.REFUSED:
            self._mark_failed(delivery, outcome.status, outcome.reason)
        else:
            self._postpone(delivery, outcome)

    def _mark_sent(self, delivery: DueDelivery, outcome: Outcome) -> None:
        status = outcome.status or SUCCESS
        self._deliveries.mark_sent(delivery, status, self._clock(), outcome.sent_as)
        lossy = {"sent_as": digest(outcome.sent_as)} if outcome.sent_as else {}
        log.info("delivered", status=f"0x{status:04X}", **lossy, **self._log_fields(delivery))

    def _mark_failed(self, delivery: DueDelivery, status: int | None, reason: str) -> None:
        self._deliveries.mark_failed(delivery, status, reason, self._clock())
        log.error("delivery_failed", reason=reason, **self._log_fields(delivery))

    def _postpone(self, delivery: DueDelivery, outcome: Outcome) -> None:
        moment, settings = self._clock(), self._settings
        if moment - delivery.first_due_at > dt.timedelta(hours=settings.give_up_after_hours):
            hours = f"{settings.give_up_after_hours:g}"
            self._mark_failed(delivery, outcome.status, f"given up after {hours} hours: {outcome.reason}")
            return
        jitter = random.random()
        wait = backoff(delivery.attempts + 1, first=settings.retry_first, most=settings.retry_max, jitter=jitter)
        until = moment + dt.timedelta(seconds=wait)
        self._deliveries.postpone(delivery, outcome.status, outcome.reason, moment, until)

    def _log_fields(self, delivery: DueDelivery) -> dict[str, object]:
        sop = digest(delivery.sop_instance_uid)
        return {"destination": self.destination, "receipt": delivery.receipt_id, "result": sop}
