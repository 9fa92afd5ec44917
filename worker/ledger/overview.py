"""How much waits, what has failed and who is there: what `cxrd status` and `/metrics` ask again and again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from worker.ledger.tables import DeliveryRow, DeliveryState, FindingRow, ProcessRow, ReceiptRow, ResultRow, State
from worker.queue.task import Kind, TaskRow, TaskState

GONE = 30.0
"""Seconds after which a process that was not seen is gone: three heartbeats (`worker.engines.heartbeat.SEEN`)."""


@dataclass(frozen=True)
class Backlog:
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


@dataclass(frozen=True)
class Failures:
    """What has failed and was not tried again; `recent` counts those since a time."""

    count: int = 0
    recent: int = 0
    oldest: dt.datetime | None = None


@dataclass(frozen=True)
class Process:
    """A process that runs, or is gone without a farewell."""

    role: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    detail: dict[str, Any]

    def is_gone(self, now: dt.datetime) -> bool:
        """Return whether it has not been seen for too long."""
        return (now - self.seen_at).total_seconds() > GONE


def backlogs(connection: Connection, now: dt.datetime) -> list[Backlog]:
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
    return sorted((Backlog(*row) for row in connection.execute(query)), key=lambda each: (each.kind, each.destination))


def failed_images(connection: Connection, since: dt.datetime) -> Failures:
    """Return the images that should have been analysed and could not be."""
    query = select(func.count(), _count(ReceiptRow.finished_at >= since), func.min(ReceiptRow.received_at))
    return Failures(*connection.execute(query.where(ReceiptRow.state == State.FAILED)).one())


def failed_deliveries(connection: Connection, names: Collection[str], since: dt.datetime) -> dict[str, Failures]:
    """Return the deliveries to each of these destinations that have failed; `recent` are those made since a time."""
    query = select(
        DeliveryRow.destination, func.count(), _count(DeliveryRow.created_at >= since), func.min(DeliveryRow.created_at)
    ).where(DeliveryRow.destination.in_(names), DeliveryRow.state == DeliveryState.FAILED)
    rows = {row[0]: Failures(*row[1:]) for row in connection.execute(query.group_by(DeliveryRow.destination))}
    return {name: rows.get(name, Failures()) for name in names}


def processes(connection: Connection) -> list[Process]:
    """Return all processes that have entered themselves, by role, host and age."""
    row = ProcessRow
    query = select(row.role, row.host, row.pid, row.started_at, row.seen_at, row.detail)
    return [
        Process(role, host, pid, started_at, seen_at, _object(detail))
        for role, host, pid, started_at, seen_at, detail in connection.execute(
            query.order_by(row.role, row.host, row.started_at)
        )
    ]


def images_since(connection: Connection, since: dt.datetime) -> dict[str, int]:
    """Return how many images were received since a time, by state."""
    query = select(ReceiptRow.state, func.count()).where(ReceiptRow.received_at >= since).group_by(ReceiptRow.state)
    return {str(state): int(count) for state, count in connection.execute(query)}


def deliveries_since(connection: Connection, since: dt.datetime) -> dict[str, dict[str, int]]:
    """Return how many results of the images received since a time go to each destination, by state."""
    query = (
        select(DeliveryRow.destination, DeliveryRow.state, func.count())
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(ReceiptRow, ReceiptRow.id == ResultRow.receipt_id)
        .where(ReceiptRow.received_at >= since)
        .group_by(DeliveryRow.destination, DeliveryRow.state)
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


def _object(text: str) -> dict[str, Any]:
    """Return what a process says of itself; nothing where it cannot be understood."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
