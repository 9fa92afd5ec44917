"""A ledger of so many finished images, written straight into its tables: what years of work would leave behind.

One image leaves thirteen rows: a receipt, a finding, three results, three deliveries and five events. One of ten images
went to a destination that has committed to keeping it. Two of a hundred images are left out by a rule, one of ten
thousand fails, and one delivery of ten thousand. Digests and UIDs are as
random as real ones, so that indexes are as large and as scattered. Each event names the one before it, but all digests
are invented: `cxrd audit verify` would complain.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from worker.database.columns import Table
from worker.ledger.event_chain import GENESIS
from worker.ledger.tables import CommitmentRow, DeliveryRow, EventRow, FindingRow, ReceiptRow, ResultRow
from worker.queue.task_row import TaskRow

DESTINATION = "pacs"
MODEL, MODEL_SHA256 = "pneumonia-resnet18-1.0.0", "a" * 64
KINDS = (
    ("secondary-capture", "1.2.840.10008.5.1.4.1.1.7", 1_400_000),
    ("structured-report", "1.2.840.10008.5.1.4.1.1.88.22", 9_000),
    ("presentation-state", "1.2.840.10008.5.1.4.1.1.11.1", 6_000),
)
TABLES: tuple[type[Table], ...] = (ReceiptRow, FindingRow, ResultRow, DeliveryRow, CommitmentRow, EventRow, TaskRow)
EVERY = dt.timedelta(seconds=10)
"""Between two images."""
_AT_ONCE = 20_000
"""Images whose rows are in memory together."""

Rows = dict[type[Table], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Amount:
    """How much a ledger holds: finished images, and after them images that wait to be analysed."""

    finished: int
    waiting: int = 0

    @property
    def images(self) -> int:
        """All images."""
        return self.finished + self.waiting


def fill(engine: Engine, amount: Amount, until: dt.datetime) -> dict[str, int]:
    """Fill an empty ledger with the schema of this version; return how many rows each table got.

    Parameters
    ----------
    until
        When the last image was received; aware.
    """
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        indexes = _drop_indexes(connection)
    counts = {each.__tablename__: 0 for each in TABLES}
    for rows in _batches(amount, until):
        (_into_sqlite if sqlite else _into_postgres)(engine, rows)
        for table, own in rows.items():
            counts[table.__tablename__] += len(own)
    with engine.begin() as connection:
        if not sqlite:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
        for index in indexes:
            connection.execute(text(index))
        if not sqlite:
            _number_on(connection)
    if not sqlite:
        _settle(engine)
    return counts


# ---- into the database -----------------------------------------------------------------------------------------------


def _drop_indexes(connection: Connection) -> list[str]:
    """Drop the indexes that can be made anew at the end, which is faster; return what makes them."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        query = """
            SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND NOT EXISTS
                (SELECT 1 FROM pg_constraint c WHERE c.conname = indexname)
        """
    rows = [(str(name), str(sql)) for name, sql in connection.execute(text(query))]
    for name, _ in rows:
        connection.execute(text(f'DROP INDEX "{name}"'))
    return [sql for _, sql in rows]


def _into_sqlite(engine: Engine, rows: Rows) -> None:
    # Without the engine's transaction: nothing has to survive a crash here.
    driver: Any = engine.raw_connection()
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-1000000"):
            driver.execute(f"PRAGMA {pragma}")
        driver.execute("BEGIN")
        for table, own in rows.items():
            names = _columns(table)
            places = ", ".join("?" * len(names))
            driver.cursor().executemany(
                f"INSERT INTO {table.__tablename__} ({', '.join(names)}) VALUES ({places})",  # noqa: S608 - our names
                own,
            )
        driver.execute("COMMIT")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-2000"):
            driver.execute(f"PRAGMA {pragma}")
    finally:
        driver.close()


def _into_postgres(engine: Engine, rows: Rows) -> None:
    driver: Any = engine.raw_connection()
    try:
        cursor = driver.cursor()
        cursor.execute("SET session_replication_role = replica")  # foreign keys hold by construction
        for table, own in rows.items():
            names = ", ".join(f'"{name}"' for name in _columns(table))
            with cursor.copy(f"COPY {table.__tablename__} ({names}) FROM STDIN") as copy:
                for row in own:
                    copy.write_row(row)
        cursor.execute("SET session_replication_role = origin")
        driver.commit()
    finally:
        driver.close()


def _settle(engine: Engine) -> None:
    """Have PostgreSQL do what it does by itself, in its own time: autovacuum, and a checkpoint."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


