"""The processes of cxrd that are at work, on all machines that share the database, as their heartbeats tell."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import inspect, select

from worker.clock import now
from worker.ledger.tables import ProcessRow

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from worker.database.transactions import Database

GONE = dt.timedelta(seconds=30)
"""A process that was not seen for so long is gone: three of its signs of life are missing."""


def last_seen(database: Database) -> dict[str, dt.datetime]:
    """Return when a process of each role was last seen; one that has ended in good order is no longer there."""
    with database.reading() as connection:
        rows = connection.execute(select(ProcessRow.role, ProcessRow.seen_at).order_by(ProcessRow.seen_at)).all()
    return {str(role): seen_at for role, seen_at in rows}


def hosts(engine: Engine) -> list[str]:
    """Return the machines on which a process is at work, whichever revision the schema has."""
    with engine.connect().execution_options(reading=True) as connection:
        return sorted(_hosts(connection)) if inspect(connection).has_table(ProcessRow.__tablename__) else []


def _hosts(connection: Connection) -> set[str]:
    return set(connection.scalars(select(ProcessRow.host).where(ProcessRow.seen_at > now() - GONE)))
