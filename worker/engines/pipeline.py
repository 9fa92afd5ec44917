"""The task: takes one received object from its bytes in the store to the rows that tell what became of it."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog
from prometheus_client import Counter
from pydicom import Dataset

from dicom_io.errors import CxrdError, OutOfResources, Permanent, Retryable
from dicom_io.fail_points import reached
from dicom_io.finding import Answer, Finding, ModelIdentity
from worker import metrics
from worker.clock import now
from worker.deliver.notifications import FlaggedFinding, make_notifications
from worker.deliver.routing import destinations_for, notification_kinds, takers
from worker.engines.analysis import Analysed, NotAnalysed, analyze, failure_report, header_after_crash, read_stored
from worker.engines.desk import Desk
from worker.engines.earlier import image_of, previous_findings, replaced_by, wait_for_earlier
from worker.inference.analyzer import Reader, Reading
from worker.inference.engine import EngineFault
from worker.inference.shadow import Shadow
from worker.ledger.receipts import Ledger
from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult, PreviousFinding
from worker.ledger.versions import AnsweredLater
from worker.logs import unexpected
from worker.queue.retry import ANALYSIS_FIRST, ANALYSIS_MOST, backoff
from worker.queue.task import Kind, Task
from worker.results.kinds import REPORT
from worker.results.result_set import ResultSet
from worker.settings import Settings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.pipeline")

_LEFT_OUT = "not analysed"
"""For the log: the reason may quote a code of the header, and stays in the ledger."""


class SystemicFault(CxrdError):
    """Something other than the image in hand is out of order: the disk, the model, the GPU. Work must pause."""


@dataclass(frozen=True)
class Entry:
    """The outcome of a task: how it is called in the log, and what writes it down.

    `fault` says what is out of order where it was not the image. `counted` is what goes up by one.
    """

    state: str
    write: Callable[[], None]
    fault: str = ""
    counted: Counter | None = None


class Pipeline:
    """Does the tasks of images. Idempotent: done twice, it makes the same objects and the same rows.

    Parameters
    ----------
    desks
        For each kind of task, where its subject is looked up and its outcome goes.
    enter
        Writes an outcome down, and returns whether it counts (`worker.engines.outcome.Outcomes.enter`).
    lease
        Lends the reader of the current model for one image.
    wake_couriers
        Called when there is something to deliver.
    shadow
        A candidate that looks at each newly analysed image too.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        blobs: Blobs,
        desks: Mapping[Kind, Desk],
        enter: Callable[[Callable[[], None]], bool],
        lease: Callable[[], AbstractContextManager[Reader]],
        wake_couriers: Callable[[], None],
        *,
        shadow: Shadow | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._blobs = blobs
        self._desks = desks
        self._enter = enter
        self._lease = lease
        self._wake_couriers = wake_couriers
        self._shadow = shadow

    def process(self, task: Task) -> None:
        """Take an image through to its end, or put it back to be tried again.

        Raises
        ------
        SystemicFault
            Not the image is out of order; it was put back as it was.
        OutOfResources
            The ledger does not even say what the task is about.
        """
        start = time.monotonic()
        reached("leased")
        desk = self._desks[task.kind]
        claim = desk.load(task)
        entry = self._outcome(desk, claim)
        with metrics.timed("ledger"):
            try:
                counts = self._enter(entry.write)
            except AnsweredLater as error:  # while this one was in hand
                entry = _replaced(desk, claim, str(error))
                counts = self._enter(entry.write)
        reached("outcome committed")
        if counts and entry.counted:
            metrics.entered(entry.counted, claim.task, claim.dated_at, answered=entry.state == "analysed")
        state = entry.state if counts else "not entered"
        facts = {"receipt": claim.id, "state": state, "ms": round(1000 * (time.monotonic() - start))}
        if state.startswith("failed"):
            log.error("processed", **facts)
        else:
            log.info("processed", **facts)
        if entry.fault:
            raise SystemicFault(entry.fault)

    def _outcome(self, desk: Desk, claim: Claim) -> Entry:
        """Do the work, and return what came of it; where something else than the image was at fault, nothing."""
        try:
            return self._attempt(desk, claim)
        except (SystemicFault, OutOfResources) as error:
            fault = str(error)
        except OSError as error:
            fault = unexpected(error)
        back = metrics.PUT_BACK.labels("system")
        return Entry(f"put back: {fault}", lambda: desk.hand_back(claim, fault), fault=fault, counted=back)

    def _attempt(self, desk: Desk, claim: Claim) -> Entry:
        """Do the work, and return what came of it for this image."""
        crashes, most = claim.task.crashes, self._settings.worker.max_crashes
        if crashes >= most:
            reason = f"the worker died {most} times while it had this image in hand"
            header = header_after_crash(self._blobs, claim, most, self._settings.pixels.reading)
            return self._failure(desk, claim, reason, header, metrics.CRASHED)
        if claim.deleted_at is not None:  # after it was asked to be read again
            gone = f"its file was deleted on {claim.deleted_at:%Y-%m-%d}"
            counted = metrics.NOT_ANALYSED.labels("deleted")
            return Entry(_LEFT_OUT, lambda: desk.leave_out(claim, gone, now()), counted=counted)
        if replaced := replaced_by(self._ledger, claim):
            return _replaced(desk, claim, replaced)
        wait_for_earlier(self._ledger, claim)
        dataset: Dataset | None = None
        try:
            dataset = self._read(claim, whole=False)
            return self._work(desk, claim, dataset)
        except (SystemicFault, OutOfResources, OSError):
            raise
        except Permanent as error:
            return self._failure(desk, claim, str(error), dataset, metrics.cause_of(error))
        except Exception as error:  # noqa: BLE001 - the border of a task
            reason = str(error) if isinstance(error, Retryable) else unexpected(error)
            return self._unforeseen(desk, claim, reason, dataset, metrics.cause_of(error))

    def _read(self, claim: Claim, *, whole: bool) -> Dataset:
        return read_stored(self._blobs, claim.sha256, self._settings.pixels.reading, whole=whole)

    def _read_whole(self, claim: Claim) -> Dataset:
        with metrics.timed("read"):
            return self._read(claim, whole=True)

    def _work(self, desk: Desk, claim: Claim, dataset: Dataset) -> Entry:
        if self._ledger.is_result(claim.sop_instance_uid):
            own = metrics.NOT_ANALYSED.labels("own output")
            return Entry(_LEFT_OUT, lambda: desk.leave_out(claim, "own output", now()), counted=own)
        with self._lease() as reader:
            if claim.model_sha256 not in ("", reader.identity.digest):  # exchanged since the task was found to be due
                reason = "another model serves"
                return Entry(f"put back: {reason}", lambda: desk.hand_back(claim, reason))
            previous = previous_findings(self._ledger, claim, reader.identity, self._settings.results.kinds)
            image = replace(image_of(claim, dataset, previous), whole=partial(self._read_whole, claim))
            reached("decoding")
            try:
                outcome = analyze(image, reader, self._settings)
            except EngineFault as error:
                if not reader.works():  # on an image without a fault either
                    raise SystemicFault(str(error)) from error
                raise
            for remark in outcome.remarks:
                log.warning("header_remark", receipt=claim.id, remark=remark)
            if isinstance(outcome, NotAnalysed):
                return self._leave_out(desk, claim, outcome, reader.identity)
            return self._answer(desk, claim, outcome, reader.identity, previous.get(REPORT.name))

    def _leave_out(self, desk: Desk, claim: Claim, outcome: NotAnalysed, identity: ModelIdentity) -> Entry:
        """Return the entry that an image is not analysed, with the report that says so where there is one."""
        finding = new_finding(outcome.reading, identity) if outcome.reading else None
        results, names = self._reports(claim, outcome.results)
        return Entry(
            _LEFT_OUT,
            lambda: self._and_wake(
                names,
                desk.leave_out,
                claim,
                outcome.reason,
                now(),
                results=results,
                left_out=outcome.results.left_out,
                outside=finding,
                remarks=outcome.remarks,
            ),
            counted=metrics.NOT_ANALYSED.labels("outside" if finding else "rules"),
        )

    def _failure(self, desk: Desk, claim: Claim, reason: str, dataset: Dataset | None, cause: str) -> Entry:
        """Return the entry that an image could not be analysed, with the report that says so where one is wanted."""
        reports = ResultSet((), {})
        if dataset is not None and not claim.model_sha256 and self._settings.results.report_not_analysed:
            with self._lease() as reader:
                previous = previous_findings(self._ledger, claim, reader.identity, ())
                image = image_of(claim, dataset, previous)
                reports = failure_report(image, reason, reader.identity, self._settings)
        results, names = self._reports(claim, reports)
        return Entry(
            f"failed: {reason}",
            lambda: self._and_wake(names, desk.fail, claim, reason, now(), results=results, left_out=reports.left_out),
            counted=metrics.FAILED.labels(cause),
        )

    def _reports(self, claim: Claim, reports: ResultSet) -> tuple[list[NewResult], list[str]]:
        """Make reports durable; return them, and the names of the destinations that may take them."""
        if not reports.results:
            return [], []
        names = destinations_for(claim.calling_ae, self._settings.destinations)
        return self._keep(reports, names), names

    def _and_wake(self, names: Sequence[str], write: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Write an outcome down, and wake the couriers where there is something for them."""
        write(*arguments, **options)
        if names:
            self._wake_couriers()

    def _answer(
        self, desk: Desk, claim: Claim, outcome: Analysed, identity: ModelIdentity, previous: PreviousFinding | None
    ) -> Entry:
        """Return the entry of a finding, its results, and the notifications of it."""
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
                replaced=previous.replaced if previous else None,
                created=claim.dated_at.astimezone(),
                sender=self._settings.scp.ae_title,
            )
            notifications, faults = self._keep_notifications(flagged, names)
        finding = new_finding(outcome.reading, identity)
        left_out, remarks = outcome.results.left_out | faults, outcome.remarks

        def write() -> None:
            desk.record_finding(
                claim, finding, results, now(), notifications=notifications, left_out=left_out, remarks=remarks
            )
            if self._shadow and not claim.model_sha256:
                self._shadow.offer(claim.id, outcome.reading.image, outcome.reading.years)
            if names:
                self._wake_couriers()

        return Entry("analysed", write, counted=metrics.ANSWERED.labels(outcome.reading.finding.answer))

    def _keep(self, results: ResultSet, names: Sequence[str]) -> list[NewResult]:
        """Make result objects durable, and return them as the ledger takes them."""
        self._blobs.check_space(sum(len(result.data) for result in results.results))
        kept: list[NewResult] = []
        for result in results.results:
            sha256 = self._blobs.put(result.data)
            reached("objects half written")
            kept.append(
                NewResult(
                    kind=result.kind,
                    sop_class_uid=str(result.dataset.SOPClassUID),
                    sop_instance_uid=str(result.dataset.SOPInstanceUID),
                    series_instance_uid=str(result.dataset.SeriesInstanceUID),
                    sha256=sha256,
                    size_bytes=len(result.data),
                    destinations=takers(result.kind, names, self._settings.destinations),
                    store=self._blobs.store,
                )
            )
        return kept

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
                store=self._blobs.store,
            )
            for each in notifications
        ]
        return new, faults

    def _unforeseen(self, desk: Desk, claim: Claim, reason: str, dataset: Dataset | None, cause: str) -> Entry:
        """Return what becomes of an image that a task stumbled over: another attempt, or none any more."""
        attempts = claim.task.attempts
        if attempts >= self._settings.worker.max_attempts:
            return self._failure(desk, claim, reason, dataset, cause)
        wait = backoff(attempts, first=ANALYSIS_FIRST, most=ANALYSIS_MOST, jitter=random.random())
        until = now() + dt.timedelta(seconds=wait)
        later = metrics.PUT_BACK.labels("image")
        return Entry(f"postponed: {reason}", lambda: desk.postpone(claim, reason, now(), until), counted=later)


def _replaced(desk: Desk, claim: Claim, reason: str) -> Entry:
    """Return the entry that an image is not answered, since a later version of it was."""
    return Entry(
        _LEFT_OUT, lambda: desk.leave_out(claim, reason, now()), counted=metrics.NOT_ANALYSED.labels("replaced")
    )


def new_finding(reading: Reading, identity: ModelIdentity) -> NewFinding:
    """Return a reading as the ledger takes it."""
    return NewFinding(identity, reading.finding, reading.input_mean, reading.input_std, now())


def is_news(finding: Finding, previous: PreviousFinding | None) -> bool:
    """Return whether others are notified: of an image that is flagged, and of one that is so no longer.

    Of a later version also where nothing but its contents changed: it may be of another patient.
    """
    flagged, before = finding.answer is Answer.FLAGGED, previous is not None and previous.answer is Answer.FLAGGED
    return flagged or before if previous is not None and previous.replaced else flagged != before
