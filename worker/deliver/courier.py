"""The courier of one destination: it takes what is due in hand, sends it, and enters what became of each.

While the destination is down it asks with one delivery now and then, and all others wait as they are: the first success
lets them go. A delivery at which the destination fails, while it takes others, is put aside and holds up none of them.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dicom_io.errors import (
    AssociationLost,
    CxrdError,
    NotNow,
    NotSecure,
    PeerUnavailable,
    Permanent,
    RefusedByPeer,
    Retryable,
)
from dicom_io.fail_points import reached
from dicom_io.network.status import SUCCESS, Verdict
from dicom_io.uids import digest
from worker import metrics
from worker.deliver.port import Outcome, Sender, Session, refusal, retry
from worker.deliver.suspects import Suspects
from worker.ledger.deliveries import Deliveries
from worker.ledger.records import DueDelivery
from worker.logs import unexpected
from worker.pulse import Pulse
from worker.queue.breaker import Breakers
from worker.queue.retry import backoff
from worker.settings import OutboxSettings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.outbox")

POLL = 1.0
"""Seconds between two looks at the queue when nobody wakes it."""
LINGER = 0.5
"""Seconds a session stays open for the next delivery."""
_IN_HAND = 10
"""Deliveries taken in hand at once, at most: as many wait for a lease to run out when the process is killed."""
_REST = dt.timedelta(minutes=1)
"""Until one that gave no further session is asked again; at most, between two looks at what has waited too long."""
_IN_A_ROW = 3
"""Different deliveries that fail, and none passes between, until the destination counts as down."""


@dataclass(frozen=True)
class Office:
    """What all couriers of a process share.

    Attributes
    ----------
    enter
        Writes an outcome down, and returns whether it counts (`worker.engines.outcome.Outcomes.enter`).
    """

    deliveries: Deliveries
    blobs: Blobs
    breakers: Breakers
    settings: OutboxSettings
    clock: Callable[[], dt.datetime]
    enter: Callable[[Callable[[], None]], bool]


class Courier(threading.Thread):
    """Delivers to one destination until it is stopped.

    Parameters
    ----------
    timeout
        Seconds that the destination may take for one delivery.
    commit_after
        Seconds after which it is to be asked to commit to keeping what it took; None where it is not.
    first
        Another courier of the same destination, which this one helps while more waits than that one has in hand. It
        never asks whether the destination is there, and that it gets no session of its own says nothing: a node may
        allow few.
    """

    def __init__(
        self,
        name: str,
        sender: Sender,
        office: Office,
        *,
        timeout: float = 30.0,
        commit_after: float | None = None,
        first: Courier | None = None,
    ) -> None:
        super().__init__(name=f"courier-{name}", daemon=True)
        self._is_helper = first is not None
        self._rests_until: dt.datetime | None = None
        self._looks_again_at: dt.datetime | None = None
        self.destination = name
        self._sender = sender
        self._office = office
        self.timeout = timeout
        self._commit_after = None if commit_after is None else dt.timedelta(seconds=commit_after)
        self.pulse = Pulse()
        self.suspects: Suspects = first.suspects if first else Suspects()
        self._ahead: list[DueDelivery] = []  # taken in hand for the session before, which could not carry them
        self._last_taken: list[DueDelivery] = []
        self._wake = threading.Event()
        self._ending = threading.Event()

    def wake(self) -> None:
        """Tell the courier that something may be due."""
        self._wake.set()

    def stop(self) -> None:
        """End after the delivery in hand; what is left goes back."""
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        """Send what is due, then wait to be woken or for the next look."""
        waits_for = ""
        while not self._ending.is_set():
            self.pulse.beat()
            try:
                busy = self._round()
                waits_for = ""
            except CxrdError as error:  # also settings that cannot be followed any more, as where a certificate is gone
                if str(error) != waits_for:  # once, and not at every look
                    log.warning("outbox_waits", destination=self.destination, reason=str(error))
                busy, waits_for = self._lets_run_out(), str(error)
            except Exception as error:  # noqa: BLE001 - the border of the thread: it must not end
                log.error("outbox_error", destination=self.destination, reason=unexpected(error))
                busy = self._lets_run_out()
            if not busy:
                self._wait(POLL)
        self._hand_back(self._ahead)

    def _lets_run_out(self) -> bool:
        """Let the leases run out of what an error has left in hand; there is nothing more to do just now."""
        self._office.deliveries.let_run_out(set(self._last_taken) - set(self._ahead))
        return False

    def _round(self) -> bool:
        """Deliver in one session; tell whether there was anything to deliver."""
        self._office.blobs.check_there()
        self._office.deliveries.read_from(self._office.blobs.store)
        breaker = self._office.breakers.of(self.destination)
        if self._is_helper and (breaker or not self._is_wanted()):
            return False
        if breaker:
            self._give_up(breaker.reason)
            if not self._is_probe():
                return False
        left = 1 if breaker else self._office.settings.per_association
        due = self._take(left, is_probe=bool(breaker))
        if not due:
            return False
        in_hand = list(due)
        try:
            with self._sender.open(due, self._office.blobs) as session:
                while in_hand and left > 0:
                    left -= len(in_hand)
                    if not self._send_all(session, in_hand, is_probe=bool(breaker)):
                        break
                    in_hand = self._more(session, left)
        except (PeerUnavailable, RefusedByPeer) as error:  # it takes no session: that concerns no single delivery
            self._hand_back(in_hand, str(error))
            if self._is_helper:
                log.debug("no_further_session", destination=self.destination, reason=str(error))
                self._rests_until = self._office.clock() + _REST
            else:
                self._trip(str(error), type(error))
            return False
        finally:
            self._hand_back(in_hand)
        return True

    def _send_all(self, session: Session, in_hand: list[DueDelivery], *, is_probe: bool) -> bool:
        """Send what is in hand, and take each out of it once its outcome is entered; tell whether the session lasts."""
        while in_hand:
            if self._ending.is_set():
                return False
            delivery = in_hand[0]
            if self._office.deliveries.is_replaced(delivery):  # while it waited for those before it
                self._withdraw(in_hand.pop(0))
                continue
            reached("sending")
            try:
                outcome = self._attempt(session, delivery)
                reached("sent not entered")
            except PeerUnavailable as error:
                self._charge(in_hand.pop(0), retry(str(error)), type(error), is_probe=is_probe)
                return False
            in_hand.pop(0)
            if outcome.verdict is Verdict.RETRY:
                if outcome.is_ours:
                    self._postpone(delivery, outcome)
                elif self._charge(delivery, outcome, is_probe=is_probe):
                    return False
                continue
            self._enter(delivery, outcome)
            self.suspects.enter_answer(delivery.delivery_id)
            if is_probe:
                self._close()
                is_probe = False
        return True

    def _is_wanted(self) -> bool:
        """Return whether more waits than another courier has in hand."""
        moment = self._office.clock()
        if self._rests_until is not None and moment < self._rests_until:
            return False
        return bool(self._ahead) or self._office.deliveries.has_due(self.destination, moment, beyond=_IN_HAND)

    def _is_probe(self) -> bool:
        """Return whether it is for us to ask a destination that is down; nobody asks with empty hands."""
        moment = self._office.clock()
        if not (self._ahead or self._office.deliveries.has_due(self.destination, moment)):
            return False
        return self._office.breakers.take_probe(self.destination, moment, 2 * self.timeout)

    def _take(self, limit: int, *, is_probe: bool = False) -> list[DueDelivery]:
        """Take what is due in hand; as a probe what was tried least, for the destination may be down for one alone."""
        ahead, self._ahead = self._ahead, []
        moment, most = self._office.clock(), min(limit, _IN_HAND)
        if ahead:
            return ahead
        while True:
            self._last_taken = self._office.deliveries.claim(self.destination, moment, most, least_tried_first=is_probe)
            due = [each for each in self._last_taken if not each.is_replaced]
            for each in self._last_taken:
                if each.is_replaced:
                    self._withdraw(each)
            if due or not self._last_taken:
                return due

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _more(self, session: Session, left: int) -> list[DueDelivery]:
        """Wait a moment for further deliveries that the open session can carry."""
        if left <= 0 or self._ending.is_set():
            return []
        due = self._take(left)
        if not due:
            self._wait(LINGER)
            due = [] if self._ending.is_set() else self._take(left)
        if all(session.carries(delivery) for delivery in due):
            return due
        self._ahead = due
        return []

    @metrics.timed("delivery")
    def _attempt(self, session: Session, delivery: DueDelivery) -> Outcome:
        self.pulse.beat()
        try:
            return session.send(delivery)
        except PeerUnavailable:  # it concerns the session
            raise
        except NotNow as error:
            return retry(str(error))
        except Permanent as error:
            return refusal(str(error))
        except Exception as error:  # noqa: BLE001 - one result that cannot be sent must not hold up the others
            return retry(str(error) if isinstance(error, Retryable) else unexpected(error), is_ours=True)

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    def _enter(self, delivery: DueDelivery, outcome: Outcome) -> None:
        """Enter what the destination has decided about a delivery."""
        if outcome.verdict is Verdict.SENT:
            self._mark_sent(delivery, outcome)
        else:
            self._mark_failed(delivery, outcome.status, outcome.reason)

    def _mark_sent(self, delivery: DueDelivery, outcome: Outcome) -> None:
        status, moment, deliveries = outcome.status or SUCCESS, self._office.clock(), self._office.deliveries

        def write() -> None:
            deliveries.mark_sent(
                delivery, status, moment, outcome.sent_as, outcome.remark, commit_after=self._commit_after
            )

        if self._office.enter(write):
            metrics.delivery(self.destination, "sent")
            lossy = {"sent_as": digest(outcome.sent_as)} if outcome.sent_as else {}
            more = lossy | ({"remark": outcome.remark} if outcome.remark else {})
            log.info("delivered", status=f"0x{status:04X}", **more, **self._log_fields(delivery))

    def _mark_failed(self, delivery: DueDelivery, status: int | None, reason: str) -> None:
        moment = self._office.clock()
        if self._office.enter(lambda: self._office.deliveries.mark_failed(delivery, status, reason, moment)):
            metrics.delivery(self.destination, "failed")
            log.error("delivery_failed", reason=reason, **self._log_fields(delivery))

    def _withdraw(self, delivery: DueDelivery) -> None:
        """Enter that a delivery is not made, since a later version of its image was answered."""
        moment = self._office.clock()
        if self._office.enter(lambda: self._office.deliveries.withdraw(delivery, moment)):
            metrics.delivery(self.destination, "withdrawn")
            log.info("delivery_withdrawn", **self._log_fields(delivery))

    def _postpone(self, delivery: DueDelivery, outcome: Outcome, *, at_once: bool = False) -> None:
        """Enter that an attempt failed; the next is due after the delivery's own backoff, or `at_once`."""
        moment, settings = self._office.clock(), self._office.settings
        if moment - delivery.task.created_at > dt.timedelta(hours=settings.give_up_after_hours):
            self._mark_failed(delivery, outcome.status, _given_up(settings, outcome.reason))
            return
        wait = backoff(
            delivery.task.attempts, first=settings.retry_first, most=settings.retry_max, jitter=random.random()
        )
        until = moment if at_once else moment + dt.timedelta(seconds=wait)
        reason, status = outcome.reason, outcome.status
        if self._office.enter(lambda: self._office.deliveries.postpone(delivery, status, reason, moment, until)):
            metrics.delivery(self.destination, "postponed")

    def _hand_back(self, deliveries: list[DueDelivery], reason: str = "") -> None:
        """Put back what is in hand as it was, and have it in hand no longer."""
        if deliveries:
            back = list(deliveries)
            self._office.enter(lambda: self._office.deliveries.hand_back(back, reason))
            deliveries.clear()

    def _charge(
        self, delivery: DueDelivery, outcome: Outcome, error: type[PeerUnavailable] | None = None, *, is_probe: bool
    ) -> bool:
        """Enter that the destination failed at a delivery; return whether it counts as down by that.

        Without room, the destination is to blame, and the delivery waits for it alone. A session that broke off may
        have done so because of the delivery: it is tried once more at once, then put aside for its own backoff. Several
        different ones in a row have another cause. Whatever fails while others pass is put aside, and the destination
        is not down.

        Parameters
        ----------
        error
            What ended the session; None where the destination answered.
        """
        number, is_lost = delivery.delivery_id, error is AssociationLost
        was_suspect, to_blame = self.suspects.knows(number), self.suspects.is_to_blame(number)
        in_a_row = self.suspects.enter_failure(number)
        at_once = not is_probe and not to_blame and (outcome.congested or (is_lost and not was_suspect))
        self._postpone(delivery, outcome, at_once=at_once)
        may_be_one = is_lost or (error is None and not outcome.congested)
        is_down = is_probe or (not to_blame and (not may_be_one or in_a_row >= _IN_A_ROW))
        if is_down:
            self._trip(outcome.reason, error)
        elif error is not None:
            log.warning("session_lost", reason=outcome.reason, **self._log_fields(delivery))
        return is_down

    # ---- the breaker -------------------------------------------------------------------------------------------------

    def _trip(self, reason: str, error: type[CxrdError] | None) -> None:
        """Enter that the destination is down; the log and the audit hear of it once."""
        moment = self._office.clock()
        if self._office.breakers.trip(self.destination, reason, moment):
            log.warning("peer_unavailable", destination=self.destination, reason=reason)
            facts = {"reason": reason} | ({"tls": False} if error is NotSecure else {})
            self._record("destination_down", moment, facts)

    def _close(self) -> None:
        """Enter that the destination is there again."""
        moment = self._office.clock()
        if self._office.breakers.close(self.destination, moment):
            log.info("peer_available", destination=self.destination)
            self._record("destination_up", moment, {})
            self._office.enter(lambda: self._office.deliveries.let_go(self.destination, moment))

    def _record(self, kind: str, moment: dt.datetime, facts: Mapping[str, Any]) -> None:
        self._office.enter(lambda: self._office.deliveries.destination_event(kind, self.destination, moment, facts))

    def _give_up(self, reason: str) -> None:
        """Fail what has waited too long for a destination that is down; all that waits is looked at now and then."""
        moment, settings = self._office.clock(), self._office.settings
        longest, next_look = dt.timedelta(hours=settings.give_up_after_hours), self._looks_again_at
        if next_look and next_look - _REST < moment < next_look:  # else the clock has gone back
            return
        self._looks_again_at = moment + min(longest / 100, _REST)
        words = _given_up(settings, reason)
        count = self._office.deliveries.give_up(self.destination, moment - longest, words, moment)
        if count:
            metrics.delivery(self.destination, "failed", count)
            log.error("delivery_failed", destination=self.destination, count=count, reason=words)

    def _log_fields(self, delivery: DueDelivery) -> dict[str, object]:
        sop = digest(delivery.sop_instance_uid)
        return {"destination": self.destination, "receipt": delivery.receipt_id, "result": sop}


def _given_up(settings: OutboxSettings, reason: str) -> str:
    return f"given up after {settings.give_up_after_hours:g} hours: {reason}"
