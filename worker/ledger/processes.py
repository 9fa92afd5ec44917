"""The processes of cxrd that are at work, on all machines that share the database, as their heartbeats tell."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select

from worker.ledger.tables import ProcessRow

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.database.transactions import Database

ROLES = ("receive", "work", "deliver")
"""The processes that an installation has, on whichever machine."""
GONE = dt.timedelta(seconds=30)
"""A process that was not seen for so long is gone: three of its signs of life are missing."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, when it was last seen, and what it said of itself (`worker.engines`)."""

    role: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    detail: dict[str, Any]

    def is_alive(self, now: dt.datetime) -> bool:
        """Return whether it was seen lately."""
        return now - self.seen_at < GONE


def processes(database: Database) -> list[Process]:
    """Return the processes that run, and those that were lost; what has ended in good order is not among them."""
    row = ProcessRow
    query = select(row.role, row.host, row.pid, row.started_at, row.seen_at, row.detail)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(row.role, row.host, row.started_at)).all()
    return [
        Process(each.role, each.host, each.pid, each.started_at, each.seen_at, json.loads(each.detail)) for each in rows
    ]


def busy_hosts(engine: Engine, now: dt.datetime) -> list[str]:
    """Return the machines on which a process is at work, whichever revision the schema has."""
    with engine.connect().execution_options(reading=True) as connection:
        if not inspect(connection).has_table(ProcessRow.__tablename__):
            return []
        return sorted(set(connection.scalars(select(ProcessRow.host).where(ProcessRow.seen_at > now - GONE))))
