"""The ledger: receipts, their answers, and the work that is still to be done. It is the truth after a crash."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from dicom_io.errors import InvalidSettings
from worker.ledger import event_chain, findings
from worker.ledger.outage import outage
from worker.ledger.records import Claim, NewFinding, NewNotification, NewReceipt, NewResult, PreviousFinding
from worker.ledger.tables import DeliveryRow, ReceiptRow, ResultRow, State

BATCH_SIZE = 100
"""Rows in one transaction: a sender that waits for the database must not wait long."""
PAUSE = 0.02
"""Seconds between two such transactions."""
Row = TypeVar("Row")


def connect(url: str, busy_timeout: float = 5.0) -> Engine:
    """Return an engine for the ledger's database, with what SQLite needs to be durable.

    Raises
    ------
    InvalidSettings
        When the URL or its driver is not understood.
    """
    sqlite = url.startswith("sqlite")
    try:
        engine = create_engine(url, connect_args={"timeout": busy_timeout} if sqlite else {}, pool_pre_ping=not sqlite)
    except ModuleNotFoundError as error:
        extra = ": pip install 'cxrd[postgres]'" if error.name == "psycopg" else ", which is not installed"
        raise InvalidSettings(f"ledger.url needs {error.name}{extra}") from error
    except Exception as error:  # a URL can be wrong in many ways, and SQLAlchemy has an exception for each
        raise InvalidSettings(f"ledger.url: {type(error).__name__}: cannot be used") from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL fsyncs the log at each commit: an acknowledged image survives a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once where we mean to write, so that no transaction fails half-way through."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def in_batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield as many rows as go into one transaction, and pause before the next: new images arrive meanwhile."""
    for start in range(0, len(rows), BATCH_SIZE):
        if start:
            time.sleep(PAUSE)
        yield rows[start : start + BATCH_SIZE]


