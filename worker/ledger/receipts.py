"""The ledger: receipts, their answers, and the work that is still to be done. It is the truth after a crash."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, true, update

from worker.clock import now as clock
from worker.database.transactions import Database
from worker.ledger import event_chain, findings, versions
from worker.ledger.records import Claim, NewFinding, NewNotification, NewReceipt, NewResult, PreviousFinding
from worker.ledger.tables import UNFINISHED, DeliveryRow, ReceiptRow, ResultRow, State
from worker.queue.claim import Queue, put
from worker.queue.task import Kind, Task

BATCH_SIZE = 100
"""Rows in one transaction: a sender that waits for the database must not wait long."""
PAUSE = 0.02
"""Seconds between two such transactions."""
Row = TypeVar("Row")


def in_batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield as many rows as go into one transaction, and pause before the next: new images arrive meanwhile."""
    for start in range(0, len(rows), BATCH_SIZE):
        if start:
            time.sleep(PAUSE)
        yield rows[start : start + BATCH_SIZE]


def lock_receipts(connection: Connection, receipt_ids: Iterable[int]) -> None:
    """Keep others from deleting these receipts' files, or having them sent again, until the transaction ends.

    Events about them can be entered meanwhile: who enters one has the chain's turn, which we may want ourselves.
    """
    rows = select(ReceiptRow.id).where(ReceiptRow.id.in_(list(receipt_ids))).order_by(ReceiptRow.id)
    connection.execute(rows.with_for_update(key_share=True)).all()


