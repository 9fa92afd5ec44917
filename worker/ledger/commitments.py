"""Storage commitment in the ledger: what a node was asked to commit to, under which transaction, and what it said.

The couriers' process asks, and the report may come to the receiver's, hours later: the rows connect them (PS3.4 J).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from dicom_io.network.commitment_messages import FailureReason, Reference, Report, failure_words
from worker.ledger import event_chain
from worker.ledger.deliveries import RESENDS, losses_of, origin_of
from worker.ledger.receipts import Ledger, in_batches
from worker.ledger.records import DueCommitment
from worker.ledger.tables import CommitmentRow, DeliveryRow, DeliveryState, ReceiptRow, ResultRow
from worker.queue.claim import LeaseLost, Queue, put
from worker.queue.task import Kind
from worker.queue.task_row import TaskRow

NO_REPORT = "asked to commit; no report yet"
"""Why the task of a delivery waits that its destination was asked about."""


@dataclass
class ReportOutcome:
    """What a report has changed: how many deliveries, by what became of them, and why those that were not committed."""

    destination: str = ""
    committed: int = 0
    sent_again: int = 0
    failed: int = 0
    uncommitted: int = 0
    reasons: set[str] = field(default_factory=set)


class Commitments:
    """Asking for commitment, and entering what a node says; each method is one transaction, unless it says otherwise.

    A delivery has a task of the kind COMMIT exactly as long as it is *sent* and an answer may still come of asking.
    """

    def __init__(self, ledger: Ledger, queue: Queue | None = None) -> None:
        self._ledger = ledger
        self._queue = queue or Queue(ledger)

    # ---- asking ------------------------------------------------------------------------------------------------------

    def has_due(self, destination: str, now: dt.datetime) -> bool:
        """Return whether a destination is to be asked now."""
        return self._queue.has_due([Kind.COMMIT], now, target=destination)

    def claim(self, destination: str, now: dt.datetime, limit: int) -> list[DueCommitment]:
        """Take deliveries that a destination is to be asked about now in hand."""
        tasks = self._queue.claim([Kind.COMMIT], now, target=destination, limit=limit, among="any")
        uid = DeliveryRow.sent_as, ResultRow.sop_instance_uid
        query = select(DeliveryRow.id, ResultRow.receipt_id, ResultRow.sop_class_uid, *uid)
        query = query.join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        try:
            with self._ledger.reading() as connection:
                rows = connection.execute(query.where(DeliveryRow.id.in_([task.subject for task in tasks]))).all()
        except BaseException:  # nobody hears of these tasks: their leases must run out
            self._forget(tasks)
            raise
        facts = {row[0]: (row[1], row[2], row[3] or row[4]) for row in rows}
        return [DueCommitment(task, *facts[task.subject]) for task in tasks]

    def enter_request(self, transaction_uid: str, due: Sequence[DueCommitment], now: dt.datetime) -> None:
        """Enter that a node is about to be asked: its report may be here before its answer is."""
        values = [
            {
                "transaction_uid": transaction_uid,
                "delivery_id": each.delivery_id,
                "destination": each.task.target,
                "sop_class_uid": each.sop_class_uid,
                "sop_instance_uid": each.sop_instance_uid,
                "asked_at": now,
            }
            for each in due
        ]
        with self._ledger.writing() as connection:
            connection.execute(insert(CommitmentRow), values)

    def mark_asked(
        self, transaction_uid: str, due: Sequence[DueCommitment], now: dt.datetime, until: dt.datetime, reason: str = ""
    ) -> None:
        """Enter that a node was asked, and when it is asked again if no report comes.

        What its report has settled meanwhile stays settled.

        Parameters
        ----------
        reason
            Why it did not take the request; empty where it did.
        """
        tasks = [each.task for each in due]
        with self._ledger.writing() as connection:
            self._queue.postpone_all(connection, tasks, until, reason or NO_REPORT)
            facts = {"destination": tasks[0].target, "transaction": transaction_uid, "deliveries": len(due)}
            facts |= {"error": reason} if reason else {}
            event_chain.append(connection, "commitment_requested", now, None, **facts)
        self._forget(tasks)

    def hand_back(self, transaction_uid: str, due: Sequence[DueCommitment], reason: str = "") -> None:
        """Put tasks back as they were: the node did not hear of them, and the transaction never was."""
        with self._ledger.writing() as connection:
            same = (CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.answered_at.is_(None))
            connection.execute(delete(CommitmentRow).where(*same))
            for each in due:
                self._queue.hand_back(connection, each.task, reason)
        self._forget([each.task for each in due])

    def give_up(self, due: DueCommitment, reason: str, now: dt.datetime) -> bool:
        """Enter that a node will not be asked about a delivery again: it stays *sent*. Return whether it was ours."""
        try:
            with self._ledger.writing() as connection:
                # First the delivery, then its task, as a report does: else each may wait for the other.
                row = select(DeliveryRow.id).where(DeliveryRow.id == due.delivery_id)
                connection.execute(row.with_for_update()).all()
                self._queue.finish(connection, due.task)
                self._leave_sent(connection, due.delivery_id, due.receipt_id, reason, now)
        except LeaseLost:
            return False
        self._queue.forget(due.task)
        return True

    def withdraw(self, destination: str) -> int:
        """Ask a destination about nothing that waits: what was sent stays *sent*; return how many deliveries.

        What it was asked about and has not answered, it need not commit to any more.
        """
        every = (TaskRow.kind == Kind.COMMIT, TaskRow.target == destination)
        unanswered = (CommitmentRow.destination == destination, CommitmentRow.answered_at.is_(None))
        with self._ledger.writing() as connection:
            count = int(connection.execute(delete(TaskRow).where(*every)).rowcount)
            connection.execute(delete(CommitmentRow).where(*unanswered))
        self.let_run_out(destination)
        return count

    def never_asked_since(self, destination: str) -> dt.datetime | None:
        """Return since when the oldest delivery waits that a destination could not be asked about yet."""
        waits = (TaskRow.kind == Kind.COMMIT, TaskRow.target == destination, TaskRow.attempts == 0)
        with self._ledger.reading() as connection:
            return connection.scalar(select(func.min(TaskRow.created_at)).where(*waits))

    def let_run_out(self, destination: str) -> None:
        """Let the leases run out of what an error has left in hand: there is one committer for each destination."""
        self._forget([task for task in self._queue.in_hand() if (task.kind, task.target) == (Kind.COMMIT, destination)])

    def enter_not_offered(self, destination: str, reason: str, now: dt.datetime) -> None:
        """Enter that a destination does not offer storage commitment."""
        self._ledger.record_event("commitment_not_offered", now, {"destination": destination, "reason": reason})

    def _forget(self, tasks: Collection[Any]) -> None:
        for task in tasks:
            self._queue.forget(task)

    # ---- what a node says --------------------------------------------------------------------------------------------

    def enter_report(self, report: Report, now: dt.datetime) -> ReportOutcome | None:
        """Enter a report, some deliveries at a time; return what it changed, None where it is on nothing of ours.

        It counts whoever asked, however often it comes, and also where the node has been asked again meanwhile. Broken
        off, the rest can be entered by the same report once more.
        """
        statements: dict[Reference, int | None] = dict.fromkeys(report.committed)
        statements |= {each.reference: each.reason for each in report.failed}
        of_transaction = CommitmentRow.transaction_uid == report.transaction_uid
        query = select(CommitmentRow.delivery_id, CommitmentRow.destination).where(of_transaction)
        with self._ledger.reading() as connection:
            rows = connection.execute(query.order_by(CommitmentRow.delivery_id)).all()
        if not rows:
            return None
        outcome = ReportOutcome(rows[0].destination)
        for some in in_batches(rows):
            with self._ledger.writing() as connection:
                for row in _unanswered(connection, report.transaction_uid, [each.delivery_id for each in some]):
                    reference = Reference(row.sop_class_uid, row.sop_instance_uid)
                    if reference in statements:
                        self._enter_answer(connection, row, statements[reference], report, now, outcome)
        return outcome

    def _enter_answer(
        self,
        connection: Connection,
        row: Any,
        reason: int | None,
        report: Report,
        now: dt.datetime,
        outcome: ReportOutcome,
    ) -> None:
        """Enter what a node says of one delivery; it changes nothing about one that is not *sent* any more."""
        counts = row.state == DeliveryState.SENT
        answer = update(CommitmentRow).where(CommitmentRow.id == row.id)
        connection.execute(answer.values(answered_at=now, reason=reason if counts else None))
        delivery_id, receipt_id = row.delivery_id, row.receipt_id
        if not counts:
            self._enter_event(connection, row, report, now)
            return
        if reason is None:
            outcome.committed += 1
            _end(connection, delivery_id, state=DeliveryState.COMMITTED, committed_at=now, error="")
            facts = {"delivery": delivery_id, "transaction": report.transaction_uid, "by": report.sender}
            event_chain.append(connection, "committed", now, receipt_id, **facts)
            return
        words = failure_words(reason)
        outcome.reasons.add(words)
        if reason == FailureReason.NO_SUCH_INSTANCE and losses_of(connection, delivery_id) <= RESENDS:
            outcome.sent_again += 1
            _send_again(connection, delivery_id, words, report, now)
        elif reason in (FailureReason.NO_SUCH_INSTANCE, FailureReason.CLASS_CONFLICT):
            outcome.failed += 1
            _end(connection, delivery_id, state=DeliveryState.FAILED, error=_not_kept(words))
            facts = {"delivery": delivery_id, "error": _not_kept(words)}
            event_chain.append(connection, "delivery_failed", now, receipt_id, **facts)
        elif reason == FailureReason.CLASS_NOT_SUPPORTED:
            outcome.uncommitted += 1
            self._leave_sent(connection, delivery_id, receipt_id, words, now)
        else:  # it may pass: the node is asked again when the task is due
            outcome.uncommitted += 1
            task = (TaskRow.kind == Kind.COMMIT, TaskRow.subject == delivery_id)
            connection.execute(update(TaskRow).where(*task).values(reason=words))
            self._enter_event(connection, row, report, now, error=words)

    @staticmethod
    def _enter_event(connection: Connection, row: Any, report: Report, now: dt.datetime, **more: str) -> None:
        """Enter that a node has answered, and that it changed nothing."""
        facts = {"delivery": row.delivery_id, "transaction": report.transaction_uid, **more}
        event_chain.append(connection, "commitment_answered", now, row.receipt_id, **facts)

    @staticmethod
    def _leave_sent(connection: Connection, delivery_id: int, receipt_id: int, reason: str, now: dt.datetime) -> None:
        words = f"not committed: {reason}"
        _end(connection, delivery_id, error=words)
        event_chain.append(connection, "commitment_given_up", now, receipt_id, delivery=delivery_id, error=words)

    # ---- what we keep ourselves --------------------------------------------------------------------------------------

    def received(self, uids: Sequence[str]) -> Mapping[str, list[tuple[str, str, int]]]:
        """Return of those of these SOP instances that were received: SOP class, SHA-256 and size of each kept file.

        There are several where versions of it were received; the newest is the last.
        """
        columns = (
            ReceiptRow.sop_instance_uid, ReceiptRow.sop_class_uid, ReceiptRow.sha256, ReceiptRow.size_bytes
        )  # fmt: skip
        rows: dict[str, list[tuple[str, str, int]]] = {}
        with self._ledger.reading() as connection:
            for start in range(0, len(uids), 500):
                some = ReceiptRow.sop_instance_uid.in_(list(uids[start : start + 500])), ReceiptRow.deleted_at.is_(None)
                query = select(*columns).where(*some).order_by(ReceiptRow.version)
                for uid, sop_class_uid, sha256, size in connection.execute(query):
                    rows.setdefault(uid, []).append((sop_class_uid, sha256, size))
        return rows


def _unanswered(connection: Connection, transaction_uid: str, numbers: Sequence[int]) -> Sequence[Any]:
    """Return what a node has not answered yet of these deliveries of a transaction; the rows are ours alone.

    First the deliveries, then their tasks, each in the order of their numbers, as everywhere: else two transactions may
    wait for each other.
    """
    query = (
        select(
            CommitmentRow.id,
            CommitmentRow.delivery_id,
            CommitmentRow.sop_class_uid,
            CommitmentRow.sop_instance_uid,
            DeliveryRow.state,
            ResultRow.receipt_id,
        )
        .join(DeliveryRow, DeliveryRow.id == CommitmentRow.delivery_id)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.answered_at.is_(None))
        .where(CommitmentRow.delivery_id.in_(list(numbers)))
        .order_by(DeliveryRow.id)
        .with_for_update(of=(CommitmentRow, DeliveryRow))
    )
    rows = connection.execute(query).all()
    tasks = select(TaskRow.id).where(TaskRow.kind == Kind.COMMIT, TaskRow.subject.in_(list(numbers)))
    connection.execute(tasks.order_by(TaskRow.id).with_for_update())
    return rows


def _end(connection: Connection, delivery_id: int, **values: Any) -> None:
    """Enter what became of a delivery, and ask about it no more, whoever has that in hand."""
    connection.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(**values))
    connection.execute(delete(TaskRow).where(TaskRow.kind == Kind.COMMIT, TaskRow.subject == delivery_id))


def _send_again(connection: Connection, delivery_id: int, words: str, report: Report, now: dt.datetime) -> None:
    _end(connection, delivery_id, state=DeliveryState.PENDING, error=_not_kept(words))
    receipt_id, priority, store = origin_of(connection, delivery_id)
    target = connection.scalar(select(DeliveryRow.destination).where(DeliveryRow.id == delivery_id)) or ""
    put(connection, Kind.DELIVER, delivery_id, now, target=target, priority=priority, store=store)
    facts = {"delivery": delivery_id, "transaction": report.transaction_uid, "error": _not_kept(words)}
    event_chain.append(connection, "commitment_failed", now, receipt_id, **facts)


def _not_kept(words: str) -> str:
    return f"it was taken, but is not committed: {words}"
