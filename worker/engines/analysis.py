"""The task: one received object, from its bytes in the store to a row that says what became of it."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
from pydicom import Dataset

from dicom_io.errors import Permanent, Retryable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_dataset
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import SourceImage, source_image
from modeltrain.model.outputs import CLASSES
from worker.clock import now
from worker.deliver.notifications import PositiveFinding, make_notifications
from worker.deliver.routing import destinations_for, notification_kinds, takers
from worker.inference.analyzer import Reader, Reading
from worker.inference.serving import Serving
from worker.inference.shadow import Shadow
from worker.ledger.receipts import Ledger
from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult, PreviousAnswer
from worker.ledger.tables import OUT_OF_DISTRIBUTION
from worker.logs import unexpected
from worker.queue.retry import backoff
from worker.results.kinds import KINDS, REPORT
from worker.results.result_set import ResultSet, make, not_analysed
from worker.settings import Settings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.pipeline")

_LEFT_OUT = "not analysed"
"""For the log: the reason may quote a code of the header, and stays in the ledger."""


def rules_of(settings: Settings) -> Rules:
    """Return the eligibility rules that the settings spell out."""
    return Rules(**settings.rules.model_dump())


def outside(finding: Finding) -> str:
    """Return why an image that the model's gate stopped was not analysed."""
    return f"{OUT_OF_DISTRIBUTION} (score {finding.outlier:.2f}, limit 1; model.out_of_distribution)"


def new_finding(reading: Reading, identity: ModelIdentity, analysed_at: dt.datetime) -> NewFinding:
    """Return a reading as the ledger takes it."""
    return NewFinding(identity, reading.finding, reading.input_mean, reading.input_std, analysed_at)


def is_news(finding: Finding, earlier: PreviousAnswer | None) -> bool:
    """Tell whether others are notified: of a positive finding, unless the earlier one was positive too."""
    return finding.decision == CLASSES[1] and (earlier is None or earlier.decision != finding.decision)


