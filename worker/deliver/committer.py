"""The committer of one destination: it asks a DICOM node to commit to keeping what was sent there (PS3.4 J).

It runs beside the courier and never holds it up. What is due goes into one request; the report may come on the same
association or, at any time later, on a new one to the receiver.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from pydicom.uid import generate_uid

from dicom_io.errors import CxrdError, Declined, NotNow, PeerUnavailable, RefusedByPeer
from dicom_io.network.commitment_messages import Reference, Report, Request
from dicom_io.network.storage_commitment import request_commitment
from dicom_io.network.storage_scu import Peer
from dicom_io.uids import digest
from worker.ledger.commitments import NO_REPORT, Commitments
from worker.ledger.records import DueCommitment
from worker.logs import unexpected
from worker.pulse import Pulse
from worker.queue.breaker import Breakers, Pause
from worker.settings import OutboxSettings

log = structlog.get_logger("cxrd.commitment")

POLL = 1.0
"""Seconds between two looks at the queue."""
WAIT = 10.0
"""Seconds that a report is waited for on our association. Most nodes send it on one of their own."""
MOST = 200
"""Instances in one request."""
_OFFERED_AGAIN = dt.timedelta(hours=1)
"""After so long, a node that did not offer storage commitment is asked whether it does now."""
_NEVER_OFFERED = dt.timedelta(days=1)
"""So long a node must not have offered it until that is taken for its answer: it may just be starting."""
_AFTER_START = dt.timedelta(hours=2)
"""So long it must at least have rejected us since we started ourselves."""


@dataclass(frozen=True)
class CommitmentOffice:
    """What all committers of a process share.

    Attributes
    ----------
    receive
        Takes a report (`worker.receive.commitments.ReportIntake.receive`).
    enter
        Writes an outcome down, and returns whether it counts (`worker.engines.outcome.Outcomes.enter`).
    """

    commitments: Commitments
    breakers: Breakers
    settings: OutboxSettings
    clock: Callable[[], dt.datetime]
    receive: Callable[[Report], int]
    enter: Callable[[Callable[[], None]], bool]


class Committer(threading.Thread):
    """Asks one destination until it is stopped.

    Parameters
    ----------
    required
        Whether a node that does not offer storage commitment is a fault (`commitment: true`).
    """

    def __init__(self, name: str, peer: Peer, office: CommitmentOffice, *, required: bool = False) -> None:
        super().__init__(name=f"committer-{name}", daemon=True)
        self.destination = name
        self.timeout = peer.timeout
        self.pulse = Pulse()
        self.not_offered = ""
        """Why the node cannot be asked; empty where it can, or that is not known yet."""
        self._peer = peer
        self._office = office
        self._required = required
        self._pause = Pause(first=office.settings.retry_first, most=office.settings.retry_max)
        self._rest_until: dt.datetime | None = None
        self._offer_at: dt.datetime | None = None
        self._rejected_since: dt.datetime | None = None
        self._ending = threading.Event()

    def stop(self) -> None:
        """End after the request in hand; its report is not waited for here any more."""
        self._ending.set()

    def run(self) -> None:
        """Ask about what is due, now and then."""
        while not self._ending.is_set():
            self.pulse.beat()
            if not self._round_ends_well():
                self._office.commitments.let_run_out(self.destination)
            self._ending.wait(POLL)

    def _round_ends_well(self) -> bool:
        try:
            self._round()
        except CxrdError as error:
            log.warning("commitment_waits", destination=self.destination, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the border of the thread: it must not end
            log.error("commitment_error", destination=self.destination, reason=unexpected(error))
        else:
            return True
        return False

    def _round(self) -> None:
        """Ask in one request about what is due, where the node can be asked now."""
        office, moment = self._office, self._office.clock()
        resting = self._rest_until is not None and moment < self._rest_until
        if self._pause.left() or resting or not office.commitments.has_due(self.destination, moment):
            return
        if self._offer_at is not None and moment < self._offer_at:
            if self._never_offers(moment):
                office.commitments.withdraw(self.destination)
            return
        if office.breakers.of(self.destination):  # the courier asks whether it is back
            return
        due = self._asked_too_often(office.commitments.claim(self.destination, moment, MOST), moment)
        if len(due) < MOST:  # what is sent in the meantime goes into the next request
            self._rest_until = moment + dt.timedelta(seconds=office.settings.commit_after)
        if due:
            self._ask(due, moment)

    def _asked_too_often(self, due: Sequence[DueCommitment], moment: dt.datetime) -> list[DueCommitment]:
        """Give up what was asked often enough; return the rest."""
        most = self._office.settings.commit_requests
        over = [each for each in due if each.task.attempts > most]
        reason = f"asked {most} times, and no report came"
        count = sum(self._office.commitments.give_up(each, reason, moment) for each in over)
        if count:
            log.warning("commitment_given_up", destination=self.destination, count=count, reason=reason)
        return [each for each in due if each.task.attempts <= most]

    def _ask(self, due: Sequence[DueCommitment], moment: dt.datetime) -> None:
        """Ask about deliveries in hand, and have none in hand afterwards."""
        office = self._office
        uid = str(generate_uid(prefix=None))
        request = Request(uid, tuple(Reference(each.sop_class_uid, each.sop_instance_uid) for each in due))
        in_hand = list(due)

        def enter(reason: str = "") -> None:
            until = moment + dt.timedelta(seconds=office.settings.commit_report_within)
            office.enter(lambda: office.commitments.mark_asked(uid, due, moment, until, reason))
            in_hand.clear()

        reason = ""
        try:
            office.commitments.enter_request(uid, due, moment)
            request_commitment(
                self._peer, request, wait=WAIT, receive=office.receive, taken=enter, ending=self._ending.is_set
            )
        except RefusedByPeer as error:
            self._note_not_offered(str(error), moment)
        except Declined as error:
            enter(str(error))
            log.warning("commitment_declined", reason=str(error), **self._about(uid, due))
        except (PeerUnavailable, NotNow) as error:
            reason = str(error)
            if in_hand and self._pause.trip(reason):
                log.warning("commitment_postponed", reason=reason, **self._about(uid, due))
        else:
            self._note_asked(uid, due)
        finally:
            if in_hand:
                back = list(in_hand)
                office.enter(lambda: office.commitments.hand_back(uid, back, reason))

    def _never_offers(self, moment: dt.datetime) -> bool:
        """Return whether what was sent there needs no commitment, since the node has long offered none.

        After a start of ours what waits tells how long that is, where the node rejects us for a while.
        """
        since = self._rejected_since
        if self._required or since is None or moment - since < _AFTER_START:
            return False
        oldest = self._office.commitments.never_asked_since(self.destination)
        return moment - min(since, oldest or since) >= _NEVER_OFFERED

    def _note_asked(self, uid: str, due: Sequence[DueCommitment]) -> None:
        self._pause.clear()
        self._offer_at, self._rejected_since, self.not_offered = None, None, ""
        log.info("commitment_asked", **self._about(uid, due))
        again = max(each.task.attempts for each in due)
        if again > 1:
            log.warning("commitment_report_missing", times=again - 1, reason=NO_REPORT, **self._about(uid, due))

    def _note_not_offered(self, reason: str, moment: dt.datetime) -> None:
        """Say once that the node does not offer storage commitment, and ask again later whether it does by then."""
        if not self.not_offered:
            if self._required:
                log.error("commitment_not_offered", destination=self.destination, reason=reason)
            else:
                log.info("commitment_not_offered", destination=self.destination, reason=reason)
            commitments = self._office.commitments
            self._office.enter(lambda: commitments.enter_not_offered(self.destination, reason, moment))
        self.not_offered, self._offer_at, self._rest_until = reason, moment + _OFFERED_AGAIN, None
        self._rejected_since = self._rejected_since or moment

    def _about(self, uid: str, due: Sequence[DueCommitment]) -> dict[str, object]:
        return {"destination": self.destination, "transaction": digest(uid), "deliveries": len(due)}
