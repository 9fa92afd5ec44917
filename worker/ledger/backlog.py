"""What is not done: images and deliveries that wait or have failed, how many, and since when."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from worker.ledger.tables import DeliveryRow, DeliveryState, EventRow, ReceiptRow, ResultRow, State

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from worker.ledger.receipts import Ledger


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
        When the first of them arrived, or was to be delivered.
    latest
        When the last of them failed; None where they wait.
    """

    destination: str
    failed: bool
    count: int
    oldest: dt.datetime
    latest: dt.datetime | None = None


def images(ledger: Ledger) -> list[Group]:
    """Return the images that wait, and those that have failed."""
    finished = (State.ANALYSED, State.NOT_ANALYSED, State.FAILED)
    aggregates = (func.count(), func.min(ReceiptRow.received_at), func.max(ReceiptRow.finished_at))
    with ledger.reading() as connection:
        waiting = connection.execute(select(*aggregates).where(ReceiptRow.state.not_in(finished))).one()
        failed = connection.execute(select(*aggregates).where(ReceiptRow.state == State.FAILED)).one()
    groups = [Group("", False, *waiting[:2]), Group("", True, *failed)]
    return [group for group in groups if group.count]


def deliveries(ledger: Ledger) -> list[Group]:
    """Return what waits, and what has failed, for each destination by its name."""
    with ledger.reading() as connection:
        return sorted((*_waiting(connection), *_failed(connection)), key=lambda group: group.destination)


def _waiting(connection: Connection) -> list[Group]:
    columns = (DeliveryRow.destination, func.count(), func.min(DeliveryRow.first_due_at))
    query = select(*columns).where(DeliveryRow.state == DeliveryState.PENDING).group_by(DeliveryRow.destination)
    return [Group(name, False, count, oldest) for name, count, oldest in connection.execute(query)]


def _failed(connection: Connection) -> list[Group]:
    """Return failed deliveries; the events of their images tell when the last one failed."""
    failed_at = func.max(EventRow.at)
    number = func.count(DeliveryRow.id.distinct())
    query = (
        select(DeliveryRow.destination, number, func.min(DeliveryRow.first_due_at), failed_at)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .outerjoin(EventRow, (EventRow.receipt_id == ResultRow.receipt_id) & (EventRow.kind == "delivery_failed"))
        .where(DeliveryRow.state == DeliveryState.FAILED)
        .group_by(DeliveryRow.destination)
    )
    return [Group(name, True, count, oldest, latest) for name, count, oldest, latest in connection.execute(query)]
