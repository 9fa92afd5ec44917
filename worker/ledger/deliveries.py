"""The outbox's rows: which results are due where, and what became of each attempt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, delete, func, or_, select, update

from worker.database.columns import unindexed
from worker.ledger import event_chain, versions
from worker.ledger.receipts import Ledger, in_batches, lock_receipts
from worker.ledger.records import DueDelivery
from worker.ledger.tables import UNFINISHED, CommitmentRow, DeliveryRow, DeliveryState, ReceiptRow, ResultRow
from worker.queue.claim import Queue, make_due, put
from worker.queue.task import Kind, TaskState
from worker.queue.task_row import TaskRow

LOST = 0x0112
"""The Failure Reason of a destination that does not have an instance (PS3.3 C.14.1.1)."""
RESENDS = 3
"""How often a result is sent again because its destination says that it does not have it; then it has failed."""
LATER = 5
"""How many times as long a destination has after each time that it had lost a result."""


REPLACED = "replaced: a later version of the image was answered before this was sent"
"""Why a delivery is withdrawn."""


class Deliveries:
    """Claiming and settling of deliveries; each method is one transaction, unless it says otherwise.

    An outcome is entered only where the task is still ours (`worker.queue.claim.LeaseLost`).
    """

    def __init__(self, ledger: Ledger, queue: Queue | None = None) -> None:
        self._ledger = ledger
        self._queue = queue or Queue(ledger)

    def read_from(self, store: str) -> None:
        """Take in hand from now on only what lies in this store."""
        self._queue.store = store

    def claim(
        self, destination: str, now: dt.datetime, limit: int, *, least_tried_first: bool = False
    ) -> list[DueDelivery]:
        """Take what is to be sent to a destination now in hand: by priority, then oldest first."""
        tasks = self._queue.claim(
            [Kind.DELIVER], now, target=destination, limit=limit, among="any", least_tried_first=least_tried_first
        )
        if not tasks:
            return []
        columns = (ResultRow.receipt_id, ResultRow.sop_class_uid, ResultRow.sop_instance_uid, ResultRow.sha256)
        numbers = [task.subject for task in tasks]
        query = _of_deliveries(numbers, DeliveryRow.id, *columns, versions.has_newer_answer())
        try:
            with self._ledger.reading() as connection:
                rows = {row[0]: row[1:] for row in connection.execute(query)}
            return [DueDelivery(task, *rows[task.subject]) for task in tasks]
        except BaseException:  # nobody hears of these tasks: their leases must run out
            for task in tasks:
                self._queue.forget(task)
            raise

    def is_replaced(self, delivery: DueDelivery) -> bool:
        """Return whether a later version of its image was answered by now."""
        with self._ledger.reading() as connection:
            return connection.scalar(_of_deliveries([delivery.delivery_id], versions.has_newer_answer())) is True

    def withdraw(self, delivery: DueDelivery, now: dt.datetime) -> None:
        """Enter that a delivery is not made: what came last would be taken for what counts."""
        values = {"state": DeliveryState.WITHDRAWN, "error": REPLACED}
        with self._ledger.writing() as connection:
            self._queue.finish(connection, delivery.task)
            row = update(DeliveryRow).where(DeliveryRow.id == delivery.delivery_id)
            connection.execute(row.values(**values))
            facts = {"delivery": delivery.delivery_id, "error": REPLACED}
            event_chain.append(connection, "delivery_withdrawn", now, delivery.receipt_id, **facts)
        self._queue.forget(delivery.task)

    def let_run_out(self, deliveries: Iterable[DueDelivery]) -> None:
        """Let the leases of what an error has left in hand run out."""
        for each in deliveries:
            self._queue.forget(each.task)

    def has_due(self, destination: str, now: dt.datetime, *, beyond: int = 0) -> bool:
        """Return whether more than so many results are to be sent to a destination now, or in hand."""
        return self._queue.has_due([Kind.DELIVER], now, target=destination, beyond=beyond)

    def mark_sent(
        self,
        delivery: DueDelivery,
        status: int,
        now: dt.datetime,
        sent_as: str = "",
        remark: str = "",
        *,
        commit_after: dt.timedelta | None = None,
    ) -> None:
        """Enter that the destination has taken a result (success, or stored with a warning).

        Parameters
        ----------
        sent_as
            The SOP Instance UID of the lossy copy that went in its place.
        remark
            What the event says beside the status.
        commit_after
            How long after this the destination is to be asked to commit to keeping it; None where it is not. Each time
            that it had lost the result, `LATER` times as long: some archives file what they took only later.
        """
        values = {"state": DeliveryState.SENT, "status": status, "error": "", "delivered_at": now, "sent_as": sent_as}
        more = {name: value for name, value in (("sent_as", sent_as), ("remark", remark)) if value}
        with self._ledger.writing() as connection:
            self._queue.finish(connection, delivery.task)
            self._settle(connection, delivery, "delivered", now, values, **more)
            if commit_after is not None:
                losses = min(RESENDS, losses_of(connection, delivery.delivery_id))
                due, task = now + commit_after * LATER**losses, delivery.task
                put(connection, Kind.COMMIT, task.subject, due, target=task.target, priority=task.priority)
        self._queue.forget(delivery.task)

    def postpone(
        self, delivery: DueDelivery, status: int | None, error: str, now: dt.datetime, until: dt.datetime
    ) -> None:
        """Enter that an attempt failed and when the next one is due."""
        with self._ledger.writing() as connection:
            self._queue.postpone(connection, delivery.task, until, error)
            self._settle(connection, delivery, "delivery_postponed", now, {"status": status, "error": error})
        self._queue.forget(delivery.task)

    def hand_back(self, deliveries: Collection[DueDelivery], error: str = "") -> None:
        """Put deliveries back as they were: nothing was tried, or what failed was not about them. That is no event."""
        with self._ledger.writing() as connection:
            for delivery in deliveries:
                self._queue.hand_back(connection, delivery.task, error)
            if error:
                numbers = [delivery.delivery_id for delivery in deliveries]
                connection.execute(update(DeliveryRow).where(DeliveryRow.id.in_(numbers)).values(error=error))
        for delivery in deliveries:
            self._queue.forget(delivery.task)

    def mark_failed(self, delivery: DueDelivery, status: int | None, error: str, now: dt.datetime) -> None:
        """Enter that a delivery has failed for good."""
        values = {"state": DeliveryState.FAILED, "status": status, "error": error}
        with self._ledger.writing() as connection:
            self._queue.finish(connection, delivery.task)
            self._settle(connection, delivery, "delivery_failed", now, values)
        self._queue.forget(delivery.task)

    def give_up(self, destination: str, before: dt.datetime, reason: str, now: dt.datetime) -> int:
        """Fail, some at a time, what has waited for a destination since before a time; return how many."""
        waiting = (
            TaskRow.kind == Kind.DELIVER,
            TaskRow.target == destination,
            unindexed(TaskRow.state) == TaskState.WAITING,  # by its destination: of all tasks most may wait
            TaskRow.created_at < before,
        )
        with self._ledger.reading() as connection:
            numbers = list(connection.scalars(select(TaskRow.subject).where(*waiting)))
        count = 0
        for some in in_batches(numbers):
            with self._ledger.writing() as connection:
                # First the deliveries, then their tasks, as `redeliver` does: else each may wait for the other.
                rows = select(DeliveryRow.id).where(DeliveryRow.id.in_(list(some))).order_by(DeliveryRow.id)
                connection.execute(rows.with_for_update())
                gone = delete(TaskRow).where(*waiting, TaskRow.subject.in_(list(some))).returning(TaskRow.subject)
                for number in list(connection.scalars(gone)):
                    row = update(DeliveryRow).where(DeliveryRow.id == number)
                    connection.execute(row.values(state=DeliveryState.FAILED, error=reason))
                    receipt_id, *_ = origin_of(connection, number)
                    event_chain.append(connection, "delivery_failed", now, receipt_id, delivery=number, error=reason)
                    count += 1
        return count

    def let_go(self, destination: str, now: dt.datetime) -> None:
        """Make all that waits for a destination due now: it is there again."""
        is_waiting = unindexed(TaskRow.state) == TaskState.WAITING
        waiting = (TaskRow.kind == Kind.DELIVER, TaskRow.target == destination, is_waiting)
        late = select(TaskRow.id).where(*waiting, TaskRow.due_at > now)
        with self._ledger.writing() as connection:
            # What somebody else is about to change is left to them: nobody waits here for a row, and nobody for us.
            numbers = list(connection.scalars(late.with_for_update(skip_locked=True)))
            connection.execute(update(TaskRow).where(TaskRow.id.in_(numbers)).values(due_at=now))

    def destination_event(self, kind: str, destination: str, now: dt.datetime, facts: Mapping[str, Any]) -> None:
        """Enter that a destination is down, or is there again."""
        self._ledger.record_event(kind, now, {"destination": destination, **facts})

    @staticmethod
    def _settle(
        connection: Connection, delivery: DueDelivery, kind: str, now: dt.datetime, values: dict[str, Any], **more: str
    ) -> None:
        row = update(DeliveryRow).where(DeliveryRow.id == delivery.delivery_id)
        connection.execute(row.values(attempts=DeliveryRow.attempts + 1, **values))
        facts = {"delivery": delivery.delivery_id, "status": values["status"], "error": values["error"], **more}
        event_chain.append(connection, kind, now, delivery.receipt_id, **facts)

    def redeliver(
        self,
        now: dt.datetime,
        *,
        destination: str | None = None,
        receipt_ids: Collection[int] = (),
        include_sent: bool = False,
    ) -> int:
        """Make failed deliveries pending once more; return how many.

        Some at a time, with a breath between two transactions: new images arrive meanwhile. Broken off, what was made
        pending stays so.

        Parameters
        ----------
        destination, receipt_ids
            Only these; all where not given.
        include_sent
            Send again what was already delivered.
        """
        states = _states(include_sent=include_sent)
        query = _to_send_again(states, destination, receipt_ids).where(ResultRow.deleted_at.is_(None))
        with self._ledger.reading() as connection:
            rows = connection.execute(query.order_by(DeliveryRow.id)).all()
        count = 0
        kept = select(ResultRow.id).where(ResultRow.deleted_at.is_(None))
        for some in in_batches(rows):
            with self._ledger.writing() as connection:
                lock_receipts(connection, {receipt_id for _, receipt_id in some})
                for number, _ in some:
                    # What has been delivered or deleted since it was looked up stays so.
                    row = update(DeliveryRow).where(DeliveryRow.id == number, DeliveryRow.state.in_(states))
                    row = row.where(DeliveryRow.result_id.in_(kept))
                    row = row.values(state=DeliveryState.PENDING, attempts=0).returning(DeliveryRow.destination)
                    target = connection.scalar(row)
                    if target is not None:
                        forget_commitments(connection, [number])
                        receipt_id, priority, store = origin_of(connection, number)
                        enter = partial(put, target=target, priority=priority, store=store)
                        if not enter(connection, Kind.DELIVER, number, now):
                            make_due(connection, Kind.DELIVER, [number], now)
                        event_chain.append(connection, "redelivery", now, receipt_id, delivery=number)
                        count += 1
        return count

    def count_deleted(
        self, *, destination: str | None = None, receipt_ids: Collection[int] = (), include_sent: bool = False
    ) -> int:
        """Return how many of these deliveries cannot be made pending, since their results were deleted."""
        query = _to_send_again(_states(include_sent=include_sent), destination, receipt_ids)
        with self._ledger.reading() as connection:
            gone = query.where(ResultRow.deleted_at.is_not(None)).with_only_columns(func.count())
            return connection.scalar(gone) or 0

    def deleted(self, receipt_ids: Collection[int]) -> dict[int, dt.datetime]:
        """Return when the results of those of these receipts were deleted that have had some, and have none now."""
        query = select(ResultRow.receipt_id, func.max(ResultRow.deleted_at)).group_by(ResultRow.receipt_id)
        query = query.where(ResultRow.receipt_id.in_(receipt_ids))
        with self._ledger.reading() as connection:
            rows = connection.execute(query.having(func.count() == func.count(ResultRow.deleted_at)))
            return {int(number): at for number, at in rows if at is not None}

    def pending_counts(self) -> dict[str, int]:
        """Return how many results wait for each destination."""
        pending = DeliveryRow.state == DeliveryState.PENDING
        query = (
            select(DeliveryRow.destination, func.count()).where(UNFINISHED, pending).group_by(DeliveryRow.destination)
        )
        with self._ledger.reading() as connection:
            return {str(name): int(count) for name, count in connection.execute(query)}


def _of_deliveries(delivery_ids: Collection[int], *columns: Any) -> Select[Any]:
    """Return a query for columns of deliveries, their results and receipts."""
    query = select(*columns).select_from(DeliveryRow).join(ResultRow, ResultRow.id == DeliveryRow.result_id)
    return query.join(ReceiptRow, ReceiptRow.id == ResultRow.receipt_id).where(DeliveryRow.id.in_(delivery_ids))


def _states(*, include_sent: bool) -> list[str]:
    states = [DeliveryState.FAILED, DeliveryState.PENDING]
    return [*states, DeliveryState.SENT, DeliveryState.COMMITTED] if include_sent else [*states]


def _to_send_again(states: Collection[str], destination: str | None, receipt_ids: Collection[int]) -> Any:
    """Return the deliveries that are meant, and the receipt of each."""
    query: Any = select(DeliveryRow.id, ResultRow.receipt_id)
    query = query.where(UNFINISHED) if set(states) == set(_states(include_sent=False)) else query
    query = query.join(ResultRow, ResultRow.id == DeliveryRow.result_id).where(DeliveryRow.state.in_(states))
    query = query.join(ReceiptRow, ReceiptRow.id == ResultRow.receipt_id)
    # Not what was sent before a later version was answered: it would come after that one's.
    query = query.where(or_(DeliveryRow.state.in_(_states(include_sent=False)), ~versions.has_newer_answer()))
    if destination is not None:
        query = query.where(DeliveryRow.destination == destination)
    if receipt_ids:
        query = query.where(ResultRow.receipt_id.in_(receipt_ids))
    return query


def forget_commitments(connection: Connection, delivery_ids: Select[Any] | Collection[int]) -> None:
    """Have nobody ask for these, whoever has that in hand, and let no earlier answer count."""
    connection.execute(delete(TaskRow).where(TaskRow.kind == Kind.COMMIT, TaskRow.subject.in_(delivery_ids)))
    connection.execute(delete(CommitmentRow).where(CommitmentRow.delivery_id.in_(delivery_ids)))


def losses_of(connection: Connection, delivery_id: int) -> int:
    """Return how often a destination had taken a result and then said that it does not have it."""
    same = (CommitmentRow.delivery_id == delivery_id, CommitmentRow.reason == LOST)
    return connection.scalar(select(func.count()).where(*same)) or 0


def origin_of(connection: Connection, delivery_id: int) -> tuple[int, int, str]:
    """Return the number and the priority of the receipt that a delivery is about, and where its result lies."""
    query = (
        select(ReceiptRow.id, ReceiptRow.priority, ResultRow.store)
        .join(ResultRow, ResultRow.receipt_id == ReceiptRow.id)
        .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
        .where(DeliveryRow.id == delivery_id)
    )
    receipt_id, priority, store = connection.execute(query).one()
    return int(receipt_id), int(priority), str(store)
