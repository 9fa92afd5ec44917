"""Which files may be deleted, and that they were. The rows stay: they are the audit.

Only what is done with goes: an image that was answered or left out, that nobody has asked to read again, and of whose
results none waits, has failed, or may still be committed to. The rows are marked first and the files go after: what a
row promises is there, and what a crash leaves is swept up later (`worker.storage.orphans`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.orm import aliased

from worker.database.columns import unindexed
from worker.ledger import event_chain
from worker.ledger.deliveries import forget_commitments
from worker.ledger.receipts import Ledger, lock_receipts
from worker.ledger.tables import CommitmentRow, DeliveryRow, DeliveryState, ReceiptRow, ResultRow, State
from worker.queue.task import Kind
from worker.queue.task_row import TaskRow
from worker.storage.orphans import Owner

Files = Literal["received", "results"]
"""Which files of an image: the one that was sent to us, or what we made of it."""
_TABLES: dict[Files, Any] = {"received": ReceiptRow, "results": ResultRow}
_OF_IT = ResultRow.receipt_id == ReceiptRow.id
_RESULTS_AT_ONCE = 4
"""Results that are read for each image that is looked for."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was marked as deleted of one image: the digests of its files, and their bytes."""

    receipt_id: int
    sha256: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Order:
    """Which images a person wants deleted; what is None or empty does not restrict.

    Attributes
    ----------
    patient_key
        As the ledger holds it (`worker.storage.pseudonym.PatientKey`).
    before
        Received before.
    """

    study: str | None = None
    patient_key: str | None = None
    before: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of an order that can be deleted, and how many of the others there are.

    Attributes
    ----------
    size_bytes
        Of the files of those that can.
    unfinished
        They wait for an answer, or a result of theirs waits.
    elsewhere
        Some of their files lie in another store.
    gone
        All their files were deleted before.
    """

    receipt_ids: tuple[int, ...]
    size_bytes: int
    unfinished: int
    elsewhere: int
    gone: int


class Retention:
    """Choosing and marking what may be deleted from one store."""

    def __init__(self, ledger: Ledger, store: str) -> None:
        self._ledger = ledger
        self._store = store

    def due(self, files: Files, before: dt.datetime, limit: int) -> list[int]:
        """Return the images whose files may be deleted for their age, the oldest first.

        Parameters
        ----------
        before
            When they were finished, or their results were made, at the latest.
        """
        with self._ledger.reading() as connection:
            if files == "results":
                return self._due_results(connection, before, limit)
            query = select(ReceiptRow.id).where(*self._kept(ReceiptRow), ReceiptRow.finished_at <= before)
            # What was deleted and sent once more is as young as that.
            query = query.where(or_(ReceiptRow.restored_at.is_(None), ReceiptRow.restored_at <= before))
            return list(connection.scalars(query.where(*_done()).order_by(ReceiptRow.finished_at).limit(limit)))

    def _due_results(self, connection: Connection, before: dt.datetime, limit: int) -> list[int]:
        """Return the images of the oldest results; the results are read some at a time, for an image has several."""
        place = ResultRow.created_at, ResultRow.id
        query = select(ResultRow.receipt_id, *place).join(ReceiptRow, _OF_IT)
        query = query.where(*self._kept(ResultRow), ResultRow.created_at <= before, *_done())
        query = query.order_by(*place).limit(_RESULTS_AT_ONCE * limit)
        numbers: dict[int, None] = {}
        rows = connection.execute(query).all()
        while rows and len(numbers) < limit:
            numbers |= dict.fromkeys(row.receipt_id for row in rows)
            last = rows[-1].created_at, rows[-1].id
            rows = connection.execute(query.where(place[0] >= last[0], tuple_(*place) > tuple_(*last))).all()
        return list(numbers)[:limit]

    def mark(
        self, receipt_ids: Sequence[int], files: Sequence[Files], now: dt.datetime, why: str, *, ordered: bool = False
    ) -> list[Deletion]:
        """Enter that files of these images are deleted, in one transaction; return those of images that may go.

        Parameters
        ----------
        why
            For the audit.
        ordered
            By a person: what has failed may go too.
        """
        deletions = []
        with self._ledger.writing() as connection:
            lock_receipts(connection, receipt_ids)
            may_go = select(ReceiptRow.id).where(ReceiptRow.id.in_(list(receipt_ids)), *_done(ordered=ordered))
            for receipt_id in connection.scalars(may_go.order_by(ReceiptRow.id)).all():
                rows = [row for each in files for row in self._mark(connection, each, receipt_id, now)]
                if rows:
                    sha256, sizes = zip(*rows, strict=True)
                    deletion = Deletion(receipt_id, sha256, sum(sizes))
                    facts = {"files": len(sizes), "bytes": deletion.size_bytes, "what": list(files), "why": why}
                    event_chain.append(connection, "deleted", now, receipt_id, **facts)
                    deletions.append(deletion)
        return deletions

    def _mark(self, connection: Connection, files: Files, receipt_id: int, now: dt.datetime) -> list[tuple[str, int]]:
        row = _TABLES[files]
        number = row.id if files == "received" else row.receipt_id
        query = update(row).where(number == receipt_id, *self._kept(row)).values(deleted_at=now)
        rows = connection.execute(query.returning(row.sha256, row.size_bytes)).all()
        if files == "results" and rows:  # it could not be sent again
            forget_commitments(connection, select(DeliveryRow.id).join(ResultRow).where(number == receipt_id))
        return [(str(sha256), int(size)) for sha256, size in rows]

    def choose(self, order: Order) -> Chosen:
        """Return what an order would delete; it deletes nothing."""
        with self._ledger.reading() as connection:
            every = set(connection.scalars(_ordered(select(ReceiptRow.id), order)))
            done = set(connection.scalars(_ordered(select(ReceiptRow.id), order).where(*_done(ordered=True))))
            sizes: dict[int, int] = {}
            elsewhere: set[int] = set()
            tables: tuple[tuple[Any, Any], ...] = ((ReceiptRow, ReceiptRow.id), (ResultRow, ResultRow.receipt_id))
            for row, number in tables:
                query: Any = select(number, row.size_bytes, row.store).where(row.deleted_at.is_(None))
                query = _ordered(query if row is ReceiptRow else query.join(ReceiptRow, _OF_IT), order)
                for receipt_id, size, store in connection.execute(query):
                    if store in ("", self._store):
                        sizes[receipt_id] = sizes.get(receipt_id, 0) + size
                    else:
                        elsewhere.add(receipt_id)
        chosen = sorted(done & sizes.keys())
        size = sum(sizes[number] for number in chosen)
        gone = len(every - sizes.keys() - elsewhere)
        return Chosen(tuple(chosen), size, len(every - done), len(elsewhere), gone)

    def owners(self, begin: str) -> Mapping[str, Owner]:
        """Return the owners of the objects whose digests begin so (`worker.storage.orphans.Owners`).

        What two rows own is owned by the one that still keeps it.
        """
        owners: dict[str, Owner] = {}
        with self._ledger.reading() as connection:
            for row in (ResultRow, ReceiptRow):
                query = select(row.sha256, row.deleted_at).where(row.sha256 >= begin, row.sha256 < f"{begin}g")
                for sha256, deleted_at in connection.execute(query.where(row.store.in_(["", self._store]))):
                    other = owners.get(sha256)
                    if other and (other.deleted_at is None or (deleted_at and deleted_at < other.deleted_at)):
                        deleted_at = other.deleted_at  # noqa: PLW2901 - the one that counts
                    received = row is ReceiptRow or bool(other and other.received)
                    owners[sha256] = Owner(received, deleted_at)
        return owners

    def _kept(self, row: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return row.deleted_at.is_(None), row.store.in_(["", self._store])


def oldest_kept(connection: Connection) -> dt.datetime | None:
    """Return when the oldest image was finished whose file is still kept; None where there is none."""
    return connection.scalar(select(func.min(ReceiptRow.finished_at)).where(ReceiptRow.deleted_at.is_(None)))


def _ordered(query: Any, order: Order) -> Any:
    if order.study is not None:
        query = query.where(ReceiptRow.study_instance_uid == order.study)
    if order.patient_key is not None:
        query = query.where(ReceiptRow.patient_key == order.patient_key)
    if order.before is not None:
        query = query.where(ReceiptRow.received_at < order.before)
    return query


def _done(*, ordered: bool = False) -> tuple[ColumnElement[bool], ...]:
    """Return when an image is done with; what has failed, or was not committed to, only where a person orders it."""
    states = [State.ANALYSED, State.NOT_ANALYSED, *([State.FAILED] if ordered else [])]
    waits = [DeliveryState.PENDING, *([] if ordered else [DeliveryState.FAILED])]
    kinds = [Kind.DELIVER, *([] if ordered else [Kind.COMMIT])]
    of_delivery = TaskRow.kind.in_(kinds) & (TaskRow.subject == DeliveryRow.id)
    reading = TaskRow.kind.in_([Kind.ANALYSE, Kind.REANALYSE]), TaskRow.subject == ReceiptRow.id
    on_its_way = or_(DeliveryRow.state.in_(waits), exists().where(of_delivery))
    if not ordered:  # it was asked to commit to it, and never did
        no_answer = (CommitmentRow.delivery_id == DeliveryRow.id, CommitmentRow.answered_at.is_(None))
        on_its_way = or_(on_its_way, and_(DeliveryRow.state == DeliveryState.SENT, exists().where(*no_answer)))
    own = aliased(ResultRow)  # any result of the image, also where the query is about one of them
    return (
        unindexed(ReceiptRow.state).in_(states),  # most images are in these states
        ~_asked_of_each(*reading),
        ~_asked_of_each(own.receipt_id == ReceiptRow.id, DeliveryRow.result_id == own.id, on_its_way),
    )


def _asked_of_each(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether there is a row, as a question about one image after the other.

    PostgreSQL would else answer it for all images beforehand. OFFSET, which changes nothing, keeps it from that.
    """
    return select(literal(1)).where(*conditions).offset(0).correlate(ReceiptRow).exists()
