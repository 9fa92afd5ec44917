"""The audit's events as somebody outside is told of them: what each is about, and how far they were told.

How far is kept as a task: its subject is the last event that was told of, and its target that event's digest. Whoever
has it in hand tells of those after it, and enters a new one under its lease. So one process tells at a time, and what
was told but not entered is told once more.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from worker.database.transactions import Database
from worker.ledger import anchor, event_chain
from worker.ledger.tables import DeliveryRow, EventRow, ReceiptRow, ResultRow
from worker.queue.claim import Queue, put
from worker.queue.task import Kind, Task
from worker.queue.task_row import TaskRow

REPORT_MOST = 60.0
"""Seconds between two attempts at most."""
AT_ONCE = 100
"""Events that are read and told of together."""
MAKE_RESULTS = ("analysed", "not_analysed", "failed", "reanalysed")
"""Events that may enter results, and their deliveries."""


@dataclass(frozen=True)
class Image:
    """A received instance, as its receipt has it."""

    study_instance_uid: str
    accession_number: str
    patient_key: str
    sop_class_uid: str
    sop_instance_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str


@dataclass(frozen=True)
class Transfer:
    """A result, and the destination that it is to go to or went to.

    Attributes
    ----------
    kind
        Of the result (`ResultRow.kind`).
    """

    number: int
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class AuditEvent:
    """One event.

    Attributes
    ----------
    facts
        Its `detail`.
    image
        What it is about, if it is about one.
    transfers
        The deliveries that it is about: the one that it settles or puts back, or those that it has made.
    """

    number: int
    digest: str
    at: dt.datetime
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    image: Image | None = None
    transfers: tuple[Transfer, ...] = ()


class AuditEvents:
    """What was not told of yet."""

    def __init__(self, ledger: Database, queue: Queue) -> None:
        self._ledger = ledger
        self._queue = queue

    def waiting(self) -> int:
        """Return how many events nobody was told of."""
        with self._ledger.reading() as connection:
            last = connection.scalar(select(TaskRow.subject).where(TaskRow.kind == Kind.REPORT))
            newest = anchor.head(connection)
        return 0 if last is None or newest is None else abs(newest[0] - last)

    def claim(self, now: dt.datetime) -> Task | None:
        """Take it in hand to tell of what is new; None where somebody else has, or it is put off."""
        return next(iter(self._queue.claim([Kind.REPORT], now, among="any")), None)

    def after(self, task: Task) -> tuple[list[AuditEvent], bool]:
        """Return the next events, and whether the one before them is still what was told of.

        It is not where the ledger was restored from a backup, or its chain was rewritten. Then those follow that are
        numbered after it or, if there are none, that are entered from now on.
        """
        with self._ledger.reading() as connection:
            digest = connection.scalar(select(EventRow.digest).where(EventRow.id == task.subject))
            is_same = digest == task.target or (task.subject == 0 and task.target == event_chain.GENESIS)
            query = select(EventRow).where(EventRow.id > task.subject).order_by(EventRow.id).limit(AT_ONCE)
            rows = connection.execute(query).all()
            return _with_subjects(connection, rows), is_same

    def enter(self, task: Task, last: tuple[int, str] | None, now: dt.datetime) -> None:
        """Enter that all was told up to an event, by its number and digest; None for the newest there is.

        Raises
        ------
        LeaseLost
            Somebody else tells by now.
        """
        with self._ledger.writing() as connection:
            number, digest = last or anchor.head(connection) or (0, event_chain.GENESIS)
            self._queue.finish(connection, task)
            put(connection, Kind.REPORT, number, now, target=digest)
        self._queue.forget(task)

    def postpone(self, task: Task, until: dt.datetime, reason: str) -> None:
        """Put it off. Raises as `enter` does."""
        with self._ledger.writing() as connection:
            self._queue.postpone(connection, task, until, reason)
        self._queue.forget(task)


def begin(ledger: Database, now: dt.datetime) -> None:
    """Have all events told of that are entered from now on, unless that was begun before."""
    query = select(TaskRow.id).where(TaskRow.kind == Kind.REPORT)
    with ledger.reading() as connection:
        if connection.scalar(query) is not None:
            return
    with ledger.writing() as connection:
        event_chain.take_turn(connection)
        if connection.scalar(query) is None:
            number, digest = anchor.head(connection) or (0, event_chain.GENESIS)
            put(connection, Kind.REPORT, number, now, target=digest)


def _with_subjects(connection: Connection, events: Sequence[Row[Any]]) -> list[AuditEvent]:
    """Return events with what they are about, as it stands now."""
    facts = {each.id: json.loads(each.detail) for each in events}
    images = _images(connection, {each.receipt_id for each in events if each.receipt_id is not None})
    deliveries = {facts[each.id]["delivery"] for each in events if "delivery" in facts[each.id]}
    makers = {each.receipt_id for each in events if each.kind in MAKE_RESULTS}
    settled = _transfers(connection, DeliveryRow.id.in_(deliveries)) if deliveries else []
    new = _transfers(connection, ResultRow.receipt_id.in_(makers)) if makers else []
    by_number = {each.number: each for _, _, each in settled}
    whole = []
    for each in events:
        number = facts[each.id].get("delivery")
        transfers = [by_number[number]] if number in by_number else []
        if each.kind in MAKE_RESULTS:
            transfers = [one for receipt_id, at, one in new if receipt_id == each.receipt_id and at == each.at]
        whole.append(
            AuditEvent(
                each.id, each.digest, each.at, each.kind, facts[each.id], images.get(each.receipt_id), tuple(transfers)
            )
        )
    return whole


def _images(connection: Connection, numbers: Collection[int]) -> dict[int, Image]:
    names = [getattr(ReceiptRow, name) for name in Image.__dataclass_fields__]
    rows = connection.execute(select(ReceiptRow.id, *names).where(ReceiptRow.id.in_(numbers)))
    return {number: Image(*values) for number, *values in rows}


def _transfers(connection: Connection, which: Any) -> list[tuple[int, dt.datetime, Transfer]]:
    """Return deliveries with the receipt of each, and when it was made."""
    query = select(
        ResultRow.receipt_id,
        DeliveryRow.created_at,
        DeliveryRow.id,
        DeliveryRow.destination,
        ResultRow.kind,
        ResultRow.sop_class_uid,
        ResultRow.sop_instance_uid,
    ).join(ResultRow, ResultRow.id == DeliveryRow.result_id)
    rows = connection.execute(query.where(which).order_by(DeliveryRow.id)).all()
    return [(row[0], row[1], Transfer(*row[2:])) for row in rows]
