"""The task: takes one received object from its bytes in the store to the rows that tell what became of it."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import structlog

from dicom_io.errors import Permanent, Retryable
from dicom_io.finding import Answer, Finding, ModelIdentity
from dicom_io.header.reading import read_dataset
from worker.clock import now
from worker.deliver.notifications import FlaggedFinding, make_notifications
from worker.deliver.routing import destinations_for, notification_kinds, takers
from worker.engines.analysis import Analysed, Image, NotAnalysed, analyze
from worker.inference.analyzer import Reader, Reading
from worker.inference.shadow import Shadow
from worker.ledger.receipts import Ledger
from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult, PreviousFinding
from worker.logs import unexpected
from worker.queue.retry import backoff
from worker.results.kinds import KINDS, REPORT
from worker.results.result_set import ResultSet
from worker.settings import Settings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.pipeline")

_LEFT_OUT = "not analysed"
"""For the log: the reason may quote a code of the header, and stays in the ledger."""


class Tasks(Protocol):
    """Where a task comes from and where its outcome goes: the ledger, or the reanalyses."""

    def claim(self, receipt_id: int, now: dt.datetime) -> Claim | None:
        """Take an image in hand, if it is to be had."""
        ...

    def postpone(self, receipt_id: int, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put it back until later."""
        ...

    def put_back(self, receipt_id: int, now: dt.datetime) -> None:
        """Put it back as it was."""
        ...

    def leave_out(self, receipt_id: int, reason: str, now: dt.datetime, *, outside: NewFinding | None = None) -> None:
        """Enter that it is not analysed, and the finding that does not count where it is outside."""
        ...

    def fail(self, receipt_id: int, reason: str, now: dt.datetime) -> None:
        """Enter that it cannot be analysed."""
        ...

    def record_finding(
        self,
        receipt_id: int,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification],
        left_out: Mapping[str, str] | None,
    ) -> None:
        """Enter finding, results, notifications and deliveries."""
        ...