class Work(Protocol):
    """Where a task's image comes from and where its outcome goes: the ledger, or the reanalyses."""

    def claim(self, receipt_id: int, now: dt.datetime) -> Claim | None:
        """Take an image in hand, if it is to be had."""
        ...

    def postpone(self, receipt_id: int, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put it back until later."""
        ...

    def put_back(self, receipt_id: int, now: dt.datetime) -> None:
        """Put it back as it was."""
        ...

    def leave_out(
        self, receipt_id: int, reason: str, now: dt.datetime, *, out_of_distribution: NewFinding | None = None
    ) -> None:
        """Enter that it is not analysed, and the finding that does not count where it is out of distribution."""
        ...

    def fail(self, receipt_id: int, reason: str, now: dt.datetime) -> None:
        """Enter that it cannot be analysed."""
        ...

    def answer(
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
    work
        New images are the ledger's own work, and the default.
    models
        Lends the reader of the current model.
    delivered
        Called when a receipt has results for the outbox.
    shadow
        A candidate that looks at each analysed image too.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        blobs: Blobs,
        models: Serving | Reader,
        delivered: Callable[[], None],
        shadow: Shadow | None = None,
        work: Work | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._tasks: Work = work or ledger
        self._blobs = blobs
        self._models = models
        self._shadow = shadow
        self._rules = rules_of(settings)
        self._delivered = delivered

    def process(self, receipt_id: int) -> None:
        """Take a receipt through to its end, or put it back to be tried again."""
        claim = self._tasks.claim(receipt_id, now())
        if claim is None:
            return
        begun = time.monotonic()
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
        log.info("processed", receipt=claim.id, state=state, ms=round(1000 * (time.monotonic() - begun)))

    def _work(self, claim: Claim) -> str:
        dataset = read_dataset(self._blobs.path(claim.sha256))
        verdict = judge(dataset, self._rules)
        reason = "own output" if self._ledger.is_result(claim.sop_instance_uid) else verdict.reason
        # A second look that is left out needs no report: the first answer stands.
        told = verdict.radiograph and self._settings.results.report_not_analysed and not claim.model_sha256
        if reason == "own output" or not (verdict.analyse or told):
            self._tasks.leave_out(claim.id, reason, now())
            return _LEFT_OUT
        source = source_image(dataset)
        with self._models.lease() as reader:
            if not verdict.analyse:
                return self._report(claim, source, reason, reader.identity)
            if claim.model_sha256 not in ("", reader.identity.digest):  # exchanged since it was found to be due
                self._tasks.put_back(claim.id, now())
                return "put back: another model serves"
            return self._analyse(claim, dataset, source, reader)

    def _report(
        self,
        claim: Claim,
        source: SourceImage,
        reason: str,
        identity: ModelIdentity,
        stopped: NewFinding | None = None,
    ) -> str:
        """Enter that a radiograph is not analysed, with the report that says so."""
        made = not_analysed(source, reason, identity, self._settings.results, claim.dated_at.astimezone())
        names = destinations_for(claim.calling_ae, self._settings.destinations)
        results = self._keep(made, names)
        self._ledger.leave_out(
            claim.id, reason, now(), results=results, left_out=made.left_out, out_of_distribution=stopped
        )
        if names:
            self._delivered()
        return _LEFT_OUT

    def _keep(self, made: ResultSet, names: Sequence[str]) -> list[NewResult]:
        """Make result objects durable, and return them as the ledger takes them."""
        self._blobs.check_space(sum(len(result.data) for result in made.results))
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
            for result in made.results
        ]

    def _analyse(self, claim: Claim, dataset: Dataset, source: SourceImage, reader: Reader) -> str:
        # The time of receipt or of the wish, so that the same work always gives the same bytes; in the site's zone.
        created = claim.dated_at.astimezone()
        reading = reader.read(dataset)
        analysed_at = now()
        if reading.finding.out_of_distribution and self._settings.model.out_of_distribution == "skip":
            stopped, reason = new_finding(reading, reader.identity, analysed_at), outside(reading.finding)
            if self._settings.results.report_not_analysed and not claim.model_sha256:
                return self._report(claim, source, reason, reader.identity, stopped)
            self._tasks.leave_out(claim.id, reason, now(), out_of_distribution=stopped)
            return _LEFT_OUT
        before = {
            name: self._ledger.previous_answer(claim.id, reader.identity.digest, kind.sop_class)
            for name, kind in KINDS.items()
            if kind.names_predecessor and (kind is REPORT or name in self._settings.results.kinds)
        }
        earlier = before[REPORT.name]
        predecessors = {kind: each.report for kind, each in before.items() if each and each.report}
        made = make(source, reading, reader.identity, self._settings.results, created, predecessors)
        names = destinations_for(claim.calling_ae, self._settings.destinations)
        entries = self._keep(made, names)
        left_out = dict(made.left_out)
        notifications: list[NewNotification] = []
        if is_news(reading.finding, earlier):
            positive = PositiveFinding(
                source=source,
                finding=reading.finding,
                identity=reader.identity,
                results=tuple(entry.sop_instance_uid for entry in entries),
                earlier_decision=earlier.decision if earlier else None,
                created=created,
                sender=self._settings.scp.ae_title,
            )
            notifications = self._notify(positive, names, left_out)
        self._tasks.answer(
            claim.id,
            new_finding(reading, reader.identity, analysed_at),
            entries,
            now(),
            notifications=notifications,
            left_out=left_out,
        )
        if self._shadow:
            self._shadow.offer(claim.id, reading.image)
        if names:
            self._delivered()
        return "analysed"

    def _notify(
        self, positive: PositiveFinding, names: Sequence[str], left_out: dict[str, str]
    ) -> list[NewNotification]:
        """Make notifications durable, and return them as the ledger takes them; what cannot be made is left out."""
        destinations = self._settings.destinations
        notifications, faults = make_notifications(positive, notification_kinds(destinations))
        for kind, reason in faults.items():
            left_out[kind] = reason
            log.warning("result_left_out", kind=kind, reason=reason)
        return [
            NewNotification(
                kind=each.kind,
                uid=each.uid,
                sha256=self._blobs.put(each.body, each.suffix),
                size_bytes=len(each.body),
                destinations=takers(each.kind, names, destinations),
            )
            for each in notifications
        ]

    def _postpone(self, claim: Claim, reason: str) -> None:
        wait = backoff(claim.attempts, first=5.0, most=300.0, jitter=random.random())
        self._tasks.postpone(claim.id, reason, now(), now() + dt.timedelta(seconds=wait))

    def _unforeseen(self, claim: Claim, reason: str) -> str:
        if claim.attempts >= self._settings.worker.max_attempts:
            self._tasks.fail(claim.id, reason, now())
            return f"failed: {reason}"
        self._postpone(claim, reason)
        return f"postponed: {reason}"
