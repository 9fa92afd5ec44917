"""Storage commitment at our own node (PS3.4 J): reports on our requests come in, and senders may ask us to commit.

Who asks gets 0x0000 at once, and the report from a thread of ours: on the same association where the requestor keeps it
open, else on a new one to the address that is configured for its AE title. Reports that wait are in memory only. Where
the process ends before one is sent, the requestor asks again, as it must with any node.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext, build_context

from dicom_io.errors import CxrdError, NotNow, OutOfResources, PeerUnavailable, UnreadableObject
from dicom_io.network import status
from dicom_io.network.commitment_messages import (
    COMPLETE,
    PUSH_INSTANCE,
    PUSH_MODEL,
    REQUEST,
    WITH_FAILURES,
    FailureReason,
    Report,
    Request,
    all_failed,
    judge,
    report_dataset,
    request_of,
)
from dicom_io.network.operations import Operations
from dicom_io.network.storage_commitment import encoded, misplaced, proposed, require_few, take_report
from dicom_io.network.storage_scu import PLAIN, Peer, associate
from dicom_io.network.tls import ClientTls
from dicom_io.uids import digest

log = structlog.get_logger("cxrd.commitment")

MOST_REFERENCES = 10_000
"""References in one request."""
MOST_WAITING, MOST_WAITING_OF_ONE = 100, 25
"""Reports that wait, of all requestors and of one."""
MOST_WAITING_REFERENCES = 50_000
"""References in the reports that wait: what they may take of the memory."""
LINGER = 0.5
"""Seconds from our answer to the report: a requestor that does not wait for it releases the association meanwhile."""
FIRST, LONGEST = 5.0, 300.0
"""Seconds after which a report is sent again, the first time and at most; doubled each time."""
PATIENCE = 3600.0
"""Seconds after which a report that cannot be sent is given up."""
ANSWER = 30.0
"""Seconds that a requestor may take to answer a report, or to accept an association for it."""
_THREADS = 4


class Address(NamedTuple):
    """Where a requestor listens for reports."""

    host: str
    port: int
    tls: ClientTls | None = None


@dataclass(frozen=True)
class Commitment:
    """What our node does about storage commitment.

    Attributes
    ----------
    receive
        Takes a report on a request of ours: makes it durable and returns 0x0000, or another status of N-EVENT-REPORT.
        None where we ask nobody.
    held
        Returns, for those of these SOP Instance UIDs whose instances are safely kept, the SOP class. It may raise a
        `Retryable`. None where nobody may ask us.
    addresses
        Where requestors listen for reports, by AE title.
    """

    receive: Callable[[Report], int] | None = None
    held: Callable[[Sequence[str]], Mapping[str, str]] | None = None
    addresses: Mapping[str, Address] = field(default_factory=dict)

    @property
    def contexts(self) -> list[PresentationContext]:
        """The presentation contexts that the node accepts for it, with the roles that a requestor may propose."""
        if self.receive is None and self.held is None:
            return []
        context = build_context(PUSH_MODEL, list(PLAIN))
        # Who asks us is an SCU; who reports to us is an SCP and must say so (PS3.7 D.3.3.4).
        context.scu_role, context.scp_role = self.held is not None, self.receive is not None
        return [context]


@dataclass(eq=False)
class _Job:
    """A request that waits for our report."""

    request: Request
    requestor: str
    called: str
    operations: Operations
    context_id: int
    syntax: UID
    due: float
    deadline: float
    report: Report | None = None
    failures: int = 0

    @property
    def about(self) -> dict[str, object]:
        """What the log says of it."""
        uid = digest(self.request.transaction_uid)
        return {"calling_ae": self.requestor, "transaction": uid, "references": len(self.request.references)}


class CommitmentService:
    """Answers what peers ask and report. Between `start` and `stop` it has threads of its own."""

    def __init__(self, commitment: Commitment) -> None:
        self._commitment = commitment
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._in_hand: list[_Job] = []
        self._stopping = True
        self._threads: list[threading.Thread] = []

    @property
    def handlers(self) -> list[Any]:
        """pynetdicom's event handlers for the node."""
        return [(evt.EVT_N_ACTION, self._on_request), (evt.EVT_N_EVENT_REPORT, self._on_report)]

    def start(self) -> None:
        """Start the threads that send reports; none where nobody may ask us."""
        self._stopping = False
        for number in range(_THREADS if self._commitment.held else 0):
            thread = threading.Thread(target=self._run, name=f"commitment-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, grace: float = 5.0) -> None:
        """Stop the threads, those that are sending after up to `grace` seconds; what still waits is forgotten."""
        with self._changed:
            self._stopping = True
            if self._jobs:
                log.warning("commitment_reports_dropped", reports=len(self._jobs))
            self._jobs.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    # ---- what peers send, in their associations' threads ------------------------------------------------------------

    def _on_report(self, event: Any) -> tuple[int, None]:
        if self._commitment.receive is None:
            return status.NOT_AUTHORISED, None
        return take_report(event, self._commitment.receive)[0], None

    def _on_request(self, event: Any) -> tuple[int | Dataset, None]:
        about: dict[str, object] = {"calling_ae": event.assoc.requestor.ae_title.strip()}
        try:
            job = self._job(event)
            about = job.about
            self._enter(job)
        except _Refused as error:
            log.warning("commitment_refused", status=f"0x{error.code:04X}", reason=str(error), **about)
            answer = Dataset()
            answer.Status, answer.ErrorComment = error.code, str(error)[:64]
            return answer, None
        log.info("commitment_requested", **about)
        return status.SUCCESS, None

    def _job(self, event: Any) -> _Job:
        if self._commitment.held is None:
            raise _Refused(status.NOT_AUTHORISED, "storage commitment is not offered")
        code = misplaced(event, event.request.RequestedSOPInstanceUID)
        if code:
            raise _Refused(code, "not about the Push Model")
        if event.action_type != REQUEST:
            raise _Refused(status.NO_SUCH_ACTION, "no such action")
        try:
            require_few(event.request.ActionInformation, event)
            request = request_of(event.action_information, MOST_REFERENCES)
        except UnreadableObject as error:
            raise _Refused(status.INVALID_ARGUMENT, str(error)) from error
        except (NotNow, OutOfResources) as error:
            raise _Refused(status.RESOURCE_LIMITATION, str(error)) from error
        except Exception as error:  # what a hostile data set can make the parser raise has no end
            raise _Refused(status.INVALID_ARGUMENT, f"cannot be parsed ({type(error).__name__})") from error
        requestor, moment = event.assoc.requestor, time.monotonic()
        return _Job(
            request=request,
            requestor=requestor.ae_title.strip(),
            called=requestor.primitive.called_ae_title.strip(),
            operations=_operations(event.assoc),
            context_id=event.context.context_id,
            syntax=event.context.transfer_syntax,
            due=moment + LINGER,
            deadline=moment + PATIENCE,
        )

    def _enter(self, job: _Job) -> None:
        """Put a job into the queue; where the same is in it, the report goes to the association that asked last."""
        with self._changed:
            waiting = [*self._jobs, *self._in_hand]
            same = [each for each in waiting if _transaction(each) == _transaction(job)]
            if any(each.request == job.request for each in same):
                for each in same:
                    each.operations, each.context_id, each.syntax = job.operations, job.context_id, job.syntax
                return
            if same:
                job.report = all_failed(job.request, FailureReason.DUPLICATE_TRANSACTION)
            references = sum(len(each.request.references) for each in (*waiting, job))
            of_one = Counter(each.requestor for each in waiting)[job.requestor]
            if self._stopping or len(waiting) >= MOST_WAITING or references > MOST_WAITING_REFERENCES:
                raise _Refused(status.RESOURCE_LIMITATION, "too many requests are waiting")
            if of_one >= MOST_WAITING_OF_ONE:
                raise _Refused(status.RESOURCE_LIMITATION, "too many of your requests are waiting")
            self._jobs.append(job)
            self._changed.notify_all()

    # ---- reports, in threads of our own -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            job = self._take()
            if job is None:
                return
            failure = self._try(job)
            with self._changed:
                self._in_hand.remove(job)
                if failure and not self._stopping:
                    self._postpone(job, failure)
                self._changed.notify_all()

    def _take(self) -> _Job | None:
        """Wait for a job that is due, of a requestor that no other thread is busy with; None at the end."""
        with self._changed:
            while not self._stopping:
                busy = {each.requestor for each in self._in_hand}
                free = [each for each in self._jobs if each.requestor not in busy]
                first = min(free, key=lambda each: each.due, default=None)
                if first is not None and first.due <= time.monotonic():
                    self._jobs.remove(first)
                    self._in_hand.append(first)
                    return first
                self._changed.wait(None if first is None else max(0.0, first.due - time.monotonic()))
        return None

    def _try(self, job: _Job) -> str:
        """Find out what we keep, and report it; return why it is to be tried again, or nothing."""
        try:
            if job.report is None and self._commitment.held is not None:
                uids = [each.sop_instance_uid for each in job.request.references]
                job.report = judge(job.request, self._commitment.held(uids))
            if job.report is None:
                return "nothing to report"
            if self._report_there(job, job.report):
                return ""
            where = self._commitment.addresses.get(job.requestor)
            if where is None:
                reason = "the association was closed and no address is configured for this AE title"
                log.error("commitment_report_lost", reason=reason, **job.about)
                return ""
            peer = Peer(where.host, where.port, job.requestor, job.called, ANSWER, tls=where.tls)
            send_report(peer, job.report)
        except CxrdError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the border of a thread that must go on
            return f"unexpected {type(error).__name__}"
        self._log_report(job, job.report, "a new association")
        return ""

    def _report_there(self, job: _Job, report: Report) -> bool:
        """Report on the association that asked, where it is still open; return whether that was taken."""
        if not job.operations.is_open:
            return False
        try:
            code = job.operations.ask(_event(report, job.syntax), job.context_id, ANSWER)
        except PeerUnavailable:
            return False
        if code != status.SUCCESS:
            return False
        self._log_report(job, report, "the same association")
        return True

    def _postpone(self, job: _Job, reason: str) -> None:
        """Put a job back into the queue; give it up where its time is over."""
        if time.monotonic() >= job.deadline:
            log.error("commitment_report_lost", reason=reason, **job.about)
            return
        wait = min(LONGEST, FIRST * 2.0 ** min(job.failures, 30))
        job.failures, job.due = job.failures + 1, time.monotonic() + wait
        log.warning("commitment_report_postponed", reason=reason, seconds=wait, **job.about)
        self._jobs.append(job)

    @staticmethod
    def _log_report(job: _Job, report: Report, way: str) -> None:
        counts = {"committed": len(report.committed), "failed": len(report.failed)}
        log.info("commitment_reported", on=way, **counts, **job.about)


class _Refused(Exception):
    """A request gets this status, for this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def send_report(peer: Peer, report: Report) -> None:
    """Report to a requestor on a new association, in the role of the SCP.

    Raises
    ------
    PeerUnavailable, RefusedByPeer
        It cannot be reached, rejects the association or its context, or does not answer.
    NotNow
        It answers with another status than success.
    """
    roles = [build_role(PUSH_MODEL, scp_role=True)]
    with associate(peer, proposed(), roles=roles) as association, Operations(association) as operations:
        context = association.accepted_contexts[0]
        event = _event(report, context.transfer_syntax[0])
        code = operations.ask(event, context.context_id, peer.timeout)
    if code != status.SUCCESS:
        raise NotNow(f"the requestor answers the report with 0x{code:04X}")


def _event(report: Report, syntax: UID) -> N_EVENT_REPORT:
    event = N_EVENT_REPORT()
    event.AffectedSOPClassUID, event.AffectedSOPInstanceUID = PUSH_MODEL, PUSH_INSTANCE
    event.EventTypeID = WITH_FAILURES if report.failed else COMPLETE
    event.EventInformation = encoded(report_dataset(report), syntax)
    return event


def _transaction(job: _Job) -> tuple[str, str]:
    return job.requestor, job.request.transaction_uid


def _operations(association: Any) -> Operations:
    """Return our requests on an association that a peer opened: one object as long as it is open."""
    if not hasattr(association, "cxrd_operations"):
        association.cxrd_operations = Operations(association)
    operations: Operations = association.cxrd_operations
    return operations
