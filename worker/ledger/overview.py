"""How much waits, how much has failed, and what was done today: what `cxrd status` and `/metrics` ask."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, case, func, select, text

from worker.database.columns import unindexed
from worker.ledger.tables import UNFINISHED, DeliveryRow, DeliveryState, FindingRow, ReceiptRow, ResultRow, State
from worker.queue.task import Kind, TaskState
from worker.queue.task_row import TaskRow


@dataclass(frozen=True)
class TaskGroup:
    """The tasks of one kind, for deliveries those of one destination.

    Attributes
    ----------
    destination
        Empty where the tasks have none.
    late
        Of those that wait, how many are due.
    oldest
        When the first of them was put into the queue.
    next_due
        When the first of those that wait is or was due; None where none waits.
    """

    kind: str
    destination: str
    waiting: int
    in_hand: int
    late: int
    oldest: dt.datetime
    next_due: dt.datetime | None


def task_groups(connection: Connection, now: dt.datetime) -> list[TaskGroup]:
    """Return how much waits, by kind and destination."""
    # A second reading's target is a model, and there are as many as were ever asked for.
    has_destination = TaskRow.kind.in_([Kind.DELIVER, Kind.COMMIT])
    destination = case((has_destination, TaskRow.target), else_="").label("destination")
    waits = TaskRow.state == TaskState.WAITING
    query = select(
        TaskRow.kind,
        destination,
        _count(waits),
        _count(TaskRow.state == TaskState.LEASED),
        _count(waits & (TaskRow.due_at <= now)),
        func.min(TaskRow.created_at),
        func.min(case((waits, TaskRow.due_at))),
    ).group_by(TaskRow.kind, destination)
    return sorted(
        (TaskGroup(*row) for row in connection.execute(query)), key=lambda each: (each.kind, each.destination)
    )


@dataclass(frozen=True)
class Uncommitted:
    """The deliveries to one destination that were *sent*, and that it has not committed to keeping.

    Attributes
    ----------
    waiting, most_requests
        Those that it has been asked about, or will be; and how often at most.
    since
        When the first of these was sent.
    given_up, latest
        Those that it is asked about no more; and when the last of them was sent. They stay *sent*.
    """

    destination: str
    waiting: int = 0
    most_requests: int = 0
    since: dt.datetime | None = None
    given_up: int = 0
    latest: dt.datetime | None = None


def uncommitted(connection: Connection) -> dict[str, Uncommitted]:
    """Return, by destination, what was asked to be committed to and is not; nothing of those never asked."""
    task = (TaskRow.kind == Kind.COMMIT) & (TaskRow.subject == DeliveryRow.id)
    waiting = (
        select(DeliveryRow.destination, func.count(), func.max(TaskRow.attempts), func.min(DeliveryRow.delivered_at))
        .join(TaskRow, task)
        .group_by(DeliveryRow.destination)
    )
    given_up = (
        select(DeliveryRow.destination, func.count(), func.max(DeliveryRow.delivered_at))
        .where(text("state = 'sent' AND error <> ''"))  # in the words of ix_delivery_uncommitted, which it needs
        .group_by(DeliveryRow.destination)
    )
    groups = {row[0]: Uncommitted(*row) for row in connection.execute(waiting)}
    for name, count, latest in connection.execute(given_up):
        groups[name] = replace(groups.get(name, Uncommitted(name)), given_up=count, latest=latest)
    return groups


def failed_images(connection: Connection) -> int:
    """Return how many images should have been analysed and could not be."""
    return connection.scalar(select(func.count()).where(ReceiptRow.state == State.FAILED)) or 0


def failed_deliveries(connection: Connection, names: Collection[str]) -> dict[str, int]:
    """Return how many deliveries to each of these destinations have failed."""
    query = select(DeliveryRow.destination, func.count()).where(
        UNFINISHED, DeliveryRow.destination.in_(names), DeliveryRow.state == DeliveryState.FAILED
    )
    counts = {str(name): int(count) for name, count in connection.execute(query.group_by(DeliveryRow.destination))}
    return {name: counts.get(name, 0) for name in names}


def images_since(connection: Connection, since: dt.datetime) -> dict[str, int]:
    """Return how many images were received since a time, by state."""
    state = unindexed(ReceiptRow.state)
    query = select(state, func.count()).where(ReceiptRow.received_at >= since).group_by(state)
    return {str(state): int(count) for state, count in connection.execute(query)}


def deliveries_since(connection: Connection, since: dt.datetime) -> dict[str, dict[str, int]]:
    """Return how many results of the images received since a time go to each destination, by state."""
    key = unindexed(DeliveryRow.destination), unindexed(DeliveryRow.state)
    query = (
        select(*key, func.count())
        .join(ResultRow, unindexed(ResultRow.id) == DeliveryRow.result_id)  # from the image to its deliveries
        .join(ReceiptRow, unindexed(ReceiptRow.id) == ResultRow.receipt_id)
        .where(ReceiptRow.received_at >= since)
        .group_by(*key)
    )
    counts: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(query):
        counts.setdefault(str(name), {})[str(state)] = int(count)
    return counts


def last_answer(connection: Connection) -> tuple[dt.datetime, str, str] | None:
    """Return when a model last answered, what, and which model it was."""
    query = select(FindingRow.analysed_at, FindingRow.answer, FindingRow.model).order_by(FindingRow.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def bytes_since(connection: Connection, since: dt.datetime) -> int:
    """Return the bytes of the images received, and of the results made, since a time."""
    images = select(func.sum(ReceiptRow.size_bytes)).where(ReceiptRow.received_at >= since)
    results = select(func.sum(ResultRow.size_bytes)).join(ReceiptRow, unindexed(ReceiptRow.id) == ResultRow.receipt_id)
    results = results.where(ReceiptRow.received_at >= since)
    return int(connection.scalar(images) or 0) + int(connection.scalar(results) or 0)
