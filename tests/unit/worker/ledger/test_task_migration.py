"""From three queues to one: what was still to be done is a task, with its time and attempts, and nothing else is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, DateTime, Engine, Integer, MetaData, Table, insert, inspect, text

from tests.unit.worker.ledger.test_receipts import NOON, SECOND
from worker.database.columns import Table as Tables
from worker.database.connection import connect
from worker.ledger import migrations
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, findings
from worker.ledger.receipts import Ledger
from worker.queue.claim import Queue
from worker.queue.task import Kind

MODEL = "e" * 64
PLAIN = NOON.replace(tzinfo=None)
"""Noon as the tables have it."""
LATER = PLAIN + 60 * SECOND

RECEIPTS: dict[int, dict[str, Any]] = {
    1: {"state": "received", "attempts": 0},
    2: {"state": "received", "attempts": 2, "reason": "disk full", "next_attempt_at": LATER},
    3: {"state": "working", "crashes": 1},
    4: {"state": "analysed", "finished_at": PLAIN},
    5: {"state": "not_analysed", "reason": "own output", "finished_at": PLAIN},
    6: {"state": "failed", "reason": "no pixels", "attempts": 3, "finished_at": PLAIN},
}
REANALYSES: dict[int, dict[str, Any]] = {
    11: {"state": "waiting"},
    12: {"state": "waiting", "attempts": 1, "reason": "disk full", "next_attempt_at": LATER},
    13: {"state": "working", "attempts": 3, "crashes": 2},
    14: {"state": "done"},
    15: {"state": "left_out", "reason": "own output"},
    16: {"state": "failed", "reason": "no pixels"},
    17: {"state": "withdrawn"},
}
DELIVERIES: dict[int, dict[str, Any]] = {
    21: {"state": "pending", "priority": 1},
    22: {
        "state": "pending", "attempts": 3, "error": "busy", "next_attempt_at": LATER,
        "first_due_at": PLAIN - 60 * SECOND, "priority": 0,
    },
    23: {"state": "sent", "delivered_at": PLAIN, "status": 0, "priority": 0},
    24: {"state": "failed", "error": "refused", "status": 0xA900, "priority": 0},
}  # fmt: skip
TASKS = [  # kind, subject, target, priority, due_at, attempts, crashes, reason, created_at
    ("analyse", 1, "", 2, PLAIN, 0, 0, "", PLAIN),
    ("analyse", 2, "", 2, LATER, 2, 0, "disk full", PLAIN),
    ("analyse", 3, "", 2, PLAIN, 1, 1, "", PLAIN),
    ("deliver", 21, "pacs", 5, PLAIN, 1, 0, "", PLAIN),
    ("deliver", 22, "pacs", 2, LATER, 3, 0, "busy", PLAIN - 60 * SECOND),
    ("reanalyse", 11, MODEL, 5, PLAIN, 1, 0, "", PLAIN),
    ("reanalyse", 12, MODEL, 5, LATER, 1, 0, "disk full", PLAIN),
    ("reanalyse", 13, MODEL, 5, PLAIN, 3, 2, "", PLAIN),
]


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database of the sixth schema with a row in each state."""
    made = connect(request.getfixturevalue(f"{request.param}_url"))
    moved(made, command.upgrade, "0006")
    tables = MetaData()
    with made.begin() as connection:
        tables.reflect(connection)
        for number in (*RECEIPTS, *REANALYSES):
            values = RECEIPTS.get(number, {"state": "analysed"})
            enter(connection, tables.tables["receipt"], id=number, sop_instance_uid=f"1.{number}", **values)
        for number, values in REANALYSES.items():
            enter(connection, tables.tables["reanalysis"], receipt_id=number, model_sha256=MODEL, **values)
        for number, values in DELIVERIES.items():
            uid = f"2.25.{number}"
            enter(connection, tables.tables["result"], id=number, receipt_id=4, sop_instance_uid=uid)
            enter(connection, tables.tables["delivery"], id=number, result_id=number, destination="pacs", **values)
    yield made
    made.dispose()


def enter(connection: Connection, table: Table, **values: Any) -> None:
    """Insert a row; columns that it does not name and that must have a value get one that says nothing."""
    for column in table.columns:
        if column.name not in values and not column.nullable:
            plain: dict[type, Any] = {DateTime: PLAIN, Integer: 0 if column.name == "crashes" else 1}
            values[column.name] = next((each for kind, each in plain.items() if isinstance(column.type, kind)), "")
    connection.execute(insert(table).values(**values))


def moved(engine: Engine, move: Callable[..., None], revision: str) -> None:
    config = migrations._config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect().execution_options(reading=True) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def tasks(ledger: Ledger) -> list[tuple[Any, ...]]:
    names = "kind, subject, target, priority, due_at, attempts, crashes, reason, created_at"
    with ledger.reading() as connection:
        found = connection.execute(text(f"SELECT {names} FROM task WHERE state = 'waiting' ORDER BY kind, subject"))
        return [tuple(dt.datetime.fromisoformat(each) if _is_time(each) else each for each in row) for row in found]