class Ledger(Database):
    """Received objects: entering them, and asking about them. Every method is one transaction."""

    def receive(self, new: NewReceipt, *, one_version: bool = False) -> int | None:
        """Enter a received object and the task of its analysis; None where the same content was received before.

        Another content under a UID that was received before becomes its next version.

        Raises
        ------
        OtherContent
            It would, and there is to be `one_version` only.
        FileDeleted
            It is the same content, whose file was deleted: the file must be placed, and entered by `restore`.
        """
        facts: dict[str, Any] = _facts(new)
        with self.writing() as connection:
            versions.take_turn(connection, new.sop_instance_uid)
            before = versions.of_instance(connection, new.sop_instance_uid)
            for each in before:
                if each.holds(new):
                    if each.deleted_at is not None:
                        raise versions.FileDeleted(each.receipt_id)
                    facts |= {"same_bytes": each.sha256 == new.sha256}
                    event_chain.append(connection, "received_again", new.received_at, each.receipt_id, **facts)
                    return None
            if before and one_version:
                raise versions.OtherContent
            number = 1 + before[-1].number if before else 1
            row = insert(ReceiptRow).values(**asdict(new), version=number)
            receipt_id = int(connection.execute(row.returning(ReceiptRow.id)).scalar_one())
            put(connection, Kind.ANALYSE, receipt_id, new.received_at, priority=new.priority, store=new.store)
            facts |= {"version": number, "replaces": before[-1].receipt_id} if before else {}
            event_chain.append(connection, "received", new.received_at, receipt_id, **facts)
            return receipt_id

    def restore(self, receipt_id: int, new: NewReceipt, why: str) -> None:
        """Enter that an image's file, which was deleted or lost, is in the store again; its answers stay.

        One that had failed is given to the workers once more.

        Parameters
        ----------
        why
            For the audit: ``deleted`` or ``lost``.
        """
        values = {"sha256": new.sha256, "size_bytes": new.size_bytes, "store": new.store, "deleted_at": None}
        with self.writing() as connection:
            row = update(ReceiptRow).where(ReceiptRow.id == receipt_id)
            row = row.values(**values, content_sha256=new.content_sha256, restored_at=new.received_at)
            connection.execute(row)
            event_chain.append(connection, "restored", new.received_at, receipt_id, why=why, **_facts(new))
            _give_back(connection, receipt_id, new.received_at)

    def versions_of(self, sop_instance_uid: str) -> Sequence[versions.Version]:
        """Return what was received under a SOP Instance UID, the first version first."""
        with self.reading() as connection:
            return versions.of_instance(connection, sop_instance_uid)

    def note_content(self, receipt_id: int, content_sha256: str) -> None:
        """Enter the digest of a data set that an earlier version of cxrd received."""
        with self.writing() as connection:
            row = update(ReceiptRow).where(ReceiptRow.id == receipt_id)
            connection.execute(row.values(content_sha256=content_sha256))
            event_chain.append(connection, "content_noted", clock(), receipt_id, content_sha256=content_sha256)

    def later_answer(self, receipt_id: int) -> int | None:
        """Return the number of a later version of an image that was answered already; None where there is none."""
        with self.reading() as connection:
            return versions.later_answer(connection, receipt_id)

    def has_earlier_in_hand(self, receipt_id: int, now: dt.datetime) -> bool:
        """Return whether a worker has an earlier version of an image in hand now."""
        with self.reading() as connection:
            numbers = [number for number, _ in versions.earlier(connection, receipt_id)]
            return versions.in_hand(connection, numbers, now)

    def record_event(self, kind: str, now: dt.datetime, facts: Mapping[str, Any]) -> None:
        """Enter an event that belongs to no receipt."""
        with self.writing() as connection:
            event_chain.append(connection, kind, now, None, **facts)

    def has_received(self, sop_instance_uid: str) -> bool:
        """Return whether a SOP instance has been received."""
        with self.reading() as connection:
            query = select(ReceiptRow.id).where(ReceiptRow.sop_instance_uid == sop_instance_uid)
            return connection.execute(query).first() is not None

    def is_result(self, sop_instance_uid: str) -> bool:
        """Return whether a SOP instance is one that we produced ourselves."""
        with self.reading() as connection:
            query = select(ResultRow.id).where(ResultRow.sop_instance_uid == sop_instance_uid)
            return connection.execute(query).first() is not None

    def previous_finding(self, receipt_id: int, model_sha256: str, report_class: str) -> PreviousFinding | None:
        """Return what other models answered before this one, or what an earlier version of the image was answered.

        None where neither was. See `findings.previous_finding`.
        """
        with self.reading() as connection:
            own = findings.previous_finding(connection, receipt_id, model_sha256, report_class)
            if own is not None and own.answer is not None:
                return own
            for number, replaced in versions.earlier(connection, receipt_id):
                before = findings.previous_finding(connection, number, "", report_class)
                if before is not None:
                    report = own.report if own else before.report
                    return PreviousFinding(before.answer, report, replaced)
            return own

    def holds_patient_keys(self) -> bool:
        """Return whether a patient stands in the audit under a hashed key, which has 64 digits."""
        with self.reading() as connection:
            query = select(ReceiptRow.id).where(func.length(ReceiptRow.patient_key) == 64).limit(1)
            return connection.scalar(query) is not None

    def is_in_use(self) -> bool:
        """Return whether anything was ever received."""
        with self.reading() as connection:
            return connection.scalar(select(ReceiptRow.id).limit(1)) is not None

    def requeue(self, receipt_ids: Iterable[int], now: dt.datetime) -> int:
        """Give failed objects to the workers once more; return how many. Some at a time, with a breath in between."""
        count = 0
        for some in in_batches(list(receipt_ids)):
            with self.writing() as connection:
                count += sum(_give_back(connection, receipt_id, now) for receipt_id in some)
        return count

    def states(self, receipt_ids: Iterable[int]) -> dict[int, str]:
        """Return the state of each of these receipts that exists."""
        query = select(ReceiptRow.id, ReceiptRow.state).where(ReceiptRow.id.in_(list(receipt_ids)))
        with self.reading() as connection:
            return {int(number): str(state) for number, state in connection.execute(query)}

    def deleted(self, receipt_ids: Iterable[int]) -> dict[int, dt.datetime]:
        """Return when the files of those of these receipts were deleted whose files were."""
        query = select(ReceiptRow.id, ReceiptRow.deleted_at).where(ReceiptRow.id.in_(list(receipt_ids)))
        with self.reading() as connection:
            rows = connection.execute(query.where(ReceiptRow.deleted_at.is_not(None)))
            return {int(number): at for number, at in rows if at is not None}

    def counts(self) -> dict[str, int]:
        """Return how many objects, and how many deliveries, stand in each state: all there ever were are counted."""
        return self._counts(true(), true())

    def unfinished(self) -> dict[str, int]:
        """Return how many objects and deliveries wait or have failed, by state; of those that did not, nothing."""
        return self._counts(ReceiptRow.state.in_([State.RECEIVED, State.FAILED]), UNFINISHED)

    def _counts(self, images: Any, deliveries: Any) -> dict[str, int]:
        states = select(ReceiptRow.state, func.count()).where(images).group_by(ReceiptRow.state)
        sent = select(DeliveryRow.state, func.count()).where(deliveries).group_by(DeliveryRow.state)
        with self.reading() as connection:
            counts = {str(state): int(n) for state, n in connection.execute(states)}
            return counts | {f"delivery_{state}": int(n) for state, n in connection.execute(sent)}


def _facts(new: NewReceipt) -> dict[str, Any]:
    return {"sop_instance_uid": new.sop_instance_uid, "sha256": new.sha256, "calling_ae": new.calling_ae}


def _give_back(connection: Connection, receipt_id: int, now: dt.datetime) -> bool:
    """Give an object that has failed to the workers once more; return whether it was one, and its file is kept."""
    row = update(ReceiptRow).where(ReceiptRow.id == receipt_id, ReceiptRow.state == State.FAILED)
    row = row.where(ReceiptRow.deleted_at.is_(None)).values(state=State.RECEIVED, attempts=0, reason="")
    back = connection.execute(row.returning(ReceiptRow.priority, ReceiptRow.store)).one_or_none()
    if back is None:
        return False
    put(connection, Kind.ANALYSE, receipt_id, now, priority=back.priority, store=back.store)
    event_chain.append(connection, "requeued", now, receipt_id)
    return True


