"""Tasks of a ledger for tests: taken in hand, and settled, in one step each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from worker.ledger.deliveries import Deliveries
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Ledger, Receipts
from worker.ledger.records import Claim, NewFinding, NewResult
from worker.queue.claim import Queue, put
from worker.queue.task import Kind, Task
from worker.queue.task_row import TaskRow


def task_of(
    ledger: Ledger, number: int, now: dt.datetime, kind: Kind = Kind.ANALYSE, queue: Queue | None = None
) -> Task:
    """Take the task of a receipt in hand; where it is done already, it is to be done once more."""
    if kind is Kind.ANALYSE and task_row(ledger, number) is None:
        with ledger.writing() as connection:
            put(connection, kind, number, now)
    (task,) = (queue or Queue(ledger)).claim([kind], now, subject=number, among="any")
    return task


def claim_of(ledger: Ledger, number: int, now: dt.datetime) -> tuple[Receipts, Claim]:
    """Take a receipt in hand; return it, and where its outcome goes."""
    queue = Queue(ledger)
    desk = Receipts(ledger, queue)
    return desk, desk.load(task_of(ledger, number, now, queue=queue))


def again_of(ledger: Ledger, number: int, now: dt.datetime) -> tuple[Reanalyses, Claim]:
    """Take the second reading of a receipt in hand; return it, and where its outcome goes."""
    queue = Queue(ledger)
    desk = Reanalyses(ledger, queue)
    return desk, desk.load(task_of(ledger, number, now, Kind.REANALYSE, queue))


def record_finding(
    ledger: Ledger, number: int, finding: NewFinding, results: Sequence[NewResult], now: dt.datetime, **more: Any
) -> None:
    """Take a receipt in hand and enter what a model found."""
    desk, claim = claim_of(ledger, number, now)
    desk.record_finding(claim, finding, results, now, **more)


def record_again(
    ledger: Ledger, number: int, finding: NewFinding, results: Sequence[NewResult], now: dt.datetime, **more: Any
) -> None:
    """Take the second reading of a receipt in hand and enter what a model found."""
    desk, claim = again_of(ledger, number, now)
    desk.record_finding(claim, finding, results, now, **more)


def fail(ledger: Ledger, number: int, reason: str, now: dt.datetime) -> None:
    """Take a receipt in hand and enter that it could not be analysed."""
    desk, claim = claim_of(ledger, number, now)
    desk.fail(claim, reason, now)


def leave_out(ledger: Ledger, number: int, reason: str, now: dt.datetime, **more: Any) -> None:
    """Take a receipt in hand and enter that it is not analysed."""
    desk, claim = claim_of(ledger, number, now)
    desk.leave_out(claim, reason, now, **more)


def due(ledger: Ledger, destination: str, now: dt.datetime, limit: int = 9) -> list[str]:
    """Return the SOP Instance UIDs of what would be sent to a destination now, in order; all stays as it is."""
    deliveries = Deliveries(ledger)
    taken = deliveries.claim(destination, now, limit)
    deliveries.hand_back(taken)
    return [each.sop_instance_uid for each in taken]


def waiting(ledger: Ledger, now: dt.datetime, kind: Kind = Kind.ANALYSE) -> list[int]:
    """Return the subjects of the fresh tasks that a worker would get now, in order; all stays as it is."""
    queue = Queue(ledger)
    taken = queue.claim([kind], now, limit=99)
    with ledger.writing() as connection:
        for task in taken:
            queue.hand_back(connection, task)
    return [task.subject for task in taken]


def task_row(ledger: Ledger, number: int, kind: Kind = Kind.ANALYSE) -> dict[str, Any] | None:
    """Return the row of a subject's task; None where there is nothing to do about it."""
    query = select(TaskRow.__table__).where(TaskRow.kind == kind, TaskRow.subject == number)
    with ledger.reading() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)
