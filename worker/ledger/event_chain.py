"""The chain that holds the audit's events together: each carries the hash of the one before it.

Each event about a received object also carries digests of all rows about it, as they are when its transaction ends. So
the newest event of an object says how its rows must be.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from functools import partial
from typing import Any

from sqlalchemy import Connection, exists, insert, select, text

from worker.database.transactions import at_end
from worker.ledger import row_digests
from worker.ledger.tables import EventRow, ReceiptRow

GENESIS = "0" * 64
"""What stands before the first event."""
_DELIVERY = ("delivery",)
_COMMITMENT = ("delivery", "commitment")
_WRITTEN: dict[str, tuple[str, ...]] = {
    "received": ("receipt",),
    "received_again": (),
    "postponed": (),
    "reanalysis_postponed": (),
    "restored": ("receipt",),
    "requeued": ("receipt",),
    "content_noted": ("receipt",),
    "deleted": ("receipt", "result", "commitment"),
    "delivered": _DELIVERY,
    "delivery_postponed": _DELIVERY,
    "delivery_failed": _COMMITMENT,
    "delivery_withdrawn": _DELIVERY,
    "redelivery": _COMMITMENT,
    "committed": _COMMITMENT,
    "commitment_answered": _COMMITMENT,
    "commitment_failed": _COMMITMENT,
    "commitment_given_up": _COMMITMENT,
    "reanalysis_requested": ("reanalysis",),
    "reanalysis_withdrawn": ("reanalysis",),
    "reanalysis_failed": ("reanalysis",),
    "reanalysis_left_out": ("reanalysis", "outside"),
    "shadow": ("shadow",),
    "feedback": ("feedback",),
}
"""By kind of event, the tables that its transaction writes; of others it may write all."""
RECORDED = "recorded"
"""The event that seals rows of before revision 0011."""
_AT_ONCE = 500
"""Objects at once, where many are sealed."""


def digest(
    previous: str,
    receipt_id: int | None,
    at: dt.datetime,
    kind: str,
    detail: str,
    rows: str | None = None,
    number: int | None = None,
) -> str:
    """Return the SHA-256 that seals an event to the one before it, as 64 hexadecimal digits.

    Parameters
    ----------
    rows
        Of `row_digests.of_receipts`; None for an event about no object, or of before revision 0011.
    number
        The event's own; None as earlier versions sealed events.
    """
    return seal(previous, receipt_id, at.astimezone(dt.UTC).isoformat(), kind, detail, rows, number)


def seal(
    previous: str, receipt_id: int | None, at: str, kind: str, detail: str, rows: str | None, number: int | None = None
) -> str:
    """Return what `digest` does, of a time as ISO text in UTC."""
    values = [previous, receipt_id, at, kind, detail]
    # A text stands for rows, and a number for a number: neither passes for the other.
    values += [each for each in (rows, number) if each is not None]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def seal_of_row(
    previous: Any, receipt_id: Any, at: Any, kind: Any, detail: Any, rows: Any, number: int | None = None
) -> str:
    """Return what `seal` does, of values as the database gives them; nothing where one is none that cxrd writes."""
    if isinstance(at, dt.datetime):  # PostgreSQL, without a zone; SQLite gives text
        at = at.isoformat()
    at = f"{str(at).replace(' ', 'T', 1).removesuffix('.000000')}+00:00"
    try:
        return seal(previous, receipt_id, at, kind, detail, rows, number)
    except TypeError:  # bytes, where SQLite took them for a text
        return ""


def append(connection: Connection, kind: str, at: dt.datetime, receipt_id: int | None = None, **detail: Any) -> None:
    """Add an event to the end of the chain, as the last step of the caller's transaction.

    Parameters
    ----------
    connection
        A connection in a writing transaction.
    kind
        What happened, for instance ``"received"``.
    at
        Aware time.
    detail
        Facts, without patient data; written as JSON with sorted keys.
    """
    body = json.dumps(detail, sort_keys=True, default=str)
    at_end(connection, partial(_seal, kind=kind, at=at, receipt_id=receipt_id, body=body))


def take_turn(connection: Connection) -> None:
    """Have nobody else enter an event until the transaction ends."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyhow
        connection.execute(text("SELECT pg_advisory_xact_lock(7163547264)"))


def _seal(connection: Connection, *, kind: str, at: dt.datetime, receipt_id: int | None, body: str) -> None:
    take_turn(connection)
    last, previous = _last(connection)
    number = last + 1
    # After the lock: who had it before us has written other rows about the same object.
    rows = None
    if receipt_id is not None:
        rows = _rows(connection, kind, receipt_id)
    connection.execute(
        insert(EventRow).values(
            id=number,
            receipt_id=receipt_id,
            at=at,
            kind=kind,
            detail=body,
            previous=previous,
            digest=digest(previous, receipt_id, at, kind, body, rows, number),
            rows=rows,
        )
    )
    _keep_sequence(connection, number)


def _last(connection: Connection) -> tuple[int, str]:
    """Return number and digest of the newest event; 0 and `GENESIS` where there is none."""
    query = select(EventRow.id, EventRow.digest).order_by(EventRow.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return (0, GENESIS) if row is None else (max(0, row.id), row.digest)


def _keep_sequence(connection: Connection, number: int) -> None:
    """Have PostgreSQL's own count follow ours: an earlier version of cxrd numbers by it, and leaves gaps."""
    if connection.dialect.name == "postgresql":
        query = text("SELECT setval(pg_get_serial_sequence('event', 'id'), :number)")
        connection.execute(query, {"number": number})


def _rows(connection: Connection, kind: str, receipt_id: int) -> str:
    """Return the digests that an event of this kind carries.

    Of tables that such an event does not write, those of the event before it: what somebody else altered there is not
    sealed along with it.
    """
    tables = _WRITTEN.get(kind)
    before = None
    if tables is not None and kind != "received":
        last = select(EventRow.rows).where(EventRow.receipt_id == receipt_id).order_by(EventRow.id.desc()).limit(1)
        before = connection.scalar(last)
        if before is None:
            tables = None
    now = "" if tables == () else row_digests.of_receipts(connection, [receipt_id], tables).get(receipt_id, "")
    return now if before is None or tables is None else row_digests.replaced(before, tables, now)


def record_unsealed(connection: Connection, at: dt.datetime) -> int:
    """Enter an event for each object whose rows no event has sealed, since they are of before revision 0011.

    Returns
    -------
    int
        How many there were.
    """
    event, last = _last(connection)
    count, number = 0, 0
    unsealed = ~exists().where(EventRow.receipt_id == ReceiptRow.id, EventRow.rows.is_not(None))
    while True:
        query = select(ReceiptRow.id).where(ReceiptRow.id > number, unsealed).order_by(ReceiptRow.id).limit(_AT_ONCE)
        numbers = list(connection.scalars(query))
        if not numbers:
            return count
        digests, values = row_digests.of_receipts(connection, numbers), []
        for number in numbers:
            event += 1
            own = digest(last, number, at, RECORDED, "{}", digests[number], event)
            values.append(
                {"id": event, "receipt_id": number, "at": at, "kind": RECORDED, "detail": "{}", "previous": last}
            )
            values[-1] |= {"digest": own, "rows": digests[number]}
            last = own
        connection.execute(insert(EventRow), values)
        _keep_sequence(connection, event)
        count += len(numbers)