def _require_latest(connection: Connection, claim: Claim, results: Sequence[NewResult]) -> None:
    """Raise `AnsweredLater` where there are results that may not go out any more."""
    if results:
        versions.require_latest(connection, claim.id, claim.sop_instance_uid)


class Receipts:
    """Analyses: the tasks of received objects, and their outcomes.

    Each outcome is one transaction, and is entered only where the task is still ours (`worker.queue.claim.LeaseLost`).
    """

    def __init__(self, ledger: Ledger, queue: Queue) -> None:
        self._ledger = ledger
        self._queue = queue

    def load(self, task: Task) -> Claim:
        """Return what a worker needs to know of the object of a task."""
        query = select(ReceiptRow.sop_instance_uid, ReceiptRow.calling_ae, ReceiptRow.sha256, ReceiptRow.received_at)
        with self._ledger.reading() as connection:
            row = connection.execute(query.where(ReceiptRow.id == task.subject)).one()
            return Claim(task, *row, version=versions.version_of(connection, task.subject))

    def postpone(self, claim: Claim, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put an object back, to be tried again at `until`."""
        with self._ledger.writing() as connection:
            self._queue.postpone(connection, claim.task, until, reason)
            event_chain.append(connection, "postponed", now, claim.id, reason=reason)
        self._queue.forget(claim.task)

    def hand_back(self, claim: Claim, reason: str) -> None:
        """Put an object back as it was, since the fault is not its own; that leaves no event."""
        with self._ledger.writing() as connection:
            self._queue.hand_back(connection, claim.task, reason)
        self._queue.forget(claim.task)

    def leave_out(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
        outside: NewFinding | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter the decision not to analyse an object.

        Parameters
        ----------
        results, left_out
            The report that says so, where there is one; see `record_finding`.
        outside
            The finding that does not count, where the image is not one that the model was made for.
        remarks
            What was read otherwise than the header says it.

        Raises
        ------
        AnsweredLater
            A later version was answered meanwhile, and so no report may go out; nothing is entered.
        """
        facts = findings.result_facts(results, left_out or {}) if results or left_out else {}
        facts |= findings.outside_facts(outside) | findings.remark_facts(remarks)
        with self._ledger.writing() as connection:
            _require_latest(connection, claim, results)
            self._finish(connection, claim, State.NOT_ANALYSED, now, reason, facts)
            findings.record_outside(connection, claim.id, outside, now)
            findings.record_results(connection, claim.id, None, results, now, priority=claim.task.priority)
        self._queue.forget(claim.task)

    def fail(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Enter that an object could not be analysed, with the report that says so where there is one.

        Raises
        ------
        AnsweredLater
            As `leave_out`.
        """
        facts = findings.result_facts(results, left_out or {}) if results or left_out else {}
        with self._ledger.writing() as connection:
            _require_latest(connection, claim, results)
            self._finish(connection, claim, State.FAILED, now, reason, facts)
            findings.record_results(connection, claim.id, None, results, now, priority=claim.task.priority)
        self._queue.forget(claim.task)

    def record_finding(
        self,
        claim: Claim,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification] = (),
        left_out: Mapping[str, str] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter a finding, its results and notifications, and a delivery of each to each of its destinations.

        Parameters
        ----------
        left_out
            The kinds of result that could not be made, and why.
        remarks
            What was read otherwise than the header says it.

        Raises
        ------
        AnsweredLater
            A later version was answered while this one was in hand; nothing is entered.
        """
        facts = findings.finding_facts(finding) | findings.result_facts(results, left_out or {}, notifications)
        facts |= findings.remark_facts(remarks)
        with self._ledger.writing() as connection:
            versions.require_latest(connection, claim.id, claim.sop_instance_uid)
            self._finish(connection, claim, State.ANALYSED, now, "", facts)
            findings.record_finding(
                connection, claim.id, finding, results, now, notifications=notifications, priority=claim.task.priority
            )
        self._queue.forget(claim.task)

    def _finish(
        self,
        connection: Connection,
        claim: Claim,
        state: State,
        now: dt.datetime,
        reason: str,
        facts: Mapping[str, Any],
    ) -> None:
        task = claim.task
        self._queue.finish(connection, task)
        values = {"state": state, "reason": reason, "attempts": task.attempts, "started_at": task.claimed_at}
        row = update(ReceiptRow).where(ReceiptRow.id == claim.id)
        connection.execute(row.values(**values, finished_at=now))
        event_chain.append(connection, state.value, now, claim.id, reason=reason, **facts)