def _is_time(value: object) -> bool:
    """Tell whether it is a time as SQLite has it."""
    return isinstance(value, str) and value.startswith("2026-")


def schema(engine: Engine) -> dict[str, Any]:
    """Return the columns of all tables and views, and the columns of all indexes."""
    found = inspect(engine)
    names = [*found.get_table_names(), *found.get_view_names()]
    indexes = {
        str(index["name"]): index["column_names"]
        for name in found.get_table_names()
        for index in found.get_indexes(name)
    }
    return {name: sorted(column["name"] for column in found.get_columns(name)) for name in names} | indexes


def test_what_was_still_to_be_done_is_a_task(engine: Engine) -> None:
    migrations.upgrade(engine)
    ledger = Ledger(engine)
    assert tasks(ledger) == TASKS
    assert rows(engine, "SELECT id, state FROM receipt WHERE id < 10 ORDER BY id") == [
        (number, values["state"].replace("working", "received")) for number, values in RECEIPTS.items()
    ]
    assert rows(engine, "SELECT receipt_id, state FROM reanalysis ORDER BY receipt_id") == [
        (number, values["state"].replace("working", "waiting")) for number, values in REANALYSES.items()
    ]
    assert rows(engine, "SELECT id, state FROM delivery ORDER BY id") == [
        (number, values["state"]) for number, values in DELIVERIES.items()
    ]
    with ledger.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Tables.metadata) == []


def test_it_is_taken_in_hand_as_ever(engine: Engine) -> None:
    migrations.upgrade(engine)
    ledger = Ledger(engine)
    queue, minute = Queue(ledger), NOON + 60 * SECOND
    assert [task.subject for task in queue.claim([Kind.ANALYSE], NOON, limit=9)] == [1]
    assert [(task.subject, task.crashes) for task in queue.claim([Kind.ANALYSE], NOON, among="suspect")] == [(3, 1)]
    assert [task.attempts for task in queue.claim([Kind.ANALYSE], minute, limit=9)] == [3]
    again = queue.claim([Kind.REANALYSE], minute, target=MODEL, newest_first=True, among="any", limit=9)
    assert [task.subject for task in again] == [13, 12, 11]
    # What answers new images is sent first.
    assert [each.delivery_id for each in Deliveries(ledger, queue).claim("pacs", minute, 9)] == [22, 21]


def test_the_views_tell_of_it_what_they_told(engine: Engine) -> None:
    waits = "SELECT reason, attempts FROM findings WHERE receipt_id < 10 ORDER BY receipt_id"
    due = "SELECT delivery_id, next_attempt_at FROM deliveries WHERE state = 'pending' ORDER BY delivery_id"
    before = rows(engine, waits), rows(engine, due)
    assert before[0][1] == ("disk full", 2)
    columns = schema(engine)
    migrations.upgrade(engine)
    assert (rows(engine, waits), rows(engine, due)) == before
    later = schema(engine)
    assert later["deliveries"] == sorted([*columns["deliveries"], "committed_at"])
    for view in ("findings", "answers"):
        assert later[view] == sorted([*columns[view], "version", "replaced_by"])
    (row,) = findings(Ledger(engine), Filter(status="failed"))
    assert (row["reason"], row["attempts"]) == ("no pixels", 3)


def test_it_can_be_taken_back(engine: Engine) -> None:
    before = schema(engine)
    moved(engine, command.upgrade, "0007")
    ledger = Ledger(engine)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE delivery SET state = 'committed' WHERE id = 23"))
        connection.execute(text("UPDATE task SET state = 'leased', crashes = 1, token = 'x' WHERE subject = 1"))
    moved(engine, command.downgrade, "0006")
    assert schema(engine) == before
    assert rows(engine, "SELECT id FROM receipt WHERE state = 'received' ORDER BY id") == [(1,), (2,), (3,)]
    assert rows(engine, "SELECT receipt_id FROM reanalysis WHERE state = 'waiting' ORDER BY receipt_id") == [
        (11,), (12,), (13,),
    ]  # fmt: skip
    assert rows(engine, "SELECT id, state FROM delivery ORDER BY id") == [
        (number, values["state"]) for number, values in DELIVERIES.items()
    ]
    for table in ("receipt", "reanalysis", "delivery"):
        late = f"SELECT count(*) FROM {table} WHERE next_attempt_at > '2026-01-31 12:00:00'"
        assert rows(engine, late) == [(0,)]  # all that waits is due
    moved(engine, command.upgrade, "0007")
    assert [row[:3] for row in tasks(ledger)] == [row[:3] for row in TASKS]