def _number_on(connection: Connection) -> None:
    """Have PostgreSQL number on from the last row."""
    for table in TABLES:
        name = table.__tablename__
        connection.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT coalesce(max(id), 1) FROM {name}))")  # noqa: S608 - our names
        )


def size_on_disk(engine: Engine) -> int:
    """Return the bytes of a database, indexes and all."""
    with engine.connect().execution_options(reading=True) as connection:
        if engine.dialect.name == "postgresql":
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
        pages, size = (connection.scalar(text(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
        return int(pages or 0) * int(size or 0)


def is_filled(engine: Engine) -> bool:
    """Return whether a database holds images."""
    if not inspect(engine).has_table("receipt"):
        return False
    with engine.connect().execution_options(reading=True) as connection:
        return connection.scalar(text("SELECT 1 FROM receipt LIMIT 1")) is not None


# ---- rows ------------------------------------------------------------------------------------------------------------


def _batches(amount: Amount, until: dt.datetime) -> Iterator[Rows]:
    images = _Images(amount, until)
    for first in range(1, amount.images + 1, _AT_ONCE):
        rows: Rows = {each: [] for each in TABLES}
        for number in range(first, min(first + _AT_ONCE, amount.images + 1)):
            for table, values in images.rows(number):
                names = _columns(table)
                if values.keys() - set(names):
                    raise KeyError(f"{table.__tablename__} has no {sorted(values.keys() - set(names))}")
                rows[table].append(tuple(values.get(name) for name in names))
        yield rows


def _columns(table: type[Table]) -> Sequence[str]:
    return table.__table__.columns.keys()


class _Images:
    """Makes the rows of one image after the other; the chain of events goes through all of them."""

    def __init__(self, amount: Amount, until: dt.datetime) -> None:
        self._finished = amount.finished
        self._begin = until.astimezone(dt.UTC).replace(tzinfo=None) - amount.images * EVERY
        self._previous = GENESIS
        self._numbers = dict.fromkeys(TABLES, 0)

    def _next(self, table: type[Table]) -> int:
        self._numbers[table] += 1
        return self._numbers[table]

    def rows(self, number: int) -> Iterator[tuple[type[Table], dict[str, Any]]]:
        """Yield the rows about one image, in the order in which they were entered."""
        at = self._begin + number * EVERY
        waits = number > self._finished
        state = "received" if waits else "analysed"
        if not waits and number % 50 == 7:
            state = "not_analysed"
        if not waits and number % 10_000 == 4_321:
            state = "failed"
        yield ReceiptRow, self._receipt(number, at, state)
        uid = _uid(number, "instance")
        facts: dict[str, Any] = {"sop_instance_uid": uid, "sha256": _digest(number, "file"), "calling_ae": "MODALITY"}
        yield EventRow, self._event(number, at, "received", facts, 1)
        done = at + dt.timedelta(seconds=2)
        if waits:
            yield TaskRow, self._task("analyse", number, at)
        elif state != "analysed":
            yield EventRow, self._event(number, done, state, {"reason": "modality MR is not among rules.modalities"}, 1)
        else:
            finding = self._finding(number, done)
            yield FindingRow, finding
            names = [_uid(number, kind) for kind, _, _ in KINDS]
            answer = {name: value for name, value in finding.items() if name not in ("id", "receipt_id", "analysed_at")}
            yield EventRow, self._event(number, done, "analysed", {"reason": "", "results": names, **answer}, 4)
            yield from self._results(number, finding["id"], done)

    def _results(self, number: int, finding: int, at: dt.datetime) -> Iterator[tuple[type[Table], dict[str, Any]]]:
        for place, (kind, sop_class, size) in enumerate(KINDS):
            result, delivery = self._next(ResultRow), self._next(DeliveryRow)
            sent = at + dt.timedelta(seconds=1 + place)
            yield (
                ResultRow,
                {
                    "id": result,
                    "receipt_id": number,
                    "finding_id": finding,
                    "kind": kind,
                    "sop_class_uid": sop_class,
                    "sop_instance_uid": _uid(number, kind),
                    "series_instance_uid": _uid(number, f"series of {kind}"),
                    "sha256": _digest(number, kind),
                    "size_bytes": size,
                    "store": "0" * 32,
                    "created_at": at,
                },
            )
            has_failed, is_committed = delivery % 10_000 == 1_234, number % 10 == 3
            state = "failed" if has_failed else "committed" if is_committed else "sent"
            yield (
                DeliveryRow,
                {
                    "id": delivery,
                    "result_id": result,
                    "destination": DESTINATION,
                    "state": state,
                    "attempts": 1,
                    "status": 0xA900 if has_failed else 0,
                    "error": "the peer refuses it with status 0xA900" if has_failed else "",
                    "created_at": at,
                    "delivered_at": None if has_failed else sent,
                    "committed_at": sent if state == "committed" else None,
                    "sent_as": "",
                },
            )
            if state == "committed":
                yield CommitmentRow, self._commitment(number, delivery, sop_class, _uid(number, kind), sent)
            facts = {"delivery": delivery, "status": 0xA900 if has_failed else 0, "error": ""}
            yield EventRow, self._event(number, sent, "delivery_failed" if has_failed else "delivered", facts, 4)

    @staticmethod
    def _receipt(number: int, at: dt.datetime, state: str) -> dict[str, Any]:
        waits = state == "received"
        return {
            "id": number,
            "sop_instance_uid": _uid(number, "instance"),
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "study_instance_uid": _uid(number, "study"),
            "series_instance_uid": _uid(number, "series"),
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "modality": "DX",
            "accession_number": f"A{number:09d}",
            "patient_key": _digest(number // 3, "patient"),
            "calling_ae": "MODALITY",
            "called_ae": "CXRD",
            "peer_address": "10.0.0.17",
            "sha256": _digest(number, "file"),
            "size_bytes": 10_240_000,
            "received_at": at,
            "started_at": None if waits else at + dt.timedelta(seconds=1),
            "finished_at": None if waits else at + dt.timedelta(seconds=2),
            "attempts": 0 if waits else 1,
            "priority": 2,
            "store": "0" * 32,
            "state": state,
            "reason": "modality MR is not among rules.modalities" if state == "not_analysed" else "",
            "version": 1,
            "content_sha256": _digest(number, "content"),
        }

    def _finding(self, number: int, at: dt.datetime) -> dict[str, Any]:
        flagged = number % 5 == 0
        return {
            "id": self._next(FindingRow),
            "receipt_id": number,
            "analysed_at": at,
            "model": MODEL,
            "model_sha256": MODEL_SHA256,
            "probability": 0.875 if flagged else (number % 1000) / 4000,
            "answer": "flagged" if flagged else "not flagged",
            "threshold": 0.5,
            "operating_point": "screening",
            "prediction_set": "PNEUMONIA" if flagged else "NORMAL",
            "outlier": 0.25,
            "regions": json.dumps([{"place": "right lower", "box": [310, 820, 960, 1490]}]) if flagged else None,
            "score": 0.75,
            "input_mean": 0.5,
            "input_std": 0.25,
            "lungs_share": 0.25,
            "lungs_count": 2,
            "lungs_cut": 0,
        }

    def _commitment(self, number: int, delivery: int, sop_class: str, uid: str, at: dt.datetime) -> dict[str, Any]:
        return {
            "id": self._next(CommitmentRow),
            "transaction_uid": _uid(number, "transaction"),
            "delivery_id": delivery,
            "destination": DESTINATION,
            "sop_class_uid": sop_class,
            "sop_instance_uid": uid,
            "asked_at": at,
            "answered_at": at,
        }

    @staticmethod
    def _task(kind: str, number: int, at: dt.datetime) -> dict[str, Any]:
        return {
            "id": number,
            "kind": kind,
            "subject": number,
            "target": "",
            "priority": 2,
            "due_at": at,
            "attempts": 0,
            "crashes": 0,
            "state": "waiting",
            "owner": "",
            "token": "",
            "store": "0" * 32,
            "reason": "",
            "created_at": at,
        }

    def _event(self, number: int, at: dt.datetime, kind: str, facts: dict[str, Any], tables: int) -> dict[str, Any]:
        event = self._next(EventRow)
        own = _digest(event, "event")
        row = {
            "id": event,
            "receipt_id": number,
            "at": at,
            "kind": kind,
            "detail": json.dumps(facts, sort_keys=True, default=str),
            "previous": self._previous,
            "digest": own,
            "rows": " ".join(f"{name}:{own[:43]}" for name in ("receipt", "finding", "result", "delivery")[:tables]),
        }
        self._previous = own
        return row


def _digest(number: int, what: str) -> str:
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


def _uid(number: int, what: str) -> str:
    return f"2.25.{int(_digest(number, what)[:31], 16)}"