class Ledger:
    """All reading and writing of the ledger's rows.

    Every method is one transaction. A locked or full database raises `OutOfResources`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a writing transaction, committed at the end."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise outage(error, self._engine, "the ledger is locked, full or cannot be reached") from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for queries."""
        try:
            with self._engine.connect().execution_options(reading=True) as connection:
                yield connection
        except DBAPIError as error:
            raise outage(error, self._engine, "the ledger is locked or cannot be reached") from error

    # ---- receipt -------------------------------------------------------------------------------------------------

    def receive(self, new: NewReceipt) -> int | None:
        """Enter a received object; return its id, or None where the SOP instance was received before."""
        facts = {"sop_instance_uid": new.sop_instance_uid, "sha256": new.sha256, "calling_ae": new.calling_ae}
        try:
            with self.writing() as connection:
                before = connection.execute(
                    select(ReceiptRow.id, ReceiptRow.sha256).where(ReceiptRow.sop_instance_uid == new.sop_instance_uid)
                ).one_or_none()
                if before is None:
                    row = insert(ReceiptRow).values(**asdict(new), next_attempt_at=new.received_at)
                    receipt_id = int(connection.execute(row.returning(ReceiptRow.id)).scalar_one())
                    event_chain.append(connection, "received", new.received_at, receipt_id, **facts)
                    return receipt_id
                same = before.sha256 == new.sha256
                event_chain.append(connection, "received_again", new.received_at, before.id, same_bytes=same, **facts)
        except IntegrityError:
            # Another association entered the same SOP instance between our look and our insert (PostgreSQL only).
            return None
        return None

    def record_event(self, kind: str, now: dt.datetime, facts: dict[str, Any]) -> None:
        """Enter an event that belongs to no receipt."""
        with self.writing() as connection:
            event_chain.append(connection, kind, now, None, **facts)

    def has_received(self, sop_instance_uid: str) -> bool:
        """Return whether a SOP instance has been received."""
        with self.reading() as connection:
            query = select(ReceiptRow.id).where(ReceiptRow.sop_instance_uid == sop_instance_uid)
            return connection.execute(query).first() is not None

    def is_result(self, sop_instance_uid: str) -> bool:
        """Return whether a SOP instance is one that we produced ourselves."""
        with self.reading() as connection:
            query = select(ResultRow.id).where(ResultRow.sop_instance_uid == sop_instance_uid)
            return connection.execute(query).first() is not None

    # ---- work ----------------------------------------------------------------------------------------------------

    def recover(self, now: dt.datetime, max_crashes: int) -> int:
        """Take back what a dead process had in hand; return how many objects.

        An object that was in hand each of `max_crashes` times the process died is failed: it would do it again. From
        the second time on it waits a little, so that others go first.
        """
        why = f"the worker died {max_crashes} times while it had this image in hand"
        count = 0
        with self.writing() as connection:
            working = select(ReceiptRow.id, ReceiptRow.crashes).where(ReceiptRow.state == State.WORKING)
            for receipt_id, before in connection.execute(working).all():
                crashes = before + 1
                row = update(ReceiptRow).where(ReceiptRow.id == receipt_id)
                until = now + dt.timedelta(seconds=5 * before)
                values = {"state": State.RECEIVED, "crashes": crashes, "next_attempt_at": until}
                connection.execute(row.values(**values))
                if crashes >= max_crashes:
                    self._finish(connection, receipt_id, State.FAILED, now, why)
                else:
                    event_chain.append(connection, "taken_back", now, receipt_id, crashes=crashes)
                    count += 1
        return count

    def unfinished(self, now: dt.datetime) -> list[int]:
        """Return the ids of objects that wait for a worker, oldest first."""
        with self.reading() as connection:
            query = select(ReceiptRow.id).where(ReceiptRow.state == State.RECEIVED, ReceiptRow.next_attempt_at <= now)
            return list(connection.scalars(query.order_by(ReceiptRow.id)))

    def claim(self, receipt_id: int, now: dt.datetime) -> Claim | None:
        """Take an object in hand; None where another worker has it, or it is finished or not yet due."""
        with self.writing() as connection:
            row = connection.execute(
                update(ReceiptRow)
                .where(
                    ReceiptRow.id == receipt_id,
                    ReceiptRow.state == State.RECEIVED,
                    ReceiptRow.next_attempt_at <= now,
                )
                .values(state=State.WORKING, started_at=now, attempts=ReceiptRow.attempts + 1)
                .returning(
                    ReceiptRow.id,
                    ReceiptRow.sop_instance_uid,
                    ReceiptRow.calling_ae,
                    ReceiptRow.sha256,
                    ReceiptRow.received_at,
                    ReceiptRow.attempts,
                )
            ).one_or_none()
        return None if row is None else Claim(*row)

    def postpone(self, receipt_id: int, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put an object back, to be tried again at `until`."""
        with self.writing() as connection:
            row = update(ReceiptRow).where(ReceiptRow.id == receipt_id, ReceiptRow.state == State.WORKING)
            connection.execute(row.values(state=State.RECEIVED, reason=reason, next_attempt_at=until))
            event_chain.append(connection, "postponed", now, receipt_id, reason=reason)

    def put_back(self, receipt_id: int, now: dt.datetime) -> None:
        """Give back an object whose outcome could not be entered; one that is not in hand is left as it is."""
        with self.writing() as connection:
            row = update(ReceiptRow).where(ReceiptRow.id == receipt_id, ReceiptRow.state == State.WORKING)
            if connection.execute(row.values(state=State.RECEIVED, next_attempt_at=now)).rowcount:
                event_chain.append(connection, "put_back", now, receipt_id)

    def leave_out(
        self,
        receipt_id: int,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
        outside: NewFinding | None = None,
    ) -> None:
        """Enter the decision not to analyse an object.

        Parameters
        ----------
        results, left_out
            The report that says so, where there is one; see `answer`.
        outside
            The finding that does not count, where the image is not one that the model was made for.
        """
        facts = findings.result_facts(results, left_out or {}) if results or left_out else {}
        facts |= findings.outside_facts(outside)
        with self.writing() as connection:
            self._finish(connection, receipt_id, State.NOT_ANALYSED, now, reason, facts)
            findings.record_outside(connection, receipt_id, outside, now)
            findings.record_results(connection, receipt_id, None, results, now)

    def fail(self, receipt_id: int, reason: str, now: dt.datetime) -> None:
        """Enter that an object could not be analysed."""
        with self.writing() as connection:
            self._finish(connection, receipt_id, State.FAILED, now, reason)

    def record_finding(
        self,
        receipt_id: int,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Enter a finding, its results and notifications, and a delivery of each to each of its destinations.

        Parameters
        ----------
        left_out
            The kinds of result that could not be made, and why.
        """
        facts = findings.finding_facts(finding) | findings.result_facts(results, left_out or {}, notifications)
        with self.writing() as connection:
            self._finish(connection, receipt_id, State.ANALYSED, now, "", facts)
            findings.record_finding(connection, receipt_id, finding, results, now, notifications=notifications)

    def previous_finding(self, receipt_id: int, model_sha256: str, report_class: str) -> PreviousFinding | None:
        """Return what other models answered before this one; None where none has. See `findings.previous_finding`."""
        with self.reading() as connection:
            return findings.previous_finding(connection, receipt_id, model_sha256, report_class)

    def is_busy(self, now: dt.datetime) -> bool:
        """Return whether a received object is in hand, or waits and is due."""
        due = (ReceiptRow.state == State.RECEIVED) & (ReceiptRow.next_attempt_at <= now)
        with self.reading() as connection:
            query = select(ReceiptRow.id).where(due | (ReceiptRow.state == State.WORKING)).limit(1)
            return connection.execute(query).first() is not None

    @staticmethod
    def _finish(
        connection: Connection,
        receipt_id: int,
        state: State,
        now: dt.datetime,
        reason: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        row = update(ReceiptRow).where(ReceiptRow.id == receipt_id)
        connection.execute(row.values(state=state, reason=reason, finished_at=now))
        event_chain.append(connection, state.value, now, receipt_id, reason=reason, **(facts or {}))

    def requeue(self, receipt_ids: Iterable[int], now: dt.datetime) -> int:
        """Give failed objects to the workers once more; return how many."""
        count = 0
        with self.writing() as connection:
            for receipt_id in receipt_ids:
                row = update(ReceiptRow).where(ReceiptRow.id == receipt_id, ReceiptRow.state == State.FAILED)
                values = {"state": State.RECEIVED, "attempts": 0, "crashes": 0, "reason": "", "next_attempt_at": now}
                if connection.execute(row.values(**values)).rowcount:
                    event_chain.append(connection, "requeued", now, receipt_id)
                    count += 1
        return count

    def states(self, receipt_ids: Iterable[int]) -> dict[int, str]:
        """Return the state of each of these receipts that exists."""
        query = select(ReceiptRow.id, ReceiptRow.state).where(ReceiptRow.id.in_(list(receipt_ids)))
        with self.reading() as connection:
            return {int(number): str(state) for number, state in connection.execute(query)}

    def counts(self) -> dict[str, int]:
        """Return how many objects stand in each state, and how many deliveries are pending or failed."""
        with self.reading() as connection:
            states = connection.execute(select(ReceiptRow.state, func.count()).group_by(ReceiptRow.state)).all()
            sent = connection.execute(select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state)).all()
        return {str(state): int(n) for state, n in states} | {f"delivery_{state}": int(n) for state, n in sent}
