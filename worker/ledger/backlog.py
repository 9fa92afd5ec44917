"""What is not done: images and deliveries that wait or have failed, how many, and since when."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select

from worker.ledger.tables import UNFINISHED, DeliveryRow, DeliveryState, EventRow, ReceiptRow, ResultRow, State
from worker.queue.task import Kind
from worker.queue.task_row import TaskRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from worker.database.transactions import Database

LATE = dt.timedelta(minutes=15)
"""An image or a delivery that has waited for longer is a fault."""
RECENT = dt.timedelta(days=7)
"""A failure is a fault for so long: most can't be undone, and a probe that always fails tells nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    """Images, or deliveries to one destination, in one state.

    Attributes
    ----------
    destination
        Empty for images.
    failed
        Whether they have failed; otherwise they wait, or are in hand.
    oldest
        Since when the first of them waits; when the first of those that have failed arrived, or was made.
    latest
        When the last of them failed; None where they wait.
    """

    destination: str
    failed: bool
    count: int
    oldest: dt.datetime
    latest: dt.datetime | None = None

    def has_failed_lately(self, now: dt.datetime) -> bool:
        """Return whether one of them has failed so lately that it is a fault."""
        return self.failed and (self.latest is None or now - self.latest < RECENT)


def images(database: Database) -> list[Group]:
    """Return the images that wait, and those that have failed."""
    task = and_(TaskRow.kind == Kind.ANALYSE, TaskRow.subject == ReceiptRow.id)
    # What was given back to the workers waits since then, and not since it arrived.
    since = func.min(func.coalesce(TaskRow.created_at, ReceiptRow.received_at))
    waiting = select(func.count(), since).select_from(ReceiptRow).outerjoin(TaskRow, task)
    failed = select(func.count(), func.min(ReceiptRow.received_at), func.max(ReceiptRow.finished_at))
    with database.reading() as connection:
        groups = [
            Group("", False, *connection.execute(waiting.where(ReceiptRow.state == State.RECEIVED)).one()),
            Group("", True, *connection.execute(failed.where(ReceiptRow.state == State.FAILED)).one()),
        ]
    return [group for group in groups if group.count]


def deliveries(database: Database) -> list[Group]:
    """Return what waits, and what has failed, for each destination by its name."""
    with database.reading() as connection:
        return sorted((*_waiting(connection), *_failed(connection)), key=lambda group: group.destination)


def _waiting(connection: Connection) -> list[Group]:
    task = and_(TaskRow.kind == Kind.DELIVER, TaskRow.subject == DeliveryRow.id)
    since = func.min(func.coalesce(TaskRow.created_at, DeliveryRow.created_at))
    query = (
        select(DeliveryRow.destination, func.count(), since)
        .outerjoin(TaskRow, task)
        .where(UNFINISHED, DeliveryRow.state == DeliveryState.PENDING)
        .group_by(DeliveryRow.destination)
    )
    return [Group(name, False, count, oldest) for name, count, oldest in connection.execute(query)]


def _failed(connection: Connection) -> list[Group]:
    """Return failed deliveries; the events of their images tell when the last one failed."""
    failed_at = func.max(EventRow.at)
    number = func.count(DeliveryRow.id.distinct())
    query = (
        select(DeliveryRow.destination, number, func.min(DeliveryRow.created_at), failed_at)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .outerjoin(EventRow, (EventRow.receipt_id == ResultRow.receipt_id) & (EventRow.kind == "delivery_failed"))
        .where(UNFINISHED, DeliveryRow.state == DeliveryState.FAILED)
        .group_by(DeliveryRow.destination)
    )
    return [Group(name, True, count, oldest, latest) for name, count, oldest, latest in connection.execute(query)]