class Pipeline:
    """Processes receipts by id. Idempotent: done twice, it makes the same objects and the same rows.

    Parameters
    ----------
    lease
        Lends the reader of the current model for one image.
    wake_couriers
        Called when a receipt has something to deliver.
    shadow
        A candidate that looks at each analysed image too.
    tasks
        Where the work comes from; new images, which are the ledger's, by default.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        blobs: Blobs,
        lease: Callable[[], AbstractContextManager[Reader]],
        wake_couriers: Callable[[], None],
        *,
        shadow: Shadow | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._tasks: Tasks = tasks or ledger
        self._blobs = blobs
        self._lease = lease
        self._shadow = shadow
        self._wake_couriers = wake_couriers

    def process(self, receipt_id: int) -> None:
        """Take a receipt through to its end, or put it back to be tried again."""
        claim = self._tasks.claim(receipt_id, now())
        if claim is None:
            return
        start = time.monotonic()
        try:
            state = self._work(claim)
        except Permanent as error:
            self._tasks.fail(claim.id, str(error), now())
            state = f"failed: {error}"
        except (Retryable, MemoryError, OSError) as error:
            reason = str(error) if isinstance(error, Retryable) else unexpected(error)
            self._postpone(claim, reason)
            state = f"postponed: {reason}"
        except Exception as error:  # noqa: BLE001 - the border of a task
            state = self._unforeseen(claim, unexpected(error))
        log.info("processed", receipt=claim.id, state=state, ms=round(1000 * (time.monotonic() - start)))

    def _work(self, claim: Claim) -> str:
        dataset = read_dataset(self._blobs.path(claim.sha256))
        if self._ledger.is_result(claim.sop_instance_uid):
            self._tasks.leave_out(claim.id, "own output", now())
            return _LEFT_OUT
        with self._lease() as reader:
            if claim.model_sha256 not in ("", reader.identity.digest):  # exchanged since the task was found to be due
                self._tasks.put_back(claim.id, now())
                return "put back: another model serves"
            previous = self._previous_findings(claim, reader.identity)
            image = Image(
                dataset,
                # The time of receipt or of the request, so that the same work always gives the same bytes.
                created=claim.dated_at.astimezone(),
                predecessors={kind: each.report for kind, each in previous.items() if each.report},
                # A second reading that is left out needs no report: the first answer stands.
                report_not_analysed=not claim.model_sha256,
                again=bool(claim.model_sha256),
            )
            outcome = analyze(image, reader, self._settings)
            if isinstance(outcome, NotAnalysed):
                return self._leave_out(claim, outcome, reader.identity)
            return self._answer(claim, outcome, reader.identity, previous.get(REPORT.name))

    def _previous_findings(self, claim: Claim, identity: ModelIdentity) -> dict[str, PreviousFinding]:
        """Return what other models answered, by the kind of document that can point to it."""
        kinds = {name: kind for name, kind in KINDS.items() if kind.names_predecessor}
        answers = {
            name: self._ledger.previous_finding(claim.id, identity.digest, kind.sop_class)
            for name, kind in kinds.items()
            if kind is REPORT or name in self._settings.results.kinds
        }
        return {kind: each for kind, each in answers.items() if each}

    def _leave_out(self, claim: Claim, outcome: NotAnalysed, identity: ModelIdentity) -> str:
        """Enter that an image is not analysed, with the report that says so where there is one."""
        finding = new_finding(outcome.reading, identity) if outcome.reading else None
        left_out = outcome.results.left_out
        if not (outcome.results.results or left_out):
            self._tasks.leave_out(claim.id, outcome.reason, now(), outside=finding)
            return _LEFT_OUT
        names = destinations_for(claim.calling_ae, self._settings.destinations)
        results = self._keep(outcome.results, names)
        self._ledger.leave_out(claim.id, outcome.reason, now(), results=results, left_out=left_out, outside=finding)
        if names:
            self._wake_couriers()
        return _LEFT_OUT

    def _answer(
        self, claim: Claim, outcome: Analysed, identity: ModelIdentity, previous: PreviousFinding | None
    ) -> str:
        """Enter a finding, its results, and the notifications of it."""
        names = destinations_for(claim.calling_ae, self._settings.destinations)
        results = self._keep(outcome.results, names)
        notifications: list[NewNotification] = []
        faults: dict[str, str] = {}
        if is_news(outcome.reading.finding, previous):
            flagged = FlaggedFinding(
                source=outcome.source,
                finding=outcome.reading.finding,
                identity=identity,
                results=tuple(result.sop_instance_uid for result in results),
                earlier_answer=previous.answer if previous else None,
                created=claim.dated_at.astimezone(),
                sender=self._settings.scp.ae_title,
            )
            notifications, faults = self._keep_notifications(flagged, names)
        self._tasks.record_finding(
            claim.id,
            new_finding(outcome.reading, identity),
            results,
            now(),
            notifications=notifications,
            left_out=outcome.results.left_out | faults,
        )
        if self._shadow:
            self._shadow.offer(claim.id, outcome.reading.image, outcome.reading.years)
        if names:
            self._wake_couriers()
        return "analysed"

    def _keep(self, results: ResultSet, names: Sequence[str]) -> list[NewResult]:
        """Make result objects durable, and return them as the ledger takes them."""
        self._blobs.check_space(sum(len(result.data) for result in results.results))
        return [
            NewResult(
                kind=result.kind,
                sop_class_uid=str(result.dataset.SOPClassUID),
                sop_instance_uid=str(result.dataset.SOPInstanceUID),
                series_instance_uid=str(result.dataset.SeriesInstanceUID),
                sha256=self._blobs.put(result.data),
                size_bytes=len(result.data),
                destinations=takers(result.kind, names, self._settings.destinations),
            )
            for result in results.results
        ]

    def _keep_notifications(
        self, flagged: FlaggedFinding, names: Sequence[str]
    ) -> tuple[list[NewNotification], dict[str, str]]:
        """Make notifications durable, and return them as the ledger takes them; and why a kind could not be made."""
        destinations = self._settings.destinations
        notifications, faults = make_notifications(flagged, notification_kinds(destinations))
        for kind, reason in faults.items():
            log.warning("result_left_out", kind=kind, reason=reason)
        new = [
            NewNotification(
                kind=each.kind,
                uid=each.uid,
                sha256=self._blobs.put(each.body, each.suffix),
                size_bytes=len(each.body),
                destinations=takers(each.kind, names, destinations),
            )
            for each in notifications
        ]
        return new, faults

    def _postpone(self, claim: Claim, reason: str) -> None:
        wait = backoff(claim.attempts, first=5.0, most=300.0, jitter=random.random())
        self._tasks.postpone(claim.id, reason, now(), now() + dt.timedelta(seconds=wait))

    def _unforeseen(self, claim: Claim, reason: str) -> str:
        if claim.attempts >= self._settings.worker.max_attempts:
            self._tasks.fail(claim.id, reason, now())
            return f"failed: {reason}"
        self._postpone(claim, reason)
        return f"postponed: {reason}"


def new_finding(reading: Reading, identity: ModelIdentity) -> NewFinding:
    """Return a reading as the ledger takes it."""
    return NewFinding(identity, reading.finding, reading.input_mean, reading.input_std, now())


def is_news(finding: Finding, previous: PreviousFinding | None) -> bool:
    """Return whether others are notified: of an image that is flagged, unless it was flagged before."""
    return finding.answer is Answer.FLAGGED and (previous is None or previous.answer is not Answer.FLAGGED)
